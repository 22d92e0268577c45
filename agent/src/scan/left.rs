//! What stays in doubt after a scan: what it skipped, could not find or could not settle.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use understudy_protocol::{DirectoryId, Place, limits};
use understudy_tree::{Identity, Stat};

use super::Scan;
use super::findings::{Findings, Problem, Spot};
use super::worker::Worker;
use crate::error::AgentError;
use crate::index::Known;
use crate::journal::{Doubt, Marked};

/// Files with more names than this are left to the next look at everything: a farm of links that goes would cost
/// the square of its size.
const NAMES: usize = 64;

/// Leaves to the next cycle what nobody could look at although the spare has it now.
pub(super) fn settle(scan: &Scan<'_>, findings: &mut Findings) -> Result<(), AgentError> {
    if !scan.is_in_parts() {
        // What was to stand in their place did not arrive, and nobody looked into them.
        let replaced = scan.stands.replaced().into_iter();
        scan.unvisited().extend(replaced.map(|id| (id, None)));
    }
    let unvisited = std::mem::take(&mut *scan.unvisited());
    for (id, identity) in unvisited {
        scan.leave_unvisited(id, identity, findings)?;
    }
    // Most of what was not found went with something that is gone.
    for doubts in std::mem::take(&mut findings.astray) {
        if let Some(path) = scan.index.pending_path(doubts.id)? {
            tracing::debug!("{path}: changed, but is not where it was; the next cycle looks again");
            findings.nowhere.push(doubts.into_marked());
        } else {
            findings.parted.extend(doubts.places());
        }
    }
    let parted = std::mem::take(&mut findings.parted);
    if !parted.is_empty() {
        let ((), more) = scan.alone(|worker| {
            parted
                .iter()
                .try_for_each(|place| worker.doubt_other_name(place))
        })?;
        findings.merge(more);
    }
    Ok(())
}

impl Scan<'_> {
    fn leave_unvisited(
        &self,
        id: DirectoryId,
        identity: Option<Identity>,
        findings: &mut Findings,
    ) -> Result<(), AgentError> {
        let Some(path) = self.index.pending_path(id)? else {
            return Ok(());
        };
        if let Some(identity) = identity
            && id.0 >= self.first_new
        {
            // The spare has it empty: listing it finds all there is.
            findings.in_doubt.push(Marked {
                identity,
                names: BTreeMap::new(),
                is_listed: true,
            });
            return Ok(());
        }
        let Some(reason) = self.reason(id, findings)? else {
            self.lose_sight();
            return Ok(());
        };
        // With this it is looked at in every cycle, wherever it is by then.
        let spot = Spot {
            directory: id,
            name: None,
        };
        let mut listed = findings.unreadable.iter_mut();
        match listed.find(|problem| problem.path == path) {
            Some(problem) => problem.spot = spot,
            None => findings.unreadable.push(Problem { path, reason, spot }),
        }
        Ok(())
    }

    /// Why a directory could not be looked into: it, what stands in its place or a directory above it is listed.
    fn reason(&self, id: DirectoryId, findings: &Findings) -> Result<Option<String>, AgentError> {
        let (mut at, mut below) = (id, None);
        for _ in 0..limits::DEPTH {
            let problems = findings.unreadable.iter().chain(&findings.unsettled);
            let found = problems.into_iter().find(|problem| {
                problem.spot.directory == at
                    && (problem.spot.name.is_none() || problem.spot.name == below)
            });
            if let Some(problem) = found {
                return Ok(Some(problem.reason.clone()));
            }
            let Some((place, _)) = self.index.pending_directory(at)? else {
                break;
            };
            (at, below) = (place.parent, Some(place.name));
        }
        Ok(None)
    }

    /// Too much is in doubt: the next cycle looks at everything.
    pub(super) fn lose_sight(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    /// Whether all of a directory has to be looked at, wherever it is met.
    pub(super) fn is_unvisited(&self, id: DirectoryId) -> bool {
        self.unvisited().contains_key(&id)
    }

    /// Directories of which all has to be looked at, with their inodes where those are known.
    pub(super) fn unvisited(&self) -> MutexGuard<'_, HashMap<DirectoryId, Option<Identity>>> {
        self.unvisited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker<'_> {
    /// Keeps what the base has of an inode that moved to a place which is for the next cycle: until then it is not
    /// deleted.
    pub(super) fn hold(&mut self, stat: &Stat) -> Result<(), AgentError> {
        for (place, known) in self.base.with_identity(stat.identity)? {
            if let Some(way) = self.scan.way_now(place.parent, &Findings::default())? {
                let mut staying = way.ids();
                staying.extend(known.entry.directory_id());
                self.scan.stands.pin(&staying);
            }
            self.findings.held.insert(place);
        }
        Ok(())
    }

    /// Leaves a name of the file that stood at `place` as well to the next cycle, if this one did not see it: no
    /// event tells it that it is alone now, or that the file was written to by the name that went.
    fn doubt_other_name(&mut self, place: &Place) -> Result<(), AgentError> {
        let known = self.base.at(place)?;
        let Some(seen) = known
            .filter(|known| known.entry.group != 0)
            .and_then(|known| known.seen)
        else {
            return Ok(());
        };
        let names = self.scan.index.pending_with_identity(seen.identity())?;
        // With one of them all are looked at.
        if let Some((other, pending)) = names.first()
            && names.len() <= NAMES
            && self.base.at(other)?.as_ref() == Some(pending)
        {
            self.keep_in_doubt(other)?;
        }
        Ok(())
    }

    /// Leaves a directory's own entry to the next cycle.
    pub(super) fn keep_itself_in_doubt(&mut self, known: &Known) {
        match known.seen {
            Some(seen) => self.findings.in_doubt.push(Marked {
                identity: seen.identity(),
                names: BTreeMap::new(),
                is_listed: false,
            }),
            None => self.scan.lose_sight(),
        }
    }

    /// Leaves a place to the next cycle.
    pub(super) fn keep_in_doubt(&mut self, place: &Place) -> Result<(), AgentError> {
        let identity = if place.parent == DirectoryId::FILES {
            Some(self.scan.root_stat.identity)
        } else {
            let Some((_, known)) = self.scan.index.pending_directory(place.parent)? else {
                // It went with its directory.
                return Ok(());
            };
            known.seen.map(|seen| seen.identity())
        };
        match identity {
            Some(identity) => self.findings.in_doubt.push(Marked {
                identity,
                names: BTreeMap::from([(place.name.clone(), Doubt::Entry)]),
                is_listed: false,
            }),
            None => self.scan.lose_sight(),
        }
        Ok(())
    }
}
