//! One row: an entry, and what the file system said when it was recorded.

use rusqlite::types::ValueRef;
use understudy_protocol::{Entry, Timestamp};
use understudy_tree::{Identity, Kind, Stat};

use crate::clock::Settled;

/// What `statx` said about an entry when it was recorded. Equal values mean that nothing changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Negative with the mark of [`Self::apart`].
    pub(super) kind: i64,
    pub(super) inode: i64,
    pub(super) born: Option<i64>,
    pub(super) size: i64,
    pub(super) modified: i64,
    /// `None` if another change could bear the same time, so that it proves nothing.
    pub(super) changed: Option<i64>,
}

impl Seen {
    /// What `stat` says, and whether its change time proves anything.
    pub(crate) fn of(stat: &Stat, settled: Settled) -> Self {
        let size = if stat.kind == Kind::File {
            stat.size
        } else {
            0
        };
        Self {
            kind: kind_number(stat.kind),
            inode: stat.identity.inode as i64,
            born: stat.identity.born.map(folded),
            size: size as i64,
            modified: folded(stat.modified),
            changed: (settled == Settled::Yes).then(|| folded(stat.changed)),
        }
    }

    /// Whether `stat` shows the very state that was recorded.
    pub(crate) fn proves(&self, stat: &Stat) -> bool {
        self.changed.is_some() && *self == Self::of(stat, Settled::Yes)
    }

    /// The same without proof that nothing changed: it will be looked at again.
    pub(crate) fn unproven(self) -> Self {
        Self {
            changed: None,
            ..self
        }
    }

    /// The same with a mark: on the spare this name may be a file apart from others of its group.
    pub(crate) fn apart(self) -> Self {
        Self {
            kind: -self.kind.abs(),
            changed: None,
            ..self
        }
    }

    /// Whether it has that mark.
    pub(crate) fn is_apart(&self) -> bool {
        self.kind < 0
    }

    /// The inode that it was.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            inode: self.inode as u64,
            born: self.born.map(unfolded),
        }
    }

    /// Whether this was the same inode.
    pub(crate) fn is_inode(&self, identity: Identity) -> bool {
        self.inode == identity.inode as i64 && self.born == identity.born.map(folded)
    }
}

/// A decoded row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The entry.
    pub(crate) entry: Entry,
    /// What was seen; `None` if the entry came from the spare's manifest.
    pub(crate) seen: Option<Seen>,
}

impl Known {
    /// Whether it was recorded with this inode, or nobody knows with which.
    pub(crate) fn may_be_inode(&self, identity: Identity) -> bool {
        self.seen.is_none_or(|seen| seen.is_inode(identity))
    }
}

/// A number that tells times apart: nanoseconds since 1970 modulo 2^64, which wraps every 584 years.
pub(super) fn folded(time: Timestamp) -> i64 {
    time.seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(i64::from(time.nanoseconds))
}

/// The time between 1677 and 2262 with that number.
fn unfolded(time: i64) -> Timestamp {
    Timestamp {
        seconds: time.div_euclid(1_000_000_000),
        nanoseconds: time.rem_euclid(1_000_000_000) as u32,
    }
}

fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharacterDevice => 6,
        Kind::BlockDevice => 7,
    }
}

/// The columns that make a [`Seen`], in the order of [`seen_from`].
pub(super) const SEEN_COLUMNS: &str = "kind, inode, born, size, modified, changed";

/// Reads [`SEEN_COLUMNS`] starting at column `first`.
pub(super) fn seen_from(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Option<Seen>> {
    if row.get_ref(first)? == ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(Seen {
        kind: row.get(first)?,
        inode: row.get(first + 1)?,
        born: row.get(first + 2)?,
        size: row.get(first + 3)?,
        modified: row.get(first + 4)?,
        changed: row.get(first + 5)?,
    }))
}
