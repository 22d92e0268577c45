//! Whether the clock can be believed: retention is by time, and a clock that jumped would end everything at once.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{dataset, marker};

/// Clocks are corrected by so much all the time.
const SLACK_SECONDS: i64 = 60;
/// A machine may be paused for so long without its boot clock going on.
const PAUSE_SECONDS: i64 = 2 * 60 * 60;
/// A machine may be off for so long.
const OFF_SECONDS: i64 = 30 * 24 * 60 * 60;

/// One moment by all clocks of the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// The boot of the machine, as the kernel names it; empty if it does not.
    pub boot: String,
    /// Seconds since then, by a clock that runs through sleep and is never set.
    pub boot_seconds: i64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self {
            seconds: dataset::now_seconds(),
            boot: marker::boot(),
            boot_seconds: clock_gettime(ClockId::Boottime).tv_sec,
        }
    }

    /// The moment that is so much later.
    pub(crate) fn after(&self, elapsed: Duration) -> Self {
        let seconds = i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX);
        Self {
            seconds: self.seconds.saturating_add(seconds),
            boot: self.boot.clone(),
            boot_seconds: self.boot_seconds.saturating_add(seconds),
        }
    }

    /// Why the clock cannot be believed, if so. `before` is the last moment at which it was, and `commits` are the
    /// snapshots with their times.
    pub(crate) fn doubt(
        &self,
        before: Option<&Self>,
        commits: impl IntoIterator<Item = (u64, i64)>,
    ) -> Option<String> {
        let by_itself = before.and_then(|before| self.doubt_since(before));
        let by_commits = || {
            let future = commits
                .into_iter()
                .find(|(_, seconds)| *seconds > self.seconds.saturating_add(SLACK_SECONDS));
            future.map(|(number, seconds)| {
                format!(
                    "snapshot {number} is from the future ({}): the clock is wrong now, or was then",
                    time(seconds)
                )
            })
        };
        by_itself.or_else(by_commits)
    }

    fn doubt_since(&self, before: &Self) -> Option<String> {
        let passed = self.seconds.saturating_sub(before.seconds);
        if passed < -SLACK_SECONDS {
            return Some(format!(
                "the clock says {}, and said {} before: it was set back",
                time(self.seconds),
                time(before.seconds)
            ));
        }
        if self.boot == before.boot && !self.boot.is_empty() {
            let jumped = passed - self.boot_seconds.saturating_sub(before.boot_seconds);
            return (jumped > PAUSE_SECONDS).then(|| {
                format!(
                    "the clock went on by {jumped} seconds more than have passed since {}: it was set forward",
                    time(before.seconds)
                )
            });
        }
        (passed > OFF_SECONDS).then(|| {
            format!(
                "{} days have passed since {}, and the machine was restarted: nothing says that the clock is right",
                passed / 86_400,
                time(before.seconds)
            )
        })
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn moment(seconds: i64, boot: &str, boot_seconds: i64) -> Moment {
        Moment {
            seconds,
            boot: boot.to_owned(),
            boot_seconds,
        }
    }

    #[test]
    fn clocks_that_jump_are_not_believed_and_those_that_run_are() {
        let before = moment(1_000_000_000, "a", 5_000);
        let after = |seconds, boot: &str, boot_seconds| {
            moment(before.seconds + seconds, boot, boot_seconds).doubt(Some(&before), [])
        };
        assert_eq!(after(3_600, "a", 8_600), None);
        assert_eq!(after(-5, "a", 5_010), None);
        assert_eq!(after(100 * DAY, "a", 5_000 + 100 * DAY), None);
        assert_eq!(after(20 * DAY, "b", 10), None);
        let is_doubted = |found: Option<String>, word: &str| {
            let found = found.expect("a doubt");
            assert!(found.contains(word), "{found}");
        };
        is_doubted(after(-3_600, "a", 8_600), "set back");
        is_doubted(after(-3_600, "b", 10), "set back");
        is_doubted(after(3_650 * DAY, "a", 8_600), "set forward");
        is_doubted(after(DAY, "a", 8_600), "set forward");
        is_doubted(after(3_650 * DAY, "b", 10), "restarted");
        // Where the kernel names no boot, every time counts as after a restart.
        assert_eq!(moment(DAY, "", 0).doubt(Some(&moment(0, "", 0)), []), None);
    }

    #[test]
    fn snapshots_from_the_future_are_a_doubt_of_their_own() {
        let now = moment(1_000, "a", 10);
        assert_eq!(now.doubt(None, [(1, 900), (2, 1_030)]), None);
        let found = now.doubt(None, [(1, 900), (2, 5_000), (3, 950)]);
        assert!(found.expect("a doubt").contains("snapshot 2"));
    }
}
