//! Directories whose files do not count: caches, and where git keeps single objects until it packs them.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Name, Node, Place, limits};
use understudy_tree::{Directory, content};

use crate::catalog::{Catalog, Ended, Recorded};
use crate::dataset::now_seconds;
use crate::error::ReceiverError;
use crate::resolve::Handles;

/// What a directory with this file in it is, by agreement of many programs: https://bford.info/cachedir/.
const TAG: &[u8] = b"CACHEDIR.TAG";
/// How it begins.
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
/// A cache must have been one for so long, so that nobody makes a cache of what is removed next.
const SETTLED_SECONDS: i64 = 24 * 60 * 60;

/// Tells which files do not count: those in directories that are caches in the base, and were so before if they were there.
pub(super) struct Ignored<'a> {
    catalog: &'a Catalog,
    base: Declared<'a>,
    /// The newest snapshot that is at least a day old, else the oldest; `None` if that is the base.
    before: Option<Declared<'a>>,
}

impl<'a> Ignored<'a> {
    /// `live` is the tree of snapshot `at`.
    pub(super) fn new(
        catalog: &'a Catalog,
        live: &'a Directory,
        at: u64,
        caches: &'a [String],
    ) -> Result<Self, ReceiverError> {
        let settled = now_seconds() - SETTLED_SECONDS;
        let snapshots = catalog.snapshots()?;
        let is_old = |one: &&Recorded| one.snapshot.committed_seconds <= settled;
        let before = snapshots.iter().rfind(is_old).or(snapshots.first());
        let before = before.map(|one| one.snapshot.position.number);
        Ok(Self {
            catalog,
            base: Declared::new(catalog, at, caches, Some(Handles::new(live, catalog, at))),
            before: before
                .filter(|before| *before < at)
                .map(|before| Declared::new(catalog, before, caches, None)),
        })
    }

    /// Whether what is in a directory does not count.
    pub(super) fn contains(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
        if !self.base.contains(id)? {
            return Ok(false);
        }
        match &mut self.before {
            Some(before) if self.catalog.directory_place(id, before.at)?.is_some() => {
                before.contains(id)
            }
            _ => Ok(true),
        }
    }

    /// Whether a file does not count. One that was moved into a cache still does.
    pub(super) fn passes(&mut self, ended: &Ended) -> Result<bool, ReceiverError> {
        if !self.contains(ended.place.parent)? {
            return Ok(false);
        }
        let content = ended.former.content().filter(|(size, _)| *size > 0);
        let (Some(before), Some((_, hash))) = (&mut self.before, content) else {
            return Ok(true);
        };
        for row in self.catalog.rows_with(hash, before.at)? {
            if !before.contains(row.place.parent)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The caches of one snapshot.
struct Declared<'a> {
    catalog: &'a Catalog,
    at: u64,
    /// To read tags; without it any will do.
    live: Option<Handles<'a>>,
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

impl<'a> Declared<'a> {
    fn new(catalog: &'a Catalog, at: u64, caches: &'a [String], live: Option<Handles<'a>>) -> Self {
        let components = |pattern: &'a String| {
            let parts = pattern.split('/').filter(|part| !part.is_empty());
            parts.map(str::as_bytes).collect()
        };
        Self {
            catalog,
            at,
            live,
            patterns: caches.iter().map(components).collect(),
            known: HashMap::new(),
            tag: Name::new(TAG).ok(),
        }
    }

    fn contains(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
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
        &mut self,
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

    fn has_tag(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
        let Some(tag) = &self.tag else {
            return Ok(false);
        };
        let row = self.catalog.row(&Place::new(id, tag.clone()), self.at)?;
        if !row.is_some_and(|row| matches!(row.entry.node, Node::File { .. })) {
            return Ok(false);
        }
        let Some(live) = &mut self.live else {
            return Ok(true);
        };
        let mut begin = [0; SIGNATURE.len()];
        // What cannot be read declares nothing.
        let Ok(file) = live.get(id).map(|directory| directory.open_file(tag)) else {
            return Ok(false);
        };
        let read = file.and_then(|file| content::read_at(&file, 0, &mut begin));
        Ok(read.is_ok() && begin == *SIGNATURE)
    }
}
