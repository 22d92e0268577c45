//! One of two snapshots that are compared: which directories and places of the other one are the same as its own.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Name, Place, limits};

use super::paths::Paths;
use crate::catalog::{Catalog, Row};
use crate::error::ReceiverError;

/// Directories that are remembered.
const REMEMBERED: usize = 1 << 16;

/// One of the two snapshots, as seen from the other.
pub(super) struct Side<'a> {
    pub(super) at: u64,
    other: u64,
    pub(super) paths: Paths<'a>,
    /// For directories of this side: which one of the other side is the same.
    same: HashMap<DirectoryId, Option<DirectoryId>>,
}

impl<'a> Side<'a> {
    pub(super) fn new(catalog: &'a Catalog, at: u64, other: u64) -> Self {
        Self {
            at,
            other,
            paths: Paths::new(catalog, at),
            same: HashMap::new(),
        }
    }

    /// The place of the other side that is the same as one of this side, if its directory is there.
    pub(super) fn counterpart(
        &mut self,
        catalog: &Catalog,
        place: &Place,
    ) -> Result<Option<Place>, ReceiverError> {
        let parent = self.same(catalog, place.parent)?;
        Ok(parent.map(|parent| Place::new(parent, place.name.clone())))
    }

    /// What stands at a place of this side.
    pub(super) fn at_place(
        &self,
        catalog: &Catalog,
        place: Option<Place>,
    ) -> Result<Option<Row>, ReceiverError> {
        match place {
            Some(place) => catalog.row(&place, self.at),
            None => Ok(None),
        }
    }

    /// The directory of the other side that is the same as one of this side.
    pub(super) fn same(
        &mut self,
        catalog: &Catalog,
        id: DirectoryId,
    ) -> Result<Option<DirectoryId>, ReceiverError> {
        // Up to one that the other side has, then down again by the names.
        let mut names: Vec<(DirectoryId, Name)> = Vec::new();
        let mut directory = id;
        let mut same = loop {
            if directory == DirectoryId::TOP {
                break Some(directory);
            }
            if let Some(known) = self.same.get(&directory) {
                break *known;
            }
            if catalog.directory_place(directory, self.other)?.is_some() {
                self.remember(directory, Some(directory));
                break Some(directory);
            }
            let place = catalog.directory_place(directory, self.at)?;
            let place = place
                .filter(|_| names.len() <= limits::DEPTH)
                .ok_or_else(|| {
                    ReceiverError::Damaged(format!(
                        "the catalog has no directory {} in snapshot {}",
                        directory.0, self.at
                    ))
                })?;
            names.push((directory, place.name));
            directory = place.parent;
        };
        while let Some((directory, name)) = names.pop() {
            same = match same {
                Some(parent) => self.directory_named(catalog, &Place::new(parent, name))?,
                None => None,
            };
            self.remember(directory, same);
        }
        Ok(same)
    }

    /// A directory that stands at a place of the other side and nowhere on this one.
    fn directory_named(
        &self,
        catalog: &Catalog,
        place: &Place,
    ) -> Result<Option<DirectoryId>, ReceiverError> {
        let row = catalog.row(place, self.other)?;
        let Some(id) = row.and_then(|row| row.entry.directory_id()) else {
            return Ok(None);
        };
        let is_new = catalog.directory_place(id, self.at)?.is_none();
        Ok(is_new.then_some(id))
    }

    fn remember(&mut self, directory: DirectoryId, same: Option<DirectoryId>) {
        if self.same.len() >= REMEMBERED {
            self.same.clear();
        }
        self.same.insert(directory, same);
    }
}
