//! One sync of the store's file system for all who want one at about the same time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// The syncs of one command.
#[derive(Debug, Default)]
pub struct Together {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Syncs that have begun.
    begun: u64,
    is_running: bool,
    /// Those that failed.
    failed: Vec<u64>,
}

impl Together {
    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything durable that was written before.
    pub(super) fn sync(&self, dataset: &Dataset) -> Result<(), ReceiverError> {
        self.join(|| dataset.sync()).unwrap_or_else(|| {
            Err(ReceiverError::Damaged(
                "the file system of the store could not be synced".to_owned(),
            ))
        })
    }

    /// Does the work, or has somebody else do it who begins from now on; `None` if that failed there.
    fn join(
        &self,
        work: impl FnOnce() -> Result<(), ReceiverError>,
    ) -> Option<Result<(), ReceiverError>> {
        let mut state = self.state();
        let wanted = state.begun + 1;
        while state.is_running {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.begun >= wanted {
            return (!state.failed.contains(&wanted)).then_some(Ok(()));
        }
        state.begun = wanted;
        state.is_running = true;
        drop(state);
        let result = work();
        let mut state = self.state();
        state.is_running = false;
        if result.is_err() {
            state.failed.push(wanted);
        }
        drop(state);
        self.ended.notify_all();
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn whoever_comes_while_one_runs_has_the_next_one_with_all_others() {
        let (together, syncs) = (Together::default(), AtomicU64::new(0));
        let (begun, has_begun) = sync_channel(0);
        let (go_on, may_go_on) = sync_channel::<()>(0);
        let (all, counted) = (&together, &syncs);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let first = all.join(|| {
                    begun.send(()).expect("begun");
                    may_go_on.recv().expect("go on");
                    Err(ReceiverError::Worker)
                });
                assert!(matches!(first, Some(Err(_))));
            });
            has_begun.recv().expect("begun");
            let others: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(move || {
                        all.join(|| {
                            counted.fetch_add(1, Ordering::Relaxed);
                            Ok(())
                        })
                    })
                })
                .collect();
            go_on.send(()).expect("go on");
            for other in others {
                let result = other.join().expect("joined");
                assert!(matches!(result, Some(Ok(()))), "of one that began later");
            }
        });
        // Whoever came after the second had begun may have needed a third.
        let syncs = syncs.load(Ordering::Relaxed);
        assert!((1..=8).contains(&syncs), "{syncs}");
    }
}
