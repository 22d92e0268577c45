//! Making a snapshot of the tree that stands at `live`, without copying anything: what somebody else wrote there becomes the newest
//! snapshot. `docs/storage.md` says in which order, and what a crash leaves.

mod examine;
mod linked;
mod rows;
mod tally;
mod walk;
mod work;

use understudy_protocol::{Place, Position, Snapshot, Timestamp};
use understudy_tree::{Directory, attributes::set_attributes, crash_point};

use crate::catalog::{Catalog, Fate, Nature, PinRow, Recorded, Telling, Upload};
use crate::cycle;
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::drift;
use crate::error::ReceiverError;
use crate::guard;
use crate::marker;
use crate::names;
use work::{Ground, Writer, take};

pub(crate) use examine::{Examined as Looked, examine as look_at};
pub(crate) use tally::Tally;
pub(crate) use walk::{Found, Grounds, Suspect, Walk};

/// How a tree is absorbed.
#[derive(Debug)]
pub(crate) struct AbsorbOptions {
    /// Of the new snapshot.
    pub(crate) epoch: u64,
    pub(crate) nature: Nature,
    /// Why it is pinned; what was found follows after a colon.
    pub(crate) pin: Option<String>,
    pub(crate) as_of: AsOf,
    /// The first snapshot of a dataset gets at least this number.
    pub(crate) least_number: u64,
    /// Directories that were not touched since then hold the files that they held; `None` if nobody knows.
    pub(crate) sound_until: Option<Timestamp>,
}

/// Of which moment the new snapshot is, for whoever asks how far behind the spare is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// Of now.
    Now,
    /// Of that of the snapshot before: the main has nothing to do with it.
    Before,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Absorption {
    pub(crate) recorded: Recorded,
    pub(crate) tally: Tally,
}

/// Makes the live tree the newest snapshot, if it is another; `None` if it is that already. Recover before. When it returns, the snapshot is
/// recorded and durable, and the other twin shows the one before.
pub(crate) fn absorb(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    options: &AbsorbOptions,
) -> Result<Option<Absorption>, ReceiverError> {
    let Some(live) = dataset.live()? else {
        return Ok(None);
    };
    let sealed = find(dataset, catalog, locked, (&live, options))?;
    let Some((pending, tally)) = sealed else {
        return Ok(None);
    };
    crash_point!("absorb.sealed");
    let recorded = settle(dataset, catalog, &live, &pending)?;
    Ok(Some(Absorption { recorded, tally }))
}

/// Makes rows of what is found, and seals them; `None` if nothing differs.
fn find(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    (live, options): (&Directory, &AbsorbOptions),
) -> Result<Option<(Recorded, Tally)>, ReceiverError> {
    let head = catalog.head()?;
    let twin = match &head {
        Some(_) => {
            catalog.index_contents()?;
            cycle::catch_up_doubting(dataset, catalog, locked)?;
            Some(dataset.shadow()?)
        }
        None => None,
    };
    restore_roots(dataset, catalog, live, head.as_ref())?;
    let reader = catalog.reader()?;
    let base = head
        .as_ref()
        .map(|head| (&reader, head.snapshot.position.number));
    let is_held = catalog.is_pending_held()?;
    let mut upload = catalog.upload()?;
    upload.begin_at(options.least_number);
    let ground = Ground {
        live,
        twin: twin.as_ref(),
        base,
        privileges: dataset.privileges,
        grounds: Grounds {
            sound_until: options.sound_until,
            // The other twin has just caught up.
            rebuilt: drift::rebuilt(dataset)?,
        },
    };
    let mut rows = Writer::new(&mut upload);
    let tally = take(ground, catalog, &mut rows)?;
    if rows.is_empty && head.is_some() {
        return Ok(None);
    }
    upload.settle()?;
    let pending = seal(&mut upload, (catalog, head.as_ref()), options, &tally)?;
    drop(upload);
    if is_held {
        tracing::warn!(dataset = %dataset.name, "what was held is dropped: the live tree is another one than it was made for; the main sends it again");
        guard::forget(dataset)?;
        guard::aside::drop_all(dataset)?;
    }
    Ok(Some((pending, tally)))
}

/// What must be there, and may have been removed: without it nothing else could be told.
fn restore_roots(
    dataset: &Dataset,
    catalog: &Catalog,
    live: &Directory,
    head: Option<&Recorded>,
) -> Result<(), ReceiverError> {
    let Some(head) = head else {
        return Ok(());
    };
    for name in [&*names::FILES, &*names::DATABASES] {
        let place = Place::new(understudy_protocol::DirectoryId::TOP, name.clone());
        let Some(row) = catalog.row(&place, head.snapshot.position.number)? else {
            continue;
        };
        if live.stat_if_present(name)?.is_none() {
            live.create_directory(name)?;
            set_attributes(live, name, &row.entry, &dataset.privileges)?;
        }
    }
    Ok(())
}

/// Proves the rows and makes them an intent that is worth something only once the marker is written.
fn seal(
    upload: &mut Upload<'_>,
    (catalog, head): (&Catalog, Option<&Recorded>),
    options: &AbsorbOptions,
    tally: &Tally,
) -> Result<Recorded, ReceiverError> {
    let now = now_seconds();
    let as_of_seconds = match (options.as_of, head) {
        (AsOf::Before, Some(head)) => catalog
            .confirmed_seconds()?
            .unwrap_or(head.as_of_seconds)
            .max(head.as_of_seconds),
        _ => now,
    };
    let pending = Recorded {
        snapshot: Snapshot {
            position: Position {
                epoch: options.epoch,
                number: upload.number(),
                fingerprint: upload.fingerprint(),
            },
            committed_seconds: now,
            entries: 0,
            bytes: 0,
        },
        as_of_seconds,
        first_entry: 0,
    };
    let pin = options.pin.as_ref().map(|reason| PinRow {
        snapshot: upload.number(),
        reason: format!("{reason}: {}", tally.text()),
        since_seconds: now,
    });
    upload.tell_absorbed(options.nature, pin.as_ref())?;
    upload.seal(pending, Telling::All, Fate::Absorbed)
}

/// Writes the marker and records the snapshot. What was found must be on the disk before the marker says so.
fn settle(
    dataset: &Dataset,
    catalog: &Catalog,
    live: &Directory,
    pending: &Recorded,
) -> Result<Recorded, ReceiverError> {
    let marked = dataset
        .sync()
        .and_then(|()| marker::write(live, &pending.snapshot))
        .and_then(|()| {
            crash_point!("absorb.marked");
            dataset.sync()
        });
    if let Err(error) = marked {
        if marker::read(live)? != Some(pending.snapshot.position) {
            catalog.roll_back(pending)?;
        }
        return Err(error);
    }
    crash_point!("absorb.synced");
    catalog.record(pending)?;
    crash_point!("absorb.recorded");
    catalog.checkpoint()?;
    Ok(pending.clone())
}

#[cfg(test)]
mod tests;
