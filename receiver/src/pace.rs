//! Reading at a rate: how long to wait after so many bytes.

use std::time::{Duration, Instant};

/// A reader that was held up may catch up on so much at full speed.
const CREDIT: Duration = Duration::from_secs(1);

/// When the next bytes are due; by a clock that the caller has.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    due: Duration,
}

impl Throttle {
    /// How long to wait at `now` after `bytes` were read.
    pub(crate) fn wait(&mut self, bytes: u64, bytes_per_second: u64, now: Duration) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        let took = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let earliest = now.saturating_sub(CREDIT);
        self.due = self.due.max(earliest).saturating_add(took);
        self.due.saturating_sub(now)
    }
}

/// Waits by the clock of this host.
#[derive(Debug)]
pub(crate) struct Pacer {
    throttle: Throttle,
    bytes_per_second: u64,
    started: Instant,
}

impl Pacer {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self {
            throttle: Throttle::default(),
            bytes_per_second,
            started: Instant::now(),
        }
    }

    /// Waits until as much could have been read at the rate.
    pub(crate) fn spend(&mut self, bytes: u64) {
        let now = self.started.elapsed();
        let wait = self.throttle.wait(bytes, self.bytes_per_second, now);
        let end = self.started + now + wait;
        // Somebody else's wake-up is no reason to go on.
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_and_a_pause_is_caught_up_with_only_a_little() {
        let mut throttle = Throttle::default();
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            now += throttle.wait(500_000, 1_000_000, now);
        }
        assert!((49.0..=50.0).contains(&now.as_secs_f64()), "{now:?}");
        now += Duration::from_secs(3600);
        let before = now;
        for _ in 0..100 {
            now += throttle.wait(500_000, 1_000_000, now);
        }
        let took = (now - before).as_secs_f64();
        assert!((48.9..=49.1).contains(&took), "{took}");
    }
}
