//! Getting contents from the spare: asked for in windows, so that the spare always has something to send and this
//! side never more than it can hold. Small files are written by all processors, large ones as they come.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use understudy_protocol::message::{Given, StreamBlock, StreamEnd};
use understudy_protocol::{Bytes, Message, Place, ProtocolError};
use understudy_tree::Directory;
use understudy_tree::content::{self, HoleyHasher};

use super::asking::{Asked, Asking, Form};
use super::build::{Build, Held};
use super::changed::{self, Gain};
use super::flushing::Flushing;
use super::large::{self, Begun};
use super::telling::Telling;
use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;

/// Windows asked for and not yet answered.
const WINDOWS: usize = 2;
/// Batches of small files waiting to be written.
const WAITING: usize = 16;

/// Small files that came together, by their number in the plan.
type Batch = Vec<(usize, Bytes)>;

/// What is still to fetch, and what was; it outlives a connection.
#[derive(Debug)]
pub(super) struct Todo {
    /// Leaves in the order in which they are fetched.
    pub(super) needed: Vec<usize>,
    /// How much of `needed` was asked for in this connection.
    pub(super) next: usize,
    /// Which leaves are complete.
    done: Vec<AtomicBool>,
    /// Leaves of which what was here was wrong.
    pub(super) torn: HashSet<usize>,
    /// A tree that may have other versions of what is needed.
    pub(super) base: Option<Directory>,
    /// How useful that was.
    pub(super) gain: Gain,
    /// The large file that came last, and how much of it counts as done.
    counted: (usize, u64),
    /// Files that came.
    pub(super) files: u64,
    /// Bytes of content that came.
    pub(super) bytes: u64,
}

impl Todo {
    /// All of `needed`, of a plan with so many leaves.
    pub(super) fn new(needed: Vec<usize>, leaves: usize, base: Option<Directory>) -> Self {
        Self {
            needed,
            next: 0,
            done: (0..leaves).map(|_| AtomicBool::new(false)).collect(),
            torn: HashSet::new(),
            base,
            gain: Gain::default(),
            counted: (usize::MAX, 0),
            files: 0,
            bytes: 0,
        }
    }

    fn is_done(&self, number: usize) -> bool {
        self.done[number].load(Ordering::Acquire)
    }

    /// Forgets what was asked for: another connection begins.
    fn restart(&mut self) {
        let mut needed = std::mem::take(&mut self.needed);
        // What was torn stands there twice.
        let mut seen = HashSet::new();
        needed.retain(|&number| !self.is_done(number) && seen.insert(number));
        self.needed = needed;
        self.next = 0;
    }
}

/// Fetches what is still to fetch. What has come when it fails is not asked for again by the next call.
pub(super) fn fetch(
    conversation: &Conversation,
    build: &Build<'_>,
    todo: &mut Todo,
    telling: &mut Telling,
) -> Result<(), AgentError> {
    todo.restart();
    let (batches, waiting) = sync_channel::<Batch>(WAITING);
    let waiting = Mutex::new(waiting);
    let threads = thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 16);
    let mut done = std::mem::take(&mut todo.done);
    let flushing = Flushing::default();
    let result = thread::scope(|scope| {
        let done = &done;
        let ending = flushing.ending();
        let flusher = scope.spawn(|| flushing.run(build));
        let writers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| write_all(build, &waiting, done)))
            .collect();
        let mut fetching = Fetching {
            conversation,
            build,
            todo,
            done,
            asked: VecDeque::new(),
            begun: None,
            flushing: &flushing,
            telling,
        };
        let fetched = fetching.run(&batches);
        drop((batches, ending));
        let written = writers
            .into_iter()
            .map(|writer| {
                writer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .fold(Ok(()), Result::and);
        let flushed = flusher
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A writer's error is the reason why nobody took a batch, a flusher's why nothing more was fetched.
        flushed.and(written).and(fetched)
    });
    std::mem::swap(&mut todo.done, &mut done);
    result
}

fn write_all(
    build: &Build<'_>,
    waiting: &Mutex<Receiver<Batch>>,
    done: &[AtomicBool],
) -> Result<(), AgentError> {
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
            done[number].store(true, Ordering::Release);
            build.context.progress.done(1, bytes.len() as u64);
        }
    }
}

/// The way through the list of what is needed.
pub(super) struct Fetching<'a> {
    pub(super) conversation: &'a Conversation,
    pub(super) build: &'a Build<'a>,
    pub(super) todo: &'a mut Todo,
    done: &'a [AtomicBool],
    /// Asked for and not given yet, window by window.
    pub(super) asked: VecDeque<VecDeque<Asked>>,
    /// That of which the rest was asked for.
    pub(super) begun: Option<Begun>,
    flushing: &'a Flushing,
    pub(super) telling: &'a mut Telling,
}

impl Fetching<'_> {
    fn run(&mut self, batches: &SyncSender<Batch>) -> Result<(), AgentError> {
        loop {
            while self.asked.len() < WINDOWS
                && self.todo.next < self.todo.needed.len()
                && self.ask()? == Asking::Goes
            {}
            if self.asked.is_empty() {
                return Ok(());
            }
            self.flushing.wait(self.build)?;
            if self.flushing.has_failed() {
                // The flusher's own error is told instead.
                return Err(AgentError::Interrupted);
            }
            match self.hear()? {
                Message::Given(given) => {
                    let batch = self.expected(given)?;
                    if batches.send(batch).is_err() {
                        // The writers' own error is told instead.
                        return Err(AgentError::Interrupted);
                    }
                }
                Message::GivenStream(given) => {
                    let asked = self.take(&given.place)?;
                    self.stream(asked, given.stream)?;
                }
                other => return Err(unexpected(&other, "Given")),
            }
        }
    }

    /// The next answer. The spare is told how far this is now and then.
    fn hear(&mut self) -> Result<Message, AgentError> {
        self.telling
            .tell(self.conversation, &self.build.context.progress)?;
        self.conversation.hear()
    }

    fn expected(&mut self, given: Given) -> Result<Batch, AgentError> {
        if given.contents.is_empty() {
            return Err(ProtocolError::malformed("Given", "it gives nothing").into());
        }
        given
            .contents
            .into_iter()
            .map(|(place, bytes)| {
                let asked = self.take(&place)?;
                if asked.from > 0 {
                    return Err(ProtocolError::malformed("Given", "a rest is no small file").into());
                }
                self.todo.files += 1;
                self.todo.bytes += bytes.0.len() as u64;
                Ok((asked.number, bytes))
            })
            .collect()
    }

    /// What must come next, which is the leaf at `place`.
    fn take(&mut self, place: &Place) -> Result<Asked, AgentError> {
        let expected = self.asked.front_mut().and_then(VecDeque::pop_front);
        while self.asked.front().is_some_and(VecDeque::is_empty) {
            self.asked.pop_front();
        }
        expected
            .filter(|asked| self.build.plan.leaves[asked.number].place == *place)
            .ok_or_else(|| {
                let reason = format!("{place:?} was not asked for next");
                ProtocolError::malformed("Given", reason).into()
            })
    }

    /// Writes the stream that follows.
    fn stream(&mut self, asked: Asked, stream: u64) -> Result<(), AgentError> {
        let leaf = &self.build.plan.leaves[asked.number];
        let mut held = Held::default();
        let (file, mut hasher) = match self.begun.take() {
            Some(Begun { file, hasher }) if asked.from > 0 => (file, hasher),
            _ => (
                large::create(self.build, &mut held, leaf)?,
                HoleyHasher::default(),
            ),
        };
        self.count_beginning(asked);
        let base = match (&self.todo.base, asked.form) {
            (Some(base), Form::Changed) => changed::open(self.build, base, leaf),
            _ => None,
        };
        let mut is_lost = false;
        loop {
            self.flushing.wait(self.build)?;
            match self.hear()? {
                Message::StreamBlock(block) if block.stream == stream => {
                    self.block(&file, &mut hasher, &block, asked)?;
                }
                Message::StreamCopy(copy)
                    if copy.stream == stream && asked.form == Form::Changed =>
                {
                    changed::check(&copy, &hasher, leaf.entry.size_bytes())?;
                    large::hole(self.build, &mut hasher, copy.offset)?;
                    // What cannot be copied any more is fetched in the end.
                    is_lost |= base.as_ref().is_none_or(|(base, _)| {
                        changed::copy(base, &file, &mut hasher, &copy).is_err()
                    });
                    large::hole(self.build, &mut hasher, copy.offset + copy.length)?;
                    self.count_copied(asked, hasher.position());
                }
                Message::StreamEnd(StreamEnd {
                    stream: ended,
                    size,
                    ..
                }) if ended == stream => {
                    if leaf.entry.size_bytes() != size {
                        return Err(self.build.damaged(leaf));
                    }
                    self.count(asked, size, 0);
                    content::set_size(&file, size)?;
                    large::hole(self.build, &mut hasher, size)?;
                    if is_lost || leaf.entry.content() != Some((size, hasher.finish(size))) {
                        return self.wrong(asked, size);
                    }
                    large::finish(self.build, &mut held, &file, leaf)?;
                    self.done[asked.number].store(true, Ordering::Release);
                    self.todo.files += 1;
                    self.build.context.progress.done(1, 0);
                    return Ok(());
                }
                other => return Err(unexpected(&other, "StreamBlock")),
            }
        }
    }

    /// The hash is not right. If a part was here already that may be why, and the whole is fetched.
    fn wrong(&mut self, asked: Asked, size: u64) -> Result<(), AgentError> {
        let leaf = &self.build.plan.leaves[asked.number];
        if asked.from == 0 && asked.form == Form::Full {
            return Err(self.build.damaged(leaf));
        }
        tracing::info!(
            "what was here of `{}` is not what it seemed to be: it is fetched whole",
            self.build.plan.told(&self.build.plan.path(leaf))
        );
        self.todo.torn.insert(asked.number);
        self.todo.needed.push(asked.number);
        self.todo.counted = (usize::MAX, 0);
        self.build.context.progress.expect(0, size);
        Ok(())
    }

    /// What is here already counts as done, but not as fetched, unless it came in this run.
    fn count_beginning(&mut self, asked: Asked) {
        let (number, counted) = self.todo.counted;
        let counted = if number == asked.number { counted } else { 0 };
        let progress = &self.build.context.progress;
        match asked.from.checked_sub(counted) {
            Some(found) => progress.found(0, found),
            // The file is shorter than what came: it is fetched once more.
            None => progress.expect(0, counted - asked.from),
        }
        self.todo.counted = (asked.number, asked.from);
    }

    /// The content is copied up to `position`: it was here, and did not come.
    fn count_copied(&mut self, asked: Asked, position: u64) {
        let copied = position.saturating_sub(self.todo.counted.1);
        self.todo.counted = (asked.number, position);
        self.todo.gain.found_same(copied);
        self.build.context.progress.found(0, copied);
    }

    /// The content is complete up to `position`, and so many bytes came of it: the rest are holes, which did not come.
    fn count(&mut self, asked: Asked, position: u64, came: u64) {
        let passed = position.saturating_sub(self.todo.counted.1);
        let holes = passed.saturating_sub(came);
        self.todo.counted = (asked.number, position);
        self.todo.bytes += came;
        if asked.form == Form::Changed {
            self.todo.gain.found_other(came);
        }
        let progress = &self.build.context.progress;
        progress.done(0, passed - holes);
        progress.found(0, holes);
    }

    fn block(
        &mut self,
        file: &File,
        hasher: &mut HoleyHasher,
        block: &StreamBlock,
        asked: Asked,
    ) -> Result<(), AgentError> {
        // What lies before it would be hashed as zeros, however far away it is.
        let size = self.build.plan.leaves[asked.number].entry.size_bytes();
        let is_within = block.data.len() as u64 <= size.saturating_sub(block.offset);
        if block.offset < hasher.position() || !is_within {
            let why = "a block before the end of the one before it, or beyond that of the file";
            return Err(ProtocolError::malformed("StreamBlock", why).into());
        }
        content::write_at(file, block.offset, &block.data)?;
        large::hole(self.build, hasher, block.offset)?;
        hasher.update(block.offset, &block.data);
        self.count(asked, hasher.position(), block.data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_torn_is_asked_for_once_on_another_connection() {
        let mut todo = Todo::new(vec![4, 2, 7], 9, None);
        todo.next = 3;
        todo.torn.insert(2);
        todo.needed.push(2);
        todo.done[4].store(true, Ordering::Release);
        todo.restart();
        assert_eq!((todo.needed, todo.next), (vec![2, 7], 0));
    }
}
