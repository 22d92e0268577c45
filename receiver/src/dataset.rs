//! One dataset of a store: its directories, its lock, its catalog.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use understudy_protocol::{DatasetName, Name};
use understudy_tree::attributes::drop_default_acl;
use understudy_tree::{Directory, Privileges, TreeError, remove};

use crate::catalog::Catalog;
use crate::error::ReceiverError;
use crate::names;
use crate::syncs::Syncs;

/// A reader that holds the retired twin by a shared lock delays the next cycle at most this long.
const READERS_WAIT: Duration = Duration::from_secs(10);
/// How long an upload waits for another one to end before it is refused.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// Whoever may enter the store may pass; the parents that protected the tree on the main are not here.
const DATASET_MODE: u16 = 0o750;
/// With less a disk counts as full.
const ROOM_BYTES: u64 = 1 << 20;

/// An open dataset. The descriptors live as long as a session, so a sync reports every write error of it.
#[derive(Debug)]
pub(crate) struct Dataset {
    pub(crate) name: DatasetName,
    /// The directory with the live tree.
    pub(crate) directory: Directory,
    /// The directory with everything else.
    pub(crate) control: Directory,
    pub(crate) privileges: Privileges,
    /// Of the whole store.
    pub(crate) syncs: Arc<Syncs>,
    catalog: PathBuf,
}

/// Keeps every snapshot that there is from being removed; ends when dropped, also by the death of the process.
#[derive(Debug)]
pub(crate) struct Reading {
    _objects: Directory,
}

/// The right to change a dataset; ends when dropped, also by the death of the process.
#[derive(Debug)]
pub(crate) struct Locked {
    _file: File,
}

impl Dataset {
    pub(crate) fn open(
        store: &Directory,
        path: &Path,
        name: &DatasetName,
        syncs: &Arc<Syncs>,
    ) -> Result<Option<Self>, ReceiverError> {
        let own = own_name(name)?;
        let opened = store.open_directory(&own).and_then(|directory| {
            let control = directory.open_directory(&names::CONTROL)?;
            Ok((directory, control))
        });
        match opened {
            Ok(opened) => Ok(Some(Self::of(path, name, opened, syncs))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn ensure(
        store: &Directory,
        path: &Path,
        name: &DatasetName,
        syncs: &Arc<Syncs>,
    ) -> Result<Self, ReceiverError> {
        let own = own_name(name)?;
        let is_new = store.stat_if_present(&own)?.is_none();
        let directory = store.ensure_directory(&own)?;
        if is_new {
            directory.set_mode(DATASET_MODE)?;
        }
        let control = directory.ensure_directory(&names::CONTROL)?;
        // Whoever gave the store a default ACL did not mean the files of the mains.
        drop_default_acl(&control)?;
        control.ensure_directory(&names::OBJECTS)?;
        drop_default_acl(&control.ensure_directory(&names::STAGING)?)?;
        control.ensure_directory(&names::TRASH)?;
        if control.stat_if_present(&names::LOCK)?.is_none() {
            match control.create_file(&names::LOCK) {
                // Another process made it at the same moment.
                Err(error) if error.errno() != Some(rustix::io::Errno::EXIST) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(Self::of(path, name, (directory, control), syncs))
    }

    fn of(
        path: &Path,
        name: &DatasetName,
        (directory, control): (Directory, Directory),
        syncs: &Arc<Syncs>,
    ) -> Self {
        let control_path = path.join(name.as_str()).join(names::CONTROL.as_os_str());
        let catalog = control_path.join(names::CATALOG.as_os_str());
        Self {
            name: name.clone(),
            directory,
            control,
            privileges: Privileges::current(),
            syncs: Arc::clone(syncs),
            catalog,
        }
    }

    /// Takes the right to change the dataset, or says that somebody else has it.
    pub(crate) fn lock(&self) -> Result<Locked, ReceiverError> {
        let file = self.control.open_file(&names::LOCK)?;
        match file.try_lock() {
            Ok(()) => Ok(Locked { _file: file }),
            Err(TryLockError::WouldBlock) => Err(ReceiverError::Busy(self.name.clone())),
            Err(TryLockError::Error(error)) => {
                Err(TreeError::new("lock", names::LOCK.as_bytes(), error).into())
            }
        }
    }

    /// Like [`Self::lock`], with some patience: an upload whose agent has just died is still cleaning up.
    pub(crate) fn lock_patiently(&self) -> Result<Locked, ReceiverError> {
        let started = Instant::now();
        loop {
            match self.lock() {
                Err(ReceiverError::Busy(_)) if started.elapsed() < LOCK_WAIT => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    /// Whether an upload is running.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self.lock(), Err(ReceiverError::Busy(_)))
    }

    /// Begins to read snapshots. Whoever gives out more than one content holds this from before he knows that the
    /// snapshot exists.
    pub(crate) fn reading(&self) -> Result<Reading, ReceiverError> {
        self.lock_objects(rustix::fs::FlockOperation::LockShared)
    }

    /// Makes readers that begin wait until this is dropped, which must be at once; `None` if somebody is reading.
    pub(crate) fn keep_readers_out(&self) -> Result<Option<Reading>, ReceiverError> {
        match self.lock_objects(rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(ReceiverError::Tree(error)) if error.errno() == Some(rustix::io::Errno::AGAIN) => {
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    fn lock_objects(&self, how: rustix::fs::FlockOperation) -> Result<Reading, ReceiverError> {
        let objects = self.control.open_directory(&names::OBJECTS)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&objects, how))
            .map_err(|error| TreeError::new("lock", names::OBJECTS.as_bytes(), error))?;
        Ok(Reading { _objects: objects })
    }

    /// Opens the catalog for writing; hold the lock.
    pub(crate) fn catalog(&self, _locked: &Locked) -> Result<Catalog, ReceiverError> {
        Catalog::open(&self.catalog)
    }

    /// Opens the catalog for reading; `None` if nothing was ever written.
    pub(crate) fn read_catalog(&self) -> Result<Option<Catalog>, ReceiverError> {
        match self.control.stat_if_present(&names::CATALOG)? {
            Some(stat) if stat.size > 0 => self
                .with_room(|| Catalog::open_reading(&self.catalog))
                .map(Some),
            _ => Ok(None),
        }
    }

    /// Opens a catalog, for which SQLite needs a little room, on a full disk as well: `ballast` is given up, and where that is
    /// gone already, one that nobody writes to is read as it is.
    fn with_room(
        &self,
        open: impl Fn() -> Result<Catalog, ReceiverError>,
    ) -> Result<Catalog, ReceiverError> {
        let opened = open();
        let Err(ReceiverError::Catalog { .. } | ReceiverError::NoSpace(_)) = &opened else {
            return opened;
        };
        let stat = rustix::fs::fstatvfs(&self.control);
        if stat.is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM_BYTES) {
            return opened;
        }
        self.drop_ballast()?;
        match open() {
            Err(ReceiverError::Catalog { .. } | ReceiverError::NoSpace(_)) => {}
            opened => return opened,
        }
        let log = self.control.stat_if_present(&names::CATALOG_LOG)?;
        if log.is_some_and(|log| log.size > 0) {
            return opened;
        }
        Catalog::open_unchanging(&self.catalog)
    }

    /// Gives up what is kept for a full disk.
    pub(crate) fn drop_ballast(&self) -> Result<(), ReceiverError> {
        match self.control.remove_file(&names::BALLAST) {
            Err(error) if !error.is_gone() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The live twin; `None` before the first commit.
    pub(crate) fn live(&self) -> Result<Option<Directory>, ReceiverError> {
        match self.directory.open_directory(&names::LIVE) {
            Ok(live) => Ok(Some(live)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The shadow twin, made if it is not there.
    pub(crate) fn shadow(&self) -> Result<Directory, ReceiverError> {
        let is_new = self.control.stat_if_present(&names::SHADOW)?.is_none();
        let shadow = self.control.ensure_directory(&names::SHADOW)?;
        if is_new {
            shadow.set_mode(0o755)?;
        }
        Ok(shadow)
    }

    /// Waits for readers that hold the retired twin by a shared lock on it, up to a bound.
    pub(crate) fn wait_for_readers(&self, shadow: &Directory) -> Result<(), ReceiverError> {
        let started = Instant::now();
        let descriptor = shadow.try_clone()?;
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        while rustix::fs::flock(&descriptor, exclusive).is_err() {
            if started.elapsed() > READERS_WAIT {
                tracing::warn!(dataset = %self.name, "a reader holds the retired tree for too long; going on without it");
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Removes everything in staging and trash. What cannot be removed from the trash is in nobody's way there.
    pub(crate) fn clean(&self) -> Result<(), ReceiverError> {
        remove::empty(&self.control.ensure_directory(&names::STAGING)?)?;
        if let Err(error) = remove::empty(&self.control.ensure_directory(&names::TRASH)?) {
            tracing::warn!(dataset = %self.name, "cannot empty the trash: {error}");
        }
        Ok(())
    }

    /// Removes the patches of rows that are none, or that are of a snapshot that both twins show.
    pub(crate) fn clean_patches(
        &self,
        is_needed: impl Fn(u64) -> Result<bool, ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let patches = self.control.ensure_directory(&names::PATCHES)?;
        for name in patches.names()? {
            let id = std::str::from_utf8(name.as_bytes()).ok();
            let id = id.and_then(|text| text.parse().ok());
            if !id.map_or(Ok(false), &is_needed)? {
                patches.remove_file(&name)?;
            }
        }
        Ok(())
    }

    /// Makes the whole file system durable. After a failure no leftover of the store counts.
    pub(crate) fn sync(&self) -> Result<(), ReceiverError> {
        Ok(self.syncs.note(self.control.sync_file_system())?)
    }

    /// Makes the switch of the twins durable.
    pub(crate) fn sync_switch(&self) -> Result<(), ReceiverError> {
        self.directory.sync()?;
        self.control.sync()?;
        Ok(())
    }
}

fn own_name(name: &DatasetName) -> Result<Name, ReceiverError> {
    Name::new(name.as_str()).map_err(|error| ReceiverError::Misbehaved(error.to_string()))
}

/// The receiver's clock, seconds since 1970.
pub(crate) fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
