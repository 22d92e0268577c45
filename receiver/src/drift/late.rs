//! What somebody does to the live tree while a snapshot is being made: it is looked for once more before the switch, for afterwards nobody
//! looks at that tree again.

use super::look::Verdict;
use super::touched;
use crate::catalog::{Catalog, Recorded};
use crate::comparison;
use crate::cycle;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::guard;
use crate::resolve::Handles;

/// Fails with [`ReceiverError::Drifted`] if somebody has touched what the pending snapshot, which stands in the shadow, is to take the place of.
pub(crate) fn refuse_late(
    dataset: &Dataset,
    catalog: &Catalog,
    pending: &Recorded,
) -> Result<(), ReceiverError> {
    let Some(head) = catalog.head()? else {
        return Ok(());
    };
    // Somebody who never stops must not keep the spare from following its main: what is missed now stands in the other tree.
    if catalog.is_absorbed(head.snapshot.position.number)? {
        return Ok(());
    }
    let to = pending.snapshot.position.number;
    let has_come = has_superseded_changed(dataset, catalog, to)?
        || touched::look(dataset, catalog, &head)? == Some(Verdict::Drifted);
    match has_come {
        true => Err(ReceiverError::Drifted(format!(
            "somebody changed the live tree of dataset `{}` while a snapshot was being made: what was changed is kept, and the snapshot is made \
             again",
            dataset.name
        ))),
        false => Ok(()),
    }
}

/// Whether a file that the pending snapshot replaces or removes is another one than it was.
fn has_superseded_changed(
    dataset: &Dataset,
    catalog: &Catalog,
    to: u64,
) -> Result<bool, ReceiverError> {
    let Some(live) = dataset.live()? else {
        return Ok(false);
    };
    let reader = catalog.reader()?;
    let mut handles = Handles::new(&live, &reader, to - 1);
    let mut has_changed = false;
    let looked = catalog.leaves_gone(to, |leaf| {
        let Some(row) = reader.row_by_id(leaf.id)? else {
            return Ok(());
        };
        if !understudy_tree::node::can_exist(&row.entry, &dataset.privileges) {
            return Ok(());
        }
        let directory = match handles.get(leaf.place.parent) {
            Err(ReceiverError::Tree(error)) if error.is_gone() => None,
            directory => Some(directory?),
        };
        let stat = match directory {
            Some(directory) => directory.stat_if_present(&leaf.place.name)?,
            None => None,
        };
        has_changed = match (directory, stat) {
            (Some(directory), Some(stat)) => {
                let at = (directory, &leaf.place.name);
                comparison::deviation(at, &row.entry, &stat, &dataset.privileges)?.is_some()
            }
            _ => true,
        };
        match has_changed {
            true => Err(ReceiverError::Stopped),
            false => Ok(()),
        }
    });
    match looked {
        Err(ReceiverError::Stopped) if has_changed => Ok(true),
        looked => looked.map(|()| false),
    }
}

/// Drops the snapshot that was to take the place of what somebody has changed, and keeps that: the main sends the snapshot again.
pub(crate) fn step_aside(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    pending: &Recorded,
) -> Result<(), ReceiverError> {
    tracing::warn!(dataset = %dataset.name, "dropping an unfinished snapshot: somebody changed the live tree meanwhile; the main sends it again");
    match catalog.is_pending_held()? {
        true => guard::drop_held(dataset, catalog)?,
        false => cycle::abandon(dataset, catalog, pending)?,
    }
    super::heed(dataset, catalog, locked).map(drop)
}
