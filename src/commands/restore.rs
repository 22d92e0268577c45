//! `understudy restore`: a dataset comes back.

use serde_json::{Value, json};
use understudy_agent::{Action, Existing, RestoreReport, RestoreRequest};
use understudy_protocol::escape;
use understudy_tree::Lacking;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Session;
use crate::arguments::Restore;
use crate::exit::{Code, CommandError};
use crate::progress::Line;
use crate::report::{self, Report};
use crate::{paths, words};

/// Writes a snapshot's tree as the target.
pub(crate) fn run(arguments: Restore, session: &Session) -> Result<Report, CommandError> {
    let address = session.address()?;
    let target = paths::canonical(&arguments.target).map_err(|error| {
        let message = format!(
            "cannot restore to `{}`: {error}",
            arguments.target.display()
        );
        CommandError::new(
            Code::Usage,
            message,
            "check the path, and that its parent directory exists",
        )
    })?;
    paths::check_apart("target", &target, &address)?;
    let action = if arguments.dry_run {
        Action::DryRun
    } else {
        Action::Write
    };
    let request = RestoreRequest {
        dataset: arguments.dataset,
        target: arguments.target,
        number: arguments.snapshot,
        existing: if arguments.replace {
            Existing::Replace
        } else {
            Existing::Refuse
        },
        action,
    };
    let spare = session.existing_spare()?;
    // A restore needs no index: it works on a host that never was a main.
    let context = session.context(Path::new("").to_owned(), &spare);
    let progress = Line::show(&context.progress, session.output);
    let result = spare.talk(|channel| understudy_agent::restore(channel, &request, &context));
    drop(progress);
    let restored = result?;
    let mut report = Report::done(value(&restored, action), Vec::new());
    if action == Action::DryRun {
        report.lines.push(rehearsal(&restored));
    } else if report::summarises(session.output) {
        report.lines.push(summary(&restored));
        report.lines.extend(
            restored
                .kept
                .as_deref()
                .map(|kept| format!("what stood there is kept as {}", shown(kept))),
        );
    }
    report.notes.extend(lacks(restored.lacking));
    let torn = words::counted(restored.fuzzy.len() as u64, "file");
    report.note_all(
        &format!("{torn} may be torn, for the main sent what never stood still:"),
        restored.fuzzy.iter().map(ToString::to_string),
    );
    Ok(report)
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

fn value(restored: &RestoreReport, action: Action) -> Value {
    let lacking = restored.lacking;
    json!({
        "dataset": restored.dataset.as_str(),
        "snapshot": words::snapshot(&restored.snapshot),
        "target": shown(&restored.target),
        "dry_run": action == Action::DryRun,
        "entries": restored.entries,
        "files": restored.files,
        "bytes": restored.bytes,
        "files_fetched": restored.files_fetched,
        "bytes_fetched": restored.bytes_fetched,
        "files_reused": restored.files_reused,
        "fuzzy": words::paths(&restored.fuzzy),
        "kept": restored.kept.as_deref().map(shown),
        "lacking": {
            "owner": lacking.owner,
            "mode": lacking.mode,
            "xattrs": lacking.xattrs,
            "device": lacking.device,
        },
        "seconds": restored.seconds,
    })
}

fn rehearsal(restored: &RestoreReport) -> String {
    format!(
        "would restore snapshot {} of {}, committed at {}, as {}: {}, {} with {}",
        restored.snapshot.position.number,
        restored.dataset,
        words::time(restored.snapshot.committed_seconds),
        shown(&restored.target),
        words::counted(restored.entries, "entry"),
        words::counted(restored.files, "file"),
        words::size(restored.bytes),
    )
}

fn summary(restored: &RestoreReport) -> String {
    format!(
        "snapshot {} of {}, committed at {}, is restored as {}: {}; {} fetched ({}), {} used from here, {:.1} s",
        restored.snapshot.position.number,
        restored.dataset,
        words::time(restored.snapshot.committed_seconds),
        shown(&restored.target),
        words::counted(restored.entries, "entry"),
        words::counted(restored.files_fetched, "file"),
        words::size(restored.bytes_fetched),
        words::count(restored.files_reused),
        restored.seconds,
    )
}

/// What could not be set, told once and not for each file.
fn lacks(lacking: Lacking) -> Option<String> {
    let what: Vec<&str> = [
        (lacking.owner, "owners"),
        (lacking.mode, "permission bits"),
        (lacking.xattrs, "extended attributes"),
        (lacking.device, "device nodes"),
    ]
    .into_iter()
    .filter_map(|(is_lacking, what)| is_lacking.then_some(what))
    .collect();
    (!what.is_empty()).then(|| {
        format!(
            "note: some {} could not be set here; root may be able to",
            what.join(", ")
        )
    })
}
