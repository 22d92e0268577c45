//! One dataset of a store: its directories, its lock, its catalog.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use understudy_protocol::{DatasetName, Name};
use understudy_tree::attributes::drop_default_acl;
use understudy_tree::{Directory, Privileges, TreeError, remove};

use crate::catalog::Catalog;
use crate::error::ReceiverError;
use crate::specials;
use crate::store::Store;
use crate::syncs::Syncs;
use crate::{names, space};

/// A reader that holds the retired twin by a shared lock delays the next cycle at most this long.
const READERS_WAIT: Duration = Duration::from_secs(10);
/// How long an upload waits for another one to end before it is refused.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// Whoever may enter the store may pass; the parents that protected the tree on the main are not here.
const DATASET_MODE: u16 = 0o750;

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
    /// The lock, while this holds it in any way.
    own_lock: Mutex<Weak<File>>,
}

/// Keeps every snapshot that there is from being removed; ends when dropped, also by the death of the process.
#[derive(Debug)]
pub(crate) struct Reading {
    _objects: Directory,
}

/// The right to change a dataset; ends when dropped, also by the death of the process.
#[derive(Debug)]
pub(crate) struct Locked {
    _file: Arc<File>,
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
            Ok(opened) => Self::of((path, &own), name, opened, syncs).map(Some),
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
        let control = furnish_control(&directory)?;
        Self::of((path, &own), name, (directory, control), syncs)
    }

    /// Opens what is to become a dataset, and has another name in the store until then.
    pub(crate) fn aside(
        store: &Store,
        own: &Name,
        name: &DatasetName,
    ) -> Result<Self, ReceiverError> {
        let directory = store.directory().open_directory(own)?;
        let control = directory.open_directory(&names::CONTROL)?;
        Self::of(
            (store.path(), own),
            name,
            (directory, control),
            &store.syncs,
        )
    }

    fn of(
        (path, own): (&Path, &Name),
        name: &DatasetName,
        (directory, control): (Directory, Directory),
        syncs: &Arc<Syncs>,
    ) -> Result<Self, ReceiverError> {
        let control_path = path.join(own.as_os_str()).join(names::CONTROL.as_os_str());
        let catalog = control_path.join(names::CATALOG.as_os_str());
        Ok(Self {
            name: name.clone(),
            directory,
            privileges: Privileges::current().with(specials::of(&control)?),
            control,
            syncs: Arc::clone(syncs),
            catalog,
            own_lock: Mutex::default(),
        })
    }

    /// Takes the right to change the dataset, or says that somebody else has it.
    pub(crate) fn lock(&self) -> Result<Locked, ReceiverError> {
        let file = self.control.open_file(&names::LOCK)?;
        match file.try_lock() {
            Ok(()) => Ok(Locked {
                _file: self.own(file),
            }),
            Err(error) => Err(self.not_locked(error)),
        }
    }

    /// Keeps everybody from changing the dataset, beside others that do the same; what is locked for a change already stays so.
    fn lock_shared(&self) -> Result<Arc<File>, ReceiverError> {
        let own = self.own_lock.lock();
        if let Some(file) = own.unwrap_or_else(PoisonError::into_inner).upgrade() {
            return Ok(file);
        }
        let file = self.control.open_file(&names::LOCK)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(self.own(file)),
            Err(error) => Err(self.not_locked(error)),
        }
    }

    fn own(&self, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let own = self.own_lock.lock();
        *own.unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&file);
        file
    }

    fn not_locked(&self, error: TryLockError) -> ReceiverError {
        match error {
            TryLockError::WouldBlock => ReceiverError::Busy(self.name.clone()),
            TryLockError::Error(error) => {
                TreeError::new("lock", names::LOCK.as_bytes(), error).into()
            }
        }
    }

    /// Whether this holds the lock, be it only to read.
    pub(crate) fn holds_lock(&self) -> bool {
        let own = self.own_lock.lock();
        own.unwrap_or_else(PoisonError::into_inner).strong_count() > 0
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
        let file = self.control.open_file(&names::LOCK);
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
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

    /// As [`Self::read_catalog`], for what must be possible: `ballast` is given up where a full disk leaves no other way.
    pub(crate) fn read_catalog_surely(&self) -> Result<Option<Catalog>, ReceiverError> {
        match self.read_catalog() {
            Err(ReceiverError::Catalog { .. } | ReceiverError::NoSpace(_)) if self.is_full() => {
                self.drop_ballast()?;
                self.read_catalog()
            }
            read => read,
        }
    }

    /// Opens a catalog, for which SQLite needs a little room, on a full disk as well, if nobody writes to it.
    fn with_room(
        &self,
        open: impl Fn() -> Result<Catalog, ReceiverError>,
    ) -> Result<Catalog, ReceiverError> {
        match open() {
            Err(error @ (ReceiverError::Catalog { .. } | ReceiverError::NoSpace(_)))
                if self.is_full() =>
            {
                self.read_unchanging()?.ok_or(error)
            }
            opened => opened,
        }
    }

    /// Opens the catalog as it stands, and keeps everybody from changing it; `None` if its log has something that is not in it yet.
    fn read_unchanging(&self) -> Result<Option<Catalog>, ReceiverError> {
        let lock = self.lock_shared().map_err(|error| match error {
            ReceiverError::Busy(name) => ReceiverError::NoSpace(format!(
                "no space is left to read the catalog of dataset `{name}` while somebody works on it"
            )),
            error => error,
        })?;
        let log = self.control.stat_if_present(&names::CATALOG_LOG)?;
        if log.is_some_and(|log| log.size > 0) {
            return Ok(None);
        }
        Catalog::open_unchanging(&self.catalog, lock).map(Some)
    }

    /// Whether next to nothing is free on its disk. Whoever reads the catalog then may keep everybody from changing it.
    pub(crate) fn is_full(&self) -> bool {
        space::is_full(&self.control)
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

/// Makes what belongs into a new dataset; returns the directory with everything but the live tree.
pub(crate) fn furnish(directory: &Directory) -> Result<Directory, ReceiverError> {
    directory.set_mode(DATASET_MODE)?;
    furnish_control(directory)
}

fn furnish_control(directory: &Directory) -> Result<Directory, ReceiverError> {
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
    Ok(control)
}

/// The name of a dataset's directory.
pub(crate) fn own_name(name: &DatasetName) -> Result<Name, ReceiverError> {
    Name::new(name.as_str()).map_err(|error| ReceiverError::Misbehaved(error.to_string()))
}

/// The receiver's clock, seconds since 1970.
pub(crate) fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second() + understudy_tree::crash::skew_seconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_catalog_as_it_stands_keeps_everybody_from_changing_it() {
        let place = tempfile::tempdir().expect("directory");
        let store = Directory::open(place.path(), understudy_tree::Mounts::Stay).expect("store");
        let name = DatasetName::new("site").expect("name");
        let syncs = Arc::new(Syncs::default());
        let open = || Dataset::ensure(&store, place.path(), &name, &syncs).expect("dataset");
        let (ours, other) = (open(), open());
        drop(ours.catalog(&ours.lock().expect("lock")).expect("catalog"));
        let read = || ours.read_unchanging().expect("read").expect("no log");
        let catalogs = [read(), read()];
        let theirs = other.read_unchanging().expect("read").expect("no log");
        let [first, second] = catalogs;
        drop((first, theirs));
        assert!(matches!(other.lock(), Err(ReceiverError::Busy(_))));
        assert!(ours.holds_lock() && !other.holds_lock() && !other.is_locked());
        drop(second);
        let locked = other.lock().expect("lock");
        assert!(ours.is_locked());
        let refused = ours.read_unchanging();
        assert!(matches!(refused, Err(ReceiverError::NoSpace(_))));
        // Whoever has the right to change it reads under that.
        let own = other.read_unchanging().expect("read").expect("no log");
        drop(locked);
        assert!(matches!(ours.lock(), Err(ReceiverError::Busy(_))));
        drop(own);
        ours.lock().expect("lock");
    }
}
