//! What understudy uses of fast_rsync: entries of blocks, and the rolling sum that their first four bytes are.
#![expect(
    clippy::disallowed_methods,
    reason = "the one module that calls fast_rsync"
)]

use fast_rsync::SignatureOptions;

use super::signature::{ENTRY, STRONG};

/// Bytes of a librsync signature before its first entry: magic number, block size, length of the strong part.
const HEADER: usize = 12;

/// Appends to `entries` those of all blocks of `data`, the last of which may be partial. `block_size` is not zero.
pub(super) fn append_entries(data: &[u8], block_size: u32, entries: &mut Vec<u8>) {
    let options = SignatureOptions {
        block_size,
        crypto_hash_size: STRONG,
    };
    let signature = fast_rsync::Signature::calculate(data, options).into_serialized();
    entries.extend(&signature[HEADER.min(signature.len())..]);
}

/// The sum of one block, which can be moved along by a byte: librsync's, as in the first four bytes of an entry.
///
/// Both halves count modulo 2^16; what is above is cut off at the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rolling {
    /// Sum of all bytes, each with 31 added.
    plain: u32,
    /// Sum of all values that `plain` went through.
    weighted: u32,
    length: u32,
}

impl Rolling {
    /// That of `block`.
    pub(super) fn of(block: &[u8]) -> Self {
        // Sixteen bits at a time, for which there are twice as many lanes of SIMD.
        let length = block.len() as u16;
        let (mut plain, mut weighted) = (0_u16, 0_u16);
        for (index, &byte) in block.iter().enumerate() {
            let value = u16::from(byte) + 31;
            plain = plain.wrapping_add(value);
            weighted = weighted.wrapping_add(value.wrapping_mul(length.wrapping_sub(index as u16)));
        }
        Self {
            plain: plain.into(),
            weighted: weighted.into(),
            length: length.into(),
        }
    }

    /// Moves on by one byte: `out` leaves at the front, `into` joins at the end.
    #[inline]
    pub(super) fn roll(&mut self, out: u8, into: u8) {
        let out = u32::from(out);
        // The difference first: only one addition has to wait for the byte before.
        self.plain = self.plain.wrapping_add(u32::from(into).wrapping_sub(out));
        let left = self.length.wrapping_mul(out + 31);
        self.weighted = self.weighted.wrapping_add(self.plain.wrapping_sub(left));
    }

    /// As a number.
    #[inline]
    pub(super) fn value(self) -> u32 {
        self.weighted << 16 | self.plain & 0xffff
    }
}

/// The rolling sum that `entry` begins with.
pub(super) fn weak_of(entry: &[u8; ENTRY]) -> u32 {
    let [first, second, third, fourth, ..] = *entry;
    u32::from_be_bytes([first, second, third, fourth])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rolling_is_what_entries_begin_with(data in prop::collection::vec(any::<u8>(), 2..400), block in 1_usize..200) {
            let block = block.min(data.len());
            let mut rolling = Rolling::of(&data[..block]);
            for at in 0..=data.len() - block {
                if at > 0 {
                    rolling.roll(data[at - 1], data[at + block - 1]);
                }
                let mut entry = Vec::new();
                append_entries(&data[at..at + block], block as u32, &mut entry);
                let entry: [u8; ENTRY] = entry.try_into().expect("one entry");
                prop_assert_eq!(rolling.value(), weak_of(&entry));
            }
        }
    }
}
