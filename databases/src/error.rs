//! What can go wrong with a database.

use std::path::PathBuf;
use std::time::Duration;

/// An error, with what a person can do about it.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A program is not installed, or cannot be started.
    #[error("cannot start `{program}`: {error}. {remedy}")]
    Start {
        /// As it was named.
        program: String,
        /// From the system.
        error: std::io::Error,
        /// What to install, or to configure.
        remedy: String,
    },
    /// A program ended with an error.
    #[error("`{program}` failed ({ended}): {said}")]
    Failed {
        /// With its arguments, without any secret.
        program: String,
        /// Its exit code, or the signal that killed it.
        ended: String,
        /// The end of what it printed to standard error.
        said: String,
        /// Its exit code, if it ended by itself.
        code: Option<i32>,
    },
    /// A program took too long, and was killed.
    #[error("`{program}` was killed after {} s: {what}", after.as_secs())]
    TooLong {
        /// With its arguments, without any secret.
        program: String,
        /// The limit.
        after: Duration,
        /// What that means, and what to do.
        what: String,
    },
    /// The engine does not let itself be dumped now, without anything being wrong: the next cycle tries again.
    #[error("not now: {0}")]
    NotNow(String),
    /// A program succeeded, and what it wrote is not whole or not understood.
    #[error("{0}")]
    Incomplete(String),
    /// What is asked for cannot be done with what is installed or configured, and a person has to change that.
    #[error("{0}")]
    Unsupported(String),
    /// A file of a dump cannot be written or read.
    #[error("cannot {operation} `{}`: {error}{}", path.display(), remedy(error))]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// From the system.
        error: std::io::Error,
    },
}

impl DatabaseError {
    /// An error of a file.
    pub fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
        error: impl Into<std::io::Error>,
    ) -> Self {
        Self::File {
            operation,
            path: path.into(),
            error: error.into(),
        }
    }
}

/// What to do about an error of a file, where that is known.
fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull => ". The disk is full: free some space there; what was written is thrown away",
        QuotaExceeded | FileTooLarge => {
            ". A limit of the user is reached: raise it, or free some space; what was written is thrown away"
        }
        _ => "",
    }
}
