//! The state of a daemon, for people: written down after each change and while it works, so that anybody can ask at any
//! time.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_protocol::{DatasetName, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::watch::Method;
use understudy_tree::{Directory, Mounts};

use crate::clock::Moment;
use crate::databases::DatabaseState;
use crate::error::AgentError;
use crate::sync::{LookedAt, SyncReport};
use crate::{Source, clock};

/// The file in the state directory.
const FILE: &str = "status.json";
/// More than any host's datasets need.
const LIMIT: u64 = 64 << 20;

/// What an agent said last. All times are seconds since 1970 by this host's clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The process that wrote it.
    pub process: u32,
    /// Its spare.
    pub spare: String,
    /// When it started.
    pub started_seconds: i64,
    /// When it was written.
    pub written_seconds: i64,
    /// All datasets.
    pub datasets: Vec<DatasetState>,
}

/// What an agent says of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetState {
    /// Its name.
    pub name: String,
    /// Its source, escaped.
    pub path: String,
    /// `fanotify`, `inotify` or `nothing`.
    pub watched_by: String,
    /// Why not by something better.
    pub because: Option<String>,
    /// Since when a cycle is running, if one is and has been for a moment.
    pub running_since_seconds: Option<i64>,
    /// When the last cycle ended, however it did.
    pub attempt_seconds: Option<i64>,
    /// When the last cycle ended well.
    pub success_seconds: Option<i64>,
    /// Why the last cycle failed, if it did.
    pub error: Option<String>,
    /// Cycles that failed since the last that did not.
    pub failures: u64,
    /// Whether the last cycle looked at everything, and why.
    pub everything_because: Option<String>,
    /// How long it took.
    pub took_seconds: f64,
    /// When the next one begins.
    pub next_seconds: i64,
    /// How long ago everything was compared.
    pub swept_seconds_ago: Option<u64>,
    /// Names and directories that are in doubt.
    pub in_doubt: u64,
    /// Why that is not all.
    pub gap: Option<String>,
    /// Changes that were found although nothing had told of them, since the start.
    pub missed: u64,
    /// Entries that could not be read in the last cycle.
    pub unreadable: u64,
    /// Files that never stood still in the last cycle.
    pub unsettled: u64,
    /// Since when the oldest of these two kinds is so.
    pub troubled_since_seconds: Option<i64>,
    /// Its databases, beside those among the files.
    pub databases: Vec<DatabaseState>,
    /// SQLite databases among the files that were captured in the last cycle.
    pub sqlite_databases: u64,
}

impl AgentStatus {
    pub(super) fn started(spare: &str) -> Self {
        Self {
            process: std::process::id(),
            spare: spare.to_owned(),
            started_seconds: clock::now().seconds,
            ..Self::default()
        }
    }

    pub(super) fn with(&self, datasets: Vec<DatasetState>) -> Self {
        Self {
            written_seconds: clock::now().seconds,
            datasets,
            ..self.clone()
        }
    }

    /// The same some time later, while nothing but the work on it went on.
    fn later(&self, by: Duration) -> Self {
        let mut later = self.with(self.datasets.clone());
        for swept in later
            .datasets
            .iter_mut()
            .filter_map(|one| one.swept_seconds_ago.as_mut())
        {
            *swept += by.as_secs();
        }
        later
    }

    /// Does some work, and meanwhile shows `dataset` as running: after `soon`, and then every `again`.
    pub(super) fn tell_while<T>(
        mut self,
        dataset: &DatasetName,
        state: &Path,
        [soon, again]: [Duration; 2],
        work: impl FnOnce() -> T,
    ) -> T {
        for one in &mut self.datasets {
            if one.name == dataset.as_str() {
                one.running_since_seconds = Some(clock::now().seconds);
            }
        }
        let began = Moment::now();
        let (working, has_ended) = sync_channel::<()>(0);
        let tell = move || {
            let mut pause = soon;
            while has_ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = self.later(began.elapsed()).write(state) {
                    tracing::warn!("{error}");
                }
                pause = again;
            }
        };
        thread::scope(|scope| {
            let teller = thread::Builder::new().name("status".to_owned());
            if let Err(error) = teller.spawn_scoped(scope, tell) {
                tracing::warn!("the state is not told during this cycle: {error}");
            }
            let _working = working;
            work()
        })
    }

    /// Whether `newer` has anything to tell beyond the time that went by.
    pub(super) fn tells_less_than(&self, newer: &Self) -> bool {
        let lasting = |one: &DatasetState| DatasetState {
            next_seconds: 0,
            swept_seconds_ago: None,
            in_doubt: 0,
            ..one.clone()
        };
        let (old, new) = (&self.datasets, &newer.datasets);
        old.len() != new.len() || old.iter().zip(new).any(|(a, b)| lasting(a) != lasting(b))
    }

    pub(super) fn write(&self, state: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| AgentError::state("encode", state.join(FILE), &error))?;
        let directory = Directory::open(state, Mounts::Cross)?;
        Ok(durable::replace(
            &directory,
            &name(state)?,
            &text,
            Durability::Later,
        )?)
    }

    /// What the agent with this state directory said last; `None` if none ever ran as a daemon.
    pub fn read(state: &Path) -> Result<Option<Self>, AgentError> {
        if !state.join(FILE).exists() {
            return Ok(None);
        }
        let directory = Directory::open(state, Mounts::Cross)?;
        let Some(text) = durable::read(&directory, &name(state)?, LIMIT)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| AgentError::state("read", state.join(FILE), &error))
    }
}

fn name(state: &Path) -> Result<Name, AgentError> {
    Name::new(FILE).map_err(|error| AgentError::state("name a file in", state, &error))
}

impl DatasetState {
    /// A cycle has ended.
    pub(super) fn cycle(&mut self, result: &Result<SyncReport, AgentError>) {
        let now = clock::now().seconds;
        self.attempt_seconds = Some(now);
        match result {
            Ok(report) => {
                self.success_seconds = Some(now);
                self.error = None;
                self.failures = 0;
                self.everything_because = match &report.looked_at {
                    LookedAt::Everything { because } => Some(because.clone()),
                    LookedAt::Journal { .. } => None,
                };
                self.took_seconds = report.seconds;
                self.missed += report.missed;
                self.unreadable = report.unreadable.len() as u64;
                self.unsettled = (report.unsettled.len() + report.fuzzy.len()) as u64;
                self.troubled_since_seconds = report.troubled_since_seconds;
                self.sqlite_databases = report.images;
            }
            Err(error) => {
                self.error = Some(error.to_string());
                self.failures += 1;
            }
        }
    }

    /// What is known of its databases.
    pub(super) fn learn(&mut self, state: &Path, source: &Source) {
        self.databases = DatabaseState::of_all(state, &source.dataset, &source.databases);
    }

    pub(super) fn describe(&mut self, source: &Source, method: &Method) {
        self.name = source.dataset.to_string();
        self.path = understudy_protocol::escape(source.path.as_os_str().as_bytes());
        let (by, because) = match method {
            Method::Fanotify => ("fanotify", None),
            Method::Inotify { why_not_fanotify } => ("inotify", Some(why_not_fanotify.clone())),
            Method::Unwatched { why } => ("nothing", Some(why.clone())),
        };
        by.clone_into(&mut self.watched_by);
        self.because = because;
    }

    pub(super) fn plan(&mut self, next: Duration, swept: Option<Duration>) {
        self.next_seconds = clock::now().seconds + next.as_secs().cast_signed();
        self.swept_seconds_ago = swept.map(|swept| swept.as_secs());
    }

    pub(super) fn hear(&mut self, in_doubt: u64, gap: Option<String>) {
        self.in_doubt = in_doubt;
        self.gap = gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "takes files away")]
    fn a_long_cycle_is_told_again_and_again() {
        const SOON: Duration = Duration::from_millis(1);
        const DEADLINE: Duration = Duration::from_secs(60);
        let scratch = tempfile::tempdir().expect("tempdir");
        let state = scratch.path();
        let dataset = DatasetName::new("test").expect("name");
        let shown = ["other", "test"].map(|name| DatasetState {
            name: name.to_owned(),
            ..DatasetState::default()
        });
        let status = AgentStatus::started("fake").with(shown.into());
        let began = Moment::now();
        status.tell_while(&dataset, state, [SOON, SOON], || {
            for _ in 0..3 {
                let told = loop {
                    if let Some(told) = AgentStatus::read(state).expect("read") {
                        break told;
                    }
                    assert!(began.elapsed() < DEADLINE, "it is not told");
                    thread::yield_now();
                };
                let running = |one: &DatasetState| one.running_since_seconds.is_some();
                let running: Vec<bool> = told.datasets.iter().map(running).collect();
                assert_eq!(running, [false, true]);
                std::fs::remove_file(state.join(FILE)).expect("remove");
            }
        });
    }
}
