//! What is known of the promotion of a dataset beside its standing: whether the hooks have run, and what they printed.

use serde::{Deserialize, Serialize};
use understudy_tree::durable::{self, Durability};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::{names, sealed};

const LIMIT_BYTES: u64 = 64 << 10;
/// So much of what hooks print is kept: the newest.
const LOG_BYTES: usize = 256 << 10;

/// What became of the commands that a promotion runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hooks {
    /// They have not run to their end.
    Due,
    /// All of them succeeded, or there are none.
    Done,
    /// One failed.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    epoch: u64,
    hooks: Hooks,
}

/// What became of the hooks of a promotion to this epoch; `None` if nothing is known of one.
pub(super) fn hooks(dataset: &Dataset, epoch: u64) -> Option<Hooks> {
    let note: Option<Note> =
        sealed::read(&dataset.control, &names::PROMOTION, LIMIT_BYTES).unwrap_or(None);
    note.filter(|note| note.epoch == epoch)
        .map(|note| note.hooks)
}

/// Writes it down; durable when it returns.
pub(super) fn write(dataset: &Dataset, epoch: u64, hooks: Hooks) -> Result<(), ReceiverError> {
    sealed::write(&dataset.control, &names::PROMOTION, &Note { epoch, hooks })
}

/// Adds to what hooks printed before.
pub(super) fn log(dataset: &Dataset, text: &[u8]) -> Result<(), ReceiverError> {
    let control = &dataset.control;
    let before = durable::read(control, &names::HOOKS_LOG, 2 * LOG_BYTES as u64)?;
    let mut log = before.unwrap_or_default();
    log.extend_from_slice(text);
    let kept = &log[log.len().saturating_sub(LOG_BYTES)..];
    Ok(durable::replace(
        control,
        &names::HOOKS_LOG,
        kept,
        Durability::Later,
    )?)
}
