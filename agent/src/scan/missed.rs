//! Checking the journal: which differences that a look at everything found had it not told?

use std::collections::HashSet;

use understudy_protocol::{DirectoryId, Name, Place, RelPath, limits};
use understudy_tree::Identity;

use super::{Scan, Spot};
use crate::error::AgentError;
use crate::index::{Known, Reader, Reason};
use crate::journal::Journal;

/// Names that are told; more are only counted.
const NAMED: usize = 1_000;

/// What changed without an event.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    pub(crate) count: u64,
    /// Some of them.
    pub(crate) named: Vec<(RelPath, Spot)>,
}

/// Judges places that were found different, after everything is in the pending state.
pub(super) fn judge(
    scan: &Scan<'_>,
    journal: &Journal,
    different: &[Place],
) -> Result<Missed, AgentError> {
    let mut missed = Missed::default();
    if different.is_empty() {
        return Ok(missed);
    }
    // What changed while everything was looked at has arrived after this. If some of it was lost, nobody can say
    // what the journal should have told.
    if journal.take_since(u64::MAX).gap.is_some() {
        return Ok(missed);
    }
    let attended: HashSet<(DirectoryId, Option<Name>)> = scan
        .index
        .attention()?
        .into_iter()
        .filter(|one| one.reason != Reason::Missed)
        .map(|one| (one.directory, one.name))
        .collect();
    let reader = scan.index.reader()?;
    for place in different {
        let is_attended = attended.contains(&(place.parent, Some(place.name.clone())))
            || attended.contains(&(place.parent, None));
        // What is in a new directory needs no event: the name that leads there was told.
        if place.parent.0 >= scan.first_new
            || is_attended
            || scan.was_told(journal, &reader, place)?
        {
            continue;
        }
        missed.count += 1;
        if missed.named.len() < NAMED
            && let Some(directory) = scan.index.pending_path(place.parent)?
        {
            let spot = Spot {
                directory: place.parent,
                name: Some(place.name.clone()),
            };
            missed.named.push((directory.join(&place.name), spot));
        }
    }
    Ok(missed)
}

impl Scan<'_> {
    fn was_told(
        &self,
        journal: &Journal,
        reader: &Reader<'_>,
        place: &Place,
    ) -> Result<bool, AgentError> {
        let (base, pending) = (reader.at(place)?, self.index.pending_at(place)?);
        let known = pending.as_ref().or(base.as_ref());
        let itself = known
            .filter(|known| known.entry.directory_id().is_some())
            .and_then(inode);
        if itself.is_some_and(|itself| journal.was_told(itself, None)) {
            return Ok(true);
        }
        if self.was_place_told(journal, place)? || self.was_told_with_all_below(journal, place)? {
            return Ok(true);
        }
        let Some(identity) = known.and_then(inode) else {
            return Ok(false);
        };
        if journal.was_file_told(identity) {
            return Ok(true);
        }
        // Where files are not told by themselves, one event names one of the names that an inode has.
        if known.is_none_or(|known| known.entry.group == 0) {
            return Ok(false);
        }
        let mut others = self.index.pending_with_identity(identity)?;
        others.extend(reader.with_identity(identity)?);
        for (other, _) in others {
            if self.was_place_told(journal, &other)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a directory above it was told of with all that is below.
    fn was_told_with_all_below(
        &self,
        journal: &Journal,
        place: &Place,
    ) -> Result<bool, AgentError> {
        let mut above = place.parent;
        for _ in 0..limits::DEPTH {
            let Some((place, _)) = self.index.pending_directory(above)? else {
                break;
            };
            let parent = self.index.pending_directory(place.parent)?;
            let identity = if place.parent == DirectoryId::FILES {
                Some(self.root_stat.identity)
            } else {
                parent.as_ref().and_then(|(_, known)| inode(known))
            };
            if identity.is_some_and(|directory| journal.was_told_below(directory, &place.name)) {
                return Ok(true);
            }
            above = place.parent;
        }
        Ok(false)
    }

    fn was_place_told(&self, journal: &Journal, place: &Place) -> Result<bool, AgentError> {
        let directory = if place.parent == DirectoryId::FILES {
            Some(self.root_stat.identity)
        } else if place.parent == DirectoryId::TOP {
            return Ok(journal.was_told(self.root_stat.identity, None));
        } else {
            let known = self.index.pending_directory(place.parent)?;
            known.and_then(|(_, known)| inode(&known))
        };
        Ok(directory.is_some_and(|directory| journal.was_told(directory, Some(&place.name))))
    }
}

fn inode(known: &Known) -> Option<Identity> {
    known.seen.map(|seen| seen.identity())
}
