//! From directory numbers to open directories of a twin.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use rustix::io::Errno;
use understudy_protocol::{DirectoryId, Place, RelPath, limits};
use understudy_tree::attributes::make_accessible;
use understudy_tree::{Directory, Privileges, TreeError};

use crate::catalog::{Catalog, Row};
use crate::error::ReceiverError;

/// Bounds on what is remembered: bytes of paths, of which one may have a million, with what a map needs for each; and handles, which
/// cost a descriptor.
const PATHS_BYTES: usize = 16 << 20;
const PATH_BYTES: usize = 64;
const HANDLES: usize = 64;

/// Paths of directories in one snapshot, relative to the twin.
pub(crate) struct Paths<'a> {
    catalog: &'a Catalog,
    at: u64,
    known: HashMap<DirectoryId, RelPath>,
    /// What `known` takes.
    bytes: usize,
}

impl<'a> Paths<'a> {
    pub(crate) fn new(catalog: &'a Catalog, at: u64) -> Self {
        Self {
            catalog,
            at,
            known: HashMap::new(),
            bytes: 0,
        }
    }

    /// The path of a directory; [`ReceiverError::Damaged`] if the snapshot does not have it.
    pub(crate) fn path(&mut self, id: DirectoryId) -> Result<RelPath, ReceiverError> {
        let mut chain = Vec::new();
        let mut next = id;
        let mut path = loop {
            if next == DirectoryId::TOP {
                break RelPath::root();
            }
            if let Some(path) = self.known.get(&next) {
                break path.clone();
            }
            let place = self.catalog.directory_place(next, self.at)?;
            let place = place
                .filter(|_| chain.len() <= limits::DEPTH + 1)
                .ok_or_else(|| {
                    ReceiverError::Damaged(format!(
                        "the catalog has no directory {} in snapshot {}",
                        next.0, self.at
                    ))
                })?;
            chain.push((next, place.name));
            next = place.parent;
        };
        for (id, name) in chain.into_iter().rev() {
            path = path.join(&name);
            self.remember(id, &path);
        }
        Ok(path)
    }
}

impl Paths<'_> {
    fn remember(&mut self, id: DirectoryId, path: &RelPath) {
        let bytes = path.as_bytes().len() + PATH_BYTES;
        if self.bytes + bytes > PATHS_BYTES {
            (self.known, self.bytes) = (HashMap::new(), 0);
        }
        self.bytes += bytes;
        self.known.insert(id, path.clone());
    }
}

/// Open directories of a twin whose state is one snapshot.
pub(crate) struct Handles<'a> {
    root: &'a Directory,
    pub(crate) paths: Paths<'a>,
    open: HashMap<DirectoryId, Directory>,
}

impl<'a> Handles<'a> {
    pub(crate) fn new(root: &'a Directory, catalog: &'a Catalog, at: u64) -> Self {
        Self {
            root,
            paths: Paths::new(catalog, at),
            open: HashMap::new(),
        }
    }

    /// The open directory.
    pub(crate) fn get(&mut self, id: DirectoryId) -> Result<&Directory, ReceiverError> {
        if !self.open.contains_key(&id) {
            let path = self.paths.path(id)?;
            let directory = self.root.open_beneath(&path).map_err(|error| TreeError {
                // A long one is opened in pieces.
                path: path.to_string(),
                ..error
            })?;
            self.remember(id, directory);
        }
        self.open.get(&id).ok_or(ReceiverError::Worker)
    }

    fn remember(&mut self, id: DirectoryId, directory: Directory) {
        if self.open.len() >= HANDLES {
            self.open.clear();
        }
        self.open.insert(id, directory);
    }
}

/// The snapshot that an upload starts from, with the live twin that shows it.
pub(crate) struct Base<'a> {
    catalog: &'a Catalog,
    at: u64,
    live: Handles<'a>,
}

impl<'a> Base<'a> {
    pub(crate) fn new(catalog: &'a Catalog, at: u64, live: &'a Directory) -> Self {
        Self {
            catalog,
            at,
            live: Handles::new(live, catalog, at),
        }
    }

    /// The catalog, and the snapshot's number in it.
    pub(crate) fn snapshot(&self) -> (&'a Catalog, u64) {
        (self.catalog, self.at)
    }

    /// What stands at a place; an agent that refers to what is not there is out of step.
    pub(crate) fn row(&self, place: &Place) -> Result<Row, ReceiverError> {
        self.catalog.row(place, self.at)?.ok_or_else(|| {
            ReceiverError::OutOfStep(format!(
                "the spare does not have what the agent refers to at {place:?}"
            ))
        })
    }

    /// The live file at a place.
    pub(crate) fn open_file(&mut self, place: &Place) -> Result<File, ReceiverError> {
        Ok(self.live.get(place.parent)?.open_file(&place.name)?)
    }
}

/// Handles of the shadow, which is changed: directories closed by their mode are opened for the time being,
/// and all that are touched are remembered, so that their attributes are set again at the end.
pub(crate) struct Changing<'a> {
    handles: Handles<'a>,
    privileges: Privileges,
    touched: HashSet<DirectoryId>,
}

impl<'a> Changing<'a> {
    pub(crate) fn new(
        root: &'a Directory,
        catalog: &'a Catalog,
        at: u64,
        privileges: Privileges,
    ) -> Self {
        Self {
            handles: Handles::new(root, catalog, at),
            privileges,
            touched: HashSet::new(),
        }
    }

    /// The open directory, writable.
    pub(crate) fn get(&mut self, id: DirectoryId) -> Result<&Directory, ReceiverError> {
        if self.touched.insert(id) && !self.privileges.override_permissions {
            self.make_writable(id)?;
        }
        self.handles.get(id)
    }

    /// Everything that [`Self::get`] gave out.
    pub(crate) fn into_touched(self) -> HashSet<DirectoryId> {
        self.touched
    }

    fn make_writable(&mut self, id: DirectoryId) -> Result<(), ReceiverError> {
        if id == DirectoryId::TOP {
            return Ok(());
        }
        let place = self
            .handles
            .paths
            .catalog
            .directory_place(id, self.handles.paths.at)?;
        let Some(place) = place else { return Ok(()) };
        let parent = self.handles.get(place.parent)?;
        match make_accessible(parent, &place.name) {
            // Not there yet: it will be made writable.
            Err(error) if !error.is_gone() && error.errno() != Some(Errno::PERM) => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}
