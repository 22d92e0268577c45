//! A live tree that somebody has emptied or taken away, of which the other twin has the snapshot, or the one before: the other twin
//! takes its place, and what still stands there is kept.
//!
//! Recovery never does this by itself: only who asks for a repair says that the tree was not meant to go.

use understudy_tree::{Kind, crash_point};

use crate::catalog::{Catalog, Recorded};
use crate::cycle;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::repair::room_to_keep;
use crate::{marker, names};

/// Whether the live tree is no snapshot at all, of whichever time, although there is one.
pub(crate) fn is_lost(dataset: &Dataset) -> Result<bool, ReceiverError> {
    let Some(catalog) = dataset.read_catalog()? else {
        return Ok(false);
    };
    Ok(catalog.head()?.is_some() && !is_snapshot(dataset)?)
}

fn is_snapshot(dataset: &Dataset) -> Result<bool, ReceiverError> {
    match dataset.live()? {
        Some(live) => Ok(marker::read(&live)?.is_some()),
        None => Ok(false),
    }
}

/// The snapshot from which the other twin can be made the newest one without a live tree, which is that one if it shows it; `None` if
/// it cannot.
pub(crate) fn begin_of(
    dataset: &Dataset,
    catalog: &Catalog,
    head: &Recorded,
) -> Result<Option<u64>, ReceiverError> {
    let newest = head.snapshot.position;
    let shows = marker::read(&dataset.shadow()?)?;
    if shows == Some(newest) {
        return Ok(Some(newest.number));
    }
    let number = shows.map(|position| position.number);
    let from = cycle::begin_of(dataset, newest.number, number)?;
    let (Some(from), Some(shows)) = (from.filter(|from| *from > 0), shows) else {
        return Ok(from.filter(|from| *from > 0));
    };
    // Retention may have let go of it, and not of its rows.
    let known = catalog.snapshot(from)?;
    let is_it = known.is_none_or(|known| known.snapshot.position == shows);
    Ok(is_it.then_some(from))
}

/// Puts the other twin in the place of a live tree that is no snapshot; returns what is to be told, `None` if the live tree is one, or
/// the other twin cannot take its place. It is durable when this returns.
///
/// Names of which neither twin had the content are missing then, as from any damaged tree.
pub(crate) fn reinstate(
    dataset: &Dataset,
    locked: &Locked,
) -> Result<Option<String>, ReceiverError> {
    let catalog = dataset.catalog(locked)?;
    let Some(head) = catalog.head()? else {
        return Ok(None);
    };
    if is_snapshot(dataset)? {
        return Ok(None);
    }
    let Some(from) = begin_of(dataset, &catalog, &head)? else {
        return Ok(None);
    };
    let mut kept = keep_live(dataset, Standing::NoDirectory)?;
    dataset.directory.ensure_directory(&names::LIVE)?;
    cycle::bring_forward(dataset, &catalog, &head, from)?;
    crash_point!("receiver.reinstating");
    kept = keep_live(dataset, Standing::NotEmpty)?.or(kept);
    crash_point!("receiver.live-kept");
    cycle::switch(dataset)?;
    let kept = kept.map_or(String::new(), |kept| {
        format!("; what still stood there was moved to `{kept}`")
    });
    Ok(Some(format!(
        "the live tree was no snapshot any more, and the other tree has taken its place{kept}"
    )))
}

/// What is kept of what stands in the place of the live tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Anything but a directory.
    NoDirectory,
    /// Anything but an empty directory.
    NotEmpty,
}

/// Keeps what stands in the place of the live tree; returns where that is.
fn keep_live(dataset: &Dataset, what: Standing) -> Result<Option<String>, ReceiverError> {
    let Some(stat) = dataset.directory.stat_if_present(&names::LIVE)? else {
        return Ok(None);
    };
    if stat.kind == Kind::Directory {
        let is_empty = || -> Result<bool, ReceiverError> {
            let live = dataset.live()?;
            let names = live.map(|live| live.names()).transpose()?;
            Ok(names.is_none_or(|names| names.is_empty()))
        };
        if what == Standing::NoDirectory || is_empty()? {
            return Ok(None);
        }
    }
    let (to, told) = room_to_keep(dataset, &names::LIVE, 0)?;
    dataset
        .directory
        .rename_new(&names::LIVE, &to, &names::LIVE)?;
    to.sync()?;
    Ok(Some(told.place))
}
