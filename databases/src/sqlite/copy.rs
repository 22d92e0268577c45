//! A copy of a database and of what belongs to it, and what SQLite makes of that.

#![expect(
    clippy::disallowed_methods,
    reason = "copies go into a scratch directory, and nothing of them needs to be durable"
)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;

use super::{COMPANIONS, ImageError, JOURNAL, JOURNAL_MAGIC, Source, WAL};

/// So much is copied between two looks at the clock.
const CHUNK: u64 = 8 << 20;
/// So much where the kernel does not copy by itself.
const BUFFER_BYTES: usize = 256 << 10;

/// What became of copying.
pub(super) enum Copied {
    /// All is there.
    Whole(Copy),
    /// The time was over.
    Late,
}

/// A copy.
pub(super) struct Copy {
    path: PathBuf,
    has_companion: bool,
}

impl Copy {
    /// Copies the file itself, until a moment.
    pub(super) fn of(
        file: &File,
        into: &Path,
        until: Option<Instant>,
    ) -> Result<Copied, ImageError> {
        let copied = write(file, into, until).map_err(|error| unwritten(into, &error))?;
        Ok(match copied {
            true => Copied::Whole(Self {
                path: into.to_owned(),
                has_companion: false,
            }),
            false => Copied::Late,
        })
    }

    fn companion(&self, end: &str) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(end);
        PathBuf::from(path)
    }

    /// Has SQLite bring the file to the state that it has with its log or journal, and removes those.
    pub(super) fn settle(self) -> Result<(), ImageError> {
        if !self.has_companion {
            return Ok(());
        }
        let wal = self.companion(WAL);
        let settled = open(&self.path).and_then(|connection| {
            // What was rolled back is, once somebody reads.
            connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?;
            match wal.exists() {
                true => {
                    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                }
                false => Ok(0_i64),
            }
        });
        match settled {
            Ok(0) => {}
            Ok(_) => {
                let text = "somebody else works with the copy of a database";
                return Err(ImageError::Failed(text.to_owned()));
            }
            Err(error) => return Err(self.unsettled(&error)),
        }
        for end in COMPANIONS {
            let path = self.companion(end);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unwritten(&path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn unsettled(&self, error: &rusqlite::Error) -> ImageError {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                ImageError::Damaged(error.to_string())
            }
            _ => ImageError::Failed(format!(
                "SQLite cannot settle its copy `{}`: {error}",
                self.path.display()
            )),
        }
    }
}

impl Copied {
    /// Copies the log or the journal too, if there is one.
    pub(super) fn with(self, source: &Source<'_>, end: &str) -> Result<Self, ImageError> {
        let Self::Whole(copy) = self else {
            return Ok(self);
        };
        let Some(file) = source.open_companion(end)? else {
            return Ok(Self::Whole(copy));
        };
        let into = copy.companion(end);
        write(&file, &into, None).map_err(|error| unwritten(&into, &error))?;
        if end == JOURNAL && names_others(&into).map_err(|error| unwritten(&into, &error))? {
            let text = "a transaction over several databases is under way, which is nobody's to end but of the one who writes";
            return Err(ImageError::Busy(text.to_owned()));
        }
        Ok(Self::Whole(Copy {
            has_companion: true,
            ..copy
        }))
    }

    /// Removes the copy of the log or the journal.
    pub(super) fn without(self, end: &str) -> Result<Self, ImageError> {
        if let Self::Whole(copy) = &self {
            let path = copy.companion(end);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unwritten(&path, &error));
                }
                _ => {}
            }
        }
        Ok(self)
    }

    /// As [`Self::with`], whichever there is.
    pub(super) fn with_all(self, source: &Source<'_>) -> Result<Self, ImageError> {
        self.with(source, WAL)?.with(source, JOURNAL)
    }
}

/// The copy is nobody else's: nothing of it needs to be safe, and no other process need be kept out.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF;")?;
    Ok(connection)
}

/// Whether a journal says at its end that a file elsewhere decides whether it counts. SQLite would open that, and remove it.
fn names_others(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut last = [0; JOURNAL_MAGIC.len()];
    let Some(at) = length.checked_sub(last.len() as u64).filter(|at| *at > 0) else {
        return Ok(false);
    };
    file.read_exact_at(&mut last, at)?;
    Ok(last == JOURNAL_MAGIC)
}

/// Whether all was copied in time; holes stay holes.
fn write(from: &File, into: &Path, until: Option<Instant>) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    let to = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(into)?;
    let mut at = 0;
    loop {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // A hole up to the end, which may have come nearer meanwhile.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(begin))?;
        at = begin;
        while at < end {
            if until.is_some_and(|until| Instant::now() > until) {
                return Ok(false);
            }
            match copy_chunk(from, &to, at, CHUNK.min(end - at))? {
                0 => break,
                copied => at += copied,
            }
        }
        if at < end {
            break;
        }
    }
    let length = from.metadata()?.len();
    if length > to.metadata()?.len() {
        to.set_len(length)?;
    }
    Ok(true)
}

/// The kernel copies, and shares blocks where the file system can.
fn copy_chunk(from: &File, to: &File, at: u64, length: u64) -> io::Result<u64> {
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    let (mut source, mut target) = (at, at);
    match copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted) {
        Ok(copied) => return Ok(copied as u64),
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut buffer = vec![0; wanted.min(BUFFER_BYTES)];
    let read = from.read_at(&mut buffer, at)?;
    to.write_all_at(&buffer[..read], at)?;
    Ok(read as u64)
}

fn unwritten(path: &Path, error: &io::Error) -> ImageError {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room there, for a database in use is copied before it is sent"
        }
        _ => "",
    };
    ImageError::Failed(format!(
        "cannot copy to `{}`: {error}{remedy}",
        path.display()
    ))
}
