//! Which commits are being applied in this process: whoever has time waits for them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
#[derive(Debug, Default)]
pub(crate) struct Committing(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Applied<'a>(&'a AtomicUsize);

impl Committing {
    pub(crate) fn begin(&self) -> Applied<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Applied(&self.0)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
