//! What can go wrong between two peers, split by whose fault it is.

use serde::{Deserialize, Serialize};

/// Why a side gives up, as it tells the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What the receiver of it does next.
    pub code: FailureCode,
    /// What happened, to which file, what it means and what to do, for people.
    pub text: String,
}

impl Failure {
    /// A failure with its text.
    pub fn new(code: FailureCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// The class of a failure. New ones are appended only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCode {
    /// Anything without a class of its own.
    Internal,
    /// Another upload of this dataset is running; try again later.
    Busy,
    /// No such dataset or snapshot.
    NotFound,
    /// The store's disk is full; nothing was changed.
    NoSpace,
    /// The two versions do not understand each other.
    Incompatible,
    /// What is stored does not match its hash or checksum.
    Damaged,
    /// The states differ: compare and start again.
    OutOfStep,
    /// The peer did what the protocol forbids.
    Misbehaved,
    /// A guard refused the change.
    Refused,
    /// The side that failed is shutting down.
    Interrupted,
    /// What a delta and its base come to does not have the hash that was announced: send whole contents.
    BadDelta,
    /// What the receiver said it has left over is not there or not right: send it.
    BadLeftover,
    /// What the agent took to be in history is not, or not as it was: send it.
    NotInHistory,
    /// What was asked for does not belong to this peer.
    Forbidden,
    /// Another host is the main now, or this one knows nothing of the epoch that was claimed.
    Fenced,
}

/// Why the program that carries a connection gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CarrierFailure {
    /// What the caller does next.
    pub kind: CarrierKind,
    /// What happened, for people.
    pub text: String,
    /// What they can do about it.
    pub advice: String,
}

/// The class of a [`CarrierFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarrierKind {
    /// The other side cannot be reached, or was lost: it may be back later.
    Away,
    /// One side does not know the other: only people can change that.
    Refused,
}

/// A peer's bytes are not a message, or not one that is allowed here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The greeting is not ours.
    #[error("the other side does not speak the understudy protocol")]
    NotUnderstudy,
    /// No common version.
    #[error(
        "the two sides have no protocol version in common: this side speaks {ours}, the other {theirs}; upgrade {upgrade}"
    )]
    Versions {
        /// Range this side speaks.
        ours: String,
        /// Range and software of the other side.
        theirs: String,
        /// Which side is older.
        upgrade: &'static str,
    },
    /// A length is over its limit.
    #[error("the other side sent {what} of {length} bytes; the limit is {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The length claimed.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes cannot be decoded.
    #[error("the other side sent a malformed {what}: {reason}")]
    Malformed {
        /// Which message or part.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A number that no message has.
    #[error("the other side sent a message of the unknown kind {0}")]
    UnknownKind(u8),
    /// A message that is not allowed at this moment.
    #[error("the other side sent {got} where {wanted} was expected")]
    Unexpected {
        /// What came.
        got: &'static str,
        /// What could have come.
        wanted: &'static str,
    },
    /// The connection ended in the middle.
    #[error("the connection was cut")]
    Cut,
    /// The other side gave up.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The address is not allowed or cannot be reached.
    #[error("{0}")]
    Address(String),
    /// The program that carries the connection failed.
    #[error(transparent)]
    Carrier(#[from] CarrierFailure),
    /// One side is not who the other side takes it for, or is not known there.
    #[error("{0}")]
    NotAuthenticated(String),
    /// The network failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

impl ProtocolError {
    /// Whether the other side is gone or out of reach, so that another connection may do better.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Cut | Self::Io(_) | Self::Address(_) => true,
            Self::Carrier(failure) => failure.kind == CarrierKind::Away,
            _ => false,
        }
    }

    /// A malformed message with the reason.
    pub fn malformed(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Malformed {
            what,
            reason: reason.to_string(),
        }
    }
}
