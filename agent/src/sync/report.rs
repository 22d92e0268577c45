//! What a cycle tells when it is over.

use std::time::Duration;

use understudy_protocol::message::Timing;
use understudy_protocol::{DatasetName, RelPath, Snapshot};

use crate::scan::{Outcome, Problem};

/// What a cycle did.
#[derive(Debug, Clone)]
pub struct SyncReport {
    /// The dataset.
    pub dataset: DatasetName,
    /// The snapshot that the spare holds now; new if `committed`.
    pub snapshot: Option<Snapshot>,
    /// Whether there was anything to commit.
    pub committed: bool,
    /// Entries in the snapshot.
    pub entries: u64,
    /// Entries that are new.
    pub added: u64,
    /// Entries whose content or metadata changed.
    pub changed: u64,
    /// Entries that are gone.
    pub removed: u64,
    /// Entries that stand elsewhere now; a moved directory counts once.
    pub moved: u64,
    /// Files whose content was read.
    pub files_read: u64,
    /// Bytes of content read.
    pub bytes_read: u64,
    /// Files of which only the difference to the spare's version was sent.
    pub deltas: u64,
    /// Cycles before this one that the spare gave up because a delta did not give the content that was announced.
    pub deltas_refused: u64,
    /// Bytes of those files that the spare had.
    pub bytes_kept: u64,
    /// Bytes that were not sent because the spare had them of an interrupted upload.
    pub bytes_resumed: u64,
    /// Cycles before this one that the spare gave up because it did not have what it had told to be left over.
    pub leftovers_refused: u64,
    /// Files whose content was not sent because the spare had it in its history.
    pub recalled: u64,
    /// Bytes of those files.
    pub bytes_recalled: u64,
    /// Cycles before this one that the spare gave up because it did not have in its history what the index said.
    pub history_refused: u64,
    /// Bytes sent to the spare, after compression.
    pub bytes_sent: u64,
    /// What could not be read; the spare keeps what it has of it.
    pub unreadable: Vec<Problem>,
    /// Files that changed whenever they were read; the spare keeps what it has of them.
    pub unsettled: Vec<Problem>,
    /// Files that changed whenever they were read and were sent all the same: the spare may have a mixture.
    pub fuzzy: Vec<Problem>,
    /// What was looked at.
    pub looked_at: LookedAt,
    /// Since when, in seconds since 1970 by this host's clock, the oldest name that cannot be captured as it should
    /// is so.
    pub troubled_since_seconds: Option<i64>,
    /// Changes that no event had told, found by a look at everything.
    pub missed: u64,
    /// Where some of them were.
    pub missed_paths: Vec<RelPath>,
    /// SQLite databases among the files of which a state was taken.
    pub images: u64,
    /// How long those who write to one of them had to wait, at most.
    pub longest_lock: Duration,
    /// Whether databases among the files changed that were left as the spare has them, or were met first: a cycle with them follows.
    pub(crate) is_turn_of_databases: bool,
    /// Sockets, which are not captured.
    pub sockets_skipped: u64,
    /// How long the spare's steps took.
    pub timings: Vec<Timing>,
    /// How long the whole cycle took.
    pub seconds: f64,
}

impl SyncReport {
    /// Whether anything could not be captured as it should.
    pub(super) fn has_trouble(&self) -> bool {
        !(self.unreadable.is_empty() && self.unsettled.is_empty() && self.fuzzy.is_empty())
    }

    /// Adds what a cycle did that came right before.
    pub(super) fn add(&mut self, before: &Self) {
        self.committed |= before.committed;
        self.added += before.added;
        self.changed += before.changed;
        self.removed += before.removed;
        self.moved += before.moved;
        self.files_read += before.files_read;
        self.bytes_read += before.bytes_read;
        self.deltas += before.deltas;
        self.deltas_refused += before.deltas_refused;
        self.bytes_kept += before.bytes_kept;
        self.bytes_resumed += before.bytes_resumed;
        self.leftovers_refused += before.leftovers_refused;
        self.recalled += before.recalled;
        self.bytes_recalled += before.bytes_recalled;
        self.history_refused += before.history_refused;
        self.bytes_sent += before.bytes_sent;
        self.images += before.images;
        self.longest_lock = self.longest_lock.max(before.longest_lock);
        self.seconds += before.seconds;
    }
}

/// What a cycle looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookedAt {
    /// Everything, and why.
    Everything {
        /// Why the journal was not enough.
        because: String,
    },
    /// What the journal told.
    Journal {
        /// Directories with something in doubt.
        directories: u64,
    },
}

impl SyncReport {
    /// What the scan of a cycle found; the rest is filled in by the cycle.
    pub(super) fn of(
        dataset: DatasetName,
        snapshot: Snapshot,
        looked_at: LookedAt,
        outcome: Outcome,
    ) -> Self {
        let tally = outcome.tally;
        Self {
            dataset,
            entries: snapshot.entries,
            snapshot: Some(snapshot),
            committed: false,
            added: tally.added,
            changed: tally.changed,
            removed: tally.removed.saturating_sub(tally.found_again),
            moved: tally.moved,
            files_read: tally.files_read,
            bytes_read: tally.bytes_read,
            deltas: tally.deltas,
            deltas_refused: 0,
            bytes_kept: tally.bytes_kept,
            bytes_resumed: tally.bytes_resumed,
            leftovers_refused: 0,
            recalled: tally.recalled,
            bytes_recalled: tally.bytes_recalled,
            history_refused: 0,
            bytes_sent: 0,
            unreadable: outcome.unreadable,
            unsettled: outcome.unsettled,
            fuzzy: outcome.fuzzy,
            looked_at,
            troubled_since_seconds: None,
            missed: outcome.missed.count,
            missed_paths: outcome
                .missed
                .named
                .into_iter()
                .map(|(path, _)| path)
                .collect(),
            images: tally.images,
            longest_lock: tally.longest_lock,
            is_turn_of_databases: outcome.is_turn_of_databases,
            sockets_skipped: tally.sockets,
            timings: Vec::new(),
            seconds: 0.0,
        }
    }
}
