//! `understudy agent`: cycles of all datasets of a configuration.

mod voice;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use understudy_agent::config::Config;
use understudy_agent::daemon::{self, Outcome};
use understudy_agent::{AgentError, Context, Pace, Trust};
use understudy_protocol::DatasetName;

use super::{Session, sync, trust};
use crate::address::Address;
use crate::arguments::{Agent, Output};
use crate::confinement::Prepared;
use crate::exit::{Code, CommandError};
use crate::fencer::Fences;
use crate::imager::Imager;
use crate::paths;
use crate::progress::Line;
use crate::report::{self, Report};
use crate::service;
use crate::spare::{Absent, FarEnd};

/// Runs one cycle, or cycles until a signal comes.
pub(crate) fn run(
    arguments: &Agent,
    prepared: Prepared,
    session: &Session,
) -> Result<Report, CommandError> {
    let config = Config::load(&arguments.config)?;
    let address = spare_of(&config, &arguments.config, session)?;
    check_datasets(&config, &arguments.datasets)?;
    check_sources(&config, &address)?;
    let state = paths::state(session.places.state.as_deref().or(config.state.as_deref()))?;
    paths::make_state(&state)?;
    let spare = session.spare(address, Absent::Create, Some(&config))?;
    let context = Context {
        pace: Arc::new(Pace::new(config.pace.clone())),
        signer: trust::signer(&state)?,
        images: Some(Imager::for_state(&state, session.output, &session.cancel)),
        ..session.context(state, &spare)
    };
    let context = Context {
        databases: prepared
            .capturer
            .map(|started| started.capture(&context.cancel)),
        ..context
    };
    let mut fences = Fences::new(prepared.fencer, &spare, &context);
    let far_end: RefCell<Option<FarEnd>> = RefCell::default();
    let connect = || {
        // The session before has its answer, and may still be putting things away.
        finish(far_end.take());
        let (channel, session) = spare.connect_again()?;
        far_end.replace(Some(session));
        Ok(channel)
    };
    let trust = if arguments.full {
        Trust::Content
    } else {
        Trust::Times
    };
    let result = if arguments.once {
        context.pace.lower_priority();
        let progress = Line::show(&context.progress, session.output);
        let (only, mut notes) = (&arguments.datasets[..], Vec::new());
        let ended = |outcome: &Outcome| notes.extend(fences.ended_and_wait(outcome));
        let result = daemon::once(&config, only, trust, &context, connect, ended);
        drop(progress);
        result.map(|outcomes| {
            let mut report = once(&outcomes, &spare.name(), session.output);
            report.notes.extend(notes);
            report
        })
    } else {
        voice::reload_on_hangup(&session.runtime, &context.cancel);
        let pulse = voice::Pulse::start(&session.runtime, &context.cancel);
        let mut voice = voice::Voice::new(fences, spare.name(), session.output);
        let only = &arguments.datasets[..];
        let result = daemon::forever(config, only, trust, &context, connect, &mut voice);
        service::stopping();
        drop(pulse);
        result.map(|()| Report::ended())
    };
    finish(far_end.take());
    match result {
        // This is how a daemon is meant to end.
        Err(AgentError::Interrupted) if !arguments.once => Ok(Report::ended()),
        result => Ok(result?),
    }
}

/// The spare of the command line, else that of the configuration.
fn spare_of(config: &Config, file: &Path, session: &Session) -> Result<Address, CommandError> {
    let given = session
        .places
        .spare
        .as_deref()
        .or(config.spare.as_deref().map(OsStr::new));
    let Some(given) = given else {
        return Err(CommandError::usage(
            format!(
                "no spare is given: neither on the command line nor in `{}`",
                file.display()
            ),
            "write `spare = \"ADDRESS\"` at the top of that file, or add --spare ADDRESS",
        ));
    };
    Address::parse(given)
}

fn finish(far_end: Option<FarEnd>) {
    if let Some(Err(error)) = far_end.map(FarEnd::finish) {
        tracing::debug!("the embedded receiver's session ended: {error}");
    }
}

/// Refuses names that the configuration does not have.
fn check_datasets(config: &Config, wanted: &[DatasetName]) -> Result<(), CommandError> {
    let known: Vec<DatasetName> = config
        .sources()
        .into_iter()
        .flatten()
        .map(|one| one.source.dataset)
        .collect();
    let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) else {
        return Ok(());
    };
    let distance =
        |name: &&DatasetName| strsim::damerau_levenshtein(name.as_str(), unknown.as_str());
    let hint = match known.iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 3 => format!("did you mean `{nearest}`?"),
        _ => {
            let known: Vec<&str> = known.iter().map(DatasetName::as_str).collect();
            format!("it has: {}", known.join(", "))
        }
    };
    Err(CommandError::usage(
        format!(
            "the configuration `{}` has no dataset `{unknown}`",
            config.file.display()
        ),
        hint,
    ))
}

/// Refuses a spare inside a source and the other way round. Sources that are not there now tell so in their cycle.
pub(crate) fn check_sources(config: &Config, address: &Address) -> Result<(), CommandError> {
    for scheduled in config.sources().into_iter().flatten() {
        if let Ok(path) = std::fs::canonicalize(&scheduled.source.path) {
            paths::check_apart("source", &path, address)?;
        }
    }
    match address {
        Address::Directory(store) if config.takes_in(store) => {
            paths::check_apart("source", store, address)
        }
        _ => Ok(()),
    }
}

/// The report of one cycle of everything.
fn once(outcomes: &[Outcome], spare: &str, output: Output) -> Report {
    let datasets: Vec<Value> = outcomes
        .iter()
        .map(|outcome| value(outcome, spare))
        .collect();
    let mut report = Report::done(json!({ "datasets": datasets }), Vec::new());
    let mut errors = Vec::new();
    for outcome in outcomes {
        match &outcome.result {
            Ok(synced) => {
                if report::summarises(output) {
                    report.lines.push(sync::summary(synced));
                }
                sync::note_problems(&mut report, synced);
            }
            Err(error) => errors.push(explained(outcome, error, spare)),
        }
    }
    if errors.len() > 1 {
        report
            .notes
            .extend(errors.iter().map(|error| error.message.clone()));
    }
    report.error = combined(errors, outcomes.len());
    if let Some(error) = &report.error {
        report.code = error.code;
    }
    report
}

/// One error for all that failed; its code is theirs, where they agree. Which ones failed, and why, is told beside it.
fn combined(mut errors: Vec<CommandError>, of: usize) -> Option<CommandError> {
    let first = errors.first()?.clone();
    if errors.len() == 1 {
        return errors.pop();
    }
    let code = if errors.iter().all(|error| error.code == first.code) {
        first.code
    } else {
        Code::Failed
    };
    Some(CommandError::new(
        code,
        format!("{} of {of} datasets failed", errors.len()),
        first.hint,
    ))
}

fn value(outcome: &Outcome, spare: &str) -> Value {
    match &outcome.result {
        Ok(synced) => sync::value(synced),
        Err(error) => {
            let explained = explained(outcome, error, spare);
            json!({
                "dataset": outcome.dataset.as_ref().map(DatasetName::as_str),
                "path": outcome.path.as_deref().map(Path::to_string_lossy),
                "error": report::error_value(&explained),
            })
        }
    }
}

/// The error with its dataset before it.
fn explained(outcome: &Outcome, error: &AgentError, spare: &str) -> CommandError {
    let mut explained = CommandError::from(error).about(spare);
    if let Some(dataset) = &outcome.dataset {
        explained.message = format!("{dataset}: {}", explained.message);
    }
    explained
}
