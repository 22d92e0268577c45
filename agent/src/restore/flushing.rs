//! Making what was written durable while more comes: the disk works meanwhile, and the sync in the end has little left to do, so
//! that the estimate of the time that is left is right about it too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::build::Build;
use crate::clock::Moment;
use crate::error::AgentError;

/// Writing back starts after this much was written.
const FLUSH_BYTES: u64 = 64 << 20;
/// How often the flusher looks.
const PAUSE: Duration = Duration::from_millis(20);

/// How the flusher and those it works for tell each other of their end.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    ended: AtomicBool,
    failed: AtomicBool,
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

    /// Makes durable what is written, now and then, until the end. An error is final: what could not be written is lost, and the next
    /// run must look at everything.
    pub(super) fn run(&self, build: &Build<'_>) -> Result<(), AgentError> {
        let progress = &build.context.progress;
        let mut flushed = progress.bytes_done();
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
