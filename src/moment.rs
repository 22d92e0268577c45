//! Points in time as people write them: for which snapshot is meant.
//!
//! Knows neither snapshots nor whose clock counts.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, Zoned};
use understudy_protocol::escape;

use crate::exit::CommandError;

/// The moment that `text` means: RFC 3339 with its offset, a date with or without a time by the clock and zone of
/// `now`, or a span of time before `now`, such as `2h` or `3 days ago`.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<Timestamp, CommandError> {
    let trimmed = text.trim();
    if let Ok(moment) = trimmed.parse::<Timestamp>() {
        return Ok(moment);
    }
    let local = trimmed.parse::<DateTime>();
    if let Some(moment) = local
        .ok()
        .and_then(|local| local.to_zoned(now.time_zone().clone()).ok())
    {
        return Ok(moment.timestamp());
    }
    // `2h` and `2h ago` mean the same: nobody looks for a snapshot that is still to come.
    let span = trimmed.parse::<Span>().map(Span::abs);
    if let Some(moment) = span.ok().and_then(|span| now.checked_sub(span).ok()) {
        return Ok(moment.timestamp());
    }
    Err(CommandError::usage(
        format!("`{}` is no point in time", escape(text.as_bytes())),
        "write for instance \"2026-11-26 22:10\", \"2026-11-26T22:10:00Z\", or how long ago: \"2h\", \"3d\"",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        let now = "2026-11-26T22:30:00+01:00[Europe/Berlin]".parse::<Zoned>();
        let moment = parse(text, &now.expect("now"));
        moment.ok().map(|moment| moment.to_string())
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        for (text, meant) in [
            ("2026-11-26T20:10:00Z", "2026-11-26T20:10:00Z"),
            ("2026-11-26T20:10:00-05:00", "2026-11-27T01:10:00Z"),
            ("2026-11-26 22:10", "2026-11-26T21:10:00Z"),
            ("2026-11-26 22:10:07", "2026-11-26T21:10:07Z"),
            ("2026-06-01 12:00", "2026-06-01T10:00:00Z"),
            ("2026-11-26", "2026-11-25T23:00:00Z"),
            ("2h", "2026-11-26T19:30:00Z"),
            ("1h30m", "2026-11-26T20:00:00Z"),
            (" 2 days ago ", "2026-11-24T21:30:00Z"),
            ("1 month", "2026-10-26T21:30:00Z"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(meant), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "12",
            "2026-13-01",
            "2026-11-26 25:00",
            "99999999 years",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
