//! What can fail on a file tree: the operation, the path and the system's reason.

use std::io;

use rustix::io::Errno;
use understudy_protocol::escape;

/// An operation on a tree failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{path}`: {source}")]
pub struct TreeError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// On which path or name, escaped.
    pub path: String,
    /// Why it failed.
    pub source: io::Error,
}

impl TreeError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self {
            operation,
            path: escape(path),
            source: source.into(),
        }
    }

    /// Puts the path of the directory before the name.
    #[must_use]
    pub fn below(mut self, directory: &str) -> Self {
        self.path = format!("{directory}/{}", self.path);
        self
    }

    /// The system's error number, if it was the system.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }

    /// Whether the thing is not there (any more), or is now of another kind.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
        )
    }

    /// Whether there is no space or quota left.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT))
    }
}

/// Adds the operation and the name to a system error.
pub(crate) trait Context<T> {
    fn context(self, operation: &'static str, path: &[u8]) -> Result<T, TreeError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, operation: &'static str, path: &[u8]) -> Result<T, TreeError> {
        self.map_err(|error| TreeError::new(operation, path, error))
    }
}
