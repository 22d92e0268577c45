//! `understudy drill`: a restore for practice, into a scratch directory, with everything read again afterwards.

mod databases;
mod promotion;

use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use understudy_agent::{
    Action, Context, Existing, Lost, Manner, Opened, Order, OwnedBy, Part, RestoreReport,
    RestoreRequest,
};
use understudy_protocol::{DatasetName, Name, RelPath, escape};
use understudy_tree::{Directory, Mounts, TreeError, remove};

use self::databases::Practised;
use super::{Session, past, restore, trust};
use crate::arguments::Drill;
use crate::drills;
use crate::exit::{Code, CommandError};
use crate::opener::Opener;
use crate::report::Report;
use crate::spare::Spare;
use crate::{paths, words};

/// Restores, compares, opens, remembers how long it took, and removes it all.
pub(crate) fn run(
    arguments: &Drill,
    opener: Option<Opener>,
    session: &Session,
) -> Result<Report, CommandError> {
    if arguments.promote {
        return promotion::run(arguments, session);
    }
    let state = paths::state(session.places.state.as_deref())?;
    paths::make_state(&state)?;
    let place = arguments.scratch.as_deref().unwrap_or(&state);
    paths::check_apart("scratch directory", place, &session.address()?)?;
    let spare = session.existing_spare()?;
    let scratch = Scratch::make(place, &arguments.dataset)?;
    let context = session.context(PathBuf::new(), &spare);
    let result = practise(arguments, (opener, session), &spare, &context, &scratch);
    // Whatever came of it.
    let removed = scratch.remove();
    let (restored, report) = result?;
    removed.map_err(|error| scratch.failed(&error))?;
    if report.error.is_none() {
        let drill = drills::Drill {
            ended_seconds: words::now_seconds(),
            seconds: restored.seconds,
            files: restored.amount().0,
            bytes: restored.amount().1,
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
    (opener, session): (Option<Opener>, &Session),
    spare: &Spare,
    context: &Context,
    scratch: &Scratch,
) -> Result<(RestoreReport, Report), CommandError> {
    let trust = session.trust(spare, &arguments.dataset, &arguments.trusting)?;
    let request = RestoreRequest {
        dataset: arguments.dataset.clone(),
        target: scratch.target.clone(),
        which: past::which(&arguments.selection)?,
        databases: Some(scratch.databases.clone()),
        part: Part::Whole,
        first: Vec::new(),
        order: Order::Listed,
        existing: Existing::Refuse,
        manner: Manner::Switch,
        owners: OwnedBy::Number,
        lost: Lost::Ask,
        announced: (0, 0),
        trust,
        room_bytes: trust::room_bytes(spare, &arguments.trusting),
        action: Action::Write,
    };
    let shown = restore::show(context, session.output);
    let restored = restore::bring_back(spare, &request, context);
    drop(shown);
    let restored = restored?;
    let open = |path| Directory::open(path, Mounts::Cross).map_err(|error| scratch.failed(&error));
    let tree = open(&scratch.target)?;
    let dumps = match &restored.databases {
        Some(databases) => Some(open(&databases.target)?),
        None => None,
    };
    // What was restored is what comes now, if the spare is what it was.
    let room_bytes = request
        .room_bytes
        .max(restored.snapshot.entries.saturating_mul(ENTRY_BYTES));
    let number = restored.snapshot.position.number;
    let which = (&arguments.dataset, number, room_bytes);
    let wrong = spare.talk_on(|channel, reconnect| {
        understudy_agent::compare(channel, which, (&tree, dumps.as_ref()), context, reconnect)
    })?;
    let opened = understudy_agent::open_databases(&tree, &context.cancel)?;
    let practised = match &dumps {
        Some(dumps) => {
            let place = [scratch.name.to_string(), "databases".to_owned()];
            let is_proved = trust::may_load(&restored.proven, spare, &arguments.trusting);
            let opener = opener.filter(|_| is_proved);
            databases::practise(opener, &arguments.dataset, (dumps, &place))
                .map_err(|error| scratch.failed(&error))?
        }
        None => Practised::default(),
    };
    let mut report = verdict(&arguments.dataset, &restored, &wrong, &opened);
    tell(&mut report, &arguments.dataset, &practised);
    Ok((restored, report))
}

/// What is told of a drill.
fn verdict(
    dataset: &DatasetName,
    restored: &RestoreReport,
    wrong: &[RelPath],
    opened: &Opened,
) -> Report {
    let (files, bytes) = restored.amount();
    let of_dumps = restored.databases.as_deref();
    let dumps_fuzzy = of_dumps.map_or(0, |dumps| dumps.fuzzy.len());
    let data = json!({
        "dataset": dataset.as_str(),
        "snapshot": words::snapshot(&restored.snapshot),
        "files": files,
        "bytes": bytes,
        "dumps": restored.dumped.databases,
        "seconds": restored.seconds,
        "files_wrong": wrong.len(),
        "databases": opened.databases,
        "databases_not_checked": opened.unchecked,
        "databases_damaged": opened.damaged.iter().map(|(path, what)| words::path_with(path, "what", what)).collect::<Vec<_>>(),
        "fuzzy": restored.fuzzy.len() + dumps_fuzzy,
        "proved": trust::value(&restored.proven),
    });
    let mut report = Report::done(data, vec![summary(dataset, restored, opened.databases)]);
    report.note_all(
        &format!(
            "{} on the disk now, and not as the spare has it:",
            words::counted(wrong.len() as u64, "file")
        ),
        wrong.iter().map(ToString::to_string),
    );
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
    if !wrong.is_empty() || !opened.damaged.is_empty() {
        let message = format!(
            "the drill of {} found {} that are not what the spare has, and {} that are damaged",
            dataset,
            words::counted(wrong.len() as u64, "file"),
            words::counted(opened.damaged.len() as u64, "database"),
        );
        let hint =
            "run `understudy verify`; for databases, look at how they are captured on the main";
        report.code = Code::Damage;
        report.error = Some(CommandError::new(Code::Damage, message, hint));
    }
    report
}

/// Adds what came of the dumps.
fn tell(report: &mut Report, dataset: &DatasetName, practised: &Practised) {
    report.data["dumps_opened"] = practised.values.clone().into();
    report.lines.extend(practised.lines.iter().cloned());
    report.note_all(
        "databases were not opened:",
        practised.unopened.iter().cloned(),
    );
    report.note_all(
        "databases were loaded, and do not have the rows that were captured:",
        practised.different.iter().cloned(),
    );
    report.note_all(
        "databases cannot be loaded:",
        practised.failed.iter().cloned(),
    );
    if report.error.is_some() {
        return;
    }
    let error = if !practised.different.is_empty() {
        CommandError::new(
            Code::Damage,
            format!("the drill of {dataset} found databases that lack rows"),
            "look at how they are captured on the main (`understudy check databases`)",
        )
    } else if !practised.failed.is_empty() {
        CommandError::new(
            Code::Failed,
            format!("the drill of {dataset} could not load every database"),
            "put right what it says, and run it again: in an emergency they would not come back either",
        )
    } else {
        return;
    };
    report.code = error.code;
    report.error = Some(error);
}

fn summary(dataset: &DatasetName, restored: &RestoreReport, databases: u64) -> String {
    let (files, bytes) = restored.amount();
    let dumps = match restored.dumped.databases {
        0 => String::new(),
        dumps => format!(", dumps of {} included,", words::counted(dumps, "database")),
    };
    format!(
        "snapshot {} of {dataset}, committed at {}, would be back within {:.1} s: {} with {}{dumps} came and were read again, {} opened",
        restored.snapshot.position.number,
        words::time(restored.snapshot.committed_seconds),
        restored.seconds,
        words::counted(files, "file"),
        words::size(bytes),
        words::counted(databases, "SQLite database"),
    )
}

/// More than an entry takes in memory, as a rule.
const ENTRY_BYTES: u64 = 1024;
/// How the directories of drills are called, before the dataset and the process; no dataset can have such a name.
const PREFIX: &str = "understudy.drill-";

/// A directory of its own for one drill, locked (flock) as long as that lasts.
struct Scratch {
    parent: Directory,
    directory: Directory,
    name: Name,
    target: PathBuf,
    /// Where what was dumped of databases comes.
    databases: PathBuf,
}

impl Scratch {
    /// Makes one in `path`, and removes those that drills left which did not live to do it.
    fn make(path: &Path, dataset: &DatasetName) -> Result<Self, CommandError> {
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
        let parent = Directory::open(path, Mounts::Cross).map_err(|error| failed(&error))?;
        Self::remove_left(&parent);
        // Two drills do not meet in one.
        let name = format!("{PREFIX}{dataset}-{}", std::process::id());
        let unlocked = Name::new(format!(".{name}")).map_err(|error| failed(&error))?;
        let name = Name::new(name).map_err(|error| failed(&error))?;
        let directory = Self::make_locked(&parent, &unlocked, &name);
        let directory = directory.map_err(|error| failed(&error))?.without_mounts();
        let place = path.join(name.as_os_str());
        let (target, databases) = (place.join("files"), place.join("databases"));
        Ok(Self {
            parent,
            directory,
            name,
            target,
            databases,
        })
    }

    /// Nobody sees it under its name before it is locked.
    fn make_locked(
        parent: &Directory,
        unlocked: &Name,
        name: &Name,
    ) -> Result<Directory, TreeError> {
        parent.create_directory(unlocked)?;
        let directory = parent.open_directory(unlocked)?;
        lock(&directory)?;
        parent.rename_new(unlocked, parent, name)?;
        Ok(directory)
    }

    /// What cannot be removed is left to the next drill.
    fn remove_left(parent: &Directory) {
        let names = parent.names().unwrap_or_default();
        let is_ours = |name: &&Name| name.as_bytes().starts_with(PREFIX.as_bytes());
        for name in names.iter().filter(is_ours) {
            let removed = parent.open_directory(name).and_then(|directory| {
                let directory = directory.without_mounts();
                lock(&directory)?;
                remove::empty(&directory)?;
                parent.remove_directory(name)
            });
            if let Err(error) = removed {
                tracing::debug!("`{name}`, which may be of another drill, stays: {error}");
            }
        }
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

/// Takes a directory for as long as it is open; an error if somebody else has it.
fn lock(directory: &Directory) -> Result<(), TreeError> {
    flock(directory, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| TreeError::new("lock", b"the directory of a drill", error))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "prepares directories")]

    use super::*;

    #[test]
    fn what_a_drill_left_that_was_killed_goes_with_the_next_one() {
        let place = tempfile::tempdir().expect("place");
        let name = |text: &[u8]| DatasetName::fit(text);
        let made = |text: &[u8]| Scratch::make(place.path(), &name(text)).expect("make");
        let killed = made(b"killed");
        let directory = place.path().join(killed.name.as_os_str());
        std::fs::create_dir_all(directory.join("files/deep/er")).expect("create");
        std::fs::write(directory.join("files/deep/file"), "content").expect("write");
        let running = made(b"running");
        assert!(directory.exists(), "it is still running");
        // The lock goes with the process.
        drop(killed);
        let next = made(b"next");
        assert!(!directory.exists());
        for scratch in [running, next] {
            assert!(place.path().join(scratch.name.as_os_str()).exists());
            scratch.remove().expect("remove");
        }
        assert_eq!(std::fs::read_dir(place.path()).expect("list").count(), 0);
    }
}
