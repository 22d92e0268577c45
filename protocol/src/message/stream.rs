//! Large contents in blocks, in either direction.

use serde::{Deserialize, Serialize};

use super::{Check, Message, bounded};
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

/// Several stretches of a stream that has a base, one after another: short ones take less in one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPieces {
    /// Which stream.
    pub stream: u64,
    /// Where the first one belongs; not before the end of what came before it.
    pub offset: u64,
    /// At least one and at most [`limits::RECORDS`], with at most [`limits::BLOCK_BYTES`] of new bytes.
    #[serde(deserialize_with = "crate::list::records")]
    pub pieces: Vec<StreamPiece>,
}

/// A stretch of a stream, at least one byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamPiece {
    /// These bytes.
    New(Bytes),
    /// What the base has there.
    Former {
        /// Where the base has it.
        from: u64,
        /// How many bytes.
        length: u64,
    },
}

impl StreamPiece {
    /// How many bytes of the stream it is.
    pub fn length(&self) -> u64 {
        match self {
            Self::New(data) => data.len() as u64,
            Self::Former { length, .. } => *length,
        }
    }
}

impl StreamPieces {
    /// The bytes that are new.
    pub fn new_bytes(&self) -> u64 {
        let new = |piece: &StreamPiece| match piece {
            StreamPiece::New(data) => data.len() as u64,
            StreamPiece::Former { .. } => 0,
        };
        self.pieces.iter().map(new).sum()
    }

    /// What they stand for: a [`StreamBlock`] or a [`StreamCopy`] each.
    pub fn into_messages(self) -> impl Iterator<Item = Message> {
        let (stream, mut offset) = (self.stream, self.offset);
        self.pieces.into_iter().map(move |piece| {
            let begin = offset;
            // Checked when it was decoded.
            offset = offset.saturating_add(piece.length());
            match piece {
                StreamPiece::New(data) => Message::StreamBlock(StreamBlock {
                    stream,
                    offset: begin,
                    data,
                }),
                StreamPiece::Former { from, length } => Message::StreamCopy(StreamCopy {
                    stream,
                    offset: begin,
                    from,
                    length,
                }),
            }
        })
    }
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

impl Check for StreamPieces {
    fn check(&self) -> Result<(), ProtocolError> {
        let wrong = || {
            ProtocolError::malformed(
                "StreamPieces",
                "it is empty, has an empty stretch, or ends beyond the largest file",
            )
        };
        let mut end = self.offset;
        for piece in &self.pieces {
            let from = match piece {
                StreamPiece::New(_) => 0,
                StreamPiece::Former { from, .. } => *from,
            };
            let ends_within = |start: u64| {
                let end = start.checked_add(piece.length());
                end.filter(|end| *end <= limits::FILE_BYTES)
            };
            ends_within(from).ok_or_else(wrong)?;
            end = ends_within(end)
                .filter(|_| piece.length() > 0)
                .ok_or_else(wrong)?;
        }
        if self.pieces.is_empty() {
            return Err(wrong());
        }
        // Nothing in a frame is longer than that.
        let new = usize::try_from(self.new_bytes()).unwrap_or(usize::MAX);
        bounded("new bytes of several stretches", new, limits::BLOCK_BYTES)
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
