//! Hands the frames of an upload to the workers that stage them.

use std::sync::mpsc::SyncSender;

use understudy_protocol::message::Commit;
use understudy_protocol::{Frame, Message, ProtocolError, limits, version};

use crate::catalog::Telling;
use crate::error::ReceiverError;
use crate::leftovers;
use crate::streams::Streams;
use crate::waiting::Waiting;
use crate::workers::Trouble;

/// Numbers of the messages that are handed to workers: streams, those with a base, what is fuzzy, changes, what owners are
/// called, what the main has signed, and several stretches of a stream.
const STREAM_NUMBERS: std::ops::RangeInclusive<u8> = 3..=5;
const FUZZY: u8 = 6;
const DELTA_NUMBERS: std::ops::RangeInclusive<u8> = 7..=8;
const RESUME: u8 = 9;
const CHANGES: u8 = 11;
const OWNERS: u8 = 72;
const STATED: u8 = 73;
const PIECES: u8 = 80;

/// What is handed over together: small pieces of a large file cost less than waking a worker for each.
const RUN_JOBS: usize = 64;
const RUN_BYTES: u64 = 256 * 1024;

/// What a worker gets.
pub(crate) enum Job {
    /// With the number of the frame within the upload.
    Rows(Frame, u64),
    Stream(Message),
}

/// Whether a frame is part of a change set.
pub(crate) fn is_change(frame: &Frame, spoken: u32) -> bool {
    let number = frame.number();
    is_staged(frame, spoken)
        || STREAM_NUMBERS.contains(&number)
        || spoken >= version::DELTA && DELTA_NUMBERS.contains(&number)
        || spoken >= version::RESUME && number == RESUME
        || spoken >= version::PIECES && number == PIECES
}

/// Whether a frame becomes rows.
fn is_staged(frame: &Frame, spoken: u32) -> bool {
    match frame.number() {
        CHANGES => true,
        FUZZY => Telling::of(spoken) == Telling::All,
        OWNERS => spoken >= version::OWNERS,
        STATED => spoken >= version::STATEMENTS,
        _ => false,
    }
}

/// Hands frames to workers until the commit; returns it.
#[expect(
    clippy::needless_pass_by_value,
    reason = "workers end when the queues are dropped"
)]
pub(crate) fn route(
    first: Frame,
    waiting: &mut Waiting<'_>,
    spoken: u32,
    queues: Vec<SyncSender<Vec<Job>>>,
    streams: &Streams,
    trouble: &Trouble,
) -> Result<Commit, ReceiverError> {
    let mut run = Run::new(&queues);
    let result = route_frames(first, waiting, spoken, &mut run, streams, trouble);
    if result.is_ok() || result.as_ref().is_err_and(leftovers::is_interruption) {
        // What has arrived is staged in any case: after an interruption the next upload need not send it.
        let handed_over = run.hand_over();
        return result.and_then(|commit| handed_over.map(|()| commit));
    }
    // Wakes workers that wait for streams which will not come.
    trouble.stop(streams);
    result
}

fn route_frames(
    first: Frame,
    waiting: &mut Waiting<'_>,
    spoken: u32,
    run: &mut Run<'_>,
    streams: &Streams,
    trouble: &Trouble,
) -> Result<Commit, ReceiverError> {
    let mut frame = first;
    let (mut turn, mut owners) = (0, 0);
    for number in 0.. {
        if trouble.is_there() {
            return Err(ReceiverError::Worker);
        }
        owners += u32::from(frame.number() == OWNERS);
        if owners > limits::OWNERS_OF_UPLOAD {
            return Err(ReceiverError::Misbehaved(
                "names of owners come in more messages than an upload may have of them".to_owned(),
            ));
        }
        let mut bytes = frame.wire_bytes();
        if is_staged(&frame, spoken) {
            turn += 1;
            run.add(turn, Job::Rows(frame, number), bytes)?;
        } else {
            let message = frame.decode()?;
            let stream = match &message {
                Message::StreamBlock(block) => {
                    bytes = bytes.max(block.data.len() as u64);
                    block.stream
                }
                Message::StreamAbort(abort) => abort.stream,
                Message::StreamBase(base) if spoken >= version::DELTA => base.stream,
                Message::StreamCopy(copy) if spoken >= version::DELTA => copy.stream,
                Message::StreamPieces(pieces) if spoken >= version::PIECES => {
                    bytes = bytes.max(pieces.new_bytes());
                    pieces.stream
                }
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
            run.add(stream, Job::Stream(message), bytes)?;
        }
        if !waiting.is_at_hand() {
            run.hand_over()?;
        }
        frame = waiting.receive()?;
    }
    // More frames than a number can count.
    Err(ReceiverError::Worker)
}

/// Jobs that follow one another and belong to one worker. Jobs are handed over in the order in which they came: a worker that
/// waits for a stream waits for what was handed over before.
struct Run<'a> {
    queues: &'a [SyncSender<Vec<Job>>],
    worker: usize,
    jobs: Vec<Job>,
    bytes: u64,
}

impl<'a> Run<'a> {
    fn new(queues: &'a [SyncSender<Vec<Job>>]) -> Self {
        Self {
            queues,
            worker: 0,
            jobs: Vec::new(),
            bytes: 0,
        }
    }

    /// Equal `turn`s have the same worker.
    fn add(&mut self, turn: u64, job: Job, bytes: u64) -> Result<(), ReceiverError> {
        let worker = (turn % self.queues.len() as u64) as usize;
        if worker != self.worker {
            self.hand_over()?;
            self.worker = worker;
        }
        self.jobs.push(job);
        self.bytes += bytes;
        if self.jobs.len() >= RUN_JOBS || self.bytes >= RUN_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), ReceiverError> {
        self.bytes = 0;
        if self.jobs.is_empty() {
            return Ok(());
        }
        let jobs = std::mem::take(&mut self.jobs);
        self.queues[self.worker]
            .send(jobs)
            .map_err(|_| ReceiverError::Worker)
    }
}
