//! What can go wrong on the spare's side, split by what the caller does next.

use std::path::PathBuf;

use understudy_protocol::{ContentHash, DatasetName, Failure, FailureCode, ProtocolError};
use understudy_tree::TreeError;

/// An operation of the receiver failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiverError {
    /// The store directory cannot be used.
    #[error("`{}` cannot be used as a store: {reason}", path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store was written by a newer version.
    #[error("`{}` was written by a newer version of understudy (format {found}, this one knows {known}); upgrade understudy on this host", path.display())]
    Newer {
        /// The store or catalog.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format this build knows.
        known: i64,
    },
    /// What the spare knows of its mains cannot be used.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another upload holds the dataset.
    #[error("another upload of dataset `{0}` is running; this one was not started")]
    Busy(DatasetName),
    /// No such dataset or snapshot.
    #[error("{0}")]
    NotFound(String),
    /// The disk is full.
    #[error("no space left on the spare: {0}; the last snapshot is untouched")]
    NoSpace(String),
    /// The main has used up what it may take of the spare.
    #[error("{0}")]
    Quota(String),
    /// The main has as much going on at once as it may have.
    #[error("{0}")]
    Crowded(String),
    /// What is stored contradicts itself.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The change set does not lead to the state the agent computed.
    #[error("{0}")]
    OutOfStep(String),
    /// Somebody changed the live tree while a snapshot was being made. Nothing of the snapshot has become live.
    #[error("{0}")]
    Drifted(String),
    /// What was asked for belongs to somebody else.
    #[error("{0}")]
    Forbidden(String),
    /// The peer is not the main of the present epoch.
    #[error("{0}")]
    Fenced(String),
    /// A guard refused the change set.
    #[error("{0}")]
    Refused(String),
    /// A database of the snapshot is not as it should be on this host.
    #[error("{0}")]
    Database(String),
    /// A tree cannot become a dataset.
    #[error("{0}")]
    Adoption(String),
    /// The peer did what the protocol forbids.
    #[error("the other side broke the protocol: {0}")]
    Misbehaved(String),
    /// A delta does not lead to the content that was announced.
    #[error(
        "the delta of {of} does not lead to the content that was announced: the agent sends it whole; if this comes again, run `understudy verify`"
    )]
    BadDelta {
        /// The stream, or the place.
        of: String,
    },
    /// What was told to be left over of an interrupted upload is not.
    #[error("{0}: the agent sends it")]
    BadLeftover(String),
    /// What the agent refers to cannot be had of history.
    #[error("the content {hash} cannot be had of history ({reason}): the agent sends it")]
    NotInHistory {
        /// The content.
        hash: ContentHash,
        /// Why not.
        reason: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Tree(TreeError),
    /// The catalog failed.
    #[error("the catalog `{}` failed: {source}", path.display())]
    Catalog {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The connection failed, or the peer gave up.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Work that can be carried on later was told to stop.
    #[error("stopped; it is carried on later")]
    Stopped,
    /// A worker thread is gone; its own error was reported before.
    #[error("a worker of the receiver ended unexpectedly")]
    Worker,
}

impl From<TreeError> for ReceiverError {
    fn from(error: TreeError) -> Self {
        if error.is_no_space() {
            Self::NoSpace(error.to_string())
        } else {
            Self::Tree(error)
        }
    }
}

impl ReceiverError {
    /// The delta of a stream is one that does not fit.
    pub(crate) fn bad_delta(stream: u64) -> Self {
        let of = format!("stream {stream}");
        Self::BadDelta { of }
    }

    /// The class under which the other side is told.
    pub fn failure_code(&self) -> FailureCode {
        match self {
            Self::Busy(_) | Self::Crowded(_) => FailureCode::Busy,
            Self::NotFound(_) => FailureCode::NotFound,
            Self::NoSpace(_) | Self::Quota(_) => FailureCode::NoSpace,
            Self::Newer { .. } | Self::Protocol(ProtocolError::Versions { .. }) => {
                FailureCode::Incompatible
            }
            Self::Damaged(_) => FailureCode::Damaged,
            Self::OutOfStep(_) | Self::Drifted(_) => FailureCode::OutOfStep,
            Self::Refused(_) => FailureCode::Refused,
            Self::Forbidden(_) => FailureCode::Forbidden,
            Self::Fenced(_) => FailureCode::Fenced,
            Self::Misbehaved(_) | Self::Protocol(_) => FailureCode::Misbehaved,
            Self::BadDelta { .. } => FailureCode::BadDelta,
            Self::BadLeftover(_) => FailureCode::BadLeftover,
            Self::NotInHistory { .. } => FailureCode::NotInHistory,
            Self::Store { .. }
            | Self::Trust { .. }
            | Self::Adoption(_)
            | Self::Database(_)
            | Self::Tree(_)
            | Self::Catalog { .. }
            | Self::Worker
            | Self::Stopped => FailureCode::Internal,
        }
    }

    /// The message that tells the other side.
    pub fn to_failure(&self) -> Failure {
        let mut text = self.to_string();
        shorten(&mut text, understudy_protocol::limits::TEXT_BYTES);
        Failure::new(self.failure_code(), text)
    }
}

/// Cuts off what is beyond so many bytes.
pub(crate) fn shorten(text: &mut String, bytes: usize) {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
