//! Databases that are loaded on this host from the dumps of its newest snapshots, so that an application can go on with them: what is known of
//! each, who may load at all, and a dump that stays as it is while it is read. Must not know engines, nor how they are asked.
//!
//! ```text
//! STORE/DATASET/.understudy/standby/.lock       held (flock) while somebody loads a database of the dataset, or promotes it
//!                                  /.held       the copy of a dump that is being loaded
//!                                  /NAME.state  what is known of a database
//! ```
//!
//! Nobody loads without the lock, and nobody loads who has not seen, holding it, that this host is the spare and that no promotion is under way.
//! A promotion has the lock from before until after it writes that this host is the main. So nothing is ever loaded over what an application
//! has begun to write to.

mod dump;
mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::FdFlags;
use understudy_protocol::{DatasetName, Name, Position, Role};
use understudy_tree::attributes::drop_default_acl;
use understudy_tree::{Directory, TreeError, content, remove};

use crate::access::existing;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::promote::fence;
use crate::rehearsal::{self, Way};
use crate::space::Reserve;
use crate::store::Store;
use crate::{marker, names, sealed};

pub use dump::Dump;
use dump::{check, gone, open_root};
pub use known::{Begun, Failed, Known, Loaded, Took};

/// What ends the name of a file with what is known of a database.
const STATE: &str = ".state";
/// Far more than a reason and a few numbers take.
const STATE_BYTES: u64 = 4 << 20;
/// So often a dump is copied anew because the next snapshot came meanwhile.
const TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_millis(250);

/// How this host is the spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// In which epoch.
    pub epoch: u64,
    /// The last snapshot of the time in which it was the main, if it was.
    own: Option<u64>,
}

impl Spare {
    /// Whether a main has sent the dump since this host became the spare. What is in snapshots before is older than what an application has
    /// written to the database here.
    pub fn has_been_sent(&self, dump: &Dump) -> bool {
        self.own.is_none_or(|own| dump.position.number > own)
    }
}

/// The right to load databases of a dataset; ends when dropped, and with the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Lets every program that is started from now on have it as well, so that it ends with the last of them.
    pub fn share(&self) -> Result<(), ReceiverError> {
        let shared = rustix::io::fcntl_setfd(&self.file, FdFlags::empty());
        Ok(shared
            .map_err(|error| TreeError::new("share", names::STANDBY_LOCK.as_bytes(), error))?)
    }
}

/// What a promotion has done with the databases of its snapshot.
pub trait Databases: Sync + std::fmt::Debug {
    /// Somebody else is loading; called again and again until that has ended. An error gives the promotion up.
    fn wait(&self, standby: &Standby) -> Result<(), ReceiverError>;

    /// Has every database be as the newest snapshot has it, which stays the newest. An error gives the promotion up.
    fn bring(&self, standby: &Standby, lock: &Lock) -> Result<(), ReceiverError>;
}

/// The databases of one dataset on this host.
#[derive(Debug)]
pub struct Standby {
    dataset: Dataset,
    directory: Directory,
    path: PathBuf,
}

impl Standby {
    /// Opens what is known of the databases of a dataset, which must be there.
    pub fn open(store: &Store, name: &DatasetName) -> Result<Self, ReceiverError> {
        let dataset = existing(store, name)?;
        let directory = dataset.control.ensure_directory(&names::STANDBY)?;
        if directory.stat_if_present(&names::STANDBY_LOCK)?.is_none() {
            directory.set_mode(0o700)?;
            drop_default_acl(&directory)?;
            match directory.create_file(&names::STANDBY_LOCK) {
                // Somebody else has just made it.
                Err(error) if error.errno() != Some(rustix::io::Errno::EXIST) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        let path = store.path().join(name.as_str());
        Ok(Self {
            dataset,
            directory,
            path,
        })
    }

    /// The same; `None` if nobody ever loaded any.
    pub fn existing(store: &Store, name: &DatasetName) -> Result<Option<Self>, ReceiverError> {
        let dataset = existing(store, name)?;
        match dataset.control.stat_if_present(&names::STANDBY)? {
            Some(_) => Self::open(store, name).map(Some),
            None => Ok(None),
        }
    }

    /// The dataset.
    pub fn name(&self) -> &DatasetName {
        &self.dataset.name
    }

    /// Takes the right to load; `None` if somebody else has it.
    pub fn lock(&self) -> Result<Option<Lock>, ReceiverError> {
        let file = self.directory.open_file(&names::STANDBY_LOCK)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                let name = names::STANDBY_LOCK.as_bytes();
                Err(TreeError::new("lock", name, error).into())
            }
        }
    }

    /// How this host is the spare, so that databases may be loaded for as long as the lock is held; `None` if it is not, or if a
    /// promotion is under way, which loads by itself.
    pub fn may_load(&self, _lock: &Lock) -> Result<Option<Spare>, ReceiverError> {
        match self.is_being_promoted() {
            true => Ok(None),
            false => self.spare(),
        }
    }

    /// How this host is the spare; `None` if it is not.
    pub fn spare(&self) -> Result<Option<Spare>, ReceiverError> {
        let standing = self.dataset.standing()?;
        Ok((standing.role == Role::Spare).then_some(Spare {
            epoch: standing.epoch,
            own: standing.snapshot.map(|position| position.number),
        }))
    }

    /// Whether a promotion is under way.
    pub fn is_being_promoted(&self) -> bool {
        fence::look(&self.dataset).is_err()
    }

    /// The snapshot that the live tree shows; `None` if there is none. Costs next to nothing.
    pub fn shown(&self) -> Result<Option<Position>, ReceiverError> {
        let live = self.dataset.live()?;
        Ok(live.as_ref().map(marker::read).transpose()?.flatten())
    }

    /// The number of the newest snapshot, as the catalog says: for moments another one than the live tree shows.
    pub fn head(&self) -> Result<Option<u64>, ReceiverError> {
        let Some(catalog) = self.dataset.read_catalog()? else {
            return Ok(None);
        };
        let head = catalog.head()?;
        Ok(head.map(|head| head.snapshot.position.number))
    }

    /// The dump of a database in the newest snapshot; `None` if that has none.
    pub fn newest(&self, database: &str) -> Result<Option<Dump>, ReceiverError> {
        match self.dataset.read_catalog()? {
            Some(catalog) => dump::newest(&catalog, own(database)?),
            None => Ok(None),
        }
    }

    /// What is known of a database. What cannot be understood is nothing: it is loaded anew then.
    pub fn known(&self, database: &str) -> Result<Known, ReceiverError> {
        match sealed::read(&self.directory, &state_name(database)?, STATE_BYTES) {
            Ok(known) => Ok(known.unwrap_or_default()),
            Err(ReceiverError::Damaged(_)) => Ok(Known::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it down; durable when it returns.
    pub fn note(&self, database: &str, known: &Known, _lock: &Lock) -> Result<(), ReceiverError> {
        sealed::write(&self.directory, &state_name(database)?, known)
    }

    /// What is known of every database.
    pub fn all(&self) -> Result<BTreeMap<String, Known>, ReceiverError> {
        let mut all = BTreeMap::new();
        for name in self.directory.names()? {
            let name = std::str::from_utf8(name.as_bytes()).ok();
            if let Some(database) = name.and_then(|name| name.strip_suffix(STATE)) {
                all.insert(database.to_owned(), self.known(database)?);
            }
        }
        Ok(all)
    }

    /// Forgets every database but these.
    pub fn forget_others(&self, but: &BTreeSet<&str>) -> Result<(), ReceiverError> {
        for database in self.all()?.keys() {
            if !but.contains(database.as_str()) {
                self.directory.remove_file(&state_name(database)?)?;
            }
        }
        Ok(())
    }

    /// Where the live tree has the dump, which is proved to be what the main has sent. Nobody may change the tree meanwhile.
    pub fn live_path(&self, dump: &Dump) -> Result<PathBuf, ReceiverError> {
        let live = self.dataset.live()?.ok_or_else(|| gone(dump))?;
        let root = open_root(&live, dump)?;
        for file in &dump.files {
            let found = root.open_beneath(&file.parent)?.open_file(&file.name)?;
            check(dump, file, &found)?;
        }
        let live = self.path.join(names::LIVE.as_os_str());
        Ok(live
            .join(names::DATABASES.as_os_str())
            .join(dump.database.as_os_str()))
    }

    /// Copies the newest dump of a database to where nobody changes it, and proves it; returns what it is, and where.
    pub fn hold(
        &self,
        store: &Store,
        (database, reserve): (&str, Reserve),
        _lock: &Lock,
    ) -> Result<Option<(Dump, PathBuf)>, ReceiverError> {
        let mut tried = 1;
        loop {
            let Some(dump) = self.newest(database)? else {
                return Ok(None);
            };
            self.make_room(store, &dump, reserve)?;
            match self.copy(&dump) {
                Ok(path) => return Ok(Some((dump, path))),
                // The tree shows another snapshot by now, mostly.
                Err(error) => {
                    let shown = self.shown()?.map(|position| position.number);
                    if tried >= TRIES || shown == Some(dump.position.number) {
                        return Err(error);
                    }
                    tried += 1;
                    std::thread::park_timeout(AGAIN);
                }
            }
        }
    }

    fn make_room(&self, store: &Store, dump: &Dump, reserve: Reserve) -> Result<(), ReceiverError> {
        self.release()?;
        match rehearsal::way(store, self.name(), (&self.directory, dump.bytes), reserve) {
            Ok(Way::Share | Way::Copy) => Ok(()),
            Err(ReceiverError::NoSpace(why)) => Err(ReceiverError::NoSpace(format!(
                "the dump of the database `{}` is copied before it is loaded: {why}",
                dump.database
            ))),
            Err(error) => Err(error),
        }
    }

    /// Removes the copy.
    pub fn release(&self) -> Result<(), ReceiverError> {
        let held = match self.directory.open_directory(&names::STANDBY_HELD) {
            Err(error) if error.is_gone() => return Ok(()),
            held => held?,
        };
        remove::empty(&held)?;
        Ok(self.directory.remove_directory(&names::STANDBY_HELD)?)
    }

    fn copy(&self, dump: &Dump) -> Result<PathBuf, ReceiverError> {
        let live = self.dataset.live()?.ok_or_else(|| gone(dump))?;
        // A commit that takes this tree back waits for a moment, as for every reader.
        let reader = live.try_clone()?;
        if let Err(error) = rustix::fs::flock(&reader, FlockOperation::NonBlockingLockShared) {
            tracing::debug!("the tree is read without a lock: {error}");
        }
        let from = open_root(&live, dump)?;
        self.directory.create_directory(&names::STANDBY_HELD)?;
        let to = self.directory.open_directory(&names::STANDBY_HELD)?;
        for (parent, name) in &dump.directories {
            to.open_beneath(parent)?.create_directory(name)?;
        }
        for file in &dump.files {
            let found = from.open_beneath(&file.parent)?.open_file(&file.name)?;
            let copy = to.open_beneath(&file.parent)?.create_file(&file.name)?;
            content::copy(&found, &copy, file.size)?;
            check(dump, file, &copy)?;
        }
        let place = self.path.join(names::CONTROL.as_os_str());
        let place = place.join(names::STANDBY.as_os_str());
        Ok(place.join(names::STANDBY_HELD.as_os_str()))
    }
}

/// What is wrong with the databases of a dataset, for people; `None` if nothing is.
pub(crate) fn trouble(dataset: &Dataset) -> Result<Option<String>, ReceiverError> {
    let directory = match dataset.control.open_directory(&names::STANDBY) {
        Err(error) if error.is_gone() => return Ok(None),
        directory => directory?,
    };
    for name in directory.names()? {
        if !name.as_bytes().ends_with(STATE.as_bytes()) {
            continue;
        }
        let known: Option<Known> = sealed::read(&directory, &name, STATE_BYTES).unwrap_or(None);
        let failure = known.and_then(|known| known.failure);
        if let Some(failure) = failure.filter(|failure| failure.is_wrong) {
            let shown = name.to_string();
            return Ok(Some(format!(
                "the newest dump of the database `{}` cannot be loaded on the spare, which keeps the one before: {}",
                shown.strip_suffix(STATE).unwrap_or(&shown),
                failure.text
            )));
        }
    }
    Ok(None)
}

fn own(database: &str) -> Result<Name, ReceiverError> {
    Name::new(database).map_err(|error| ReceiverError::NotFound(error.to_string()))
}

fn state_name(database: &str) -> Result<Name, ReceiverError> {
    own(&format!("{database}{STATE}"))
}
