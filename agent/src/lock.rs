//! Locks between processes: files of the state directory that are held (flock) and go with their holder.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::AgentError;

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
