//! What became of the syncs of a store's file system.
//!
//! The kernel tells once that it could not write what it had taken, then drops it, while it may still show it to whoever reads.
//! So after a failed sync nothing that was written before it counts as left over, of any dataset of the store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_protocol::DatasetName;

/// The syncs of a store in this process.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u64,
    /// How many failures there had been when all leftovers of a dataset were dropped.
    cleared: HashMap<DatasetName, u64>,
}

impl Syncs {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after any panic: every change is of one number.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a sync ended.
    pub(crate) fn note<T, E>(&self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.state().failures += 1;
        }
        result
    }

    /// How many failed.
    pub(crate) fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Whether a sync failed and what had been left of a dataset before may still be there.
    pub(crate) fn are_doubtful(&self, dataset: &DatasetName) -> bool {
        let state = self.state();
        state.cleared.get(dataset).copied().unwrap_or(0) < state.failures
    }

    /// All leftovers of a dataset were dropped after this many failures.
    pub(crate) fn clear(&self, dataset: &DatasetName, failures: u64) {
        self.state().cleared.insert(dataset.clone(), failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_puts_all_datasets_in_doubt_until_each_is_cleared() {
        let syncs = Syncs::default();
        let [first, second] = ["a", "b"].map(|name| DatasetName::new(name).expect("name"));
        syncs.note(Ok::<(), ()>(())).expect("sync");
        assert!(!syncs.are_doubtful(&first));
        syncs.note(Err::<(), ()>(())).expect_err("sync");
        assert!(syncs.are_doubtful(&first) && syncs.are_doubtful(&second));
        let failures = syncs.failures();
        // One more while they are being dropped.
        syncs.note(Err::<(), ()>(())).expect_err("sync");
        syncs.clear(&first, failures);
        assert!(syncs.are_doubtful(&first));
        syncs.clear(&first, syncs.failures());
        assert!(!syncs.are_doubtful(&first) && syncs.are_doubtful(&second));
    }
}
