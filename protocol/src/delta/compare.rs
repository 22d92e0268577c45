//! Finds what differs at the same offset, by sums alone.

use std::ops::Range;

use super::Signature;
use super::signature::SUM;

/// Ranges of the new content, in bytes, in order and apart from each other, that are not known to be at the same offset in the base.
///
/// What lies beyond the base's end differs. A group that only one of the two has whole differs. Everything differs where the two have
/// groups of different sizes. Equal sums are 8 bytes of BLAKE3: what is not named here is the same but by collision.
pub fn differing(base: &Signature, new: &Signature) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    if new.size == 0 {
        return ranges;
    }
    if base.group_size != new.group_size {
        ranges.push(0..new.size);
        return ranges;
    }
    let group_size = new.group_size;
    let mut of_base = base.sums.chunks_exact(SUM);
    for (index, sum) in new.sums.chunks_exact(SUM).enumerate() {
        let start = index as u64 * group_size;
        let end = start.saturating_add(group_size).min(new.size);
        let end_in_base = start.saturating_add(group_size).min(base.size);
        if of_base.next() == Some(sum) && end == end_in_base {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Summer;
    use super::*;

    fn signature(content: &[u8], size: u64) -> Signature {
        let mut summer = Summer::new(size);
        summer.update(content);
        summer.finish().signature
    }

    /// Start and end of what differs.
    fn compared(base: &[u8], new: &[u8]) -> Vec<(u64, u64)> {
        ends(differing(&signature(base, 0), &signature(new, 0)))
    }

    fn ends(ranges: Vec<Range<u64>>) -> Vec<(u64, u64)> {
        ranges
            .into_iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 4096) as u8 + 1).collect()
    }

    #[test]
    fn groups_that_differ_are_named_and_neighbours_are_one() {
        let base = content(10 * 4096);
        assert_eq!(compared(&base, &base), []);
        let mut new = base.clone();
        new[0] = 99;
        new[3 * 4096 + 5] = 99;
        new[4 * 4096 - 1] = 99;
        new[4 * 4096] = 99;
        assert_eq!(compared(&base, &new), [(0, 4096), (3 * 4096, 5 * 4096)]);
    }

    #[test]
    fn equal_groups_at_other_offsets_differ() {
        let base = content(4 * 4096);
        let swapped = [&base[4096..2 * 4096], &base[..4096], &base[2 * 4096..]].concat();
        assert_eq!(compared(&base, &swapped), [(0, 2 * 4096)]);
    }

    #[test]
    fn a_partial_group_is_the_same_only_at_the_same_length() {
        let base = content(2 * 4096 + 100);
        assert_eq!(compared(&base, &base), []);
        assert_eq!(compared(&base, &base[..8292 - 1]), [(8192, 8291)]);
        assert_eq!(compared(&base, &base[..8192]), []);
        let grown = [&base[..], &[1]].concat();
        assert_eq!(compared(&base, &grown), [(8192, 8293)]);
        let grown = [&base[..], &vec![1; 9000]].concat();
        assert_eq!(compared(&base, &grown), [(8192, 17_292)]);
    }

    #[test]
    fn equal_sums_of_groups_that_are_not_equally_long_tell_nothing() {
        let new = signature(&content(8192), 0);
        let base = Signature {
            size: 8191,
            ..new.clone()
        };
        assert_eq!(ends(differing(&base, &new)), [(4096, 8192)]);
        assert_eq!(ends(differing(&new, &base)), [(4096, 8191)]);
    }

    #[test]
    fn nothing_is_compared_with_nothing() {
        assert_eq!(compared(b"", b""), []);
        assert_eq!(compared(b"content", b""), []);
        assert_eq!(compared(b"", b"content"), [(0, 7)]);
        assert_eq!(compared(b"content", b"content"), []);
    }

    #[test]
    fn groups_of_different_sizes_tell_nothing() {
        let content = content(20_000);
        let [base, new] = [0, 1 << 35].map(|size| signature(&content, size));
        assert_eq!(ends(differing(&base, &new)), [(0, 20_000)]);
        assert_eq!(differing(&new, &new), []);
    }

    proptest! {
        #[test]
        fn what_is_not_named_is_the_same(
            length in 0_usize..40_000,
            new_length in 0_usize..40_000,
            edits in prop::collection::vec((0_usize..40_000, 1_usize..3000), 0..4),
        ) {
            let base = content(length);
            let mut new = content(new_length);
            for (start, edit) in edits {
                for byte in new.iter_mut().skip(start).take(edit) {
                    *byte ^= 0x80;
                }
            }
            let ranges = compared(&base, &new);
            let mut rebuilt = base.clone();
            rebuilt.resize(new.len(), 0);
            let mut end_before = None;
            for (start, end) in ranges {
                prop_assert!(start < end && end_before < Some(start));
                end_before = Some(end);
                let range = start as usize..end as usize;
                rebuilt[range.clone()].copy_from_slice(&new[range]);
            }
            prop_assert!(rebuilt == new);
        }
    }
}
