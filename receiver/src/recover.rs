//! Finishing or dropping what an earlier process left half-done. Trusts the markers on disk more than the
//! catalog.

use crate::catalog::{Catalog, Recorded};
use crate::cycle::{self, Stopwatch};
use crate::dataset::{Dataset, Locked};
use crate::drift;
use crate::error::ReceiverError;
use crate::guard::{self, Held};
use crate::leftovers;
use crate::marker::{self, Applying};
use crate::reinstate;
use crate::serve::Drift;
use understudy_protocol::Position;
use understudy_tree::crash_point;

/// Recovers a dataset when the receiver starts, unless somebody else is working on it.
pub(crate) fn at_start(dataset: &Dataset) -> Result<(), ReceiverError> {
    match dataset.lock() {
        Ok(locked) => {
            let catalog = dataset.catalog(&locked)?;
            recover(dataset, &catalog, &locked)?;
            leftovers::drop_old(dataset, &locked)
        }
        Err(ReceiverError::Busy(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Leaves the dataset with a live tree that is the newest recorded snapshot, and nothing pending but what is held, which
/// is returned. Of a dataset of which this host is not the spare nothing is pending, and the live tree may be anything.
pub(crate) fn recover(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
) -> Result<Option<Held>, ReceiverError> {
    if !dataset.is_spare()? {
        return frozen(dataset, catalog).map(|()| None);
    }
    let head = catalog.head()?;
    let pending = catalog.pending()?;
    let held = guard::standing(dataset, pending.as_ref())?;
    if held.is_none() {
        guard::forget_stale(dataset)?;
    }
    let live = match dataset.live()? {
        Some(live) => marker::read(&live)?,
        None => None,
    };
    let is = |recorded: &Option<Recorded>| {
        recorded.as_ref().map(|recorded| recorded.snapshot.position) == live
    };
    match pending {
        // Switched, and not recorded.
        Some(pending) if live == Some(pending.snapshot.position) => {
            tracing::info!(dataset = %dataset.name, "recording the snapshot that became live before an interruption");
            dataset.sync_switch()?;
            cycle::finish(
                dataset,
                catalog,
                locked,
                &pending,
                &mut Stopwatch::default(),
            )?;
        }
        Some(pending) if held.is_some() && is(&head) => {
            // A release may have been interrupted.
            cycle::give_up_shadow(dataset, &pending)?;
            guard::aside::put(dataset, locked, &pending)?;
            tidy(dataset, catalog)?;
            return Ok(held);
        }
        Some(_) if is(&head) && catalog.is_pending_held()? => {
            tracing::warn!(dataset = %dataset.name, "dropping a cycle that is held: the file that says why is gone; the main sends it again");
            guard::drop_held(dataset, catalog)?;
        }
        Some(pending) if is(&head) && catalog.is_pending_absorbed()? => {
            tracing::info!(dataset = %dataset.name, "forgetting what was found in the live tree before an interruption: it is looked at again");
            catalog.roll_back(&pending)?;
        }
        Some(pending) if is(&head) => roll(dataset, catalog, locked, &pending)?,
        None if is(&head) => leftovers::keep(dataset, locked)?,
        _ => return Err(disagreement(dataset, catalog, head.as_ref(), live)?),
    }
    guard::aside::drop_all(dataset)?;
    tidy(dataset, catalog)?;
    Ok(None)
}

/// An application writes into the live tree, and removes its marker or leaves it as it likes: only the frozen tree tells.
fn frozen(dataset: &Dataset, catalog: &Catalog) -> Result<(), ReceiverError> {
    absorbed(dataset, catalog)?;
    let shows = match dataset.newest()? {
        Some(newest) => marker::read(&newest)?,
        None => None,
    };
    let head = catalog.head()?.map(|head| head.snapshot.position);
    if head.is_none() || shows != head {
        let number = head.map_or(0, |head| head.number);
        return Err(ReceiverError::Damaged(format!(
            "the tree that keeps what dataset `{}` was when this host was promoted does not show snapshot {number}, with which the \
             catalog ends. The live tree is the application's and is as it was",
            dataset.name
        )));
    }
    if catalog.pending()?.is_none() {
        tidy(dataset, catalog)?;
    }
    Ok(())
}

/// Finishes or drops an absorption that was interrupted, in a dataset whose live tree may be anything.
pub(crate) fn absorbed(dataset: &Dataset, catalog: &Catalog) -> Result<(), ReceiverError> {
    if !catalog.is_pending_absorbed()? {
        return Ok(());
    }
    match catalog.pending()? {
        Some(pending) if is_live(dataset, &pending)? => {
            dataset.sync_switch()?;
            catalog.record(&pending)
        }
        Some(pending) => catalog.roll_back(&pending),
        None => Ok(()),
    }
}

fn tidy(dataset: &Dataset, catalog: &Catalog) -> Result<(), ReceiverError> {
    dataset.clean_patches(|id| Ok(catalog.row_by_id(id)?.is_some()))?;
    dataset.clean()
}

/// Carries on with what was held; if that fails before the switch, it stays held. What remains to be tidied up once it is recorded,
/// the next recovery does as well.
pub(crate) fn apply_held(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    pending: &Recorded,
) -> Result<(), ReceiverError> {
    if drift::has_come(dataset, catalog)? {
        return Err(drop_for_drift(dataset, catalog, locked, pending)?);
    }
    catalog.index_contents()?;
    let lent = guard::aside::lend(dataset, pending);
    let committed = lent.and_then(|()| {
        cycle::commit(
            dataset,
            catalog,
            locked,
            (pending, Drift::Keep),
            &mut Stopwatch::default(),
        )
    });
    if let Err(error) = committed {
        if matches!(error, ReceiverError::Drifted(_)) {
            return Err(drop_for_drift(dataset, catalog, locked, pending)?);
        }
        if !is_live(dataset, pending)? {
            cycle::give_up_shadow(dataset, pending)?;
            dataset.clean()?;
        }
        return Err(error);
    }
    crash_point!("receiver.released");
    let tidied = guard::forget(dataset)
        .and_then(|()| guard::aside::drop_all(dataset))
        .and_then(|()| tidy(dataset, catalog));
    if let Err(error) = tidied {
        tracing::warn!(dataset = %dataset.name, "what was held is live and recorded, and not all of it is tidied up yet: {error}");
    }
    Ok(())
}

/// Drops what is held, for somebody changed the live tree for which it was made; returns what whoever released it is told.
fn drop_for_drift(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    pending: &Recorded,
) -> Result<ReceiverError, ReceiverError> {
    drift::step_aside(dataset, catalog, locked, pending)?;
    let name = &dataset.name;
    Ok(ReceiverError::Drifted(format!(
        "the held cycle of dataset `{name}` was made for another live tree: somebody has changed that since. What was changed is kept          (`understudy drift list {name}`), and what was held is dropped: the main sends it again with its next cycle, and it is held          then if it still looks like a loss"
    )))
}

/// The intent is complete and staging was synced before it: carry on, unless the power may have been cut while
/// staged files were being moved.
fn roll(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    pending: &Recorded,
) -> Result<(), ReceiverError> {
    // None: nothing of the shadow was changed for it yet, or it is built and on the disk.
    let applying = Applying::read(&dataset.control)?;
    // The shadow is being thrown away, and with it maybe what was staged: dropping the intent was interrupted.
    let is_given_up = |applying: &Applying| applying.to == 0;
    if applying.is_some_and(|applying| !applying.is_of_this_boot() || is_given_up(&applying)) {
        tracing::warn!(dataset = %dataset.name, "dropping an unfinished snapshot: the machine was restarted, or dropping it was interrupted");
        return cycle::abandon(dataset, catalog, pending);
    }
    if !catalog.has_digest(pending.snapshot.position)? {
        tracing::error!(dataset = %dataset.name, "dropping an unfinished snapshot: its entries in the catalog do not have its digest any more; run `understudy verify`");
        return cycle::abandon(dataset, catalog, pending);
    }
    if drift::has_come(dataset, catalog)? {
        return drift::step_aside(dataset, catalog, locked, pending);
    }
    tracing::info!(dataset = %dataset.name, "carrying on with a snapshot that was interrupted");
    catalog.index_contents()?;
    let committed = cycle::commit(
        dataset,
        catalog,
        locked,
        (pending, Drift::Keep),
        &mut Stopwatch::default(),
    );
    match committed {
        Ok(_) => Ok(()),
        Err(error) if is_live(dataset, pending)? => Err(error),
        Err(ReceiverError::Drifted(_)) => drift::step_aside(dataset, catalog, locked, pending),
        Err(error) => {
            tracing::warn!(dataset = %dataset.name, "dropping an unfinished snapshot: {error}");
            cycle::abandon(dataset, catalog, pending)
        }
    }
}

/// Whether the switch has happened: then there is no way back.
pub(crate) fn is_live(dataset: &Dataset, pending: &Recorded) -> Result<bool, ReceiverError> {
    match dataset.live()? {
        Some(live) => Ok(marker::read(&live)? == Some(pending.snapshot.position)),
        None => Ok(false),
    }
}

/// What is told of a live tree that is not the newest snapshot.
fn disagreement(
    dataset: &Dataset,
    catalog: &Catalog,
    head: Option<&Recorded>,
    live: Option<Position>,
) -> Result<ReceiverError, ReceiverError> {
    const ANEW: &str = "Move the dataset's directory aside and sync again to start a new one";
    let name = |position: Option<&Position>| {
        position.map_or("no snapshot".to_owned(), |position| {
            format!("snapshot {}", position.number)
        })
    };
    let head_name = name(head.map(|head| &head.snapshot.position));
    let text = match (head, live) {
        (Some(head), None) => {
            let lost = match dataset.live()? {
                Some(_) => {
                    "has no file SNAPSHOT any more, as if somebody had emptied or replaced it"
                }
                None => "is gone",
            };
            match reinstate::begin_of(dataset, catalog, head)? {
                Some(_) => format!(
                    "the live tree {lost}, and the other tree has {head_name}: `understudy verify --repair {}` puts that in its \
                     place, and keeps what still stands there",
                    dataset.name
                ),
                None => format!(
                    "the live tree {lost}, and the other tree is not whole, so that it cannot take its place. Nothing is \
                     changed. {ANEW}"
                ),
            }
        }
        (_, live) => format!(
            "the live tree is {}, the catalog ends with {head_name}; one of them was replaced or restored from another time. The \
             live tree is left as it is. {ANEW}",
            name(live.as_ref()),
        ),
    };
    Ok(ReceiverError::Damaged(text))
}
