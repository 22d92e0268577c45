//! What is remembered of a content, so that a later version can be compared with it; and how it is stored.
//!
//! Stored form, numbers little-endian:
//!
//! ```text
//! version   1 byte    1
//! group     1 byte    binary logarithm of the group size, 12 to 42
//! block     1 byte    binary logarithm of the block size, 11 to 23; 0 where there are no blocks
//! size      8 bytes   size of the content
//! sums      8 bytes for each group, the last of which may be partial
//! blocks    12 bytes for each block, the last of which may be partial: rolling sum (4) and MD4 (8), as librsync has them
//! ```

use blake3::Hasher;
use blake3::hazmat::HasherExt;

use super::sums::GroupSummer;
use super::{Damaged, take};

/// Bytes of a sum: the beginning of a group's chaining value.
pub(super) const SUM: usize = 8;
/// Bytes of a block's entry: the rolling sum, then the strong part.
pub(super) const ENTRY: usize = 4 + STRONG as usize;
/// Bytes of MD4 that are kept of a block.
pub(super) const STRONG: u32 = 8;
/// The smallest group: enough chunks for four lanes of SIMD, and a page of most databases or half of one.
pub(super) const SMALLEST_GROUP: u64 = 4096;
/// More sums than these (32 MiB) are not wanted; larger groups are made instead.
const MOST_SUMS: u64 = 4 * 1024 * 1024;
/// More blocks than these are not wanted, for the search has an index of them in memory; larger blocks are made instead.
const MOST_BLOCKS: u64 = 131_072;
/// Beyond so many, blocks grow with the content.
const WANTED_BLOCKS: u64 = 32_768;
const SMALLEST_BLOCK: u64 = 2048;
/// Blocks are this large only where there would be more than [`MOST_BLOCKS`] otherwise.
const LARGE_BLOCK: u64 = 16 * 1024;
/// One block is held in memory at a time. Larger contents than 1 TiB have no blocks.
const LARGEST_BLOCK: u64 = 8 * 1024 * 1024;
const VERSION: u8 = 1;
const HEADER: usize = 11;

/// Size, sums and blocks of one version of a content. With the smallest groups and blocks, less than 1 % of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    pub(super) size: u64,
    pub(super) group_size: u64,
    /// [`SUM`] bytes for each group.
    pub(super) sums: Vec<u8>,
    pub(super) block_size: Option<u32>,
    /// [`ENTRY`] bytes for each block.
    pub(super) blocks: Vec<u8>,
}

impl Signature {
    /// That of no bytes, with the group and block sizes for a content of `size` bytes.
    pub(super) fn empty(size: u64) -> Self {
        Self {
            size: 0,
            group_size: group_size(size),
            sums: Vec::new(),
            block_size: block_size(size),
            blocks: Vec::new(),
        }
    }

    /// Size of the content in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes of content each sum stands for; a power of two.
    pub fn group_size(&self) -> u64 {
        self.group_size
    }

    /// How many bytes of content each block has, a power of two; `None` where moved content is not searched for.
    pub fn block_size(&self) -> Option<u32> {
        self.block_size
    }

    /// Whether `data` is the group at `offset`, all of it: the last one may be partial. What is equal is so but by
    /// collision of 8 bytes.
    pub fn has_at(&self, offset: u64, data: &[u8]) -> bool {
        let Some(sum) = self.sum_at(offset, data.len()) else {
            return false;
        };
        let mut group = Hasher::new();
        group.set_input_offset(offset).update(data);
        group.finalize_non_root()[..SUM] == *sum
    }

    /// As [`has_at`](Self::has_at), of data that was given to `groups` before: what they have of it is not hashed again.
    pub fn has_summed(&self, groups: &GroupSummer, offset: u64, data: &[u8]) -> bool {
        let known = groups
            .sum_at(offset)
            .filter(|_| groups.group_size() == self.group_size);
        match (known, self.sum_at(offset, data.len())) {
            (_, None) => false,
            (Some(known), Some(sum)) => known == sum,
            (None, Some(_)) => self.has_at(offset, data),
        }
    }

    /// The sum of the group at `offset`, if it has `length` bytes.
    fn sum_at(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let left = self.size.saturating_sub(offset);
        let is_group = offset.is_multiple_of(self.group_size) && length > 0;
        if !is_group || length as u64 != left.min(self.group_size) {
            return None;
        }
        let index = usize::try_from(offset / self.group_size).ok()?;
        self.sums.chunks_exact(SUM).nth(index)
    }

    /// The form for storage; see the description of this module.
    pub fn to_bytes(&self) -> Vec<u8> {
        let block = self.block_size.map_or(0, u32::trailing_zeros) as u8;
        let mut bytes = Vec::with_capacity(HEADER + self.sums.len() + self.blocks.len());
        bytes.extend([VERSION, self.group_size.trailing_zeros() as u8, block]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(&self.sums);
        bytes.extend(&self.blocks);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, all of it and nothing else.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, Damaged> {
        let [version, group, block] = take(&mut bytes).ok_or(damaged("it is cut off"))?;
        if version != VERSION {
            return Err(damaged("its version is unknown"));
        }
        let size = u64::from_le_bytes(take(&mut bytes).ok_or(damaged("it is cut off"))?);
        let group_size = power(group, SMALLEST_GROUP, group_size(u64::MAX))
            .ok_or(damaged("its group size is not allowed"))?;
        let block_size = match block {
            0 => None,
            _ => Some(
                power(block, SMALLEST_BLOCK, LARGEST_BLOCK)
                    .and_then(|block_size| u32::try_from(block_size).ok())
                    .ok_or(damaged("its block size is not allowed"))?,
            ),
        };
        let sums = count(size, group_size, SUM);
        let blocks = block_size.map_or(Some(0), |block| count(size, u64::from(block), ENTRY));
        let (Some(sums), Some(blocks)) = (sums, blocks) else {
            return Err(damaged("its size is not allowed"));
        };
        if sums.checked_add(blocks) != Some(bytes.len()) {
            return Err(damaged("its length does not fit the size of the content"));
        }
        let (sums, blocks) = bytes.split_at(sums);
        Ok(Self {
            size,
            group_size,
            sums: sums.to_vec(),
            block_size,
            blocks: blocks.to_vec(),
        })
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signature")
            .field("size", &self.size)
            .field("group_size", &self.group_size)
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}

fn damaged(reason: &'static str) -> Damaged {
    Damaged {
        what: "signature",
        reason,
    }
}

/// Two to the power of `logarithm`, if it is from `smallest` to `largest`.
fn power(logarithm: u8, smallest: u64, largest: u64) -> Option<u64> {
    let power = 1_u64.checked_shl(logarithm.into())?;
    (smallest..=largest).contains(&power).then_some(power)
}

/// Bytes for all pieces of `piece` bytes in `size` bytes, when each takes `each`.
fn count(size: u64, piece: u64, each: usize) -> Option<usize> {
    usize::try_from(size.div_ceil(piece))
        .ok()?
        .checked_mul(each)
}

/// The smallest groups of which a content of `size` bytes has at most so many.
pub(super) fn group_size_within(size: u64, most: u64) -> u64 {
    size.div_ceil(most.max(1))
        .max(SMALLEST_GROUP)
        .next_power_of_two()
}

fn group_size(size: u64) -> u64 {
    size.div_ceil(MOST_SUMS)
        .max(SMALLEST_GROUP)
        .next_power_of_two()
}

/// As small as 1 % of the file allows up to 64 MiB, because what is packed, a repository or an archive, has its pieces in another order
/// each time; from there on larger, within the limits.
fn block_size(size: u64) -> Option<u32> {
    let wanted = (size / WANTED_BLOCKS).clamp(SMALLEST_BLOCK, LARGE_BLOCK);
    let block_size = size.div_ceil(MOST_BLOCKS).max(wanted).next_power_of_two();
    if block_size > LARGEST_BLOCK {
        return None;
    }
    u32::try_from(block_size).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Summer;
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const GIB: u64 = 1024 * MIB;

    fn signature(content: &[u8], size: u64) -> Signature {
        let mut summer = Summer::new(size);
        summer.update(content);
        summer.finish().signature
    }

    #[test]
    fn groups_and_blocks_grow_with_the_content() {
        for (size, group) in [
            (0, 4 * KIB),
            (16 * GIB, 4 * KIB),
            (16 * GIB + 1, 8 * KIB),
            (64 * GIB, 16 * KIB),
            (u64::MAX, 1 << 42),
        ] {
            assert_eq!(group_size(size), group, "{size}");
            assert!(size.div_ceil(group) <= MOST_SUMS);
        }
        for (size, block) in [
            (0, Some(2 * KIB)),
            (256 * KIB, Some(2 * KIB)),
            (64 * MIB, Some(2 * KIB)),
            (65 * MIB, Some(4 * KIB)),
            (300 * MIB, Some(16 * KIB)),
            (2 * GIB, Some(16 * KIB)),
            (2 * GIB + 1, Some(32 * KIB)),
            (1024 * GIB, Some(8 * MIB)),
            (1024 * GIB + 1, None),
            (u64::MAX, None),
        ] {
            assert_eq!(block_size(size).map(u64::from), block, "{size}");
        }
    }

    #[test]
    fn a_signature_is_less_than_a_hundredth() {
        for size in [256 * KIB, 3 * MIB, 4 * MIB + 1] {
            let bytes = signature(&vec![7; size as usize], size).to_bytes();
            assert!(bytes.len() as u64 * 100 <= size, "{size}: {}", bytes.len());
        }
    }

    #[test]
    fn stored_form_stays_as_it_is() {
        let content: Vec<u8> = (0..5000_u32).map(|number| (number % 251) as u8).collect();
        let bytes = signature(&content, 5000).to_bytes();
        assert_eq!(bytes[..11], [1, 12, 11, 0x88, 0x13, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes.len(), 11 + 2 * 8 + 3 * 12);
    }

    #[test]
    fn sizes_that_no_writer_chooses_are_refused() {
        let good = signature(&[1; 5000], 5000).to_bytes();
        assert!(Signature::from_bytes(&good).is_ok());
        let cases: [(usize, u8, &str); 8] = [
            (0, 0, "its version is unknown"),
            (0, 2, "its version is unknown"),
            (1, 11, "its group size is not allowed"),
            (1, 43, "its group size is not allowed"),
            (1, 64, "its group size is not allowed"),
            (2, 10, "its block size is not allowed"),
            (2, 24, "its block size is not allowed"),
            (10, 255, "its length does not fit the size of the content"),
        ];
        for (place, value, reason) in cases {
            let mut bytes = good.clone();
            bytes[place] = value;
            assert_eq!(Signature::from_bytes(&bytes), Err(damaged(reason)));
        }
    }

    #[test]
    fn groups_are_known_by_what_they_hold_and_where() {
        let content: Vec<u8> = (0..10_000_u32)
            .map(|number| (number / 4096) as u8)
            .collect();
        let signature = signature(&content, 10_000);
        let mut summer = Summer::new(content.len() as u64);
        summer.update(&content);
        let mut other = Summer::new(content.len() as u64);
        other.update(&vec![9; content.len()]);
        for (offset, end) in [(0, 4096), (4096, 8192), (8192, 10_000)] {
            let group = &content[offset..end];
            assert!(signature.has_at(offset as u64, group));
            assert!(signature.has_summed(summer.groups(), offset as u64, group));
            assert!(!signature.has_summed(other.groups(), offset as u64, &vec![9; group.len()]));
            assert!(!signature.has_at(offset as u64, &group[1..]));
            assert!(!signature.has_at(offset as u64, &vec![9; group.len()]));
        }
        assert!(!signature.has_at(4096, &content[..4096]));
        assert!(!signature.has_at(1, &content[1..4097]));
        assert!(!signature.has_at(12_288, &[]) && !signature.has_at(1 << 63, &content));
    }

    proptest! {
        #[test]
        fn storage_gives_back_what_it_got(length in 0_usize..20_000, size in 0..40_000_u64, seed: u8) {
            let content: Vec<u8> = (0..length).map(|at| (at * at) as u8 ^ seed).collect();
            let signature = signature(&content, size);
            let bytes = signature.to_bytes();
            prop_assert_eq!(Signature::from_bytes(&bytes), Ok(signature));
            prop_assert!(Signature::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
            prop_assert!(Signature::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn damage_never_panics(damage in prop::collection::vec((0_usize..80, any::<u8>()), 1..5), cut in 0_usize..90) {
            let mut bytes = signature(&[9; 5000], 5000).to_bytes();
            for (place, value) in damage {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            if let Ok(read) = Signature::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
            }
        }
    }
}
