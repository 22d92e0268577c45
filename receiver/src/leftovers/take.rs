//! Taking leftovers: finding the file of a content, and looking at it once more.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use understudy_protocol::message::StreamResume;
use understudy_protocol::{ContentHash, DirectoryId, Name};
use understudy_tree::content::{self, Extents, HoleyHasher};
use understudy_tree::{Directory, Kind, Stat};

use super::{Item, Leftovers, Partial, is_sound, key};
use crate::error::ReceiverError;
use crate::ledger::{Fortune, Record, Spot};
use crate::names;

/// Opens the directories of staged files, and keeps the one used last.
#[derive(Default)]
pub(super) struct Spots {
    open: Option<(Folder, Arc<Directory>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folder {
    Shelf(u64),
    Incoming(DirectoryId),
    Streams,
}

impl Spots {
    /// The directory and name of a staged file; `None` if there is no such directory.
    fn find(
        &mut self,
        staging: &Directory,
        spot: &Spot,
    ) -> Result<Option<(Arc<Directory>, Name)>, ReceiverError> {
        let (folder, name) = match spot {
            Spot::Shelf(id) => (
                Folder::Shelf(id / crate::shelves::SHELF),
                names::number(*id),
            ),
            Spot::Incoming(id, name) => (Folder::Incoming(DirectoryId(*id)), name.clone()),
            Spot::Stream(stream) => (Folder::Streams, names::number(*stream)),
        };
        if let Some((open, directory)) = &self.open
            && *open == folder
        {
            return Ok(Some((Arc::clone(directory), name)));
        }
        let opened = match folder {
            Folder::Shelf(shelf) => staging.open_directory(&names::number(shelf)),
            Folder::Incoming(id) => staging
                .open_directory(&names::INCOMING)
                .and_then(|incoming| incoming.open_directory(&names::number(id.0))),
            Folder::Streams => staging.open_directory(&names::STREAMS),
        };
        let directory = match opened {
            Ok(directory) => Arc::new(directory),
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.open = Some((folder, Arc::clone(&directory)));
        Ok(Some((directory, name)))
    }

    /// What is at a spot; `None` if nothing is.
    pub(super) fn stat(
        &mut self,
        staging: &Directory,
        spot: &Spot,
    ) -> Result<Option<Stat>, ReceiverError> {
        match self.find(staging, spot)? {
            Some((directory, name)) => Ok(directory.stat_if_present(&name)?),
            None => Ok(None),
        }
    }
}

impl Leftovers {
    /// An item that was not given out before.
    fn next(&self, size: u64, key: &super::Key) -> Option<&Item> {
        let first = self.items.partition_point(|item| item.key < *key);
        let number = self.given.get(first)?.fetch_add(1, Ordering::Relaxed);
        let item = self.items.get(first + number as usize)?;
        (item.key == *key && item.size == size).then_some(item)
    }

    pub(super) fn partials(&self) -> MutexGuard<'_, Vec<Partial>> {
        // A list is whole after any panic.
        self.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the file of a partial to `name` in `to`, and reads it again: the file with its first bytes and nothing
    /// else, and the hasher that has taken them.
    pub(crate) fn take_partial(
        &self,
        resume: &StreamResume,
        to: &Directory,
        name: &Name,
    ) -> Result<(File, HoleyHasher), ReceiverError> {
        self.are_used.store(true, Ordering::Relaxed);
        self.carry_on(resume, to, name).map_err(bad)
    }

    fn carry_on(
        &self,
        resume: &StreamResume,
        to: &Directory,
        name: &Name,
    ) -> Result<(File, HoleyHasher), ReceiverError> {
        let (length, hash) = (resume.length, resume.hash);
        let gone = || {
            ReceiverError::BadLeftover(format!(
                "the first {length} bytes of stream {} are not left over",
                resume.stream
            ))
        };
        let partial = {
            let mut partials = self.partials();
            let is_it = |partial: &Partial| partial.length == length && partial.hash == hash;
            let index = partials.iter().position(is_it).ok_or_else(gone)?;
            partials.swap_remove(index)
        };
        let generation = &self.generations[partial.generation];
        let spot = Spot::Stream(partial.stream);
        let found = Spots::default().find(&generation.directory, &spot)?;
        let (streams, former) = found.ok_or_else(gone)?;
        let stat = streams.stat_if_present(&former)?;
        if !stat.is_some_and(|stat| is_sound(&stat)) {
            return Err(gone());
        }
        streams.rename_new(&former, to, name)?;
        let file = to.open_file_to_change(name)?;
        // More may have been written than was told.
        content::set_size(&file, length)?;
        let mut hasher = HoleyHasher::default();
        content::read_stretch(&file, &mut Extents::default(), 0..length, |offset, data| {
            hasher.update(offset, data);
            Ok(())
        })?;
        hasher.zeros_until(length);
        if hasher.clone().finish(length) != hash {
            return Err(gone());
        }
        Ok((file, hasher))
    }
}

/// What cannot be read is no leftover: the next upload must not meet it again.
fn bad(error: ReceiverError) -> ReceiverError {
    match error {
        ReceiverError::Tree(error) => ReceiverError::BadLeftover(format!(
            "what an interrupted upload left cannot be used: {error}"
        )),
        other => other,
    }
}

/// Where a leftover is.
pub(crate) struct Found {
    pub(crate) directory: Arc<Directory>,
    pub(crate) name: Name,
    /// Whether a held cycle needs it as it is.
    pub(crate) must_stay: bool,
}

/// Takes whole contents for one worker.
pub(crate) struct Taker<'a> {
    leftovers: &'a Leftovers,
    /// Of one generation.
    spots: (usize, Spots),
}

impl<'a> Taker<'a> {
    pub(crate) fn new(leftovers: &'a Leftovers) -> Self {
        Self {
            leftovers,
            spots: (0, Spots::default()),
        }
    }

    /// Where a file with this content is that nobody took yet.
    pub(crate) fn find(&mut self, size: u64, hash: ContentHash) -> Result<Found, ReceiverError> {
        self.leftovers.are_used.store(true, Ordering::Relaxed);
        let key = key(&hash);
        while let Some(item) = self.leftovers.next(size, &key) {
            if let Some(found) = self.look(item, size, hash).map_err(bad)? {
                return Ok(found);
            }
        }
        Err(ReceiverError::BadLeftover(format!(
            "a content of {size} bytes with the hash {hash} is not left over, or no longer"
        )))
    }

    fn look(
        &mut self,
        item: &Item,
        size: u64,
        hash: ContentHash,
    ) -> Result<Option<Found>, ReceiverError> {
        let generation = &self.leftovers.generations[item.generation];
        let told = match generation.ledger.read(item.offset)? {
            Some(Record::Staged { hash, size, spot }) => Some((hash, size, spot)),
            Some(Record::Ended { stream, hash, size }) => Some((hash, size, Spot::Stream(stream))),
            _ => None,
        };
        let Some((_, _, spot)) = told.filter(|told| (told.0, told.1) == (hash, size)) else {
            return Ok(None);
        };
        if self.spots.0 != item.generation {
            self.spots = (item.generation, Spots::default());
        }
        let Some((directory, name)) = self.spots.1.find(&generation.directory, &spot)? else {
            return Ok(None);
        };
        let stat = directory.stat_if_present(&name)?;
        let must_stay = generation.name.is_none();
        let is_sound = |stat: &Stat| must_stay && stat.kind == Kind::File || is_sound(stat);
        if !stat.is_some_and(|stat| is_sound(&stat) && stat.size == size) {
            return Ok(None);
        }
        // What nothing has happened to is what was verified when it was written. Anything else is read again.
        if generation.ledger.fortune != Fortune::Kept
            && content::hash_file(&directory.open_file(&name)?, size)? != hash
        {
            return Ok(None);
        }
        Ok(Some(Found {
            directory,
            name,
            must_stay,
        }))
    }
}
