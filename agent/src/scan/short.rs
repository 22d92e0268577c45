//! What is told in short, because the spare has most of it: small files that change a little, and attributes alone.

use understudy_protocol::message::{Content, Piece, Touch};
use understudy_protocol::{Bytes, Entry, Place, limits, version};

use super::worker::Worker;
use crate::error::AgentError;
use crate::index::Known;

/// A small file is sent whole unless the spare has at least this part of it: pieces compress less well.
const SMALL_PART: u64 = 4;

/// What can be told in short: another node is not needed, nor another group.
pub(super) fn touch(
    place: &Place,
    base: Option<&Entry>,
    entry: &Entry,
    content: &Content,
) -> Option<Touch> {
    let base = base.filter(|base| base.node == entry.node)?;
    match content {
        Content::Keep(from) if from == place && base.group == entry.group => Some(Touch::Kept),
        Content::Copy(from) if from == place && entry.group == 0 => Some(Touch::Copied),
        _ => None,
    }
}

impl Worker<'_> {
    /// What is sent of the content of a small file: differences to what the spare has at the place, where that is less.
    pub(super) fn in_short(
        &mut self,
        place: &Place,
        known: Option<&Known>,
        bytes: Bytes,
    ) -> Result<Content, AgentError> {
        let former = known.and_then(|known| known.entry.content());
        let is_understood = self.scan.spoken >= version::SHORT;
        let former =
            former.filter(|(size, _)| is_understood && *size <= limits::INLINE_BYTES as u64);
        let Some((_, hash)) = former else {
            return Ok(Content::Inline(bytes));
        };
        let Some(signature) = self.base.small_signature(place, hash)? else {
            return Ok(Content::Inline(bytes));
        };
        let pieces = signature.differences(&bytes);
        let copied: u64 = pieces.iter().map(copied_bytes).sum();
        if copied < bytes.len() as u64 / SMALL_PART {
            return Ok(Content::Inline(bytes));
        }
        let tally = &mut self.findings.tally;
        tally.deltas += 1;
        tally.bytes_kept += copied;
        Ok(Content::Delta(place.clone(), pieces))
    }
}

fn copied_bytes(piece: &Piece) -> u64 {
    match piece {
        Piece::Copy { length, .. } => u64::from(*length),
        Piece::Data(_) => 0,
    }
}
