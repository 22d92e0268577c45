//! The chaining values of all groups of a content, which prove the whole after a part was changed.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt};

use super::subtrees::Subtrees;
use super::{Damaged, take};
use crate::ContentHash;

/// Bytes of a group: 16 chunks, as many as AVX-512 hashes at once. Its value is a 512th of it.
pub const GROUP: u64 = 16 * 1024;

const VERSION: u8 = 1;

/// The value of each group of a content, the last of which may be partial.
///
/// Whoever changes a content sets the values of the groups that were touched, among them the last whenever the size changes, and gets
/// the hash of the whole from the values alone: 32 bytes for every 16 KiB.
///
/// Stored as a version of 1 byte (1), the number of groups in 8 bytes, little-endian, and 32 bytes for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    values: Vec<ChainingValue>,
}

/// A group beyond the one after the last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("group {index} of a content cannot be set while it has {count}")]
pub struct OutOfOrder {
    /// The group.
    pub index: u64,
    /// How many there are.
    pub count: u64,
}

impl Groups {
    /// Those of `content`. What is too large for memory is built by [`set`](Self::set), group after group.
    pub fn of(content: &[u8]) -> Self {
        let values = content
            .chunks(GROUP as usize)
            .zip(0..)
            .filter_map(|(data, index)| Self::group_value(index, data))
            .collect();
        Self { values }
    }

    /// The value of group `index` with the content `data`.
    ///
    /// `None` where there is no such group: `data` is empty, larger than [`GROUP`], or would lie beyond 2^64 bytes.
    pub fn group_value(index: u64, data: &[u8]) -> Option<[u8; 32]> {
        let offset = index.checked_mul(GROUP)?;
        if data.is_empty() || data.len() as u64 > GROUP {
            return None;
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(offset);
        Some(hasher.update(data).finalize_non_root())
    }

    /// How many groups there are.
    pub fn count(&self) -> u64 {
        self.values.len() as u64
    }

    /// Sets the value of a group, or adds the one after the last.
    ///
    /// # Errors
    /// [`OutOfOrder`] where that would leave groups out.
    pub fn set(&mut self, index: u64, value: [u8; 32]) -> Result<(), OutOfOrder> {
        let count = self.count();
        match usize::try_from(index) {
            Ok(place) if index < count => self.values[place] = value,
            _ if index == count => self.values.push(value),
            _ => return Err(OutOfOrder { index, count }),
        }
        Ok(())
    }

    /// Forgets the groups that a content of `size` bytes does not have. If its last one is partial now, its value must be set.
    pub fn truncate(&mut self, size: u64) {
        if let Ok(count) = usize::try_from(size.div_ceil(GROUP)) {
            self.values.truncate(count);
        }
    }

    /// The hash of a content of `size` bytes with these groups.
    ///
    /// `None` where values do not tell it: the content has one group at most, so that its hash is no sum of values and must be taken
    /// from the content; or it has another number of groups than these.
    pub fn root(&self, size: u64) -> Option<ContentHash> {
        if size.div_ceil(GROUP) != self.count() {
            return None;
        }
        let mut subtrees = Subtrees::default();
        self.values.iter().for_each(|value| subtrees.push(*value));
        subtrees.root()
    }

    /// The form for storage.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.count().to_le_bytes());
        bytes.extend(self.values.as_flattened());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, all of it and nothing else.
    ///
    /// # Errors
    /// [`Damaged`] where it is of another version or length. Values that are damaged are found by the hash only.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, Damaged> {
        let damaged = |reason| Damaged {
            what: "hash tree",
            reason,
        };
        let [version] = take(&mut bytes).ok_or(damaged("it is empty"))?;
        if version != VERSION {
            return Err(damaged("its version is unknown"));
        }
        let count = u64::from_le_bytes(take(&mut bytes).ok_or(damaged("it is cut off"))?);
        let (values, rest) = bytes.as_chunks();
        if !rest.is_empty() || values.len() as u64 != count {
            return Err(damaged("its length does not fit the number of groups"));
        }
        Ok(Self {
            values: values.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(length: usize, seed: u8) -> Vec<u8> {
        (0..length)
            .map(|at| (at.wrapping_mul(at) >> 5) as u8 ^ seed)
            .collect()
    }

    fn group(content: &[u8], index: u64) -> &[u8] {
        let start = (index * GROUP) as usize;
        &content[start..content.len().min(start + GROUP as usize)]
    }

    #[test]
    fn roots_are_blake3_around_every_boundary() {
        let content = content(9 * GROUP as usize + 1, 0);
        for groups in 1..=9 {
            for length in [groups * GROUP - 1, groups * GROUP, groups * GROUP + 1] {
                let content = &content[..length as usize];
                let expected = (length > GROUP).then(|| ContentHash::of(content));
                assert_eq!(Groups::of(content).root(length), expected, "{length}");
            }
        }
    }

    #[test]
    fn no_root_for_another_number_of_groups() {
        let groups = Groups::of(&content(50_000, 0));
        assert!(groups.root(50_000).is_some());
        assert_eq!(groups.root(65_537), None);
        assert_eq!(groups.root(49_152), None);
        assert_eq!(Groups::default().root(0), None);
    }

    #[test]
    fn groups_are_neither_left_out_nor_too_large() {
        let mut groups = Groups::of(&content(50_000, 0));
        let error = OutOfOrder { index: 5, count: 4 };
        assert_eq!(groups.set(5, [0; 32]), Err(error));
        assert_eq!(groups.set(4, [0; 32]), Ok(()));
        assert_eq!(Groups::group_value(0, &[]), None);
        assert_eq!(Groups::group_value(0, &[0; GROUP as usize + 1]), None);
        assert_eq!(Groups::group_value(u64::MAX, &[0]), None);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let groups = Groups::of(&content(50_000, 0));
        let bytes = groups.to_bytes();
        assert_eq!(Groups::from_bytes(&bytes), Ok(groups));
        for length in 0..bytes.len() {
            assert!(Groups::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Groups::from_bytes(&[&bytes[..], &[0; 32]].concat()).is_err());
        for (place, value) in [(0, 2), (1, 5), (8, 255)] {
            let mut bytes = bytes.clone();
            bytes[place] = value;
            assert!(Groups::from_bytes(&bytes).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn only_touched_groups_are_hashed_again(
            length in GROUP + 1..300_000,
            new_length in GROUP + 1..300_000,
            edits in prop::collection::vec((0_usize..300_000, 1_usize..40_000), 0..4),
        ) {
            let old = content(length as usize, 0);
            let mut groups = Groups::of(&old);
            let mut new = old.clone();
            new.resize(new_length as usize, 9);
            for (start, length) in edits {
                for byte in new.iter_mut().skip(start).take(length) {
                    *byte ^= 0x55;
                }
            }
            groups.truncate(new_length);
            for index in 0..new_length.div_ceil(GROUP) {
                let data = group(&new, index);
                if index * GROUP < length && group(&old, index) == data {
                    continue;
                }
                let value = Groups::group_value(index, data).expect("a group");
                groups.set(index, value).expect("in order");
            }
            prop_assert_eq!(groups.root(new_length), Some(ContentHash::of(&new)));
            prop_assert_eq!(groups, Groups::of(&new));
        }
    }
}
