//! One upload: frames in, staged files and an intent out, then the commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use understudy_protocol::message::{Begin, Commit, Committed, Confirm, Confirmed, Ready};
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{Frame, Message, Position, ProtocolError, Snapshot};
use understudy_tree::{Directory, Lacking, crash_point};

use crate::catalog::{Catalog, Recorded, Upload};
use crate::cycle::{self, Stopwatch};
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::error::ReceiverError;
use crate::serve::{Deletions, SessionOptions};
use crate::stage::{Numbers, Staged, Stager};
use crate::store::Store;
use crate::streams::{Streams, Writer};
use crate::{give, recover};

/// Frames that wait for one worker; each is at most about 1 MiB.
const QUEUE: usize = 4;
/// Numbers of the messages that only the upload's router looks at before they are decoded.
const STREAM_NUMBERS: std::ops::RangeInclusive<u8> = 3..=5;
const CHANGES: u8 = 11;
/// A main that lost everything looks like this: nothing but the roots.
const ONLY_ROOTS: u64 = 2;

/// Serves a session that began with `Begin`.
pub(crate) fn serve(
    store: &Store,
    begin: &Begin,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
    options: &SessionOptions,
) -> Result<(), ReceiverError> {
    let dataset = store.ensure_dataset(&begin.dataset)?;
    let locked = dataset.lock()?;
    let catalog = dataset.catalog(&locked)?;
    recover::recover(&dataset, &catalog, &locked)?;
    let position = catalog.head()?.map(|head| head.snapshot.position);
    outgoing.send_message(&Message::Ready(Ready { position }))?;
    crash_point!("receiver.begun");
    loop {
        let frame = match incoming.receive() {
            // The agent has what it wanted.
            Err(ProtocolError::Cut) => return Ok(()),
            frame => frame?,
        };
        if frame.number() == CHANGES || STREAM_NUMBERS.contains(&frame.number()) {
            let session = Session {
                dataset: &dataset,
                catalog: &catalog,
                locked: &locked,
                options,
            };
            return session.receive(frame, incoming, outgoing);
        }
        match frame.decode()? {
            Message::ReadManifest(request) => {
                give::manifest(&dataset, &request, outgoing).map(drop)?
            }
            Message::Confirm(confirm) => confirm_newest(&catalog, &confirm, outgoing)?,
            Message::Commit(commit) => {
                let session = Session {
                    dataset: &dataset,
                    catalog: &catalog,
                    locked: &locked,
                    options,
                };
                let upload = catalog.upload()?;
                return session.commit(upload, &commit, Stopwatch::default(), outgoing);
            }
            Message::Failure(failure) => return Err(ProtocolError::Failed(failure).into()),
            other => {
                return Err(ProtocolError::Unexpected {
                    got: other.name(),
                    wanted: "Changes, Commit or Confirm",
                }
                .into());
            }
        }
    }
}

fn confirm_newest(
    catalog: &Catalog,
    confirm: &Confirm,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let Some(head) = catalog
        .head()?
        .filter(|head| head.snapshot.position == confirm.position)
    else {
        return Err(ReceiverError::OutOfStep(
            "the agent confirms a snapshot that is not the newest".to_owned(),
        ));
    };
    catalog.confirm(as_of(now_seconds(), confirm.elapsed_milliseconds))?;
    outgoing.send_message(&Message::Confirmed(Confirmed {
        snapshot: head.snapshot,
    }))?;
    Ok(())
}

/// The begin of the capture by the receiver's clock; rounded down, so that lag is never told too small.
fn as_of(now_seconds: i64, elapsed_milliseconds: u64) -> i64 {
    now_seconds - i64::try_from(elapsed_milliseconds.div_ceil(1000)).unwrap_or(now_seconds)
}

struct Session<'a> {
    dataset: &'a Dataset,
    catalog: &'a Catalog,
    locked: &'a Locked,
    options: &'a SessionOptions,
}

/// What a worker gets.
enum Job {
    Changes(Frame),
    Stream(Message),
}

/// The first error of any thread; the others stop when they see it.
#[derive(Default)]
struct Trouble {
    is_there: AtomicBool,
    first: Mutex<Option<ReceiverError>>,
}

impl Trouble {
    fn report(&self, error: ReceiverError, streams: &Streams) {
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

impl Session<'_> {
    /// Receives a change set that begins with `first`, and commits it.
    fn receive(
        &self,
        first: Frame,
        incoming: &mut Incoming,
        outgoing: &Outgoing,
    ) -> Result<(), ReceiverError> {
        let result = self.receive_and_commit(first, incoming, outgoing);
        if result.is_err() {
            // Give the space back at once; what cannot be removed now is removed before the next upload.
            self.catalog.abandon();
            if let Err(error) = self.give_back() {
                tracing::warn!(dataset = %self.dataset.name, "cannot clean up after a failed upload: {error}");
            }
        }
        result
    }

    fn give_back(&self) -> Result<(), ReceiverError> {
        if self.catalog.pending()?.is_none() {
            self.dataset.clean()?;
        }
        self.catalog.shrink()
    }

    fn receive_and_commit(
        &self,
        first: Frame,
        incoming: &mut Incoming,
        outgoing: &Outgoing,
    ) -> Result<(), ReceiverError> {
        let mut stopwatch = Stopwatch::default();
        let started = Instant::now();
        if self.catalog.head()?.is_some() {
            self.catalog.index_contents()?;
        }
        let mut upload = self.catalog.upload()?;
        let commit = self.stage(&mut upload, first, incoming, &mut stopwatch)?;
        stopwatch.add("stage", started);
        self.commit(upload, &commit, stopwatch, outgoing)
    }

    /// Runs workers until the agent says `Commit`, while the shadow catches up.
    fn stage(
        &self,
        upload: &mut Upload<'_>,
        first: Frame,
        incoming: &mut Incoming,
        stopwatch: &mut Stopwatch,
    ) -> Result<Commit, ReceiverError> {
        let (streams, trouble) = (Streams::default(), Trouble::default());
        let numbers = Numbers::new(upload.first_entry());
        let live = self.dataset.live()?;
        let base = upload.base().map(|base| base.snapshot.position.number);
        let workers = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 8);
        let mut readers = Vec::new();
        for _ in 0..=workers {
            readers.push(self.catalog.reader()?);
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
                    dataset: self.dataset,
                    streams: &streams,
                    trouble: &trouble,
                };
                let (numbers, staged, live) =
                    (numbers.clone(), staged_sender.clone(), live.as_ref());
                scope.spawn(move || worker.run(&jobs, &staged, &reader, base.zip(live), numbers));
            }
            drop(staged_sender);
            let catch_up = scope.spawn(|| {
                let started = Instant::now();
                let result = cycle::catch_up(self.dataset, &catching_up, self.locked);
                drop(catching_up);
                (result, started.elapsed())
            });
            let router = scope.spawn(|| route(first, incoming, queues, &streams, &trouble));
            write_rows(upload, &staged, &streams, &trouble);
            let commit = router.join().map_err(|_| ReceiverError::Worker)?;
            let (caught_up, elapsed) = catch_up.join().map_err(|_| ReceiverError::Worker)?;
            stopwatch.add(
                "catch_up",
                Instant::now()
                    .checked_sub(elapsed)
                    .unwrap_or_else(Instant::now),
            );
            if let Some(error) = trouble.take() {
                return Err(error);
            }
            caught_up?;
            commit
        })
    }

    fn commit(
        &self,
        mut upload: Upload<'_>,
        commit: &Commit,
        mut stopwatch: Stopwatch,
        outgoing: &Outgoing,
    ) -> Result<(), ReceiverError> {
        let base = upload.base().map(|base| base.snapshot.position);
        if commit.base != base {
            return Err(ReceiverError::OutOfStep(
                "the upload starts from another snapshot than the spare's newest".to_owned(),
            ));
        }
        self.guard(&upload)?;
        stopwatch.time("stage_sync", || self.dataset.control.sync_file_system())?;
        crash_point!("receiver.staged");
        let now = now_seconds();
        let position = Position {
            epoch: base.map_or(1, |base| base.epoch),
            number: upload.number(),
            fingerprint: commit.fingerprint,
        };
        let pending = Recorded {
            snapshot: Snapshot {
                position,
                committed_seconds: now,
                entries: 0,
                bytes: 0,
            },
            as_of_seconds: as_of(now, commit.elapsed_milliseconds),
            first_entry: 0,
        };
        let pending = stopwatch.time("log", || upload.seal(pending))?;
        drop(upload);
        crash_point!("receiver.sealed");
        let committed = match cycle::commit(
            self.dataset,
            self.catalog,
            self.locked,
            &pending,
            &mut stopwatch,
        ) {
            Ok(committed) => committed,
            Err(error) => {
                if !recover::is_live(self.dataset, &pending)? {
                    self.catalog.roll_back(&pending)?;
                }
                return Err(error);
            }
        };
        let reply = Committed {
            snapshot: committed.snapshot,
            timings: stopwatch.into_timings(),
        };
        outgoing.send_message(&Message::Committed(reply))?;
        crash_point!("receiver.acknowledged");
        self.dataset.clean()?;
        self.catalog.checkpoint()
    }

    /// Absence never deletes: a source without any entry is a source that is not there.
    fn guard(&self, upload: &Upload<'_>) -> Result<(), ReceiverError> {
        let had = upload.base().map_or(0, |base| base.snapshot.entries);
        let is_emptied = upload.entries() <= 1 && had > ONLY_ROOTS;
        match self.options.deletions {
            Deletions::Guard if is_emptied => Err(ReceiverError::Refused(format!(
                "the source of dataset `{}` is empty now, the last snapshot has {had} entries; nothing was changed on the spare",
                self.dataset.name
            ))),
            _ => Ok(()),
        }
    }
}

/// Hands frames to workers until the commit; returns it.
fn route(
    first: Frame,
    incoming: &mut Incoming,
    queues: Vec<SyncSender<Job>>,
    streams: &Streams,
    trouble: &Trouble,
) -> Result<Commit, ReceiverError> {
    let result = route_frames(first, incoming, &queues, streams, trouble);
    if result.is_err() {
        // Wakes workers that wait for streams which will not come.
        trouble.is_there.store(true, Ordering::Release);
        streams.give_up();
    }
    result
}

fn route_frames(
    first: Frame,
    incoming: &mut Incoming,
    queues: &[SyncSender<Job>],
    streams: &Streams,
    trouble: &Trouble,
) -> Result<Commit, ReceiverError> {
    let mut frame = first;
    let mut turn = 0;
    loop {
        if trouble.is_there() {
            return Err(ReceiverError::Worker);
        }
        if frame.number() == CHANGES {
            turn = (turn + 1) % queues.len();
            queues[turn]
                .send(Job::Changes(frame))
                .map_err(|_| ReceiverError::Worker)?;
        } else {
            let message = frame.decode()?;
            let stream = match &message {
                Message::StreamBlock(block) => block.stream,
                Message::StreamAbort(abort) => abort.stream,
                Message::StreamEnd(end) => {
                    streams.announce(end.stream)?;
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
        frame = incoming.receive()?;
    }
}

/// One staging thread.
struct Worker<'a> {
    dataset: &'a Dataset,
    streams: &'a Streams,
    trouble: &'a Trouble,
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
        let base = base.map(|(at, live)| (reader, at, live));
        let mut stager = Stager::new(self.dataset, base, self.streams, numbers)?;
        let mut writer = Writer::new(&self.dataset.control, self.streams)?;
        for job in jobs {
            if self.trouble.is_there() {
                continue;
            }
            match job {
                Job::Changes(frame) => {
                    let batch = stager.stage(&frame)?;
                    if staged.send(batch).is_err() {
                        return Err(ReceiverError::Worker);
                    }
                }
                Job::Stream(Message::StreamBlock(block)) => writer.block(&block)?,
                Job::Stream(Message::StreamEnd(end)) => writer.end(&end)?,
                Job::Stream(Message::StreamAbort(abort)) => writer.abort(abort.stream)?,
                Job::Stream(_) => return Err(ReceiverError::Worker),
            }
        }
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
            Ok(())
        })();
        if let Err(error) = written {
            trouble.report(error, streams);
        }
    }
}
