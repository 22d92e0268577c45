//! Names of the twins that are missing, or at which something else stands than should: put right in the shadow first, which then
//! changes places with the live tree, so that readers see all of them at once, or none yet.
//!
//! Both twins show the same snapshot, before and after. Each step puts one place right, and takes nothing away that is
//! right or that somebody has put there: so whatever is interrupted, the next repair finds the rest.

use std::collections::HashSet;

use understudy_protocol::{DirectoryId, Node, Place, RelPath};
use understudy_tree::attributes::set_attributes;
use understudy_tree::{Directory, crash_point};

use super::Repairer;
use crate::apply::finish_directories;
use crate::catalog::Row;
use crate::cycle;
use crate::error::ReceiverError;
use crate::library::Library;
use crate::resolve::{Handles, Paths};
use crate::standing::{differs, is_another};

impl Repairer<'_> {
    /// Puts right what stands at the places of some rows, with all that is below them. It is durable when this returns. Returns the
    /// files whose contents the spare does not have.
    pub(crate) fn repair_names(&mut self, rows: &[Row]) -> Result<Vec<Row>, ReceiverError> {
        self.dataset.wait_for_readers(&self.shadow)?;
        let mut groups = None;
        let lost = self.put_right((&self.shadow, &self.live), rows, &mut groups)?;
        let mut is_built = false;
        for row in rows {
            is_built = is_built
                || self.is_misplaced(&self.live, row, &mut groups)?
                    && !self.is_misplaced(&self.shadow, row, &mut groups)?;
        }
        self.dataset.sync()?;
        crash_point!("receiver.names-built");
        if is_built {
            cycle::switch(self.dataset)?;
            std::mem::swap(&mut self.live, &mut self.shadow);
            self.library = Library::open(self.dataset)?;
            self.dataset.wait_for_readers(&self.shadow)?;
            self.put_right((&self.shadow, &self.live), rows, &mut groups)?;
        } else {
            // Readers see attributes change, and nothing else.
            let mut standing = Vec::new();
            for row in rows {
                if !self.is_misplaced(&self.live, row, &mut groups)? {
                    standing.push(row.clone());
                }
            }
            self.set_attributes_of(&self.live, &standing)?;
        }
        self.dataset.sync()?;
        Ok(lost)
    }

    /// The row that is to be put right for another one, which may have been read before commits that have ended it since.
    pub(crate) fn name_now(&self, row: &Row) -> Result<Option<Row>, ReceiverError> {
        self.library.catalog.row(&row.place, self.at)
    }

    /// What is still wrong at the place of a row in a twin, if anything.
    pub(crate) fn is_wrong(&self, row: &Row) -> Result<bool, ReceiverError> {
        let mut groups = None;
        for twin in [&self.shadow, &self.live] {
            if self.is_misplaced(twin, row, &mut groups)? {
                return Ok(true);
            }
            let mut handles = self.handles(twin);
            let directory = handles.get(row.place.parent)?;
            if let Some(stat) = directory.stat_if_present(&row.place.name)?
                && differs(&self.dataset.privileges, directory, row, &stat)?.is_some()
            {
                return Ok(true);
            }
            if let Node::Directory { id } = row.entry.node {
                handles.get(id)?;
            }
        }
        Ok(false)
    }

    /// The path of a row, below its twin.
    pub(crate) fn path_of(&self, row: &Row) -> Result<RelPath, ReceiverError> {
        let mut paths = Paths::new(&self.library.catalog, self.at);
        Ok(paths.path(row.place.parent)?.join(&row.place.name))
    }

    /// Moves what stands where no row is to where it is kept; returns where that is, `None` if nothing stands there.
    pub(crate) fn take_away(&self, place: &Place) -> Result<Option<String>, ReceiverError> {
        let catalog = &self.library.catalog;
        if catalog.row(place, self.at)?.is_some()
            || place.parent != DirectoryId::TOP
                && catalog.directory_row(place.parent, self.at)?.is_none()
        {
            return Ok(None);
        }
        let mut kept = None;
        for twin in [&self.shadow, &self.live] {
            let mut handles = self.handles(twin);
            let directory = match handles.get(place.parent) {
                Err(ReceiverError::Tree(error)) if error.is_gone() => continue,
                directory => directory?,
            };
            if directory.stat_if_present(&place.name)?.is_none() {
                continue;
            }
            kept = Some(self.keep(directory, &place.name)?);
            let touched = HashSet::from([place.parent]);
            self.finish(twin, touched)?;
        }
        self.dataset.sync()?;
        Ok(kept)
    }

    pub(super) fn handles<'h>(&'h self, twin: &'h Directory) -> Handles<'h> {
        Handles::new(twin, &self.library.catalog, self.at)
    }
    pub(super) fn finish(
        &self,
        twin: &Directory,
        touched: HashSet<DirectoryId>,
    ) -> Result<(), ReceiverError> {
        let of = (&self.library.catalog, self.at, &self.dataset.privileges);
        finish_directories(self.handles(twin), touched, of)?;
        Ok(())
    }

    /// Sets the attributes of what stands at the places of rows where they are others.
    pub(super) fn set_attributes_of(
        &self,
        twin: &Directory,
        rows: &[Row],
    ) -> Result<(), ReceiverError> {
        let privileges = &self.dataset.privileges;
        let mut handles = self.handles(twin);
        for row in rows {
            let (directory, name) = match handles.get(row.place.parent) {
                Err(ReceiverError::Tree(error)) if error.is_gone() => continue,
                directory => (directory?, &row.place.name),
            };
            if let Some(stat) = directory.stat_if_present(name)?
                && is_another(directory, row, &stat)?.is_none()
                && differs(privileges, directory, row, &stat)?.is_some()
            {
                set_attributes(directory, name, &row.entry, privileges)?;
            }
        }
        Ok(())
    }
}
