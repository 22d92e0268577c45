//! A content told as what differs from another version, of which only the sums are known.

use understudy_protocol::delta::Signature;
use understudy_protocol::message::{StreamBlock, StreamCopy};
use understudy_protocol::{Bytes, Message, limits};
use understudy_tree::TreeError;
use understudy_tree::content::{Extent, HoleyHasher};

use crate::error::ReceiverError;
use crate::stored::Stored;

/// A copy is told at least so often, so that the agent sees that something goes on.
const TOLD_BYTES: u64 = 32 << 20;

/// What is compared.
pub(crate) struct Differing<'a, 's> {
    /// The stream by which it is told.
    pub(crate) stream: u64,
    /// The content.
    pub(crate) stored: &'a mut Stored<'s>,
    /// The sums of the other version.
    pub(crate) base: &'a Signature,
    /// Nothing before this is told.
    pub(crate) from: u64,
}

/// A stretch of the content that is all the same or all different.
#[derive(Debug, Clone, Copy)]
struct Run {
    is_same: bool,
    start: u64,
    end: u64,
}

impl Differing<'_, '_> {
    /// Tells copies and blocks in ascending order, each with the bytes that it gives; holes are left out. `hasher` is given everything
    /// unless that is not all of the content.
    pub(crate) fn tell(
        &mut self,
        size: u64,
        hasher: &mut HoleyHasher,
        mut tell: impl FnMut(Message, u64) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let group = self.base.group_size();
        // Whole groups, about as much as a block has.
        let window = group.max(limits::BLOCK_BYTES as u64 / group * group);
        let mut same: Option<(u64, u64)> = None;
        let extents = self.stored.data_extents(size)?;
        for &(start, length) in &extents {
            let (start, end) = (start.max(self.from), start + length);
            let mut at = start / group * group;
            while at < end {
                let data = self.read(&extents, at, window.min(size - at))?;
                let told = at.max(start)..(at + data.len() as u64).min(end);
                let piece = |range: std::ops::Range<u64>| {
                    &data[(range.start - at) as usize..(range.end - at) as usize]
                };
                if self.from == 0 {
                    hasher.update(told.start, piece(told.clone()));
                }
                for run in self.runs(at, &data) {
                    let (from, to) = (run.start.max(told.start), run.end.min(told.end));
                    if from >= to {
                        continue;
                    }
                    match &mut same {
                        Some((since, until)) if run.is_same && *until == from => {
                            *until = to;
                            if to - *since >= TOLD_BYTES {
                                self.copied(same.take(), &mut tell)?;
                            }
                            continue;
                        }
                        _ => self.copied(same.take(), &mut tell)?,
                    }
                    if run.is_same {
                        same = Some((from, to));
                    } else {
                        self.given(from, piece(from..to), &mut tell)?;
                    }
                }
                at += data.len() as u64;
            }
        }
        self.copied(same, &mut tell)
    }

    /// Reads a stretch; holes are zeros.
    fn read(&mut self, extents: &[Extent], at: u64, length: u64) -> Result<Vec<u8>, ReceiverError> {
        let mut data = vec![0; length as usize];
        let end = at + length;
        let first = extents.partition_point(|(start, length)| start + length <= at);
        for &(start, length) in extents[first..]
            .iter()
            .take_while(|(start, _)| *start < end)
        {
            let (from, to) = (start.max(at), (start + length).min(end));
            let part = &mut data[(from - at) as usize..(to - at) as usize];
            if self.stored.read_at(from, part)? < part.len() {
                let shorter = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(TreeError::new("read", b"a stored file", shorter).into());
            }
        }
        Ok(data)
    }

    /// What of `data`, which is at `at`, the other version has there too.
    fn runs(&self, at: u64, data: &[u8]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut start = at;
        for group in data.chunks(self.base.group_size() as usize) {
            let is_same = self.base.has_at(start, group);
            let end = start + group.len() as u64;
            match runs.last_mut() {
                Some(last) if last.is_same == is_same => last.end = end,
                _ => runs.push(Run {
                    is_same,
                    start,
                    end,
                }),
            }
            start = end;
        }
        runs
    }

    fn copied(
        &self,
        same: Option<(u64, u64)>,
        tell: &mut impl FnMut(Message, u64) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let Some((start, end)) = same else {
            return Ok(());
        };
        let copy = StreamCopy {
            stream: self.stream,
            offset: start,
            from: start,
            length: end - start,
        };
        tell(Message::StreamCopy(copy), 0)
    }

    fn given(
        &self,
        mut offset: u64,
        data: &[u8],
        tell: &mut impl FnMut(Message, u64) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        for piece in data.chunks(limits::BLOCK_BYTES) {
            let block = StreamBlock {
                stream: self.stream,
                offset,
                data: Bytes(piece.to_vec()),
            };
            tell(Message::StreamBlock(block), piece.len() as u64)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}
