//! How far a call is, as numbers that any thread may read at any time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::estimate::Costs;

/// What a call is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reaching the spare and agreeing where to start.
    Connecting,
    /// Comparing the tree with the index, and sending what differs.
    Scanning,
    /// Sending what could only be decided after everything was seen.
    Sending,
    /// Waiting for the spare to make the snapshot live and durable.
    Committing,
    /// Writing a tree from the spare.
    Restoring,
    /// Waiting for the spare to read everything again.
    Verifying,
    /// Reading what is here already, to use it.
    Checking,
    /// Making what was written durable, and putting it in its place.
    Finishing,
}

const PHASES: [Phase; 8] = [
    Phase::Connecting,
    Phase::Scanning,
    Phase::Sending,
    Phase::Committing,
    Phase::Restoring,
    Phase::Verifying,
    Phase::Checking,
    Phase::Finishing,
];

/// Counters of one call. Totals grow while a scan finds more to do.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    files_total: AtomicU64,
    files_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    entries_seen: AtomicU64,
    files_found: AtomicU64,
    bytes_found: AtomicU64,
    finishing_milliseconds: AtomicU64,
    known_costs: OnceLock<Costs>,
}

impl Progress {
    /// What is being done.
    pub fn phase(&self) -> Phase {
        PHASES
            .get(usize::from(self.phase.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or(Phase::Connecting)
    }

    /// Files known to need reading or writing so far.
    pub fn files_total(&self) -> u64 {
        self.files_total.load(Ordering::Relaxed)
    }

    /// Files read or written.
    pub fn files_done(&self) -> u64 {
        self.files_done.load(Ordering::Relaxed)
    }

    /// Bytes known to need reading or writing so far.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total.load(Ordering::Relaxed)
    }

    /// Bytes read or written.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Files of those done that were here already, and took no work.
    pub fn files_found(&self) -> u64 {
        self.files_found.load(Ordering::Relaxed)
    }

    /// Bytes of those done that were here already.
    pub fn bytes_found(&self) -> u64 {
        self.bytes_found.load(Ordering::Relaxed)
    }

    /// How long it is likely to take in the end to make durable what was written last.
    pub fn finishing(&self) -> Duration {
        Duration::from_millis(self.finishing_milliseconds.load(Ordering::Relaxed))
    }

    /// Such work cost so much before; what is told first counts.
    pub fn expect_costs(&self, costs: Costs) {
        let _ = self.known_costs.set(costs);
    }

    /// What such work cost before, if anybody said so.
    pub fn known_costs(&self) -> Option<Costs> {
        self.known_costs.get().copied()
    }

    /// Entries of every kind looked at.
    pub fn entries_seen(&self) -> u64 {
        self.entries_seen.load(Ordering::Relaxed)
    }

    /// Starts counting from zero.
    pub(crate) fn restart(&self, phase: Phase) {
        for counter in [
            &self.files_total,
            &self.files_done,
            &self.bytes_total,
            &self.bytes_done,
            &self.entries_seen,
            &self.files_found,
            &self.bytes_found,
            &self.finishing_milliseconds,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.enter(phase);
    }

    /// Goes on to the next phase.
    pub(crate) fn enter(&self, phase: Phase) {
        let number = PHASES.iter().position(|&known| known == phase).unwrap_or(0);
        self.phase.store(number as u8, Ordering::Relaxed);
    }

    /// More to do.
    pub(crate) fn expect(&self, files: u64, bytes: u64) {
        self.files_total.fetch_add(files, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// About how much comes later: files and bytes. Whoever knows better then withdraws it.
    pub fn announce(&self, (files, bytes): (u64, u64)) {
        self.expect(files, bytes);
    }

    /// Takes back what was announced.
    pub fn withdraw(&self, (files, bytes): (u64, u64)) {
        self.files_total.fetch_sub(files, Ordering::Relaxed);
        self.bytes_total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Some of it done.
    pub(crate) fn done(&self, files: u64, bytes: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Some of it is here already.
    pub(crate) fn found(&self, files: u64, bytes: u64) {
        self.files_found.fetch_add(files, Ordering::Relaxed);
        self.bytes_found.fetch_add(bytes, Ordering::Relaxed);
        self.done(files, bytes);
    }

    /// Some was made durable, which took so long.
    pub(crate) fn flushed(&self, took: Duration) {
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.finishing_milliseconds
            .store(milliseconds, Ordering::Relaxed);
    }

    /// More entries looked at.
    pub(crate) fn seen(&self, entries: u64) {
        self.entries_seen.fetch_add(entries, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_as_they_were_entered() {
        let progress = Progress::default();
        for phase in PHASES {
            progress.enter(phase);
            assert_eq!(progress.phase(), phase);
        }
        progress.expect(2, 10);
        progress.done(1, 4);
        assert_eq!((progress.files_total(), progress.files_done()), (2, 1));
        progress.restart(Phase::Connecting);
        assert_eq!((progress.bytes_total(), progress.bytes_done()), (0, 0));
    }
}
