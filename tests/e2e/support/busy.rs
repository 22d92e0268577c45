//! A program that writes while something else happens.

use std::sync::atomic::{AtomicBool, Ordering};

/// Does `busy` again and again on a thread of its own while `meanwhile` runs.
pub(crate) fn while_busy<T>(busy: impl FnMut(u64) + Send, meanwhile: impl FnOnce() -> T) -> T {
    let (mut busy, is_over) = (busy, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                busy(round);
            }
        });
        let over = Over(&is_over);
        let result = meanwhile();
        drop(over);
        result
    })
}

/// Ends the thread even if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
