//! What a session still does after its snapshot was acknowledged, and who has to wait for it.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use understudy_protocol::DatasetName;

/// The datasets of this process that are being tidied up after a commit.
#[derive(Debug, Default)]
pub(crate) struct Housekeeping {
    busy: Mutex<HashSet<DatasetName>>,
    ended: Condvar,
}

/// Ends the housekeeping of a dataset when dropped; release the dataset's lock before.
#[derive(Debug)]
pub(crate) struct Tidying<'a> {
    housekeeping: &'a Housekeeping,
    dataset: DatasetName,
}

impl Housekeeping {
    fn busy(&self) -> MutexGuard<'_, HashSet<DatasetName>> {
        // A set of names is whole after any panic.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins; hold the dataset's lock.
    pub(crate) fn begin(&self, dataset: &DatasetName) -> Tidying<'_> {
        self.busy().insert(dataset.clone());
        Tidying {
            housekeeping: self,
            dataset: dataset.clone(),
        }
    }

    /// Waits until the dataset is tidy, so that an agent that comes back at once is not taken for a second one.
    pub(crate) fn wait(&self, dataset: &DatasetName) {
        let mut busy = self.busy();
        while busy.contains(dataset) {
            busy = self
                .ended
                .wait(busy)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the dataset is being tidied up.
    pub(crate) fn is_on(&self, dataset: &DatasetName) -> bool {
        self.busy().contains(dataset)
    }
}

impl Drop for Tidying<'_> {
    fn drop(&mut self) {
        self.housekeeping.busy().remove(&self.dataset);
        self.housekeeping.ended.notify_all();
    }
}
