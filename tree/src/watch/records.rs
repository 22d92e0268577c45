//! The bytes that fanotify gives, as values: every length is checked, nothing is read unaligned.

use crate::raw::{HANDLE_HEADER_BYTES, read_u32};

/// Length, version, reserved, length of this header, mask, descriptor, process.
pub(super) const METADATA_BYTES: usize = 24;
/// Kind, padding, length.
const INFO_HEADER_BYTES: usize = 4;
const FSID_BYTES: usize = 8;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// What happened, merged over several events of the same name.
    pub(super) mask: u64,
    /// Which process did it; 0 for one that this process cannot see.
    pub(super) process: u32,
    /// Where it happened; not told of an inode by itself, such as one that got or lost a name.
    pub(super) place: Option<Place<'a>>,
    /// To what it happened, if that was told.
    pub(super) inode: Option<InodeKey<'a>>,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// File system and handle of the directory, which together are unique: the key of the cache.
    pub(super) directory: InodeKey<'a>,
    /// The name; `.` is the directory itself.
    pub(super) name: &'a [u8],
    /// Both in one piece: the same for the same name in the same directory.
    pub(super) whole: &'a [u8],
}

/// File system and handle of an inode, as the kernel wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeKey<'a>(pub(super) &'a [u8]);

impl<'a> InodeKey<'a> {
    /// The number of the file system.
    pub(super) fn file_system(self) -> &'a [u8] {
        &self.0[..FSID_BYTES]
    }

    /// The handle, header included.
    pub(super) fn handle(self) -> &'a [u8] {
        &self.0[FSID_BYTES..]
    }
}

/// The kernel wrote something that this code does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The events in a buffer that was read; ends after the first that is malformed.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = parse(self.rest);
        self.rest = parsed.map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(record, _)| record).ok_or(Malformed))
    }
}

fn parse(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let length = read_u32(bytes, 0)? as usize;
    let version = *bytes.get(4)?;
    let metadata = usize::from(read_u16(bytes, 6)?);
    if version != libc::FANOTIFY_METADATA_VERSION || metadata < METADATA_BYTES || metadata > length
    {
        return None;
    }
    let (event, rest) = bytes.split_at_checked(length)?;
    let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let mut record = Record {
        mask,
        process: read_u32(event, 20)?,
        place: None,
        inode: None,
    };
    let mut infos = &event[metadata..];
    while !infos.is_empty() {
        let length = usize::from(read_u16(infos, 2)?);
        if length < INFO_HEADER_BYTES {
            return None;
        }
        let (info, next) = infos.split_at_checked(length)?;
        let body = &info[INFO_HEADER_BYTES..];
        match info[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => record.place = Some(parse_place(body)?),
            libc::FAN_EVENT_INFO_TYPE_FID => record.inode = Some(parse_key(body)?.0),
            _ => {}
        }
        infos = next;
    }
    Some((record, rest))
}

fn parse_key(body: &[u8]) -> Option<(InodeKey<'_>, &[u8])> {
    let handle_length = read_u32(body, FSID_BYTES)? as usize;
    let key_length = handle_length.checked_add(FSID_BYTES + HANDLE_HEADER_BYTES)?;
    let (key, rest) = body.split_at_checked(key_length)?;
    Some((InodeKey(key), rest))
}

fn parse_place(body: &[u8]) -> Option<Place<'_>> {
    let (directory, padded) = parse_key(body)?;
    let end = padded.iter().position(|&byte| byte == 0)?;
    if end == 0 {
        return None;
    }
    Some(Place {
        directory,
        name: &padded[..end],
        whole: &body[..directory.0.len() + end],
    })
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = b"fsidfsid".to_vec();
        body.extend_from_slice(&(handle.len() as u32).to_ne_bytes());
        body.extend_from_slice(&1_i32.to_ne_bytes());
        body.extend_from_slice(handle);
        body.extend_from_slice(name);
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        let mut info = vec![kind, 0];
        info.extend_from_slice(&((body.len() + INFO_HEADER_BYTES) as u16).to_ne_bytes());
        info.extend_from_slice(&body);
        info
    }

    fn event(mask: u64, infos: &[Vec<u8>]) -> Vec<u8> {
        let body = infos.concat();
        let mut event = ((METADATA_BYTES + body.len()) as u32)
            .to_ne_bytes()
            .to_vec();
        event.extend_from_slice(&[libc::FANOTIFY_METADATA_VERSION, 0]);
        event.extend_from_slice(&(METADATA_BYTES as u16).to_ne_bytes());
        event.extend_from_slice(&mask.to_ne_bytes());
        event.extend_from_slice(&libc::FAN_NOFD.to_ne_bytes());
        event.extend_from_slice(&77_u32.to_ne_bytes());
        event.extend_from_slice(&body);
        event
    }

    #[test]
    fn records_are_read_as_the_kernel_writes_them() {
        let mut buffer = event(
            libc::FAN_MODIFY,
            &[
                info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"handle", b"n\xffme"),
                info(libc::FAN_EVENT_INFO_TYPE_FID, b"file", b""),
            ],
        );
        buffer.extend(event(
            libc::FAN_ATTRIB,
            &[info(libc::FAN_EVENT_INFO_TYPE_FID, b"alone", b"")],
        ));
        buffer.extend(event(libc::FAN_Q_OVERFLOW, &[]));
        let records: Vec<_> = Records::new(&buffer).map(|r| r.expect("valid")).collect();
        assert_eq!(records.len(), 3);
        let handles = [0, 1].map(|number: usize| {
            let inode = records[number].inode.expect("inode");
            &inode.handle()[HANDLE_HEADER_BYTES..]
        });
        assert_eq!(handles, [&b"file"[..], b"alone"]);
        assert_eq!(records[1].place, None);
        let place = records[0].place.expect("place");
        assert_eq!(place.name, b"n\xffme");
        assert_eq!(place.directory.file_system(), b"fsidfsid");
        assert_eq!(&place.directory.handle()[HANDLE_HEADER_BYTES..], b"handle");
        assert!(place.whole.ends_with(b"handlen\xffme"));
        assert_eq!(
            (records[0].mask, records[0].process),
            (libc::FAN_MODIFY, 77)
        );
        assert_eq!((records[2].place, records[2].inode), (None, None));
    }

    #[test]
    fn no_cut_and_no_wrong_length_leads_out_of_the_buffer() {
        let whole = event(
            libc::FAN_CREATE,
            &[info(
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME,
                b"handle",
                b"name",
            )],
        );
        for length in 1..whole.len() {
            assert_eq!(
                Records::new(&whole[..length]).next(),
                Some(Err(Malformed)),
                "cut to {length}"
            );
        }
        for position in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = value;
                // Whatever it says, it ends and stays within.
                assert!(Records::new(&damaged).count() <= damaged.len());
            }
        }
    }
}
