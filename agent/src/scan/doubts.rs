//! Gathering what is in doubt, by directory: what the journal told, what every cycle looks at, and rows that prove
//! nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use understudy_protocol::{DirectoryId, Name, Place};
use understudy_tree::Identity;

use super::findings::Findings;
use super::way::Way;
use super::worker::Worker;
use super::{Folder, Look, Scan, Task};
use crate::error::AgentError;
use crate::index::{Attended, Reader};
use crate::journal::{Doubt, Marked, Taken};

/// What is in doubt in one directory.
#[derive(Debug, Clone)]
pub(super) struct Doubts {
    pub(super) id: DirectoryId,
    pub(super) identity: Identity,
    /// Where it should be.
    pub(super) way: Way,
    pub(super) names: BTreeMap<Name, Doubt>,
    pub(super) is_listed: bool,
}

/// Names of a directory that are judged by themselves, even if all of it is looked at as well.
#[derive(Debug)]
pub(super) enum Apart {
    All,
    Some(BTreeSet<Name>),
}

impl Apart {
    pub(super) fn has(&self, name: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
        }
    }
}

impl Doubts {
    pub(super) fn apart(&self) -> Apart {
        if self.is_listed {
            Apart::All
        } else {
            Apart::Some(self.names.keys().cloned().collect())
        }
    }

    pub(super) fn add(&mut self, more: Self) {
        self.is_listed |= more.is_listed;
        for (name, doubt) in more.names {
            let known = self.names.entry(name).or_insert(doubt);
            *known = (*known).max(doubt);
        }
    }

    /// What is in doubt although times say nothing about it.
    pub(super) fn about_contents(&self) -> Option<Marked> {
        let mut names = self.names.clone();
        names.retain(|_, doubt| *doubt == Doubt::Content);
        (!names.is_empty()).then_some(Marked {
            identity: self.identity,
            names,
            is_listed: false,
        })
    }

    /// The names in doubt.
    pub(super) fn places(self) -> impl Iterator<Item = Place> {
        let id = self.id;
        self.names.into_keys().map(move |name| Place::new(id, name))
    }

    pub(super) fn into_marked(self) -> Marked {
        Marked {
            identity: self.identity,
            names: self.names,
            is_listed: self.is_listed,
        }
    }

    pub(super) fn task(self) -> Task {
        Task {
            folder: Arc::new(Folder {
                path: self.way.path.clone(),
                id: self.id,
                depth: self.way.directories.len(),
            }),
            identity: self.identity,
            was_put: false,
            look: Look::Doubts(self),
        }
    }
}

impl Worker<'_> {
    /// Everything that is in doubt, by directory.
    pub(super) fn doubts(&mut self, taken: Taken) -> Result<Vec<Doubts>, AgentError> {
        let mut doubts = self.doubts_in(taken.marked)?;
        let base = self.base;
        for file in taken.files {
            for (place, known) in base.with_identity(file)? {
                if known.entry.directory_id().is_none() {
                    self.doubt(&mut doubts, place, Doubt::Entry)?;
                }
            }
        }
        for Attended {
            directory, name, ..
        } in self.scan.index.attention()?
        {
            match name {
                Some(name) => self.doubt(&mut doubts, Place::new(directory, name), Doubt::Entry)?,
                None => {
                    if let Some((place, _)) = base.directory(directory)? {
                        self.scan.unvisited().insert(directory, None);
                        self.doubt(&mut doubts, place, Doubt::Below)?;
                    }
                }
            }
        }
        match base.unproven()? {
            Some(places) => {
                for place in places {
                    self.doubt(&mut doubts, place, Doubt::Entry)?;
                }
            }
            None => self.scan.lose_sight(),
        }
        Ok(doubts.into_values().collect())
    }

    /// Marked directories that the spare has; others are found with the names that lead to them.
    pub(super) fn doubts_in(
        &mut self,
        marked: Vec<Marked>,
    ) -> Result<HashMap<DirectoryId, Doubts>, AgentError> {
        let mut doubts = HashMap::new();
        for marked in marked {
            let ids = if marked.identity == self.scan.root_stat.identity {
                vec![DirectoryId::FILES]
            } else {
                // More than one if it moved while an earlier cycle looked.
                self.base.directories_with_identity(marked.identity)?
            };
            for id in ids {
                if let Some(way) = self.scan.way_now(id, &Findings::default())? {
                    let found = Doubts {
                        id,
                        identity: marked.identity,
                        way,
                        names: marked.names.clone(),
                        is_listed: marked.is_listed,
                    };
                    doubts.insert(id, found);
                }
            }
        }
        Ok(doubts)
    }

    /// Adds a place of the index.
    fn doubt(
        &mut self,
        doubts: &mut HashMap<DirectoryId, Doubts>,
        place: Place,
        doubt: Doubt,
    ) -> Result<(), AgentError> {
        let (id, name) = if place.parent == DirectoryId::TOP {
            (DirectoryId::FILES, None)
        } else {
            (place.parent, Some(place.name))
        };
        if let Entry::Vacant(free) = doubts.entry(id) {
            let Some(found) = known_directory(self.scan, self.base, id)? else {
                return Ok(());
            };
            free.insert(found);
        }
        if let (Some(found), Some(name)) = (doubts.get_mut(&id), name) {
            let known = found.names.entry(name).or_insert(doubt);
            *known = (*known).max(doubt);
        }
        Ok(())
    }
}

/// A directory as the index has it, with nothing in doubt yet.
fn known_directory(
    scan: &Scan<'_>,
    base: &Reader<'_>,
    id: DirectoryId,
) -> Result<Option<Doubts>, AgentError> {
    let identity = if id == DirectoryId::FILES {
        Some(scan.root_stat.identity)
    } else {
        let known = base.directory(id)?;
        known.and_then(|(_, known)| Some(known.seen?.identity()))
    };
    let way = scan.way_now(id, &Findings::default())?;
    Ok(identity.zip(way).map(|(identity, way)| Doubts {
        id,
        identity,
        way,
        names: BTreeMap::new(),
        is_listed: false,
    }))
}
