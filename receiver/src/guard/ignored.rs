//! Directories whose files do not count: caches, and where git keeps single objects until it packs them.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Name, Node, Place, limits};

use crate::catalog::Catalog;
use crate::error::ReceiverError;

/// What a directory with this file in it is, by agreement of many programs.
const TAG: &[u8] = b"CACHEDIR.TAG";

/// Tells which directories do not count in one snapshot.
pub(super) struct Ignored<'a> {
    catalog: &'a Catalog,
    at: u64,
    /// Patterns as their components; a single one counts wherever it is.
    patterns: Vec<Vec<&'a [u8]>>,
    /// About 100 bytes each, as many as directories that are asked for.
    known: HashMap<DirectoryId, Standing>,
    tag: Option<Name>,
}

/// What is known of a directory.
#[derive(Debug, Clone)]
struct Standing {
    is_ignored: bool,
    /// How far each pattern has been met by the path up to here; `None` once it was left.
    met: Vec<Option<usize>>,
    /// Whether it is called `objects`: what lies in its directories of two digits is git's.
    is_objects: bool,
}

impl<'a> Ignored<'a> {
    pub(super) fn new(catalog: &'a Catalog, at: u64, caches: &'a [String]) -> Self {
        let components = |pattern: &'a String| {
            let parts = pattern.split('/').filter(|part| !part.is_empty());
            parts.map(str::as_bytes).collect()
        };
        Self {
            catalog,
            at,
            patterns: caches.iter().map(components).collect(),
            known: HashMap::new(),
            tag: Name::new(TAG).ok(),
        }
    }

    /// Whether what is in a directory does not count.
    pub(super) fn contains(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
        let mut chain = Vec::new();
        let mut next = id;
        let mut standing = loop {
            if let Some(known) = self.known.get(&next) {
                break known.clone();
            }
            let place = self.catalog.directory_place(next, self.at)?;
            match place {
                Some(place) if place.parent != DirectoryId::TOP && chain.len() <= limits::DEPTH => {
                    chain.push((next, place.name));
                    next = place.parent;
                }
                // A root of the dataset, or what the snapshot does not have.
                _ => break self.root(),
            }
        };
        for (id, name) in chain.into_iter().rev() {
            standing = self.below(&standing, id, &name)?;
            self.known.insert(id, standing.clone());
        }
        Ok(standing.is_ignored)
    }

    fn root(&self) -> Standing {
        Standing {
            is_ignored: false,
            met: vec![Some(0); self.patterns.len()],
            is_objects: false,
        }
    }

    /// That of the directory `name` in another.
    fn below(
        &self,
        above: &Standing,
        id: DirectoryId,
        name: &Name,
    ) -> Result<Standing, ReceiverError> {
        let name = name.as_bytes();
        let is_git = above.is_objects && name.len() == 2 && name.iter().all(u8::is_ascii_hexdigit);
        let mut is_ignored = above.is_ignored || is_git || self.has_tag(id)?;
        let mut met = Vec::with_capacity(self.patterns.len());
        for (pattern, depth) in self.patterns.iter().zip(&above.met) {
            // A single name is looked for anywhere.
            let depth = if pattern.len() == 1 { Some(0) } else { *depth };
            let fits = |depth: &usize| {
                let wanted = pattern.get(*depth);
                wanted.is_some_and(|wanted| *wanted == b"*" || *wanted == name)
            };
            let met_now = depth.filter(fits).map(|depth| depth + 1);
            is_ignored |= met_now == Some(pattern.len());
            met.push(met_now);
        }
        Ok(Standing {
            is_ignored,
            met,
            is_objects: name == b"objects",
        })
    }

    fn has_tag(&self, id: DirectoryId) -> Result<bool, ReceiverError> {
        let Some(tag) = &self.tag else {
            return Ok(false);
        };
        let row = self.catalog.row(&Place::new(id, tag.clone()), self.at)?;
        Ok(row.is_some_and(|row| matches!(row.entry.node, Node::File { .. })))
    }
}
