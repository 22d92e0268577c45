//! Pins: snapshots that no policy may end.

use understudy_protocol::{DatasetName, Snapshot};

use super::Moment;
use crate::access::existing;
use crate::catalog::PinRow;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::recover;
use crate::store::Store;

/// A reason is a line that people read in a table. It has at least one byte.
pub const REASON_BYTES: usize = 1000;

/// What became of a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Why it was pinned before, if it was.
    pub before: Option<String>,
}

/// Pins a snapshot, or gives its pin another reason. Durable when it returns.
pub fn pin(
    store: &Store,
    name: &DatasetName,
    number: u64,
    reason: &str,
) -> Result<Pinned, ReceiverError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > REASON_BYTES {
        return Err(ReceiverError::Refused(format!(
            "the reason of a pin must have 1 to {REASON_BYTES} bytes"
        )));
    }
    change(store, name, number, |catalog, before| {
        catalog.pin(&PinRow {
            snapshot: number,
            reason: reason.to_owned(),
            since_seconds: before.map_or(Moment::now().seconds, |pin| pin.since_seconds),
        })
    })
}

/// Takes the pin of a snapshot away; the policy decides again. Durable when it returns.
pub fn unpin(store: &Store, name: &DatasetName, number: u64) -> Result<Pinned, ReceiverError> {
    change(store, name, number, |catalog, _| {
        catalog.unpin(number).map(drop)
    })
}

fn change(
    store: &Store,
    name: &DatasetName,
    number: u64,
    work: impl FnOnce(&crate::catalog::Catalog, Option<&PinRow>) -> Result<(), ReceiverError>,
) -> Result<Pinned, ReceiverError> {
    let dataset: Dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    recover::recover(&dataset, &catalog, &locked)?;
    let Some(recorded) = catalog.snapshot(number)? else {
        return Err(ReceiverError::NotFound(format!(
            "dataset `{name}` has no snapshot {number}; `snapshots` lists them"
        )));
    };
    let before = catalog
        .pins()?
        .into_iter()
        .find(|pin| pin.snapshot == number);
    work(&catalog, before.as_ref())?;
    catalog.checkpoint()?;
    Ok(Pinned {
        snapshot: recorded.snapshot,
        before: before.map(|pin| pin.reason),
    })
}
