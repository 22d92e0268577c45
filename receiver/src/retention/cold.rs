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
/// its own.
pub fn compress_all(
    store: &Store,
    policies: &Policies,
    moment: &Moment,
    mut tell: impl FnMut(&DatasetName, Result<Compressed, ReceiverError>),
) -> Result<(), ReceiverError> {
    for name in datasets(store)? {
        let compressed = store.dataset(&name).and_then(|dataset| match dataset {
            Some(dataset) => compress(store, &dataset, policies.of(&name).compress_after, moment),
            None => Ok(Compressed::default()),
        });
        tell(&name, compressed);
    }
    Ok(())
}

fn compress(
    store: &Store,
    dataset: &Dataset,
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
        place,
        packed: Vec::new(),
        bytes: 0,
        done: Compressed::default(),
    };
    objects.each(|promised, shelf, name| {
        let Some((hash, Form::Whole)) = promised else {
            return Ok(());
        };
        let Some(stat) = shelf.stat_if_present(name)? else {
            return Ok(());
        };
        let is_due =
            stat.changed.seconds <= until && since.is_none_or(|since| stat.changed.seconds > since);
        if is_due && is_worth_a_look(&stat) {
            batch.add(hash, shelf, name, stat)?;
        }
        Ok(())
    })?;
    batch.put_in_place()?;
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

/// Objects that are compressed, and are to be put in place together.
struct Batch<'a> {
    store: &'a Store,
    dataset: &'a Dataset,
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
    fn add(
        &mut self,
        hash: ContentHash,
        shelf: &Directory,
        name: &Name,
        stat: Stat,
    ) -> Result<(), ReceiverError> {
        let original = match shelf.open_file(name) {
            Err(error) if error.is_gone() => return Ok(()),
            original => original?,
        };
        content::drop_cache(&original);
        if packing::promises_gain(&original)? {
            let waiting = names::hash(hash);
            let file = self.place.create_file(&waiting)?;
            if pack(&original, (stat.size, hash), &file)? {
                let bytes_after = self.place.stat(&waiting)?.allocated;
                self.bytes += stat.size;
                self.packed.push(Packed {
                    shelf: shelf.try_clone()?,
                    name: name.clone(),
                    waiting,
                    stat,
                    bytes_after,
                });
            } else {
                self.place.remove_file(&waiting)?;
            }
        }
        content::drop_cache(&original);
        if self.bytes >= BATCH_BYTES || self.packed.len() >= BATCH_OBJECTS {
            self.put_in_place()?;
        }
        Ok(())
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
