//! Keeping uploads out while a dataset is promoted: a file that is locked as long as that lasts, in whatever process. Sessions look at it
//! while they wait and before they commit.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use understudy_protocol::transport::Incoming;
use understudy_protocol::{Frame, Role};
use understudy_tree::TreeError;

use super::heard;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::{names, role};

/// How often a session looks.
const EVERY: Duration = Duration::from_millis(200);
/// Sessions that look hold the lock for a moment.
const LOOKED_AT: Duration = Duration::from_secs(2);
/// How long a session that has ended for a promotion waits for what comes of it, so that its agent is told.
const OUTCOME: Duration = Duration::from_secs(5);
/// How often it is noted that the main goes on.
const NOTED: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// No upload of the dataset goes on as long as this lives; it ends with the process, too.
#[derive(Debug)]
pub(crate) struct Fence {
    _file: File,
}

/// Keeps uploads out; `None` if somebody else does already.
pub(crate) fn raise(dataset: &Dataset) -> Result<Option<Fence>, ReceiverError> {
    let control = &dataset.control;
    let file = match control.open_file(&names::PROMOTING) {
        Err(error) if error.is_gone() => match control.create_file(&names::PROMOTING) {
            // Somebody else has just made it.
            Err(_) => control.open_file(&names::PROMOTING)?,
            made => made?,
        },
        opened => opened?,
    };
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Fence { _file: file })),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOOKED_AT => {
                std::thread::park_timeout(PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                let name = names::PROMOTING.as_bytes();
                return Err(TreeError::new("lock", name, error).into());
            }
        }
    }
}

/// Whether the dataset is being promoted.
fn is_up(dataset: &Dataset) -> bool {
    let file = dataset.control.open_file(&names::PROMOTING);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Fails if the dataset is being promoted.
pub(crate) fn look(dataset: &Dataset) -> Result<(), ReceiverError> {
    match is_up(dataset) {
        true => Err(ReceiverError::Crowded(format!(
            "dataset `{}` is being promoted on the spare: nothing is taken from its main meanwhile",
            dataset.name
        ))),
        false => Ok(()),
    }
}

/// What an agent is told whose session, as the main of an epoch, has failed: if that was for a promotion, what came of it. The session's
/// lock is gone by then.
pub(crate) fn outcome(dataset: &Dataset, claimed: u64, error: ReceiverError) -> ReceiverError {
    if !matches!(error, ReceiverError::Crowded(_)) {
        return error;
    }
    let started = Instant::now();
    loop {
        match dataset.standing() {
            Ok(standing) if standing.role != Role::Spare => {
                return role::fenced(&dataset.name, &standing, claimed);
            }
            Ok(_) if is_up(dataset) && started.elapsed() < OUTCOME => {
                std::thread::park_timeout(PAUSE);
            }
            _ => return error,
        }
    }
}

/// Receives for an upload, and looks at times.
pub(crate) struct Lookout<'a> {
    dataset: &'a Dataset,
    looked: Instant,
    /// When the main was last noted to be heard of.
    heard: Instant,
}

impl<'a> Lookout<'a> {
    /// Somebody has looked just now.
    pub(crate) fn new(dataset: &'a Dataset) -> Self {
        Self {
            dataset,
            looked: Instant::now(),
            heard: Instant::now(),
        }
    }

    /// The next frame; blocks. Fails once the dataset is being promoted.
    pub(crate) fn receive(&mut self, incoming: &mut Incoming) -> Result<Frame, ReceiverError> {
        loop {
            if self.looked.elapsed() >= EVERY {
                look(self.dataset)?;
                self.looked = Instant::now();
            }
            if let Some(frame) = incoming.receive_within(EVERY)? {
                if self.heard.elapsed() >= NOTED {
                    heard::note(self.dataset);
                    self.heard = Instant::now();
                }
                return Ok(frame);
            }
        }
    }
}
