//! Where workers wait until the bandwidth limit lets their frames go.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bandwidth::Bandwidth;
use super::bucket::Bucket;
use crate::Cancel;
use crate::error::AgentError;

/// How soon a wait notices that somebody asked for the end, and that another hour has struck.
const PATIENCE: Duration = Duration::from_millis(50);

/// One limit for all workers, which are served in the order in which they come.
#[derive(Debug)]
pub(super) struct Throttle {
    bandwidth: Bandwidth,
    queue: Mutex<Queue>,
    /// Somebody left the queue.
    moved: Condvar,
}

#[derive(Debug)]
struct Queue {
    bucket: Bucket,
    /// Numbers of those who wait; the first one is next.
    waiting: VecDeque<u64>,
    next_number: u64,
    waited: Duration,
}

impl Throttle {
    pub(super) fn new(bandwidth: Bandwidth) -> Self {
        Self {
            bandwidth,
            queue: Mutex::new(Queue {
                bucket: Bucket::new(Instant::now()),
                waiting: VecDeque::new(),
                next_number: 0,
                waited: Duration::ZERO,
            }),
            moved: Condvar::new(),
        }
    }

    /// Returns once `bytes` may be sent.
    pub(super) fn spend(&self, bytes: u64, cancel: &Cancel) -> Result<(), AgentError> {
        if self.bandwidth.is_unlimited() {
            return Ok(());
        }
        let mut queue = self.lock();
        let number = queue.next_number;
        queue.next_number += 1;
        queue.waiting.push_back(number);
        let result = loop {
            if let Err(interrupted) = cancel.check() {
                break Err(interrupted);
            }
            let is_next = queue.waiting.front() == Some(&number);
            let wait = if is_next {
                match self.take(&mut queue.bucket, bytes) {
                    None => break Ok(()),
                    Some(wait) => wait.min(PATIENCE),
                }
            } else {
                PATIENCE
            };
            let since = Instant::now();
            (queue, _) = self
                .moved
                .wait_timeout(queue, wait)
                .unwrap_or_else(PoisonError::into_inner);
            if is_next {
                queue.waited += since.elapsed();
            }
        };
        queue.waiting.retain(|&waiting| waiting != number);
        drop(queue);
        self.moved.notify_all();
        result
    }

    fn take(&self, bucket: &mut Bucket, bytes: u64) -> Option<Duration> {
        let now = Instant::now();
        match self.bandwidth.now() {
            Some(rate) => bucket.take(now, rate, bytes),
            None => {
                // Debts end with the hours that made them.
                *bucket = Bucket::new(now);
                None
            }
        }
    }

    /// Time since the last [`Throttle::reset`] in which frames were ready and had to wait.
    pub(super) fn waited(&self) -> Duration {
        self.lock().waited
    }

    /// Counts the time from here.
    pub(super) fn reset(&self) {
        self.lock().waited = Duration::ZERO;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::pace::tests::until;

    fn throttle(rate: u64) -> Throttle {
        Throttle::new(Bandwidth {
            usual: NonZeroU64::new(rate),
            hours: Vec::new(),
        })
    }

    #[test]
    fn a_wait_that_would_take_years_ends_when_cancelled() {
        let throttle = Arc::new(throttle(1));
        let cancel = Cancel::default();
        throttle.spend(u64::MAX, &cancel).expect("the first goes");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (throttle, cancel) = (Arc::clone(&throttle), cancel.clone());
                thread::spawn(move || throttle.spend(1, &cancel))
            })
            .collect();
        until(|| throttle.lock().waiting.len() == 3);
        cancel.cancel();
        for worker in waiting {
            let result = worker.join().expect("thread");
            assert!(matches!(result, Err(AgentError::Interrupted)));
        }
        assert!(throttle.lock().waiting.is_empty());
    }

    #[test]
    fn who_came_first_goes_first() {
        let throttle = Arc::new(throttle(1000));
        let cancel = Cancel::default();
        throttle.spend(100, &cancel).expect("the first goes");
        let workers: Vec<_> = (1..5)
            .map(|number| {
                let (shared, cancel) = (Arc::clone(&throttle), cancel.clone());
                let worker = thread::spawn(move || {
                    shared.spend(20, &cancel).expect("spend");
                    let queue = shared.lock();
                    let overtaken = queue.waiting.iter().find(|&&waiting| waiting < number);
                    assert_eq!(overtaken, None, "{number} overtook");
                });
                until(|| throttle.lock().next_number > number);
                worker
            })
            .collect();
        for worker in workers {
            worker.join().expect("nobody overtakes");
        }
        assert!(throttle.waited() > Duration::ZERO);
        throttle.reset();
        assert_eq!(throttle.waited(), Duration::ZERO);
    }

    /// Takes 3 s: `cargo test -p understudy-agent -- --ignored --nocapture the_rate_is_met_by_all_workers_together`
    #[test]
    #[ignore = "measures real time"]
    fn the_rate_is_met_by_all_workers_together() {
        let throttle = throttle(20_000_000);
        let cancel = Cancel::default();
        let start = Instant::now();
        let finished: Vec<Duration> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            throttle.spend(300_000, &cancel).expect("spend");
                        }
                        start.elapsed()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("thread"))
                .collect()
        });
        eprintln!("60 MB at 20 MB/s by four workers: {finished:?}");
        let bounds = Duration::from_millis(2800)..Duration::from_millis(3300);
        assert!(
            finished.iter().all(|took| bounds.contains(took)),
            "{finished:?}"
        );
    }
}
