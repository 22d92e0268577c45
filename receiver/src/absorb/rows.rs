//! Going through the rows of a directory beside its names.

use std::collections::VecDeque;

use understudy_protocol::{DirectoryId, Name};

use crate::catalog::{Catalog, Row};
use crate::error::ReceiverError;

/// The rows of a directory in the order of their names.
pub(super) struct Rows<'a> {
    base: Option<(&'a Catalog, u64)>,
    id: DirectoryId,
    page: VecDeque<Row>,
    after: Option<Name>,
}

impl<'a> Rows<'a> {
    /// Of this directory; none without a snapshot.
    pub(super) fn new(base: Option<(&'a Catalog, u64)>, id: DirectoryId) -> Self {
        Self {
            base,
            id,
            page: VecDeque::new(),
            after: None,
        }
    }

    fn fill(&mut self) -> Result<(), ReceiverError> {
        if let Some((catalog, at)) = self.base
            && self.page.is_empty()
        {
            self.page = catalog.rows_in(self.id, at, self.after.as_ref())?.into();
            match self.page.back() {
                Some(last) => self.after = Some(last.place.name.clone()),
                None => self.base = None,
            }
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Row>, ReceiverError> {
        self.fill()?;
        Ok(self.page.pop_front())
    }

    /// The next one, if its name comes before this.
    pub(super) fn before(&mut self, name: &Name) -> Result<Option<Row>, ReceiverError> {
        self.fill()?;
        let is_before = self.page.front().is_some_and(|row| row.place.name < *name);
        Ok(if is_before {
            self.page.pop_front()
        } else {
            None
        })
    }

    /// The next one, if it has this name.
    pub(super) fn at(&mut self, name: &Name) -> Result<Option<Row>, ReceiverError> {
        self.fill()?;
        let is_at = self.page.front().is_some_and(|row| row.place.name == *name);
        Ok(if is_at { self.page.pop_front() } else { None })
    }
}
