//! New files that stand in for others: of the same name in another directory, as in the next release of an application, or of a
//! name that goes on after the old one in the same directory, as rotated logs have.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use understudy_protocol::{DirectoryId, Place};

use super::harm::{SHRUNK, Samples, Subject};
use super::looks::Looks;
use crate::catalog::Catalog;
use crate::error::ReceiverError;

/// New names that are remembered, 20 bytes each, and files that were found beside; more do not excuse anything.
const SUCCESSORS: usize = 1_000_000;
/// Names that are looked at for one that goes on after another.
const BESIDE: usize = 64;
/// What may follow in a name that goes on: `-` and `.`, `_`, `~`; each from the first byte on and before the second.
const SEPARATORS: [(u8, u8); 3] = [(b'-', b'/'), (b'_', b'`'), (b'~', 0x7f)];

/// What an upload puts that may stand in for something. Each does so once.
pub(super) struct Successors<'a> {
    catalog: &'a Catalog,
    number: u64,
    hasher: RandomState,
    /// Hashes of names that are new in their directory, each with the size of the file; in order.
    elsewhere: Vec<(u64, u64)>,
    /// For the first of the items with one hash: how many of these were taken.
    taken: Vec<u32>,
    /// Those in which anything was staged.
    directories: HashSet<DirectoryId>,
    /// Rows that were taken because of their directory.
    beside: HashSet<u64>,
}

impl<'a> Successors<'a> {
    pub(super) fn find(
        subject: &Subject<'a>,
        samples: &mut Samples<'_>,
    ) -> Result<Self, ReceiverError> {
        let (catalog, hasher) = (subject.catalog, RandomState::new());
        let (mut elsewhere, mut directories) = (Vec::new(), HashSet::new());
        catalog.files_put(subject.number, subject.first_entry, |put| {
            let size = put.entry.size_bytes();
            // What was there before is no news: its content is found where it is.
            if size == 0 || !put.is_staged || elsewhere.len() >= SUCCESSORS {
                return Ok(());
            }
            directories.insert(put.place.parent);
            let looks = samples.staged(put.id, &put.place, &put.entry)?;
            if !matches!(looks, Some(Looks::Noise | Looks::Blank))
                && catalog.row(&put.place, subject.number - 1)?.is_none()
            {
                elsewhere.push((hasher.hash_one(put.place.name.as_bytes()), size));
            }
            Ok(())
        })?;
        elsewhere.sort_unstable();
        Ok(Self {
            catalog,
            number: subject.number,
            hasher,
            taken: vec![0; elsewhere.len()],
            elsewhere,
            directories,
            beside: HashSet::new(),
        })
    }

    /// Whether there is one for a file of `size` bytes that stood at `place`.
    pub(super) fn take(
        &mut self,
        samples: &mut Samples<'_>,
        place: &Place,
        size: u64,
    ) -> Result<bool, ReceiverError> {
        let least = size / SHRUNK;
        if self.take_elsewhere(place, least) {
            return Ok(true);
        }
        if self.beside.len() >= SUCCESSORS {
            return Ok(false);
        }
        if !self.directories.contains(&place.parent) {
            return Ok(false);
        }
        let at = (self.number, place.parent);
        for (first, end) in SEPARATORS {
            let name = |next: u8| [place.name.as_bytes(), &[next]].concat();
            let range = (&name(first)[..], &name(end)[..]);
            for put in self.catalog.files_put_between(at, range, BESIDE)? {
                let size = put.entry.size_bytes();
                if !put.is_staged || size == 0 || size < least {
                    continue;
                }
                let looks = samples.staged(put.id, &put.place, &put.entry)?;
                let is_noise = matches!(looks, Some(Looks::Noise | Looks::Blank));
                if !is_noise && self.beside.insert(put.id) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Of the same name in another directory.
    fn take_elsewhere(&mut self, place: &Place, least: u64) -> bool {
        let hash = self.hasher.hash_one(place.name.as_bytes());
        let first = self.elsewhere.partition_point(|(other, _)| *other < hash);
        let end = self.elsewhere.partition_point(|(other, _)| *other <= hash);
        // The largest one stands for all of them.
        let Some((_, largest)) = self.elsewhere[first..end].last() else {
            return false;
        };
        let is_left = (self.taken[first] as usize) < end - first;
        if is_left && *largest >= least {
            self.taken[first] += 1;
            return true;
        }
        false
    }
}
