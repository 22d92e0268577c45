//! SQLite databases that lie among the files of a site: one state of them, as a plain file.
//!
//! A database in use is not its file alone: what was committed last may stand in `-wal`, and of a transaction that is under way the former pages
//! are in `-journal`. So SQLite itself holds its read lock while the file and its log are copied, as bytes, and SQLite makes of the copy what it
//! would make of both after a power cut. What results is what the file is once everybody has closed it, byte by byte. In WAL mode nobody waits for
//! that lock; with a rollback journal those who write do, at most for a limit. Where the lock cannot be had without writing (nobody has the
//! database open, or somebody keeps it locked), the files are copied as long as they stand still.
//!
//! The locks of SQLite are those of POSIX: any close of the file in the same process drops them. So this is called in a process of its own, for one
//! database at a time, and what is opened here for copying is closed last. Nothing is written beside the source, and no link is followed.

mod copy;
mod hold;
mod still;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};

use copy::{Copied, Copy};
use hold::{Hold, Refusal};

/// What the names of the files end with that belong to a database beside its own.
pub const COMPANIONS: [&str; 3] = [WAL, SHM, JOURNAL];
const WAL: &str = "-wal";
const SHM: &str = "-shm";
const JOURNAL: &str = "-journal";

/// So many bytes of a file tell whether it is a database.
pub const HEADER_BYTES: usize = 24;
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Where in a file SQLite has its locks.
const PENDING_BYTE: u64 = 0x4000_0000;
const LOCK_BYTES: u64 = 512;
const LOG_HEADER_BYTES: usize = 32;
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// How long somebody who writes may keep others out before the files are copied without the lock.
const BUSY: Duration = Duration::from_secs(5);

/// Whether a file that begins with these bytes, [`HEADER_BYTES`] of them, says to be a database that SQLite can read. One that is encrypted does not.
pub fn is_database(header: &[u8]) -> bool {
    let Some(header) = header.get(..HEADER_BYTES) else {
        return false;
    };
    let page = u32::from(u16::from_be_bytes([header[16], header[17]]));
    let is_page = page == 1 || (page.is_power_of_two() && (512..=32768).contains(&page));
    // What SQLite has in these bytes has never been anything else.
    header.starts_with(MAGIC) && is_page && header[21..24] == [64, 32, 32]
}

/// Whether a file that is called like a companion of a database, and begins with these bytes, at most 8, is one. Whatever else is called so is somebody's.
pub fn is_companion(name: &[u8], begin: &[u8]) -> bool {
    let is_empty = begin.iter().all(|byte| *byte == 0);
    let begins = |with: &[&[u8]]| with.iter().any(|with| begin.starts_with(with));
    is_empty
        || match name {
            _ if name.ends_with(WAL.as_bytes()) => {
                begins(&[&[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83]])
            }
            // The version of the index, as the processor has it.
            _ if name.ends_with(SHM.as_bytes()) => {
                begins(&[&3_007_000_u32.to_le_bytes(), &3_007_000_u32.to_be_bytes()])
            }
            _ => begins(&[&JOURNAL_MAGIC]),
        }
}

/// The name of the database that a file belongs to, if it is named like a companion of one.
pub fn owner_of(name: &[u8]) -> Option<&[u8]> {
    let companions = COMPANIONS.iter();
    let mut stems = companions.filter_map(|end| name.strip_suffix(end.as_bytes()));
    stems.find(|stem| !stem.is_empty())
}

/// How a state of a database was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Under SQLite's read lock.
    Held,
    /// Without it, for nothing changed meanwhile.
    Still,
}

/// A state of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// How it was taken.
    pub way: Way,
    /// How long those who write had to wait, at most.
    pub writers_waited: Duration,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageError {
    /// It is not there any more, or something else.
    #[error("it is not there any more")]
    Gone,
    /// It is no database, whatever it says, or it is damaged.
    #[error(
        "it says to be an SQLite database, and SQLite cannot read it ({0}): it is damaged or encrypted"
    )]
    Damaged(String),
    /// Those who work with it did not let it be read for so long.
    #[error("{0}")]
    Busy(String),
    /// Something failed here.
    #[error("{0}")]
    Failed(String),
}

/// Writes the state that the database `name` in `directory` has now to the file `into`, which must not exist, nor any with a name that begins with
/// that. With a rollback journal those who write wait at most for `max_lock`. What is there after an error is worth nothing; nothing is synced.
pub fn take(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    into: &Path,
    max_lock: Duration,
) -> Result<Image, ImageError> {
    let source = Source::open(directory, name)?;
    // SQLite would wait for ever for the other end of a pipe.
    source.expect_files()?;
    let hold = match source.has_log()? && !source.is_logging()? {
        // Whoever opens it now would make its log.
        true => Err(Refusal::Unready),
        false => Hold::take(&source, max_lock.min(BUSY)),
    };
    let image = match hold {
        Ok(hold) => held_copy(&source, into, hold, max_lock),
        Err(Refusal::Damaged(error)) => Err(ImageError::Damaged(error)),
        Err(Refusal::Locked(error)) if !source.has_log()? && !source.has_hot_journal() => {
            // Its former pages are in nobody's reach but that of the one who writes.
            Err(ImageError::Busy(format!("others keep it locked: {error}")))
        }
        Err(Refusal::Locked(_) | Refusal::Unready) => still::take(&source, into),
    };
    // Whoever has a lock by SQLite loses it when this is closed.
    drop(source);
    image
}

/// Copies under the lock.
fn held_copy(
    source: &Source<'_>,
    into: &Path,
    hold: Hold,
    max_lock: Duration,
) -> Result<Image, ImageError> {
    let begun = Instant::now();
    let has_log = source.has_log()?;
    let until = (!has_log).then(|| begun + max_lock);
    let copied = match until {
        None => with_log(source, into),
        Some(_) => Copy::of(&source.file, into, until),
    };
    drop(hold);
    let held = begun.elapsed();
    let writers_waited = match has_log {
        true => Duration::ZERO,
        false => held,
    };
    match copied? {
        Copied::Whole(copy) => copy.settle()?,
        Copied::Late => {
            return Err(ImageError::Busy(format!(
                "those who write would have waited for more than {} ms while it was copied",
                max_lock.as_millis()
            )));
        }
    }
    Ok(Image {
        way: Way::Held,
        writers_waited,
    })
}

/// Copies the file, and its log after that: whatever a checkpoint has done to the file meanwhile is in the log as well.
///
/// Of a log of which everything is in the file already the lock keeps no writer from starting it anew. What is copied of one that was may be
/// old; then the file, to which nobody may write as long as the lock is held, is the state by itself.
fn with_log(source: &Source<'_>, into: &Path) -> Result<Copied, ImageError> {
    let before = source.log_header()?;
    let copied = Copy::of(&source.file, into, None)?;
    if before.is_none() {
        return Ok(copied);
    }
    let copied = copied.with(source, WAL)?;
    match source.log_header()? == before {
        true => Ok(copied),
        false => copied.without(WAL),
    }
}

/// Whether anybody else has a lock of SQLite's on a file. Takes none, and drops those of this process only if it has the file open once more.
pub fn is_locked(file: &File) -> std::io::Result<bool> {
    let all = Flock {
        start: PENDING_BYTE,
        length: LOCK_BYTES,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    Ok(fcntl_getlk(file, &all)?.is_some())
}

/// A database and where it lies.
struct Source<'a> {
    directory: BorrowedFd<'a>,
    name: &'a OsStr,
    file: File,
}

impl<'a> Source<'a> {
    fn open(directory: BorrowedFd<'a>, name: &'a OsStr) -> Result<Self, ImageError> {
        let file = open(directory, name)?.ok_or(ImageError::Gone)?;
        let source = Self {
            directory,
            name,
            file,
        };
        source.header()?;
        Ok(source)
    }

    fn header(&self) -> Result<[u8; HEADER_BYTES], ImageError> {
        let mut header = [0; HEADER_BYTES];
        match self.file.read_exact_at(&mut header, 0) {
            Ok(()) if is_database(&header) => Ok(header),
            Ok(()) => Err(ImageError::Damaged(
                "its first bytes are others by now".to_owned(),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(ImageError::Damaged("it became shorter".to_owned()))
            }
            Err(error) => Err(failed("read", self.name, &error)),
        }
    }

    /// Whether what is committed goes into a log first.
    fn has_log(&self) -> Result<bool, ImageError> {
        Ok(self.header()?[19] == 2)
    }

    fn companion(&self, end: &str) -> OsString {
        let mut name = self.name.to_owned();
        name.push(end);
        name
    }

    fn open_companion(&self, end: &str) -> Result<Option<File>, ImageError> {
        open(self.directory, &self.companion(end))
    }

    /// Whatever is called like a companion is a file, or nothing.
    fn expect_files(&self) -> Result<(), ImageError> {
        for end in COMPANIONS {
            let name = self.companion(end);
            match statat(self.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
                Ok(_) => {
                    return Err(ImageError::Failed(format!(
                        "`{}` is no file, and SQLite expects one of that name: rename it",
                        name.to_string_lossy()
                    )));
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("look at", &name, &error.into())),
            }
        }
        Ok(())
    }

    /// What changes whenever its log is started anew; `None` if there is nothing in it.
    fn log_header(&self) -> Result<Option<[u8; LOG_HEADER_BYTES]>, ImageError> {
        let Some(log) = self.open_companion(WAL)? else {
            return Ok(None);
        };
        let mut header = [0; LOG_HEADER_BYTES];
        match log.read_exact_at(&mut header, 0) {
            Ok(()) => Ok(Some(header)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(failed("read", &self.companion(WAL), &error)),
        }
    }

    /// Whether its log and the index of that are there.
    fn is_logging(&self) -> Result<bool, ImageError> {
        Ok(self.open_companion(WAL)?.is_some() && self.open_companion(SHM)?.is_some())
    }

    /// Whether a transaction is under way of which the former pages are on disk.
    fn has_hot_journal(&self) -> bool {
        let mut first = [0; 8];
        let journal = self.open_companion(JOURNAL).ok().flatten();
        journal.is_some_and(|file| file.read_exact_at(&mut first, 0).is_ok())
            && first == JOURNAL_MAGIC
    }
}

/// A regular file; `None` if there is none.
fn open(directory: impl AsFd, name: &OsStr) -> Result<Option<File>, ImageError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(failed("open", name, &error.into())),
    };
    let metadata = file.metadata();
    let is_file = metadata.map_err(|error| failed("look at", name, &error))?;
    Ok(is_file.is_file().then_some(file))
}

fn failed(operation: &str, name: &OsStr, error: &std::io::Error) -> ImageError {
    ImageError::Failed(format!(
        "cannot {operation} `{}`: {error}",
        name.to_string_lossy()
    ))
}
