//! Paths of directories at one snapshot, remembered: rows of one directory mostly come together.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Place, RelPath, limits};

use crate::catalog::Catalog;
use crate::error::ReceiverError;
use crate::names;

/// Bytes of paths that are remembered.
const REMEMBERED_BYTES: usize = 4 << 20;

/// The paths of one snapshot.
pub(super) struct Paths<'a> {
    catalog: &'a Catalog,
    at: u64,
    known: HashMap<DirectoryId, RelPath>,
    bytes: usize,
}

impl<'a> Paths<'a> {
    pub(super) fn new(catalog: &'a Catalog, at: u64) -> Self {
        Self {
            catalog,
            at,
            known: HashMap::new(),
            bytes: 0,
        }
    }

    /// The path of a place of the snapshot.
    pub(super) fn of(&mut self, place: &Place) -> Result<RelPath, ReceiverError> {
        if place.parent == DirectoryId::TOP {
            return Ok(below_top(place));
        }
        Ok(self.of_directory(place.parent)?.join(&place.name))
    }

    fn of_directory(&mut self, id: DirectoryId) -> Result<RelPath, ReceiverError> {
        let (mut names, mut directory) = (Vec::new(), id);
        let mut path = loop {
            if let Some(path) = self.known.get(&directory) {
                break path.clone();
            }
            let place = self.catalog.directory_place(directory, self.at)?;
            let place = place
                .filter(|_| names.len() <= limits::DEPTH)
                .ok_or_else(|| {
                    ReceiverError::Damaged(format!(
                        "the catalog has no directory {} in snapshot {}",
                        directory.0, self.at
                    ))
                })?;
            if place.parent == DirectoryId::TOP {
                break below_top(&place);
            }
            names.push(place.name);
            directory = place.parent;
        };
        for name in names.iter().rev() {
            path = path.join(name);
        }
        self.remember(id, &path);
        Ok(path)
    }

    fn remember(&mut self, id: DirectoryId, path: &RelPath) {
        if self.bytes > REMEMBERED_BYTES {
            self.known.clear();
            self.bytes = 0;
        }
        self.bytes += 64 + path.as_bytes().len();
        self.known.insert(id, path.clone());
    }
}

/// The root of the file tree has the empty path.
fn below_top(place: &Place) -> RelPath {
    if place.name == *names::FILES {
        RelPath::root()
    } else {
        RelPath::root().join(&place.name)
    }
}
