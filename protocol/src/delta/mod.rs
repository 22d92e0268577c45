//! What differs between two versions of a large file, found without asking whoever has the old one.
//!
//! One pass over a content gives its hash and its [`Signature`]. The signature of the version that the spare has stays with the
//! agent; [`differing`] compares it with that of the new version at the same offsets, and [`Search`] looks in what differs for blocks
//! that have moved.
//!
//! Everything found here is a guess until the BLAKE3 hash of the whole agrees: sums are cut to 8 bytes, and blocks are compared by
//! 4 bytes of a rolling sum and 8 bytes of MD4, for which anybody can make collisions. Sans-IO: bytes in, values out; it must not know files, and
//! clocks only as they are handed in.

mod compare;
mod index;
#[cfg(test)]
mod noise;
mod search;
mod signature;
mod small;
mod subtrees;
mod sums;
mod weak;

pub use compare::differing;
pub use search::{Budget, Op, Search};
pub use signature::Signature;
pub use small::{SMALLEST, SmallSignature, assemble};
pub use sums::{BlockSummer, GroupSummer, LARGEST_SENT_GROUP, Summed, Summer};

/// Bytes from storage are not what their writer says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored {what} is damaged: {reason}")]
pub struct Damaged {
    /// What the bytes should be.
    pub what: &'static str,
    /// What is wrong with them.
    pub reason: &'static str,
}

/// The next `N` bytes of `bytes`, which then begin after them.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
