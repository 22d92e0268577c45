//! One pass over a content that gives its hash and its signature.

use blake3::Hasher;
use blake3::hazmat::HasherExt;

use super::signature::{ENTRY, SUM, Signature};
use super::subtrees::Subtrees;
use super::weak::append_entries;
use crate::ContentHash;

/// Whole blocks are given to fast_rsync this many bytes at a time, or one by one where they are larger.
const WINDOW: usize = 1024 * 1024;
/// A content with more entries than this (6 MiB), because it turned out much larger than was said, gets none.
const MOST_ENTRIES: usize = 524_288;
/// What holes are hashed as.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Takes a content piece by piece and gives hash and signature. Holds one window (1 MiB, or one block where that is more) at most, and the signature.
pub struct Summer {
    /// Without the group and the window that are still open.
    signature: Signature,
    /// The group that is open. It is closed by the byte after it, because a content of one group has no other tree.
    group: Hasher,
    /// Bytes in `group`.
    filled: u64,
    subtrees: Subtrees,
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
        Self {
            signature: Signature::empty(size),
            group: Hasher::new(),
            filled: 0,
            subtrees: Subtrees::default(),
            window: Vec::new(),
        }
    }

    /// Bytes taken so far.
    pub fn length(&self) -> u64 {
        self.signature.size
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.hash(data);
        self.enter(data);
        self.signature.size += data.len() as u64;
    }

    /// Takes `length` zeros, as a hole reads.
    pub fn zeros(&mut self, length: u64) {
        let mut left = length;
        while left > 0 {
            let piece = left.min(ZEROS.len() as u64);
            self.update(&ZEROS[..piece as usize]);
            left -= piece;
        }
    }

    /// Hash and signature of everything taken.
    pub fn finish(mut self) -> Summed {
        self.close_group();
        if let Some(block_size) = self.signature.block_size {
            append_entries(&self.window, block_size, &mut self.signature.blocks);
        }
        // Fewer than two subtrees: the hasher of the first group has seen everything.
        let root = self.subtrees.root();
        Summed {
            hash: root.unwrap_or_else(|| self.group.finalize().into()),
            signature: self.signature,
        }
    }

    fn hash(&mut self, mut data: &[u8]) {
        let start = self.signature.size;
        let mut taken = 0;
        while !data.is_empty() {
            if self.filled == self.signature.group_size {
                self.close_group();
                // A new one: an offset can be given once only, also after `reset`.
                self.group = Hasher::new();
                self.group.set_input_offset(start + taken);
            }
            let room = self.signature.group_size - self.filled;
            let length = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
            let (piece, rest) = data.split_at(length);
            self.group.update(piece);
            self.filled += length as u64;
            taken += length as u64;
            data = rest;
        }
    }

    fn close_group(&mut self) {
        if self.filled == 0 {
            return;
        }
        let value = self.group.finalize_non_root();
        self.signature.sums.extend(&value[..SUM]);
        self.subtrees.push(value);
        self.filled = 0;
    }

    /// Makes the entries of all windows that `data` fills.
    fn enter(&mut self, mut data: &[u8]) {
        let Some(block_size) = self.signature.block_size else {
            return;
        };
        let window = WINDOW.max(block_size as usize);
        while self.window.len() + data.len() >= window {
            // What already lies in one piece is not copied.
            if self.window.is_empty() {
                let (piece, rest) = data.split_at(window);
                append_entries(piece, block_size, &mut self.signature.blocks);
                data = rest;
                continue;
            }
            let (piece, rest) = data.split_at(window - self.window.len());
            self.window.extend(piece);
            append_entries(&self.window, block_size, &mut self.signature.blocks);
            self.window.clear();
            data = rest;
        }
        self.window.extend(data);
        if self.signature.blocks.len() > MOST_ENTRIES * ENTRY {
            self.signature.block_size = None;
            self.signature.blocks = Vec::new();
            self.window = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
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
        assert_eq!(whole.len(), content.len().div_ceil(8192) * ENTRY);
    }

    #[test]
    fn a_content_that_is_far_larger_than_was_said_has_no_blocks() {
        let mut summer = Summer::new(0);
        summer.signature.blocks = vec![0; MOST_ENTRIES * ENTRY];
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
