//! Cycles again and again: one dataset after another, each in its own rhythm, guided by what the watcher heard.

mod once;
mod schedule;
mod status;
mod watched;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, ProtocolError};
use understudy_tree::watch::Method;

use crate::clock::Moment;
use crate::config::{Config, Scheduled};
use crate::db;
use crate::error::AgentError;
use crate::lock::try_lock;
use crate::scan::Trust;
use crate::sync::{
    Carrying, LookedAt, Making, Patience, Reliance, SyncReport, Telling, cycle_in_two_tries,
};
use crate::{Context, Pace, Source};

use once::wanted;
use schedule::{Ended, Schedule};
use watched::Watched;

pub use once::once;
pub use status::{AgentStatus, DatasetState};

/// How often the list of datasets is made anew while none is due: directories may have come.
const RELIST: Duration = Duration::from_secs(60);
/// How often the journals are written down.
const SAVE: Duration = Duration::from_secs(10);
/// How often the state is written down although there is nothing new: it shows that the agent is there.
const REWRITE: Duration = Duration::from_secs(60);
/// A cycle that takes longer than this is shown as running.
const SHOW_RUNNING: Duration = Duration::from_secs(1);
/// How often an entry of the configuration that leads to no dataset is told.
const TELL_AGAIN: Duration = Duration::from_secs(15 * 60);
/// The file in the state directory that a daemon holds.
const LOCK: &str = "agent.lock";
/// A dataset of up to so many entries is compared as a whole in every cycle: that costs next to nothing.
const SMALL: u64 = 10_000;

/// What came of one cycle of one dataset.
#[derive(Debug)]
pub struct Outcome {
    /// The dataset; `None` if an entry of the configuration leads to none.
    pub dataset: Option<DatasetName>,
    /// Its source, where known.
    pub path: Option<PathBuf>,
    /// The report, or why there is none.
    pub result: Result<SyncReport, AgentError>,
}

/// What a daemon tells while it runs.
pub trait Listener {
    /// A cycle has ended.
    fn ended(&mut self, outcome: &Outcome);
    /// Nothing is due; the state of all datasets.
    fn waits(&mut self, status: &AgentStatus);
    /// The configuration is read again, and after the second call it counts, or the old one still does.
    fn reloads(&mut self, reload: Reload<'_>);
}

/// The two ends of reading a configuration again.
#[derive(Debug, Clone, Copy)]
pub enum Reload<'a> {
    /// It begins.
    Begins,
    /// The new one counts.
    Done,
    /// The old one still counts, for this reason.
    Refused(&'a AgentError),
}

/// Runs cycles until cancelled; fails with [`AgentError::Interrupted`] then.
///
/// The source trees are watched from the first moment on by a thread that keeps the priority of the caller; the
/// calling thread takes that of the configuration. A cycle that fails is tried again at the next interval, one
/// that did not reach the spare sooner. [`crate::Cancel::reload`] makes it read its configuration again. Fails with
/// [`AgentError::AgentRunning`] if another daemon has the state directory.
pub fn forever(
    config: Config,
    only: &[DatasetName],
    trust: Trust,
    context: &Context,
    connect: impl FnMut() -> Result<Channel, ProtocolError>,
    listener: &mut dyn Listener,
) -> Result<(), AgentError> {
    wanted(&config, only)?;
    let _alone = alone(&context.state)?;
    let context = context.clone();
    let watched = Watched::start(&context, config.watch)?;
    context.pace.lower_priority();
    let mut daemon = Daemon {
        only,
        trust,
        watched,
        schedule: Schedule::default(),
        states: HashMap::new(),
        told: HashMap::new(),
        started: AgentStatus::started(&context.spare),
        written: None,
        config,
        context,
        connect,
        listener,
    };
    daemon.run()
}

/// No daemon runs with the state directory as long as this lives.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

/// Holds the state directory against daemons: journals and status have one writer. Fails with [`AgentError::AgentRunning`] if one runs.
pub fn alone(state: &Path) -> Result<Alone, AgentError> {
    db::ensure_state_directory(state)?;
    let lock = try_lock(&state.join(LOCK))?.ok_or_else(|| AgentError::AgentRunning {
        state: state.to_owned(),
    })?;
    Ok(Alone { _lock: lock })
}

struct Daemon<'a, C> {
    config: Config,
    only: &'a [DatasetName],
    trust: Trust,
    context: Context,
    connect: C,
    listener: &'a mut dyn Listener,
    watched: Watched,
    schedule: Schedule,
    states: HashMap<DatasetName, State>,
    /// Errors of the configuration that were told, and when.
    told: HashMap<String, Moment>,
    started: AgentStatus,
    /// What was written down last, and when; nothing that counts after a cycle, which writes its own.
    written: Option<(AgentStatus, Moment)>,
}

/// What is remembered of a dataset between its cycles.
#[derive(Debug, Default)]
struct State {
    /// Entries in its newest snapshot.
    entries: Option<u64>,
    /// When the last look at everything began.
    swept: Option<Moment>,
    shown: DatasetState,
}

impl<C: FnMut() -> Result<Channel, ProtocolError>> Daemon<'_, C> {
    fn run(&mut self) -> Result<(), AgentError> {
        let mut sources = self.relist()?;
        // It works from now on, even if the first cycle takes a day.
        self.show(&sources);
        let (mut listed, mut saved) = (Moment::now(), Moment::now());
        loop {
            if self.context.cancel.take_reload() {
                self.reload();
                sources = self.relist()?;
            }
            let now = Moment::now();
            if now.since(listed) >= RELIST {
                (sources, listed) = (self.relist()?, now);
            }
            if now.since(saved) >= SAVE {
                self.watched.save();
                saved = now;
            }
            let next = sources
                .iter()
                .map(|one| {
                    let due = self.schedule.due(&one.source.dataset, now);
                    ((due, self.schedule.waits_since(&one.source.dataset)), one)
                })
                .min_by_key(|(due, _)| *due)
                .map(|((due, _), one)| (due, one));
            match next {
                Some((due, scheduled)) if due <= now => self.cycle(scheduled, &sources)?,
                next => {
                    let until = next.map_or(RELIST, |(due, _)| due.since(now));
                    self.show(&sources);
                    self.context
                        .cancel
                        .wait(until.min(SAVE).max(Duration::from_millis(1)))?;
                }
            }
        }
    }

    /// The datasets there are now; what leads to none is told once per interval.
    fn relist(&mut self) -> Result<Vec<Scheduled>, AgentError> {
        let now = Moment::now();
        let mut sources = Vec::new();
        for one in self.config.sources() {
            match one {
                Ok(one) if self.only.is_empty() || self.only.contains(&one.source.dataset) => {
                    sources.push(one);
                }
                Ok(_) => {}
                Err(error) => {
                    let text = error.to_string();
                    let last = self.told.get(&text);
                    if last.is_none_or(|last| now.since(*last) >= TELL_AGAIN) {
                        self.told.insert(text, now);
                        self.listener.ended(&nowhere(error));
                    }
                }
            }
        }
        self.watched.watch(sources.iter().map(|one| &one.source))?;
        let is_wanted = |name: &DatasetName| sources.iter().any(|one| one.source.dataset == *name);
        self.schedule.keep(is_wanted);
        self.states.retain(|name, _| is_wanted(name));
        Ok(sources)
    }

    fn reload(&mut self) {
        self.listener.reloads(Reload::Begins);
        match Config::load(&self.config.file) {
            Ok(config) => {
                if config.watch != self.config.watch {
                    tracing::warn!("`watch` changed: that takes a restart of the agent");
                }
                let places = |config: &Config| {
                    (
                        config.spare.clone(),
                        config.ssh.clone(),
                        config.state.clone(),
                    )
                };
                if places(&config) != places(&self.config) {
                    tracing::warn!(
                        "`spare`, `ssh` or `state` changed: that takes a restart of the agent"
                    );
                }
                self.context.pace = std::sync::Arc::new(Pace::new(config.pace.clone()));
                self.config = config;
                // Patterns may let through now what nobody watched.
                self.watched.doubt_all("the configuration was read again");
                self.listener.reloads(Reload::Done);
            }
            Err(error) => self.listener.reloads(Reload::Refused(&error)),
        }
    }

    fn cycle(&mut self, scheduled: &Scheduled, sources: &[Scheduled]) -> Result<(), AgentError> {
        let Scheduled {
            source, interval, ..
        } = scheduled;
        let status = self.status(sources);
        let began = Moment::now();
        self.context.pace.begin_cycle();
        let method = self.watched.method(&source.dataset);
        let state = self.states.entry(source.dataset.clone()).or_default();
        let sweep = why_everything(&method, source, state);
        let reliance = Reliance {
            journal: self.watched.journal(&source.dataset).map(AsRef::as_ref),
            sweep: sweep.as_deref(),
            // Reading every byte is asked for once.
            trust: if state.entries.is_none() {
                self.trust
            } else {
                Trust::Times
            },
            patience: Patience::None,
            telling: Telling::Spare,
            carrying: Carrying::On,
            making: Making::UnlessPromoted,
            captured: None,
            turn: crate::scan::Turn::Whichever,
            freeze: None,
            still: None,
        };
        let (connect, context) = (&mut self.connect, &self.context);
        let rhythm = [SHOW_RUNNING, REWRITE];
        let result = status.tell_while(&source.dataset, &context.state, rhythm, || {
            cycle_in_two_tries(connect, source, context, reliance)
        });
        self.written = None;
        if matches!(result, Err(AgentError::Interrupted)) {
            self.watched.save();
            return Err(AgentError::Interrupted);
        }
        if let Ok(report) = &result {
            state.entries = Some(report.entries);
            if matches!(report.looked_at, LookedAt::Everything { .. }) {
                state.swept = Some(began);
            }
        }
        let ended = kind_of(&result);
        if ended != Ended::Busy {
            state.shown.cycle(&result);
            state.shown.learn(&self.context.state, source);
        }
        self.schedule
            .ended(&source.dataset, began, Moment::now(), *interval, ended);
        if ended == Ended::Busy {
            tracing::info!("{}: somebody else is working on it", source.dataset);
            return Ok(());
        }
        let is_deserted = matches!(result, Err(AgentError::Deserted { .. }));
        self.listener.ended(&outcome(source.clone(), result));
        match is_deserted {
            // Whoever starts agents that have failed helps.
            true => Err(AgentError::Deserted {
                dataset: source.dataset.clone(),
            }),
            false => Ok(()),
        }
    }

    /// The state of everything.
    fn status(&mut self, sources: &[Scheduled]) -> AgentStatus {
        let now = Moment::now();
        let mut datasets = Vec::new();
        for Scheduled { source, .. } in sources {
            let state = self.states.entry(source.dataset.clone()).or_default();
            let due = self.schedule.due(&source.dataset, now);
            let mut shown = state.shown.clone();
            shown.describe(source, &self.watched.method(&source.dataset));
            shown.plan(due.since(now), state.swept.map(|swept| now.since(swept)));
            if let Some(journal) = self.watched.journal(&source.dataset) {
                shown.hear(journal.count() as u64, journal.open_gap());
            }
            datasets.push(shown);
        }
        self.started.with(datasets)
    }

    /// Tells the state of everything, and writes it down for `understudy status`.
    fn show(&mut self, sources: &[Scheduled]) {
        let status = self.status(sources);
        self.listener.waits(&status);
        let is_news = self.written.as_ref().is_none_or(|(written, at)| {
            written.tells_less_than(&status) || at.elapsed() >= REWRITE
        });
        if is_news {
            if let Err(error) = status.write(&self.context.state) {
                tracing::warn!("{error}");
            }
            self.written = Some((status, Moment::now()));
        }
    }
}

/// Why a cycle looks at everything although nothing was lost; `None` if it need not.
fn why_everything(method: &Method, source: &Source, state: &State) -> Option<String> {
    if let Method::Unwatched { why } = method {
        return Some(format!("it is not watched: {why}"));
    }
    if state.entries.is_none_or(|entries| entries <= SMALL) {
        return Some("it is small".to_owned());
    }
    let is_due = |swept: Moment| swept.elapsed() >= source.sweep;
    state
        .swept
        .is_none_or(is_due)
        .then(|| "it is time to look for what no event told".to_owned())
}

fn kind_of(result: &Result<SyncReport, AgentError>) -> Ended {
    match result {
        Err(AgentError::Spare(error)) if error.is_away() => Ended::Away,
        Err(AgentError::IndexLocked { .. }) => Ended::Busy,
        _ => Ended::Cycle,
    }
}

fn outcome(source: Source, result: Result<SyncReport, AgentError>) -> Outcome {
    Outcome {
        dataset: Some(source.dataset),
        path: Some(source.path),
        result,
    }
}

fn nowhere(error: AgentError) -> Outcome {
    Outcome {
        dataset: None,
        path: None,
        result: Err(error),
    }
}

#[cfg(test)]
mod tests;
