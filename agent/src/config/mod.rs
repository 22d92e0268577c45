//! The agent's configuration: a TOML file that is checked as a whole before anything runs.
//!
//! Every error names file, line and column. What is unknown is refused, not ignored.

mod databases;
mod file;
mod units;

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use understudy_protocol::DatasetName;
use understudy_tree::{Excludes, Mounts};

use crate::databases::{DatabaseSettings, OnFailure, SnapshotPrograms, Stillness};
use crate::error::AgentError;
use crate::images::Sqlite;
use crate::{Emptied, Source, Unsettled, pace};

pub use databases::{RawDatabase, database};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The spare's address, as a person wrote it.
    pub spare: Option<String>,
    /// The program for a spare that is reached through ssh, with its options; never empty.
    pub ssh: Option<Vec<String>>,
    /// The state directory.
    pub state: Option<PathBuf>,
    /// What to keep.
    pub datasets: Vec<Dataset>,
    /// How changes are noticed.
    pub watch: Watch,
    /// What the agent may take of the host.
    pub pace: pace::Settings,
    /// The file, for messages.
    pub file: PathBuf,
}

/// How changes between two cycles are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// By the best way that the system allows.
    #[default]
    Auto,
    /// By inotify, also where there is a better way.
    Inotify,
    /// Not at all: every cycle compares everything.
    Never,
}

/// One `[[dataset]]`.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// One directory, or every directory in one.
    pub place: Sources,
    /// What is left out.
    pub excludes: Excludes,
    /// Time from the start of one cycle to that of the next; never zero.
    pub interval: Duration,
    /// How often everything is compared in a large one; never zero.
    pub sweep: Duration,
    /// Whether other file systems below it belong to it.
    pub mounts: Mounts,
    /// What happens with files that never stand still.
    pub unsettled: Unsettled,
    /// The programs that stop the application before the dataset is handed over, each with its arguments; never empty ones.
    pub on_stop: Vec<Vec<String>>,
    /// The programs that run once this host was told that another one took over; likewise.
    pub on_fence: Vec<Vec<String>>,
    /// Its databases.
    pub databases: Vec<DatabaseSettings>,
    /// What becomes of a cycle when one of them cannot be captured.
    pub on_database_failure: OnFailure,
    /// What is done with SQLite databases among its files.
    pub sqlite: Sqlite,
    /// How its application is kept still meanwhile; `None` if it is not.
    pub stillness: Option<Stillness>,
    /// Who makes a snapshot of its file system, from which it is read.
    pub snapshot: Option<SnapshotPrograms>,
}

/// Which directories a `[[dataset]]` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// This one, under this name.
    One(PathBuf, DatasetName),
    /// Each directory in this one, named after itself. Hidden ones and links are left alone.
    Each(PathBuf),
}

/// A source with its rhythm.
#[derive(Debug, Clone)]
pub struct Scheduled {
    /// What to keep.
    pub source: Source,
    /// How often.
    pub interval: Duration,
    /// The programs that stop the application, each with its arguments.
    pub on_stop: Vec<Vec<String>>,
    /// The programs that run once this host was told that another one took over.
    pub on_fence: Vec<Vec<String>>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, AgentError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            AgentError::Configuration(format!("cannot read `{}`: {error}", path.display()))
        })?;
        Self::parse(&text, path)
    }

    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, AgentError> {
        file::parse(text, path)
    }

    /// The sources there are now: `/*` means the directories that exist at this moment. What cannot be listed or
    /// named is an error of its own, beside the others.
    pub fn sources(&self) -> Vec<Result<Scheduled, AgentError>> {
        let mut taken: HashSet<DatasetName> = HashSet::new();
        for dataset in &self.datasets {
            if let Sources::One(_, name) = &dataset.place {
                taken.insert(name.clone());
            }
        }
        self.datasets
            .iter()
            .flat_map(|dataset| dataset.sources(&mut taken))
            .collect()
    }

    /// Whether a directory at this canonical path is a source as soon as it is there, for each one beside it is.
    pub fn takes_in(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        if name.as_bytes().starts_with(b".") {
            return false;
        }
        self.datasets.iter().any(|dataset| match &dataset.place {
            Sources::One(..) => false,
            Sources::Each(parent) => std::fs::canonicalize(parent)
                .is_ok_and(|parent| path.parent() == Some(parent.as_path())),
        })
    }
}

impl Dataset {
    fn sources(&self, taken: &mut HashSet<DatasetName>) -> Vec<Result<Scheduled, AgentError>> {
        match &self.place {
            Sources::One(path, name) => vec![Ok(self.scheduled(path.clone(), name.clone()))],
            Sources::Each(parent) => match directories_in(parent) {
                Err(error) => vec![Err(error)],
                Ok(paths) => paths
                    .into_iter()
                    .map(|path| self.named_after_itself(path, taken))
                    .collect(),
            },
        }
    }

    fn named_after_itself(
        &self,
        path: PathBuf,
        taken: &mut HashSet<DatasetName>,
    ) -> Result<Scheduled, AgentError> {
        let name = name_of(&path);
        if taken.insert(name.clone()) {
            return Ok(self.scheduled(path, name));
        }
        let path = understudy_protocol::escape(path.as_os_str().as_bytes());
        Err(AgentError::Configuration(format!(
            "`{path}` would be called `{name}`, as another dataset is; give it a [[dataset]] of its own with another `name`"
        )))
    }

    fn scheduled(&self, path: PathBuf, dataset: DatasetName) -> Scheduled {
        let source = Source {
            path,
            dataset,
            excludes: self.excludes.clone(),
            mounts: self.mounts,
            emptied: Emptied::Refuse,
            sweep: self.sweep,
            unsettled: self.unsettled,
            databases: self.databases.clone(),
            on_database_failure: self.on_database_failure,
            sqlite: self.sqlite,
            stillness: self.stillness.clone(),
            snapshot: self.snapshot.clone(),
        };
        Scheduled {
            source,
            interval: self.interval,
            on_stop: self.on_stop.clone(),
            on_fence: self.on_fence.clone(),
        }
    }
}

fn name_of(path: &Path) -> DatasetName {
    DatasetName::fit(path.file_name().map_or(&b""[..], OsStrExt::as_bytes))
}

fn directories_in(parent: &Path) -> Result<Vec<PathBuf>, AgentError> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(parent)? {
            let entry = entry?;
            let is_hidden = entry.file_name().as_bytes().starts_with(b".");
            if !is_hidden && entry.file_type()?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    };
    list().map_err(|error| AgentError::state("list the sources in", parent, &error))
}

#[cfg(test)]
mod tests;
