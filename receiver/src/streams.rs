//! Large contents that arrive in blocks, or as differences to a file of the base: written and hashed as they come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use understudy_protocol::message::{StreamBase, StreamBlock, StreamCopy, StreamEnd, StreamResume};
use understudy_protocol::shown::size;
use understudy_protocol::{ContentHash, limits};
use understudy_tree::Directory;
use understudy_tree::content::{self, Extents};

use crate::arriving::{Arriving, Former, Manner, PATCHED_BYTES, Shape};
use crate::error::ReceiverError;
use crate::keeping::Keeping;
use crate::names;
use crate::resolve::Base;

/// Streams that may be under way at once: each holds a descriptor.
const OPEN: usize = 64;
/// Ended streams that may wait for their entry.
const WAITING: usize = 100_000;

/// Where a stream stands, shared by all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Its end has arrived and is being worked on.
    Ending,
    /// It is whole: size, hash, and what its file is.
    Done(u64, ContentHash, Shape),
}

/// The streams of one upload.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// With the number of the frame that ended the stream.
    states: Mutex<HashMap<u64, (u64, State)>>,
    changed: Condvar,
    /// Streams under way, of all workers.
    open: AtomicUsize,
    /// Bytes of holes so far: each costs as much to hash as one that was sent, and is told for nothing.
    holes: AtomicU64,
}

impl Streams {
    fn states(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (u64, State)>> {
        // The map is valid after any panic: every change is one insertion or removal.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a stream has arrived; entries that name it may follow.
    pub(crate) fn announce(&self, stream: u64, frame: u64) -> Result<(), ReceiverError> {
        let mut states = self.states();
        if states.len() >= WAITING || states.insert(stream, (frame, State::Ending)).is_some() {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {stream} ended twice, or too many wait"
            )));
        }
        Ok(())
    }

    fn finish(&self, end: &StreamEnd, shape: Shape) {
        if let Some((_, state)) = self.states().get_mut(&end.stream) {
            *state = State::Done(end.size, end.hash, shape);
        }
        self.changed.notify_all();
    }

    /// A hole of so many bytes is about to be hashed.
    fn count_hole(&self, bytes: u64) -> Result<(), ReceiverError> {
        let before = self.holes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= limits::HOLES_BYTES {
            return Ok(());
        }
        Err(ReceiverError::Quota(format!(
            "the files of one upload may have holes of {} in all, and these have more: nothing was changed",
            size(limits::HOLES_BYTES)
        )))
    }

    /// Forgets everything and wakes all who wait, after an error.
    pub(crate) fn give_up(&self) {
        self.states().clear();
        self.changed.notify_all();
    }

    /// Takes a stream for an entry that came in frame `frame`; waits until its last block is written.
    ///
    /// A stream must have ended in an earlier frame. So whoever waits waits for work that was handed out before
    /// its own, and nobody waits for ever.
    pub(crate) fn claim(
        &self,
        stream: u64,
        size: u64,
        hash: ContentHash,
        frame: u64,
    ) -> Result<Shape, ReceiverError> {
        let mut states = self.states();
        loop {
            match states.get(&stream) {
                Some((ended, State::Ending)) if *ended < frame => {
                    states = self
                        .changed
                        .wait(states)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Some((ended, State::Done(found_size, found_hash, shape)))
                    if *ended < frame && (*found_size, *found_hash) == (size, hash) =>
                {
                    let shape = shape.clone();
                    states.remove(&stream);
                    return Ok(shape);
                }
                _ => {
                    let text = format!("an entry names stream {stream}, which is not its content");
                    return Err(ReceiverError::Misbehaved(text));
                }
            }
        }
    }
}

/// The streams that one worker writes.
pub(crate) struct Writer<'a> {
    directory: Directory,
    base: Option<Base<'a>>,
    open: HashMap<u64, Arriving>,
    streams: &'a Streams,
    keeping: &'a Keeping<'a>,
}

impl<'a> Writer<'a> {
    /// `base` is there if there is a snapshot.
    pub(crate) fn new(
        control: &Directory,
        base: Option<Base<'a>>,
        streams: &'a Streams,
        keeping: &'a Keeping<'a>,
    ) -> Result<Self, ReceiverError> {
        let directory = control
            .ensure_directory(&names::STAGING)?
            .ensure_directory(&names::STREAMS)?;
        Ok(Self {
            directory,
            base,
            open: HashMap::new(),
            streams,
            keeping,
        })
    }

    /// Begins a stream that is a new version of a file of the base.
    pub(crate) fn begin(&mut self, begin: &StreamBase) -> Result<(), ReceiverError> {
        if self.open.contains_key(&begin.stream) {
            let stream = begin.stream;
            return Err(ReceiverError::Misbehaved(format!(
                "stream {stream} names its base late or twice"
            )));
        }
        let base = self.base.as_mut().ok_or_else(|| {
            ReceiverError::OutOfStep("a delta needs a snapshot, and there is none".to_owned())
        })?;
        // What the agent remembers may be wrong, and it has another way.
        let content = base.row(&begin.place)?.entry.content();
        let (size, hash) = content.ok_or_else(|| ReceiverError::bad_delta(begin.stream))?;
        let file = match base.open_file(&begin.place) {
            // Somebody removed it from the live tree: the whole file heals that.
            Err(ReceiverError::Tree(error)) if error.is_gone() => {
                let stream = begin.stream;
                return Err(ReceiverError::bad_delta(stream));
            }
            opened => opened?,
        };
        let arriving = self.arriving(begin.stream)?;
        let manner = if content::try_reflink(&file, &arriving.file) {
            Manner::Shared
        } else if size >= PATCHED_BYTES {
            Manner::LeftOut(Vec::new(), 0)
        } else {
            Manner::Copied
        };
        arriving.former = Some(Former {
            place: begin.place.clone(),
            file,
            size,
            hash,
            extents: Extents::default(),
            manner,
        });
        Ok(())
    }

    /// Begins a stream with what an interrupted one left.
    pub(crate) fn resume(&mut self, resume: &StreamResume) -> Result<(), ReceiverError> {
        let stream = resume.stream;
        let leftovers = self.keeping.leftovers.ok_or(ReceiverError::Worker)?;
        if self.open.contains_key(&stream) {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {stream} is resumed late or twice"
            )));
        }
        self.count()?;
        self.keeping.begin(stream)?;
        self.keeping.resume(resume)?;
        let name = names::number(stream);
        let (file, hasher) = leftovers.take_partial(resume, &self.directory, &name)?;
        let mut arriving = Arriving::new(file);
        arriving.hasher = hasher;
        self.keeping.note_position(stream, &mut arriving)?;
        self.open.insert(stream, arriving);
        Ok(())
    }

    /// Writes a block.
    pub(crate) fn block(&mut self, block: &StreamBlock) -> Result<(), ReceiverError> {
        let (keeping, streams) = (self.keeping, self.streams);
        let arriving = self.arriving(block.stream)?;
        streams.count_hole(arriving.hole_before(block.offset))?;
        arriving.pass_to(block.stream, block.offset)?;
        arriving.changes(block.offset..block.offset + block.data.len() as u64)?;
        arriving.take(block.offset, &block.data)?;
        if arriving.hasher.position() >= arriving.note_at {
            keeping.note_position(block.stream, arriving)?;
        }
        Ok(())
    }

    /// Copies a stretch from the base.
    pub(crate) fn copy(&mut self, copy: &StreamCopy) -> Result<(), ReceiverError> {
        let streams = self.streams;
        let arriving = self.arriving(copy.stream)?;
        streams.count_hole(arriving.hole_before(copy.offset))?;
        arriving.pass_to(copy.stream, copy.offset)?;
        let stays = copy.from == copy.offset;
        if !stays {
            // What moved is data to a patch: it reads the base while that is changed.
            arriving.changes(copy.offset..copy.offset + copy.length)?;
        }
        let former = arriving.former.as_ref().ok_or_else(|| {
            ReceiverError::Misbehaved(format!("stream {} copies, and has no base", copy.stream))
        })?;
        let end = copy.from + copy.length;
        if end > former.size {
            return Err(ReceiverError::bad_delta(copy.stream));
        }
        let is_there = stays && !matches!(former.manner, Manner::Copied);
        if !is_there && matches!(former.manner, Manner::Shared) {
            content::punch_hole(&arriving.file, copy.offset..copy.offset + copy.length)?;
        }
        arriving.take_copy(copy, is_there)
    }

    /// Ends a stream: its length and hash must be what was announced.
    pub(crate) fn end(&mut self, end: &StreamEnd) -> Result<(), ReceiverError> {
        // A content without any data has no block: it is all hole, or empty.
        self.arriving(end.stream)?;
        let Some(mut arriving) = self.take(end.stream) else {
            return Err(ReceiverError::Worker);
        };
        let stream = end.stream;
        if arriving.hasher.position() > end.size {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {stream} is longer than it says"
            )));
        }
        self.streams.count_hole(arriving.hole_before(end.size))?;
        arriving.pass_to(stream, end.size)?;
        if arriving.hasher.clone().finish(end.size) != end.hash {
            // The base may be damaged, or the two versions alike in a way that the agent's short sums do not tell.
            return Err(match arriving.former {
                Some(_) => ReceiverError::bad_delta(stream),
                None => ReceiverError::Misbehaved(format!(
                    "stream {stream} does not have the hash it says"
                )),
            });
        }
        let shape = arriving.finish(end)?;
        self.keeping.end(end, &shape)?;
        self.streams.finish(end, shape);
        Ok(())
    }

    /// Forgets a stream.
    pub(crate) fn abort(&mut self, stream: u64) -> Result<(), ReceiverError> {
        if self.take(stream).is_some() {
            self.directory.remove_file(&names::number(stream))?;
        }
        Ok(())
    }

    /// No more comes: what is under way may be carried on with by another upload.
    pub(crate) fn leave(&mut self) -> Result<(), ReceiverError> {
        for (stream, mut arriving) in self.open.drain() {
            self.streams.open.fetch_sub(1, Ordering::Relaxed);
            self.keeping.note_position(stream, &mut arriving)?;
        }
        Ok(())
    }

    /// Counts a stream that begins.
    fn count(&self) -> Result<(), ReceiverError> {
        if self.streams.open.fetch_add(1, Ordering::Relaxed) >= OPEN {
            return Err(ReceiverError::Misbehaved(
                "too many streams at once".to_owned(),
            ));
        }
        Ok(())
    }

    fn take(&mut self, stream: u64) -> Option<Arriving> {
        let taken = self.open.remove(&stream);
        if taken.is_some() {
            self.streams.open.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    fn arriving(&mut self, stream: u64) -> Result<&mut Arriving, ReceiverError> {
        if !self.open.contains_key(&stream) {
            self.count()?;
            self.keeping.begin(stream)?;
            let file = self.directory.create_file(&names::number(stream))?;
            self.open.insert(stream, Arriving::new(file));
        }
        self.open.get_mut(&stream).ok_or(ReceiverError::Worker)
    }
}
