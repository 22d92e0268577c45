//! Large contents that arrive in blocks, each written and hashed as it comes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Condvar, Mutex, PoisonError};

use understudy_protocol::ContentHash;
use understudy_protocol::message::{StreamBlock, StreamEnd};
use understudy_tree::Directory;
use understudy_tree::content::{self, HoleyHasher};

use crate::error::ReceiverError;
use crate::names;

/// Streams that may be under way at once: each holds a descriptor.
const OPEN: usize = 64;
/// Ended streams that may wait for their entry.
const WAITING: usize = 100_000;

/// Where a stream stands, shared by all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its end has arrived and is being worked on.
    Ending,
    /// It is whole: size and hash.
    Done(u64, ContentHash),
}

/// The streams of one upload.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// With the number of the frame that ended the stream.
    states: Mutex<HashMap<u64, (u64, State)>>,
    changed: Condvar,
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

    fn finish(&self, stream: u64, size: u64, hash: ContentHash) {
        if let Some((_, state)) = self.states().get_mut(&stream) {
            *state = State::Done(size, hash);
        }
        self.changed.notify_all();
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
    ) -> Result<(), ReceiverError> {
        let mut states = self.states();
        loop {
            match states.get(&stream) {
                Some((ended, State::Ending)) if *ended < frame => {
                    states = self
                        .changed
                        .wait(states)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Some((ended, State::Done(found_size, found_hash)))
                    if *ended < frame && (*found_size, *found_hash) == (size, hash) =>
                {
                    states.remove(&stream);
                    return Ok(());
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
    open: HashMap<u64, (File, HoleyHasher)>,
    streams: &'a Streams,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(control: &Directory, streams: &'a Streams) -> Result<Self, ReceiverError> {
        let directory = control
            .ensure_directory(&names::STAGING)?
            .ensure_directory(&names::STREAMS)?;
        Ok(Self {
            directory,
            open: HashMap::new(),
            streams,
        })
    }

    /// Writes a block.
    pub(crate) fn block(&mut self, block: &StreamBlock) -> Result<(), ReceiverError> {
        let (file, hasher) = self.file(block.stream)?;
        if block.offset < hasher.position() {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {} went backwards",
                block.stream
            )));
        }
        content::write_at(file, block.offset, &block.data)?;
        hasher.update(block.offset, &block.data);
        Ok(())
    }

    /// Ends a stream: its length and hash must be what was announced.
    pub(crate) fn end(&mut self, end: &StreamEnd) -> Result<(), ReceiverError> {
        // A content without any data has no block: it is all hole, or empty.
        self.file(end.stream)?;
        let Some((file, hasher)) = self.open.remove(&end.stream) else {
            return Err(ReceiverError::Worker);
        };
        if hasher.position() > end.size {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {} is longer than it says",
                end.stream
            )));
        }
        content::set_size(&file, end.size)?;
        if hasher.finish(end.size) != end.hash {
            return Err(ReceiverError::Misbehaved(format!(
                "stream {} does not have the hash it says",
                end.stream
            )));
        }
        self.streams.finish(end.stream, end.size, end.hash);
        Ok(())
    }

    /// Forgets a stream.
    pub(crate) fn abort(&mut self, stream: u64) -> Result<(), ReceiverError> {
        if self.open.remove(&stream).is_some() {
            self.directory.remove_file(&names::number(stream))?;
        }
        Ok(())
    }

    fn file(&mut self, stream: u64) -> Result<&mut (File, HoleyHasher), ReceiverError> {
        if !self.open.contains_key(&stream) {
            if self.open.len() >= OPEN {
                return Err(ReceiverError::Misbehaved(
                    "too many streams at once".to_owned(),
                ));
            }
            let file = self.directory.create_file(&names::number(stream))?;
            self.open.insert(stream, (file, HoleyHasher::default()));
        }
        self.open.get_mut(&stream).ok_or(ReceiverError::Worker)
    }
}
