//! The cycle of a commit after the intent is logged: catch up, build, sync, switch, record.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use understudy_protocol::Snapshot;
use understudy_protocol::message::Timing;
use understudy_tree::attributes::set_attributes;
use understudy_tree::{Lacking, TreeError, crash_point, node};

use crate::apply::{self, Contents, Transformation, Trust};
use crate::catalog::{Catalog, Recorded};
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::drift;
use crate::error::ReceiverError;
use crate::housekeeping::Stop;
use crate::marker::{self, Applying};
use crate::names;
use crate::rescue::rescue;
use crate::resolve::Handles;
use crate::serve::Drift;

/// How long each step took, for the agent's report.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    timings: Vec<Timing>,
}

impl Stopwatch {
    /// Runs and times a step.
    pub(crate) fn time<T>(&mut self, step: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.add(step, started.elapsed());
        result
    }

    /// Adds a step that took this long.
    pub(crate) fn add(&mut self, step: &str, elapsed: Duration) {
        let microseconds = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.timings.push(Timing {
            step: step.to_owned(),
            microseconds,
        });
    }

    pub(crate) fn into_timings(self) -> Vec<Timing> {
        self.timings
    }
}

/// Brings the shadow up to the newest committed snapshot, so that only the next operations are missing.
pub(crate) fn catch_up(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    stop: &Stop,
) -> Result<(), ReceiverError> {
    dataset.must_not_be_frozen()?;
    catch_up_from(dataset, catalog, locked, (Trust::Live, stop))
}

/// As [`catch_up`], where somebody may have changed the live tree: what only the shadow still has moves into history as well.
pub(crate) fn catch_up_doubting(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
) -> Result<(), ReceiverError> {
    let stop = Stop::default();
    catch_up_from(dataset, catalog, locked, (Trust::Nothing, &stop))
}

fn catch_up_from(
    dataset: &Dataset,
    catalog: &Catalog,
    _locked: &Locked,
    (trust, stop): (Trust, &Stop),
) -> Result<(), ReceiverError> {
    let Some(head) = catalog.head()? else {
        return throw_away(dataset);
    };
    let to = head.snapshot.position.number;
    let shows = marker::read(&dataset.shadow()?)?.map(|position| position.number);
    if shows == Some(to) {
        apply::retire_limbo(dataset)?;
        return Applying::finish(&dataset.control);
    }
    let from = match begin_of(dataset, to, shows)? {
        Some(from) => from,
        None => {
            dataset.wait_for_readers(&dataset.shadow()?)?;
            start_over(dataset, catalog, &head)?;
            0
        }
    };
    Applying::new(from, to).write(&dataset.control)?;
    match transform(dataset, catalog, &head, from, (Contents::Live, trust), stop) {
        // What leaves for history has left: the rest is where the live tree has it.
        Err(error) if from > 0 && is_torn(&error) && has_limbo(dataset)? => {
            tracing::warn!(dataset = %dataset.name, "the other tree is not what it should be, and is made anew: {error}");
            start_over(dataset, catalog, &head)?;
            Applying::new(0, to).write(&dataset.control)?;
            transform(dataset, catalog, &head, 0, (Contents::Live, trust), stop)?;
        }
        transformed => drop(transformed?),
    }
    Applying::finish(&dataset.control)?;
    // Rows of an upload that is just arriving are not there yet, or of a later snapshot.
    dataset.clean_patches(|id| {
        let row = catalog.row_by_id(id)?;
        Ok(row.is_none_or(|row| row.since > to))
    })?;
    crash_point!("receiver.caught-up");
    Ok(())
}

/// Makes the shadow the newest snapshot from what it is, or was before an interruption, with whatever the live tree still has. It is
/// durable when this returns, and never thrown away for an error.
pub(crate) fn bring_forward(
    dataset: &Dataset,
    catalog: &Catalog,
    head: &Recorded,
    from: u64,
) -> Result<(), ReceiverError> {
    let to = head.snapshot.position.number;
    if from < to {
        Applying::new(from, to).write(&dataset.control)?;
        let how = (Contents::Live, Trust::Nothing);
        transform(dataset, catalog, head, from, how, &Stop::default())?;
    }
    apply::retire_limbo(dataset)?;
    dataset.sync()?;
    Applying::finish(&dataset.control)
}

/// The snapshot from which the shadow, which shows `shows`, can be brought up to snapshot `to`; `None` if it must be made anew.
pub(crate) fn begin_of(
    dataset: &Dataset,
    to: u64,
    shows: Option<u64>,
) -> Result<Option<u64>, ReceiverError> {
    let applying = Applying::read(&dataset.control)?;
    Ok(match (&applying, shows) {
        (Some(applying), _) if applying.to == to && applying.is_of_this_boot() => {
            Some(applying.from)
        }
        // Whole as it was retired.
        (_, Some(number)) if number + 1 == to && !has_limbo(dataset)? => Some(number),
        // Interrupted by a restart of the machine: without a limbo at most some contents moved into history, and
        // the others are nowhere else yet.
        (Some(applying), None)
            if applying.to == to && applying.from > 0 && !has_limbo(dataset)? =>
        {
            Some(applying.from)
        }
        _ => None,
    })
}

/// Whether somebody else has changed the twin that an operation met.
fn is_torn(error: &ReceiverError) -> bool {
    let met = [Errno::EXIST, Errno::NOTEMPTY, Errno::ISDIR];
    matches!(error, ReceiverError::Tree(error)
        if error.is_gone() || error.errno().is_some_and(|errno| met.contains(&errno)))
}

/// Whether directories were on the move when a transformation was interrupted.
fn has_limbo(dataset: &Dataset) -> Result<bool, ReceiverError> {
    let control = &dataset.control;
    Ok(control.stat_if_present(&names::LIMBO)?.is_some()
        || control.stat_if_present(&names::LIMBO_FULL)?.is_some())
}

fn transform(
    dataset: &Dataset,
    catalog: &Catalog,
    target: &Recorded,
    from: u64,
    (contents, trust): (Contents, Trust),
    stop: &Stop,
) -> Result<Lacking, ReceiverError> {
    let shadow = dataset.shadow()?;
    let live = dataset.live()?;
    dataset.wait_for_readers(&shadow)?;
    marker::remove(&shadow)?;
    let transformation = Transformation {
        dataset,
        catalog,
        shadow: &shadow,
        live: live.as_ref(),
        from,
        to: target.snapshot.position.number,
        target: &target.snapshot,
        first_entry: target.first_entry,
        contents,
        trust,
        stop,
    };
    transformation.run()
}

/// Throws the shadow away; it is rebuilt from the live tree. What the newest snapshot has and only the shadow still does is kept.
fn start_over(dataset: &Dataset, catalog: &Catalog, head: &Recorded) -> Result<(), ReceiverError> {
    rescue(dataset, catalog, head, drift::grounds(dataset, head)?)?;
    drift::rebuilding(dataset)?;
    throw_away(dataset)
}

fn throw_away(dataset: &Dataset) -> Result<(), ReceiverError> {
    let control = &dataset.control;
    // Interrupted here, it starts over again: no snapshot has the number 0.
    Applying::new(0, 0).write(control)?;
    let trash = control.ensure_directory(&names::TRASH)?;
    understudy_tree::remove::empty(&trash)?;
    for name in [&names::SHADOW, &names::LIMBO, &names::LIMBO_FULL] {
        understudy_tree::remove::tree(control, name, &trash)?;
    }
    Applying::finish(control)?;
    dataset.shadow().map(drop)
}

/// Builds the pending snapshot in the shadow, which shows the newest committed one, and makes it live.
pub(crate) fn commit(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    (pending, strangers): (&Recorded, Drift),
    stopwatch: &mut Stopwatch,
) -> Result<Recorded, ReceiverError> {
    let mut pending = pending.clone();
    // The begin of the capture stays what it was: an intent may have waited for days.
    pending.snapshot.committed_seconds = now_seconds();
    let started = Instant::now();
    let lacking = build(dataset, catalog, locked, &pending)?;
    stopwatch.add("build", started.elapsed());
    if lacking != Lacking::default() {
        tracing::warn!(dataset = %dataset.name, ?lacking, "some owners, modes, attributes or devices cannot be set here; the catalog has them");
    }
    crash_point!("receiver.built");
    stopwatch.time("sync", || dataset.sync())?;
    // As long as this is there, a power cut may have met a build that was not on the disk yet.
    Applying::finish(&dataset.control)?;
    crash_point!("receiver.synced");
    if strangers == Drift::Keep {
        drift::refuse_late(dataset, catalog, &pending)?;
    }
    drift::built(dataset, pending.snapshot.position)?;
    let started = Instant::now();
    switch(dataset)?;
    stopwatch.add("switch", started.elapsed());
    finish(dataset, catalog, locked, &pending, stopwatch)
}

fn build(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    pending: &Recorded,
) -> Result<Lacking, ReceiverError> {
    let to = pending.snapshot.position.number;
    if marker::read(&dataset.shadow()?)? == Some(pending.snapshot.position) {
        // Built before an interruption.
        apply::retire_limbo(dataset)?;
        return Ok(Lacking::default());
    }
    let applying = Applying::read(&dataset.control)?;
    if !applying.is_some_and(|applying| applying.to == to && applying.is_of_this_boot()) {
        catch_up(dataset, catalog, locked, &Stop::default())?;
        Applying::new(to - 1, to).write(&dataset.control)?;
    }
    transform(
        dataset,
        catalog,
        pending,
        to - 1,
        (Contents::Staged, Trust::Live),
        &Stop::default(),
    )
}

/// Drops a pending snapshot.
pub(crate) fn abandon(
    dataset: &Dataset,
    catalog: &Catalog,
    pending: &Recorded,
) -> Result<(), ReceiverError> {
    give_up_shadow(dataset, pending)?;
    catalog.roll_back(pending)
}

/// A shadow that was being built for a pending snapshot which does not become live now is worth nothing any more.
pub(crate) fn give_up_shadow(dataset: &Dataset, pending: &Recorded) -> Result<(), ReceiverError> {
    let applying = Applying::read(&dataset.control)?;
    let shadow = dataset.shadow()?;
    let is_for_it =
        applying.is_some_and(|applying| applying.to == pending.snapshot.position.number);
    if is_for_it || marker::read(&shadow)? == Some(pending.snapshot.position) {
        Applying::new(0, 0).write(&dataset.control)?;
        marker::remove(&shadow)?;
    }
    Ok(())
}

/// The instant at which readers see the new snapshot. Durable when it returns; until then nobody may touch the
/// retired twin, which is still the live one on disk.
pub(crate) fn switch(dataset: &Dataset) -> Result<(), ReceiverError> {
    dataset.must_not_be_frozen()?;
    let (control, directory) = (&dataset.control, &dataset.directory);
    match control.exchange(&names::SHADOW, directory, &names::LIVE) {
        // The first snapshot: there is nothing to exchange with.
        Err(error) if error.is_gone() => {
            control.rename_new(&names::SHADOW, directory, &names::LIVE)?;
        }
        result => result?,
    }
    crash_point!("receiver.switched");
    dataset.sync_switch()?;
    crash_point!("receiver.switch-synced");
    Ok(())
}

/// What remains after the switch: metadata of files that both twins share, and the record.
pub(crate) fn finish(
    dataset: &Dataset,
    catalog: &Catalog,
    _locked: &Locked,
    pending: &Recorded,
    stopwatch: &mut Stopwatch,
) -> Result<Recorded, ReceiverError> {
    let started = Instant::now();
    if set_shared_metadata(dataset, catalog, pending)? > 0 {
        dataset.sync()?;
    }
    stopwatch.add("metadata", started.elapsed());
    crash_point!("receiver.metadata-set");
    stopwatch.time("record", || catalog.record(pending))?;
    crash_point!("receiver.recorded");
    Ok(pending.clone())
}

/// Whether an error is about the whole file system, not one entry.
fn is_of_the_disk(error: &TreeError) -> bool {
    matches!(error.errno(), Some(Errno::IO | Errno::ROFS))
}

/// Sets the new attributes of kept files; returns how many differed.
fn set_shared_metadata(
    dataset: &Dataset,
    catalog: &Catalog,
    pending: &Recorded,
) -> Result<u64, ReceiverError> {
    let Some(live) = dataset.live()? else {
        return Err(ReceiverError::Damaged(
            "the live tree is gone right after the switch".to_owned(),
        ));
    };
    let number = pending.snapshot.position.number;
    let mut handles = Handles::new(&live, catalog, number);
    let mut differing = 0;
    catalog.leaves_linked(number, pending.first_entry, |leaf| {
        if leaf.origin >= pending.first_entry {
            return Ok(());
        }
        let (new, old) = (catalog.row_by_id(leaf.id)?, catalog.row_by_id(leaf.origin)?);
        let (Some(new), Some(old)) = (new, old) else {
            return Ok(());
        };
        if new.entry.attributes == old.entry.attributes
            || !node::can_exist(&new.entry, &dataset.privileges)
        {
            return Ok(());
        }
        differing += 1;
        let set = handles.get(leaf.place.parent).and_then(|parent| {
            let privileges = &dataset.privileges;
            Ok(set_attributes(parent, &leaf.place.name, &new.entry, privileges)?)
        });
        match set {
            Ok(_) => Ok(()),
            Err(ReceiverError::Tree(error)) if is_of_the_disk(&error) => Err(error.into()),
            Err(error) => {
                // The switch has happened; one file must not keep the snapshot from being recorded.
                tracing::warn!(dataset = %dataset.name, "`{:?}` keeps its former attributes: {error}", leaf.place);
                Ok(())
            }
        }
    })?;
    Ok(differing)
}

/// The snapshot as the other side is told.
pub(crate) fn told(recorded: &Recorded) -> Snapshot {
    recorded.snapshot.clone()
}
