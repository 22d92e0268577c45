//! What becomes of damage: it is told, or mended first with what the spare itself has.

use std::time::{Duration, Instant};

use understudy_protocol::ContentHash;

use super::reading::Found;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings::Part;
use crate::repair::{Outcome, Repairer};
use crate::store::Store;

/// How long somebody else may work on the dataset before a repair is left to the next verification.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens with damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mending {
    /// It is told.
    None,
    /// What the spare can repair by itself is repaired, and the main is asked for the rest.
    All,
}

/// What became of something damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is as it should be again, and durable.
    Repaired,
    /// It is not, for this reason.
    Not(String),
    /// It is not, for this reason, although the spare has its content or may have it: the main need not send it.
    Stuck(String),
    /// It is a file of history now, and is found there.
    Moved,
}

/// Mends one thing, alone on the dataset.
pub(crate) fn mend(store: &Store, dataset: &Dataset, found: &Found) -> Fate {
    let Some(content) = found.damage.content else {
        return Fate::Not(String::new());
    };
    match alone(store, dataset, |repairer| {
        Ok(attempt(repairer, found, content))
    }) {
        Ok(Some(fate)) => fate,
        Ok(None) => Fate::Not(String::new()),
        Err(error) => Fate::Stuck(unrepaired(&error)),
    }
}

fn attempt(repairer: &Repairer<'_>, found: &Found, content: (u64, ContentHash)) -> Fate {
    let mended = match (&found.row, found.damage.part) {
        (Some(row), Part::Live | Part::Twin) => repairer.repair_of(row),
        _ => repairer
            .repair_object(content.0, content.1)
            .map(Outcome::of),
    };
    match (mended, &found.row) {
        (Ok(Outcome::Repaired), _) => Fate::Repaired,
        (Ok(Outcome::Former), _) => Fate::Moved,
        (Ok(Outcome::Lost), Some(row)) => Fate::Not(format!(
            "; the spare has no other copy of it, and the snapshots from {} on have it so",
            row.since
        )),
        (Ok(Outcome::Lost), None) => Fate::Not("; the spare has no other copy of it".to_owned()),
        (Err(error), _) => match repairer.has_copy(content) {
            Ok(false) => Fate::Not(unrepaired(&error)),
            _ => Fate::Stuck(unrepaired(&error)),
        },
    }
}

fn unrepaired(error: &ReceiverError) -> String {
    format!("; it cannot be repaired: {error}")
}

/// Recovers the dataset, makes its twins equal, and does what can only be done alone; `None` if there is no snapshot.
pub(crate) fn alone<T>(
    store: &Store,
    dataset: &Dataset,
    work: impl FnOnce(&Repairer<'_>) -> Result<T, ReceiverError>,
) -> Result<Option<T>, ReceiverError> {
    let started = Instant::now();
    // Declared before the lock, so that it ends after the lock is released.
    let _tidying;
    let locked = loop {
        store.housekeeping.interrupt(&dataset.name);
        match dataset.lock_patiently() {
            Err(ReceiverError::Busy(_)) if started.elapsed() < PATIENCE => {}
            locked => break locked?,
        }
    };
    _tidying = store.housekeeping.begin(&dataset.name);
    let repairer = Repairer::new(dataset, &locked)?;
    repairer.as_ref().map(work).transpose()
}
