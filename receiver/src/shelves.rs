//! Where staged files wait: on shelves by the number of their row, or in directories that will be moved into place whole.

use understudy_protocol::{DirectoryId, Name};
use understudy_tree::Directory;

use crate::catalog::Catalog;
use crate::error::ReceiverError;
use crate::names;

/// Rows per shelf.
pub(crate) const SHELF: u64 = 4096;

/// Where staged files are, with the directories used last kept open.
pub(crate) struct Shelves {
    pub(crate) staging: Directory,
    incoming: Directory,
    open: Option<(u64, Directory)>,
    open_incoming: Option<(DirectoryId, Directory)>,
}

impl Shelves {
    pub(crate) fn open(control: &Directory) -> Result<Self, ReceiverError> {
        let staging = control.ensure_directory(&names::STAGING)?;
        let incoming = staging.ensure_directory(&names::INCOMING)?;
        Ok(Self {
            staging,
            incoming,
            open: None,
            open_incoming: None,
        })
    }

    /// The shelf and name of an entry's staged file.
    pub(crate) fn get(&mut self, id: u64) -> Result<(&Directory, Name), ReceiverError> {
        let shelf = id / SHELF;
        if self.open.as_ref().is_none_or(|(open, _)| *open != shelf) {
            self.open = Some((shelf, self.staging.ensure_directory(&names::number(shelf))?));
        }
        let (_, directory) = self.open.as_ref().ok_or(ReceiverError::Worker)?;
        Ok((directory, names::number(id)))
    }

    /// The staged directory that will be the new directory `id`.
    pub(crate) fn incoming(&mut self, id: DirectoryId) -> Result<&Directory, ReceiverError> {
        if self
            .open_incoming
            .as_ref()
            .is_none_or(|(open, _)| *open != id)
        {
            self.open_incoming = Some((id, self.incoming.ensure_directory(&names::number(id.0))?));
        }
        let (_, directory) = self.open_incoming.as_ref().ok_or(ReceiverError::Worker)?;
        Ok(directory)
    }

    /// Moves the staged directory to its place; `false` if there is none, because nothing was staged for it.
    pub(crate) fn place_directory(
        &self,
        id: DirectoryId,
        parent: &Directory,
        name: &Name,
    ) -> Result<bool, ReceiverError> {
        match self.incoming.rename_new(&names::number(id.0), parent, name) {
            Ok(()) => Ok(true),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells which directories the base snapshot does not have.
pub(crate) struct NewDirectories<'a> {
    /// The catalog and the number of the base snapshot; `None` without a base: all are new.
    base: Option<(&'a Catalog, u64)>,
    last: Option<(DirectoryId, bool)>,
}

impl<'a> NewDirectories<'a> {
    pub(crate) fn new(base: Option<(&'a Catalog, u64)>) -> Self {
        Self { base, last: None }
    }

    pub(crate) fn contains(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
        let Some((catalog, at)) = self.base else {
            return Ok(true);
        };
        if let Some((last, is_new)) = self.last
            && last == id
        {
            return Ok(is_new);
        }
        let is_new = catalog.directory_place(id, at)?.is_none();
        self.last = Some((id, is_new));
        Ok(is_new)
    }
}
