//! Sending a large file as the difference to the version that the spare has, which its signature tells.
//!
//! What is the same at the same offset is copied there; what is not is searched for what moved; the rest is sent.

use std::fs::File;
use std::ops::Range;
use std::time::Duration;

use understudy_protocol::delta::{self, Budget, Op, Search, Signature};
use understudy_protocol::message::StreamPiece;
use understudy_protocol::{Place, limits, version};
use understudy_tree::content::{self, Extents};

use super::is_about_entry;
use super::read::Contents;
use super::worker::Worker;
use crate::clock;
use crate::error::AgentError;
use crate::index::Known;
use crate::outbox::Outbox;

/// After so many bytes in which the search found nothing, it looks at samples only: a file that was written anew must not
/// wait for it. Searching what does not match makes about 400 MB/s (`cargo bench --bench micro -- delta`).
const BARREN_BYTES: u64 = 32 << 20;
/// One buffer in so many is a sample.
const SAMPLED: u64 = 8;

/// A new file with at least so many bytes is compared with one of its kind: below, looking for that costs as much as it saves.
const KIN_BYTES: u64 = 1 << 20;

/// A copy is told at least so often: the spare reads its base meanwhile, to hash the whole.
const TOLD_BYTES: u64 = 32 << 20;

/// The version of a file that the spare has.
pub(super) struct Former {
    pub(super) place: Place,
    pub(super) signature: Signature,
}

/// Stretches that are told together once so many of their bytes are new, or there are so many of them.
const PIECES_BYTES: usize = 64 << 10;
const PIECES: usize = 2048;
/// More new bytes than these are told by themselves.
const SHORT_BYTES: usize = 8 << 10;

/// A stream that is told as a difference.
pub(super) struct Delta {
    stream: u64,
    /// The end of what was told.
    offset: u64,
    /// A stretch of the base, and how long it is, that may go on.
    copy: Option<(u64, u64)>,
    copied_bytes: u64,
    /// Of the new file.
    extents: Extents,
    /// What is told together; `None` where the spare knows single stretches only.
    pieces: Option<Pieces>,
}

/// Stretches that wait for others.
#[derive(Default)]
struct Pieces {
    /// All that they are.
    bytes: u64,
    new_bytes: usize,
    list: Vec<StreamPiece>,
}

impl Delta {
    /// Begins a stream, for a spare that speaks this version.
    pub(super) fn begin(
        outbox: &mut Outbox,
        former: &Place,
        spoken: u32,
    ) -> Result<Self, AgentError> {
        let stream = outbox.new_stream();
        outbox.begin_delta(stream, former.clone())?;
        Ok(Self {
            stream,
            offset: 0,
            copy: None,
            copied_bytes: 0,
            extents: Extents::default(),
            pieces: (spoken >= version::PIECES).then(Pieces::default),
        })
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    /// The next bytes are these.
    pub(super) fn literal(&mut self, outbox: &mut Outbox, data: &[u8]) -> Result<(), AgentError> {
        if data.is_empty() {
            return Ok(());
        }
        self.end_copy(outbox)?;
        if data.len() <= SHORT_BYTES && self.pieces.is_some() {
            self.offset += data.len() as u64;
            return self.add(outbox, StreamPiece::New(data.into()));
        }
        self.tell_pieces(outbox)?;
        for piece in data.chunks(limits::BLOCK_BYTES) {
            outbox.block(self.stream, self.offset, piece.to_vec())?;
            self.offset += piece.len() as u64;
        }
        Ok(())
    }

    /// The next bytes are those of the base from `from` on.
    pub(super) fn copy(
        &mut self,
        outbox: &mut Outbox,
        from: u64,
        length: u64,
    ) -> Result<(), AgentError> {
        match &mut self.copy {
            Some((start, known)) if *start + *known == from => *known += length,
            _ => {
                self.end_copy(outbox)?;
                self.copy = Some((from, length));
            }
        }
        self.offset += length;
        self.copied_bytes += length;
        match self.copy {
            Some((_, known)) if known >= TOLD_BYTES => self.flush(outbox),
            _ => Ok(()),
        }
    }

    /// The end of what is known, told or not.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What is up to `offset` is a hole.
    pub(super) fn hole_to(&mut self, outbox: &mut Outbox, offset: u64) -> Result<(), AgentError> {
        if offset > self.offset {
            self.flush(outbox)?;
            self.offset = offset;
        }
        Ok(())
    }

    /// Tells all that is known.
    pub(super) fn flush(&mut self, outbox: &mut Outbox) -> Result<(), AgentError> {
        self.end_copy(outbox)?;
        self.tell_pieces(outbox)
    }

    /// The copy that may have gone on does not.
    fn end_copy(&mut self, outbox: &mut Outbox) -> Result<(), AgentError> {
        match self.copy.take() {
            Some((from, length)) if length > 0 && self.pieces.is_some() => {
                self.add(outbox, StreamPiece::Former { from, length })
            }
            Some((from, length)) if length > 0 => {
                outbox.copy(self.stream, self.offset - length, from, length)
            }
            _ => Ok(()),
        }
    }

    /// Adds a stretch that ends where everything does that is known.
    fn add(&mut self, outbox: &mut Outbox, piece: StreamPiece) -> Result<(), AgentError> {
        let Some(pieces) = &mut self.pieces else {
            return Ok(());
        };
        pieces.bytes += piece.length();
        if let StreamPiece::New(data) = &piece {
            pieces.new_bytes += data.len();
        }
        pieces.list.push(piece);
        let is_enough = pieces.new_bytes >= PIECES_BYTES
            || pieces.list.len() >= PIECES
            || pieces.bytes >= TOLD_BYTES;
        match is_enough {
            true => self.tell_pieces(outbox),
            false => Ok(()),
        }
    }

    fn tell_pieces(&mut self, outbox: &mut Outbox) -> Result<(), AgentError> {
        let Some(pieces) = &mut self.pieces else {
            return Ok(());
        };
        let Pieces { bytes, list, .. } = std::mem::take(pieces);
        match list.is_empty() {
            true => Ok(()),
            false => outbox.pieces(self.stream, self.offset - bytes, list),
        }
    }
}

impl Worker<'_> {
    /// The version of a file that the spare has at a place, if a delta can start from it.
    pub(super) fn former(
        &self,
        place: &Place,
        known: Option<&Known>,
    ) -> Result<Option<Former>, AgentError> {
        let content = known.and_then(|known| known.entry.content());
        let is_understood = self.scan.spoken >= version::DELTA;
        let Some((size, hash)) = content.filter(|_| is_understood) else {
            return Ok(None);
        };
        if size <= limits::INLINE_BYTES as u64 {
            return Ok(None);
        }
        let signature = self.base.signature(place, hash)?;
        Ok(signature.map(|signature| Former {
            place: place.clone(),
            signature,
        }))
    }

    /// A file that a new one may be another version of: one of the same kind in the same directory. Repositories and
    /// archives are packed anew under another name each time.
    pub(super) fn kin(&self, place: &Place, size: u64) -> Result<Option<Former>, AgentError> {
        let is_understood = self.scan.spoken >= version::DELTA;
        if !is_understood || self.scan.base_is_empty || size < KIN_BYTES {
            return Ok(None);
        }
        let Some(ending) = ending(place.name.as_bytes()) else {
            return Ok(None);
        };
        let kin = self.base.largest_signed(place.parent, ending)?;
        Ok(kin.map(|(name, signature)| Former {
            place: Place::new(place.parent, name),
            signature,
        }))
    }

    /// Remembers what a later version of a file can be compared with.
    pub(super) fn remember(&self, place: &Place, contents: &Contents) -> Result<(), AgentError> {
        let signature = match (&contents.signature, &contents.small) {
            (Some(signature), _) => signature.to_bytes(),
            (None, Some(small)) => small.to_bytes(),
            (None, None) => return Ok(()),
        };
        if !self.scan.base_is_empty && self.base.has_signature(place, contents.hash)? {
            return Ok(());
        }
        let index = self.scan.index;
        index.remember_signature(place, contents.hash, &signature)
    }

    /// Sends a content that was hashed before as a delta; `None` if the file is no longer the same.
    pub(super) fn send_delta(
        &mut self,
        file: &File,
        contents: &Contents,
        new: &Signature,
        former: &Former,
    ) -> Result<Option<u64>, AgentError> {
        let mut finder = Finder::new(&former.signature);
        let spoken = self.scan.spoken;
        let mut delta = Delta::begin(&mut self.outbox, &former.place, spoken)?;
        let mut same = 0;
        for stretch in delta::differing(&former.signature, new) {
            delta.copy(&mut self.outbox, same, stretch.start - same)?;
            same = stretch.end;
            match self.send_stretch(file, new, stretch, &mut delta, &mut finder) {
                Ok(true) => {}
                Err(AgentError::Tree(error)) if !is_about_entry(&error) => {
                    return Err(error.into());
                }
                Ok(false) | Err(AgentError::Tree(_)) => {
                    self.outbox.abort(delta.stream)?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        delta.copy(&mut self.outbox, same, contents.size - same)?;
        delta.flush(&mut self.outbox)?;
        self.outbox
            .end(delta.stream, contents.size, contents.hash)?;
        self.note_delta(&delta);
        Ok(Some(delta.stream))
    }

    /// Counts one that is complete.
    pub(super) fn note_delta(&mut self, delta: &Delta) {
        let tally = &mut self.findings.tally;
        tally.deltas += 1;
        tally.bytes_kept += delta.copied_bytes;
    }

    /// Sends a stretch that is not at the same offset in the base; `false` if it is not what was hashed any more.
    fn send_stretch(
        &mut self,
        file: &File,
        new: &Signature,
        stretch: Range<u64>,
        delta: &mut Delta,
        finder: &mut Finder,
    ) -> Result<bool, AgentError> {
        let mut offset = stretch.start;
        while offset < stretch.end {
            self.scan.context.cancel.check()?;
            self.scan.context.pace.breathe(&self.scan.context.cancel)?;
            let wanted = (stretch.end - offset).min(limits::BLOCK_BYTES as u64) as usize;
            // First: what becomes a hole after this is read as zeros, and is not what was hashed.
            let extents = delta.extents.within(file, offset..offset + wanted as u64)?;
            self.buffer.resize(wanted, 0);
            let read = content::read_at(file, offset, &mut self.buffer)?;
            if read < wanted || !is_as_hashed(new, offset, &self.buffer) {
                return Ok(false);
            }
            for (start, length) in extents {
                let data = (start - offset) as usize..(start - offset + length) as usize;
                if start > delta.offset + finder.held_bytes() {
                    finder.end(&mut self.outbox, delta)?;
                    delta.hole_to(&mut self.outbox, start)?;
                }
                finder.feed(&mut self.outbox, delta, &self.buffer[data])?;
            }
            offset += wanted as u64;
        }
        finder.end(&mut self.outbox, delta)?;
        delta.hole_to(&mut self.outbox, stretch.end)?;
        Ok(true)
    }
}

/// What a name ends with from its last dot on, if it begins before that.
fn ending(name: &[u8]) -> Option<&[u8]> {
    let dot = name.iter().rposition(|&byte| byte == b'.')?;
    (dot > 0 && dot + 1 < name.len()).then(|| &name[dot..])
}

fn budget() -> Budget {
    if cfg!(test) {
        // What a test finds must not depend on how fast the machine is, or how the code was built.
        return Budget::new(|| Duration::ZERO);
    }
    // A machine that has other work to do is no reason to find less.
    Budget::new(clock::thread_time)
}

/// Whether data that starts with a group has the sums of its groups. A group that is cut off at the end of a buffer is
/// not looked at: the spare compares the whole.
fn is_as_hashed(new: &Signature, offset: u64, data: &[u8]) -> bool {
    let group_size = usize::try_from(new.group_size()).unwrap_or(usize::MAX);
    let mut at = offset;
    data.chunks(group_size).all(|group| {
        let is_whole = group.len() == group_size || at + group.len() as u64 == new.size();
        let is_as_hashed = !is_whole || new.has_at(at, group);
        at += group.len() as u64;
        is_as_hashed
    })
}

/// Searches what differs, as long as that is worth it.
pub(super) struct Finder {
    /// `None` where there is nothing to find.
    search: Option<Search>,
    /// Bytes that the search has not judged yet.
    held: Vec<u8>,
    ops: Vec<Op>,
    /// Bytes fed since something was found.
    barren: u64,
}

impl Finder {
    pub(super) fn new(former: &Signature) -> Self {
        Self {
            search: Search::new(former, budget()),
            held: Vec::new(),
            ops: Vec::new(),
            barren: 0,
        }
    }

    /// Takes the next bytes of a stretch that differs, and tells what is known of it by now.
    pub(super) fn feed(
        &mut self,
        outbox: &mut Outbox,
        delta: &mut Delta,
        data: &[u8],
    ) -> Result<(), AgentError> {
        let number = self.barren / limits::BLOCK_BYTES as u64;
        self.barren += data.len() as u64;
        let is_skipped = self.barren > BARREN_BYTES && !number.is_multiple_of(SAMPLED);
        if is_skipped || self.search.is_none() {
            self.end(outbox, delta)?;
            return delta.literal(outbox, data);
        }
        let Some(search) = &mut self.search else {
            return Ok(());
        };
        self.held.extend_from_slice(data);
        search.feed(data, &mut self.ops);
        // What it knows may be as long as the file.
        search.release(&mut self.ops);
        self.tell(outbox, delta)
    }

    /// Bytes fed that are not told yet.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held.len() as u64
    }

    /// Tells the rest of the stretch.
    pub(super) fn end(&mut self, outbox: &mut Outbox, delta: &mut Delta) -> Result<(), AgentError> {
        if let Some(search) = &mut self.search {
            search.end(&mut self.ops);
        }
        self.tell(outbox, delta)
    }

    fn tell(&mut self, outbox: &mut Outbox, delta: &mut Delta) -> Result<(), AgentError> {
        let mut told = 0;
        for op in self.ops.drain(..) {
            match op {
                Op::Literal { length } => {
                    let end = told + length as usize;
                    delta.literal(outbox, &self.held[told..end])?;
                    told = end;
                }
                Op::Copy { from, length } => {
                    self.barren = 0;
                    delta.copy(outbox, from, length)?;
                    told += length as usize;
                }
            }
        }
        self.held.drain(..told);
        Ok(())
    }
}
