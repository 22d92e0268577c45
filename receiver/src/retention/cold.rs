//! Compressing what has gone cold in history.
//!
//! A content is looked at once, when it has been in history for as long as the policy says. It is compressed beside, read back and
//! compared; only when that is durable, the original goes. Whoever looks for a content finds one of the two at any moment.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use understudy_protocol::{ContentHash, DatasetName, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Stat, TreeError, content, crash_point, remove};

use super::prune::datasets;
use super::{Moment, Policies};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::{Form, Objects};
use crate::names;
use crate::packing;
use crate::space::Reserve;
use crate::store::Store;

/// How often a dataset is looked at.
const PASS_SECONDS: i64 = 24 * 60 * 60;
/// Nothing shorter is worth a look: it takes a block of the file system in any case.
const LEAST_BYTES: u64 = 4097;
/// Originals of one batch, whichever limit is met first.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_OBJECTS: usize = 256;
/// How long somebody else may work on the dataset.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What a pass did to one dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Contents that are compressed now.
    pub objects: u64,
    /// What they took on the disk.
    pub bytes_before: u64,
    /// What they take now.
    pub bytes_after: u64,
}

/// Compresses what has gone cold in every dataset, at most once a day, and calls `tell` with what came of it. Trouble in one is
/// its own. What would take from the reserve meanwhile is left for later.
pub fn compress_all(
    store: &Store,
    (policies, reserve): (&Policies, Reserve),
    moment: &Moment,
    mut tell: impl FnMut(&DatasetName, Result<Compressed, ReceiverError>),
) -> Result<(), ReceiverError> {
    for name in datasets(store)? {
        let compressed = store.dataset(&name).and_then(|dataset| match dataset {
            Some(dataset) => {
                let after = policies.of(&name).compress_after;
                compress(store, (&dataset, reserve), after, moment)
            }
            None => Ok(Compressed::default()),
        });
        tell(&name, compressed);
    }
    Ok(())
}

fn compress(
    store: &Store,
    (dataset, reserve): (&Dataset, Reserve),
    after: Duration,
    moment: &Moment,
) -> Result<Compressed, ReceiverError> {
    let control = &dataset.control;
    let until = moment.seconds.saturating_sub(seconds(after));
    // One from the future was written by a clock that was wrong, or under another policy.
    let since = last_pass(control)?.filter(|since| *since <= until);
    if after.is_zero() || since.is_some_and(|since| until - since < PASS_SECONDS) {
        return Ok(Compressed::default());
    }
    let place = control.ensure_directory(&names::COMPRESSING)?;
    // The lock ends with the descriptor. Whoever has it is still at it, in this process or another.
    match flock(&place, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(Compressed::default()),
        locked => locked.map_err(|error| TreeError::new("lock", b"compressing", error))?,
    }
    remove::empty(&place)?;
    let objects = Objects::open(control)?;
    let mut batch = Batch {
        store,
        dataset,
        reserve,
        is_short: false,
        place,
        packed: Vec::new(),
        bytes: 0,
        done: Compressed::default(),
    };
    let is_due = |stat: &Stat| {
        let changed = stat.changed.seconds;
        changed <= until && since.is_none_or(|since| changed > since)
    };
    let mut last = None;
    while let Some(shelf) = objects.shelf_after(last.as_ref())? {
        // What cannot be read is found by a verification; what comes behind it is compressed all the same.
        match objects.files_after(&shelf, None) {
            Ok(files) => files.iter().try_for_each(|(name, promised, shelf)| {
                batch.look(*promised, (&**shelf, name), is_due)
            })?,
            Err(error) => unread(dataset, &shelf, &error),
        }
        last = Some(shelf);
    }
    batch.put_in_place()?;
    if batch.is_short {
        // What there was no room for is looked at again.
        return Ok(batch.done);
    }
    let text = format!("{until}\n");
    durable::replace(control, &names::COLD, text.as_bytes(), Durability::Later)?;
    Ok(batch.done)
}

/// Compresses a content; whether that gains something, and leads back to it. One that is damaged is a verification's business.
fn pack(
    original: &File,
    (size, hash): (u64, ContentHash),
    to: &File,
) -> Result<bool, ReceiverError> {
    if packing::pack(original, size, to)? != hash || !packing::is_gain(size, content::size(to)?) {
        return Ok(false);
    }
    Ok(packing::hash(to)? == (size, hash))
}

/// The end of what earlier passes looked at. What cannot be read is looked at again.
fn last_pass(control: &Directory) -> Result<Option<i64>, ReceiverError> {
    let text = durable::read(control, &names::COLD, 64)?;
    Ok(text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
}

/// A file with further names would take its space all the same, and holes take none.
fn is_worth_a_look(stat: &Stat) -> bool {
    stat.size >= LEAST_BYTES && stat.links == 1 && stat.allocated >= stat.size / 2
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn unread(dataset: &Dataset, name: &Name, error: &ReceiverError) {
    tracing::warn!(dataset = %dataset.name, "`{name}` of history is not compressed: {error}");
}

/// Objects that are compressed, and are to be put in place together.
struct Batch<'a> {
    store: &'a Store,
    dataset: &'a Dataset,
    reserve: Reserve,
    /// Whether there was no room for one.
    is_short: bool,
    /// Where compressed files wait, named by the hashes of their contents. Nobody else changes it: it is locked.
    place: Directory,
    packed: Vec<Packed>,
    /// Of their originals.
    bytes: u64,
    done: Compressed,
}

struct Packed {
    shelf: Directory,
    name: Name,
    waiting: Name,
    /// The original.
    stat: Stat,
    bytes_after: u64,
}

impl Batch<'_> {
    /// Compresses a file of history if it is due, and worth it.
    fn look(
        &mut self,
        promised: Option<(ContentHash, Form)>,
        (shelf, name): (&Directory, &Name),
        is_due: impl Fn(&Stat) -> bool,
    ) -> Result<(), ReceiverError> {
        let Some((hash, Form::Whole)) = promised else {
            return Ok(());
        };
        match shelf.stat_if_present(name) {
            Ok(Some(stat)) if is_due(&stat) && is_worth_a_look(&stat) => {
                self.add(hash, shelf, name, stat)
            }
            Ok(_) => Ok(()),
            Err(error) => {
                unread(self.dataset, name, &error.into());
                Ok(())
            }
        }
    }

    /// Compresses an object, if there is room for it and it can be read.
    fn add(
        &mut self,
        hash: ContentHash,
        shelf: &Directory,
        name: &Name,
        stat: Stat,
    ) -> Result<(), ReceiverError> {
        if !self.reserve.has_room_for(&self.place, stat.size)? {
            self.is_short = true;
            return Ok(());
        }
        let waiting = names::hash(hash);
        match self.pack((stat.size, hash), (shelf, name), &waiting) {
            Ok(None) => {}
            Ok(Some(bytes_after)) => {
                self.bytes += stat.size;
                self.packed.push(Packed {
                    shelf: shelf.try_clone()?,
                    name: name.clone(),
                    waiting,
                    stat,
                    bytes_after,
                });
            }
            Err(ReceiverError::NoSpace(_)) => self.is_short = true,
            Err(error @ (ReceiverError::Tree(_) | ReceiverError::Damaged(_))) => {
                unread(self.dataset, name, &error);
            }
            Err(error) => return Err(error),
        }
        if self.bytes >= BATCH_BYTES || self.packed.len() >= BATCH_OBJECTS {
            self.put_in_place()?;
        }
        Ok(())
    }

    /// Compresses an object into a file that waits; what that takes on the disk, `None` if it is not worth it. Otherwise nothing
    /// is left there.
    fn pack(
        &self,
        (size, hash): (u64, ContentHash),
        (shelf, name): (&Directory, &Name),
        waiting: &Name,
    ) -> Result<Option<u64>, ReceiverError> {
        let original = match shelf.open_file(name) {
            Err(error) if error.is_gone() => return Ok(None),
            original => original?,
        };
        content::drop_cache(&original);
        let mut packed = Ok(None);
        if packing::promises_gain(&original)? {
            let file = self.place.create_file(waiting)?;
            packed = match pack(&original, (size, hash), &file) {
                Ok(true) => Ok(Some(self.place.stat(waiting)?.allocated)),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            if !matches!(packed, Ok(Some(_))) {
                self.place.remove_file(waiting)?;
            }
        }
        content::drop_cache(&original);
        packed
    }

    /// Makes what is compressed durable, and removes the originals. An upload that takes longer than [`PATIENCE`] ends the pass.
    fn put_in_place(&mut self) -> Result<(), ReceiverError> {
        self.bytes = 0;
        if self.packed.is_empty() {
            return Ok(());
        }
        self.dataset.sync()?;
        let started = Instant::now();
        let locked = loop {
            match self.dataset.lock_patiently() {
                Err(ReceiverError::Busy(_)) if started.elapsed() < PATIENCE => {}
                locked => break locked?,
            }
        };
        let tidying = self.store.housekeeping.begin(&self.dataset.name);
        let mut replaced = Vec::new();
        for packed in self.packed.drain(..) {
            let present = packed.shelf.stat_if_present(&packed.name)?;
            let is_as_it_was = present.is_some_and(|stat| {
                (stat.identity, stat.changed) == (packed.stat.identity, packed.stat.changed)
            });
            if !is_as_it_was {
                self.place.remove_file(&packed.waiting)?;
                continue;
            }
            let name = Form::Compressed.name(&packed.name);
            self.place.rename(&packed.waiting, &packed.shelf, &name)?;
            replaced.push(packed);
        }
        self.dataset.sync()?;
        crash_point!("compress.in_place");
        for packed in replaced {
            packed.shelf.remove_file(&packed.name)?;
            self.done.objects += 1;
            self.done.bytes_before += packed.stat.allocated;
            self.done.bytes_after += packed.bytes_after;
        }
        // The lock goes first: whoever interrupted this wants it.
        drop(locked);
        drop(tidying);
        Ok(())
    }
}
