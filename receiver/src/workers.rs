//! The threads of an upload: one routes frames (`routing`), some stage contents, one brings the shadow up to date, and the
//! session's own writes the rows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use understudy_protocol::message::Commit;
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{Frame, Message};
use understudy_tree::{Directory, Lacking};

use crate::catalog::{Catalog, Upload};
use crate::cycle::Stopwatch;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::flushing::{StagedBytes, flush};
use crate::keeping::Keeping;
use crate::leftovers::Leftovers;
use crate::quota::Budget;
use crate::recall::CaughtUp;
use crate::resolve::Base;
use crate::routing::{Job, route};
use crate::space::Reserve;
use crate::stage::{Numbers, Staged, Stager};
use crate::streams::{Streams, Writer};
use crate::waiting::Waiting;

/// What waits for one worker: so many times what is handed over together, each about 1 MiB at most.
const QUEUE: usize = 4;

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
    /// What the main may still bring, if that is limited.
    pub(crate) budget: Option<&'a Budget<'a>>,
    pub(crate) outgoing: &'a Outgoing,
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
    let spoken = ground.spoken;
    let room = (ground.reserve, ground.budget);
    let mut waiting = Waiting::new(ground.dataset, incoming, ground.outgoing);
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
    let alarm = || Alarm {
        trouble: &trouble,
        streams: &streams,
        staged_bytes: &staged_bytes,
    };
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
        let router = scope.spawn(|| {
            let _alarm = alarm();
            route(first, &mut waiting, spoken, queues, &streams, &trouble)
        });
        scope.spawn(|| {
            flush(dataset, room, &staged_bytes, &keeping, &streams, &trouble);
        });
        let _alarm = alarm();
        write_rows(upload, &staged, &staged_bytes, &streams, &trouble);
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
        self.stop(streams);
    }

    /// Makes everybody stop; the error is told elsewhere.
    pub(crate) fn stop(&self, streams: &Streams) {
        self.is_there.store(true, Ordering::Release);
        streams.give_up();
    }

    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<ReceiverError> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Whoever panics leaves nobody waiting: the session must end, and with it the lock of the dataset.
struct Alarm<'a> {
    trouble: &'a Trouble,
    streams: &'a Streams,
    staged_bytes: &'a StagedBytes,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.trouble.stop(self.streams);
            self.staged_bytes.ended.store(true, Ordering::Release);
        }
    }
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
        jobs: &Receiver<Vec<Job>>,
        staged: &SyncSender<Staged>,
        reader: &Catalog,
        base: Option<(u64, &Directory)>,
        numbers: Numbers,
    ) {
        let _alarm = Alarm {
            trouble: self.trouble,
            streams: self.streams,
            staged_bytes: self.staged_bytes,
        };
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
        jobs: &Receiver<Vec<Job>>,
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
        for job in jobs.iter().flatten() {
            if self.trouble.is_there() {
                continue;
            }
            match job {
                Job::Rows(frame, number) => {
                    self.staged_bytes
                        .sum
                        .fetch_add(frame.wire_bytes(), Ordering::Relaxed);
                    let batch = stager.stage(&frame, number)?;
                    self.staged_bytes.add(&batch);
                    if staged.send(batch).is_err() {
                        return Err(ReceiverError::Worker);
                    }
                }
                Job::Stream(message) => self.write(&mut writer, message)?,
            }
        }
        writer.leave()?;
        Ok(stager.lacking())
    }

    fn write(&self, writer: &mut Writer<'_>, message: Message) -> Result<(), ReceiverError> {
        match message {
            Message::StreamBlock(block) => {
                self.staged_bytes.add_bytes(block.data.len() as u64);
                writer.block(&block)
            }
            Message::StreamBase(base) => writer.begin(&base),
            Message::StreamResume(resume) => {
                writer.resume(&resume)?;
                let taken = &self.staged_bytes.taken;
                taken.fetch_add(resume.length, Ordering::Relaxed);
                Ok(())
            }
            Message::StreamCopy(copy) => {
                writer.copy(&copy)?;
                // Not before it was found to be within its base.
                self.staged_bytes.add_bytes(copy.length);
                Ok(())
            }
            Message::StreamPieces(pieces) => pieces
                .into_messages()
                .try_for_each(|message| self.write(writer, message)),
            Message::StreamEnd(end) => writer.end(&end),
            Message::StreamAbort(abort) => writer.abort(abort.stream),
            _ => Err(ReceiverError::Worker),
        }
    }
}

/// Writes the rows of everything staged, on the thread that owns the catalog.
fn write_rows(
    upload: &mut Upload<'_>,
    staged: &Receiver<Staged>,
    staged_bytes: &StagedBytes,
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
                .try_for_each(|place| upload.tell_fuzzy(place))?;
            upload.tell_owners(&batch.owners)?;
            let statement = batch.statement.as_ref();
            statement.map_or(Ok(()), |statement| upload.tell_statement(statement))
        })();
        let rows = upload.row_bytes();
        staged_bytes.row_bytes.store(rows, Ordering::Relaxed);
        if let Err(error) = written {
            trouble.report(error, streams);
        }
    }
}

#[cfg(test)]
mod tests {
    use understudy_protocol::ContentHash;

    use super::*;

    #[test]
    #[expect(clippy::panic, reason = "that is what the test is about")]
    fn whoever_panics_leaves_nobody_waiting() {
        let (streams, trouble) = (Streams::default(), Trouble::default());
        let staged_bytes = StagedBytes::default();
        streams.announce(1, 0).expect("the first");
        let claimed = std::thread::scope(|scope| {
            // Its worker will never finish it.
            let waits = scope.spawn(|| streams.claim(1, 0, ContentHash::of(b""), 5));
            let panics = scope.spawn(|| {
                let _alarm = Alarm {
                    trouble: &trouble,
                    streams: &streams,
                    staged_bytes: &staged_bytes,
                };
                panic!("a defect");
            });
            assert!(panics.join().is_err());
            waits.join().expect("it ends")
        });
        assert!(claimed.is_err());
        assert!(trouble.is_there() && staged_bytes.ended.load(Ordering::Acquire));
    }
}
