//! Which snapshots stay: a decision from times, pins and health alone. Knows no catalog, no disk and no clock.
//!
//! A bucket is an hour, a day or a month of UTC. Its representative is the newest healthy snapshot in it, or the newest one if
//! none is healthy. So the representative of a day is that of its hour as well, and who is none never becomes one: pruning in
//! many small steps ends like pruning once.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// What is kept, and for how long. A duration of zero means that there is no such rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Every snapshot.
    pub all: Duration,
    /// One of each hour.
    pub hourly: Duration,
    /// One of each day.
    pub daily: Duration,
    /// One of each month.
    pub monthly: Duration,
    /// No snapshot goes before it has this age, whatever the other rules say.
    pub minimum_age: Duration,
    /// So many of the newest healthy snapshots stay however old they are: a main that sends nothing, or what is worth
    /// nothing, does not age them out.
    pub newest: NonZeroU32,
    /// How long an expired snapshot is flagged before it goes.
    pub grace: Duration,
    /// What has been in history for so long is compressed.
    pub compress_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * DAY.unsigned_abs());
        Self {
            all: days(1),
            hourly: days(7),
            daily: days(30),
            monthly: days(365),
            minimum_age: days(1),
            newest: NonZeroU32::MIN.saturating_add(2),
            grace: days(3),
            compress_after: days(7),
        }
    }
}

/// Whether a snapshot is what somebody would like to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// Some of its files may be torn, or are damaged.
    Doubtful,
    /// Nothing is known against it.
    Healthy,
}

/// What the decision needs to know of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) number: u64,
    /// By the receiver's clock.
    pub(crate) committed_seconds: i64,
    pub(crate) health: Health,
    pub(crate) pin: Pin,
}

/// Whether somebody said that a snapshot must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pin {
    Pinned,
    Free,
}

/// The first rule that keeps a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is live.
    Head,
    /// Somebody pinned it.
    Pinned,
    /// It is among the newest healthy ones.
    Newest,
    /// It is too young for any rule to end it.
    MinimumAge,
    /// Everything of that age stays.
    All,
    /// It stands for its hour.
    Hourly,
    /// It stands for its day.
    Daily,
    /// It stands for its month.
    Monthly,
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept(Reason),
    Expired,
}

/// Decides for all snapshots of a dataset, which must be in the order of their numbers.
pub(crate) fn decide(policy: &Policy, snapshots: &[Candidate], now_seconds: i64) -> Vec<Fate> {
    let newest = newest(snapshots, policy.newest);
    let hourly = representatives(snapshots, |seconds| fixed(seconds, HOUR));
    let daily = representatives(snapshots, |seconds| fixed(seconds, DAY));
    let monthly = representatives(snapshots, month);
    let head = snapshots.len().saturating_sub(1);
    let reason = |index: usize, snapshot: &Candidate| {
        let age = now_seconds.saturating_sub(snapshot.committed_seconds);
        let stands_for = |of: &[Option<i64>], limit: Duration| {
            of[index].is_some_and(|end| within(now_seconds.saturating_sub(end), limit))
        };
        let rules = [
            (index == head, Reason::Head),
            (snapshot.pin == Pin::Pinned, Reason::Pinned),
            (newest[index], Reason::Newest),
            (within(age, policy.minimum_age), Reason::MinimumAge),
            (within(age, policy.all), Reason::All),
            (stands_for(&hourly, policy.hourly), Reason::Hourly),
            (stands_for(&daily, policy.daily), Reason::Daily),
            (stands_for(&monthly, policy.monthly), Reason::Monthly),
        ];
        rules
            .into_iter()
            .find_map(|(keeps, reason)| keeps.then_some(reason))
    };
    let fates = snapshots
        .iter()
        .enumerate()
        .map(|(index, snapshot)| reason(index, snapshot).map_or(Fate::Expired, Fate::Kept));
    fates.collect()
}

/// No rule at all if the limit is zero. What is from the future is younger than anything.
fn within(age_seconds: i64, limit: Duration) -> bool {
    let limit = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    limit > 0 && age_seconds <= limit
}

/// Which snapshots are among the `count` newest healthy ones. Doubtful ones make up the number.
fn newest(snapshots: &[Candidate], count: NonZeroU32) -> Vec<bool> {
    let mut order: Vec<usize> = (0..snapshots.len()).collect();
    order.sort_unstable_by_key(|&index| std::cmp::Reverse((snapshots[index].health, index)));
    let mut is_newest = vec![false; snapshots.len()];
    let count = usize::try_from(count.get()).unwrap_or(usize::MAX);
    order
        .into_iter()
        .take(count)
        .for_each(|index| is_newest[index] = true);
    is_newest
}

/// For each snapshot that stands for its bucket, when that ends. All of a bucket age together, so that none outlives the one
/// that stands for it.
fn representatives(
    snapshots: &[Candidate],
    bucket: impl Fn(i64) -> (i64, i64),
) -> Vec<Option<i64>> {
    let mut best: HashMap<i64, (usize, i64)> = HashMap::new();
    for (index, snapshot) in snapshots.iter().enumerate() {
        let (start, end) = bucket(snapshot.committed_seconds);
        let best = best.entry(start).or_insert((index, end));
        if snapshot.health >= snapshots[best.0].health {
            best.0 = index;
        }
    }
    let mut ends = vec![None; snapshots.len()];
    best.into_values()
        .for_each(|(index, end)| ends[index] = Some(end));
    ends
}

/// Start and end of the bucket of a fixed length that a time is in.
fn fixed(seconds: i64, length: i64) -> (i64, i64) {
    let start = seconds.div_euclid(length).saturating_mul(length);
    (start, start.saturating_add(length))
}

/// Start and end of the month that a time is in.
fn month(seconds: i64) -> (i64, i64) {
    let start_of = |date: Date| Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second());
    let found = || {
        let date = jiff::Timestamp::from_second(seconds)
            .ok()?
            .to_zoned(TimeZone::UTC)
            .date();
        Some((
            start_of(date.first_of_month())?,
            start_of(date.last_of_month().tomorrow().ok()?)?,
        ))
    };
    // What no calendar has is told by nobody but a clock that is wrong.
    found().unwrap_or_else(|| fixed(seconds, 30 * DAY))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// 2026-11-26T00:00:00Z.
    const NOW: i64 = 1_795_651_200;

    fn candidate(number: u64, committed_seconds: i64) -> Candidate {
        Candidate {
            number,
            committed_seconds,
            health: Health::Healthy,
            pin: Pin::Free,
        }
    }

    /// The snapshots that stay.
    fn kept(policy: &Policy, snapshots: &[Candidate], now: i64) -> Vec<Candidate> {
        let fates = decide(policy, snapshots, now);
        let both = snapshots.iter().zip(fates);
        let kept = both.filter(|(_, fate)| *fate != Fate::Expired);
        kept.map(|(snapshot, _)| snapshot.clone()).collect()
    }

    fn numbers(snapshots: &[Candidate]) -> BTreeSet<u64> {
        snapshots.iter().map(|snapshot| snapshot.number).collect()
    }

    #[test]
    fn a_year_of_quarters_of_an_hour_thins_out_as_the_defaults_say() {
        let quarters = 366 * 96;
        let snapshots: Vec<_> = (0..=quarters)
            .map(|index| candidate(index + 1, NOW - (quarters - index) as i64 * 900))
            .collect();
        let fates = decide(&Policy::default(), &snapshots, NOW);
        let count = |reason| {
            fates
                .iter()
                .filter(|fate| **fate == Fate::Kept(reason))
                .count()
        };
        assert_eq!(count(Reason::Head), 1);
        assert_eq!(count(Reason::Newest), 2);
        // 24 hours before now, and the newest three are among the 97 of them.
        assert_eq!(count(Reason::MinimumAge), 97 - 3);
        // Six days of 24 hours, and the hour that ends a week ago.
        assert_eq!(count(Reason::Hourly), 6 * 24 + 1);
        assert_eq!(count(Reason::Daily), 23);
        // The last day of October is one of the 30 days.
        assert_eq!(count(Reason::Monthly), 11);
        let last = fates.iter().filter(|fate| **fate != Fate::Expired).count();
        assert_eq!(last, 97 + 145 + 23 + 11);
    }

    #[test]
    fn the_newest_healthy_ones_stay_however_old_and_however_much_rubbish_follows() {
        let mut snapshots: Vec<_> = (1..=5)
            .map(|number| candidate(number, NOW - 900 * DAY + number as i64))
            .collect();
        let policy = Policy::default();
        assert_eq!(
            numbers(&kept(&policy, &snapshots, NOW)),
            BTreeSet::from([3, 4, 5])
        );
        snapshots.extend((6..1000).map(|number| Candidate {
            health: Health::Doubtful,
            ..candidate(number, NOW - 500 * DAY + number as i64)
        }));
        let found = numbers(&kept(&policy, &snapshots, NOW));
        assert_eq!(found, BTreeSet::from([3, 4, 5, 999]));
    }

    #[test]
    fn a_pin_keeps_what_nothing_else_does_and_the_minimum_age_is_not_shortened() {
        let strict = Policy {
            all: Duration::ZERO,
            hourly: Duration::ZERO,
            daily: Duration::ZERO,
            monthly: Duration::ZERO,
            newest: NonZeroU32::MIN,
            ..Policy::default()
        };
        let pinned = Candidate {
            pin: Pin::Pinned,
            ..candidate(1, 0)
        };
        let snapshots = [
            pinned,
            candidate(2, NOW - DAY - 1),
            candidate(3, NOW - DAY),
            candidate(4, NOW - 5),
        ];
        let fates = decide(&strict, &snapshots, NOW);
        let wanted = [
            Fate::Kept(Reason::Pinned),
            Fate::Expired,
            Fate::Kept(Reason::MinimumAge),
            Fate::Kept(Reason::Head),
        ];
        assert_eq!(fates, wanted);
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let february: i64 = "2028-02-10T12:00:00Z"
            .parse::<jiff::Timestamp>()
            .expect("time")
            .as_second();
        let (start, end) = month(february);
        assert_eq!(end - start, 29 * DAY);
        assert_eq!(month(start), (start, end));
        assert_eq!(month(end - 1), (start, end));
        assert_eq!(month(i64::MAX).0 % (30 * DAY), 0);
    }

    fn snapshots() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (
            // Clocks are set back now and then.
            prop_oneof![10 => 0..3 * DAY, 10 => 0..4000i64, 1 => -40_000..0i64],
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.1),
        );
        prop::collection::vec(one, 1..120).prop_map(|all| {
            let mut seconds = NOW - 300 * DAY;
            let made =
                all.into_iter()
                    .enumerate()
                    .map(|(index, (after, is_doubtful, is_pinned))| {
                        seconds += after;
                        Candidate {
                            number: index as u64 + 1,
                            committed_seconds: seconds,
                            health: if is_doubtful {
                                Health::Doubtful
                            } else {
                                Health::Healthy
                            },
                            pin: if is_pinned { Pin::Pinned } else { Pin::Free },
                        }
                    });
            made.collect()
        })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let length =
            || prop_oneof![Just(0), 1..400_000u64, 1..40_000_000u64].prop_map(Duration::from_secs);
        (
            length(),
            length(),
            length(),
            length(),
            1..200_000u64,
            1..5u32,
        )
            .prop_map(
                |(all, hourly, daily, monthly, minimum_age, newest)| Policy {
                    all,
                    hourly,
                    daily,
                    monthly,
                    minimum_age: Duration::from_secs(minimum_age),
                    newest: NonZeroU32::new(newest).expect("not zero"),
                    ..Policy::default()
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pruning_in_small_steps_ends_like_pruning_once(
            snapshots in snapshots(),
            policy in policy(),
            steps in prop::collection::vec(0..20 * DAY, 0..40),
        ) {
            // What is there at a moment is what was kept before and what came since.
            let (mut there, mut arrived, mut now): (Vec<Candidate>, usize, i64) = (Vec::new(), 0, NOW - 300 * DAY);
            for step in steps {
                now += step;
                while snapshots.get(arrived).is_some_and(|next| next.committed_seconds <= now) {
                    there.push(snapshots[arrived].clone());
                    arrived += 1;
                }
                there = kept(&policy, &there, now);
            }
            there.extend_from_slice(&snapshots[arrived..]);
            let last = snapshots.iter().map(|snapshot| snapshot.committed_seconds).max().unwrap_or(now);
            let end = now.max(last);
            prop_assert_eq!(kept(&policy, &there, end), kept(&policy, &snapshots, end));
        }

        #[test]
        fn something_is_always_kept_and_what_must_stay_stays(snapshots in snapshots(), policy in policy(), later in 0..10_000 * DAY) {
            let kept = numbers(&kept(&policy, &snapshots, NOW + later));
            prop_assert!(kept.contains(&(snapshots.len() as u64)));
            let must = snapshots.iter().filter(|snapshot| {
                snapshot.pin == Pin::Pinned || within(NOW + later - snapshot.committed_seconds, policy.minimum_age)
            });
            prop_assert!(must.into_iter().all(|snapshot| kept.contains(&snapshot.number)));
            let healthy = snapshots.iter().rev().filter(|snapshot| snapshot.health == Health::Healthy);
            let mut newest = healthy.take(policy.newest.get() as usize);
            prop_assert!(newest.all(|snapshot| kept.contains(&snapshot.number)));
        }

        #[test]
        fn a_longer_policy_keeps_at_least_as_much(snapshots in snapshots(), policy in policy(), more in policy()) {
            let longer = Policy {
                all: policy.all + more.all,
                hourly: policy.hourly + more.hourly,
                daily: policy.daily + more.daily,
                monthly: policy.monthly + more.monthly,
                minimum_age: policy.minimum_age + more.minimum_age,
                newest: policy.newest.saturating_add(more.newest.get()),
                grace: policy.grace,
                compress_after: policy.compress_after,
            };
            let (short, long) = (kept(&policy, &snapshots, NOW), kept(&longer, &snapshots, NOW));
            prop_assert!(numbers(&short).is_subset(&numbers(&long)));
        }
    }
}
