//! What this agent remembers of a dataset on a spare: the newest snapshot that was acknowledged. One small file for each, below
//! `STATE/statements/`, so that a restore finds it without the source and its index.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_protocol::message::Owners;
use understudy_protocol::{ContentHash, DatasetName, Fingerprint, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Mounts};

use crate::db;
use crate::error::AgentError;

const DIRECTORY: &str = "statements";
/// The layout this build writes.
const FORMAT: u32 = 1;
/// What owners are called may take a few hundred bytes for each of thousands, a few times.
const LIMIT_BYTES: u64 = 64 << 20;
/// So many versions of what owners are called are kept: one for each upload that may have been committed.
const VERSIONS: usize = 8;

/// A snapshot that was signed here and acknowledged by the spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The counter of its statement.
    pub counter: u64,
    /// The hash of its statement.
    pub hash: ContentHash,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// The fingerprint of its state.
    pub fingerprint: Fingerprint,
    /// When it was signed, by this host's clock.
    pub signed_seconds: i64,
    /// When it was committed, by the spare's clock.
    pub committed_seconds: i64,
}

/// All that is remembered of a dataset on a spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) spare: String,
    pub(crate) dataset: DatasetName,
    pub(crate) newest: Option<Known>,
    /// What the spare may have been told of owners, the newest last.
    pub(crate) owners: Vec<Owners>,
}

impl Memory {
    /// Reads what is remembered; `None` if nothing is.
    pub(crate) fn load(
        state: &Path,
        spare: &str,
        dataset: &DatasetName,
    ) -> Result<Option<Self>, AgentError> {
        let Some(directory) = open(state)? else {
            return Ok(None);
        };
        read(state, &directory, &name(state, spare, dataset)?)
    }

    /// Replaces what is remembered. Durable when it returns.
    pub(crate) fn store(&self, state: &Path) -> Result<(), AgentError> {
        let path = state.join(DIRECTORY);
        db::ensure_state_directory(&path)?;
        let failed = |error: &dyn std::fmt::Display| AgentError::state("write", &path, error);
        let directory = Directory::open(&path, Mounts::Cross).map_err(|error| failed(&error))?;
        let content = postcard::to_stdvec(&(FORMAT, self)).map_err(|error| failed(&error))?;
        let name = name(state, &self.spare, &self.dataset)?;
        durable::replace(&directory, &name, &content, Durability::Now)
            .map_err(|error| failed(&error))
    }

    /// Adds a version of what owners are called; whether it is new.
    pub(crate) fn may_have_told(&mut self, owners: &Owners) -> bool {
        if self.owners.contains(owners) {
            return false;
        }
        if self.owners.len() >= VERSIONS {
            self.owners.remove(0);
        }
        self.owners.push(owners.clone());
        true
    }
}

/// The newest acknowledged snapshot of a dataset on a spare, if any is remembered.
pub fn newest_known(
    state: &Path,
    spare: &str,
    dataset: &DatasetName,
) -> Result<Option<Known>, AgentError> {
    Ok(Memory::load(state, spare, dataset)?.and_then(|memory| memory.newest))
}

/// The datasets of which a spare has acknowledged a snapshot, in order. What cannot be read is passed over: one damaged file tells
/// nothing of the others.
pub fn known_datasets(state: &Path, spare: &str) -> Result<Vec<DatasetName>, AgentError> {
    let Some(directory) = open(state)? else {
        return Ok(Vec::new());
    };
    let path = state.join(DIRECTORY);
    let names = directory
        .names()
        .map_err(|error| AgentError::state("list", &path, &error))?;
    let mut datasets = Vec::new();
    for name in names
        .iter()
        .filter(|name| !name.as_bytes().ends_with(b".new"))
    {
        match read(state, &directory, name) {
            Ok(Some(memory)) if memory.spare == spare && memory.newest.is_some() => {
                datasets.push(memory.dataset);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("a dataset that the spare may have had is not looked for: {error}");
            }
        }
    }
    datasets.sort();
    Ok(datasets)
}

fn open(state: &Path) -> Result<Option<Directory>, AgentError> {
    let path = state.join(DIRECTORY);
    match Directory::open(&path, Mounts::Cross) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(AgentError::state("open", &path, &error)),
    }
}

fn read(state: &Path, directory: &Directory, name: &Name) -> Result<Option<Memory>, AgentError> {
    let path = || -> PathBuf { state.join(DIRECTORY).join(name.as_os_str()) };
    let content = durable::read(directory, name, LIMIT_BYTES)
        .map_err(|error| AgentError::state("read", path(), &error))?;
    let Some(content) = content else {
        return Ok(None);
    };
    match postcard::from_bytes::<(u32, Memory)>(&content) {
        Ok((FORMAT, memory)) => Ok(Some(memory)),
        _ => Err(AgentError::MemoryDamaged { path: path() }),
    }
}

fn name(state: &Path, spare: &str, dataset: &DatasetName) -> Result<Name, AgentError> {
    let key = [spare.as_bytes(), &[0], dataset.as_str().as_bytes()].concat();
    let hash = ContentHash::of(&key).to_string();
    Name::new(&hash[..32]).map_err(|error| AgentError::state("name", state, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(spare: &str, dataset: &str, counter: u64) -> Memory {
        Memory {
            spare: spare.to_owned(),
            dataset: DatasetName::fit(dataset.as_bytes()),
            newest: Some(Known {
                counter,
                hash: ContentHash::of(b"statement"),
                epoch: 1,
                number: 2,
                fingerprint: Fingerprint([3; 32]),
                signed_seconds: 4,
                committed_seconds: 5,
            }),
            owners: vec![Owners::default()],
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damages a file")]
    fn what_is_remembered_is_found_by_spare_and_dataset() {
        let state = tempfile::tempdir().expect("state");
        let state = state.path();
        let name = DatasetName::fit(b"site");
        assert_eq!(newest_known(state, "a", &name).expect("load"), None);
        assert!(known_datasets(state, "a").expect("list").is_empty());
        memory("a", "site", 1).store(state).expect("store");
        memory("a", "site", 2).store(state).expect("store");
        memory("a", "other", 3).store(state).expect("store");
        memory("b", "site", 4).store(state).expect("store");
        let counter = |spare| {
            let known = newest_known(state, spare, &name).expect("load");
            known.map(|known| known.counter)
        };
        assert_eq!(
            (counter("a"), counter("b"), counter("c")),
            (Some(2), Some(4), None)
        );
        let datasets = || {
            let datasets = known_datasets(state, "a").expect("list");
            let datasets = datasets.iter().map(|name| name.as_str().to_owned());
            datasets.collect::<Vec<_>>()
        };
        assert_eq!(datasets(), ["other", "site"]);
        let damaged = super::name(state, "a", &name).expect("name");
        let damaged = state.join(DIRECTORY).join(damaged.as_os_str());
        std::fs::write(damaged, b"x").expect("write");
        assert_eq!(datasets(), ["other"]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damages a file")]
    fn damage_is_told_and_not_taken_for_knowing_nothing() {
        let state = tempfile::tempdir().expect("state");
        memory("a", "site", 1).store(state.path()).expect("store");
        for file in std::fs::read_dir(state.path().join(DIRECTORY)).expect("list") {
            std::fs::write(file.expect("file").path(), b"x").expect("write");
        }
        let name = DatasetName::fit(b"site");
        let error = newest_known(state.path(), "a", &name).expect_err("damaged");
        assert!(matches!(error, AgentError::MemoryDamaged { .. }), "{error}");
    }
}
