//! A content as it is kept: a file, compressed or not, or one beneath what patches change in it. Reading it copies nothing, though the
//! file may be large where few of its bytes differ, and needs no room on the disk. Knows neither the catalog nor where files stand.

use std::collections::BTreeMap;
use std::fs::File;

use understudy_protocol::ContentHash;
use understudy_tree::TreeError;
use understudy_tree::content::{self, Extent, Extents};

use crate::error::ReceiverError;
use crate::packing::{self, Unpacking};
use crate::patch::Patch;

/// Pieces of patches beyond which a content is not read like this: it would take too much memory.
const PIECES: usize = 1 << 20;
/// Patches that are open at once.
const OPEN_FILES: usize = 64;

/// Opens the file of a patch by its number, the last one being 0.
type Reopen<'a> = Box<dyn Fn(usize) -> Result<File, ReceiverError> + 'a>;

/// A content that can be read.
pub(crate) struct Stored<'a> {
    /// `None` while it is left.
    base: Option<Base>,
    over: Option<Over<'a>>,
}

/// A file that has a content.
pub(crate) enum Base {
    /// As it is.
    Whole(File),
    /// Compressed.
    Packed(Box<Unpacking>),
}

impl Base {
    /// A file that `packing` made.
    pub(crate) fn packed(file: File) -> Self {
        Self::Packed(Box::new(Unpacking::new(file)))
    }

    /// The size and the hash of the content.
    pub(crate) fn hash(&self) -> Result<(u64, ContentHash), ReceiverError> {
        match self {
            Self::Whole(file) => {
                let size = content::size(file)?;
                Ok((size, content::hash_file(file, size)?))
            }
            Self::Packed(packed) => packing::hash(packed.packed()),
        }
    }

    /// Fills an empty file with the content.
    pub(crate) fn copy(&self, to: &File) -> Result<(), ReceiverError> {
        match self {
            Self::Whole(file) => Ok(content::copy(file, to, content::size(file)?)?),
            Self::Packed(packed) => packing::unpack(packed.packed(), to),
        }
    }

    /// The same file once more.
    pub(crate) fn try_clone(&self) -> Result<Self, ReceiverError> {
        let again = |file: &File| {
            let cloned = file.try_clone();
            cloned.map_err(|error| TreeError::new("open again", b"a stored file", error))
        };
        Ok(match self {
            Self::Whole(file) => Self::Whole(again(file)?),
            Self::Packed(packed) => Self::packed(again(packed.packed())?),
        })
    }

    fn data_extents(&self, size: u64) -> Result<Vec<Extent>, ReceiverError> {
        match self {
            Self::Whole(file) => Ok(content::data_extents(file, size)?),
            Self::Packed(packed) => packed.data_extents(size),
        }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ReceiverError> {
        match self {
            Self::Whole(file) => Ok(content::read_at(file, offset, buffer)?),
            Self::Packed(packed) => packed.read_at(offset, buffer),
        }
    }
}

/// What stands above a file.
struct Over<'a> {
    pieces: Pieces,
    /// Bytes of the file below that can be seen.
    visible: u64,
    reopen: Reopen<'a>,
    /// Files of patches by their numbers, the one that was opened first in front.
    open: Vec<(usize, File)>,
}

/// What patches change, the end and the patch of each piece by its start; those of no patch are holes.
type Pieces = BTreeMap<u64, (u64, Option<usize>)>;

impl<'a> Stored<'a> {
    /// A file with the content.
    pub(crate) fn plain(base: Base) -> Self {
        Self {
            base: Some(base),
            over: None,
        }
    }

    /// Closes the file below, so that a cycle may change it in place meanwhile. Nothing can be read until there is another with
    /// the same content.
    pub(crate) fn leave_base(&mut self) {
        if let Some(Base::Whole(file)) = self.base.take() {
            content::drop_cache(&file);
        }
    }

    /// Puts a file with the same content below again.
    pub(crate) fn return_to(&mut self, base: Base) {
        self.base = Some(base);
    }

    fn base(&mut self) -> Result<&mut Base, ReceiverError> {
        self.base.as_mut().ok_or(ReceiverError::Worker)
    }

    /// What patches make of a file, the last one first; `None` if they consist of too many pieces.
    pub(crate) fn patched(
        base: Base,
        patches: impl Iterator<Item = Result<Patch, ReceiverError>>,
        reopen: Reopen<'a>,
    ) -> Result<Option<Self>, ReceiverError> {
        let (mut pieces, mut visible) = (Pieces::new(), u64::MAX);
        for (number, patch) in patches.enumerate() {
            let patch = patch?;
            // What a later one cut off is not seen any more.
            visible = visible.min(patch.about().size);
            let mut extents = Extents::default();
            for &(start, end) in patch.stretches() {
                let end = end.min(visible);
                for (first, length) in extents.within(patch.file(), start..end)? {
                    cover(&mut pieces, (first, first + length), Some(number));
                }
                cover(&mut pieces, (start, end), None);
                if pieces.len() > PIECES {
                    return Ok(None);
                }
            }
        }
        let over = Over {
            pieces,
            visible,
            reopen,
            open: Vec::new(),
        };
        Ok(Some(Self {
            base: Some(base),
            over: Some(over),
        }))
    }

    /// The stretches below `size` that hold data.
    pub(crate) fn data_extents(&self, size: u64) -> Result<Vec<Extent>, ReceiverError> {
        let base = self.base.as_ref().ok_or(ReceiverError::Worker)?;
        let Some(over) = &self.over else {
            return base.data_extents(size);
        };
        let below = base.data_extents(over.visible.min(size))?;
        let mut found = Pieces::new();
        for (start, (end, patch)) in &over.pieces {
            found.insert(*start, (*end, *patch));
        }
        for (start, length) in below {
            cover(&mut found, (start, start + length), Some(usize::MAX));
        }
        let mut extents: Vec<Extent> = Vec::new();
        for (start, (end, patch)) in found {
            match extents.last_mut() {
                _ if patch.is_none() => {}
                Some((first, length)) if *first + *length == start => *length = end - *first,
                _ => extents.push((start, end - start)),
            }
        }
        Ok(extents)
    }

    /// Fills `data`, which is zeros, with a content of that size; returns how much of it was there.
    pub(crate) fn read_all(&mut self, data: &mut [u8]) -> Result<usize, ReceiverError> {
        if self.over.is_none() {
            return self.read_at(0, data);
        }
        for (start, length) in self.data_extents(data.len() as u64)? {
            let part = &mut data[start as usize..(start + length) as usize];
            let got = self.read_at(start, part)?;
            if got < part.len() {
                return Ok(start as usize + got);
            }
        }
        Ok(data.len())
    }

    /// Reads until `buffer`, which lies in one of the stretches that hold data, is full or the content ends; returns the number of bytes read.
    pub(crate) fn read_at(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReceiverError> {
        let Some(over) = &mut self.over else {
            return self.base()?.read_at(offset, buffer);
        };
        let base = self.base.as_mut().ok_or(ReceiverError::Worker)?;
        let (mut at, end) = (offset, offset + buffer.len() as u64);
        while at < end {
            let (patch, until) = over.at(at);
            let until = until.min(end);
            let part = &mut buffer[(at - offset) as usize..(until - offset) as usize];
            let got = match patch {
                Some(patch) => content::read_at(over.file(patch)?, at, part)?,
                None => base.read_at(at, part)?,
            };
            if got < part.len() {
                return Ok((at - offset) as usize + got);
            }
            at = until;
        }
        Ok(buffer.len())
    }
}

impl Over<'_> {
    /// The patch that has the byte at an offset, if one does, and where that ends.
    fn at(&self, offset: u64) -> (Option<usize>, u64) {
        match self.pieces.range(..=offset).next_back() {
            Some((_, (end, patch))) if *end > offset => (*patch, *end),
            _ => {
                let next = self.pieces.range(offset..).next();
                (None, next.map_or(u64::MAX, |(start, _)| *start))
            }
        }
    }

    fn file(&mut self, patch: usize) -> Result<&File, ReceiverError> {
        let position = match self.open.iter().position(|(number, _)| *number == patch) {
            Some(position) => position,
            None => {
                if self.open.len() >= OPEN_FILES {
                    self.open.remove(0);
                }
                self.open.push((patch, (self.reopen)(patch)?));
                self.open.len() - 1
            }
        };
        Ok(&self.open[position].1)
    }
}

/// Puts a piece beneath those that are there.
fn cover(pieces: &mut Pieces, (start, end): (u64, u64), patch: Option<usize>) {
    let before = pieces.range(..=start).next_back();
    let mut at = before.map_or(start, |(_, (end, _))| start.max(*end));
    while at < end {
        let next = pieces.range(at..).next();
        let (next_start, next_end) = next.map_or((end, end), |(start, (end, _))| (*start, *end));
        if at < next_start {
            pieces.insert(at, (next_start.min(end), patch));
        }
        at = next_end.max(next_start.min(end));
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::patch::About;

    const SIZE: usize = 400_000;
    /// Start and end of a stretch, and the byte that fills it.
    type Fill = (usize, usize, u8);

    fn file(content: &[u8]) -> File {
        let file = tempfile::tempfile().expect("file");
        content::write_at(&file, 0, content).expect("write");
        file
    }

    /// The patch that makes `new` of what differs from it in `stretches`.
    fn patch(new: &[u8], stretches: &[(u64, u64)]) -> Patch {
        let data = tempfile::tempfile().expect("file");
        for &(start, end) in stretches {
            let piece = &new[start as usize..end as usize];
            if piece.iter().any(|byte| *byte != 0) {
                content::write_at(&data, start, piece).expect("write");
            }
        }
        let about = About {
            size: new.len() as u64,
            hash: ContentHash::of(new),
            base: ContentHash::of(b"base"),
            run: 0,
            run_bytes: 0,
        };
        Patch::finish(data, about, stretches.to_vec()).expect("patch")
    }

    fn stored<'a>(base: &File, patches: &'a [Patch]) -> Stored<'a> {
        let last = patches.len() - 1;
        let again = patches.iter().rev().map(|patch| Ok(patch.reopen()));
        let reopen =
            move |number: usize| Ok(patches[last - number].file().try_clone().expect("clone"));
        let base = Base::Whole(base.try_clone().expect("clone"));
        let stored = Stored::patched(base, again, Box::new(reopen));
        stored.expect("stored").expect("few pieces")
    }

    fn read(stored: &mut Stored<'_>, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        for (start, length) in stored.data_extents(size as u64).expect("extents") {
            // In small steps, of which many end within a stretch.
            for at in (start..start + length).step_by(7001) {
                let end = (at + 7001).min(start + length);
                let part = &mut bytes[at as usize..end as usize];
                assert_eq!(stored.read_at(at, part).expect("read"), part.len());
            }
        }
        bytes
    }

    #[test]
    fn what_is_read_is_what_applying_the_patches_makes() {
        let mut content: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        let base = file(&content);
        let mut patches = Vec::new();
        let edits: [(usize, &[Fill]); 6] = [
            (SIZE, &[(0, 10, 1), (5_000, 9_000, 2), (300_000, SIZE, 3)]),
            (350_000, &[(4_096, 5_100, 4)]),
            // Grown again: what is beyond is of the patch, here a hole and bytes.
            (SIZE, &[(350_000, 390_000, 0), (390_000, SIZE, 5)]),
            (SIZE, &[(8_192, 200_000, 0)]),
            (
                SIZE + 70_000,
                &[(100_000, 100_001, 6), (SIZE, SIZE + 70_000, 7)],
            ),
            (SIZE - 1, &[(0, 1, 8)]),
        ];
        for (size, stretches) in edits {
            content.resize(size, 0);
            for &(start, end, byte) in stretches {
                content[start..end].fill(byte);
            }
            let stretches: Vec<_> = stretches
                .iter()
                .map(|&(start, end, _)| (start as u64, end as u64))
                .collect();
            patches.push(patch(&content, &stretches));
            let mut stored = stored(&base, &patches);
            assert!(read(&mut stored, size) == content, "{size}");
            let mut all = vec![0; size];
            stored.read_all(&mut all).expect("read");
            assert!(all == content, "{size}");
        }
    }

    #[test]
    fn holes_of_the_file_below_and_of_patches_hold_no_data() {
        let base = file(&[1; 100]);
        content::set_size(&base, 1 << 20).expect("size");
        content::write_at(&base, 1 << 20, &[2; 8192]).expect("write");
        let mut new = vec![0; (1 << 20) + 8192];
        new[500_000..500_010].fill(9);
        let stretches = [(0, 100), (500_000, 500_010), (1 << 20, (1 << 20) + 8192)];
        let patches = [patch(&new, &stretches)];
        let mut stored = stored(&base, &patches);
        let extents = stored.data_extents(new.len() as u64).expect("extents");
        let bytes: u64 = extents.iter().map(|(_, length)| length).sum();
        assert!(bytes < 20_000, "{extents:?}");
        assert!(read(&mut stored, new.len()) == new);
    }

    #[test]
    fn a_file_below_that_is_shorter_than_it_was_is_noticed() {
        let new = vec![3; 50_000];
        let patches = [patch(&new, &[(0, 10)])];
        let mut stored = stored(&file(&[3; 40_000]), &patches);
        let mut buffer = vec![0; 50_000];
        let got = stored.read_at(0, &mut buffer).expect("read");
        assert!(got < buffer.len());
    }
}
