//! Carrying out what retention intends, so that a crash or a full disk at any moment leaves every listed snapshot whole.
//!
//! First one small transaction makes the snapshots go; from then on nobody can ask for them. Then objects go, then rows, both in
//! batches between which others may work on the dataset. Whatever is interrupted is found and finished by the next pass.

use std::time::{Duration, Instant};

use understudy_tree::crash_point;

use super::intent::{Intent, State};
use super::sweep::{self, Back, Garbage, Newest, Sweep};
use super::{Obstacle, ObstacleKind, Pruned, Request};
use super::{ballast, check};
use crate::catalog::{Catalog, Needed, RetentionChange, Swept};
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::housekeeping::Tidying;
use crate::peer::Peer;
use crate::store::Store;
use crate::{leftovers, recover};

/// How long a batch may hold the lock of the dataset: an upload waits for it for a second.
const TURN: Duration = Duration::from_millis(200);
/// Rows of one transaction.
const ROWS: usize = 1000;
/// Between two batches whoever waits for the lock gets it.
const PAUSE: Duration = Duration::from_millis(30);

/// The right to change the dataset for a moment. The lock goes first: whoever interrupted this wants it.
struct Turn<'a> {
    locked: Locked,
    tidying: Tidying<'a>,
}

/// How a phase ended.
enum End {
    Done,
    Stopped(Obstacle),
}

/// One dataset's.
pub(super) struct Removal<'a> {
    store: &'a Store,
    dataset: &'a Dataset,
    request: &'a Request<'a>,
}

impl<'a> Removal<'a> {
    pub(super) fn new(store: &'a Store, dataset: &'a Dataset, request: &'a Request<'a>) -> Self {
        Self {
            store,
            dataset,
            request,
        }
    }

    /// Does it all, as far as nothing comes in between.
    pub(super) fn run(&self) -> Result<Pruned, ReceiverError> {
        let Some(turn) = self.turn()? else {
            return Ok(Pruned::stopped(&self.dataset.name, busy()));
        };
        let started = match self.begin(&turn) {
            Err(error) if ballast::may_help(self.store, &error) => {
                self.make_room(&turn)?;
                self.begin(&turn)
            }
            started => started,
        };
        let (mut pruned, swept) = started?;
        drop(turn);
        if pruned.obstacle.is_none() && swept == Swept::Unfinished {
            pruned.obstacle = self.finish(&mut pruned)?;
        }
        ballast::keep(self.store, self.dataset);
        Ok(pruned)
    }

    /// Flags, and makes snapshots go.
    fn begin(&self, turn: &Turn<'_>) -> Result<(Pruned, Swept), ReceiverError> {
        let catalog = self.dataset.catalog(&turn.locked)?;
        recover::recover(self.dataset, &catalog, &turn.locked)?;
        // Again: a snapshot may have been committed or pinned since.
        let state = State::read(self.dataset, &catalog)?;
        // A verification may have ended since.
        let found = || check::findings(self.dataset);
        let obstacle = match state.clock_obstacle(self.request) {
            Some(obstacle) => Some(obstacle),
            None => found()?,
        };
        if let Some(obstacle) = obstacle {
            return Ok((Pruned::stopped(&self.dataset.name, obstacle), state.swept));
        }
        let mut intent = Intent::new(self.dataset, &state, self.request);
        let mut readers = None;
        if !intent.change.remove.is_empty() {
            readers = self.dataset.keep_readers_out()?;
            if readers.is_none() {
                intent.keep_all();
                let reason =
                    "a snapshot is being restored or compared: nothing is removed meanwhile";
                intent.pruned.obstacle = Some(Obstacle::new(ObstacleKind::Reader, reason));
            }
        }
        catalog.note_moment(self.request.moment)?;
        if intent.change != RetentionChange::default() {
            catalog.apply_retention(&intent.change)?;
            crash_point!("prune.recorded");
        }
        drop(readers);
        catalog.checkpoint()?;
        Ok((intent.pruned, catalog.swept()?))
    }

    /// Removes what belongs to no snapshot.
    fn finish(&self, pruned: &mut Pruned) -> Result<Option<Obstacle>, ReceiverError> {
        let Some(catalog) = self.dataset.read_catalog()? else {
            return Ok(None);
        };
        // Holds whatever is committed meanwhile, which is newer.
        let needed = needed(&catalog)?;
        drop(catalog);
        let mut end = self.sweep(pruned)?;
        if matches!(end, End::Done) {
            end = self.remove_rows(&needed)?;
        }
        match end {
            End::Done => self.count().map(|()| None),
            End::Stopped(obstacle) => Ok(Some(obstacle)),
        }
    }

    /// Counts what is left, if anybody has counted it before: an upload need not.
    fn count(&self) -> Result<(), ReceiverError> {
        let counted = match self.dataset.read_catalog()? {
            Some(reading) => reading.count_again()?,
            None => None,
        };
        if let (Some(counted), Some(turn)) = (counted, self.turn()?) {
            let catalog = self.dataset.catalog(&turn.locked)?;
            catalog.keep_count(&counted)?;
        }
        Ok(())
    }

    fn sweep(&self, pruned: &mut Pruned) -> Result<End, ReceiverError> {
        let Some(catalog) = self.dataset.read_catalog()? else {
            return Ok(End::Done);
        };
        let sweep = match sweep::plan(self.dataset, &catalog, &needed(&catalog)?)? {
            Ok(sweep) => sweep,
            Err(obstacle) => return Ok(End::Stopped(obstacle)),
        };
        drop(catalog);
        self.remove_objects(&sweep, pruned)
    }

    /// Removes what a sweep found, turn by turn, whatever is committed in between.
    fn remove_objects(&self, sweep: &Sweep, pruned: &mut Pruned) -> Result<End, ReceiverError> {
        let objects = Objects::open(&self.dataset.control)?;
        let mut left = sweep.garbage.iter();
        let mut back = Back::default();
        while !left.as_slice().is_empty() {
            let Some(turn) = self.turn()? else {
                return Ok(End::Stopped(busy()));
            };
            let Some(catalog) = self.dataset.read_catalog()? else {
                return Ok(End::Done);
            };
            let needed = needed(&catalog)?;
            let is_outdated = Newest::read(&catalog)? != sweep.newest;
            let is_back =
                |garbage: &Garbage| Ok(is_outdated && back.has(&catalog, &needed, garbage)?);
            self.remove_some(&objects, &mut left, (&turn, is_back), pruned)?;
            drop(catalog);
            // A power cut must not bring back what leads to something that is gone; nor may anybody build on it before.
            self.dataset.sync()?;
            drop(turn);
            if !left.as_slice().is_empty() {
                std::thread::park_timeout(PAUSE);
            }
        }
        Ok(End::Done)
    }

    /// Removes objects until the turn is over.
    fn remove_some(
        &self,
        objects: &Objects,
        left: &mut std::slice::Iter<'_, Garbage>,
        (turn, mut is_back): (
            &Turn<'_>,
            impl FnMut(&Garbage) -> Result<bool, ReceiverError>,
        ),
        pruned: &mut Pruned,
    ) -> Result<(), ReceiverError> {
        let started = Instant::now();
        for garbage in left {
            if !is_back(garbage)? {
                crash_point!("prune.object");
                objects.remove(garbage.hash, garbage.form)?;
                pruned.freed.add(garbage.freed);
            }
            if started.elapsed() > TURN || turn.tidying.stop.is_asked_for() {
                break;
            }
        }
        Ok(())
    }

    fn remove_rows(&self, needed: &Needed) -> Result<End, ReceiverError> {
        let (mut gap, mut owner) = (0, None);
        loop {
            let Some(turn) = self.turn()? else {
                return Ok(End::Stopped(busy()));
            };
            let catalog = self.dataset.catalog(&turn.locked)?;
            let started = Instant::now();
            loop {
                if !catalog.remove_rows(needed, &mut gap, ROWS)?
                    && !catalog.remove_owners(needed, &mut owner, ROWS)?
                {
                    note_swept(&catalog, needed)?;
                    return Ok(End::Done);
                }
                crash_point!("prune.rows");
                catalog.checkpoint()?;
                if started.elapsed() > TURN || turn.tidying.stop.is_asked_for() {
                    break;
                }
            }
            drop(catalog);
            drop(turn);
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Waits for the lock for a moment.
    fn turn(&self) -> Result<Option<Turn<'a>>, ReceiverError> {
        match self.dataset.lock_patiently() {
            Ok(locked) => Ok(Some(Turn {
                locked,
                tidying: self.store.housekeeping.begin(&self.dataset.name),
            })),
            Err(ReceiverError::Busy(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives up what nobody will miss; the ballast only if that is not enough.
    fn make_room(&self, turn: &Turn<'_>) -> Result<(), ReceiverError> {
        leftovers::drop_all(self.dataset, &turn.locked)?;
        self.store.drop_all_leftovers(&Peer::Operator)?;
        if ballast::is_full(self.store) {
            self.dataset.drop_ballast()?;
        }
        Ok(())
    }
}

/// What the twins alone still need is looked at again by the next pass, and so is what became of a change meanwhile.
fn note_swept(catalog: &Catalog, swept: &Needed) -> Result<(), ReceiverError> {
    let head = catalog
        .head()?
        .map_or(0, |head| head.snapshot.position.number);
    let is_twin_listed = head <= 1 || catalog.snapshot(head - 1)?.is_some();
    if is_twin_listed && needed(catalog)? == *swept {
        catalog.note_swept()?;
    }
    catalog.checkpoint()
}

/// The snapshots that there are, and what the twins are made of.
fn needed(catalog: &Catalog) -> Result<Needed, ReceiverError> {
    let snapshots = catalog.snapshots()?;
    let numbers = snapshots.iter().map(|one| one.snapshot.position.number);
    let head = snapshots
        .last()
        .map_or(0, |head| head.snapshot.position.number);
    Ok(Needed::new(numbers, head))
}

fn busy() -> Obstacle {
    let reason =
        "somebody is working on the dataset, an upload for instance: the rest follows later";
    Obstacle::new(ObstacleKind::Busy, reason)
}

#[cfg(test)]
mod tests;
