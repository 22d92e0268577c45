//! A planned switch: a main that stops, so that its spare can take over and nothing is lost. What the main says about that is noted on the
//! spare, for whoever promotes; where the main's source is the live tree of a store on its own host, its role is written there.

use serde::{Deserialize, Serialize};
use understudy_protocol::message::HandOver;
use understudy_protocol::{DatasetName, Position, Role, Standing, limits};

use crate::access::existing;
use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::store::Store;
use crate::{names, role, sealed};

const LIMIT_BYTES: u64 = 4096;

/// A main has handed a dataset over to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// In which it was the main.
    pub epoch: u64,
    /// The newest snapshot, which is all that it had.
    pub position: Position,
    /// When this host was told, by its clock: seconds since 1970.
    pub since_seconds: i64,
}

/// Notes what a main says of a dataset, which must be as it says.
pub(crate) fn note(dataset: &Dataset, told: &HandOver) -> Result<(), ReceiverError> {
    let _locked = dataset.lock_patiently()?;
    let standing = dataset.standing()?;
    if standing.role != Role::Spare || standing.epoch != told.epoch {
        return Err(role::fenced(&dataset.name, &standing, told.epoch));
    }
    let Some(position) = told.position else {
        return forget(dataset);
    };
    if newest(dataset)? != Some(position) {
        return Err(ReceiverError::OutOfStep(format!(
            "the newest snapshot of dataset `{}` is not the one with which the main hands over",
            dataset.name
        )));
    }
    let handed = Handed {
        epoch: told.epoch,
        position,
        since_seconds: now_seconds(),
    };
    sealed::write(&dataset.control, &names::HANDED, &handed)
}

fn forget(dataset: &Dataset) -> Result<(), ReceiverError> {
    match dataset.control.remove_file(&names::HANDED) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(dataset.control.sync()?),
    }
}

fn newest(dataset: &Dataset) -> Result<Option<Position>, ReceiverError> {
    let Some(catalog) = dataset.read_catalog()? else {
        return Ok(None);
    };
    Ok(catalog.head()?.map(|head| head.snapshot.position))
}

/// What the main has said, if it still holds: it has handed over in the present epoch, with what is the newest snapshot now.
pub fn handed(store: &Store, name: &DatasetName) -> Result<Option<Handed>, ReceiverError> {
    let dataset = existing(store, name)?;
    let known = match sealed::read::<Handed>(&dataset.control, &names::HANDED, LIMIT_BYTES) {
        // Then whoever promotes is told of what may be lost, as ever.
        Err(ReceiverError::Damaged(_)) => None,
        known => known?,
    };
    let Some(handed) = known else {
        return Ok(None);
    };
    let is_so =
        handed.epoch == dataset.standing()?.epoch && newest(&dataset)? == Some(handed.position);
    Ok(is_so.then_some(handed))
}

/// What becomes of a main whose source is in a store of its own host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It stops; its spare has this snapshot, which is all.
    HandOver(Position),
    /// It goes on.
    TakeBack,
}

/// Writes down what becomes of this host's part in a dataset of which it is the main, or has handed it over: of this epoch, or, if it takes that back, of the one
/// that its spare knows. Durable when it
/// returns.
pub fn turn(
    store: &Store,
    name: &DatasetName,
    epoch: u64,
    turn: Turn,
) -> Result<Standing, ReceiverError> {
    let dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    let standing = dataset.standing()?;
    let may = matches!(standing.role, Role::Main | Role::HandedOver);
    let is_its_epoch = match turn {
        Turn::HandOver(_) => standing.epoch == epoch,
        // A spare that was promoted by mistake, and demoted again, is in a later one.
        Turn::TakeBack => standing.epoch <= epoch && epoch <= limits::EPOCH,
    };
    if !may || !is_its_epoch {
        return Err(role::fenced(name, &standing, epoch));
    }
    let (role, snapshot) = match turn {
        Turn::HandOver(position) => (Role::HandedOver, Some(position)),
        Turn::TakeBack => (Role::Main, standing.snapshot),
    };
    if (standing.role, standing.epoch) == (role, epoch) {
        return Ok(standing);
    }
    let next = Standing {
        role,
        epoch,
        since_seconds: now_seconds(),
        snapshot,
    };
    dataset.stand(&next, &locked)?;
    Ok(next)
}
