//! `understudy drill`: a restore for practice, into a scratch directory, with everything read again afterwards.

use std::path::{Path, PathBuf};

use serde_json::json;
use understudy_agent::{
    Action, Context, Existing, Manner, Opened, Order, OwnedBy, RestoreReport, RestoreRequest, Which,
};
use understudy_protocol::{DatasetName, Name, escape};
use understudy_tree::{Directory, Mounts, TreeError, remove};

use super::{Session, past, restore};
use crate::arguments::Drill;
use crate::drills;
use crate::exit::{Code, CommandError};
use crate::report::Report;
use crate::spare::Spare;
use crate::{paths, words};

/// Restores, compares, opens, remembers how long it took, and removes it all.
pub(crate) fn run(arguments: &Drill, session: &Session) -> Result<Report, CommandError> {
    let state = paths::state(session.places.state.as_deref())?;
    paths::make_state(&state)?;
    let place = arguments.scratch.as_deref().unwrap_or(&state);
    paths::check_apart("scratch directory", place, &session.address()?)?;
    let spare = session.existing_spare()?;
    let scratch = Scratch::make(arguments, &state)?;
    let context = session.context(PathBuf::new(), &spare);
    let result = practise(arguments, session, &spare, &context, &scratch);
    // Whatever came of it.
    let removed = scratch.remove();
    let (restored, report) = result?;
    removed.map_err(|error| scratch.failed(&error))?;
    if report.error.is_none() {
        let drill = drills::Drill {
            ended_seconds: words::now_seconds(),
            seconds: restored.seconds,
            files: restored.files,
            bytes: restored.bytes,
            costs: restored.costs.map(|costs| (costs.file, costs.byte)),
        };
        Directory::open(&state, Mounts::Cross)
            .and_then(|directory| {
                drills::remember(&directory, &state, &spare.name(), &arguments.dataset, drill)
            })
            .map_err(|error| scratch.failed(&error))?;
    }
    Ok(report)
}

fn practise(
    arguments: &Drill,
    session: &Session,
    spare: &Spare,
    context: &Context,
    scratch: &Scratch,
) -> Result<(RestoreReport, Report), CommandError> {
    let which = past::which(&arguments.selection)?;
    let request = |which: Which, existing: Existing, action: Action| RestoreRequest {
        dataset: arguments.dataset.clone(),
        target: scratch.target.clone(),
        which,
        paths: Vec::new(),
        first: Vec::new(),
        order: Order::Listed,
        existing,
        manner: Manner::Switch,
        owners: OwnedBy::Number,
        announced: (0, 0),
        action,
    };
    let shown = restore::show(context, session.output);
    let restored = restore::bring_back(
        spare,
        &request(which, Existing::Refuse, Action::Write),
        context,
    );
    drop(shown);
    let restored = restored?;
    // Everything is read from the disk again and hashed, as if it had to be found out what is missing.
    let number = Which::Number(restored.snapshot.position.number);
    let again = request(number, Existing::Replace, Action::DryRun);
    let compared = restore::bring_back(spare, &again, context)?;
    let tree =
        Directory::open(&scratch.target, Mounts::Cross).map_err(|error| scratch.failed(&error))?;
    let opened = understudy_agent::open_databases(&tree, &context.cancel)?;
    let report = verdict(
        &arguments.dataset,
        &restored,
        compared.files_fetched,
        &opened,
    );
    Ok((restored, report))
}

/// What is told of a drill.
fn verdict(
    dataset: &DatasetName,
    restored: &RestoreReport,
    files_wrong: u64,
    opened: &Opened,
) -> Report {
    let data = json!({
        "dataset": dataset.as_str(),
        "snapshot": words::snapshot(&restored.snapshot),
        "files": restored.files,
        "bytes": restored.bytes,
        "seconds": restored.seconds,
        "files_wrong": files_wrong,
        "databases": opened.databases,
        "databases_not_checked": opened.unchecked,
        "databases_damaged": opened.damaged.iter().map(|(path, what)| words::path_with(path, "what", what)).collect::<Vec<_>>(),
        "fuzzy": restored.fuzzy.len(),
    });
    let mut report = Report::done(data, vec![summary(dataset, restored, opened.databases)]);
    report.note_all(
        &format!(
            "{} came back as they were captured, and are damaged:",
            words::counted(opened.damaged.len() as u64, "database")
        ),
        opened
            .damaged
            .iter()
            .map(|(path, what)| format!("{path}: {what}")),
    );
    if files_wrong > 0 || !opened.damaged.is_empty() {
        let message = format!(
            "the drill of {} found {} that are not what the spare has, and {} that are damaged",
            dataset,
            words::counted(files_wrong, "file"),
            words::counted(opened.damaged.len() as u64, "database"),
        );
        let hint =
            "run `understudy verify`; for databases, look at how they are captured on the main";
        report.code = Code::Damage;
        report.error = Some(CommandError::new(Code::Damage, message, hint));
    }
    report
}

fn summary(dataset: &DatasetName, restored: &RestoreReport, databases: u64) -> String {
    format!(
        "snapshot {} of {dataset}, committed at {}, would be back within {:.1} s: {} with {} came and were read again, {} opened",
        restored.snapshot.position.number,
        words::time(restored.snapshot.committed_seconds),
        restored.seconds,
        words::counted(restored.files, "file"),
        words::size(restored.bytes),
        words::counted(databases, "database"),
    )
}

/// A directory of its own for one drill.
struct Scratch {
    parent: Directory,
    directory: Directory,
    name: Name,
    target: PathBuf,
}

impl Scratch {
    fn make(arguments: &Drill, state: &Path) -> Result<Self, CommandError> {
        let path = arguments
            .scratch
            .clone()
            .unwrap_or_else(|| state.to_owned());
        let failed = |error: &dyn std::fmt::Display| {
            CommandError::new(
                Code::Failed,
                format!(
                    "cannot use `{}` for a drill: {error}",
                    escape(path.as_os_str().as_encoded_bytes())
                ),
                "give a directory with room for the dataset with --scratch",
            )
        };
        let parent = Directory::open(&path, Mounts::Cross).map_err(|error| failed(&error))?;
        // Two drills do not meet in one.
        let name = format!(
            "understudy-drill-{}-{}",
            arguments.dataset,
            std::process::id()
        );
        let name = Name::new(name).map_err(|error| failed(&error))?;
        parent
            .create_directory(&name)
            .map_err(|error| failed(&error))?;
        let directory = parent.open_directory(&name);
        let directory = directory.map_err(|error| failed(&error))?.without_mounts();
        let target = path.join(name.as_os_str()).join("files");
        Ok(Self {
            parent,
            directory,
            name,
            target,
        })
    }

    fn remove(&self) -> Result<(), TreeError> {
        remove::empty(&self.directory)?;
        self.parent.remove_directory(&self.name)
    }

    fn failed(&self, error: &TreeError) -> CommandError {
        CommandError::new(
            Code::Failed,
            format!(
                "the drill in `{}` failed: {error}",
                escape(self.target.as_os_str().as_encoded_bytes())
            ),
            "look at the directory, and remove it if it is still there",
        )
    }
}
