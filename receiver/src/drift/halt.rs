//! Drift that nobody undoes before a person has looked: the file `halted` of a dataset says which drift point nothing may be laid over, or which
//! one a person has accepted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_protocol::{DatasetName, Role};

use crate::access::existing;
use crate::catalog::Catalog;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::store::Store;
use crate::{names, sealed};

const LIMIT_BYTES: u64 = 4096;

/// What becomes of a dataset into whose live tree somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDrift {
    /// The main's cycle undoes it, once it is kept.
    #[default]
    KeepAndHeal,
    /// It is kept, and nothing is taken from the main until a person says so.
    Halt,
}

/// The same for all datasets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriftRules {
    /// Of those that have no rule of their own.
    pub common: OnDrift,
    /// Of single ones.
    pub datasets: BTreeMap<DatasetName, OnDrift>,
}

impl DriftRules {
    /// That of a dataset.
    pub fn of(&self, dataset: &DatasetName) -> OnDrift {
        *self.datasets.get(dataset).unwrap_or(&self.common)
    }
}

/// A drift point by its number, and what a person has said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Note {
    Halted(u64),
    Accepted(u64),
}

fn read(dataset: &Dataset) -> Result<Option<Note>, ReceiverError> {
    match sealed::read(&dataset.control, &names::HALTED, LIMIT_BYTES) {
        // Then the rule decides anew, which halts at worst.
        Err(ReceiverError::Damaged(_)) => Ok(None),
        note => note,
    }
}

fn write(dataset: &Dataset, note: Note) -> Result<(), ReceiverError> {
    sealed::write(&dataset.control, &names::HALTED, &note)
}

/// The drift point that the live tree of a spare shows.
fn live_point(dataset: &Dataset, catalog: &Catalog) -> Result<Option<u64>, ReceiverError> {
    if dataset.standing()?.role != Role::Spare {
        return Ok(None);
    }
    let head = catalog.head()?.map(|head| head.snapshot.position.number);
    let points = catalog.drift_points()?;
    Ok(head.filter(|head| points.binary_search(head).is_ok()))
}

/// Refuses an upload that would undo drift over which a person is to decide. What halts a dataset once does so until it is accepted, whatever
/// the rule says by then. The dataset is locked and recovered.
pub(crate) fn check(
    dataset: &Dataset,
    catalog: &Catalog,
    rule: OnDrift,
) -> Result<(), ReceiverError> {
    let Some(number) = live_point(dataset, catalog)? else {
        return Ok(());
    };
    match (read(dataset)?, rule) {
        (Some(Note::Accepted(accepted)), _) if accepted == number => return Ok(()),
        (Some(Note::Halted(halted)), _) if halted == number => {}
        (_, OnDrift::KeepAndHeal) => return Ok(()),
        (_, OnDrift::Halt) => write(dataset, Note::Halted(number))?,
    }
    Err(ReceiverError::Refused(told(&dataset.name, number)))
}

/// Why nothing is taken from the main, if drift is the reason.
pub(crate) fn standing(
    dataset: &Dataset,
    catalog: &Catalog,
) -> Result<Option<String>, ReceiverError> {
    let Some(Note::Halted(halted)) = read(dataset)? else {
        return Ok(None);
    };
    let live = live_point(dataset, catalog)?;
    Ok((live == Some(halted)).then(|| told(&dataset.name, halted)))
}

fn told(name: &DatasetName, number: u64) -> String {
    format!(
        "dataset `{name}` is halted: somebody has changed the live tree on the spare, which is kept as snapshot {number}, and nothing is taken \
         from the main until a person has looked: on the spare, `understudy drift show {name} {number}` lists it, and `understudy drift accept \
         {name} {number}` lets the main's next cycle undo it"
    )
}

/// The drift point with this number halts nothing: whoever made it knows of it. The dataset is locked.
pub(crate) fn pass(dataset: &Dataset, number: u64) -> Result<(), ReceiverError> {
    write(dataset, Note::Accepted(number))
}

/// Lets the main's next cycle undo the drift point that the live tree shows; durable when it returns. Says whether the dataset was halted by it.
pub fn accept(store: &Store, name: &DatasetName, number: u64) -> Result<bool, ReceiverError> {
    let dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    match live_point(&dataset, &catalog)? {
        Some(live) if live == number => {}
        Some(live) => {
            return Err(ReceiverError::NotFound(format!(
                "the live tree of dataset `{name}` shows drift point {live}, and not {number}"
            )));
        }
        None => {
            return Err(ReceiverError::NotFound(format!(
                "the live tree of dataset `{name}` shows no drift point: there is nothing to accept"
            )));
        }
    }
    let was_halted = read(&dataset)? == Some(Note::Halted(number));
    write(&dataset, Note::Accepted(number))?;
    Ok(was_halted)
}
