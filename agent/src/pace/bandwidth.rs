//! Which bandwidth is allowed at which hour of the day.

use std::num::NonZeroU64;

use jiff::Zoned;
use jiff::civil::Time;

/// Limits in bytes per second, after compression. `None` means unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// The limit outside of all hours.
    pub usual: Option<NonZeroU64>,
    /// Limits by the hour of day; where several apply, the last one counts.
    pub hours: Vec<Hours>,
}

/// A limit for a part of the day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// Its first moment, local time.
    pub from: Time,
    /// Its end, which no longer belongs to it. Before `from`: on the next day.
    pub to: Time,
    /// The limit.
    pub limit: Option<NonZeroU64>,
}

impl Bandwidth {
    /// The limit at this moment, by the host's clock and time zone.
    pub(super) fn now(&self) -> Option<NonZeroU64> {
        if self.hours.is_empty() {
            self.usual
        } else {
            self.at(Zoned::now().time())
        }
    }

    fn at(&self, time: Time) -> Option<NonZeroU64> {
        self.hours
            .iter()
            .rfind(|hours| hours.contains(time))
            .map_or(self.usual, |hours| hours.limit)
    }

    /// Whether there is no limit at any hour.
    pub(super) fn is_unlimited(&self) -> bool {
        self.usual.is_none() && self.hours.iter().all(|hours| hours.limit.is_none())
    }
}

impl Hours {
    fn contains(&self, time: Time) -> bool {
        if self.from < self.to {
            self.from <= time && time < self.to
        } else {
            self.from <= time || time < self.to
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;

    #[test]
    fn the_last_entry_that_applies_counts_and_midnight_is_no_border() {
        let hours = |from, to, limit| Hours {
            from: time(from, 0, 0, 0),
            to: time(to, 0, 0, 0),
            limit: NonZeroU64::new(limit),
        };
        let bandwidth = Bandwidth {
            usual: NonZeroU64::new(1),
            hours: vec![hours(8, 18, 2), hours(12, 13, 3), hours(22, 6, 0)],
        };
        for (hour, minute, limit) in [
            (7, 59, Some(1)),
            (8, 0, Some(2)),
            (11, 59, Some(2)),
            (12, 0, Some(3)),
            (13, 0, Some(2)),
            (17, 59, Some(2)),
            (18, 0, Some(1)),
            (21, 59, Some(1)),
            (22, 0, None),
            (23, 59, None),
            (0, 0, None),
            (5, 59, None),
            (6, 0, Some(1)),
        ] {
            let allowed = bandwidth.at(time(hour, minute, 0, 0));
            assert_eq!(allowed.map(NonZeroU64::get), limit, "{hour}:{minute}");
        }
        assert!(!bandwidth.is_unlimited());
        assert!(Bandwidth::default().is_unlimited());
        let until_midnight = hours(22, 0, 1);
        assert!(until_midnight.contains(time(23, 59, 59, 0)));
        assert!(!until_midnight.contains(time(0, 0, 0, 0)));
    }
}
