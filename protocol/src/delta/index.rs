//! Which blocks a base has, by their entries.

use std::collections::{HashMap, HashSet};

use super::Signature;
use super::signature::ENTRY;
use super::weak::weak_of;

/// A rolling sum that more different blocks than these have is not looked for: content is rarely like that, unless it is made to be.
const MOST_ALIKE: u32 = 16;
/// Bits of the filter for each block, of which two are set: one in 200 of the positions that match nothing asks the table.
const FILTER_BITS: usize = 32;

/// The whole blocks of a base. The partial one at the end, if there is one, is left out.
pub(super) struct BlockIndex {
    block_size: usize,
    /// The entry of every block, in order.
    entries: Vec<[u8; ENTRY]>,
    /// The first block with each entry: long repetitions, of zeros for instance, take one place.
    first: HashMap<[u8; ENTRY], u32>,
    weak: HashSet<u32>,
    /// A Bloom filter of `weak` with both bits in one word, which rules out most positions. A power of two of words.
    filter: Vec<u64>,
}

impl BlockIndex {
    /// `None` where the base has no whole block.
    pub(super) fn new(base: &Signature) -> Option<Self> {
        let block_size = base.block_size?;
        let whole = usize::try_from(base.size / u64::from(block_size)).ok()?;
        let (entries, _) = base.blocks.as_chunks::<ENTRY>();
        let entries = entries.get(..whole)?.to_vec();
        if entries.is_empty() {
            return None;
        }
        let mut first = HashMap::with_capacity(entries.len());
        let mut alike: HashMap<u32, u32> = HashMap::with_capacity(entries.len());
        for (entry, block) in entries.iter().zip(0_u32..) {
            first.entry(*entry).or_insert_with(|| {
                *alike.entry(weak_of(entry)).or_default() += 1;
                block
            });
        }
        let weak: HashSet<u32> = alike
            .into_iter()
            .filter(|(_, count)| *count <= MOST_ALIKE)
            .map(|(weak, _)| weak)
            .collect();
        let words = (entries.len() * FILTER_BITS).div_ceil(64);
        let mut filter = vec![0; words.next_power_of_two()];
        for weak in &weak {
            let (word, bits) = filter_place(*weak, filter.len());
            filter[word] |= bits;
        }
        Some(Self {
            block_size: block_size as usize,
            entries,
            first,
            weak,
            filter,
        })
    }

    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Whether a block may have this rolling sum.
    #[inline]
    pub(super) fn has_weak(&self, weak: u32) -> bool {
        let (word, bits) = filter_place(weak, self.filter.len());
        self.filter[word] & bits == bits && self.weak.contains(&weak)
    }

    /// A block with this entry: `expected`, if it has it, else the first that has.
    pub(super) fn find(&self, entry: &[u8; ENTRY], expected: Option<u64>) -> Option<u64> {
        if let Some(expected) = expected
            && usize::try_from(expected).is_ok_and(|block| self.entries.get(block) == Some(entry))
        {
            return Some(expected);
        }
        self.first.get(entry).copied().map(u64::from)
    }
}

/// Which of `words`, a power of two, and which bits of it stand for `weak`.
///
/// Multiplication by a number near the golden ratio of 2^64 spreads sums, which are alike in their lower half, over the upper bits.
#[inline]
fn filter_place(weak: u32, words: usize) -> (usize, u64) {
    let spread = u64::from(weak).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = 1 << (spread >> 26 & 63) | 1 << (spread >> 32 & 63);
    ((spread >> 38) as usize & (words - 1), bits)
}

#[cfg(test)]
mod tests {
    use super::super::Summer;
    use super::*;

    fn index(base: &[u8]) -> Option<BlockIndex> {
        let mut summer = Summer::new(0);
        summer.update(base);
        BlockIndex::new(&summer.finish().signature)
    }

    /// Blocks of 2 KiB with the rolling sum of zeros: what is added comes to 2^16 in either sum.
    fn alike(number: usize) -> Vec<u8> {
        let mut block = vec![0; 2048];
        for place in 0..512 {
            block[number + 2 * place] = 128;
        }
        block
    }

    #[test]
    fn a_base_without_a_whole_block_has_no_index() {
        assert!(index(b"").is_none());
        assert!(index(&[1; 2047]).is_none());
        assert!(index(&[1; 2048]).is_some());
    }

    #[test]
    fn of_repetitions_the_first_is_found_and_the_expected_goes_before() {
        let index = index(&[[1; 2048], [0; 2048], [0; 2048], [0; 2048]].concat()).expect("index");
        let zeros = index.entries[1];
        assert!(index.has_weak(weak_of(&zeros)));
        assert_eq!(index.find(&zeros, None), Some(1));
        assert_eq!(index.find(&zeros, Some(3)), Some(3));
        assert_eq!(index.find(&zeros, Some(0)), Some(1));
        assert_eq!(index.find(&zeros, Some(4)), Some(1));
    }

    #[test]
    fn a_rolling_sum_of_too_many_blocks_is_not_looked_for() {
        for (count, looked_for) in [(15, true), (16, false)] {
            let mut base = vec![0; 2048];
            (0..count).for_each(|number| base.extend(alike(number)));
            let index = index(&base).expect("index");
            assert_eq!(index.first.len(), count + 1, "the blocks are different");
            let zeros = weak_of(&index.entries[0]);
            let last = index.entries[count];
            assert_eq!(zeros, weak_of(&last), "the sums are the same");
            assert_eq!(index.has_weak(zeros), looked_for);
            assert_eq!(index.find(&last, None), Some(count as u64));
        }
    }
}
