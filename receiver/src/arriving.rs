//! A stream while it arrives, perhaps as the difference to a file of the base: what of it is written, and what is left out.

use std::fs::File;
use std::ops::Range;

use understudy_protocol::message::{StreamCopy, StreamEnd};
use understudy_protocol::{ContentHash, Place};
use understudy_tree::TreeError;
use understudy_tree::content::{self, Extents, HoleyHasher};

use crate::error::ReceiverError;
use crate::leftovers::LEAST_PARTIAL;
use crate::patch::{About, Patch};

/// A base at least so large is not copied for a delta that changes little of it: a patch is made.
pub(crate) const PATCHED_BYTES: u64 = 4 << 20;
/// A patch changes at most this part of a file. Beyond that, writing it anew costs less than keeping it twice.
const PATCHED_PART: u64 = 4;
/// Stretches of a patch, 1 MiB of them: as many streams as may be under way must not take much memory.
const STRETCHES: usize = 1 << 16;

/// Pieces of a difference that follow one another are written together up to so many bytes: many small writes cost more than their bytes.
const GATHERED_BYTES: usize = 256 * 1024;

/// What the file of a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The content.
    Whole,
    /// A patch for the file that the base has at this place.
    Patch(Place),
}

/// A stream of which the end has not come.
pub(crate) struct Arriving {
    pub(crate) file: File,
    gathered: Gathered,
    pub(crate) hasher: HoleyHasher,
    pub(crate) former: Option<Former>,
    /// The position from which on the ledger is to tell of it again.
    pub(crate) note_at: u64,
}

/// The file of the base of which a stream is a new version.
pub(crate) struct Former {
    pub(crate) place: Place,
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) hash: ContentHash,
    pub(crate) extents: Extents,
    pub(crate) manner: Manner,
}

/// What becomes of stretches that stay where they are.
pub(crate) enum Manner {
    /// They are copied.
    Copied,
    /// The new file began with all blocks of the former one, so that only differences take space.
    Shared,
    /// They are left out, and the others are remembered: starts and ends, and how many bytes these are.
    LeftOut(Vec<(u64, u64)>, u64),
}

/// Bytes that are not written yet. No hole is made and nothing is read where they belong, for all of that is behind them.
#[derive(Default)]
struct Gathered {
    start: u64,
    bytes: Vec<u8>,
}

impl Gathered {
    fn write(&mut self, file: &File, offset: u64, data: &[u8]) -> Result<(), TreeError> {
        if offset != self.start + self.bytes.len() as u64
            || self.bytes.len() + data.len() > GATHERED_BYTES
        {
            self.settle(file)?;
        }
        if data.len() >= GATHERED_BYTES / 2 {
            return content::write_at(file, offset, data);
        }
        if self.bytes.is_empty() {
            self.start = offset;
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Writes them.
    fn settle(&mut self, file: &File) -> Result<(), TreeError> {
        if !self.bytes.is_empty() {
            content::write_at(file, self.start, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

impl Arriving {
    /// Nothing has arrived.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            gathered: Gathered::default(),
            hasher: HoleyHasher::default(),
            former: None,
            note_at: LEAST_PARTIAL,
        }
    }

    /// The next bytes that came.
    pub(crate) fn take(&mut self, offset: u64, data: &[u8]) -> Result<(), ReceiverError> {
        if self.former.is_some() {
            self.gathered.write(&self.file, offset, data)?;
        } else {
            // The ledger may tell of it at once.
            content::write_at(&self.file, offset, data)?;
        }
        self.hasher.update(offset, data);
        Ok(())
    }

    /// The bytes of the base from `copy.from` on, which belong at `copy.offset`; they are there already if `is_there`.
    pub(crate) fn take_copy(
        &mut self,
        copy: &StreamCopy,
        is_there: bool,
    ) -> Result<(), ReceiverError> {
        let Self {
            file,
            gathered,
            hasher,
            former,
            ..
        } = self;
        let former = former.as_mut().ok_or(ReceiverError::Worker)?;
        let stretch = copy.from..copy.from + copy.length;
        content::read_stretch(&former.file, &mut former.extents, stretch, |from, data| {
            let offset = copy.offset + (from - copy.from);
            if !is_there {
                gathered.write(file, offset, data)?;
            }
            hasher.update(offset, data);
            Ok(())
        })?;
        hasher.zeros_until(copy.offset + copy.length);
        Ok(())
    }

    /// How long the hole is before a stretch at `offset`.
    pub(crate) fn hole_before(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.hasher.position())
    }

    /// The next stretch is at `offset`; what is between is a hole.
    pub(crate) fn pass_to(&mut self, stream: u64, offset: u64) -> Result<(), ReceiverError> {
        let position = self.hasher.position();
        if offset < position {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {stream} went backwards"
            )));
        }
        self.changes(position..offset)?;
        if let Some(Former {
            manner: Manner::Shared,
            ..
        }) = &self.former
            && offset > position
        {
            content::punch_hole(&self.file, position..offset)?;
        }
        Ok(())
    }

    /// A stretch is not what the base has there. Where this is too much for a patch, the file becomes whole.
    pub(crate) fn changes(&mut self, stretch: Range<u64>) -> Result<(), ReceiverError> {
        let Some(Former { size, manner, .. }) = &mut self.former else {
            return Ok(());
        };
        let Manner::LeftOut(stretches, bytes) = manner else {
            return Ok(());
        };
        if stretch.is_empty() {
            return Ok(());
        }
        *bytes += stretch.end - stretch.start;
        match stretches.last_mut() {
            Some((_, end)) if *end == stretch.start => *end = stretch.end,
            _ => stretches.push((stretch.start, stretch.end)),
        }
        if *bytes > *size / PATCHED_PART || stretches.len() > STRETCHES {
            return self.become_whole(stretch.start);
        }
        Ok(())
    }

    /// Copies what was left out up to `end`, and leaves nothing out from now on.
    fn become_whole(&mut self, end: u64) -> Result<(), ReceiverError> {
        let Some(former) = &mut self.former else {
            return Ok(());
        };
        let Manner::LeftOut(stretches, _) = std::mem::replace(&mut former.manner, Manner::Copied)
        else {
            return Ok(());
        };
        let mut position = 0;
        for (start, after) in stretches.into_iter().chain([(end, end)]) {
            let stays = position..start.min(end);
            if !stays.is_empty() {
                content::read_stretch(&former.file, &mut former.extents, stays, |offset, data| {
                    content::write_at(&self.file, offset, data)
                })?;
            }
            position = after;
        }
        Ok(())
    }

    /// The file is complete: what it is.
    pub(crate) fn finish(mut self, end: &StreamEnd) -> Result<Shape, ReceiverError> {
        self.gathered.settle(&self.file)?;
        let Some(Former {
            place,
            hash,
            manner: Manner::LeftOut(stretches, _),
            ..
        }) = self.former
        else {
            content::set_size(&self.file, end.size)?;
            return Ok(Shape::Whole);
        };
        let about = About {
            size: end.size,
            hash: end.hash,
            base: hash,
            run: 0,
            run_bytes: 0,
        };
        Patch::finish(self.file, about, stretches)?;
        Ok(Shape::Patch(place))
    }
}
