//! How long writers wait, each in a session of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 20;

/// What writers waited for single rows.
#[derive(Debug)]
pub(crate) struct Waits {
    all: Vec<Duration>,
}

impl Waits {
    pub(crate) fn longest(&self) -> Duration {
        self.all.last().copied().unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// In milliseconds: how many, the one in the middle, the longest but for one of a thousand, the longest.
    pub(crate) fn words(&self) -> String {
        let at = |part: usize| {
            let index = self.all.len() * part / 1000;
            let wait = self.all.get(index.min(self.all.len().saturating_sub(1)));
            wait.copied().unwrap_or_default().as_secs_f64() * 1000.0
        };
        let longest = self.longest().as_secs_f64() * 1000.0;
        format!(
            "{} rows, waits in ms: median {:.1}, 99.9 % {:.1}, longest {longest:.1}",
            self.all.len(),
            at(500),
            at(999),
        )
    }
}

/// Does something while twenty sessions write row after row, with 5 ms in between.
pub(crate) fn amid<S: Send, T>(
    session: impl Fn() -> S,
    write: impl Fn(&mut S) + Sync,
    does: impl FnOnce() -> T,
) -> (T, Waits) {
    let is_over = AtomicBool::new(false);
    let all = Mutex::new(Vec::new());
    let sessions: Vec<_> = (0..WRITERS).map(|_| session()).collect();
    let done = std::thread::scope(|scope| {
        for mut session in sessions {
            let (is_over, all, write) = (&is_over, &all, &write);
            scope.spawn(move || {
                let mut own = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    write(&mut session);
                    own.push(started.elapsed());
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                all.lock().unwrap().extend(own);
            });
        }
        let done = does();
        is_over.store(true, Ordering::Relaxed);
        done
    });
    let mut all = all.into_inner().unwrap();
    all.sort();
    (done, Waits { all })
}
