//! Quantities as a person writes them.

use std::num::NonZeroU64;
use std::time::Duration;

use jiff::civil::Time;
use understudy_protocol::shown;

/// Longer ones are mistakes, and could not be added to a moment.
const LONGEST_INTERVAL_DAYS: u64 = 3650;

/// `90s`, `15m`, `1h30m`, `1d`; never zero.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is no interval: write for instance \"90s\", \"15m\", \"1h30m\" or \"1d\"")
    };
    let (mut seconds, mut number): (u64, Option<u64>) = (0, None);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let value = number
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit)));
            number = Some(value.ok_or_else(wrong)?);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(wrong()),
        };
        let part = number
            .take()
            .and_then(|number| number.checked_mul(unit))
            .ok_or_else(wrong)?;
        seconds = seconds.checked_add(part).ok_or_else(wrong)?;
    }
    match (number, seconds) {
        (None, 1..) if seconds > LONGEST_INTERVAL_DAYS * 86400 => Err(format!(
            "an interval of more than {LONGEST_INTERVAL_DAYS} days is not allowed"
        )),
        (None, 1..) => Ok(Duration::from_secs(seconds)),
        (None, 0) if !text.is_empty() => Err("an interval of zero is not allowed".to_owned()),
        _ => Err(wrong()),
    }
}

/// Bytes per second: `500kB`, `20MB`, `1GiB`; `None` for `unlimited`; never zero.
pub(super) fn parse_bandwidth(text: &str) -> Result<Option<NonZeroU64>, String> {
    let wrong = || {
        format!(
            "`{text}` is no bandwidth: write bytes per second with their unit, for instance \"500kB\", \"20MB\" or \
             \"20MiB\" (8 Mbit/s are \"1MB\"), or \"unlimited\""
        )
    };
    if text == "unlimited" {
        return Ok(None);
    }
    let bytes = shown::parse_size(text).ok_or_else(wrong)?;
    match NonZeroU64::new(bytes) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(
            "a bandwidth of zero would send nothing: write the smallest one that is useful, or \"unlimited\""
                .to_owned(),
        ),
    }
}

/// A time of day, `08:00` to `23:59`.
pub(super) fn parse_time(text: &str) -> Result<Time, String> {
    let wrong = || {
        format!(
            "`{text}` is no time of day: write hours and minutes from \"00:00\" to \"23:59\" (midnight is \"00:00\")"
        )
    };
    let number = |digits: &str| -> Option<i8> {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let (hour, minute) = number(hour).zip(number(minute)).ok_or_else(wrong)?;
    Time::new(hour, minute, 0, 0).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_add_up() {
        let seconds = |text| parse_interval(text).map(|interval| interval.as_secs());
        for (text, expected) in [
            ("90s", 90),
            ("15m", 900),
            ("1h30m", 5400),
            ("3650d", 315_360_000),
            ("0h5m", 300),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "m",
            "5",
            "5m5",
            "5 m",
            "-5m",
            "5w",
            "99999999999999999999s",
            "18446744073709551615s",
            "3651d",
            "0s",
            "0d0h",
        ] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn bandwidths_are_decimal_or_binary() {
        let bytes = |text| parse_bandwidth(text).map(|limit| limit.map(NonZeroU64::get));
        for (text, expected) in [
            ("unlimited", None),
            ("1B", Some(1)),
            ("500kB", Some(500_000)),
            ("20MB", Some(20_000_000)),
            ("2GB", Some(2_000_000_000)),
            ("1KiB", Some(1024)),
            ("20MiB", Some(20 * 1024 * 1024)),
            ("1GiB", Some(1024 * 1024 * 1024)),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "MB",
            "20",
            "20M",
            "20mb",
            "20Mb",
            "20Mbit",
            "20 MB",
            "1.5MB",
            "-1MB",
            "+1MB",
            "0MB",
            "0B",
            "18446744073709551615kB",
            "off",
        ] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_are_hours_and_minutes() {
        let time = |text| parse_time(text).map(|time| (time.hour(), time.minute()));
        for (text, expected) in [("00:00", (0, 0)), ("08:05", (8, 5)), ("23:59", (23, 59))] {
            assert_eq!(time(text), Ok(expected));
        }
        for text in [
            "", "8", "8:00", "24:00", "08:60", "08:00:00", "-1:00", "08:0", "+8:00", "8am",
        ] {
            assert!(time(text).is_err(), "{text:?}");
        }
    }
}
