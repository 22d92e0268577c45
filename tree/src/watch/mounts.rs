//! Which file systems are mounted where, as `/proc/self/mountinfo` tells.

use std::fs;

use crate::error::{Context, TreeError};

pub(super) const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Its number, unique while it is mounted.
    pub(super) id: u64,
    /// `major:minor` and the directory of the file system that shows; an id is soon given again.
    source: Vec<u8>,
    /// Where.
    pub(super) point: Vec<u8>,
}

/// All mounts that this process sees, the later ones over the earlier ones.
pub(super) fn read() -> Result<Vec<Mount>, TreeError> {
    let text = fs::read(MOUNTINFO).context("read", MOUNTINFO.as_bytes())?;
    Ok(text
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let mut source = fields.next()?.to_vec();
    source.push(b' ');
    source.extend_from_slice(fields.next()?);
    let point = unescape(fields.next()?);
    Some(Mount { id, source, point })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// Whether `path` is `ancestor` or below it; both absolute and without links.
pub(super) fn is_at_or_below(path: &[u8], ancestor: &[u8]) -> bool {
    below(path, ancestor).is_some()
}

/// The part of `path` below `ancestor`; empty for the same path, `None` if it is not below.
pub(super) fn below<'a>(path: &'a [u8], ancestor: &[u8]) -> Option<&'a [u8]> {
    if ancestor == b"/" {
        return path.strip_prefix(b"/");
    }
    match path.strip_prefix(ancestor)? {
        [] => Some(&[]),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_escapes() {
        let line = br"36 35 98:0 /mnt1 /a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        let mount = parse(line).expect("valid");
        assert_eq!((mount.id, mount.point.as_slice()), (36, &br"/a b\c"[..]));
        assert!(parse(b"").is_none());
        assert!(!read().expect("mountinfo").is_empty());
    }

    #[test]
    fn below_means_whole_components() {
        assert_eq!(below(b"/a/b/c", b"/a"), Some(&b"b/c"[..]));
        assert_eq!(below(b"/a", b"/a"), Some(&b""[..]));
        assert_eq!(below(b"/ab", b"/a"), None);
        assert_eq!(below(b"/ab", b"/"), Some(&b"ab"[..]));
        assert_eq!(below(b"/", b"/"), Some(&b""[..]));
    }
}
