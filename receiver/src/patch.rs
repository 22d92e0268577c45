//! Patches: what changes in a large file between two versions, kept as a file.
//!
//! The file has the changed bytes where they belong, holes everywhere else, and behind them a trailer that says which
//! stretches changed. Within such a stretch a hole is a hole of the new version. Applying a patch to the version it is made
//! for, wholly or partly, again and again, ends in the same content. Knows neither the catalog nor where files stand.

use std::fs::File;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use understudy_protocol::ContentHash;
use understudy_tree::content::{self, Extents, HoleyHasher};
use understudy_tree::crash_point;

use crate::error::ReceiverError;

/// Ends every patch.
const MAGIC: [u8; 8] = *b"USTYPTC1";
/// Length of the trailer, then the magic.
const TAIL: usize = 16;
/// A trailer that is longer than this is none: about four million stretches.
const TRAILER_BYTES: u64 = 64 << 20;

/// What a patch leads to, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Length of the result in bytes.
    pub(crate) size: u64,
    /// The result.
    pub(crate) hash: ContentHash,
    /// What it has to be applied to.
    pub(crate) base: ContentHash,
    /// How many patches end here: it and those before it that were kept in a row.
    pub(crate) run: u32,
    /// Bytes of all of them.
    pub(crate) run_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    about: About,
    /// Start and end of each stretch, in order.
    stretches: Vec<(u64, u64)>,
    /// Over all of the above and the bytes of all stretches.
    checksum: ContentHash,
}

/// An open patch.
#[derive(Debug)]
pub(crate) struct Patch {
    file: File,
    trailer: Trailer,
}

impl Patch {
    /// Makes a patch of a file that has the changed bytes already.
    pub(crate) fn finish(
        file: File,
        about: About,
        stretches: Vec<(u64, u64)>,
    ) -> Result<Self, ReceiverError> {
        let checksum = checksum(&file, &about, &stretches)?;
        let trailer = Trailer {
            about,
            stretches,
            checksum,
        };
        let mut bytes = encode(&trailer)?;
        let length = bytes.len() as u64;
        bytes.extend(length.to_le_bytes());
        bytes.extend(MAGIC);
        let end = trailer.stretches.last().map_or(0, |(_, end)| *end);
        content::set_size(&file, end)?;
        content::write_at(&file, end, &bytes)?;
        Ok(Self { file, trailer })
    }

    /// Reads a patch; `None` if it is damaged.
    pub(crate) fn open(file: File) -> Result<Option<Self>, ReceiverError> {
        let size = content::size(&file)?;
        let Some(trailer) = read_trailer(&file, size)? else {
            return Ok(None);
        };
        let found = checksum(&file, &trailer.about, &trailer.stretches);
        let is_whole = found.is_ok_and(|found| found == trailer.checksum);
        Ok(is_whole.then_some(Self { file, trailer }))
    }

    /// What the patch in a file has to be applied to, without reading it whole; `None` if that cannot be told.
    pub(crate) fn base_in(file: &File) -> Result<Option<ContentHash>, ReceiverError> {
        let trailer = read_trailer(file, content::size(file)?)?;
        Ok(trailer.map(|trailer| trailer.about.base))
    }

    /// Start and end of what the patch in a file changes, without reading it whole; `None` if it is damaged.
    pub(crate) fn stretches_in(file: &File) -> Result<Option<Vec<(u64, u64)>>, ReceiverError> {
        let trailer = read_trailer(file, content::size(file)?)?;
        Ok(trailer
            .map(|trailer| trailer.stretches)
            .filter(|stretches| !stretches.is_empty()))
    }

    pub(crate) fn about(&self) -> &About {
        &self.trailer.about
    }

    /// Its file, with the changed bytes where they belong.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Start and end of each stretch that changes, in order.
    pub(crate) fn stretches(&self) -> &[(u64, u64)] {
        &self.trailer.stretches
    }

    /// Bytes that change.
    pub(crate) fn bytes(&self) -> u64 {
        let lengths = self
            .trailer
            .stretches
            .iter()
            .map(|(start, end)| end - start);
        lengths.sum()
    }

    /// Makes a file that is the base the result, or carries on with that.
    pub(crate) fn apply(&self, target: &File) -> Result<(), ReceiverError> {
        let size = self.trailer.about.size;
        let mut extents = Extents::default();
        for &(start, end) in &self.trailer.stretches {
            crash_point!("patch.step");
            let mut position = start;
            content::read_stretch(&self.file, &mut extents, start..end, |offset, data| {
                punch(target, position..offset)?;
                position = offset + data.len() as u64;
                content::write_at(target, offset, data)
            })?;
            punch(target, position..end)?;
        }
        Ok(content::set_size(target, size)?)
    }

    /// Writes into `file`, which is empty, the patch that leads back from the result to `base`, which is the file
    /// that this one is made for and has `size` bytes.
    pub(crate) fn reverse(
        &self,
        base: &File,
        size: u64,
        file: File,
        run: (u32, u64),
    ) -> Result<Self, ReceiverError> {
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        let ours = self.trailer.stretches.iter().copied();
        // What the result does not have any more comes last.
        let tail = (self.trailer.about.size, u64::MAX);
        for (start, end) in ours.chain([tail]) {
            let (start, end) = (start.min(size), end.min(size));
            match stretches.last_mut() {
                _ if start >= end => {}
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => stretches.push((start, end)),
            }
        }
        let mut bytes = run.1;
        let mut extents = Extents::default();
        for &(start, end) in &stretches {
            bytes += end - start;
            content::read_stretch(base, &mut extents, start..end, |offset, data| {
                content::write_at(&file, offset, data)
            })?;
        }
        let about = About {
            size,
            hash: self.trailer.about.base,
            base: self.trailer.about.hash,
            run: run.0 + 1,
            run_bytes: bytes,
        };
        Self::finish(file, about, stretches)
    }

    /// Makes it durable.
    pub(crate) fn sync(&self) -> Result<(), ReceiverError> {
        Ok(content::sync(&self.file)?)
    }
}

/// Makes a stretch a hole, as far as the file has it.
fn punch(file: &File, stretch: Range<u64>) -> Result<(), understudy_tree::TreeError> {
    if stretch.is_empty() {
        return Ok(());
    }
    content::punch_hole(file, stretch)
}

fn read_trailer(file: &File, size: u64) -> Result<Option<Trailer>, ReceiverError> {
    let mut tail = [0; TAIL];
    let Some(start) = size.checked_sub(TAIL as u64) else {
        return Ok(None);
    };
    content::read_at(file, start, &mut tail)?;
    let (length, magic) = tail.split_at(8);
    let length = length.try_into().map_or(0, u64::from_le_bytes);
    let Some(begin) = start.checked_sub(length) else {
        return Ok(None);
    };
    if magic != MAGIC || length > TRAILER_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    content::read_at(file, begin, &mut bytes)?;
    let Ok(trailer) = postcard::from_bytes::<Trailer>(&bytes) else {
        return Ok(None);
    };
    let mut end_before = 0;
    let is_ordered = trailer.stretches.iter().all(|&(start, end)| {
        let is_later = start >= end_before && start < end && end <= trailer.about.size.max(begin);
        end_before = end;
        is_later
    });
    Ok((is_ordered && end_before == begin).then_some(trailer))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, ReceiverError> {
    postcard::to_stdvec(value)
        .map_err(|error| ReceiverError::Damaged(format!("a patch cannot be written: {error}")))
}

fn checksum(
    file: &File,
    about: &About,
    stretches: &[(u64, u64)],
) -> Result<ContentHash, ReceiverError> {
    // Holes count as the zeros that they read as: what is one may depend on what the file system has written back.
    let mut hasher = HoleyHasher::default();
    let mut total = 0;
    let mut extents = Extents::default();
    for &(start, end) in stretches {
        content::read_stretch(file, &mut extents, start..end, |offset, data| {
            hasher.update(total + (offset - start), data);
            Ok(())
        })?;
        total += end - start;
        hasher.zeros_until(total);
    }
    hasher.update(total, &encode(&(about, stretches))?);
    let end = hasher.position();
    Ok(hasher.finish(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let file = tempfile::tempfile().expect("file");
        content::write_at(&file, 0, content).expect("write");
        file
    }

    fn read(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; content::size(file).expect("size") as usize];
        content::read_at(file, 0, &mut bytes).expect("read");
        bytes
    }

    fn about(size: usize) -> About {
        About {
            size: size as u64,
            hash: ContentHash::of(b"result"),
            base: ContentHash::of(b"base"),
            run: 0,
            run_bytes: 0,
        }
    }

    /// The patch that makes `new` of `base`, all of which differs in `stretches`.
    fn patch(new: &[u8], stretches: &[(u64, u64)]) -> Patch {
        let data = tempfile::tempfile().expect("file");
        for &(start, end) in stretches {
            let piece = &new[start as usize..end as usize];
            content::write_at(&data, start, piece).expect("write");
        }
        Patch::finish(data, about(new.len()), stretches.to_vec()).expect("patch")
    }

    fn reopened(patch: Patch) -> Option<Patch> {
        Patch::open(patch.file).expect("open")
    }

    impl Patch {
        /// The same once more.
        pub(crate) fn reopen(&self) -> Self {
            let file = self.file.try_clone().expect("clone");
            Self::open(file).expect("open").expect("whole")
        }
    }

    #[test]
    fn a_patch_leads_there_and_its_reverse_back_however_often_it_is_applied() {
        let base: Vec<u8> = (0..100_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        for length in [100_000, 60_000, 5_000, 140_000] {
            let mut new = base.clone();
            new.resize(length, 7);
            let mut stretches = vec![(1000, 1010), (4096, 4999)];
            stretches.retain(|(_, end)| *end <= length as u64);
            stretches.extend((length > base.len()).then_some((100_000, length as u64)));
            for &(start, end) in &stretches {
                new[start as usize..end as usize].fill(200);
            }
            let forth = reopened(patch(&new, &stretches)).expect("whole");
            let target = file(&base);
            let back = tempfile::tempfile().expect("file");
            let back = forth
                .reverse(&target, base.len() as u64, back, (3, 50))
                .expect("reverse");
            let back = reopened(back).expect("whole");
            for _ in 0..2 {
                forth.apply(&target).expect("apply");
                assert!(read(&target) == new, "{length}");
            }
            for _ in 0..2 {
                back.apply(&target).expect("apply");
                assert!(read(&target) == base, "{length}");
            }
            assert_eq!(back.about().run, 4);
            assert_eq!(back.about().run_bytes, 50 + back.bytes());
            assert_eq!(back.about().base, forth.about().hash);
        }
    }

    #[test]
    fn holes_of_either_version_come_back_as_holes() {
        let base = file(&[1; 400_000]);
        let data = tempfile::tempfile().expect("file");
        let forth = Patch::finish(data, about(400_000), vec![(100_000, 300_000)]).expect("patch");
        let back = tempfile::tempfile().expect("file");
        let back = forth
            .reverse(&base, 400_000, back, (0, 0))
            .expect("reverse");
        forth.apply(&base).expect("apply");
        let holes = content::data_extents(&base, 400_000).expect("extents");
        assert!(holes.len() == 2, "{holes:?}");
        assert!(read(&base)[100_000..300_000].iter().all(|byte| *byte == 0));
        let again = tempfile::tempfile().expect("file");
        let again = back.reverse(&base, 400_000, again, (0, 0)).expect("again");
        back.apply(&base).expect("apply");
        assert!(read(&base) == vec![1; 400_000]);
        again.apply(&base).expect("apply");
        assert_eq!(
            content::data_extents(&base, 400_000).expect("extents"),
            holes
        );
    }

    #[test]
    fn damage_is_noticed() {
        let made = || patch(&[5; 50_000], &[(10, 20), (40_000, 50_000)]);
        let length = content::size(&made().file).expect("size");
        assert!(reopened(made()).is_some());
        for at in (0..length).step_by(97).chain(length - 80..length) {
            let patch = made();
            let mut byte = [0];
            content::read_at(&patch.file, at, &mut byte).expect("read");
            content::write_at(&patch.file, at, &[byte[0] ^ 0x11]).expect("write");
            let is_used = (10..20).contains(&at) || at >= 40_000;
            assert_eq!(reopened(patch).is_none(), is_used, "at {at}");
        }
        for cut in [0, 1, 15, 16, 40_000, length - 1] {
            let patch = made();
            content::set_size(&patch.file, cut).expect("cut");
            assert!(reopened(patch).is_none(), "cut to {cut}");
        }
    }
}
