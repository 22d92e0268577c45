//! Where copies go: a directory of one command, locked (flock) as long as that runs. The process that copies may end and be started anew
//! meanwhile.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use understudy_protocol::Name;
use understudy_tree::{Directory, Mounts, TreeError, remove};

/// Such a directory.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// The lock goes with it.
    _directory: Directory,
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes one below `path`, and removes those of commands that have ended.
    pub(super) fn make(path: &Path) -> Result<Self, TreeError> {
        let state = path.parent().unwrap_or(path);
        let images = Name::new("images").map_err(|error| {
            TreeError::new("name", b"images", io::Error::other(error.to_string()))
        })?;
        let parent = Directory::open(state, Mounts::Cross)?.ensure_directory(&images)?;
        parent.set_mode(0o700)?;
        for name in parent.names()? {
            let removed = parent.open_directory(&name).and_then(|left| {
                lock(&left)?;
                remove::empty(&left)?;
                parent.remove_directory(&name)
            });
            if let Err(error) = removed {
                tracing::debug!("`{name}`, which may be of another command, stays: {error}");
            }
        }
        let own = std::process::id().to_string();
        let invalid = |error: &dyn std::fmt::Display| {
            TreeError::new("name", own.as_bytes(), io::Error::other(error.to_string()))
        };
        // Nobody sees it under its name before it is locked.
        let unlocked = Name::new(format!("{own}.new")).map_err(|error| invalid(&error))?;
        let name = Name::new(own.as_bytes()).map_err(|error| invalid(&error))?;
        parent.create_directory(&unlocked)?;
        let directory = parent.open_directory(&unlocked)?;
        lock(&directory)?;
        parent.rename_new(&unlocked, &parent, &name)?;
        Ok(Self {
            path: path.join(&own),
            _directory: directory,
        })
    }
}

fn lock(directory: &Directory) -> Result<(), TreeError> {
    flock(directory, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| TreeError::new("lock", b"a directory of copies", error))
}
