//! The directories still to be looked at: last in, first out, so that it stays short and the work stays near.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Task;

/// Shared by all workers; they end when it is empty and nobody can add to it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Task>,
    busy: usize,
    stopped: bool,
}

impl Queue {
    /// A queue with these tasks.
    pub(crate) fn new(tasks: Vec<Task>) -> Self {
        Self {
            state: Mutex::new(State {
                tasks,
                busy: 0,
                stopped: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Whether there is nothing to do from the start.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().tasks.is_empty()
    }

    /// The next task, counted as being worked on; waits while there may be more.
    pub(crate) fn take(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(task) = state.tasks.pop() {
                state.busy += 1;
                return Some(task);
            }
            if state.busy == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A task is done and led to these.
    pub(crate) fn done(&self, found: Vec<Task>) {
        let mut state = self.lock();
        state.busy -= 1;
        state.tasks.extend(found.into_iter().rev());
        drop(state);
        self.changed.notify_all();
    }

    /// Sends all workers home, after an error.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
