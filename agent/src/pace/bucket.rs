//! The arithmetic of a bandwidth limit. Knows neither clocks nor threads: the present is given to it.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// In a pause, the worth of a second divided by this may be saved up: a tenth of a second.
const SAVED: i128 = 10;
/// Credit is counted in billionths of a byte: nanoseconds times bytes per second, without rounding.
const PER_BYTE: i128 = 1_000_000_000;

/// Credit that grows with time and is spent in bytes.
///
/// It may be overdrawn by one frame: a frame is never held back because it is larger than what can be saved, only
/// the one after it waits until the debt is paid.
#[derive(Debug)]
pub(super) struct Bucket {
    credit: i128,
    at: Instant,
}

impl Bucket {
    /// One without credit or debt.
    pub(super) fn new(now: Instant) -> Self {
        Self { credit: 0, at: now }
    }

    /// Takes `bytes` at `rate` bytes per second, or returns how long to wait before it is worth trying again.
    pub(super) fn take(&mut self, now: Instant, rate: NonZeroU64, bytes: u64) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let earned = i128::try_from(passed)
            .unwrap_or(i128::MAX)
            .saturating_mul(i128::from(rate.get()));
        self.at = self.at.max(now);
        self.credit = self
            .credit
            .saturating_add(earned)
            .min(i128::from(rate.get()) * PER_BYTE / SAVED);
        if self.credit >= 0 {
            self.credit -= i128::from(bytes) * PER_BYTE;
            return None;
        }
        let nanoseconds = self.credit.unsigned_abs().div_ceil(u128::from(rate.get()));
        Some(Duration::from_nanos(
            u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILOBYTE: u64 = 1000;

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).expect("not zero")
    }

    #[test]
    fn a_frame_goes_at_once_and_the_next_waits_until_it_is_paid() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.take(at(0), rate(KILOBYTE), 500), None);
        assert_eq!(
            bucket.take(at(0), rate(KILOBYTE), 1),
            Some(Duration::from_millis(500))
        );
        assert_eq!(
            bucket.take(at(499), rate(KILOBYTE), 1),
            Some(Duration::from_millis(1))
        );
        assert_eq!(bucket.take(at(500), rate(KILOBYTE), 1), None);
    }

    #[test]
    fn a_pause_saves_a_tenth_of_a_second_and_no_more() {
        let start = Instant::now();
        let later = start + Duration::from_secs(3600);
        let mut bucket = Bucket::new(start);
        for _ in 0..11 {
            assert_eq!(bucket.take(later, rate(KILOBYTE), 10), None);
        }
        assert_eq!(
            bucket.take(later, rate(KILOBYTE), 10),
            Some(Duration::from_millis(10)),
            "100 saved bytes and the frame that overdraws"
        );
    }

    #[test]
    fn over_time_the_rate_is_met_whatever_the_sizes() {
        let (start, rate) = (Instant::now(), rate(5_000_000));
        let (mut now, mut bucket, mut sent) = (start, Bucket::new(start), 0);
        let mut random = 1_u64;
        while sent < 100_000_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
            let size = (random >> 32) % 1_100_000;
            while let Some(wait) = bucket.take(now, rate, size) {
                now += wait;
            }
            sent += size;
        }
        let seconds = (now - start).as_secs_f64();
        assert!(
            (19.7..=20.0).contains(&seconds),
            "{seconds} s for 20 s' worth"
        );
    }

    #[test]
    fn a_rate_that_changes_counts_from_then_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.take(start, rate(KILOBYTE), 3600 * KILOBYTE), None);
        assert_eq!(
            bucket.take(start, rate(KILOBYTE), 1),
            Some(Duration::from_secs(3600))
        );
        assert_eq!(
            bucket.take(start, rate(3600 * KILOBYTE), 1),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn extremes_neither_overflow_nor_let_anything_through() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.take(start, rate(1), u64::MAX), None);
        assert_eq!(
            bucket.take(start, rate(1), 1),
            Some(Duration::from_nanos(u64::MAX))
        );
        let century = start + Duration::from_secs(100 * 365 * 86400);
        assert_eq!(bucket.take(century, rate(u64::MAX), u64::MAX), None);
        assert_eq!(
            bucket.take(start, rate(u64::MAX), 1),
            Some(Duration::from_millis(900)),
            "time that seems to run back earns nothing"
        );
    }
}
