//! Looking into the past: what a snapshot has, which versions of a file there are, what differs between snapshots.
//!
//! Entries are told without their extended attributes, which nobody reads in a list.

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
#[cfg(doc)]
use crate::limits;
use crate::name::DatasetName;
use crate::place::{Place, RelPath, Snapshot};

/// Asks what stands at a path, so that its content can be wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locate {
    /// The dataset.
    pub dataset: DatasetName,
    /// Of which snapshot; of the newest if absent.
    pub number: Option<u64>,
    /// Below the root of the file tree.
    pub path: RelPath,
}

/// What stands at the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The snapshot that was looked into; contents are given of it from now on.
    pub snapshot: Snapshot,
    /// The place to want.
    pub place: Place,
    /// What stands there.
    pub entry: Entry,
}

/// How far down a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// What stands in the directory.
    Children,
    /// Everything below it, too.
    All,
}

/// Asks what a directory of a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListTree {
    /// The dataset.
    pub dataset: DatasetName,
    /// Of which snapshot.
    pub number: u64,
    /// The directory; what is none is told alone.
    pub path: RelPath,
    /// How far down.
    pub depth: Depth,
}

/// Some of what the directory holds: directories before what they hold, names in byte order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Paths below the root of the file tree with what stands there, at most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub entries: Vec<(RelPath, Entry)>,
}

/// Asks for all versions of the files whose path matches a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Find {
    /// The dataset.
    pub dataset: DatasetName,
    /// In the syntax of `.gitignore`, without `!`; at most [`limits::TEXT_BYTES`].
    pub pattern: String,
    /// Only what is in a snapshot from this one on, if given.
    pub first: Option<u64>,
    /// Only what is in a snapshot up to this one, if given.
    pub last: Option<u64>,
}

/// Some of the versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub versions: Vec<Version>,
}

/// A file as it was under a path in a stretch of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The path below the root of the file tree.
    pub path: RelPath,
    /// What stands there.
    pub entry: Entry,
    /// The first snapshot that has it there.
    pub since: u64,
    /// The first later one that does not; it is in the newest if absent.
    pub until: Option<u64>,
}

/// Asks what differs between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The dataset.
    pub dataset: DatasetName,
    /// The snapshot to start from.
    pub from: u64,
    /// The snapshot to end at; it may be the older one.
    pub to: u64,
}

/// Some of the differences, in no order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub differences: Vec<Difference>,
}

/// Something that differs between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Difference {
    /// Only the second one has it.
    Added {
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
    },
    /// Only the first one has it.
    Removed {
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
    },
    /// Both have something there, which is not the same.
    Changed {
        /// Where: in the second one, if a directory above it moved.
        path: RelPath,
        /// What the first one has.
        before: Entry,
        /// What the second one has; equal to `before` if only extended attributes differ.
        after: Entry,
    },
    /// The second one has it elsewhere, a directory with all that it holds.
    Moved {
        /// Where the first one has it.
        from: RelPath,
        /// Where the second one has it.
        path: RelPath,
        /// What the first one has.
        before: Entry,
        /// What the second one has.
        after: Entry,
    },
}

/// In which way something is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// It is of another kind.
    Kind,
    /// Another content, link target or device number.
    Content,
    /// Only owner, mode, time or extended attributes.
    Attributes,
}

impl Aspect {
    /// In which way `after` is not `before`.
    pub fn between(before: &Entry, after: &Entry) -> Self {
        if before.kind() != after.kind() {
            Self::Kind
        } else if before.directory_id().is_none() && before.node != after.node {
            Self::Content
        } else {
            Self::Attributes
        }
    }
}

/// Asks what changed with each snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summarise {
    /// The dataset.
    pub dataset: DatasetName,
}

/// What changed with some of the snapshots, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summaries {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub summaries: Vec<Summary>,
}

/// How many things differ between a snapshot and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The snapshot.
    pub number: u64,
    /// What it has and the one before has not.
    pub added: Tally,
    /// What only the one before has.
    pub removed: Tally,
    /// What is of another kind or has another content, with the sizes that it has now.
    pub changed: Tally,
    /// What has other attributes only.
    pub touched: Tally,
    /// What stands elsewhere; a directory counts once.
    pub moved: Tally,
}

/// How much of something there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How many entries.
    pub entries: u64,
    /// The sum of the sizes of the regular files among them.
    pub bytes: u64,
}

impl Summary {
    /// Counts one difference more.
    pub fn count(&mut self, difference: &Difference) {
        let (tally, entry) = match difference {
            Difference::Added { entry, .. } => (&mut self.added, entry),
            Difference::Removed { entry, .. } => (&mut self.removed, entry),
            Difference::Moved { after, .. } => (&mut self.moved, after),
            Difference::Changed { before, after, .. } => {
                let tally = match Aspect::between(before, after) {
                    Aspect::Attributes => &mut self.touched,
                    Aspect::Kind | Aspect::Content => &mut self.changed,
                };
                (tally, after)
            }
        };
        tally.entries = tally.entries.saturating_add(1);
        tally.bytes = tally.bytes.saturating_add(entry.size_bytes());
    }
}

/// Ends the answer to `ListTree`, `Find`, `Compare`, `Summarise` and `ListSnapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {}
