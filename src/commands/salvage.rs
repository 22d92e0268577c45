//! `understudy salvage`: the last state of a main that is gone, from its disks.

use std::path::PathBuf;

use serde_json::json;
use understudy_agent::{Emptied, Source, Unsettled};
use understudy_protocol::{DatasetName, Role, Standing};
use understudy_receiver::retention;
use understudy_tree::{Excludes, Mounts};

use super::{Session, sync};
use crate::address::Address;
use crate::arguments::Salvage;
use crate::exit::{Code, CommandError};
use crate::report::Report;
use crate::spare::Absent;
use crate::{paths, words};

/// What is added to the name of a dataset for what is salvaged of it after a promotion.
const SUFFIX: &str = "-salvaged";

/// Where the agent's side of it keeps what it knows, as long as it takes.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, CommandError> {
        let name = format!("understudy-salvage-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        paths::make_state(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = understudy_tree::Directory::open(&self.0, Mounts::Stay)
            .and_then(|directory| understudy_tree::remove::empty(&directory));
        if let Err(error) = removed {
            tracing::warn!("cannot remove `{}`: {error}", self.0.display());
        }
    }
}

/// Makes a snapshot of a directory, as the main would have.
pub(crate) fn run(arguments: &Salvage, session: &Session) -> Result<Report, CommandError> {
    let store = session.store_on_this_host(arguments.on_spare.clone())?;
    let standing = store.standing(&arguments.dataset)?;
    let path = paths::source(&arguments.directory)?;
    let address = Address::Directory(store.path().to_owned());
    paths::check_apart("directory", &path, &address)?;
    let (dataset, is_beside) = becomes(&arguments.dataset, &standing)?;
    let told = told(&arguments.dataset, &dataset, &standing);
    if arguments.dry_run {
        let data = json!({ "dry_run": true, "dataset": dataset.as_str(), "beside": is_beside });
        let lines = vec![told, "nothing was changed".to_owned()];
        return Ok(Report::done(data, lines));
    }
    let source = source(arguments, path, dataset.clone())?;
    let scratch = Scratch::new()?;
    let spare = session.spare(address, Absent::Refuse, None)?;
    let epoch = if is_beside { 1 } else { standing.epoch };
    understudy_agent::resume(&source, &scratch.0, &spare.name(), epoch)?;
    let context = session.context(scratch.0.clone(), &spare);
    let synced =
        sync::once(&spare, &source, &context, session).map_err(|error| held(error, &dataset))?;
    let mut lines = vec![sync::summary(&synced)];
    let number = synced
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.position.number);
    if is_beside {
        let reason = format!(
            "salvaged from the disks of the main of {}",
            arguments.dataset
        );
        retention::pin(&store, &dataset, number, &reason)?;
        lines.push(format!(
            "{dataset}: it is pinned; compare it by `understudy ls {dataset} -R -l`, bring it back by `understudy restore {dataset} TARGET --unverified`"
        ));
    } else {
        lines.push(format!(
            "{dataset}: `understudy promote {dataset}` makes this the state that goes on"
        ));
    }
    let mut data = sync::value(&synced);
    data["beside"] = is_beside.into();
    data["salvaged"] = words::now_seconds().into();
    let mut report = Report::done(data, lines);
    sync::note_problems(&mut report, &synced);
    Ok(report)
}

/// The dataset that it becomes a snapshot of, and whether that is another one.
fn becomes(
    dataset: &DatasetName,
    standing: &Standing,
) -> Result<(DatasetName, bool), CommandError> {
    if standing.role == Role::Spare {
        return Ok((dataset.clone(), false));
    }
    let name = format!("{dataset}{SUFFIX}");
    match DatasetName::new(name.as_str()) {
        Ok(name) => Ok((name, true)),
        Err(error) => Err(CommandError::usage(
            format!("`{name}` cannot be the name of a dataset: {error}"),
            "make a dataset of it under a name of your own: `understudy sync DIR --dataset NAME --spare STORE`",
        )),
    }
}

fn told(of: &DatasetName, dataset: &DatasetName, standing: &Standing) -> String {
    match standing.role {
        Role::Spare => format!(
            "{dataset}: this would be its newest snapshot, in epoch {}",
            standing.epoch
        ),
        role => format!(
            "{of}: this host is its `{role}`, in epoch {}, and the live tree the application's; this would be the dataset {dataset}, all of it copied",
            standing.epoch
        ),
    }
}

fn source(
    arguments: &Salvage,
    path: PathBuf,
    dataset: DatasetName,
) -> Result<Source, CommandError> {
    let excludes = Excludes::new(&arguments.exclude).map_err(|error| {
        CommandError::usage(error.to_string(), "write it in the syntax of .gitignore")
    })?;
    Ok(Source {
        path,
        dataset,
        excludes,
        mounts: match arguments.cross_mounts {
            true => Mounts::Cross,
            false => Mounts::Stay,
        },
        emptied: Emptied::Refuse,
        sweep: Source::SWEEP,
        unsettled: Unsettled::default(),
        databases: Vec::new(),
        stillness: None,
        snapshot: None,
        on_database_failure: Default::default(),
        sqlite: Default::default(),
    })
}

/// A guard is nothing that is passed here: a disk that is half there looks like a main that deleted half.
fn held(error: CommandError, dataset: &DatasetName) -> CommandError {
    if error.code != Code::Held {
        return error;
    }
    CommandError {
        hint: format!(
            "see whether the disk is mounted whole; `understudy held {dataset}` shows what it would remove, and how that is released"
        ),
        ..error
    }
}
