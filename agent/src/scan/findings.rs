//! What workers found, apart from what they sent.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::{DirectoryId, Name, Place, RelPath, Timestamp};
use understudy_tree::Identity;

use super::Folder;
use super::doubts::Doubts;
use crate::journal::Marked;

/// A directory that was looked at.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) folder: Arc<Folder>,
    pub(super) identity: Identity,
    /// Its change time before it was listed; `None` if that was too young to prove anything.
    pub(super) changed: Option<Timestamp>,
}

/// A name that can only be judged once the whole tree was seen.
#[derive(Debug, Clone)]
pub(super) struct Deferred {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Name,
    pub(super) identity: Identity,
    /// Whether the base has a row at this place.
    pub(super) has_row: bool,
}

/// Something that could not be captured; the spare keeps what it has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path below the root.
    pub path: RelPath,
    /// Why.
    pub reason: String,
    pub(crate) spot: Spot,
}

/// What a problem is about, by number and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) directory: DirectoryId,
    /// `None` for the directory itself.
    pub(crate) name: Option<Name>,
}

/// Numbers about a scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    /// Base entries whose place is empty now, moved files included.
    pub(crate) removed: u64,
    /// Those of them that were found elsewhere.
    pub(crate) found_again: u64,
    pub(crate) moved: u64,
    pub(crate) files_read: u64,
    pub(crate) bytes_read: u64,
    /// Files sent as deltas.
    pub(crate) deltas: u64,
    /// Bytes of those that the spare had.
    pub(crate) bytes_kept: u64,
    /// Bytes that were not sent because the spare had them of an interrupted upload.
    pub(crate) bytes_resumed: u64,
    /// Files whose content the spare had in its history.
    pub(crate) recalled: u64,
    /// Bytes of those.
    pub(crate) bytes_recalled: u64,
    pub(crate) sockets: u64,
    /// Databases among the files of which a state was taken.
    pub(crate) images: u64,
    /// How long those who write to one had to wait, at most.
    pub(crate) longest_lock: Duration,
    /// Rows written to the index.
    pub(crate) rows: u64,
}

/// A directory that moved.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) id: DirectoryId,
    pub(super) identity: Identity,
    pub(super) from: Place,
    pub(super) to: Place,
}

/// What workers found, apart from what they sent.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) tally: Tally,
    /// Base entries that are not on disk, with their number if they are directories.
    pub(super) missing: BTreeMap<Place, Option<DirectoryId>>,
    /// Directories in whose place something else stands.
    pub(super) displaced: Vec<DirectoryId>,
    pub(super) moved: Vec<Moved>,
    /// Places of the base that stay although they seem gone: what stood there is to come elsewhere.
    pub(super) held: HashSet<Place>,
    /// Places of the base whose file had other names and stands there no more.
    pub(super) parted: Vec<Place>,
    pub(super) looked: Vec<Looked>,
    pub(super) deferred: Vec<Deferred>,
    pub(super) unreadable: Vec<Problem>,
    pub(super) unsettled: Vec<Problem>,
    /// What never stood still and was sent all the same.
    pub(super) fuzzy: Vec<Problem>,
    /// Directories with names in doubt that are not where they were thought to be: they may be going.
    pub(super) astray: Vec<Doubts>,
    /// What is still in doubt after this scan.
    pub(super) in_doubt: Vec<Marked>,
    /// What is still in doubt because its directory could not be found.
    pub(super) nowhere: Vec<Marked>,
    /// Directories whose names were looked at but not they themselves.
    pub(super) touched: Vec<Arc<Folder>>,
    /// Places that turned out to be different, while the journal is being checked.
    pub(super) different: Vec<Place>,
    /// Names that are gone and stay in this snapshot.
    pub(super) kept: Vec<Spot>,
    /// Where directories stood that moved.
    pub(super) departed: Vec<Place>,
}

impl Findings {
    pub(super) fn merge(&mut self, other: Self) {
        let (tally, more) = (&mut self.tally, other.tally);
        tally.added += more.added;
        tally.changed += more.changed;
        tally.removed += more.removed;
        tally.found_again += more.found_again;
        tally.moved += more.moved;
        tally.files_read += more.files_read;
        tally.bytes_read += more.bytes_read;
        tally.deltas += more.deltas;
        tally.bytes_kept += more.bytes_kept;
        tally.bytes_resumed += more.bytes_resumed;
        tally.recalled += more.recalled;
        tally.bytes_recalled += more.bytes_recalled;
        tally.sockets += more.sockets;
        tally.rows += more.rows;
        tally.images += more.images;
        tally.longest_lock = tally.longest_lock.max(more.longest_lock);
        self.missing.extend(other.missing);
        self.displaced.extend(other.displaced);
        self.moved.extend(other.moved);
        self.held.extend(other.held);
        self.parted.extend(other.parted);
        self.looked.extend(other.looked);
        self.deferred.extend(other.deferred);
        self.unreadable.extend(other.unreadable);
        self.unsettled.extend(other.unsettled);
        self.fuzzy.extend(other.fuzzy);
        self.astray.extend(other.astray);
        self.in_doubt.extend(other.in_doubt);
        self.nowhere.extend(other.nowhere);
        self.touched.extend(other.touched);
        self.different.extend(other.different);
        self.kept.extend(other.kept);
        self.departed.extend(other.departed);
    }
}
