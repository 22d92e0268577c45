//! Making what was written durable while more comes: the disk works meanwhile, and the sync in the end has little left to do, so
//! that the estimate of the time that is left is right about it too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::build::Build;
use crate::clock::Moment;
use crate::error::AgentError;

/// Writing back starts after this much was written.
const FLUSH_BYTES: u64 = 64 << 20;
/// Nothing is fetched while more than this waits to be written back. A disk that is slower than the link is so from the beginning,
/// and not only in the end.
const UNWRITTEN_BYTES: u64 = 256 << 20;
/// How often the flusher looks, and who waits for it.
const PAUSE: Duration = Duration::from_millis(20);

/// How the flusher and those it works for tell each other of their end.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    ended: AtomicBool,
    failed: AtomicBool,
    /// How much is durable.
    flushed: AtomicU64,
}

impl Flushing {
    /// The flusher ends when this is dropped, however that comes about.
    pub(super) fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    /// Whether something could not be written back: what comes now is of no use.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Waits until the disk has caught up.
    pub(super) fn wait(&self, build: &Build<'_>) -> Result<(), AgentError> {
        let progress = &build.context.progress;
        let is_behind = || {
            let flushed = self.flushed.load(Ordering::Acquire);
            progress.bytes_done().saturating_sub(flushed) > UNWRITTEN_BYTES
        };
        while is_behind() && !self.has_failed() {
            build.context.cancel.check()?;
            thread::park_timeout(PAUSE);
        }
        Ok(())
    }

    /// Makes durable what is written, now and then, until the end. An error is final: what could not be written is lost, and the next
    /// run must look at everything.
    pub(super) fn run(&self, build: &Build<'_>) -> Result<(), AgentError> {
        let progress = &build.context.progress;
        let mut flushed = progress.bytes_done();
        self.flushed.store(flushed, Ordering::Release);
        while !self.ended.load(Ordering::Acquire) {
            let written = progress.bytes_done();
            if written - flushed < FLUSH_BYTES {
                thread::park_timeout(PAUSE);
                continue;
            }
            flushed = written;
            let began = Moment::now();
            build.work.directory.sync_file_system().inspect_err(|_| {
                self.failed.store(true, Ordering::Release);
            })?;
            progress.flushed(began.elapsed());
            self.flushed.store(flushed, Ordering::Release);
        }
        Ok(())
    }
}

/// Ends the flusher.
pub(super) struct Ending<'a>(&'a Flushing);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}
