//! What interrupted uploads left in staging: kept aside, told to the agent, and taken instead of being sent again.
//!
//! Each interrupted upload is a *generation*: its whole staging directory, renamed, with the [ledger](crate::ledger)
//! that says which file has which content. Taking a leftover moves its file into the staging of the upload that runs,
//! whose own ledger then has it. So a content is in one generation at most, and nothing is ever copied.

mod load;
mod take;
#[cfg(test)]
mod tests;
mod way;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use understudy_protocol::message::{Leftover, LeftoverEnd};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{ContentHash, Message, Name, ProtocolError, limits};
use understudy_tree::{Directory, Kind, Stat, remove};

use crate::dataset::{Dataset, Locked, now_seconds};
use crate::error::ReceiverError;
use crate::ledger::Former;
use crate::names;
use crate::quota::{self, Used};

pub(crate) use take::{Found, Taker};
pub(crate) use way::give_way;

/// Leftovers of uploads that ended longer ago are dropped: much of the source has changed since.
const AGE_SECONDS: i64 = 3 * 24 * 60 * 60;
/// The clock was wrong when a ledger was written if it is further ahead than this: its age will never be known.
const AHEAD_SECONDS: i64 = 24 * 60 * 60;
/// Interrupted uploads of which something may be left; beyond that the one with the fewest bytes is dropped. Each holds its
/// space for days, and most of what an earlier one had is taken by the next.
const GENERATIONS: usize = 8;
/// Smaller contents are not worth a line in a ledger: telling of them costs as much as sending them.
pub(crate) const LEAST_BYTES: u64 = 64;
/// Shorter beginnings of contents are not told.
pub(crate) const LEAST_PARTIAL: u64 = 1 << 20;
/// What is longer and would have to be read again is not told either: while it is read nothing may be taken from the
/// connection, and an agent gives up a spare that takes nothing for 30 minutes. This is enough at 80 MB/s.
const MOST_READ: u64 = 128 << 30;

/// All leftovers of a dataset, as they were when an upload began.
#[derive(Default)]
pub(crate) struct Leftovers {
    generations: Vec<Generation>,
    /// In the order of their keys.
    items: Vec<Item>,
    /// For the first of the items with one key: how many of these were given out.
    given: Vec<AtomicU32>,
    partials: Mutex<Vec<Partial>>,
    /// Whether the upload that runs has made use of any.
    are_used: AtomicBool,
}

struct Generation {
    /// `None` of what is staged for a held cycle: that must stay, so its files are not moved but get further names.
    name: Option<Name>,
    directory: Directory,
    ledger: Former,
}

/// A file with a whole content.
struct Item {
    key: Key,
    size: u64,
    /// Of its record in the ledger.
    offset: u64,
    /// Index of its generation.
    generation: usize,
}

/// The first half of a hash.
type Key = [u8; 16];

/// A file with the beginning of a content, and perhaps more.
#[derive(Debug)]
struct Partial {
    length: u64,
    hash: ContentHash,
    /// Index of its generation.
    generation: usize,
    stream: u64,
}

fn key(hash: &ContentHash) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&hash.0[..16]);
    key
}

/// Whether a file that nobody else may have touched is still there as it was left.
fn is_sound(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.links == 1
}

impl Leftovers {
    /// Whether the upload that runs has made use of any.
    pub(crate) fn are_used(&self) -> bool {
        self.are_used.load(Ordering::Relaxed)
    }

    /// Notes in each generation how many bytes it has; returns how many all have.
    pub(crate) fn weigh(&self) -> Result<u64, ReceiverError> {
        let mut bytes = vec![0_u64; self.generations.len()];
        for item in &self.items {
            bytes[item.generation] += item.size;
        }
        for partial in self.partials().iter() {
            bytes[partial.generation] += partial.length;
        }
        let mut sum = 0;
        for (generation, bytes) in self.generations.iter().zip(bytes) {
            // What is staged for a held cycle is in its catalog.
            if generation.name.is_some() {
                let staged = Used { bytes, files: 0 };
                quota::weigh(&generation.directory, staged)?;
                sum += bytes;
            }
        }
        Ok(sum)
    }

    /// Tells the agent of all of them.
    pub(crate) fn tell(&self, outgoing: &Outgoing) -> Result<(), ReceiverError> {
        for items in self.items.chunks(limits::RECORDS) {
            let contents = items.iter().map(|item| (item.size, item.key)).collect();
            outgoing.send_message(&Message::Leftover(Leftover {
                contents,
                partials: Vec::new(),
            }))?;
        }
        let partials: Vec<_> = self
            .partials()
            .iter()
            .map(|partial| (partial.length, partial.hash))
            .collect();
        if !partials.is_empty() {
            outgoing.send_message(&Message::Leftover(Leftover {
                contents: Vec::new(),
                partials,
            }))?;
        }
        Ok(outgoing.send_message(&Message::LeftoverEnd(LeftoverEnd {}))?)
    }
}

/// Finds out what is left of interrupted uploads, and what was staged for a cycle that is held and was put `aside`.
pub(crate) fn load(
    dataset: &Dataset,
    locked: &Locked,
    aside: Option<Directory>,
) -> Result<Leftovers, ReceiverError> {
    let loaded = Leftovers::load(dataset, locked, aside);
    or_drop(dataset, locked, loaded)
}

/// What becomes of leftovers when an upload fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// What it staged is kept.
    Keep,
    /// What it staged is worth nothing.
    Drop,
    /// Nothing that was left counts any more.
    DropAll,
}

/// Whether an upload ended although this side could have gone on.
pub(crate) fn is_interruption(error: &ReceiverError) -> bool {
    use ProtocolError::{Cut, Failed, Io};
    matches!(error, ReceiverError::Protocol(Cut | Io(_) | Failed(_)))
}

/// `leftovers` are those of the upload that failed.
fn fate(error: &ReceiverError, leftovers: Option<&Leftovers>) -> Fate {
    match error {
        _ if is_interruption(error) => Fate::Keep,
        // A promotion that may come to nothing.
        ReceiverError::Crowded(_) => Fate::Keep,
        // The agent comes back at once, without what it failed for.
        ReceiverError::BadDelta { .. } | ReceiverError::NotInHistory { .. } => Fate::Keep,
        // It may have failed for what was left: the next one must not fail in the same way.
        _ if leftovers.is_some_and(Leftovers::are_used) => Fate::DropAll,
        // The agent comes back at once.
        ReceiverError::OutOfStep(_) => Fate::Keep,
        // The space is needed; and a list that was wrong once must not be told again.
        ReceiverError::NoSpace(_) | ReceiverError::Quota(_) | ReceiverError::BadLeftover(_) => {
            Fate::DropAll
        }
        _ => Fate::Drop,
    }
}

/// An upload failed and there is no intent: empties staging, after keeping what is worth it.
pub(crate) fn after_failure(
    dataset: &Dataset,
    locked: &Locked,
    leftovers: Option<&Leftovers>,
    error: &ReceiverError,
) -> Result<(), ReceiverError> {
    match fate(error, leftovers) {
        Fate::Keep => keep(dataset, locked)?,
        Fate::Drop => {}
        Fate::DropAll => drop_all(dataset, locked)?,
    }
    dataset.clean()?;
    drop_doubtful(dataset, locked)
}

/// Puts aside what an interrupted upload staged, if it has a ledger. Where this cannot be done, nothing is kept.
pub(crate) fn keep(dataset: &Dataset, locked: &Locked) -> Result<(), ReceiverError> {
    let kept = put_aside(dataset);
    or_drop(dataset, locked, kept)
}

/// Leftovers are a gain, and must not be what a dataset fails for.
fn or_drop<T: Default>(
    dataset: &Dataset,
    locked: &Locked,
    result: Result<T, ReceiverError>,
) -> Result<T, ReceiverError> {
    let Err(error) = result else {
        return result;
    };
    tracing::warn!(dataset = %dataset.name, "dropping what interrupted uploads left: {error}");
    forget_all(dataset, locked);
    Ok(T::default())
}

fn put_aside(dataset: &Dataset) -> Result<(), ReceiverError> {
    let control = &dataset.control;
    let staging = control.ensure_directory(&names::STAGING)?;
    if staging.stat_if_present(&names::LEDGER)?.is_none() {
        return Ok(());
    }
    let pool = control.ensure_directory(&names::LEFTOVERS)?;
    let last = numbers(&pool)?.last().copied().unwrap_or(0);
    control.rename_new(&names::STAGING, &pool, &names::number(last + 1))?;
    control.ensure_directory(&names::STAGING)?;
    Ok(())
}

/// What is staged belongs to an intent from here on, and is no leftover whatever comes; what it takes is in the catalog.
pub(crate) fn close(dataset: &Dataset) -> Result<(), ReceiverError> {
    let staging = dataset.control.ensure_directory(&names::STAGING)?;
    for name in [&names::WEIGHT, &names::LEDGER] {
        match staging.remove_file(name) {
            Err(error) if !error.is_gone() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Removes all leftovers.
pub(crate) fn drop_all(dataset: &Dataset, _locked: &Locked) -> Result<(), ReceiverError> {
    let trash = dataset.control.ensure_directory(&names::TRASH)?;
    Ok(remove::tree(&dataset.control, &names::LEFTOVERS, &trash)?)
}

/// Removes all leftovers. What cannot be removed now is removed, or told once more, later.
pub(crate) fn forget_all(dataset: &Dataset, locked: &Locked) {
    if let Err(error) = drop_all(dataset, locked) {
        tracing::warn!(dataset = %dataset.name, "cannot drop what interrupted uploads left: {error}");
    }
}

/// Removes everything that was left before a sync of the store failed, also what is still in staging. An intent keeps what
/// is staged: it was synced before.
fn drop_doubtful(dataset: &Dataset, locked: &Locked) -> Result<(), ReceiverError> {
    let failures = dataset.syncs.failures();
    if !dataset.syncs.are_doubtful(&dataset.name) {
        return Ok(());
    }
    close(dataset)?;
    drop_all(dataset, locked)?;
    dataset.syncs.clear(&dataset.name, failures);
    Ok(())
}

/// Removes leftovers that are in doubt, too old, or that nothing tells of.
pub(crate) fn drop_old(dataset: &Dataset, locked: &Locked) -> Result<(), ReceiverError> {
    drop_doubtful(dataset, locked)?;
    let Some(pool) = pool(dataset)? else {
        return Ok(());
    };
    let now = now_seconds();
    for name in pool.names()? {
        let ledger = pool.open_directory(&name).and_then(|generation| {
            let stat = generation.stat_if_present(&names::LEDGER)?;
            Ok(stat.map(|stat| stat.modified.seconds))
        });
        let is_young =
            |written: i64| (-AHEAD_SECONDS..AGE_SECONDS).contains(&now.saturating_sub(written));
        if !ledger.is_ok_and(|written| written.is_some_and(is_young)) {
            drop_one(dataset, &pool, &name)?;
        }
    }
    Ok(())
}

fn drop_one(dataset: &Dataset, pool: &Directory, name: &Name) -> Result<(), ReceiverError> {
    let trash = dataset.control.ensure_directory(&names::TRASH)?;
    Ok(remove::tree(pool, name, &trash)?)
}

fn pool(dataset: &Dataset) -> Result<Option<Directory>, ReceiverError> {
    match dataset.control.open_directory(&names::LEFTOVERS) {
        Ok(pool) => Ok(Some(pool)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The numbers of the generations, in order.
fn numbers(pool: &Directory) -> Result<Vec<u64>, ReceiverError> {
    let names = pool.names()?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| std::str::from_utf8(name.as_bytes()).ok()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
