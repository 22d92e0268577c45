//! One pass over a content that gives its hash and its signature.

use blake3::Hasher;
use blake3::hazmat::HasherExt;

use super::signature::{ENTRY, SUM, Signature, group_size_within};
use super::subtrees::Subtrees;
use super::weak::append_entries;
use crate::ContentHash;

/// Whole blocks are given to fast_rsync this many bytes at a time, or one by one where they are larger.
const WINDOW: usize = 512 * 1024;
/// Whoever compares a signature that was sent holds a group in memory.
pub const LARGEST_SENT_GROUP: u64 = 8 << 20;
/// A content with more entries than this (6 MiB), because it turned out much larger than was said, gets none.
const MOST_ENTRIES: usize = 524_288;
/// What holes are hashed as.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Takes a content piece by piece and gives hash and signature. Holds one window (512 KiB, or one block where that is more) at most, and the signature.
pub struct Summer {
    groups: GroupSummer,
    blocks: BlockSummer,
}

/// The half of a [`Summer`] that hashes.
pub struct GroupSummer {
    size: u64,
    group_size: u64,
    /// Without that of the group that is still open.
    sums: Vec<u8>,
    /// The group that is open. It is closed by the byte after it, because a content of one group has no other tree.
    group: Hasher,
    /// Bytes in `group`.
    filled: u64,
    subtrees: Subtrees,
}

/// The half of a [`Summer`] that makes what moved content is found by.
pub struct BlockSummer {
    size: u64,
    block_size: Option<u32>,
    /// Without those of the window that is still open.
    blocks: Vec<u8>,
    /// What does not fill a window yet.
    window: Vec<u8>,
}

/// What a pass over a content gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summed {
    /// BLAKE3 of the whole.
    pub hash: ContentHash,
    /// What later versions can be compared with.
    pub signature: Signature,
}

impl Summer {
    /// For a content of about `size` bytes, which chooses the sizes of groups and blocks and nothing else: it may turn out longer or shorter.
    pub fn new(size: u64) -> Self {
        let empty = Signature::empty(size);
        Self {
            groups: GroupSummer {
                size: 0,
                group_size: empty.group_size,
                sums: Vec::new(),
                group: Hasher::new(),
                filled: 0,
                subtrees: Subtrees::default(),
            },
            blocks: BlockSummer {
                size: 0,
                block_size: empty.block_size,
                blocks: Vec::new(),
                window: Vec::new(),
            },
        }
    }

    /// Bytes taken so far.
    pub fn length(&self) -> u64 {
        self.groups.size
    }

    /// BLAKE3 of what was taken so far.
    pub fn hash_so_far(&self) -> ContentHash {
        self.groups.hash_so_far()
    }

    /// What was summed so far for comparison at the same offsets.
    pub fn groups(&self) -> &GroupSummer {
        &self.groups
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.groups.update(data);
        self.blocks.update(data);
    }

    /// Takes `length` zeros, as a hole reads.
    pub fn zeros(&mut self, length: u64) {
        self.groups.zeros(length);
        self.blocks.zeros(length);
    }

    /// Its halves, each of which may have a thread of its own. Both must be given the same bytes.
    pub fn split(self) -> (GroupSummer, BlockSummer) {
        (self.groups, self.blocks)
    }

    /// Hash and signature of everything taken.
    pub fn finish(self) -> Summed {
        Summed::of(self.groups, self.blocks)
    }
}

impl Summed {
    /// What the halves of a [`Summer`] come to. Halves that were given different amounts have no blocks.
    pub fn of(groups: GroupSummer, blocks: BlockSummer) -> Self {
        let same = groups.size == blocks.size;
        let (hash, mut signature) = groups.finish();
        if let Some(block_size) = blocks.block_size.filter(|_| same) {
            signature.block_size = Some(block_size);
            signature.blocks = blocks.finish(block_size);
        }
        Self { hash, signature }
    }
}

/// Calls `update` with zeros, `length` bytes in all.
fn each_zeros(length: u64, mut update: impl FnMut(&[u8])) {
    let mut left = length;
    while left > 0 {
        let piece = left.min(ZEROS.len() as u64);
        update(&ZEROS[..piece as usize]);
        left -= piece;
    }
}

impl GroupSummer {
    /// For a content of `size` bytes whose signature is to have at most so many sums and no blocks; `None` if groups would be larger than
    /// [`LARGEST_SENT_GROUP`].
    pub fn fitting(size: u64, most_sums: u64) -> Option<Self> {
        let group_size = group_size_within(size, most_sums);
        (group_size <= LARGEST_SENT_GROUP).then(|| Self {
            size: 0,
            group_size,
            sums: Vec::new(),
            group: Hasher::new(),
            filled: 0,
            subtrees: Subtrees::default(),
        })
    }

    /// Hash and signature of everything taken; the signature has no blocks.
    pub fn sum(self) -> Summed {
        let (hash, signature) = self.finish();
        Summed { hash, signature }
    }

    /// Bytes taken so far.
    pub fn length(&self) -> u64 {
        self.size
    }

    pub(super) fn group_size(&self) -> u64 {
        self.group_size
    }

    /// The sum of the whole group at `offset`, a multiple of the group size, if something was taken after it.
    pub(super) fn sum_at(&self, offset: u64) -> Option<&[u8]> {
        let index = usize::try_from(offset / self.group_size).ok()?;
        self.sums.chunks_exact(SUM).nth(index)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.filled == self.group_size {
                self.close_group();
                // A new one: an offset can be given once only, also after `reset`.
                self.group = Hasher::new();
                self.group.set_input_offset(self.size);
            }
            let room = self.group_size - self.filled;
            let length = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
            let (piece, rest) = data.split_at(length);
            self.group.update(piece);
            self.filled += length as u64;
            self.size += length as u64;
            data = rest;
        }
    }

    /// Takes `length` zeros, as a hole reads.
    pub fn zeros(&mut self, length: u64) {
        each_zeros(length, |zeros| self.update(zeros));
    }

    fn close_group(&mut self) {
        if self.filled == 0 {
            return;
        }
        let value = self.group.finalize_non_root();
        self.sums.extend(&value[..SUM]);
        self.subtrees.push(value);
        self.filled = 0;
    }

    fn hash_so_far(&self) -> ContentHash {
        let mut subtrees = self.subtrees.clone();
        if self.filled > 0 {
            subtrees.push(self.group.finalize_non_root());
        }
        let root = subtrees.root();
        root.unwrap_or_else(|| self.group.finalize().into())
    }

    /// The hash, and the signature without blocks.
    fn finish(mut self) -> (ContentHash, Signature) {
        self.close_group();
        let signature = Signature {
            size: self.size,
            group_size: self.group_size,
            sums: self.sums,
            block_size: None,
            blocks: Vec::new(),
        };
        // Fewer than two subtrees: the hasher of the first group has seen everything.
        let root = self.subtrees.root();
        let hash = root.unwrap_or_else(|| self.group.finalize().into());
        (hash, signature)
    }
}

impl BlockSummer {
    /// Takes the next bytes: makes the entries of all windows that they fill.
    pub fn update(&mut self, mut data: &[u8]) {
        self.size += data.len() as u64;
        let Some(block_size) = self.block_size else {
            return;
        };
        let window = WINDOW.max(block_size as usize);
        while self.window.len() + data.len() >= window {
            // What already lies in one piece is not copied.
            if self.window.is_empty() {
                let (piece, rest) = data.split_at(window);
                append_entries(piece, block_size, &mut self.blocks);
                data = rest;
                continue;
            }
            let (piece, rest) = data.split_at(window - self.window.len());
            self.window.extend(piece);
            append_entries(&self.window, block_size, &mut self.blocks);
            self.window.clear();
            data = rest;
        }
        self.window.extend(data);
        if self.blocks.len() > MOST_ENTRIES * ENTRY {
            self.block_size = None;
            self.blocks = Vec::new();
            self.window = Vec::new();
        }
    }

    /// Takes `length` zeros, as a hole reads.
    pub fn zeros(&mut self, length: u64) {
        each_zeros(length, |zeros| self.update(zeros));
    }

    fn finish(mut self, block_size: u32) -> Vec<u8> {
        append_entries(&self.window, block_size, &mut self.blocks);
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::noise::noise;
    use super::*;

    fn content(length: usize) -> Vec<u8> {
        noise(length, 1)
    }

    fn summed(content: &[u8], size: u64, piece: usize) -> Summed {
        let mut summer = Summer::new(size);
        for piece in content.chunks(piece) {
            summer.update(piece);
        }
        assert_eq!(summer.length(), content.len() as u64);
        summer.finish()
    }

    #[test]
    fn the_hash_is_blake3_around_every_boundary() {
        let content = content(5 * 4096 + 20);
        for boundary in (0..=20).map(|chunk| chunk * 1024_usize) {
            for length in boundary.saturating_sub(3)..=boundary + 3 {
                let content = &content[..length];
                let expected = ContentHash::of(content);
                for piece in [4096, 1 << 20, 1023] {
                    assert_eq!(
                        summed(content, length as u64, piece).hash,
                        expected,
                        "{length}"
                    );
                }
                // 64 KiB groups: the whole is one.
                assert_eq!(summed(content, 1 << 38, 4096).hash, expected, "{length}");
            }
        }
    }

    #[test]
    fn the_hash_so_far_is_that_of_the_beginning_and_changes_nothing() {
        let content = content(3 * 4096 + 100);
        let mut summer = Summer::new(1 << 20);
        let mut taken = 0;
        for piece in [0, 1, 4000, 95, 1, 4095, 4096] {
            summer.update(&content[taken..taken + piece]);
            taken += piece;
            let expected = ContentHash::of(&content[..taken]);
            assert_eq!(summer.hash_so_far(), expected, "{taken}");
        }
        summer.update(&content[taken..]);
        assert_eq!(summer.finish(), summed(&content, 1 << 20, 1 << 20));
    }

    #[test]
    fn halves_come_to_the_same_as_the_whole() {
        let content = content(700_001);
        let (mut groups, mut blocks) = Summer::new(900_000).split();
        for piece in content.chunks(10_000) {
            groups.update(piece);
        }
        groups.zeros(100_000);
        for piece in content.chunks(70_000) {
            blocks.update(piece);
        }
        blocks.zeros(100_000);
        let mut whole = Summer::new(900_000);
        whole.update(&content);
        whole.zeros(100_000);
        assert_eq!(Summed::of(groups, blocks), whole.finish());
        // Without the same bytes nothing is found, and nothing is wrong.
        let (mut groups, blocks) = Summer::new(900_000).split();
        groups.update(&content);
        let summed = Summed::of(groups, blocks);
        assert_eq!(summed.signature.block_size(), None);
        assert_eq!(summed.hash, ContentHash::of(&content));
    }

    #[test]
    fn the_hash_is_blake3_for_large_groups() {
        let content = content(700_001);
        for (size, group) in [(1 << 34, 4096), ((1 << 34) + 1, 8192), (1 << 39, 131_072)] {
            let summed = summed(&content, size, 60_000);
            assert_eq!(summed.hash, ContentHash::of(&content));
            assert_eq!(summed.signature.group_size(), group);
        }
    }

    #[test]
    fn holes_are_zeros() {
        let mut with_hole = Summer::new(400_000);
        with_hole.update(b"before");
        with_hole.zeros(300_000);
        with_hole.update(b"after");
        let plain = [&b"before"[..], &vec![0; 300_000], b"after"].concat();
        assert_eq!(with_hole.finish(), summed(&plain, 400_000, 1 << 20));
    }

    #[test]
    fn sums_are_chaining_values_and_the_last_is_partial() {
        let content = content(9000);
        let signature = summed(&content, 9000, 9000).signature;
        let value = Hasher::new()
            .set_input_offset(8192)
            .update(&content[8192..])
            .finalize_non_root();
        assert_eq!(signature.sums.len(), 3 * SUM);
        assert_eq!(signature.sums[2 * SUM..], value[..SUM]);
    }

    #[test]
    fn entries_of_windows_are_those_of_the_whole() {
        let content = content(3 * WINDOW + 5000);
        let signature = summed(&content, content.len() as u64, 300_000).signature;
        let mut whole = Vec::new();
        append_entries(
            &content,
            signature.block_size.expect("has blocks"),
            &mut whole,
        );
        assert!(signature.blocks == whole);
        assert_eq!(whole.len(), content.len().div_ceil(2048) * ENTRY);
    }

    #[test]
    fn a_content_that_is_far_larger_than_was_said_has_no_blocks() {
        let mut summer = Summer::new(0);
        summer.blocks.blocks = vec![0; MOST_ENTRIES * ENTRY];
        summer.update(&content(WINDOW));
        assert_eq!(summer.finish().signature.block_size(), None);
    }

    proptest! {
        #[test]
        fn neither_pieces_nor_the_size_that_was_said_change_the_hash(
            length in 0_usize..200_000,
            size in prop::sample::select(vec![0, 100_000, 1 << 35, 1 << 45, u64::MAX]),
            pieces in prop::collection::vec(0_usize..50_000, 0..6),
        ) {
            let content = content(length);
            let mut summer = Summer::new(size);
            let mut rest = &content[..];
            for piece in pieces {
                let (piece, after) = rest.split_at(piece.min(rest.len()));
                summer.update(piece);
                rest = after;
            }
            summer.update(rest);
            let pieced = summer.finish();
            prop_assert_eq!(pieced.hash, ContentHash::of(&content));
            prop_assert_eq!(pieced, summed(&content, size, 1 << 20));
        }
    }
}
