//! What whoever decides over a promotion must know.

use understudy_protocol::{DatasetName, Snapshot, Standing};

use super::preserve::{self, Preserved};
use super::{Hooks, fence, heard, note};
use crate::access::existing;
use crate::dataset::now_seconds;
use crate::error::ReceiverError;
use crate::guard::{self, Held};
use crate::handover::{self, Handed};
use crate::rehearsal::{self, Rehearsed};
use crate::store::Store;
use crate::{findings, health};

/// Where a dataset stands at one moment.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The dataset.
    pub dataset: DatasetName,
    /// Which part this host plays now.
    pub standing: Standing,
    /// The newest snapshot; `None` if there is none.
    pub newest: Option<Snapshot>,
    /// When its capture, or the newest confirmation of it, began: by the receiver's clock, seconds since 1970.
    pub as_of_seconds: Option<i64>,
    /// When the main last came, whatever came of it, by the same clock.
    pub heard_seconds: Option<i64>,
    /// What the main has said, if it has handed over and nothing came since.
    pub handed: Option<Handed>,
    /// The cycle that is held.
    pub held: Option<Held>,
    /// Findings of verifications and scrubs that nobody has accepted.
    pub findings: u64,
    /// The first of them, for people.
    pub damage: Option<String>,
    /// Whether somebody works on the dataset, which mostly is an upload.
    pub is_busy: bool,
    /// Whether a promotion is running.
    pub is_being_promoted: bool,
    /// What became of the hooks, if this host was promoted.
    pub hooks: Option<Hooks>,
    /// How much of the promoted snapshot is kept apart from what the application changes, if this host was promoted.
    pub preserved: Option<Preserved>,
    /// What the last practice showed, if there was one.
    pub rehearsed: Option<Rehearsed>,
    /// The receiver's clock.
    pub now_seconds: i64,
}

impl Facts {
    /// What was written on the main in so many seconds is lost by a promotion, if it cannot be brought any more.
    pub fn lost_seconds(&self) -> Option<i64> {
        let as_of = self.as_of_seconds?;
        Some(self.now_seconds.saturating_sub(as_of).max(0))
    }

    /// For how many seconds nothing was heard of the main.
    pub fn silent_seconds(&self) -> Option<i64> {
        let heard = self.heard_seconds?;
        Some(self.now_seconds.saturating_sub(heard).max(0))
    }
}

/// The facts of a dataset, which must be there.
pub fn facts(store: &Store, name: &DatasetName) -> Result<Facts, ReceiverError> {
    let dataset = existing(store, name)?;
    let standing = dataset.standing()?;
    let (mut newest, mut as_of_seconds, mut held) = (None, None, None);
    if let Some(catalog) = dataset.read_catalog()? {
        let head = catalog.head()?;
        as_of_seconds = head.as_ref().map(|head| head.as_of_seconds);
        as_of_seconds = as_of_seconds.max(catalog.confirmed_seconds()?);
        held = guard::standing(&dataset, catalog.pending()?.as_ref())?;
        newest = head.map(|head| head.snapshot);
    }
    let heard_seconds = heard::seconds(&dataset)?.max(as_of_seconds);
    Ok(Facts {
        dataset: name.clone(),
        standing,
        newest,
        as_of_seconds,
        heard_seconds,
        handed: handover::handed(store, name)?,
        held,
        findings: findings::read(&dataset.control)?.open(),
        damage: health::trouble(&dataset)?,
        is_busy: dataset.is_locked(),
        is_being_promoted: fence::look(&dataset).is_err(),
        hooks: note::hooks(&dataset, standing.epoch),
        preserved: preserve::read(&dataset, standing.epoch)?,
        rehearsed: rehearsal::last(store, name)?,
        now_seconds: now_seconds(),
    })
}
