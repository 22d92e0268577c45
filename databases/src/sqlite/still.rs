//! Copying a database without its lock: what is copied counts if nothing changed meanwhile. It is what a power cut would have left at that moment.

#![expect(
    clippy::disallowed_methods,
    reason = "copies go into a scratch directory, and others' programs give no notice when they are done"
)]

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use super::copy::{Copied, Copy};
use super::{COMPANIONS, Image, ImageError, JOURNAL, Source, WAL, Way, failed, is_locked};

/// How often it is tried, and the pause before, times the attempt.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);
/// A change this young may be followed by another with the same time, by the clock of the kernel; where it keeps whole seconds, by those.
const TICKS: Duration = Duration::from_millis(25);
const WHOLE_SECONDS: Duration = Duration::from_secs(2);

/// What changes whenever a file does.
type Stamp = Option<(u64, i64, (i64, u64), (i64, u64))>;

pub(super) fn take(source: &Source<'_>, into: &Path) -> Result<Image, ImageError> {
    for attempt in 0..ATTEMPTS {
        std::thread::sleep(PAUSE * attempt);
        let before = stamps(source)?;
        if !before.iter().all(is_settled) || has_hidden_pages(source)? {
            continue;
        }
        // From its beginning, also for the second time, and the file that the name leads to now.
        let again = Source::open(source.directory, source.name)?;
        let copied = Copy::of(&again.file, into, None)?.with_all(&again)?;
        let is_same =
            stamps(source)? == before && is_named(&again, &before)? && !has_hidden_pages(&again)?;
        match copied {
            Copied::Whole(copy) if is_same => {
                copy.settle()?;
                return Ok(Image {
                    way: Way::Still,
                    writers_waited: Duration::ZERO,
                });
            }
            _ => clear(into)?,
        }
    }
    Err(ImageError::Busy(
        "it changed every time it was copied, and its lock could not be had".to_owned(),
    ))
}

/// Whether a transaction may be under way whose former pages are in nobody's reach but that of the one who writes.
fn has_hidden_pages(source: &Source<'_>) -> Result<bool, ImageError> {
    if source.has_log()? || source.has_hot_journal() {
        return Ok(false);
    }
    is_locked(&source.file).map_err(|error| failed("ask for locks of", source.name, &error))
}

fn stamps(source: &Source<'_>) -> Result<[Stamp; 3], ImageError> {
    let of = |name: &OsStr| stamp(source.directory, name);
    Ok([
        of(source.name)?,
        of(&source.companion(WAL))?,
        of(&source.companion(JOURNAL))?,
    ])
}

fn stamp(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Stamp, ImageError> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((
            stat.st_ino,
            stat.st_size,
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        ))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed("look at", name, &error.into())),
    }
}

fn is_settled(stamp: &Stamp) -> bool {
    let Some((_, _, _, (seconds, nanoseconds))) = *stamp else {
        return true;
    };
    let changed = u64::try_from(seconds).unwrap_or(0);
    let changed = Duration::from_secs(changed) + Duration::from_nanos(nanoseconds);
    let ticks = match nanoseconds {
        0 => WHOLE_SECONDS,
        _ => TICKS,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| changed + ticks < now)
}

fn is_named(source: &Source<'_>, before: &[Stamp; 3]) -> Result<bool, ImageError> {
    let here = source.file.metadata();
    let here = here.map_err(|error| failed("look at", source.name, &error))?;
    Ok(before[0].is_some_and(|(inode, ..)| inode == here.ino()))
}

/// Removes what was copied in vain.
fn clear(into: &Path) -> Result<(), ImageError> {
    for end in COMPANIONS.into_iter().chain([""]) {
        let mut path = into.as_os_str().to_owned();
        path.push(end);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}
