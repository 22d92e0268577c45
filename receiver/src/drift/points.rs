//! The drift points that a dataset has.

use understudy_protocol::{DatasetName, Snapshot};

use crate::access::existing;
use crate::catalog::Catalog;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::store::Store;

/// A drift point that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Why it is pinned; `None` if somebody has unpinned it.
    pub pin: Option<String>,
    /// The number of the snapshot that was found changed; `None` if it is gone, or if there was none.
    pub before: Option<u64>,
    /// The number of the snapshot that undid it; `None` as long as it is what is live.
    pub after: Option<u64>,
}

/// The drift points of a dataset, oldest first.
pub fn points(store: &Store, name: &DatasetName) -> Result<Vec<Kept>, ReceiverError> {
    let dataset = existing(store, name)?;
    let Some(catalog) = dataset.read_catalog()? else {
        return Ok(Vec::new());
    };
    let points = catalog.drift_points()?;
    let snapshots = catalog.snapshots()?;
    let pins = catalog.pins()?;
    let mut kept = Vec::new();
    for (index, recorded) in snapshots.iter().enumerate() {
        let number = recorded.snapshot.position.number;
        if points.binary_search(&number).is_err() {
            continue;
        }
        let number_of = |index: usize| {
            let recorded = snapshots.get(index)?;
            Some(recorded.snapshot.position.number)
        };
        kept.push(Kept {
            snapshot: recorded.snapshot.clone(),
            pin: pins
                .iter()
                .find(|pin| pin.snapshot == number)
                .map(|pin| pin.reason.clone()),
            before: index.checked_sub(1).and_then(number_of),
            after: number_of(index + 1),
        });
    }
    Ok(kept)
}

/// What is to be told of the newest drift point that is pinned, which nobody has dealt with.
pub(crate) fn untouched(
    dataset: &Dataset,
    catalog: &Catalog,
) -> Result<Option<String>, ReceiverError> {
    let points = catalog.drift_points()?;
    let pins = catalog.pins()?;
    let newest = pins
        .iter()
        .rfind(|pin| points.binary_search(&pin.snapshot).is_ok());
    Ok(newest.map(|pin| {
        let (name, number) = (&dataset.name, pin.snapshot);
        format!(
            "snapshot {number} keeps what no main has sent ({}): `understudy drift show {name} {number}` on the spare lists it, and \
             `understudy unpin {name} {number}` says that it was dealt with",
            pin.reason
        )
    }))
}
