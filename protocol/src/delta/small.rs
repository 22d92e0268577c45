//! Deltas of contents so small that they travel inline: shorter blocks and shorter sums than those of large ones.
//!
//! Stored form of a signature:
//!
//! ```text
//! version   1 byte    2
//! tail      2 bytes   bytes of the partial block at the end, little-endian
//! entries   5 bytes for each block: what the rolling sum spreads to (3), and MD4 (2)
//! ```
//!
//! That is 1 % of the content. Two different blocks have the same entry once in 2^40, and a content of 10 KB is compared
//! at 2^18 pairs of places, the largest at 2^23; the hash of the whole finds it.

use std::collections::HashMap;

use super::signature;
use super::weak::{Rolling, append_entries, weak_of};
use super::{Damaged, take};
use crate::limits;
use crate::message::Piece;

/// Bytes of a block.
const SMALL_BLOCK: usize = 512;
/// A content with fewer bytes has no signature: a record of its own costs as much as what could be saved.
pub const SMALLEST: usize = 4 * SMALL_BLOCK;
const ENTRY: usize = 5;
const VERSION: u8 = 2;
/// Blocks with the right rolling sum that turn out to be others, in one content; after that nothing is looked for.
const MOST_MISTAKES: u32 = 256;

/// What is remembered of a small content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallSignature {
    /// Of all blocks, the partial one at the end included.
    entries: Vec<[u8; ENTRY]>,
    /// Bytes of the partial block; 0 if there is none.
    tail: u16,
}

impl SmallSignature {
    /// That of a whole content; `None` if it is too small to have one, or too large to travel inline.
    pub fn of(content: &[u8]) -> Option<Self> {
        if !(SMALLEST..=limits::INLINE_BYTES).contains(&content.len()) {
            return None;
        }
        Some(Self {
            entries: entries_of(content),
            tail: (content.len() % SMALL_BLOCK) as u16,
        })
    }

    /// The form for storage; see the description of this module.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.tail.to_le_bytes());
        bytes.extend(self.entries.as_flattened());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, all of it and nothing else.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, Damaged> {
        let damaged = |reason| Damaged {
            what: "signature of a small file",
            reason,
        };
        let [version] = take(&mut bytes).ok_or(damaged("it is cut off"))?;
        if version != VERSION {
            return Err(damaged("its version is unknown"));
        }
        let tail = u16::from_le_bytes(take(&mut bytes).ok_or(damaged("it is cut off"))?);
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        let is_tail_possible = usize::from(tail) < SMALL_BLOCK;
        if !rest.is_empty() || entries.is_empty() || !is_tail_possible {
            return Err(damaged("its length is not allowed"));
        }
        let entries = entries.to_vec();
        Ok(Self { entries, tail })
    }

    /// What `content` is made of, in order, as [`assemble`] takes it.
    pub fn differences(&self, content: &[u8]) -> Vec<Piece> {
        let mut search = SmallSearch::new(self, content);
        let mut at = 0;
        while content.len() - at >= SMALL_BLOCK {
            let Some(found) = search.next_from(at) else {
                break;
            };
            search.copy(found.at, found.block, SMALL_BLOCK);
            at = found.at + SMALL_BLOCK;
        }
        search.tail(at);
        search.pieces
    }
}

/// Of all blocks, and what is left at the end.
fn entries_of(content: &[u8]) -> Vec<[u8; ENTRY]> {
    let mut long = Vec::new();
    append_entries(content, SMALL_BLOCK as u32, &mut long);
    let (entries, _) = long.as_chunks::<{ signature::ENTRY }>();
    let mut short = Vec::with_capacity(entries.len());
    for entry in entries {
        let [first, second, third, ..] = spread(weak_of(entry)).to_be_bytes();
        let [.., fourth, fifth, _, _, _, _, _, _] = *entry;
        short.push([first, second, third, fourth, fifth]);
    }
    short
}

/// Sums of text differ in few of their bits: the upper ones of this depend on all of them.
#[inline]
fn spread(weak: u32) -> u32 {
    weak.wrapping_mul(0x9e37_79b1)
}

/// The part of an entry that the rolling sum gives.
fn sum_of(entry: &[u8; ENTRY]) -> u32 {
    let [first, second, third, ..] = *entry;
    u32::from_be_bytes([0, first, second, third])
}

struct Found {
    at: usize,
    block: usize,
}

struct SmallSearch<'a> {
    base: &'a SmallSignature,
    content: &'a [u8],
    /// The first whole block with each sum.
    by_sum: HashMap<u32, usize>,
    /// One bit for what `by_sum` may have.
    filter: Box<[u64; 1024]>,
    mistakes: u32,
    /// Up to here there are pieces.
    told: usize,
    pieces: Vec<Piece>,
}

impl<'a> SmallSearch<'a> {
    fn new(base: &'a SmallSignature, content: &'a [u8]) -> Self {
        let whole = base.entries.len() - usize::from(base.tail > 0);
        let mut by_sum = HashMap::with_capacity(whole);
        let mut filter = Box::new([0; 1024]);
        for (block, entry) in base.entries[..whole].iter().enumerate() {
            let sum = sum_of(entry);
            by_sum.entry(sum).or_insert(block);
            let (word, bit) = filter_place(sum);
            filter[word] |= bit;
        }
        Self {
            base,
            content,
            by_sum,
            filter,
            mistakes: 0,
            told: 0,
            pieces: Vec::new(),
        }
    }

    /// The first block of the base in the content from `at` on.
    fn next_from(&mut self, at: usize) -> Option<Found> {
        // Most of what changed is followed by what did not: the block after the one before comes first.
        if let Some(block) = self.following(at) {
            return Some(Found { at, block });
        }
        let last = self.content.len() - SMALL_BLOCK;
        let mut rolling = Rolling::of(&self.content[at..at + SMALL_BLOCK]);
        let mut at = at;
        loop {
            let sum = spread(rolling.value()) >> 8;
            let (word, bit) = filter_place(sum);
            if self.filter[word] & bit != 0
                && let Some(&block) = self.by_sum.get(&sum)
            {
                if self.entry_at(at) == Some(self.base.entries[block]) {
                    return Some(Found { at, block });
                }
                self.mistakes += 1;
                if self.mistakes >= MOST_MISTAKES {
                    return None;
                }
            }
            if at == last {
                return None;
            }
            rolling.roll(self.content[at], self.content[at + SMALL_BLOCK]);
            at += 1;
        }
    }

    /// The block of the base that follows the copy told last, if the content has it at `at`.
    fn following(&self, at: usize) -> Option<usize> {
        let Some(&Piece::Copy { from, length }) = self.pieces.last().filter(|_| self.told == at)
        else {
            return None;
        };
        let block = (from + length) as usize / SMALL_BLOCK;
        let whole = self.base.entries.len() - usize::from(self.base.tail > 0);
        (block < whole && self.entry_at(at) == Some(self.base.entries[block])).then_some(block)
    }

    fn entry_at(&self, at: usize) -> Option<[u8; ENTRY]> {
        entries_of(self.content.get(at..at + SMALL_BLOCK)?)
            .first()
            .copied()
    }

    /// What is at `at` is a block of the base; what is before and was not told is literal.
    fn copy(&mut self, at: usize, block: usize, length: usize) {
        self.literal(at);
        let (start, added) = ((block * SMALL_BLOCK) as u32, length as u32);
        match self.pieces.last_mut() {
            Some(Piece::Copy { from, length }) if *from + *length == start => *length += added,
            _ => self.pieces.push(Piece::Copy {
                from: start,
                length: added,
            }),
        }
        self.told = at + length;
    }

    fn literal(&mut self, end: usize) {
        if end > self.told {
            let data = self.content[self.told..end].into();
            self.pieces.push(Piece::Data(data));
            self.told = end;
        }
    }

    /// The end of the content: the partial block of the base, if it is there.
    fn tail(&mut self, from: usize) {
        let length = usize::from(self.base.tail);
        let end = self.content.len();
        if length > 0 && end - from >= length {
            let start = end - length;
            let entry = entries_of(&self.content[start..]).first().copied();
            let block = self.base.entries.len() - 1;
            if entry == Some(self.base.entries[block]) {
                self.copy(start, block, length);
            }
        }
        self.literal(end);
    }
}

/// Word and bit of the filter: 16 of the 24 bits of a sum.
#[inline]
fn filter_place(sum: u32) -> (usize, u64) {
    let bits = sum >> 8 & 0xffff;
    (bits as usize >> 6, 1 << (bits & 63))
}

/// Puts a content together; `None` if a stretch is not within the base, or the whole is too long to travel inline.
pub fn assemble(base: &[u8], pieces: &[Piece]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    for piece in pieces {
        let data = match piece {
            Piece::Copy { from, length } => {
                let end = from.checked_add(*length)?;
                base.get(*from as usize..end as usize)?
            }
            Piece::Data(data) => data,
        };
        if content.len() + data.len() > limits::INLINE_BYTES {
            return None;
        }
        content.extend_from_slice(data);
    }
    Some(content)
}

#[cfg(test)]
mod tests;
