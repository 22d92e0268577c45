//! What becomes of damage: it is told, or mended first with what the spare itself has.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use understudy_protocol::ContentHash;

use super::reading::{Found, Subject, shown};
use crate::catalog::Row;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{Damage, Part};
use crate::reinstate;
use crate::repair::{Outcome, Repairer};
use crate::store::Store;

/// How long somebody else may work on the dataset before a repair is left to the next verification.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows what is wrong with something that is nowhere else.
const NOWHERE: &str = "; the spare has no other copy of it";

/// What happens with damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mending {
    /// It is told.
    None,
    /// As [`Self::All`], but what somebody has put into a twin stays there, and is told.
    Damage,
    /// What the spare can repair by itself is repaired, and the main is asked for the rest.
    All,
}

/// What became of something damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is as it should be again, and durable.
    Repaired,
    /// It was nobody's, and is kept at a place that this names.
    Kept(String),
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
    let row = found.content_row();
    let mended = match (row, found.damage.part) {
        (Some(row), Part::Live | Part::Twin) => repairer.repair_of(row),
        _ => repairer
            .repair_object(content.0, content.1)
            .map(Outcome::of),
    };
    match (mended, row) {
        (Ok(Outcome::Repaired), _) => Fate::Repaired,
        (Ok(Outcome::Former), _) => Fate::Moved,
        (Ok(Outcome::Lost), Some(row)) => Fate::Not(format!(
            "{NOWHERE}, and the snapshots from {} on have it so",
            row.since
        )),
        (Ok(Outcome::Lost), None) => Fate::Not(NOWHERE.to_owned()),
        (Err(error), _) => match repairer.has_copy(content) {
            Ok(false) => Fate::Not(unrepaired(&error)),
            _ => Fate::Stuck(unrepaired(&error)),
        },
    }
}

/// Puts right what stands at names, alone on the dataset. Returns what became of each, and files below them whose contents the spare
/// does not have.
pub(crate) fn mend_names(
    store: &Store,
    dataset: &Dataset,
    mending: Mending,
    found: &[Found],
) -> (Vec<Fate>, Vec<Damage>) {
    let all = |fate: Fate| (vec![fate; found.len()], Vec::new());
    match alone(store, dataset, |repairer| names(repairer, mending, found)) {
        Ok(Some(mended)) => mended,
        Ok(None) => all(Fate::Not(String::new())),
        Err(error) => all(Fate::Stuck(unrepaired(&error))),
    }
}

fn names(
    repairer: &mut Repairer<'_>,
    mending: Mending,
    found: &[Found],
) -> Result<(Vec<Fate>, Vec<Damage>), ReceiverError> {
    let mut seen = HashSet::new();
    let mut rows = Vec::new();
    for one in found {
        if let Subject::Name(row) = &one.subject
            && let Some(now) = repairer.name_now(row)?
            && seen.insert(now.id)
        {
            rows.push(now);
        }
    }
    let mut lost = match rows.is_empty() {
        true => Vec::new(),
        false => repairer.repair_names(&rows)?,
    };
    let ids: HashSet<u64> = lost.iter().map(|row| row.id).collect();
    let mut fates = Vec::new();
    for one in found {
        fates.push(match &one.subject {
            Subject::Extra(_) if mending == Mending::Damage => Fate::Not(String::new()),
            Subject::Extra(place) => match repairer.take_away(place) {
                Ok(Some(kept)) => Fate::Kept(format!("; it was moved to `{kept}`")),
                Ok(None) => Fate::Repaired,
                Err(error) => Fate::Not(unrepaired(&error)),
            },
            Subject::Name(row) => fate_of(repairer, row, &ids),
            Subject::Content(_) | Subject::Other => Fate::Not(String::new()),
        });
    }
    lost.retain(|row| !seen.contains(&row.id));
    let damage = |row: Row| {
        Ok(Damage {
            part: Part::Live,
            path: shown(&repairer.path_of(&row)?),
            content: row.entry.content(),
            what: format!("is missing from the live tree{NOWHERE}"),
        })
    };
    let lost: Result<_, ReceiverError> = lost.into_iter().map(damage).collect();
    Ok((fates, lost?))
}

/// What became of a name.
fn fate_of(repairer: &Repairer<'_>, row: &Row, lost: &HashSet<u64>) -> Fate {
    let attempt = || -> Result<Fate, ReceiverError> {
        let now = match (repairer.name_now(row)?, row.entry.content()) {
            (Some(now), _) => now,
            // A commit has taken it away, and its content may be history.
            (None, Some(_)) => {
                return Ok(match repairer.repair_of(row)? {
                    Outcome::Repaired => Fate::Repaired,
                    Outcome::Lost => Fate::Not(NOWHERE.to_owned()),
                    Outcome::Former => Fate::Moved,
                });
            }
            (None, None) => return Ok(Fate::Repaired),
        };
        Ok(match repairer.is_wrong(&now)? {
            _ if lost.contains(&now.id) => Fate::Not(NOWHERE.to_owned()),
            true => Fate::Stuck("; it cannot be repaired".to_owned()),
            false => Fate::Repaired,
        })
    };
    attempt().unwrap_or_else(|error| Fate::Stuck(unrepaired(&error)))
}

fn unrepaired(error: &ReceiverError) -> String {
    format!("; it cannot be repaired: {error}")
}

/// Puts the other twin in the place of a live tree that is none any more, alone on the dataset; returns what is to be told, if that was so.
pub(super) fn reinstate(store: &Store, dataset: &Dataset) -> Result<Option<String>, ReceiverError> {
    if !reinstate::is_lost(dataset)? {
        return Ok(None);
    }
    lock(store, dataset, |locked| {
        reinstate::reinstate(dataset, locked)
    })
}

/// Recovers the dataset, makes its twins equal, and does what can only be done alone; `None` if there is no snapshot.
pub(crate) fn alone<T>(
    store: &Store,
    dataset: &Dataset,
    work: impl FnOnce(&mut Repairer<'_>) -> Result<T, ReceiverError>,
) -> Result<Option<T>, ReceiverError> {
    lock(store, dataset, |locked| {
        let mut repairer = Repairer::new(dataset, locked)?;
        repairer.as_mut().map(work).transpose()
    })
}

fn lock<T>(
    store: &Store,
    dataset: &Dataset,
    work: impl FnOnce(&Locked) -> Result<T, ReceiverError>,
) -> Result<T, ReceiverError> {
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
    work(&locked)
}
