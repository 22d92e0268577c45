//! How much the host's tasks stall: the kernel's pressure stall information, read and judged.

use std::path::Path;
use std::time::Duration;

/// Where the kernel tells; see `Documentation/accounting/psi.rst` there.
const DIRECTORY: &str = "/proc/pressure";
const RESOURCES: [&str; 3] = ["io", "cpu", "memory"];

/// A share of time, from 1 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u8);

impl Percent {
    /// `None` unless it is from 1 to 100.
    pub fn new(percent: i64) -> Option<Self> {
        u8::try_from(percent)
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .map(Self)
    }

    /// The number.
    pub fn value(self) -> u8 {
        self.0
    }
}

/// What the kernel tells of one resource: time in which some tasks waited for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stall {
    /// Its share of the last ten seconds, in percent.
    average: f64,
    /// Its sum since the host started.
    total: Duration,
}

/// One look at all resources that the kernel tells of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Readings([Option<Stall>; RESOURCES.len()]);

/// The present state of the host; `None` if its kernel does not tell.
pub(super) fn read() -> Option<Readings> {
    read_from(Path::new(DIRECTORY))
}

fn read_from(directory: &Path) -> Option<Readings> {
    let readings = RESOURCES.map(|resource| {
        // A kernel that has the files but was started with `psi=0` refuses to read them.
        let text = std::fs::read_to_string(directory.join(resource)).ok()?;
        parse(&text)
    });
    readings
        .iter()
        .any(Option::is_some)
        .then_some(Readings(readings))
}

/// The line `some avg10=0.12 avg60=0.05 avg300=0.01 total=123456`, whose total is in microseconds.
fn parse(text: &str) -> Option<Stall> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = |name: &str| {
        some.split_ascii_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    Some(Stall {
        average: field("avg10")?.parse().ok()?,
        total: Duration::from_micros(field("total")?.parse().ok()?),
    })
}

impl Readings {
    /// Whether tasks stalled longer than `limit` in the last ten seconds.
    pub(super) fn is_busy(&self, limit: Percent) -> bool {
        self.0
            .iter()
            .flatten()
            .any(|stall| stall.average > f64::from(limit.0))
    }

    /// Whether tasks stalled longer than `limit` in the time that passed since `before`.
    pub(super) fn was_busy_since(&self, before: &Self, passed: Duration, limit: Percent) -> bool {
        let allowed = passed.mul_f64(f64::from(limit.0) / 100.0);
        self.0
            .iter()
            .zip(&before.0)
            .filter_map(|(now, before)| Some((now.as_ref()?, before.as_ref()?)))
            .any(|(now, before)| now.total.saturating_sub(before.total) > allowed)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A look that finds one resource with this average and this total.
    pub(in crate::pace) fn reading(average: f64, total: Duration) -> Readings {
        Readings([Some(Stall { average, total }), None, None])
    }

    fn percent(value: i64) -> Percent {
        Percent::new(value).expect("percent")
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        let text = "some avg10=12.34 avg60=1.19 avg300=0.85 total=622762056\n\
                    full avg10=99.00 avg60=1.08 avg300=0.72 total=999999999\n";
        let stall = Stall {
            average: 12.34,
            total: Duration::from_micros(622_762_056),
        };
        assert_eq!(parse(text), Some(stall));
        for text in [
            "",
            "full avg10=1.00 avg60=1.08 avg300=0.72 total=1\n",
            "some avg60=1.19 total=1\n",
            "some avg10=1.00 avg60=1.19\n",
            "some avg10=x total=1\n",
            "some avg10=1.00 total=-1\n",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "prepares files")]
    fn a_kernel_that_tells_of_some_resources_is_judged_by_those() {
        let scratch = tempfile::tempdir().expect("tempdir");
        assert_eq!(read_from(scratch.path()), None);
        std::fs::write(scratch.path().join("cpu"), "some avg10=60.00 total=5\n").expect("write");
        let readings = read_from(scratch.path()).expect("one");
        assert!(readings.is_busy(percent(59)));
        assert!(
            !readings.is_busy(percent(60)),
            "the limit itself is allowed"
        );
    }

    #[test]
    fn any_resource_above_the_limit_is_busy() {
        let calm = Stall {
            average: 0.0,
            total: Duration::ZERO,
        };
        for index in 0..RESOURCES.len() {
            let before = Readings([Some(calm); 3]);
            let mut now = before.clone();
            now.0[index] = Some(Stall {
                average: 50.01,
                total: Duration::from_millis(501),
            });
            assert!(!before.is_busy(percent(50)));
            assert!(now.is_busy(percent(50)));
            let second = Duration::from_secs(1);
            assert!(now.was_busy_since(&before, second, percent(50)));
            assert!(!now.was_busy_since(&before, second, percent(51)));
            assert!(!now.was_busy_since(&before, 2 * second, percent(50)));
        }
        let gone = Readings([None; 3]);
        assert!(!gone.was_busy_since(
            &Readings([Some(calm); 3]),
            Duration::from_secs(1),
            percent(1)
        ));
    }

    #[test]
    fn percents_are_from_1_to_100() {
        let is_percent = |value| Percent::new(value).is_some_and(|p| i64::from(p.value()) == value);
        assert!(is_percent(1) && is_percent(100));
        for wrong in [i64::MIN, -1, 0, 101, 256, 257, i64::MAX] {
            assert_eq!(Percent::new(wrong), None);
        }
    }
}
