//! The clocks: boot time for how long something took, real time for judging times of files, a thread's own time for its work.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use understudy_protocol::Timestamp;

/// A change this young may be followed by another with the same time: two ticks of the coarsest kernel clock.
const TICKS: Duration = Duration::from_millis(20);

/// The same where times are kept in whole seconds.
const WHOLE_SECONDS: Duration = Duration::from_secs(2);

/// A moment on the boot clock, which counts while the machine sleeps and is never set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(Duration);

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl Moment {
    /// This moment.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(Duration::new(
            time.tv_sec.unsigned_abs(),
            time.tv_nsec.unsigned_abs() as u32,
        ))
    }

    /// Time passed since.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Time from an earlier moment to this one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole milliseconds passed since.
    pub(crate) fn elapsed_milliseconds(self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How long the calling thread has worked, whatever else the machine did meanwhile.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The real time, by the clock that the kernel stamps files with.
pub(crate) fn now() -> Timestamp {
    let time = clock_gettime(ClockId::Realtime);
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec.unsigned_abs() as u32,
    }
}

/// Whether a change time proves that nothing changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It does.
    Yes,
    /// It is too young, or belongs to another state than the one that was recorded.
    No,
}

/// Whether a change stamped `changed` was over before `looked`: a later one would have another stamp.
pub(crate) fn settled(changed: Timestamp, looked: Timestamp) -> Settled {
    let nanoseconds =
        |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    // Some file systems keep whole seconds only.
    let ticks = if changed.nanoseconds == 0 {
        WHOLE_SECONDS
    } else {
        TICKS
    };
    let is_over = nanoseconds(changed) + (ticks.as_nanos() as i128) < nanoseconds(looked);
    if is_over { Settled::Yes } else { Settled::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_same_tick_is_not_settled() {
        let at = |seconds, nanoseconds| Timestamp {
            seconds,
            nanoseconds,
        };
        assert_eq!(settled(at(5, 0), at(5, 19_000_000)), Settled::No);
        assert_eq!(
            settled(at(5, 0), at(4, 0)),
            Settled::No,
            "a clock that was set back"
        );
        assert_eq!(settled(at(4, 999_000_000), at(5, 20_000_000)), Settled::Yes);
        assert_eq!(
            settled(at(5, 0), at(6, 500_000_000)),
            Settled::No,
            "times may be kept in whole seconds"
        );
        assert_eq!(settled(at(5, 0), at(7, 1)), Settled::Yes);
        assert_eq!(settled(at(i64::MIN, 0), at(0, 0)), Settled::Yes);
    }
}
