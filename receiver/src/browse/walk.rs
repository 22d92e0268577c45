//! Walking a directory tree through a range of snapshots: each entry once for every version and path that it had.

use std::collections::VecDeque;

use understudy_protocol::{DirectoryId, Entry, Name, RelPath, limits};

use crate::catalog::{Catalog, Row};
use crate::error::ReceiverError;
use crate::names;

/// What of a directory is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything.
    All,
    /// One name.
    Only(Name),
}

/// An entry as it stands under a path in the snapshots from `first` to `last`.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: RelPath,
    pub(super) entry: Entry,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Directories between it and where the walk began.
    pub(super) depth: usize,
}

/// The walk: depth first, names in byte order, versions of one name oldest first. It holds a page of rows for each
/// level.
pub(super) struct Walk<'a> {
    catalog: &'a Catalog,
    levels: Vec<Level>,
    /// One below the level that gave the last entry.
    entered: Option<Level>,
}

/// A directory under a path in a range of snapshots.
struct Level {
    directory: DirectoryId,
    path: RelPath,
    range: (u64, u64),
    wanted: Wanted,
    rows: VecDeque<Row>,
    /// Name and begin of the last row that was read.
    after: Option<(Name, u64)>,
    is_read: bool,
}

impl<'a> Walk<'a> {
    /// Below a directory that has this path in all snapshots of the range.
    pub(super) fn new(
        catalog: &'a Catalog,
        directory: DirectoryId,
        path: RelPath,
        range: (u64, u64),
    ) -> Self {
        Self {
            catalog,
            levels: vec![Level::new(directory, path, range, Wanted::All)],
            entered: None,
        }
    }

    /// Through what was dumped of databases: its root first, if there is one.
    pub(super) fn of_databases(catalog: &'a Catalog, range: (u64, u64)) -> Self {
        let top = Self::new(catalog, DirectoryId::TOP, RelPath::root(), range);
        top.only(names::DATABASES.clone())
    }

    /// Looks at one name of the first directory only.
    pub(super) fn only(mut self, name: Name) -> Self {
        if let Some(level) = self.levels.first_mut() {
            level.wanted = Wanted::Only(name);
        }
        self
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Seen>, ReceiverError> {
        self.levels.extend(self.entered.take());
        while let Some(level) = self.levels.last_mut() {
            if let Some((row, last)) = level.next(self.catalog)? {
                let path = level.path.join(&row.place.name);
                return Ok(Some(Seen {
                    path,
                    entry: row.entry,
                    first: row.since.max(level.range.0),
                    last: last.min(level.range.1),
                    depth: self.levels.len() - 1,
                }));
            }
            self.levels.pop();
        }
        Ok(None)
    }

    /// Goes on below the entry that [`Self::next`] gave last, if it is a directory.
    pub(super) fn enter(&mut self, seen: &Seen, wanted: Wanted) -> Result<(), ReceiverError> {
        let Some(directory) = seen.entry.directory_id() else {
            return Ok(());
        };
        if self.levels.len() > limits::DEPTH {
            return Err(ReceiverError::Damaged(format!(
                "the catalog's directory {} is deeper than any can be",
                directory.0
            )));
        }
        if self.levels.iter().any(|level| level.directory == directory) {
            return Err(ReceiverError::Damaged(format!(
                "the catalog's directory {} is in itself",
                directory.0
            )));
        }
        let range = (seen.first, seen.last);
        self.entered = Some(Level::new(directory, seen.path.clone(), range, wanted));
        Ok(())
    }
}

impl Level {
    fn new(directory: DirectoryId, path: RelPath, range: (u64, u64), wanted: Wanted) -> Self {
        Self {
            directory,
            path,
            range,
            wanted,
            rows: VecDeque::new(),
            after: None,
            is_read: false,
        }
    }

    /// The next version of an entry, with the last snapshot that has it.
    fn next(&mut self, catalog: &Catalog) -> Result<Option<(Row, u64)>, ReceiverError> {
        let Some(mut row) = self.take(catalog)? else {
            return Ok(None);
        };
        // A directory goes on when only its attributes change: what it holds is the same.
        while let Some(next) = self.peek(catalog)?
            && goes_on(&row, next)
        {
            if let Some(next) = self.rows.pop_front() {
                row.until = next.until;
                row.entry = next.entry;
            }
        }
        let last = row.until.map_or(u64::MAX, |until| until.saturating_sub(1));
        Ok(Some((row, last)))
    }

    fn take(&mut self, catalog: &Catalog) -> Result<Option<Row>, ReceiverError> {
        self.peek(catalog)?;
        Ok(self.rows.pop_front())
    }

    fn peek(&mut self, catalog: &Catalog) -> Result<Option<&Row>, ReceiverError> {
        if self.rows.is_empty() && !self.is_read {
            let after = self.after.as_ref();
            self.rows = match &self.wanted {
                Wanted::All => catalog.versions_in(self.directory, self.range, after)?,
                Wanted::Only(name) => {
                    catalog.versions_of(self.directory, name, self.range, after)?
                }
            }
            .into();
            self.is_read = self.rows.is_empty();
            if let Some(last) = self.rows.back() {
                self.after = Some((last.place.name.clone(), last.since));
            }
        }
        Ok(self.rows.front())
    }
}

/// Whether `next` is what `row` was.
fn goes_on(row: &Row, next: &Row) -> bool {
    let is_same = match (row.entry.directory_id(), next.entry.directory_id()) {
        (None, None) => {
            row.entry.node == next.entry.node && row.entry.attributes == next.entry.attributes
        }
        (one, other) => one == other,
    };
    is_same && row.place.name == next.place.name && row.until == Some(next.since)
}
