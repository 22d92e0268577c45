//! What a session still does after its snapshot was acknowledged, and how the next one makes it stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use understudy_protocol::DatasetName;

/// Tells work that can be carried on later to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The datasets of this process that are being tidied up after a commit.
#[derive(Debug, Default)]
pub(crate) struct Housekeeping {
    busy: Mutex<HashMap<DatasetName, Stop>>,
    ended: Condvar,
}

/// Ends the housekeeping of a dataset when dropped; release the dataset's lock before.
#[derive(Debug)]
pub(crate) struct Tidying<'a> {
    housekeeping: &'a Housekeeping,
    dataset: DatasetName,
    pub(crate) stop: Stop,
}

impl Housekeeping {
    fn busy(&self) -> MutexGuard<'_, HashMap<DatasetName, Stop>> {
        // A map of flags is whole after any panic.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins; hold the dataset's lock.
    pub(crate) fn begin(&self, dataset: &DatasetName) -> Tidying<'_> {
        let stop = Stop::default();
        self.busy().insert(dataset.clone(), stop.clone());
        Tidying {
            housekeeping: self,
            dataset: dataset.clone(),
            stop,
        }
    }

    /// Makes it stop and waits for that, so that an agent that comes back at once is not taken for a second one.
    pub(crate) fn interrupt(&self, dataset: &DatasetName) {
        let mut busy = self.busy();
        while let Some(stop) = busy.get(dataset) {
            stop.ask();
            busy = self
                .ended
                .wait(busy)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the dataset is being tidied up.
    pub(crate) fn is_on(&self, dataset: &DatasetName) -> bool {
        self.busy().contains_key(dataset)
    }
}

impl Drop for Tidying<'_> {
    fn drop(&mut self) {
        self.housekeeping.busy().remove(&self.dataset);
        self.housekeeping.ended.notify_all();
    }
}
