//! Retention: which snapshots stay, and the removal of all others, by the receiver's clock and in two phases. A snapshot that
//! expires is flagged first; it goes when the grace period is over and nothing speaks against it.
//!
//! Only somebody on the spare can shorten history: nothing here is reached by a message. Must not know how people are told.

mod ballast;
mod check;
mod cold;
mod intent;
mod moment;
mod pins;
mod policy;
mod prune;
mod removal;
mod sweep;
mod tell;
pub(crate) mod verified;

use std::collections::BTreeMap;

use understudy_protocol::DatasetName;

pub use cold::{Compressed, compress_all};
pub use moment::Moment;
pub use pins::{Pinned, REASON_BYTES, pin, unpin};
pub use policy::{Policy, Reason};
pub use prune::{datasets, prune, prune_all};
pub(crate) use tell::serve;

/// The policy of every dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Of those that have none of their own.
    pub common: Policy,
    /// Of the others.
    pub datasets: BTreeMap<DatasetName, Policy>,
}

impl Policies {
    /// The policy of one dataset.
    pub fn of(&self, dataset: &DatasetName) -> &Policy {
        self.datasets.get(dataset).unwrap_or(&self.common)
    }
}

/// Whether anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: what would be done is told.
    Look,
    /// What the policy says is done.
    Act,
}

/// Whether a snapshot that expires is flagged for a while before it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// It is.
    Wait,
    /// It goes at once: somebody needs the space.
    Skip,
}

/// Whether a clock that seems to have jumped ends everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Check,
    /// Somebody has looked at the clock, and it is right.
    Given,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What stays.
    pub policy: &'a Policy,
    /// Now.
    pub moment: &'a Moment,
    /// See [`Mode`].
    pub mode: Mode,
    /// See [`Grace`].
    pub grace: Grace,
    /// See [`Trust`].
    pub trust: Trust,
}

/// Space on the spare's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Files of history.
    pub objects: u64,
    /// Their lengths.
    pub bytes: u64,
    /// What they take on the disk. More than is gained where files share blocks.
    pub allocated_bytes: u64,
}

impl Freed {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.allocated_bytes += other.allocated_bytes;
    }
}

/// What keeps retention from doing anything, or the rest of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Of which kind.
    pub kind: ObstacleKind,
    /// For people.
    pub reason: String,
}

impl Obstacle {
    fn new(kind: ObstacleKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }
}

/// Kinds of obstacles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObstacleKind {
    /// The clock cannot be believed.
    Clock,
    /// The catalog contradicts itself.
    Catalog,
    /// Something is damaged or missing.
    Findings,
    /// Somebody else is working on the dataset.
    Busy,
    /// Somebody is reading snapshots.
    Reader,
}

impl ObstacleKind {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Catalog => "catalog",
            Self::Findings => "findings",
            Self::Busy => "busy",
            Self::Reader => "reader",
        }
    }

    /// Whether it goes by itself.
    pub fn passes(self) -> bool {
        matches!(self, Self::Busy | Self::Reader)
    }
}

/// A snapshot that the policy does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Its number.
    pub number: u64,
    /// When it was committed.
    pub committed_seconds: i64,
    /// When it goes, or could have gone.
    pub due_seconds: i64,
}

/// What was done to a dataset, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The dataset.
    pub dataset: DatasetName,
    /// The snapshots that stay, and why.
    pub kept: Vec<(u64, Reason)>,
    /// Those that are flagged now.
    pub flagged: Vec<Expired>,
    /// Those that were flagged before, and whose grace period is not over.
    pub waiting: Vec<Expired>,
    /// Those that go now.
    pub removed: Vec<Expired>,
    /// What that gives back.
    pub freed: Freed,
    /// What ended it: nothing was flagged or removed, or, if it passes by itself, not all.
    pub obstacle: Option<Obstacle>,
}

impl Pruned {
    fn nothing(dataset: &DatasetName) -> Self {
        Self {
            dataset: dataset.clone(),
            kept: Vec::new(),
            flagged: Vec::new(),
            waiting: Vec::new(),
            removed: Vec::new(),
            freed: Freed::default(),
            obstacle: None,
        }
    }

    fn stopped(dataset: &DatasetName, obstacle: Obstacle) -> Self {
        Self {
            obstacle: Some(obstacle),
            ..Self::nothing(dataset)
        }
    }
}
