//! The ledger of an upload: which staged file has which content, so that an interrupted upload can be carried on.
//!
//! Records are appended in chunks, many to a chunk: length of the records (4 bytes, little-endian), the first 8 bytes of
//! their BLAKE3 hash, the records (postcard). What follows the first chunk that does not match was torn and does not
//! count. A chunk is written after the files that it tells of. So after the death of the process all of it is true;
//! after a power cut, or when the file system went away otherwise, what comes before the end that the last
//! [`Record::Synced`] names.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use understudy_protocol::{ContentHash, Name};
use understudy_tree::{Directory, content};

use crate::error::ReceiverError;
use crate::marker;
use crate::names;

/// The records this build writes.
const FORMAT: u8 = 2;
const HEADER: usize = 12;
/// No chunk is longer: it has the records of one message.
const CHUNK_BYTES: usize = 4 << 20;
/// No record is longer: it has a hash, a name and a few numbers.
const RECORD_BYTES: usize = 512;

/// Where a staged file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Spot {
    /// On a shelf, by the number of its row.
    Shelf(u64),
    /// In the staged directory of this number.
    Incoming(u64, Name),
    /// With the streams.
    Stream(u64),
}

/// One thing that the ledger tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// Comes first: the boot in which the upload runs, and the mount that it writes to, if the kernel tells.
    Opened {
        format: u8,
        boot: String,
        mount: Option<u64>,
    },
    /// A file is whole.
    Staged {
        hash: ContentHash,
        size: u64,
        spot: Spot,
    },
    /// Written before the file of a stream is made: what was told of that number before is over.
    Begun { stream: u64 },
    /// The file of a stream has its first bytes, with this hash.
    Position {
        stream: u64,
        length: u64,
        hash: ContentHash,
    },
    /// The file of a stream is whole.
    Ended {
        stream: u64,
        hash: ContentHash,
        size: u64,
    },
    /// All that the ledger told before this offset of it is on the disk.
    Synced { end: u64 },
}

/// Records on their way into the ledger.
#[derive(Debug, Default)]
pub(crate) struct Entries(Vec<u8>);

impl Entries {
    pub(crate) fn add(&mut self, record: &Record) -> Result<(), ReceiverError> {
        let buffer = std::mem::take(&mut self.0);
        self.0 = postcard::to_extend(record, buffer)
            .map_err(|error| ReceiverError::Damaged(format!("a ledger: {error}")))?;
        Ok(())
    }
}

/// The ledger of an upload that runs; made with its first record.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    control: &'a Directory,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    end: u64,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(control: &'a Directory) -> Self {
        Self {
            control,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        // Whole after any panic: the end moves when everything is written.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends records, whose files are written already, and empties the list.
    pub(crate) fn append(&self, entries: &mut Entries) -> Result<(), ReceiverError> {
        if entries.0.is_empty() {
            return Ok(());
        }
        let mut open = self.open();
        if open.is_none() {
            *open = Some(self.create()?);
        }
        let open = open.as_mut().ok_or(ReceiverError::Worker)?;
        open.append(&entries.0)?;
        entries.0.clear();
        Ok(())
    }

    /// Appends one record.
    pub(crate) fn note(&self, record: &Record) -> Result<(), ReceiverError> {
        let mut entries = Entries::default();
        entries.add(record)?;
        self.append(&mut entries)
    }

    /// Where it ends now; `None` if there is nothing in it.
    pub(crate) fn end(&self) -> Option<u64> {
        self.open().as_ref().map(|open| open.end)
    }

    fn create(&self) -> Result<Open, ReceiverError> {
        let staging = self.control.ensure_directory(&names::STAGING)?;
        let file = staging.create_file(&names::LEDGER)?;
        let mut open = Open { file, end: 0 };
        let mut opened = Entries::default();
        opened.add(&Record::Opened {
            format: FORMAT,
            boot: marker::boot(),
            mount: staging.unique_mount(),
        })?;
        open.append(&opened.0)?;
        Ok(open)
    }
}

impl Open {
    fn append(&mut self, records: &[u8]) -> Result<(), ReceiverError> {
        let mut chunk = Vec::with_capacity(HEADER + records.len());
        chunk.extend((records.len() as u32).to_le_bytes());
        chunk.extend(&ContentHash::of(records).0[..8]);
        chunk.extend(records);
        content::write_at(&self.file, self.end, &chunk)?;
        self.end += chunk.len() as u64;
        Ok(())
    }
}

/// What may have become of an interrupted upload's files since they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fortune {
    /// Nothing: the machine was not restarted, and it is the same mount.
    Kept,
    /// The kernel does not tell whether it is the same mount.
    Unknown,
    /// The machine was restarted, or the file system was away: what was not synced may be lost.
    Lost,
}

impl Fortune {
    fn of(boot: &str, mount: Option<u64>, staging: &Directory) -> Self {
        if boot.is_empty() || boot != marker::boot() {
            return Self::Lost;
        }
        match (mount, staging.unique_mount()) {
            (Some(then), Some(now)) if then == now => Self::Kept,
            (Some(_), Some(_)) => Self::Lost,
            _ => Self::Unknown,
        }
    }
}

/// The ledger of an upload that was interrupted.
#[derive(Debug)]
pub(crate) struct Former {
    file: File,
    pub(crate) fortune: Fortune,
}

impl Former {
    /// `None` if it was written by a build that this one does not know, or nothing of it is there.
    pub(crate) fn open(staging: &Directory) -> Result<Option<Self>, ReceiverError> {
        let file = match staging.open_file(&names::LEDGER) {
            Ok(file) => file,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(chunk) = read_chunk(&file, 0)? else {
            return Ok(None);
        };
        match postcard::from_bytes(&chunk) {
            Ok(Record::Opened {
                format,
                boot,
                mount,
            }) if format == FORMAT => Ok(Some(Self {
                file,
                fortune: Fortune::of(&boot, mount, staging),
            })),
            _ => Ok(None),
        }
    }

    /// Visits all records that count, in order, each with its offset.
    pub(crate) fn visit(
        &self,
        mut visit: impl FnMut(u64, Record) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let end = match self.fortune {
            Fortune::Kept | Fortune::Unknown => u64::MAX,
            Fortune::Lost => self.synced_end()?,
        };
        self.visit_until(end, &mut visit)
    }

    /// Up to where everything was on the disk.
    fn synced_end(&self) -> Result<u64, ReceiverError> {
        let mut synced = 0;
        self.visit_until(u64::MAX, &mut |_, record| {
            if let Record::Synced { end } = record {
                synced = end;
            }
            Ok(())
        })?;
        Ok(synced)
    }

    fn visit_until(
        &self,
        end: u64,
        visit: &mut impl FnMut(u64, Record) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let mut position = 0;
        while position < end
            && let Some(chunk) = read_chunk(&self.file, position)?
        {
            let start = position + HEADER as u64;
            position = start + chunk.len() as u64;
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let offset = start + (chunk.len() - rest.len()) as u64;
                let Ok((record, after)) = postcard::take_from_bytes(rest) else {
                    return Ok(());
                };
                visit(offset, record)?;
                rest = after;
            }
        }
        Ok(())
    }

    /// The record at an offset that was visited before.
    pub(crate) fn read(&self, offset: u64) -> Result<Option<Record>, ReceiverError> {
        let mut bytes = [0; RECORD_BYTES];
        let length = content::read_at(&self.file, offset, &mut bytes)?;
        let read = postcard::take_from_bytes(&bytes[..length]);
        Ok(read.ok().map(|(record, _)| record))
    }
}

/// The records of the chunk at an offset; `None` if there is none, or only a part of one.
fn read_chunk(file: &File, offset: u64) -> Result<Option<Vec<u8>>, ReceiverError> {
    let mut header = [0; HEADER];
    if content::read_at(file, offset, &mut header)? < HEADER {
        return Ok(None);
    }
    let (length, check) = header.split_at(4);
    let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
    if length == 0 || length > CHUNK_BYTES {
        return Ok(None);
    }
    let mut records = vec![0; length];
    let read = content::read_at(file, offset + HEADER as u64, &mut records)?;
    let is_whole = read == length && ContentHash::of(&records).0[..8] == *check;
    Ok(is_whole.then_some(records))
}

#[cfg(test)]
mod tests {
    use understudy_tree::Mounts;

    use super::*;

    fn staged(number: u64) -> Record {
        Record::Staged {
            hash: ContentHash::of(&number.to_le_bytes()),
            size: number,
            spot: Spot::Incoming(7, Name::new(format!("file {number}")).expect("name")),
        }
    }

    /// A ledger of three chunks, the second with two records, with the ends of all its chunks.
    fn written(control: &Directory) -> Vec<u64> {
        let ledger = Ledger::new(control);
        assert_eq!(ledger.end(), None);
        ledger.note(&staged(1)).expect("note");
        let mut ends = vec![ledger.end().expect("end")];
        let mut entries = Entries::default();
        for number in [2, 3] {
            entries.add(&staged(number)).expect("add");
        }
        ledger.append(&mut entries).expect("append");
        ends.push(ledger.end().expect("end"));
        ledger.note(&staged(4)).expect("note");
        ends.push(ledger.end().expect("end"));
        ends
    }

    fn staging(control: &Directory) -> Directory {
        control.open_directory(&names::STAGING).expect("staging")
    }

    fn visited(former: &Former) -> Vec<u64> {
        let mut sizes = Vec::new();
        former
            .visit(|offset, record| {
                assert_eq!(former.read(offset).expect("read"), Some(record.clone()));
                if let Record::Staged { size, .. } = record {
                    sizes.push(size);
                }
                Ok(())
            })
            .expect("visit");
        sizes
    }

    #[test]
    fn a_torn_tail_does_not_count() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let control = Directory::open(scratch.path(), Mounts::Stay).expect("open");
        let ends = written(&control);
        let former = Former::open(&staging(&control))
            .expect("open")
            .expect("whole");
        assert_eq!(visited(&former), [1, 2, 3, 4]);
        let file = staging(&control)
            .open_file_to_change(&names::LEDGER)
            .expect("open");
        for (end, expected) in [
            (ends[2] - 1, &[1, 2, 3][..]),
            (ends[1], &[1, 2, 3]),
            (ends[1] - 1, &[1]),
            (ends[0] + 5, &[1]),
        ] {
            content::set_size(&file, end).expect("cut");
            assert_eq!(visited(&former), expected, "{end}");
        }
        // What a file system leaves that knew the length before the data.
        content::set_size(&file, ends[2]).expect("longer");
        assert_eq!(visited(&former), [1]);
        content::set_size(&file, 8).expect("cut");
        let nothing = Former::open(&staging(&control)).expect("open");
        assert!(nothing.is_none());
    }

    #[test]
    fn nothing_is_lost_only_in_the_same_boot_and_the_same_mount() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let staging = Directory::open(scratch.path(), Mounts::Stay).expect("open");
        let (boot, mount) = (marker::boot(), staging.unique_mount());
        let fortune = |boot: &str, mount| Fortune::of(boot, mount, &staging);
        assert_eq!(fortune("another", mount), Fortune::Lost);
        assert_eq!(fortune("", mount), Fortune::Lost);
        assert_eq!(fortune(&boot, None), Fortune::Unknown);
        // Before Linux 6.8 no number of a mount is known.
        let (same, other) = match mount {
            Some(_) => (Fortune::Kept, Fortune::Lost),
            None => (Fortune::Unknown, Fortune::Unknown),
        };
        assert_eq!(fortune(&boot, mount), same);
        assert_eq!(fortune(&boot, Some(mount.unwrap_or(0) ^ 1)), other);
    }

    #[test]
    fn after_a_power_cut_only_what_was_synced_counts() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let control = Directory::open(scratch.path(), Mounts::Stay).expect("open");
        let ledger = Ledger::new(&control);
        ledger.note(&staged(1)).expect("note");
        let end = ledger.end().expect("end");
        ledger.note(&staged(2)).expect("note");
        let mut former = Former::open(&staging(&control))
            .expect("open")
            .expect("whole");
        assert_ne!(former.fortune, Fortune::Lost);
        former.fortune = Fortune::Lost;
        assert!(visited(&former).is_empty());
        ledger.note(&Record::Synced { end }).expect("note");
        ledger.note(&staged(3)).expect("note");
        assert_eq!(visited(&former), [1]);
    }
}
