//! SQLite databases among the files.
//!
//! One in use is not read as a file: a state of it is taken, as one file, with what stands in its log, and the files beside it are left out. When it
//! changed last is when any of them did. Of one that nobody has open, and that stood still while it was read, the file is the state.
//!
//! Rows may speak of files, so a database goes before the files as one that is dumped does: those that changed are taken before anything is
//! looked at, after a cycle in which the files alone were shipped. Which files are databases is known from the cycle that read them; one that is
//! met for the first time is taken on the way.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_databases::sqlite::{self, ImageError};
use understudy_protocol::{DirectoryId, Name, Place, Timestamp};
use understudy_tree::{Directory, Kind, Stat, TreeError};

use super::visit::Open;
use super::worker::Worker;
use super::{Folder, Spot, Start, Trust};
use crate::clock;
use crate::dumps::Staying;
use crate::error::AgentError;
use crate::images::{Imaged, Images, Sqlite, Which};
use crate::index::{Index, Reason};

/// Of a database these change as well.
const OTHERS: [&str; 2] = ["-wal", "-journal"];
/// A database that was written to within so many seconds before the scan is in use.
const RECENT_SECONDS: i64 = 60;
/// For so many seconds nobody has written to a database that is read as a file.
const REST_SECONDS: i64 = 2;
/// More are not taken beforehand, but on the way: their copies would fill the disk of the main.
const PREPARED: usize = 1000;

/// Whether databases that changed are taken, or the files go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The files, if any database changed.
    Whichever,
    /// The files.
    Files,
    /// The databases.
    Databases,
    /// The databases, while nobody writes: nothing stays for their sake.
    Still,
}

/// A database that was taken before anything was looked at.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What was seen before.
    pub(super) stat: Stat,
    /// When that began.
    pub(super) looked: Timestamp,
    pub(super) imaged: Result<Imaged, ImageError>,
}

/// What a scan knows of databases among the files.
#[derive(Debug, Default)]
pub(super) struct Databases {
    taking: Option<(Arc<dyn Images>, std::time::Duration)>,
    /// Those of the base.
    known: HashMap<DirectoryId, HashSet<Name>>,
    /// What was read in this scan: whether it is a database.
    read: Mutex<HashMap<Place, bool>>,
    /// Whether any was found.
    has_found: AtomicBool,
    /// Those that changed and stay as the spare has them.
    left: HashSet<Place>,
    prepared: Mutex<HashMap<Place, Prepared>>,
    /// Those that changed and were too many to be taken beforehand.
    late: HashSet<Place>,
    /// What stays for their sake.
    pub(super) staying: Option<Staying>,
    /// When the scan began.
    began: Option<Timestamp>,
    /// Whether one that is in use was met for the first time.
    has_met: AtomicBool,
}

impl Databases {
    /// Looks at the databases of the base, and takes those that changed, if it is their turn.
    pub(super) fn begin(start: &Start<'_>, turn: Turn) -> Result<Self, AgentError> {
        let Sqlite::Capture { max_lock } = start.source.sqlite else {
            return Ok(Self::default());
        };
        let Some(images) = &start.context.images else {
            return Ok(Self::default());
        };
        let now = clock::now();
        let mut databases = Self {
            taking: Some((Arc::clone(images), max_lock)),
            began: Some(now),
            ..Self::default()
        };
        let mut changed = Vec::new();
        for place in known(start.index)? {
            let names = databases.known.entry(place.parent).or_default();
            names.insert(place.name.clone());
            changed.extend(changed_stat(start, place)?);
        }
        let is_turn_of_files = match turn {
            Turn::Whichever => !changed.is_empty(),
            Turn::Files => true,
            Turn::Databases | Turn::Still => false,
        };
        if is_turn_of_files {
            databases.staying = Some(Staying::Everything);
            databases.left = changed.into_iter().map(|(place, ..)| place).collect();
            return Ok(databases);
        }
        if !databases.known.is_empty() && turn != Turn::Still {
            databases.staying = Some(Staying::Since(now));
        }
        let looked = start.frozen.map_or(now, |frozen| frozen.at.min(now));
        let mut changed = changed.into_iter();
        for (place, folder, stat) in changed.by_ref().take(PREPARED) {
            start.context.cancel.check()?;
            let which = Which {
                root: &start.source.path,
                directory: &folder.path,
                name: &place.name,
            };
            let imaged = images.take(which, max_lock);
            start.context.cancel.check()?;
            databases.prepared().insert(
                place,
                Prepared {
                    stat,
                    looked,
                    imaged,
                },
            );
        }
        databases.late = changed.map(|(place, ..)| place).collect();
        Ok(databases)
    }

    /// Whether files may be databases at all.
    pub(super) fn are_taken(&self) -> bool {
        self.taking.is_some()
    }

    /// Whether a file is a database, as far as that is known.
    fn has(&self, directory: DirectoryId, name: &Name) -> bool {
        if self.has_found.load(Ordering::Relaxed) {
            let place = Place::new(directory, name.clone());
            if let Some(is_one) = self.read().get(&place) {
                return *is_one;
            }
        }
        let known = self.known.get(&directory);
        known.is_some_and(|names| names.contains(name))
    }

    /// Whether a database stays as the spare has it: it is not its turn, or it changed after that had begun.
    pub(super) fn leaves(&self, place: &Place, trust: Trust) -> bool {
        if self.left.contains(place) {
            return true;
        }
        let known = self.known.get(&place.parent);
        let is_known = known.is_some_and(|names| names.contains(&place.name));
        let is_late = trust == Trust::Times
            && is_known
            && !self.late.contains(place)
            && !self.prepared().contains_key(place)
            && self.read().get(place).is_none();
        if is_late {
            self.has_met.store(true, Ordering::Relaxed);
        }
        is_late
    }

    /// Whether another cycle is to follow at once, with the databases.
    pub(super) fn are_waiting(&self) -> bool {
        !self.left.is_empty() || self.has_met.load(Ordering::Relaxed)
    }

    /// Those that every cycle looks at from now on.
    pub(super) fn all(&self) -> Vec<Spot> {
        let read = self.read();
        let known = self.known.iter().flat_map(|(directory, names)| {
            let names = names.iter().cloned();
            names.map(|name| Place::new(*directory, name))
        });
        let known = known.filter(|place| read.get(place) != Some(&false));
        let found = read.iter().filter(|(_, is_one)| **is_one);
        let found = found.map(|(place, _)| place.clone());
        let all: HashSet<Place> = known.chain(found).collect();
        let spot = |place: Place| Spot {
            directory: place.parent,
            name: Some(place.name),
        };
        all.into_iter().map(spot).collect()
    }

    fn note(&self, place: Place, is_one: bool) {
        self.has_found.store(true, Ordering::Relaxed);
        self.read().insert(place, is_one);
    }

    fn is_in_use(&self, changed: Timestamp) -> bool {
        let began = self.began.map_or(i64::MAX, |began| began.seconds);
        changed.seconds.saturating_add(RECENT_SECONDS) >= began
    }

    fn read(&self) -> MutexGuard<'_, HashMap<Place, bool>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepared(&self) -> MutexGuard<'_, HashMap<Place, Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The databases of the base.
fn known(index: &Index) -> Result<Vec<Place>, AgentError> {
    let attended = index.attention()?.into_iter();
    let known = attended.filter(|one| one.reason == Reason::Sqlite);
    Ok(known
        .filter_map(|one| Some(Place::new(one.directory, one.name?)))
        .collect())
}

/// A database of the base if it may have changed, with its directory and what is seen now. What cannot be looked at is for the scan.
fn changed_stat(
    start: &Start<'_>,
    place: Place,
) -> Result<Option<(Place, Folder, Stat)>, AgentError> {
    let Some(path) = start.index.pending_path(place.parent)? else {
        return Ok(None);
    };
    let seen = start.root.open_beneath(&path).and_then(|directory| {
        let stat = directory.stat(&place.name)?;
        with_others(&directory, &place.name, stat)
    });
    let Ok(stat) = seen else {
        return Ok(None);
    };
    let known = start.index.pending_at(&place)?;
    let proof = known.and_then(|known| known.seen);
    if stat.kind != Kind::File || proof.is_some_and(|seen| seen.proves(&stat)) {
        return Ok(None);
    }
    let folder = Folder {
        path,
        id: place.parent,
        depth: 0,
    };
    Ok(Some((place, folder, stat)))
}

/// What is seen of a database as a whole: it changed when any of its files did.
fn with_others(directory: &Directory, name: &Name, stat: Stat) -> Result<Stat, TreeError> {
    let mut whole = stat;
    for end in OTHERS {
        if let Some(other) = other(directory, name, end)? {
            whole.changed = whole.changed.max(other.changed);
            whole.modified = whole.modified.max(other.modified);
        }
    }
    Ok(whole)
}

fn other(directory: &Directory, name: &Name, end: &str) -> Result<Option<Stat>, TreeError> {
    match Name::new([name.as_bytes(), end.as_bytes()].concat()) {
        Ok(name) => directory.stat_if_present(&name),
        // Nothing can be called so.
        Err(_) => Ok(None),
    }
}

/// How a file is read.
pub(super) enum Manner {
    /// As any other.
    Plain,
    /// It is a database that nobody seems to work with: as any other, once.
    Resting(Stat),
    /// It is a database of which a state was taken, or could not be.
    Taken(Prepared),
}

impl Worker<'_> {
    /// Whether a file belongs to a database beside it.
    pub(super) fn is_companion(&self, open: &Open<'_>, name: &Name, stat: &Stat) -> bool {
        let databases = &self.scan.databases;
        databases.are_taken()
            && stat.kind == Kind::File
            && owner_of(name).is_some_and(|owner| databases.has(open.folder.id, &owner))
            && looks_like_companion(open.directory, name)
    }

    /// Reads a database of which nobody knew that it is one, for what belongs to it is met: it may be as it was when it was sent as a file.
    pub(super) fn take_up_owner(
        &mut self,
        open: &mut Open<'_>,
        name: &Name,
    ) -> Result<(), AgentError> {
        let databases = &self.scan.databases;
        let Some(owner) = owner_of(name).filter(|_| databases.are_taken()) else {
            return Ok(());
        };
        let place = open.folder.place(&owner);
        let is_read = self.scan.databases.read().contains_key(&place);
        if is_read
            || databases.has(open.folder.id, &owner)
            || !looks_like_companion(open.directory, name)
        {
            return Ok(());
        }
        let file = open.directory.open_file(&owner).ok();
        let stat = open.directory.stat(&owner).ok();
        let (Some(file), Some(stat)) = (file, stat) else {
            return Ok(());
        };
        let known = self.base.at(&place)?;
        match known {
            Some(known) if stat.kind == Kind::File && is_database(&file, &stat) => {
                self.settle(open, owner, &stat, Some(known))
            }
            _ => Ok(()),
        }
    }

    /// What is seen of a name, if it is a database with all that belongs to it.
    pub(super) fn seen_whole(
        &self,
        open: &Open<'_>,
        name: &Name,
        stat: Stat,
    ) -> Result<Stat, TreeError> {
        let databases = &self.scan.databases;
        let is_one =
            stat.kind == Kind::File && databases.are_taken() && databases.has(open.folder.id, name);
        match is_one {
            true => with_others(open.directory, name, stat),
            false => Ok(stat),
        }
    }

    /// How an open file is read; what is taken is taken now.
    pub(super) fn manner(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        (file, stat): (&File, &Stat),
    ) -> Result<Manner, AgentError> {
        let databases = &self.scan.databases;
        if !databases.are_taken() {
            return Ok(Manner::Plain);
        }
        let place = open.folder.place(name);
        if !is_database(file, stat) {
            if databases.has(open.folder.id, name) {
                databases.note(place, false);
            }
            return Ok(Manner::Plain);
        }
        let prepared = databases.prepared().remove(&place);
        if let Some(prepared) = prepared {
            self.note_taken(place, &prepared);
            return Ok(Manner::Taken(prepared));
        }
        let looked = self.scan.now();
        let whole = with_others(open.directory, name, stat.clone())?;
        let is_new = !databases.has(open.folder.id, name);
        let has_others = self.has_others(open, name)?;
        let is_used = has_others || databases.is_in_use(whole.changed);
        if is_new && is_used {
            databases.has_met.store(true, Ordering::Relaxed);
        }
        if !has_others && is_resting(whole.changed) && !is_locked(file) {
            databases.note(place, true);
            return Ok(Manner::Resting(whole));
        }
        let taken = self.take_database(open, name, (whole, looked));
        taken.map(Manner::Taken)
    }

    /// What is seen of a resting database after it was read.
    pub(super) fn seen_after(
        &self,
        open: &Open<'_>,
        name: &Name,
        stat: Stat,
    ) -> Result<Stat, TreeError> {
        with_others(open.directory, name, stat)
    }

    fn has_others(&self, open: &Open<'_>, name: &Name) -> Result<bool, TreeError> {
        for end in OTHERS {
            if other(open.directory, name, end)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a database of which `stat` was seen before, at `looked` or later.
    pub(super) fn take_database(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        (stat, looked): (Stat, Timestamp),
    ) -> Result<Prepared, AgentError> {
        let Some((images, max_lock)) = &self.scan.databases.taking else {
            let imaged = Err(ImageError::Gone);
            return Ok(Prepared {
                stat,
                looked,
                imaged,
            });
        };
        let which = Which {
            root: &self.scan.source.path,
            directory: &open.folder.path,
            name,
        };
        let imaged = images.take(which, *max_lock);
        self.scan.context.cancel.check()?;
        let prepared = Prepared {
            stat,
            looked,
            imaged,
        };
        self.note_taken(open.folder.place(name), &prepared);
        Ok(prepared)
    }

    fn note_taken(&mut self, place: Place, prepared: &Prepared) {
        match &prepared.imaged {
            Ok(imaged) => {
                let waited = imaged.image.writers_waited;
                let tally = &mut self.findings.tally;
                tally.images += 1;
                tally.longest_lock = tally.longest_lock.max(waited);
                self.scan.databases.note(place, true);
            }
            // What is with it belongs to it all the same.
            Err(ImageError::Busy(_) | ImageError::Failed(_)) => {
                self.scan.databases.note(place, true);
            }
            Err(ImageError::Damaged(_)) => self.scan.databases.note(place, false),
            Err(ImageError::Gone) => {}
        }
    }
}

fn owner_of(name: &Name) -> Option<Name> {
    sqlite::owner_of(name.as_bytes()).and_then(|owner| Name::new(owner).ok())
}

/// Whatever is called like a companion and is none is somebody's file.
fn looks_like_companion(directory: &Directory, name: &Name) -> bool {
    let mut begin = [0; 8];
    let Ok(file) = directory.open_file(name) else {
        return false;
    };
    let read = file.read_at(&mut begin, 0);
    read.is_ok_and(|read| sqlite::is_companion(name.as_bytes(), &begin[..read]))
}

/// Whether somebody works with a database, as far as anybody can say.
pub(super) fn is_locked(file: &File) -> bool {
    sqlite::is_locked(file).unwrap_or(true)
}

/// Whether nobody has written to a database for a while.
fn is_resting(changed: Timestamp) -> bool {
    let rest = changed.seconds.saturating_add(REST_SECONDS);
    rest < clock::now().seconds
}

fn is_database(file: &File, stat: &Stat) -> bool {
    let mut header = [0; sqlite::HEADER_BYTES];
    // The smallest one is a page.
    stat.size >= 512 && file.read_exact_at(&mut header, 0).is_ok() && sqlite::is_database(&header)
}
