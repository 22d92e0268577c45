//! Locks between processes: files of the state directory, and directories that are worked in, that are held (flock) and go with
//! their holder.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use understudy_tree::Directory;

use crate::error::AgentError;

/// Takes a directory for as long as the descriptor is open; `false` if somebody else has it.
pub(crate) fn try_lock_directory(directory: &Directory) -> Result<bool, Errno> {
    match flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the lock, and makes its file if it is missing; `None` if somebody else has it. It is held as long as the
/// file is.
pub(crate) fn try_lock(path: &Path) -> Result<Option<File>, AgentError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| AgentError::state("open the lock", path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(AgentError::state("lock", path, &error)),
    }
}
