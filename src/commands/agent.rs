//! `understudy agent`: cycles of all datasets of a configuration.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use understudy_agent::config::Config;
use understudy_agent::daemon::{self, Mode, Outcome};
use understudy_agent::{AgentError, Context, Pace};
use understudy_protocol::DatasetName;

use super::{Session, sync};
use crate::address::Address;
use crate::arguments::{Agent, Format, Output};
use crate::exit::{Code, CommandError};
use crate::paths;
use crate::progress::Line;
use crate::report::{self, Report};
use crate::spare::{Absent, Embedded, Spare};

/// Runs one cycle, or cycles until a signal comes.
pub(crate) fn run(arguments: &Agent, session: &Session) -> Result<Report, CommandError> {
    let config = Config::load(&arguments.config)?;
    let given = session
        .places
        .spare
        .as_deref()
        .or(config.spare.as_deref().map(OsStr::new));
    let Some(given) = given else {
        return Err(CommandError::usage(
            format!(
                "no spare is given: neither on the command line nor in `{}`",
                arguments.config.display()
            ),
            "write `spare = \"ADDRESS\"` at the top of that file, or add --spare ADDRESS",
        ));
    };
    let address = Address::parse(given)?;
    check_datasets(&config, &arguments.datasets)?;
    check_sources(&config, &address)?;
    let state = paths::state(session.places.state.as_deref().or(config.state.as_deref()))?;
    paths::make_state(&state)?;
    let spare = Spare::new(address, session.runtime.clone(), Absent::Create);
    let context = Context {
        pace: Arc::new(Pace::new(config.pace.clone())),
        ..session.context(state, &spare)
    };
    // Before any thread is started: they inherit it.
    context.pace.lower_priority();
    let mut embedded: Option<Embedded> = None;
    let connect = || {
        // The session before has its answer, and may still be putting things away.
        finish(embedded.take());
        // Each cycle has a connection of its own, and its own time to pause.
        context.pace.begin_cycle();
        let (channel, session) = spare.connect_again()?;
        embedded = Some(session);
        Ok(channel)
    };
    let run = |mode, on_outcome: &dyn Fn(&Outcome)| {
        daemon::run(
            &config,
            &arguments.datasets,
            mode,
            &context,
            connect,
            on_outcome,
        )
    };
    let result = if arguments.once {
        let progress = Line::show(&context.progress, session.output);
        let result = run(Mode::Once, &|_| {});
        drop(progress);
        result.map(|outcomes| once(&outcomes, &spare.name(), session.output))
    } else {
        run(Mode::Forever, &|outcome| {
            tell(outcome, &spare.name(), session.output);
        })
        .map(|_| Report::ended())
    };
    finish(embedded);
    match result {
        // This is how a daemon is meant to end.
        Err(AgentError::Interrupted) if !arguments.once => Ok(Report::ended()),
        result => Ok(result?),
    }
}

fn finish(embedded: Option<Embedded>) {
    if let Some(Err(error)) = embedded.map(Embedded::finish) {
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
fn check_sources(config: &Config, address: &Address) -> Result<(), CommandError> {
    for scheduled in config.sources().into_iter().flatten() {
        if let Ok(path) = std::fs::canonicalize(&scheduled.source.path) {
            paths::check_apart("source", &path, address)?;
        }
    }
    Ok(())
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

/// Tells what came of one cycle, as soon as it has ended.
fn tell(outcome: &Outcome, spare: &str, output: Output) {
    let told = match (&outcome.result, output.format) {
        (_, Format::Json) => report::print_json(Some(&value(outcome, spare)), None),
        (Ok(synced), Format::Text) => {
            let lines = if report::summarises(output) {
                vec![sync::summary(synced)]
            } else {
                Vec::new()
            };
            let mut report = Report::done(Value::Null, lines);
            sync::note_problems(&mut report, synced);
            report::tell(Ok(report), output)
        }
        (Err(AgentError::Interrupted), Format::Text) => Ok(()),
        (Err(error), Format::Text) => {
            report::complain(&explained(outcome, error, spare), output);
            Ok(())
        }
    };
    if let Err(error) = told {
        tracing::warn!("cannot tell what came of a cycle: {error}");
    }
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
