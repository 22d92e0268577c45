//! Large contents in blocks, in either direction.

use serde::{Deserialize, Serialize};

use super::{Check, bounded};
use crate::bytes::Bytes;
use crate::error::ProtocolError;
use crate::hash::ContentHash;
use crate::limits;
use crate::place::Place;

/// A stretch of a large file. What neither a block nor a copy covers below the final size is a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBlock {
    /// Chosen by the sender, one at a time per content.
    pub stream: u64,
    /// Where it belongs; not before the end of the block before it.
    pub offset: u64,
    /// At most [`limits::BLOCK_BYTES`].
    pub data: Bytes,
}

/// Says that a stream is a new version of a file of the base snapshot, before anything else of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBase {
    /// Which stream.
    pub stream: u64,
    /// The file of the base snapshot.
    pub place: Place,
}

/// A stretch of a stream that its base has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCopy {
    /// Which stream.
    pub stream: u64,
    /// Where it belongs; not before the end of what came before it.
    pub offset: u64,
    /// Where the base has it.
    pub from: u64,
    /// How many bytes, at least one; the base has them all.
    pub length: u64,
}

/// Says that a stream begins with what the receiver has left over of an interrupted one, before anything else of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamResume {
    /// Which stream.
    pub stream: u64,
    /// How many bytes the receiver has, at least one.
    pub length: u64,
    /// The hash of these bytes, holes as zeros.
    pub hash: ContentHash,
}

/// Ends a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// Which stream.
    pub stream: u64,
    /// The file's length in bytes.
    pub size: u64,
    /// The hash of the whole content, holes as zeros.
    pub hash: ContentHash,
}

/// Gives a stream up, for instance because the file changed while it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAbort {
    /// Which stream.
    pub stream: u64,
}

impl Check for StreamBlock {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a block", self.data.len(), limits::BLOCK_BYTES)?;
        match self.offset.checked_add(self.data.len() as u64) {
            Some(end) if end <= limits::FILE_BYTES && !self.data.is_empty() => Ok(()),
            _ => Err(ProtocolError::malformed(
                "StreamBlock",
                "it is empty or ends beyond the largest file",
            )),
        }
    }
}

impl Check for StreamCopy {
    fn check(&self) -> Result<(), ProtocolError> {
        let ends_within = |start: u64| {
            let end = start.checked_add(self.length);
            end.is_some_and(|end| end <= limits::FILE_BYTES)
        };
        if self.length > 0 && ends_within(self.offset) && ends_within(self.from) {
            return Ok(());
        }
        Err(ProtocolError::malformed(
            "StreamCopy",
            "it is empty or ends beyond the largest file",
        ))
    }
}

impl Check for StreamEnd {
    fn check(&self) -> Result<(), ProtocolError> {
        if self.size <= limits::FILE_BYTES {
            return Ok(());
        }
        Err(ProtocolError::malformed(
            "StreamEnd",
            "the size is beyond the largest file",
        ))
    }
}

impl Check for StreamResume {
    fn check(&self) -> Result<(), ProtocolError> {
        if (1..=limits::FILE_BYTES).contains(&self.length) {
            return Ok(());
        }
        Err(ProtocolError::malformed(
            "StreamResume",
            "it is empty or ends beyond the largest file",
        ))
    }
}
