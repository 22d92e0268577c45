//! The threads of an upload: one routes frames, some stage contents, one brings the shadow up to date, and the
//! session's own writes the rows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use understudy_protocol::message::Commit;
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{Frame, Message, ProtocolError, version};
use understudy_tree::{Directory, Lacking};

use crate::catalog::{Catalog, Telling, Upload};
use crate::cycle::Stopwatch;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::flushing::{StagedBytes, flush};
use crate::keeping::Keeping;
use crate::leftovers::{self, Leftovers};
use crate::recall::CaughtUp;
use crate::resolve::Base;
use crate::space::Reserve;
use crate::stage::{Numbers, Staged, Stager};
use crate::streams::{Streams, Writer};
use crate::waiting::Waiting;

/// Frames that wait for one worker; each is at most about 1 MiB.
const QUEUE: usize = 4;
/// Numbers of the messages that are handed to workers: streams, those with a base, what is fuzzy, and changes.
const STREAM_NUMBERS: std::ops::RangeInclusive<u8> = 3..=5;
const FUZZY: u8 = 6;
const DELTA_NUMBERS: std::ops::RangeInclusive<u8> = 7..=8;
const RESUME: u8 = 9;
const CHANGES: u8 = 11;

/// What an upload works on.
pub(crate) struct Ground<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) catalog: &'a Catalog,
    pub(crate) locked: &'a Locked,
    /// `None` where the agent knows of no leftovers.
    pub(crate) leftovers: Option<&'a Leftovers>,
    /// The version of the protocol.
    pub(crate) spoken: u32,
    pub(crate) reserve: Reserve,
    pub(crate) outgoing: &'a Outgoing,
}

/// Whether a frame is part of a change set.
pub(crate) fn is_change(frame: &Frame, spoken: u32) -> bool {
    let number = frame.number();
    is_staged(frame, spoken)
        || STREAM_NUMBERS.contains(&number)
        || spoken >= version::DELTA && DELTA_NUMBERS.contains(&number)
        || spoken >= version::RESUME && number == RESUME
}

/// Whether a frame becomes rows.
fn is_staged(frame: &Frame, spoken: u32) -> bool {
    frame.number() == CHANGES || frame.number() == FUZZY && Telling::of(spoken) == Telling::All
}

/// Stages everything from the frame `first` until the agent says `Commit`, while the shadow catches up.
pub(crate) fn stage(
    ground: &Ground<'_>,
    upload: &mut Upload<'_>,
    first: Frame,
    incoming: &mut Incoming,
    stopwatch: &mut Stopwatch,
) -> Result<Commit, ReceiverError> {
    let (streams, trouble) = (Streams::default(), Trouble::default());
    let (staged_bytes, caught_up) = (StagedBytes::default(), CaughtUp::default());
    let keeping = Keeping::new(&ground.dataset.control, ground.leftovers);
    let numbers = Numbers::new(upload.first_entry());
    let (spoken, reserve) = (ground.spoken, ground.reserve);
    let mut waiting = Waiting::new(incoming, ground.outgoing);
    let (dataset, locked) = (ground.dataset, ground.locked);
    let live = dataset.live()?;
    let base = upload.base().map(|base| base.snapshot.position.number);
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8);
    let mut readers = Vec::new();
    for _ in 0..=workers {
        readers.push(ground.catalog.reader()?);
    }
    let mut readers = readers.into_iter();
    let catching_up = readers.next().ok_or(ReceiverError::Worker)?;
    std::thread::scope(|scope| {
        let (staged_sender, staged) = sync_channel(2 * workers);
        let mut queues = Vec::new();
        for reader in readers {
            let (queue, jobs) = sync_channel(QUEUE);
            queues.push(queue);
            let worker = Worker {
                dataset: ground.dataset,
                streams: &streams,
                trouble: &trouble,
                staged_bytes: &staged_bytes,
                keeping: &keeping,
                caught_up: &caught_up,
                spoken,
            };
            let (numbers, staged, live) = (numbers.clone(), staged_sender.clone(), live.as_ref());
            scope.spawn(move || worker.run(&jobs, &staged, &reader, base.zip(live), numbers));
        }
        drop(staged_sender);
        let catch_up = scope.spawn(|| caught_up.catch_up(dataset, catching_up, locked));
        let router = scope.spawn(|| route(first, &mut waiting, spoken, queues, &streams, &trouble));
        scope.spawn(|| {
            flush(
                dataset,
                reserve,
                &staged_bytes,
                &keeping,
                &streams,
                &trouble,
            );
        });
        write_rows(upload, &staged, &streams, &trouble);
        staged_bytes.ended.store(true, Ordering::Release);
        let commit = router.join().map_err(|_| ReceiverError::Worker)?;
        let (result, elapsed) = catch_up.join().map_err(|_| ReceiverError::Worker)?;
        stopwatch.add("catch_up", elapsed);
        match trouble.take() {
            // It may have waited for the shadow in vain.
            Some(ReceiverError::Worker) => result.and(Err(ReceiverError::Worker)),
            Some(error) => Err(error),
            None => result.and(commit),
        }
    })
}

/// What a worker gets.
enum Job {
    /// With the number of the frame within the upload.
    Rows(Frame, u64),
    Stream(Message),
}

/// The first error of any thread; the others stop when they see it.
#[derive(Default)]
pub(crate) struct Trouble {
    is_there: AtomicBool,
    first: Mutex<Option<ReceiverError>>,
}

impl Trouble {
    pub(crate) fn report(&self, error: ReceiverError, streams: &Streams) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        self.is_there.store(true, Ordering::Release);
        streams.give_up();
    }

    fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<ReceiverError> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Hands frames to workers until the commit; returns it.
#[expect(
    clippy::needless_pass_by_value,
    reason = "workers end when the queues are dropped"
)]
fn route(
    first: Frame,
    waiting: &mut Waiting<'_>,
    spoken: u32,
    queues: Vec<SyncSender<Job>>,
    streams: &Streams,
    trouble: &Trouble,
) -> Result<Commit, ReceiverError> {
    let result = route_frames(first, waiting, spoken, &queues, streams, trouble);
    if result.as_ref().is_err_and(leftovers::is_interruption) {
        // What has arrived is staged all the same: the next upload need not send it.
        return result;
    }
    if result.is_err() {
        // Wakes workers that wait for streams which will not come.
        trouble.is_there.store(true, Ordering::Release);
        streams.give_up();
    }
    result
}

fn route_frames(
    first: Frame,
    waiting: &mut Waiting<'_>,
    spoken: u32,
    queues: &[SyncSender<Job>],
    streams: &Streams,
    trouble: &Trouble,
) -> Result<Commit, ReceiverError> {
    let mut frame = first;
    let mut turn = 0;
    for number in 0.. {
        if trouble.is_there() {
            return Err(ReceiverError::Worker);
        }
        if is_staged(&frame, spoken) {
            turn = (turn + 1) % queues.len();
            queues[turn]
                .send(Job::Rows(frame, number))
                .map_err(|_| ReceiverError::Worker)?;
        } else {
            let message = frame.decode()?;
            let stream = match &message {
                Message::StreamBlock(block) => block.stream,
                Message::StreamAbort(abort) => abort.stream,
                Message::StreamBase(base) if spoken >= version::DELTA => base.stream,
                Message::StreamCopy(copy) if spoken >= version::DELTA => copy.stream,
                Message::StreamResume(resume) if spoken >= version::RESUME => resume.stream,
                Message::StreamEnd(end) => {
                    streams.announce(end.stream, number)?;
                    end.stream
                }
                Message::Commit(commit) => return Ok(commit.clone()),
                Message::Failure(failure) => {
                    return Err(ProtocolError::Failed(failure.clone()).into());
                }
                other => {
                    return Err(ProtocolError::Unexpected {
                        got: other.name(),
                        wanted: "Changes or Commit",
                    }
                    .into());
                }
            };
            let worker = (stream % queues.len() as u64) as usize;
            queues[worker]
                .send(Job::Stream(message))
                .map_err(|_| ReceiverError::Worker)?;
        }
        frame = waiting.receive()?;
    }
    // More frames than a number can count.
    Err(ReceiverError::Worker)
}

/// One staging thread.
struct Worker<'a> {
    dataset: &'a Dataset,
    streams: &'a Streams,
    trouble: &'a Trouble,
    staged_bytes: &'a StagedBytes,
    keeping: &'a Keeping<'a>,
    caught_up: &'a CaughtUp,
    /// The version of the protocol.
    spoken: u32,
}

impl Worker<'_> {
    fn run(
        &self,
        jobs: &Receiver<Job>,
        staged: &SyncSender<Staged>,
        reader: &Catalog,
        base: Option<(u64, &Directory)>,
        numbers: Numbers,
    ) {
        let lacking = self.work(jobs, staged, reader, base, numbers);
        match lacking {
            Ok(lacking) if lacking == Lacking::default() => {}
            Ok(lacking) => {
                tracing::warn!(dataset = %self.dataset.name, ?lacking, "some owners, modes, attributes or devices cannot be set here; the catalog has them");
            }
            Err(error) => {
                self.trouble.report(error, self.streams);
                // Whoever fills the queue must not wait for ever.
                jobs.iter().for_each(drop);
            }
        }
    }

    fn work(
        &self,
        jobs: &Receiver<Job>,
        staged: &SyncSender<Staged>,
        reader: &Catalog,
        base: Option<(u64, &Directory)>,
        numbers: Numbers,
    ) -> Result<Lacking, ReceiverError> {
        let base = || base.map(|(at, live)| Base::new(reader, at, live));
        let mut stager = Stager::new(
            self.dataset,
            base(),
            self.streams,
            numbers,
            self.keeping,
            self.caught_up,
            self.spoken,
        )?;
        let mut writer = Writer::new(&self.dataset.control, base(), self.streams, self.keeping)?;
        for job in jobs {
            if self.trouble.is_there() {
                continue;
            }
            match job {
                Job::Rows(frame, number) => {
                    self.staged_bytes
                        .sum
                        .fetch_add(frame.wire_bytes(), Ordering::Relaxed);
                    let batch = stager.stage(&frame, number)?;
                    if staged.send(batch).is_err() {
                        return Err(ReceiverError::Worker);
                    }
                }
                Job::Stream(Message::StreamBlock(block)) => {
                    self.staged_bytes
                        .sum
                        .fetch_add(block.data.len() as u64, Ordering::Relaxed);
                    writer.block(&block)?;
                }
                Job::Stream(Message::StreamBase(base)) => writer.begin(&base)?,
                Job::Stream(Message::StreamResume(resume)) => writer.resume(&resume)?,
                Job::Stream(Message::StreamCopy(copy)) => {
                    writer.copy(&copy)?;
                    // Not before it was found to be within its base.
                    self.staged_bytes
                        .sum
                        .fetch_add(copy.length, Ordering::Relaxed);
                }
                Job::Stream(Message::StreamEnd(end)) => writer.end(&end)?,
                Job::Stream(Message::StreamAbort(abort)) => writer.abort(abort.stream)?,
                Job::Stream(_) => return Err(ReceiverError::Worker),
            }
        }
        writer.leave()?;
        Ok(stager.lacking())
    }
}

/// Writes the rows of everything staged, on the thread that owns the catalog.
fn write_rows(
    upload: &mut Upload<'_>,
    staged: &Receiver<Staged>,
    streams: &Streams,
    trouble: &Trouble,
) {
    for batch in staged {
        if trouble.is_there() {
            continue;
        }
        let written = (|| {
            batch
                .removals
                .iter()
                .try_for_each(|place| upload.remove(place))?;
            batch.puts.iter().try_for_each(|put| upload.put(put))?;
            upload.add_digest(&batch.digest);
            batch
                .fuzzy
                .iter()
                .try_for_each(|place| upload.tell_fuzzy(place))
        })();
        if let Err(error) = written {
            trouble.report(error, streams);
        }
    }
}
