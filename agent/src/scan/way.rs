//! The way from the root to a directory: what the index says, what this scan found, and whether it is so on disk.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use understudy_protocol::{DirectoryId, Place, RelPath, limits};
use understudy_tree::Identity;

use super::findings::Findings;
use super::{Scan, is_about_entry};
use crate::error::AgentError;

/// The way from the root to a directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Way {
    pub(super) path: RelPath,
    /// The directories on it, that nearest to the root first.
    pub(super) directories: Vec<Step>,
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    id: DirectoryId,
    path: RelPath,
    /// `None` if nobody knows.
    identity: Option<Identity>,
}

impl Way {
    pub(super) fn ids(&self) -> Vec<DirectoryId> {
        self.directories.iter().map(|step| step.id).collect()
    }
}

impl Scan<'_> {
    /// Where a directory stands in the pending state, whose rows of moved ones are removed later.
    fn place_now(
        &self,
        id: DirectoryId,
        findings: &Findings,
    ) -> Result<Option<(Place, Option<Identity>)>, AgentError> {
        if let Some(moved) = findings.moved.iter().find(|moved| moved.id == id) {
            return Ok(Some((moved.to.clone(), Some(moved.identity))));
        }
        let found = self.index.pending_directory(id)?;
        Ok(found.map(|(place, known)| (place, known.seen.map(|seen| seen.identity()))))
    }

    /// The way to a directory; `None` if it is not in the pending state.
    pub(super) fn way_now(
        &self,
        id: DirectoryId,
        findings: &Findings,
    ) -> Result<Option<Way>, AgentError> {
        let (mut above, mut steps) = (id, Vec::new());
        while above != DirectoryId::FILES {
            match self.place_now(above, findings)? {
                Some((place, identity)) if steps.len() < limits::DEPTH => {
                    steps.push((above, place.name, identity));
                    above = place.parent;
                }
                _ => return Ok(None),
            }
        }
        let mut way = Way::default();
        for (id, name, identity) in steps.into_iter().rev() {
            way.path = way.path.join(&name);
            let path = way.path.clone();
            way.directories.push(Step { id, path, identity });
        }
        Ok(Some(way))
    }

    /// Whether all directories on a way are still what the index has there.
    pub(super) fn is_as_known(&self, way: &Way) -> Result<bool, AgentError> {
        for step in &way.directories {
            let is_checked = self.checked().get(&step.id) == Some(&step.path);
            let Some(identity) = step.identity.filter(|_| !is_checked) else {
                continue;
            };
            let opened = self.root.open_beneath(&step.path);
            match opened.and_then(|directory| directory.stat_self()) {
                Ok(stat) if stat.identity == identity => {
                    self.checked().insert(step.id, step.path.clone());
                }
                Err(error) if !is_about_entry(&error) => return Err(error.into()),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Directories on the way to others that were found where they should be.
    fn checked(&self) -> MutexGuard<'_, HashMap<DirectoryId, RelPath>> {
        self.on_the_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
