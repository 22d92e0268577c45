//! States of the SQLite databases among the files of a source, and who takes them.

use std::fmt::Debug;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use understudy_databases::sqlite::{Image, ImageError};
use understudy_protocol::{Name, RelPath};
use understudy_tree::TreeError;

/// Takes states of databases; this wants a process of its own, for SQLite's locks go with any close of a file.
pub trait Images: Send + Sync + Debug {
    /// Takes the state that a database has now: see [`understudy_databases::sqlite::take`].
    fn take(&self, which: Which<'_>, max_lock: Duration) -> Result<Imaged, ImageError>;
}

/// A database.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// The root of the source.
    pub root: &'a Path,
    /// The directory below that.
    pub directory: &'a RelPath,
    /// Its name there.
    pub name: &'a Name,
}

/// A state of a database, in a file that goes with this.
#[derive(Debug)]
pub struct Imaged {
    path: PathBuf,
    /// How it was taken.
    pub image: Image,
}

impl Imaged {
    /// The state at `path`, which is nobody else's.
    pub fn new(path: PathBuf, image: Image) -> Self {
        Self { path, image }
    }

    /// Opens it, for the database of this name.
    pub(crate) fn open_for(&self, name: &Name) -> Result<File, TreeError> {
        File::open(&self.path)
            .map_err(|error| TreeError::new("open the copy of", name.as_bytes(), error))
    }
}

impl Drop for Imaged {
    #[expect(
        clippy::disallowed_methods,
        reason = "a copy that nobody needs any more"
    )]
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(
                "the copy of a database, `{}`, is of no use any more and cannot be removed: {error}",
                self.path.display()
            );
        }
    }
}

/// What is done with SQLite databases among the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sqlite {
    /// A state of each is taken; with a rollback journal those who write wait at most for so long.
    Capture {
        /// At most.
        max_lock: Duration,
    },
    /// They are files like any other.
    Copy,
}

impl Sqlite {
    /// How long those who write to a database with a rollback journal wait at most, if nobody says otherwise.
    pub const MAX_LOCK: Duration = Duration::from_secs(20);
}

impl Default for Sqlite {
    fn default() -> Self {
        Self::Capture {
            max_lock: Self::MAX_LOCK,
        }
    }
}
