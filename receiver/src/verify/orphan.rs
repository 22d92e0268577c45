//! A dataset whose catalog has no snapshot: one to which nothing was ever sent, or one that has lost its catalog.

use std::time::{Duration, Instant};

use understudy_protocol::Position;

use super::reading::Position as At;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::{marker, names};

/// How long a first snapshot may be live before it is recorded.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Where a pass that met no snapshot goes on.
pub(super) fn without_snapshot(dataset: &Dataset, position: At) -> Result<At, ReceiverError> {
    let started = Instant::now();
    loop {
        let left = left(dataset)?;
        // In this order: whoever had the lock has recorded what he made live.
        let is_over = started.elapsed() > PATIENCE || !dataset.is_locked();
        match (left, state(dataset)?) {
            (_, State::Recorded) => return Ok(position),
            (None, _) | (_, State::Unrecorded) => return Ok(At::End),
            (Some(left), State::Empty) if is_over => {
                return Err(ReceiverError::Damaged(told(left)));
            }
            _ => std::thread::park_timeout(PAUSE),
        }
    }
}

/// [`ReceiverError::Damaged`] if a dataset has contents and no snapshot, and nobody is working on it.
pub(crate) fn not_orphaned(dataset: &Dataset) -> Result<(), ReceiverError> {
    match left(dataset)? {
        Some(left) if !dataset.is_locked() && state(dataset)? == State::Empty => {
            Err(ReceiverError::Damaged(told(left)))
        }
        _ => Ok(()),
    }
}

fn told(left: &str) -> String {
    format!(
        "the catalog is gone, or has no snapshot, and there is {left}: what else there was is not known any more. Leave the \
         dataset's directory as it is until the catalog is back, or move it aside and sync again"
    )
}

/// What only commits leave behind; `None` if there is nothing.
fn left(dataset: &Dataset) -> Result<Option<&'static str>, ReceiverError> {
    if dataset.live()?.is_some() {
        return Ok(Some("a live tree"));
    }
    if shadow_shows(dataset)?.is_some() {
        return Ok(Some("another whole tree"));
    }
    let objects = Objects::open(&dataset.control)?;
    let mut last = None;
    while let Some(shelf) = objects.shelf_after(last.as_ref())? {
        if !objects.files_after(&shelf, None)?.is_empty() {
            return Ok(Some("history"));
        }
        last = Some(shelf);
    }
    Ok(None)
}

/// What the catalog knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is a snapshot.
    Recorded,
    /// The first one is built, and the process died before it was recorded: recovery goes on with it.
    Unrecorded,
    Empty,
}

fn state(dataset: &Dataset) -> Result<State, ReceiverError> {
    let Some(catalog) = dataset.read_catalog()? else {
        return Ok(State::Empty);
    };
    if catalog.head()?.is_some() {
        return Ok(State::Recorded);
    }
    let live = dataset.live()?;
    let shows = live.map(|live| marker::read(&live)).transpose()?.flatten();
    let shows = [shows, shadow_shows(dataset)?];
    let pending = catalog.pending()?;
    let is_built = pending.is_some_and(|pending| shows.contains(&Some(pending.snapshot.position)));
    Ok(if is_built {
        State::Unrecorded
    } else {
        State::Empty
    })
}

fn shadow_shows(dataset: &Dataset) -> Result<Option<Position>, ReceiverError> {
    match dataset.control.open_directory(&names::SHADOW) {
        Ok(shadow) => marker::read(&shadow),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
