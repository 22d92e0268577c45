//! Drift: changes of the live tree that understudy did not make. Nothing that somebody wrote is overwritten: it becomes a snapshot of its own,
//! a drift point, before anything else is done with the dataset. What is in the live tree of a main belongs to the application, and is
//! no drift.

mod halt;
mod look;
mod looked;
mod points;
mod touched;

use understudy_protocol::{DatasetName, Position, Role, Snapshot};

use crate::absorb::{AbsorbOptions, Absorption, AsOf, absorb};
use crate::access::existing;
use crate::catalog::{Catalog, Nature};
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
    let Some(head) = catalog.head()? else {
        return Ok(None);
    };
    let known = Looked::read_any(dataset)?.and_then(|known| known.everything_seconds);
    let is_recent = known.is_some_and(|at| (0..INTERVAL_SECONDS).contains(&(now_seconds() - at)));
    if head.snapshot.entries > SMALL && is_recent {
        let known = Looked::read(dataset, head.snapshot.position)?;
        let is_touched = match known {
            Some(known) if dataset.is_spare()? => {
                touched::is_touched(dataset, catalog, &head, known.sound_until())?
            }
            _ => false,
        };
        if !is_touched {
            return Ok(None);
        }
    }
    heed(dataset, catalog, locked)
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
    let known = Looked::read(dataset, head.snapshot.position)?;
    let sound_until = known.map(|known| known.sound_until());
    if look(dataset, catalog, &head, sound_until)? == Verdict::Same {
        Looked::new(head.snapshot.position, begun).write(dataset)?;
        return Ok(None);
    }
    let options = AbsorbOptions {
        epoch: standing.epoch,
        nature: Nature::Drift,
        pin: Some(PIN.to_owned()),
        as_of: AsOf::Before,
        least_number: 1,
        sound_until,
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
