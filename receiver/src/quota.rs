//! What a main may take of the spare, and what its datasets take: counted from their catalogs, never by walking over files.
//!
//! A catalog remembers how much its rows come to, and each upload adds what it brings. That is never too little. It is too much where
//! an upload brings what is there already, and is counted anew before anything is refused for it, if enough has changed since.

mod budget;
mod shares;

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use understudy_protocol::MainName;
use understudy_tree::Directory;
use understudy_tree::durable::{self, Durability};

use crate::access::{Access, Permission};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::names;
use crate::peer::Peer;
use crate::store::Store;

pub(crate) use budget::Budget;
pub(crate) use shares::Shares;

/// What one main may take. Nothing stands for "unlimited" but the absence of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Bytes of all versions that are kept.
    pub bytes: Option<NonZeroU64>,
    /// Entries of all versions that are kept.
    pub files: Option<NonZeroU64>,
}

/// What all mains may take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Where nothing else is said.
    pub common: Quota,
    /// Of these mains; what it leaves out is as for all.
    pub mains: BTreeMap<MainName, Quota>,
}

impl Quotas {
    /// That of one main.
    pub fn of(&self, main: &MainName) -> Quota {
        let own = self.mains.get(main).copied().unwrap_or_default();
        Quota {
            bytes: own.bytes.or(self.common.bytes),
            files: own.files.or(self.common.files),
        }
    }
}

impl Quotas {
    /// Whether no main has any.
    pub fn are_none(&self) -> bool {
        self.common.is_none() && self.mains.values().all(|quota| quota.is_none())
    }
}

impl Quota {
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What is taken: of a dataset, a main, an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Bytes: each file of the live tree with its size, each other content that a former snapshot has, what is staged, and what rows
    /// of the catalog take.
    pub bytes: u64,
    /// Rows of the catalog: each entry of the live tree, and each former version of one.
    pub files: u64,
}

impl Used {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            files: self.files.saturating_add(other.files),
        }
    }
}

/// How much is done to know what a dataset takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// What is known counts.
    Look,
    /// It is counted where that is worth it.
    Count,
    /// It is counted unless nothing has changed.
    CountAll,
}

/// Whether what uploads have staged or left counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Staging {
    /// All of it.
    All,
    /// What was left only: the upload that runs tells of itself.
    Left,
}

/// What a main takes of a store, exactly. For people: it may read whole catalogs.
pub fn used(store: &Store, main: &MainName) -> Result<Used, ReceiverError> {
    let peer = Peer::Main(main.clone());
    let mut sum = Used::default();
    for permission in Access::new(store, &peer).own()? {
        let how = (Effort::CountAll, Staging::All);
        sum = sum.and(of_other(store, &permission, how)?);
    }
    Ok(sum)
}

/// What a dataset takes that is not being changed by the caller.
fn of_other(
    store: &Store,
    permission: &Permission,
    (effort, staging): (Effort, Staging),
) -> Result<Used, ReceiverError> {
    let Some(dataset) = permission.open(store)? else {
        return Ok(Used::default());
    };
    let staged = staged(&dataset, staging)?;
    let Some(reading) = dataset.read_catalog()? else {
        return Ok(staged);
    };
    let Some(known) = reading.known_used()? else {
        return Ok(reading.count_once()?.sum().and(staged));
    };
    let is_counted = match effort {
        Effort::Look => false,
        Effort::Count => known.is_worth_counting(),
        Effort::CountAll => !known.is_exact(),
    };
    if !is_counted {
        return Ok(known.sum().and(staged));
    }
    let Some(counted) = reading.count_again()? else {
        return Ok(known.sum().and(staged));
    };
    drop(reading);
    // Nobody needs to count that once more, unless an upload runs, which counts for itself.
    if let (Effort::Count, Ok(locked)) = (effort, dataset.lock()) {
        dataset.catalog(&locked)?.keep_count(&counted)?;
    }
    Ok(counted.sum().and(staged))
}

/// What uploads of a dataset have staged, or left, by their own notes.
fn staged(dataset: &Dataset, staging: Staging) -> Result<Used, ReceiverError> {
    let mut sum = Used::default();
    let mut add = |directory: &Directory| {
        let text = durable::read(directory, &names::WEIGHT, 64)?;
        let text = text.and_then(|text| String::from_utf8(text).ok());
        let text = text.unwrap_or_default();
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        let (bytes, files) = (numbers.next(), numbers.next());
        sum = sum.and(Used {
            bytes: bytes.unwrap_or(0),
            files: files.unwrap_or(0),
        });
        Ok::<(), ReceiverError>(())
    };
    let control = &dataset.control;
    if staging == Staging::All {
        match control.open_directory(&names::STAGING) {
            Ok(staging) => add(&staging)?,
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let pool = match control.open_directory(&names::LEFTOVERS) {
        Ok(pool) => pool,
        Err(error) if error.is_gone() => return Ok(sum),
        Err(error) => return Err(error.into()),
    };
    for name in pool.names()? {
        match pool.open_directory(&name) {
            Ok(left) => add(&left)?,
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sum)
}

/// Notes what a directory of staged files comes to, for the uploads that run beside it, and for what is left of it.
pub(crate) fn weigh(directory: &Directory, staged: Used) -> Result<(), ReceiverError> {
    let text = format!("{} {}\n", staged.bytes, staged.files);
    let (name, later) = (&names::WEIGHT, Durability::Later);
    Ok(durable::replace(directory, name, text.as_bytes(), later)?)
}
