//! Removing what is gone: from the pending state with all it held, and from the spare by one message each.

use understudy_protocol::{DirectoryId, Place};

use super::Scan;
use super::findings::{Findings, Spot};
use super::stands::Stand;
use super::worker::Worker;
use crate::error::AgentError;

/// Applies what was found missing, displaced and moved since the last call.
pub(super) fn apply(scan: &Scan<'_>, findings: &mut Findings) -> Result<(), AgentError> {
    let missing = std::mem::take(&mut findings.missing);
    let displaced = std::mem::take(&mut findings.displaced);
    let moved = std::mem::take(&mut findings.moved);
    if missing.is_empty() && displaced.is_empty() && moved.is_empty() {
        return Ok(());
    }
    let held = &findings.held;
    let ((), more) = scan.alone(|worker| {
        for (place, directory) in missing {
            worker.scan.context.cancel.check()?;
            if held.contains(&place) || scan.is_put(&place) {
                worker.keep_in_doubt(&place)?;
            } else {
                worker.remove_missing(place, directory)?;
            }
        }
        for id in displaced {
            if matches!(worker.scan.stands.of(id), None | Some(Stand::Replaced)) {
                worker.remove_below(id)?;
                worker.findings.tally.removed += 1;
            }
        }
        moved
            .iter()
            .try_for_each(|moved| worker.leave_behind(moved.id, &moved.from))
    })?;
    findings.merge(more);
    Ok(())
}

impl Worker<'_> {
    pub(super) fn remove_missing(
        &mut self,
        place: Place,
        directory: Option<DirectoryId>,
    ) -> Result<(), AgentError> {
        let stand = directory.and_then(|id| self.scan.stands.of(id));
        if matches!(stand, Some(Stand::Home | Stand::Away)) {
            // Seen elsewhere: its row goes with the other moved ones. Seen here: gone since, for the next cycle.
            return Ok(());
        }
        if directory.is_some_and(|id| self.scan.stands.is_pinned(id)) {
            if !self.scan.is_in_parts() {
                // Nobody looked into it.
                self.scan.lose_sight();
            }
            return self.keep_in_doubt(&place);
        }
        if self.keeps(&place)? {
            self.findings.kept.push(Spot {
                directory: place.parent,
                name: Some(place.name),
            });
            return Ok(());
        }
        let index = self.scan.index;
        let Some(entry) = index.delete(&place, self.digest())? else {
            return Ok(());
        };
        self.part(&place, &entry);
        self.differs(&place);
        self.findings.tally.removed += 1;
        self.findings.tally.rows += 1;
        if let Some(id) = directory {
            self.remove_below(id)?;
        }
        self.remove(place)
    }

    fn remove_below(&mut self, id: DirectoryId) -> Result<(), AgentError> {
        let scan = self.scan;
        let gone = scan.index.delete_below(id, self.digest(), |id| {
            scan.stands.of(id) == Some(Stand::Away)
        })?;
        self.findings.tally.removed += gone;
        self.findings.tally.rows += gone;
        Ok(())
    }

    /// Removes the row that a moved directory left behind, unless something else was put there. The spare needs
    /// no message: it moves the directory.
    fn leave_behind(&mut self, id: DirectoryId, from: &Place) -> Result<(), AgentError> {
        let index = self.scan.index;
        let known = index.pending_at(from)?;
        if known.is_some_and(|known| known.entry.directory_id() == Some(id)) {
            index.delete(from, self.digest())?;
            self.findings.tally.rows += 1;
            self.findings.departed.push(from.clone());
        }
        Ok(())
    }
}
