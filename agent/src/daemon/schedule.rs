//! When which dataset gets its next cycle.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use understudy_protocol::DatasetName;

use crate::clock::Moment;

/// How soon a spare that could not be reached is tried again, at first.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// How soon a dataset that somebody else is working on is tried again.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// What came of an attempt, as far as the next one is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The cycle ended, well or not: the next one has its time.
    Cycle,
    /// The spare could not be reached.
    Away,
    /// Somebody else is working on the dataset.
    Busy,
}

/// The times of all datasets.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: HashMap<DatasetName, Moment>,
    /// Until when nobody tries to reach the spare.
    away_until: Option<Moment>,
    attempts: u32,
    random: RandomState,
}

impl Schedule {
    /// When a dataset is due. One that is new is due at once; one whose time passed while others had theirs, or
    /// while the machine slept, is due once.
    pub(super) fn due(&mut self, dataset: &DatasetName, now: Moment) -> Moment {
        let due = *self.due.entry(dataset.clone()).or_insert(now);
        match self.away_until {
            Some(until) if until > due => until,
            _ => due,
        }
    }

    /// When a dataset would be due if the spare were there: who waits longest has the first try.
    pub(super) fn waits_since(&self, dataset: &DatasetName) -> Option<Moment> {
        self.due.get(dataset).copied()
    }

    /// An attempt that began at `began` has ended; returns when the next one is due.
    pub(super) fn ended(
        &mut self,
        dataset: &DatasetName,
        began: Moment,
        now: Moment,
        interval: Duration,
        ended: Ended,
    ) {
        let next = match ended {
            Ended::Cycle => {
                self.away_until = None;
                self.attempts = 0;
                let next = began + self.jittered(dataset, interval, began);
                next.max(now)
            }
            Ended::Away => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(16));
                self.attempts += 1;
                self.away_until = Some(now + pause.min(interval));
                now
            }
            Ended::Busy => now + BUSY_PAUSE.min(interval),
        };
        self.due.insert(dataset.clone(), next);
    }

    /// Forgets datasets that are no more.
    pub(super) fn keep(&mut self, is_wanted: impl Fn(&DatasetName) -> bool) {
        self.due.retain(|name, _| is_wanted(name));
    }

    /// Up to a tenth less than the interval, so that many mains do not come to one spare at the same moment, and
    /// none comes late.
    fn jittered(&self, dataset: &DatasetName, interval: Duration, now: Moment) -> Duration {
        let random = self.random.hash_one((dataset.as_str(), now)) % 1000;
        interval - interval.mul_f64(random as f64 / 10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn name() -> DatasetName {
        DatasetName::new("test").expect("name")
    }

    #[test]
    fn the_next_cycle_is_an_interval_after_the_start_of_the_last_and_never_late() {
        let start = Moment::now();
        for _ in 0..100 {
            let mut schedule = Schedule::default();
            assert!(schedule.due(&name(), start) == start);
            schedule.ended(&name(), start, start + MINUTE, 15 * MINUTE, Ended::Cycle);
            let due = schedule.due(&name(), start);
            assert!(due <= start + 15 * MINUTE);
            assert!(due >= start + MINUTE.mul_f64(13.5));
        }
    }

    #[test]
    fn a_missed_tick_is_caught_up_once() {
        let (mut schedule, start) = (Schedule::default(), Moment::now());
        schedule.due(&name(), start);
        let late = start + 100 * MINUTE;
        schedule.ended(&name(), start, late, 15 * MINUTE, Ended::Cycle);
        assert!(schedule.due(&name(), late) == late);
        schedule.ended(&name(), late, late, 15 * MINUTE, Ended::Cycle);
        assert!(schedule.due(&name(), late) > late + 13 * MINUTE);
    }

    #[test]
    fn a_spare_that_is_away_is_tried_less_and_less_often_but_once_per_interval() {
        let (mut schedule, mut now) = (Schedule::default(), Moment::now());
        let other = DatasetName::new("other").expect("name");
        schedule.due(&other, now);
        now = now + MINUTE;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            schedule.ended(&name(), now, now, 15 * MINUTE, Ended::Away);
            let next = schedule.due(&name(), now);
            assert!(
                schedule.due(&other, now) == next,
                "one attempt tells for all"
            );
            let waiting = schedule.waits_since(&other);
            assert!(
                waiting < schedule.waits_since(&name()),
                "and the next is another's"
            );
            pauses.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]);
        schedule.ended(&name(), now, now, 15 * MINUTE, Ended::Cycle);
        assert!(schedule.due(&other, now) <= now);
    }
}
