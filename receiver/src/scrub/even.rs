//! When a pass is due, how fast it goes, and whose turn it is: a decision from sizes and times alone.

use std::time::Duration;

use super::Plan;

/// A dataset that was never read since it came is due after this: every content was hashed as it came.
const FIRST: Duration = Duration::from_secs(24 * 60 * 60);
/// A pass aims to be done after this part of its time, in percent: what comes meanwhile is read too, and hosts are off at times.
const AIM_PERCENT: u64 = 80;

/// What is known of one dataset's passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// When the store began to have it.
    pub(super) made_seconds: i64,
    /// When the last pass began that has ended.
    pub(super) last_seconds: Option<i64>,
    /// When a pass began that could not end.
    pub(super) failed_seconds: Option<i64>,
}

/// When the next pass is due.
pub(super) fn due_seconds(plan: &Plan, times: Times) -> i64 {
    let soon = seconds(plan.every.min(FIRST));
    let regular = match times.last_seconds {
        Some(last) => last.saturating_add(seconds(plan.every)),
        None => times.made_seconds.saturating_add(soon),
    };
    let again = times
        .failed_seconds
        .map(|failed| failed.saturating_add(soon));
    regular.max(again.unwrap_or(i64::MIN))
}

/// How far a pass that runs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(super) since_seconds: i64,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
}

impl Run {
    /// How much of its time is over, less how much of its work is done, in millionths: who has most is next.
    pub(super) fn behind(&self, plan: &Plan, now_seconds: i64) -> i64 {
        let part = |of: u64, whole: u64| {
            let part = u128::from(of) * 1_000_000 / u128::from(whole.max(1));
            i64::try_from(part).unwrap_or(i64::MAX)
        };
        let age = now_seconds.saturating_sub(self.since_seconds).max(0);
        part(age.unsigned_abs(), aim_seconds(plan))
            .saturating_sub(part(self.done_bytes, self.total_bytes))
    }

    /// Bytes per second that are left to do.
    fn rate(&self, plan: &Plan, now_seconds: i64) -> u64 {
        let left = self.total_bytes.saturating_sub(self.done_bytes);
        // A clock that was set back gives nobody more time than there is.
        let age = now_seconds.saturating_sub(self.since_seconds).max(0);
        let time = aim_seconds(plan).saturating_sub(age.unsigned_abs());
        left / time.max(1)
    }
}

/// The rate of all passes together.
pub(super) fn bytes_per_second(plan: &Plan, runs: &[Run], now_seconds: i64) -> u64 {
    let rates = runs.iter().map(|run| run.rate(plan, now_seconds));
    let needed = rates.fold(0, u64::saturating_add);
    // The cap counts, also where somebody set both wrongly.
    needed.max(plan.least_bytes).min(plan.most_bytes)
}

fn aim_seconds(plan: &Plan) -> u64 {
    (plan.every.as_secs() * AIM_PERCENT / 100).max(1)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn plan() -> Plan {
        Plan {
            every: Duration::from_secs(30 * 86_400),
            least_bytes: 1_000_000,
            most_bytes: 100_000_000,
            ..Plan::default()
        }
    }

    fn run(done_bytes: u64, total_bytes: u64) -> Run {
        Run {
            since_seconds: 0,
            done_bytes,
            total_bytes,
        }
    }

    #[test]
    fn a_pass_goes_evenly_and_is_done_in_time_within_the_bounds() {
        let terabytes = |number: u64| number * 1_000_000_000_000;
        let rate = |run: Run, day: i64| bytes_per_second(&plan(), &[run], day * DAY);
        // 20 TB in 24 days.
        assert_eq!(rate(run(0, terabytes(20)), 0), 9_645_061);
        assert_eq!(rate(run(terabytes(10), terabytes(20)), 12), 9_645_061);
        assert_eq!(rate(run(0, 10_000_000), 0), 1_000_000, "never slower");
        assert_eq!(rate(run(0, terabytes(20)), 23), 100_000_000, "never faster");
        assert_eq!(rate(run(0, terabytes(20)), 99), 100_000_000);
        assert_eq!(rate(run(0, terabytes(20)), -99), 9_645_061);
        let both = [run(0, terabytes(20)), run(0, terabytes(2))];
        assert_eq!(bytes_per_second(&plan(), &both, 0), 9_645_061 + 964_506);
    }

    #[test]
    fn whoever_is_most_behind_is_next_however_large() {
        let small = run(10, 100);
        let large = run(15_000_000, 100_000_000);
        assert!(small.behind(&plan(), DAY) > large.behind(&plan(), DAY));
        let later = Run {
            since_seconds: 10 * DAY,
            ..small
        };
        assert!(small.behind(&plan(), 12 * DAY) > later.behind(&plan(), 12 * DAY));
    }

    #[test]
    fn a_pass_is_due_in_its_time_and_soon_after_one_that_failed() {
        let due = |made, last, failed| {
            let times = Times {
                made_seconds: made,
                last_seconds: last,
                failed_seconds: failed,
            };
            due_seconds(&plan(), times) / DAY
        };
        assert_eq!(due(5 * DAY, None, None), 6);
        assert_eq!(due(5 * DAY, None, Some(6 * DAY)), 7);
        assert_eq!(due(5 * DAY, Some(6 * DAY), None), 36);
        assert_eq!(due(5 * DAY, Some(6 * DAY), Some(36 * DAY)), 37);
    }
}
