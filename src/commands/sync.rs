//! `understudy sync`: one cycle of one directory.

use std::cell::Cell;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use understudy_agent::{
    Context, Emptied, LookedAt, Problem, Source, SyncReport, Unsettled, sync_again,
};
use understudy_protocol::DatasetName;
use understudy_tree::{Excludes, Mounts};

use super::{Session, trust};
use crate::address::Address;
use crate::arguments::Sync;
use crate::exit::{Code, CommandError};
use crate::imager::Imager;
use crate::progress::Line;
use crate::report::{self, Report};
use crate::spare::{Absent, FarEnd, Spare};
use crate::{paths, words};

/// Brings the spare up to date with the source.
pub(crate) fn run(arguments: &Sync, session: &Session) -> Result<Report, CommandError> {
    let address = session.address()?;
    if arguments.accept_deletions && !matches!(address, Address::Directory(_)) {
        return Err(CommandError::usage(
            "--accept-deletions is only for a spare that is a directory: no main may pass the guards of another host",
            "leave it out; what a guard holds back is decided on the spare",
        ));
    }
    let path = paths::source(&arguments.source)?;
    paths::check_apart("source", &path, &address)?;
    let state = paths::state(session.places.state.as_deref())?;
    let source = source(arguments, path)?;
    check_databases(&state, &source)?;
    paths::make_state(&state)?;
    let mut spare = session.spare(address, Absent::Create, None)?;
    if arguments.accept_deletions {
        spare = spare.accepting_deletions();
    }
    let context = Context {
        signer: trust::signer(&state)?,
        databases: None,
        images: Some(Imager::for_state(&state, session.output, &session.cancel)),
        ..session.context(state, &spare)
    };
    let synced = with_databases(&spare, &source, &context, session)?;
    let lines = if report::summarises(session.output) {
        vec![summary(&synced)]
    } else {
        Vec::new()
    };
    let mut report = Report::done(value(&synced), lines);
    note_problems(&mut report, &synced);
    Ok(report)
}

/// Refuses a dataset of which the agent has databases: its next snapshot would be without them.
fn check_databases(state: &Path, source: &Source) -> Result<(), CommandError> {
    let dataset = &source.dataset;
    let dumps = state.join("databases").join(dataset.as_str());
    if !dumps.exists() {
        return Ok(());
    }
    Err(CommandError::usage(
        format!(
            "dataset `{dataset}` is captured with its databases, or while its application is still, by the configuration of an agent: without that the snapshot would be only half of it"
        ),
        format!(
            "run `understudy agent --once {dataset}`; if it has none any more, remove `{}`",
            dumps.display()
        ),
    ))
}

/// A cycle that looks at everything, shown as it goes, with the databases of the source.
pub(super) fn with_databases(
    spare: &Spare,
    source: &Source,
    context: &Context,
    session: &Session,
) -> Result<SyncReport, CommandError> {
    // What cannot be reached is told before anything is done; while a database is dumped nobody waits at the other end.
    let mut first = match source.databases.is_empty() {
        true => Some(spare.connect()?),
        false => None,
    };
    let progress = Line::show(&context.progress, session.output);
    let mut far_end: Option<FarEnd> = None;
    let mut connect = || {
        if let Some(Err(error)) = far_end.take().map(FarEnd::finish) {
            tracing::debug!("the embedded receiver's session ended: {error}");
        }
        let (channel, other) = match first.take() {
            Some(first) => first,
            None => spare.connect_again()?,
        };
        far_end = Some(other);
        Ok(channel)
    };
    let result = understudy_agent::sync_with_databases(&mut connect, source, context);
    let received = far_end.map_or(Ok(()), FarEnd::finish);
    drop(progress);
    spare.judge(result, received)
}

/// A cycle that looks at everything, shown as it goes, and once more if the spare asks for another one.
pub(super) fn once(
    spare: &Spare,
    source: &Source,
    context: &Context,
    session: &Session,
) -> Result<SyncReport, CommandError> {
    let progress = Line::show(&context.progress, session.output);
    let again = Cell::new(None);
    let mut result = spare.talk(|channel| {
        let result = understudy_agent::sync(channel, source, context);
        again.set(result.as_ref().err().and_then(understudy_agent::again));
        result
    });
    if let Some(again) = again.get() {
        result = spare.talk(|channel| sync_again(channel, source, context, again));
    }
    drop(progress);
    result
}

fn source(arguments: &Sync, path: PathBuf) -> Result<Source, CommandError> {
    let excludes = Excludes::new(&arguments.exclude).map_err(|error| {
        CommandError::usage(error.to_string(), "write it in the syntax of .gitignore")
    })?;
    let mounts = if arguments.cross_mounts {
        Mounts::Cross
    } else {
        Mounts::Stay
    };
    let dataset = arguments
        .dataset
        .clone()
        .unwrap_or_else(|| default_name(&path));
    Ok(Source {
        path,
        dataset,
        excludes,
        mounts,
        emptied: if arguments.accept_deletions {
            Emptied::Accept
        } else {
            Emptied::Refuse
        },
        sweep: Source::SWEEP,
        unsettled: Unsettled::default(),
        databases: Vec::new(),
        stillness: None,
        snapshot: None,
        on_database_failure: Default::default(),
        sqlite: Default::default(),
    })
}

/// The last component of the canonical path, made to fit.
fn default_name(path: &Path) -> DatasetName {
    DatasetName::fit(path.file_name().unwrap_or_default().as_bytes())
}

/// The report of a cycle for programs.
pub(super) fn value(synced: &SyncReport) -> Value {
    let problems = |problems: &[Problem]| -> Vec<Value> {
        problems
            .iter()
            .map(|problem| words::path_with(&problem.path, "reason", &problem.reason))
            .collect()
    };
    let receiver: serde_json::Map<String, Value> = synced
        .timings
        .iter()
        .map(|timing| (timing.step.clone(), json!(timing.microseconds as f64 / 1e6)))
        .collect();
    json!({
        "dataset": synced.dataset.as_str(),
        "snapshot": synced.snapshot.as_ref().map(words::snapshot),
        "committed": synced.committed,
        "entries": synced.entries,
        "added": synced.added,
        "changed": synced.changed,
        "removed": synced.removed,
        "moved": synced.moved,
        "files_read": synced.files_read,
        "bytes_read": synced.bytes_read,
        "deltas": synced.deltas,
        "deltas_refused": synced.deltas_refused,
        "bytes_kept": synced.bytes_kept,
        "bytes_resumed": synced.bytes_resumed,
        "leftovers_refused": synced.leftovers_refused,
        "recalled": synced.recalled,
        "bytes_recalled": synced.bytes_recalled,
        "history_refused": synced.history_refused,
        "bytes_sent": synced.bytes_sent,
        "sqlite_databases": synced.images,
        "sqlite_longest_lock_seconds": synced.longest_lock.as_secs_f64(),
        "unreadable": problems(&synced.unreadable),
        "unsettled": problems(&synced.unsettled),
        "fuzzy": problems(&synced.fuzzy),
        "looked_at": looked_at(&synced.looked_at),
        "missed": synced.missed,
        "missed_paths": synced
            .missed_paths
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        "sockets_skipped": synced.sockets_skipped,
        "receiver": receiver,
        "seconds": synced.seconds,
    })
}

fn looked_at(looked_at: &LookedAt) -> Value {
    match looked_at {
        LookedAt::Everything { because } => json!({ "everything": because }),
        LookedAt::Journal { directories } => json!({ "journal": { "directories": directories } }),
    }
}

/// The report of a cycle in one line.
pub(super) fn summary(synced: &SyncReport) -> String {
    let name = &synced.dataset;
    let number = synced
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.position.number);
    let entries = words::counted(synced.entries, "entry");
    if !synced.committed {
        return format!(
            "{name}: nothing changed since snapshot {number} ({entries}, {:.1} s)",
            synced.seconds
        );
    }
    let changes: Vec<String> = [
        (synced.added, "added"),
        (synced.changed, "changed"),
        (synced.moved, "moved"),
        (synced.removed, "removed"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{} {what}", words::count(number)))
    .collect();
    let changes = if changes.is_empty() {
        "no entries".to_owned()
    } else {
        changes.join(", ")
    };
    let resumed = match synced.bytes_resumed {
        0 => String::new(),
        bytes => format!(", resumed {} of an interrupted upload", words::size(bytes)),
    };
    let recalled = match synced.bytes_recalled {
        0 => String::new(),
        bytes => format!(", took {} from the spare's history", words::size(bytes)),
    };
    format!(
        "{name}: snapshot {number} is live and durable: {changes} of {entries}; {} sent{resumed}{recalled}, {:.1} s",
        words::size(synced.bytes_sent),
        synced.seconds
    )
}

/// Whether everything arrived.
pub(super) fn code(synced: &SyncReport) -> Code {
    if synced.unreadable.is_empty() && synced.unsettled.is_empty() {
        Code::Done
    } else {
        Code::Partial
    }
}

/// Lists what did not arrive.
pub(super) fn note_problems(report: &mut Report, synced: &SyncReport) {
    let line = |problem: &Problem| format!("{}: {}", problem.path, problem.reason);
    report.note_all(
        &format!(
            "{}: could not be read; the spare keeps what it had of:",
            synced.dataset
        ),
        synced.unreadable.iter().map(line),
    );
    report.note_all(
        &format!(
            "{}: never stood still while it was read; the spare keeps what it had of:",
            synced.dataset
        ),
        synced.unsettled.iter().map(line),
    );
    report.note_all(
        &format!(
            "{}: never stood still while it was read and was sent all the same, maybe as a mixture:",
            synced.dataset
        ),
        synced.fuzzy.iter().map(line),
    );
    report.note_all(
        &format!(
            "{}: changed although nothing told of it; looked at in every cycle from now on:",
            synced.dataset
        ),
        synced.missed_paths.iter().map(ToString::to_string),
    );
    if code(synced) == Code::Partial {
        report.code = Code::Partial;
    }
}
