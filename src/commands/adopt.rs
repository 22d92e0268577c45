//! `understudy adopt`: a directory that is there already becomes a dataset.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use understudy_protocol::escape;
use understudy_receiver::Store;
use understudy_receiver::adopt::{self, Adopted, Adoption, Origin, Stage};

use super::Session;
use crate::arguments::Adopt;
use crate::confirm::{self, Question};
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Makes a dataset of a directory.
pub(crate) fn run(arguments: Adopt, session: &Session) -> Result<Report, CommandError> {
    let Adopt {
        directory,
        dataset,
        main,
        dry_run,
        yes,
        on_spare,
    } = arguments;
    let path = place(&session.place_of_store(on_spare)?);
    // What is only looked at must not make one.
    let store = match dry_run {
        true => Store::open_existing(&path)?,
        false => Store::open(&path)?,
    };
    let directory = place(&directory);
    let adoption = Adoption {
        directory: &directory,
        dataset: &dataset,
        main: main.as_ref(),
        origin: Origin::Copy,
    };
    let stage = adopt::stage(&store, &adoption)?;
    let shown = escape(directory.as_os_str().as_bytes());
    if dry_run {
        let line = match stage {
            Stage::Begins => {
                format!("{dataset}: `{shown}` can be adopted; nothing was changed")
            }
            Stage::Taken => format!(
                "{dataset}: `{shown}` is being adopted, and was interrupted: the same command goes on; nothing was changed"
            ),
            Stage::Whole => format!("{dataset}: `{shown}` was adopted; nothing was changed"),
        };
        let data = json!({ "dry_run": true, "dataset": dataset.as_str(), "stage": word(stage) });
        return Ok(Report::done(data, vec![line]));
    }
    if stage == Stage::Begins && !yes {
        let question = Question {
            text: &format!(
                "`{shown}` is moved into the store. Has everything been stopped that writes there? Type the name of the dataset ({dataset})"
            ),
            wanted: dataset.as_str(),
            subject: "this",
            hint: "look at it with --dry-run, then add --yes",
        };
        confirm::ask(&question, &session.cancel)?;
    }
    let adopted = adopt::adopt(&store, &adoption)?;
    let mut lines = vec![line(&adopted, &dataset.to_string())];
    lines.extend(losses(&adopted, &dataset.to_string()));
    lines.push(match &main {
        Some(main) => format!("{dataset}: the next cycle of {main} sends what differs"),
        None => format!(
            "{dataset}: nobody may use it yet: `understudy pair --grant MAIN {dataset}`, or let a store be used as a directory"
        ),
    });
    Ok(Report::done(
        value(&adopted, dataset.as_str(), stage),
        lines,
    ))
}

/// Where a directory is: absolute, with the links on the way to it resolved, as far as it is there.
pub(super) fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path;
    };
    match std::fs::canonicalize(parent) {
        Ok(parent) => parent.join(name),
        Err(_) => path,
    }
}

pub(super) fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Begins => "begins",
        Stage::Taken => "taken",
        Stage::Whole => "whole",
    }
}

/// What became of it, for people.
fn line(adopted: &Adopted, dataset: &str) -> String {
    let snapshot = &adopted.snapshot;
    let at = snapshot.position;
    let files = escape(adopted.files.as_os_str().as_bytes());
    let what = format!(
        "snapshot {} of epoch {}: {}, {}; its files are `{files}`",
        at.number,
        at.epoch,
        words::counted(snapshot.entries, "entry"),
        words::size(snapshot.bytes),
    );
    match adopted.found {
        Some(_) => format!("{dataset}: adopted as {what}"),
        None => format!("{dataset}: was adopted before, as {what}"),
    }
}

/// What could not become part of it.
pub(super) fn losses(adopted: &Adopted, dataset: &str) -> Vec<String> {
    let lost = adopted.lost.iter();
    lost.map(|(path, why)| format!("{dataset}: `{path}` {why}"))
        .collect()
}

/// For programs.
pub(super) fn value(adopted: &Adopted, dataset: &str, stage: Stage) -> Value {
    let lost = adopted.lost.iter();
    json!({
        "dataset": dataset,
        "stage": word(stage),
        "snapshot": words::snapshot(&adopted.snapshot),
        "files": adopted.files.display().to_string(),
        "lost": lost.map(|(path, why)| json!({ "path": path, "why": why })).collect::<Vec<_>>(),
    })
}
