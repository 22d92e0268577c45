//! Large contents in blocks, in either direction.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::hash::ContentHash;
#[cfg(doc)]
use crate::limits;

/// A stretch of a large file. What no block covers below the final size is a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBlock {
    /// Chosen by the sender, one at a time per content.
    pub stream: u64,
    /// Where it belongs; not before the end of the block before it.
    pub offset: u64,
    /// At most [`limits::BLOCK_BYTES`].
    pub data: Bytes,
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
