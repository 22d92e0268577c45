//! Getting contents from the spare: asked for in windows, so that the spare always has something to send and this
//! side never more than it can hold. Small files are written by all processors, large ones as they come.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use understudy_protocol::message::{Given, StreamBlock, StreamEnd, Want};
use understudy_protocol::{Bytes, Message, Place};
use understudy_tree::content::{self, HoleyHasher};

use super::build::{Build, Held};
use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;

/// Files asked for at once.
const WINDOW_FILES: usize = 2000;
/// Bytes asked for at once; one file may be larger.
const WINDOW_BYTES: u64 = 32 << 20;
/// Windows asked for and not yet answered.
const WINDOWS: usize = 2;
/// Batches of small files waiting to be written.
const WAITING: usize = 16;

/// Small files that came together, by their number in the plan.
type Batch = Vec<(usize, Bytes)>;

/// Fetches the contents of the leaves `needed`; returns how many files and bytes.
pub(super) fn fetch(
    conversation: &Conversation,
    build: &Build<'_>,
    needed: &[usize],
) -> Result<(u64, u64), AgentError> {
    let (batches, waiting) = sync_channel::<Batch>(WAITING);
    let waiting = Mutex::new(waiting);
    let threads = thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 16);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| write_all(build, &waiting)))
            .collect();
        let mut fetching = Fetching {
            conversation,
            build,
            needed,
            asked: VecDeque::new(),
            next: 0,
            files: 0,
            bytes: 0,
        };
        let fetched = fetching.run(&batches);
        drop(batches);
        let written = writers
            .into_iter()
            .map(|writer| {
                writer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .fold(Ok(()), Result::and);
        // A writer's error is the reason why nobody took a batch.
        written
            .and(fetched)
            .map(|()| (fetching.files, fetching.bytes))
    })
}

fn write_all(build: &Build<'_>, waiting: &Mutex<Receiver<Batch>>) -> Result<(), AgentError> {
    let mut held = Held::default();
    loop {
        let batch = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(batch) = batch else { return Ok(()) };
        for (number, bytes) in batch {
            build.context.cancel.check()?;
            build.write(&mut held, number, &bytes)?;
            build.context.progress.done(1, bytes.len() as u64);
        }
    }
}

/// The way through the list of what is needed.
struct Fetching<'a> {
    conversation: &'a Conversation,
    build: &'a Build<'a>,
    needed: &'a [usize],
    /// Asked for and not given yet, window by window.
    asked: VecDeque<VecDeque<usize>>,
    /// How much of `needed` was asked for.
    next: usize,
    files: u64,
    bytes: u64,
}

impl Fetching<'_> {
    fn run(&mut self, batches: &SyncSender<Batch>) -> Result<(), AgentError> {
        loop {
            while self.asked.len() < WINDOWS && self.next < self.needed.len() {
                self.ask()?;
            }
            if self.asked.is_empty() {
                return Ok(());
            }
            match self.conversation.hear()? {
                Message::Given(given) => {
                    let batch = self.expected(given)?;
                    if batches.send(batch).is_err() {
                        // The writers' own error is told instead.
                        return Err(AgentError::Interrupted);
                    }
                }
                Message::GivenStream(given) => {
                    let number = self.take(&given.place)?;
                    self.stream(number, given.stream)?;
                }
                other => return Err(unexpected(&other, "Given")),
            }
        }
    }

    fn ask(&mut self) -> Result<(), AgentError> {
        let (mut window, mut bytes) = (VecDeque::new(), 0);
        while let Some(&number) = self.needed.get(self.next) {
            if window.len() >= WINDOW_FILES || bytes >= WINDOW_BYTES {
                break;
            }
            bytes += self.build.plan.leaves[number].entry.size_bytes();
            window.push_back(number);
            self.next += 1;
        }
        let places = window
            .iter()
            .map(|&number| self.build.plan.leaves[number].place.clone())
            .collect();
        self.asked.push_back(window);
        self.conversation.tell(&Message::Want(Want { places }))
    }

    fn expected(&mut self, given: Given) -> Result<Batch, AgentError> {
        given
            .contents
            .into_iter()
            .map(|(place, bytes)| Ok((self.take(&place)?, bytes)))
            .collect()
    }

    /// The leaf that must come next, which is the one at `place`.
    fn take(&mut self, place: &Place) -> Result<usize, AgentError> {
        let expected = self.asked.front_mut().and_then(VecDeque::pop_front);
        while self.asked.front().is_some_and(VecDeque::is_empty) {
            self.asked.pop_front();
        }
        match expected {
            Some(number) if self.build.plan.leaves[number].place == *place => {
                self.files += 1;
                self.bytes += self.build.plan.leaves[number].entry.size_bytes();
                Ok(number)
            }
            _ => Err(understudy_protocol::ProtocolError::malformed(
                "Given",
                format!("{place:?} was not asked for next"),
            )
            .into()),
        }
    }

    /// Writes the stream that follows.
    fn stream(&mut self, number: usize, stream: u64) -> Result<(), AgentError> {
        let leaf = &self.build.plan.leaves[number];
        let mut held = Held::default();
        let file = self
            .build
            .open(&mut held, leaf.branch)?
            .create_file(&leaf.place.name)?;
        let mut hasher = HoleyHasher::default();
        loop {
            match self.conversation.hear()? {
                Message::StreamBlock(block) if block.stream == stream => {
                    self.block(&file, &mut hasher, &block)?;
                }
                Message::StreamEnd(StreamEnd {
                    stream: ended,
                    size,
                    ..
                }) if ended == stream => {
                    if leaf.entry.size_bytes() != size || hasher.position() > size {
                        return Err(self.build.damaged(leaf));
                    }
                    content::set_size(&file, size)?;
                    if leaf.entry.content() != Some((size, hasher.finish(size))) {
                        return Err(self.build.damaged(leaf));
                    }
                    self.build.context.progress.done(1, 0);
                    return self.build.finish_file(&file, leaf);
                }
                other => return Err(unexpected(&other, "StreamBlock")),
            }
        }
    }

    fn block(
        &self,
        file: &File,
        hasher: &mut HoleyHasher,
        block: &StreamBlock,
    ) -> Result<(), AgentError> {
        if block.offset < hasher.position() {
            let why = "a block before the end of the one before it";
            return Err(understudy_protocol::ProtocolError::malformed("StreamBlock", why).into());
        }
        content::write_at(file, block.offset, &block.data)?;
        hasher.update(block.offset, &block.data);
        self.build.context.progress.done(0, block.data.len() as u64);
        Ok(())
    }
}
