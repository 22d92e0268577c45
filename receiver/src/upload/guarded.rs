//! What the guards have to say of an upload, and what they note of it.

use understudy_protocol::{Position, limits};

use super::Session;
use crate::catalog::Upload;
use crate::error::ReceiverError;
use crate::guard::{self, Held, Verdict};
use crate::serve::Deletions;
use crate::workers::Ground;

/// A main that lost everything looks like this: nothing but the roots.
const ONLY_ROOTS: u64 = 2;

impl Session<'_, '_> {
    /// What one main may have of the spare.
    pub(super) fn check_limits(&self, upload: &Upload<'_>) -> Result<(), ReceiverError> {
        if let Some(budget) = self.ground.budget {
            budget.check_whole(upload.brings())?;
        }
        // There are no more of them than entries, and those are counted already.
        let catalog = self.ground.catalog;
        if upload.entries() > limits::DIRECTORIES
            && catalog.directory_count()? > limits::DIRECTORIES
        {
            return Err(ReceiverError::Quota(format!(
                "a snapshot may have {} directories, and this one has more: nothing was changed",
                limits::DIRECTORIES
            )));
        }
        if catalog.snapshot_count()? < limits::SNAPSHOTS {
            return Ok(());
        }
        Err(ReceiverError::Quota(format!(
            "dataset `{}` has {} snapshots, and may have no more: older ones go by the spare's retention, or sooner if that is told \
             to keep fewer",
            self.ground.dataset.name,
            limits::SNAPSHOTS
        )))
    }

    /// The upload has ended, whatever came of it: the main's other uploads may have what it leaves.
    pub(super) fn end_budget(&self) {
        let Ground {
            dataset,
            catalog,
            budget,
            ..
        } = self.ground;
        if let Some(Err(error)) = budget.map(|budget| budget.end(catalog)) {
            tracing::warn!(dataset = %dataset.name, "cannot note what it takes: {error}");
        }
    }

    /// Absence never deletes: a source without any entry is a source that is not there.
    pub(super) fn guard(&self, upload: &Upload<'_>) -> Result<(), ReceiverError> {
        let had = upload.base().map_or(0, |base| base.snapshot.entries);
        let is_emptied = upload.entries() <= 1 && had > ONLY_ROOTS;
        match self.options.deletions {
            Deletions::Guard if is_emptied => Err(ReceiverError::Refused(format!(
                "the source of dataset `{}` is empty now, the last snapshot has {had} entries; \
                 nothing was changed on the spare",
                self.ground.dataset.name
            ))),
            _ => Ok(()),
        }
    }

    /// What the change set would harm, if that is too much.
    pub(super) fn judge(&self, upload: &Upload<'_>) -> Result<Option<Verdict>, ReceiverError> {
        let Ground {
            dataset, catalog, ..
        } = self.ground;
        match (upload.base(), self.options.deletions) {
            (Some(base), Deletions::Guard) => {
                let thresholds = self.options.guards.of(&dataset.name);
                let moved = guard::root::moved(dataset, self.root.as_ref())?;
                let how = (thresholds, moved);
                guard::judge(dataset, catalog, base, upload.first_entry(), how)
            }
            _ => Ok(None),
        }
    }

    /// Notes that the upload is held, if it is to be, in the place of what is.
    pub(super) fn hold(
        &self,
        verdict: Option<Verdict>,
        position: Position,
    ) -> Result<Option<Held>, ReceiverError> {
        let dataset = self.ground.dataset;
        match (verdict, self.held) {
            // The same again.
            (Some(_), Some(held)) if held.digest == position.fingerprint => {
                Err(guard::tell(&dataset.name, held))
            }
            (Some(verdict), former) => {
                guard::hold(dataset, position, (verdict, self.root), former).map(Some)
            }
            (None, _) => Ok(None),
        }
    }

    /// The source is whole again: what was held of it is of no interest to anybody.
    pub(super) fn end_hold(&self) -> Result<(), ReceiverError> {
        let dataset = self.ground.dataset;
        if self.held.is_none() {
            return Ok(());
        }
        tracing::info!(dataset = %dataset.name, "what was held is dropped: a later cycle harms little");
        guard::forget(dataset)?;
        guard::aside::drop_all(dataset)
    }

    /// The snapshot is there; what cannot be noted now is noted by the next cycle.
    pub(super) fn keep_root(&self, number: u64) {
        let dataset = self.ground.dataset;
        if let Err(error) = guard::root::keep(dataset, number, self.root.as_ref()) {
            tracing::warn!(dataset = %dataset.name, "cannot note which directory the source is: {error}");
        }
    }
}
