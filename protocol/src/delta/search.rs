//! Looks for blocks of a base at any offset of a new content.
//!
//! A rolling sum goes over the content byte by byte; where a block of the base has the same sum, fast_rsync's entry of the place decides.
//! What follows a block that was found is first looked for block by block, many at a time.
//!
//! Content can be made such that every byte needs an entry. So time is measured, and while looking has taken longer than a floor allows
//! for all that was fed, what comes is literal without a look; only what follows a block that was found is still followed.

use std::time::Duration;

use super::Signature;
use super::index::BlockIndex;
use super::signature::ENTRY;
use super::weak::{Rolling, append_entries};

/// Positions between two looks at the clock: about a sixth of a millisecond.
const SLICE: usize = 64 * 1024;
/// Blocks that are hashed at once where many in a row were found: eight go through SIMD together.
const MOST_FOLLOWED: usize = 16;

/// A piece of the new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The same as `length` bytes from offset `from` of the base, within it, unless sums collide: only the hash of the whole proves it.
    Copy {
        /// Offset in the base, in bytes.
        from: u64,
        /// Bytes.
        length: u64,
    },
    /// Not found in the base.
    Literal {
        /// Bytes.
        length: u64,
    },
}

/// How long a search may look for what it does not find.
pub struct Budget {
    /// Time since any fixed moment.
    pub clock: Box<dyn FnMut() -> Duration + Send>,
    /// Bytes for each of which the search may take its part of a second.
    pub floor_bytes_per_second: u64,
    /// What the search may take beyond that.
    pub head_start: Duration,
}

impl Budget {
    /// A floor of 350 MB/s, about what content that matches nothing takes anyway, and a head start of 20 ms.
    pub fn new(clock: impl FnMut() -> Duration + Send + 'static) -> Self {
        Self {
            clock: Box::new(clock),
            floor_bytes_per_second: 350_000_000,
            head_start: Duration::from_millis(20),
        }
    }

    fn allows(&self, spent: Duration, fed: u64) -> bool {
        let floor = u128::from(self.floor_bytes_per_second.max(1));
        let earned = u128::from(fed) * 1_000_000_000 / floor;
        spent.as_nanos() <= self.head_start.as_nanos() + earned
    }
}

/// The search for one base in ranges of one new content. Keeps less than a block of what it is fed, and an index of about 60 bytes for each block of the base.
pub struct Search {
    index: BlockIndex,
    budget: Budget,
    /// Bytes of all ranges.
    fed: u64,
    /// Time that went into rolling and into blocks that were not found.
    spent: Duration,
    /// The end of what was fed, too short to be a block.
    carry: Vec<u8>,
    /// The block of the base after the one that was found last, if nothing else came since.
    next: Option<u64>,
    /// The last operation, which may still grow.
    held: Option<Op>,
    /// Kept for its memory.
    entries: Vec<u8>,
}

impl Search {
    /// `None` where there is nothing to find: the base has no whole block, or its signature no blocks.
    pub fn new(base: &Signature, budget: Budget) -> Option<Self> {
        Some(Self {
            index: BlockIndex::new(base)?,
            budget,
            fed: 0,
            spent: Duration::ZERO,
            carry: Vec::new(),
            next: None,
            held: None,
            entries: Vec::new(),
        })
    }

    /// Takes the next bytes of a range and appends what is known of it by now.
    ///
    /// From the beginning to [`end`](Self::end) the operations come in order, are together exactly as long as what was fed, and, but
    /// for those that were [`release`](Self::release)d, no two neighbours could be one.
    pub fn feed(&mut self, data: &[u8], ops: &mut Vec<Op>) {
        self.fed += data.len() as u64;
        let mut pending = std::mem::take(&mut self.carry);
        pending.extend(data);
        let covered = self.cover(&pending, ops);
        pending.drain(..covered);
        self.carry = pending;
    }

    /// Appends what is known for sure although it may go on in what is fed next, as an operation of its own.
    pub fn release(&mut self, ops: &mut Vec<Op>) {
        ops.extend(self.held.take());
    }

    /// Ends the range; what is fed next need not follow it.
    pub fn end(&mut self, ops: &mut Vec<Op>) {
        let left = self.carry.len();
        self.carry.clear();
        self.literal(left, ops);
        self.next = None;
        ops.extend(self.held.take());
    }

    /// Makes operations of the beginning of `pending` until less than a block is left; returns its length.
    fn cover(&mut self, pending: &[u8], ops: &mut Vec<Op>) -> usize {
        let mut at = 0;
        while pending.len() - at >= self.index.block_size() {
            let rest = &pending[at..];
            at += match self.next {
                Some(next) => self.follow(rest, next, ops),
                None if self.budget.allows(self.spent, self.fed) => self.roll(rest, ops),
                None => {
                    self.literal(rest.len(), ops);
                    rest.len()
                }
            };
        }
        at
    }

    /// Takes block after block from the front of `rest` as long as the base has them; returns how many bytes these are.
    fn follow(&mut self, rest: &[u8], next: u64, ops: &mut Vec<Op>) -> usize {
        let block_size = self.index.block_size();
        let mut next = next;
        let mut at = 0;
        let mut most = 1;
        while rest.len() - at >= block_size {
            let started = (self.budget.clock)();
            let count = most.min((rest.len() - at) / block_size);
            let mut entries = std::mem::take(&mut self.entries);
            entries.clear();
            let end = at + count * block_size;
            append_entries(&rest[at..end], block_size as u32, &mut entries);
            for entry in entries.as_chunks::<ENTRY>().0 {
                let Some(block) = self.index.find(entry, Some(next)) else {
                    break;
                };
                self.copy(block, ops);
                next = block + 1;
                at += block_size;
            }
            self.entries = entries;
            if at < end {
                self.charge(started);
                self.next = None;
                return at;
            }
            most = (most * 2).min(MOST_FOLLOWED);
        }
        self.next = Some(next);
        at
    }

    /// Looks for the first block in `rest`, which has one at least, for one slice; returns how many bytes are settled.
    fn roll(&mut self, rest: &[u8], ops: &mut Vec<Op>) -> usize {
        let started = (self.budget.clock)();
        let block_size = self.index.block_size();
        let positions = (rest.len() - block_size + 1).min(SLICE.max(block_size));
        let settled = match candidate(&self.index, rest, positions) {
            None => {
                self.literal(positions, ops);
                positions
            }
            Some(at) => match self.block_at(&rest[at..at + block_size]) {
                None => {
                    self.literal(at + 1, ops);
                    at + 1
                }
                Some(block) => {
                    self.literal(at, ops);
                    self.copy(block, ops);
                    self.next = Some(block + 1);
                    at + block_size
                }
            },
        };
        self.charge(started);
        settled
    }

    /// The first block of the base that is like `block`.
    fn block_at(&mut self, block: &[u8]) -> Option<u64> {
        self.entries.clear();
        append_entries(block, block.len() as u32, &mut self.entries);
        let entry = self.entries.first_chunk()?;
        self.index.find(entry, None)
    }

    fn charge(&mut self, started: Duration) {
        self.spent += (self.budget.clock)().saturating_sub(started);
    }

    fn literal(&mut self, length: usize, ops: &mut Vec<Op>) {
        if length == 0 {
            return;
        }
        let added = length as u64;
        match &mut self.held {
            Some(Op::Literal { length }) => *length += added,
            held => ops.extend(held.replace(Op::Literal { length: added })),
        }
    }

    fn copy(&mut self, block: u64, ops: &mut Vec<Op>) {
        let added = self.index.block_size() as u64;
        let start = block * added;
        match &mut self.held {
            Some(Op::Copy { from, length }) if *from + *length == start => *length += added,
            held => ops.extend(held.replace(Op::Copy {
                from: start,
                length: added,
            })),
        }
    }
}

/// The first of the first `positions` offsets in `data` where a block of the base may begin. There is a block's length at each.
fn candidate(index: &BlockIndex, data: &[u8], positions: usize) -> Option<usize> {
    let block_size = index.block_size();
    let mut rolling = Rolling::of(&data[..block_size]);
    if index.has_weak(rolling.value()) {
        return Some(0);
    }
    let leaving = &data[..positions - 1];
    for (at, (out, into)) in leaving.iter().zip(&data[block_size..]).enumerate() {
        rolling.roll(*out, *into);
        if index.has_weak(rolling.value()) {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests;
