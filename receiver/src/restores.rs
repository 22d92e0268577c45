//! Restores that run: each session that gives contents notes in its dataset how far it is, so that any process on the store can
//! tell. A note is no part of what is stored: where it cannot be written, the restore goes on without.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use understudy_protocol::message::{Restoring, RunningRestore};
use understudy_protocol::{Name, limits};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, TreeError, remove};

use crate::access::Permission;
use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::names;
use crate::store::Store;

/// How often a note is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// Far more than a note has.
const LIMIT_BYTES: u64 = 64 << 10;
/// Tells the sessions of a process apart.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// The note of one session.
pub(crate) struct Running<'a> {
    dataset: &'a Dataset,
    note: RunningRestore,
    /// The directory that has it, locked while the session lives; made with the first content.
    place: Option<(Directory, Name)>,
    written: Option<Instant>,
}

impl<'a> Running<'a> {
    /// A session that may give contents of this snapshot. Nothing is noted yet.
    pub(crate) fn new(dataset: &'a Dataset, number: u64) -> Self {
        Self {
            dataset,
            note: RunningRestore {
                dataset: dataset.name.clone(),
                number,
                since_seconds: now_seconds(),
                files_given: 0,
                bytes_given: 0,
                told: None,
            },
            place: None,
            written: None,
        }
    }

    /// So much was given: files, and bytes.
    pub(crate) fn gave(&mut self, files: u64, bytes: u64) {
        self.note.files_given += files;
        self.note.bytes_given += bytes;
        if self
            .written
            .is_none_or(|written| written.elapsed() >= INTERVAL)
        {
            self.write();
        }
    }

    /// The agent said how far it is.
    pub(crate) fn hear(&mut self, restoring: Restoring) {
        self.note.told = Some((now_seconds(), restoring));
        self.write();
    }

    fn write(&mut self) {
        self.written = Some(Instant::now());
        if let Err(error) = self.try_to_write() {
            tracing::debug!("cannot note that a restore runs: {error}");
            self.place = None;
        }
    }

    fn try_to_write(&mut self) -> Result<(), ReceiverError> {
        let (directory, _) = match &self.place {
            Some(place) => place,
            None => self.place.insert(make_place(self.dataset)?),
        };
        let text = serde_json::to_vec(&self.note).map_err(|error| {
            let error = std::io::Error::other(error);
            TreeError::new("write", names::RESTORE.as_bytes(), error)
        })?;
        Ok(durable::replace(
            directory,
            &names::RESTORE,
            &text,
            Durability::Later,
        )?)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some((directory, name)) = self.place.take()
            && let Ok(Some(notes)) = open_notes(self.dataset)
        {
            // What is left is removed by whoever looks next.
            let _ = discard(&notes, &name, &directory);
        }
    }
}

fn make_place(dataset: &Dataset) -> Result<(Directory, Name), ReceiverError> {
    let notes = dataset.control.ensure_directory(&names::RESTORES)?;
    let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let text = format!("{}-{session}", std::process::id());
    let name = Name::new(text)
        .map_err(|error| TreeError::new("name", b"restores", std::io::Error::other(error)))?;
    let directory = notes.ensure_directory(&name)?;
    if !lock(&directory)? {
        // Somebody takes it for one of the dead: the next note gets another.
        let error = Errno::AGAIN;
        return Err(TreeError::new("lock", name.as_bytes(), error).into());
    }
    Ok((directory, name))
}

/// Locks the directory of a note; `false` if somebody else has it.
fn lock(directory: &Directory) -> Result<bool, ReceiverError> {
    match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(TreeError::new("lock", names::RESTORES.as_bytes(), error).into()),
    }
}

fn open_notes(dataset: &Dataset) -> Result<Option<Directory>, ReceiverError> {
    match dataset.control.open_directory(&names::RESTORES) {
        Ok(notes) => Ok(Some(notes)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn discard(notes: &Directory, name: &Name, directory: &Directory) -> Result<(), TreeError> {
    remove::empty(directory)?;
    notes.remove_directory(name)
}

/// The restores that run of these datasets. Trouble in one dataset does not hide the others.
pub(crate) fn running(store: &Store, own: &[Permission]) -> Vec<RunningRestore> {
    let mut found = Vec::new();
    for permission in own {
        let result = permission.open(store).and_then(|dataset| match dataset {
            Some(dataset) => of_dataset(&dataset, &mut found),
            None => Ok(()),
        });
        if let Err(error) = result {
            tracing::debug!(dataset = %permission.name(), "cannot tell which restores run: {error}");
        }
    }
    found.sort_by(|a, b| (&a.dataset, a.since_seconds).cmp(&(&b.dataset, b.since_seconds)));
    found.truncate(limits::RESTORES);
    found
}

/// Adds those of one dataset.
pub(crate) fn of_dataset(
    dataset: &Dataset,
    found: &mut Vec<RunningRestore>,
) -> Result<(), ReceiverError> {
    let Some(notes) = open_notes(dataset)? else {
        return Ok(());
    };
    for name in notes.names()? {
        let directory = match notes.open_directory(&name) {
            Err(error) if error.is_gone() => continue,
            opened => opened?,
        };
        if lock(&directory)? {
            // Its session is dead. Where this process may not remove it another one will.
            let _ = discard(&notes, &name, &directory);
            continue;
        }
        let note = durable::read(&directory, &names::RESTORE, LIMIT_BYTES)?;
        let note = note.and_then(|text| serde_json::from_slice::<RunningRestore>(&text).ok());
        found.extend(note.filter(|note| note.dataset == dataset.name));
    }
    Ok(())
}
