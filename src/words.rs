//! Numbers, sizes and times as people read them, and paths as programs do.

use jiff::Timestamp;
use serde_json::{Value, json};
pub(crate) use understudy_protocol::shown::size;
use understudy_protocol::{RelPath, Snapshot, escape};

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1` `file`, `2` `files`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = match noun.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{noun}s"),
    };
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{} {plural}", count(number))
    }
}

/// An argument as it is typed into a shell.
pub(crate) fn typed(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// A span of time in its two largest units.
pub(crate) fn span(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let total = seconds.unsigned_abs();
    let (days, hours, minutes, rest) = (
        total / 86_400,
        total / 3600 % 24,
        total / 60 % 60,
        total % 60,
    );
    let text = match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{} d {hours} h", count(days)),
    };
    format!("{sign}{text}")
}

/// Seconds since 1970 by this host's clock.
pub(crate) fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A point in time by RFC 3339, in UTC.
pub(crate) fn time(seconds: i64) -> String {
    // A receiver may tell any number; what no calendar has is shown as it is.
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// A snapshot for programs.
pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "epoch": snapshot.position.epoch,
        "number": snapshot.position.number,
        "time": time(snapshot.committed_seconds),
        "digest": snapshot.position.fingerprint.to_string(),
        "entries": snapshot.entries,
        "bytes": snapshot.bytes,
    })
}

/// A path for programs, with what goes with it under `key`.
pub(crate) fn path_with(path: &RelPath, key: &str, text: &str) -> Value {
    let mut value = path_value(path);
    value[key] = text.into();
    value
}

/// A path for programs. Where escaping changed it, its bytes are added in hexadecimal digits.
pub(crate) fn path_value(path: &RelPath) -> Value {
    let mut value = json!({ "path": path.to_string() });
    let bytes = path.as_bytes();
    if !bytes.is_empty() {
        put_bytes(&mut value, "path", bytes);
    }
    value
}

/// Bytes that are mostly text, under `key`. Where escaping changes them, they are added in hexadecimal digits.
pub(crate) fn put_bytes(value: &mut Value, key: &str, bytes: &[u8]) {
    let text = escape(bytes);
    if text.as_bytes() != bytes {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        value[format!("{key}_bytes")] = hex.into();
    }
    value[key] = text.into();
}

/// Paths for programs.
pub(crate) fn paths<'a>(paths: impl IntoIterator<Item = &'a RelPath>) -> Vec<Value> {
    paths.into_iter().map(path_value).collect()
}

/// Rows under headings, columns aligned; the first to the left, `right` ones to the right.
pub(crate) fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> Vec<String> {
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let all = || std::iter::once(&headings).chain(rows);
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            all()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    all()
        .map(|row| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths.get(column).copied().unwrap_or(0);
                if right.contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [count(0), count(999), count(1_234_567)],
            ["0", "999", "1,234,567"]
        );
        assert_eq!(
            [
                size(999),
                size(1000),
                size(99_949),
                size(999_499),
                size(999_999)
            ],
            ["999 B", "1.0 KB", "99.9 KB", "999 KB", "1.0 MB"]
        );
        assert_eq!(size(u64::MAX), "18.4 EB");
        assert_eq!(
            [span(0), span(61), span(7_200), span(90_000), span(-5)],
            ["0 s", "1 min 1 s", "2 h 0 min", "1 d 1 h", "-5 s"]
        );
        assert_eq!(typed("/srv/spare"), "/srv/spare");
        assert_eq!(typed("it's"), r"'it'\''s'");
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
        assert_eq!(
            [counted(1, "entry"), counted(2, "entry"), counted(0, "file")],
            ["1 entry", "2 entries", "0 files"]
        );
    }

    #[test]
    fn paths_that_were_escaped_carry_their_bytes() {
        let path = |bytes: &[u8]| path_with(&RelPath::new(bytes).expect("path"), "reason", "why");
        assert_eq!(path(b"a b"), json!({ "path": "a b", "reason": "why" }));
        assert_eq!(path(b""), json!({ "path": ".", "reason": "why" }));
        assert_eq!(
            path(b"\xff"),
            json!({ "path": "\\xff", "reason": "why", "path_bytes": "ff" })
        );
    }
}
