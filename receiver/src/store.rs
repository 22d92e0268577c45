//! The store: the directory that holds all datasets, and what its file system must be able to do.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{XattrFlags, fsetxattr};
use understudy_protocol::{DatasetName, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Kind, Mounts, Specials, TreeError, remove};

use crate::access::Access;
use crate::alert::Cycles;
use crate::committing::Committing;
use crate::crowd::Crowd;
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::error::ReceiverError;
use crate::housekeeping::Housekeeping;
use crate::leftovers;
use crate::names;
use crate::peer::Peer;
use crate::quota::Shares;
use crate::specials;
use crate::syncs::Syncs;

/// The layout this build writes.
const FORMAT: i64 = 1;
const FORMAT_KEY: &str = "format: ";
/// What the directories begin with in which a file system is tried; no dataset can have such a name.
const PROBE: &str = "understudy.probe-";
const OLD_PROBE_SECONDS: i64 = 3600;

/// A directory of datasets.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: Directory,
    pub(crate) housekeeping: Housekeeping,
    pub(crate) cycles: Cycles,
    pub(crate) syncs: Arc<Syncs>,
    pub(crate) committing: Committing,
    pub(crate) crowd: Crowd,
    pub(crate) shares: Shares,
    specials: OnceLock<specials::Rules>,
}

impl Store {
    /// Opens a store; makes one of an absent or empty directory. Refuses a file system that lacks what atomic
    /// commits need.
    pub fn open(path: &Path) -> Result<Self, ReceiverError> {
        Self::make(path)?;
        let store = Self::at(path)?;
        match store.format()? {
            Some(_) => {}
            None if store.is_empty()? => {
                let text = format!(
                    "This directory is an understudy store. Do not change anything in it.\n{FORMAT_KEY}{FORMAT}\n"
                );
                durable::replace(
                    &store.directory,
                    &names::STORE_FORMAT,
                    text.as_bytes(),
                    Durability::Now,
                )
                .map_err(|error| store.unusable(&error))?;
            }
            None => {
                return Err(store
                    .refused("it is not empty and not a store; give an empty or a new directory"));
            }
        }
        store.probe()?;
        Ok(store)
    }

    /// Makes the directory of a store, empty, unless it is there.
    pub fn make(path: &Path) -> Result<(), ReceiverError> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create_directory(path),
            _ => Ok(()),
        }
    }

    /// Opens a store that must exist already; for commands that only read.
    pub fn open_existing(path: &Path) -> Result<Self, ReceiverError> {
        let store = Self::at(path)?;
        match store.format()? {
            Some(_) => Ok(store),
            None => Err(store.refused("it is not a store; check the path")),
        }
    }

    fn at(path: &Path) -> Result<Self, ReceiverError> {
        let unusable = |error: TreeError| ReceiverError::Store {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let directory = Directory::open(path, Mounts::Cross).map_err(unusable)?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            housekeeping: Housekeeping::default(),
            cycles: Cycles::default(),
            syncs: Arc::default(),
            committing: Committing::default(),
            crowd: Crowd::default(),
            shares: Shares::default(),
            specials: OnceLock::new(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, for what belongs to no dataset.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Free bytes on its file system for this process.
    pub(crate) fn free_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.directory)
            .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Opens a dataset; `None` if the store has none of this name.
    pub(crate) fn dataset(&self, name: &DatasetName) -> Result<Option<Dataset>, ReceiverError> {
        Dataset::open(&self.directory, &self.path, name, &self.syncs)
    }

    /// Opens a dataset, made if the store has none of this name.
    pub(crate) fn ensure_dataset(&self, name: &DatasetName) -> Result<Dataset, ReceiverError> {
        let open = || Dataset::ensure(&self.directory, &self.path, name, &self.syncs);
        let dataset = open()?;
        let is_new = dataset.control.stat_if_present(&names::CATALOG)?.is_none();
        match self.specials.get().map(|rules| rules.of(name)) {
            Some(Specials::Record) if is_new => {
                specials::note(&dataset.control, Specials::Record)?;
                open()
            }
            _ => Ok(dataset),
        }
    }

    /// From now on new datasets are treated by these rules. The first ones that are given count.
    pub fn treat_new(&self, rules: specials::Rules) {
        let _ = self.specials.set(rules);
    }

    /// Treats all datasets by these rules, those that are there at once. Call it before any session.
    pub fn treat(&self, rules: specials::Rules) -> Result<(), ReceiverError> {
        specials::apply(self, &rules)?;
        self.treat_new(rules);
        Ok(())
    }

    /// The names of all datasets, in order.
    pub fn dataset_names(&self) -> Result<Vec<DatasetName>, ReceiverError> {
        let mut found = Vec::new();
        for name in self.directory.names()? {
            let Ok(text) = std::str::from_utf8(name.as_bytes()) else {
                continue;
            };
            let Ok(dataset) = DatasetName::new(text) else {
                continue;
            };
            let is_directory = self
                .directory
                .stat_if_present(&name)?
                .is_some_and(|stat| stat.kind == Kind::Directory);
            if is_directory {
                found.push(dataset);
            }
        }
        Ok(found)
    }

    /// Finishes or drops what an earlier process left half-done in each dataset. Trouble in one is its own:
    /// it is told when the dataset is used.
    pub fn recover(&self) -> Result<(), ReceiverError> {
        for name in self.dataset_names()? {
            let recovered = self.dataset(&name).and_then(|dataset| match dataset {
                Some(dataset) => crate::recover::at_start(&dataset),
                None => Ok(()),
            });
            if let Err(error) = recovered {
                tracing::error!(dataset = %name, "cannot recover dataset {name}: {error}");
            }
        }
        Ok(())
    }

    /// Removes what interrupted uploads left too long ago, or before a sync failed. A dataset that is in use is passed
    /// over.
    pub fn drop_old_leftovers(&self) -> Result<(), ReceiverError> {
        self.drop_leftovers(&Peer::Operator, leftovers::drop_old)
    }

    /// Removes everything that interrupted uploads of this peer's datasets left: the space is needed. A dataset that is in use
    /// is passed over.
    pub(crate) fn drop_all_leftovers(&self, peer: &Peer) -> Result<(), ReceiverError> {
        self.drop_leftovers(peer, leftovers::drop_all)
    }

    fn drop_leftovers(
        &self,
        peer: &Peer,
        drop: impl Fn(&Dataset, &Locked) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        for permission in Access::new(self, peer).own()? {
            let dropped = permission.open(self).and_then(|dataset| match dataset {
                Some(dataset) => self.drop_leftovers_of(&dataset, &drop),
                None => Ok(()),
            });
            if let Err(error) = dropped {
                let name = permission.name();
                tracing::warn!(dataset = %name, "cannot drop what an interrupted upload left: {error}");
            }
        }
        Ok(())
    }

    fn drop_leftovers_of(
        &self,
        dataset: &Dataset,
        drop: impl Fn(&Dataset, &Locked) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        // Declared before the lock, so that it ends after the lock is released.
        let _tidying;
        match dataset.lock() {
            Ok(locked) => {
                _tidying = self.housekeeping.begin(&dataset.name);
                drop(dataset, &locked)
            }
            Err(ReceiverError::Busy(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn format(&self) -> Result<Option<i64>, ReceiverError> {
        let content = durable::read(&self.directory, &names::STORE_FORMAT, 4096)
            .map_err(|error| self.unusable(&error))?;
        let Some(content) = content else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&content);
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(FORMAT_KEY)?.trim().parse().ok());
        match found {
            Some(found) if found > FORMAT => Err(ReceiverError::Newer {
                path: self.path.clone(),
                found,
                known: FORMAT,
            }),
            Some(found) => Ok(Some(found)),
            None => Err(self.refused("its file `understudy.store` is unreadable")),
        }
    }

    fn is_empty(&self) -> Result<bool, ReceiverError> {
        let names = self.directory.names()?;
        // A file system of its own brings the directory along, and whoever died while a store was made left the file.
        let may_be = [&b"lost+found"[..], b"understudy.store.new"];
        Ok(names.iter().all(|name| may_be.contains(&name.as_bytes())))
    }

    /// Tries what every commit relies on, on the very file system.
    fn probe(&self) -> Result<(), ReceiverError> {
        self.remove_old_probes()
            .map_err(|error| self.unusable(&error))?;
        let text = format!("{PROBE}{}", std::process::id());
        let name = Name::new(text).map_err(|error| self.refused(&error.to_string()))?;
        let probe = self
            .directory
            .ensure_directory(&name)
            .map_err(|error| self.unusable(&error))?;
        let result = self.probe_in(&probe);
        remove::empty(&probe)?;
        self.directory.remove_directory(&name)?;
        result
    }

    /// What processes left that were killed while they tried, or while they made a dataset. One that is at it now takes milliseconds.
    fn remove_old_probes(&self) -> Result<(), TreeError> {
        let left = [PROBE, crate::owner::MAKING];
        for name in self.directory.names()? {
            if !left
                .iter()
                .any(|left| name.as_bytes().starts_with(left.as_bytes()))
            {
                continue;
            }
            let stat = self.directory.stat_if_present(&name)?;
            if stat.is_some_and(|stat| now_seconds() - stat.modified.seconds > OLD_PROBE_SECONDS) {
                let probe = self.directory.open_directory(&name)?;
                remove::empty(&probe)?;
                self.directory.remove_directory(&name)?;
            }
        }
        Ok(())
    }

    fn probe_in(&self, probe: &Directory) -> Result<(), ReceiverError> {
        remove::empty(probe)?;
        let (first, second) = (&names::LIVE, &names::SHADOW);
        probe
            .create_directory(first)
            .map_err(|error| self.unusable(&error))?;
        let file = probe
            .create_file(second)
            .map_err(|error| self.unusable(&error))?;
        probe.exchange(first, probe, second).map_err(|error| {
            self.lacks(
                "exchange two directories in one step (RENAME_EXCHANGE)",
                &error,
            )
        })?;
        probe
            .link(first, probe, &names::LINK)
            .map_err(|error| self.lacks("hold hard links", &error))?;
        fsetxattr(&file, "user.understudy", b"probe", XattrFlags::empty()).map_err(|error| {
            self.lacks(
                "hold extended attributes",
                &TreeError::new("set", b"user.understudy", error),
            )
        })
    }

    fn lacks(&self, ability: &str, error: &TreeError) -> ReceiverError {
        self.refused(&format!(
            "its file system cannot {ability}: {error}; use ext4, xfs or btrfs"
        ))
    }

    fn unusable(&self, error: &TreeError) -> ReceiverError {
        if error.is_no_space() {
            return ReceiverError::NoSpace(format!(
                "preparing the store `{}`",
                self.path.display()
            ));
        }
        self.refused(&error.to_string())
    }

    fn refused(&self, reason: &str) -> ReceiverError {
        ReceiverError::Store {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the store itself is made by the path a person gave"
)]
fn create_directory(path: &Path) -> Result<(), ReceiverError> {
    std::fs::create_dir(path).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "its parent directory does not exist".to_owned(),
            _ => format!("it cannot be created: {error}"),
        };
        ReceiverError::Store {
            path: path.to_owned(),
            reason,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn what_a_killed_probe_left_is_no_dataset_and_goes_once_it_is_old() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("store");
        let store = Store::open(&path).expect("store");
        let probe = |number: u32| path.join(format!("{PROBE}{number}"));
        for number in [1, 2] {
            fs::create_dir_all(probe(number).join("live")).expect("probe");
        }
        let old = SystemTime::now() - Duration::from_secs(7200);
        let opened = fs::File::open(probe(1)).expect("open");
        opened.set_modified(old).expect("age");
        assert_eq!(store.dataset_names().expect("names"), []);
        Store::open(&path).expect("store");
        assert!(!probe(1).exists(), "it is two hours old");
        assert!(probe(2).exists(), "another process may be at it");
    }
}
