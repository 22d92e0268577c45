//! Drift: changes of the live tree that understudy did not make. Nothing that somebody wrote is overwritten: it becomes a snapshot of its own,
//! a drift point, before anything else is done with the dataset. What is in the live tree of a main belongs to the application, and is
//! no drift.

mod halt;
mod late;
mod look;
mod looked;
mod points;
mod touched;

use understudy_protocol::{DatasetName, Position, Role, Snapshot, Timestamp};

use crate::absorb::{AbsorbOptions, Absorption, AsOf, Grounds, absorb};
use crate::access::existing;
use crate::catalog::{Catalog, Nature, Recorded};
use crate::cycle;
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::error::ReceiverError;
use crate::housekeeping::Stop;
use crate::recover;
use crate::store::Store;
use look::{Verdict, look};
use looked::Looked;

pub use halt::{DriftRules, OnDrift, accept};
pub(crate) use halt::{check, pass, standing};
pub(crate) use late::{refuse_late, step_aside};
pub(crate) use points::untouched;
pub use points::{Kept, points};

/// What the reason of a drift point's pin begins with.
const PIN: &str = "drift";
/// A dataset of up to so many entries is compared in every cycle.
const SMALL: u64 = 10_000;
/// How often a larger one is.
const INTERVAL_SECONDS: i64 = 60 * 60;

/// A drift point that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Entries that have another content or other attributes, that are new, and that are gone.
    pub changed: u64,
    /// See `changed`.
    pub added: u64,
    /// See `changed`.
    pub removed: u64,
    /// What could not become part of it, with the reasons: the first ones.
    pub lost: Vec<(String, String)>,
    /// One line for people.
    pub text: String,
}

impl Point {
    fn of(absorption: Absorption) -> Self {
        let Absorption { recorded, tally } = absorption;
        let lost = tally.losses.iter();
        Self {
            snapshot: recorded.snapshot,
            changed: tally.changed,
            added: tally.added,
            removed: tally.removed,
            lost: lost
                .map(|(path, why)| (path.to_string(), why.clone()))
                .collect(),
            text: tally.text(),
        }
    }
}

/// Compares a live tree with its newest snapshot, and makes a drift point of what differs. `None` if nothing does, or if this host is not the
/// spare of the dataset.
pub fn seek(store: &Store, name: &DatasetName) -> Result<Option<Point>, ReceiverError> {
    let dataset = existing(store, name)?;
    store.housekeeping.interrupt(name);
    // Declared before the lock, so that it ends after the lock is released.
    let _tidying;
    let locked = dataset.lock_patiently()?;
    _tidying = store.housekeeping.begin(name);
    let catalog = dataset.catalog(&locked)?;
    recover::recover(&dataset, &catalog, &locked)?;
    heed(&dataset, &catalog, &locked)
}

/// The same of a dataset that is locked and recovered, before an upload, as far as that costs little: a small dataset always; a large one
/// once in an hour, and whenever somebody has touched a directory of it.
pub(crate) fn heed_if_due(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
) -> Result<Option<Point>, ReceiverError> {
    match catalog.head()? {
        Some(head) if is_due(dataset, catalog, &head)? => heed(dataset, catalog, locked),
        _ => Ok(None),
    }
}

/// The same before a promotion, which cannot wait: only what adds, removes or replaces a name is found.
pub(crate) fn heed_if_touched(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
) -> Result<Option<Point>, ReceiverError> {
    let Some(head) = catalog.head()? else {
        return Ok(None);
    };
    match touched::look(dataset, catalog, &head)? {
        Some(Verdict::Same) => Ok(None),
        Some(Verdict::Drifted) | None => heed(dataset, catalog, locked),
    }
}

/// Whether a look at everything costs little, or is worth what it costs.
fn is_due(dataset: &Dataset, catalog: &Catalog, head: &Recorded) -> Result<bool, ReceiverError> {
    let known = Looked::read_any(dataset)?.and_then(|known| known.everything_seconds);
    let is_recent = known.is_some_and(|at| (0..INTERVAL_SECONDS).contains(&(now_seconds() - at)));
    if head.snapshot.entries <= SMALL || !is_recent {
        return Ok(true);
    }
    if !dataset.is_spare()? {
        return Ok(false);
    }
    Ok(touched::look(dataset, catalog, head)? == Some(Verdict::Drifted))
}

/// Whether somebody has changed the live tree, as far as [`heed_if_due`] would look, before an interrupted commit is carried on: the shadow may be
/// anything.
pub(crate) fn has_come(dataset: &Dataset, catalog: &Catalog) -> Result<bool, ReceiverError> {
    let Some(head) = catalog.head()? else {
        return Ok(false);
    };
    if !is_due(dataset, catalog, &head)? {
        return Ok(false);
    }
    let grounds = grounds(dataset, &head)?;
    Ok(look(dataset, catalog, &head, grounds)? == Verdict::Drifted)
}

/// Notes that the other twin is about to be made anew from the live tree, whatever stands there.
pub(crate) fn rebuilding(dataset: &Dataset) -> Result<(), ReceiverError> {
    let known = Looked::read_any(dataset)?;
    Looked::rebuilding(known, looked::now(&dataset.control)?).write(dataset)
}

/// What is known of the live tree without a look at it.
pub(crate) fn grounds(dataset: &Dataset, head: &Recorded) -> Result<Grounds, ReceiverError> {
    let known = Looked::read(dataset, head.snapshot.position)?;
    Ok(Grounds {
        sound_until: known.map(|known| known.sound_until()),
        rebuilt: rebuilt(dataset)?,
    })
}

/// When the other twin was last made anew.
pub(crate) fn rebuilt(dataset: &Dataset) -> Result<Option<Timestamp>, ReceiverError> {
    Ok(Looked::read_any(dataset)?.and_then(|known| known.rebuilt()))
}

/// Notes that everything in the tree that is about to become live was built before this moment.
pub(crate) fn built(dataset: &Dataset, position: Position) -> Result<(), ReceiverError> {
    let known = Looked::read_any(dataset)?;
    let mut looked = Looked::switched(position, looked::now(&dataset.control)?);
    looked.everything_seconds = known.and_then(|known| known.everything_seconds);
    looked.write(dataset)
}

/// The same of a dataset that is locked and recovered, whatever it costs.
pub(crate) fn heed(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
) -> Result<Option<Point>, ReceiverError> {
    let standing = dataset.standing()?;
    let Some(head) = catalog.head()?.filter(|_| standing.role == Role::Spare) else {
        return Ok(None);
    };
    let begun = looked::now(&dataset.control)?;
    let grounds = grounds(dataset, &head)?;
    if look(dataset, catalog, &head, grounds)? == Verdict::Same {
        Looked::new(head.snapshot.position, begun).write(dataset)?;
        return Ok(None);
    }
    let options = AbsorbOptions {
        epoch: standing.epoch,
        nature: Nature::Drift,
        pin: Some(PIN.to_owned()),
        as_of: AsOf::Before,
        least_number: 1,
        sound_until: grounds.sound_until,
    };
    let Some(absorption) = absorb(dataset, catalog, locked, &options)? else {
        return Ok(None);
    };
    let point = Point::of(absorption);
    tracing::warn!(dataset = %dataset.name, "somebody changed the live tree: {}; it is kept as snapshot {}", point.text, point.snapshot.position.number);
    for (path, why) in &point.lost {
        tracing::warn!(dataset = %dataset.name, "`{path}` of the live tree {why}");
    }
    Looked::new(point.snapshot.position, begun).write(dataset)?;
    // What only the other twin has is safe from now on, and what nothing has is asked for at once.
    cycle::catch_up(dataset, catalog, locked, &Stop::default())?;
    Ok(Some(point))
}
