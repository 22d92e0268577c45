//! What somebody wishes of running calls: that they end, or that a daemon reads its configuration again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::AgentError;

/// Tells running calls what is wished; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    end: AtomicBool,
    reload: AtomicBool,
    /// How often somebody looked.
    looks: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Cancel {
    /// Asks everything that holds this to end with [`AgentError::Interrupted`].
    pub fn cancel(&self) {
        self.0.end.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether somebody asked for the end.
    pub fn is_cancelled(&self) -> bool {
        self.0.end.load(Ordering::Relaxed)
    }

    /// Asks a daemon to read its configuration again.
    pub fn reload(&self) {
        self.0.reload.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// How often work looked at these wishes: a number that stands still for long means that work does.
    pub fn looks(&self) -> u64 {
        self.0.looks.load(Ordering::Relaxed)
    }

    /// Whether somebody asked for the configuration to be read again since the last call.
    pub(crate) fn take_reload(&self) -> bool {
        self.0.reload.swap(false, Ordering::Relaxed)
    }

    /// [`AgentError::Interrupted`] once somebody asked for the end.
    pub fn check(&self) -> Result<(), AgentError> {
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        if self.is_cancelled() {
            Err(AgentError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits for a wish, at most as long as given.
    pub(crate) fn wait(&self, at_most: Duration) -> Result<(), AgentError> {
        self.check()?;
        let guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let is_quiet = |_: &mut ()| !self.is_cancelled() && !self.0.reload.load(Ordering::Relaxed);
        drop(
            self.0
                .changed
                .wait_timeout_while(guard, at_most, is_quiet)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.check()
    }

    fn wake(&self) {
        // Nobody is between looking and waiting while this is held.
        let _guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wish_ends_a_wait_at_once() {
        let cancel = Cancel::default();
        let waiting = cancel.clone();
        let started = Instant::now();
        let thread = std::thread::spawn(move || waiting.wait(Duration::from_secs(3600)));
        cancel.reload();
        assert!(thread.join().expect("thread").is_ok());
        assert!(cancel.take_reload() && !cancel.take_reload());
        cancel.cancel();
        assert!(cancel.wait(Duration::from_secs(3600)).is_err());
        assert!(started.elapsed() < Duration::from_secs(600));
    }
}
