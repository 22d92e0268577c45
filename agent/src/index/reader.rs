//! Reading the base: in order for the merge, and by inode, directory number or content.

use std::cmp::Ordering;

use rusqlite::{Connection, Row};
use understudy_protocol::{ContentHash, DirectoryId, Entry, Name, Place};
use understudy_tree::Identity;

use super::Index;
use super::row::{Known, SEEN_COLUMNS, Seen, folded, seen_from};
use crate::error::AgentError;

/// Rows that share an inode or a content beyond this number are not looked at: each serves as well.
const ENOUGH: usize = 64;

/// A connection that sees the base.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(super) index: &'a Index,
    pub(super) connection: Connection,
}

/// A row whose entry is not decoded yet.
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    /// The directory's number if it is one.
    pub(crate) directory: Option<DirectoryId>,
    /// What was seen when it was recorded.
    pub(crate) seen: Option<Seen>,
    entry: &'a [u8],
    index: &'a Index,
}

impl Raw<'_> {
    /// The whole row.
    pub(crate) fn decode(&self) -> Result<Known, AgentError> {
        Ok(Known {
            entry: self.index.decode(self.entry)?,
            seen: self.seen,
        })
    }
}

/// One step of the merge of a directory's names with its rows.
#[derive(Debug)]
pub(crate) enum Side<'a> {
    /// Only on disk.
    Left(Name),
    /// Only in the index.
    Right(Name, Raw<'a>),
    /// In both.
    Both(Name, Raw<'a>),
}

impl Side<'_> {
    /// The name.
    pub(crate) fn name(&self) -> &Name {
        match self {
            Self::Left(name) | Self::Right(name, _) | Self::Both(name, _) => name,
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(index: &'a Index, connection: Connection) -> Self {
        Self { index, connection }
    }

    /// Walks `names`, which are sorted, and the rows of `parent` in lock step.
    pub(crate) fn merge(
        &self,
        parent: DirectoryId,
        names: Vec<Name>,
        mut visit: impl FnMut(Side<'_>) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let check = |error| crate::db::explain(&self.index.path, &error);
        let sql = concat!(
            "SELECT name, directory, entry, kind, inode, born, size, modified, changed ",
            "FROM entries WHERE parent = ?1 ORDER BY name"
        );
        let mut statement = self.connection.prepare_cached(sql).map_err(check)?;
        let mut rows = statement.query([parent.0 as i64]).map_err(check)?;
        let mut names = names.into_iter().peekable();
        while let Some(row) = rows.next().map_err(check)? {
            let name = row
                .get_ref(0)
                .and_then(|value| Ok(value.as_bytes()?))
                .map_err(check)?;
            let raw = self.raw(row)?;
            while let Some(before) = names.next_if(|left| left.as_bytes() < name) {
                visit(Side::Left(before))?;
            }
            match names.next_if(|left| left.as_bytes().cmp(name) == Ordering::Equal) {
                Some(name) => visit(Side::Both(name, raw))?,
                None => visit(Side::Right(self.index.name(name)?, raw))?,
            }
        }
        names.try_for_each(|name| visit(Side::Left(name)))
    }

    /// Looks up `names` in the rows of `parent`: each is in both or only on the left.
    pub(crate) fn pick(
        &self,
        parent: DirectoryId,
        names: impl Iterator<Item = Name>,
        mut visit: impl FnMut(Side<'_>) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let check = |error| crate::db::explain(&self.index.path, &error);
        let sql = concat!(
            "SELECT name, directory, entry, kind, inode, born, size, modified, changed ",
            "FROM entries WHERE parent = ?1 AND name = ?2"
        );
        let mut statement = self.connection.prepare_cached(sql).map_err(check)?;
        for name in names {
            let mut rows = statement
                .query((parent.0 as i64, name.as_bytes()))
                .map_err(check)?;
            match rows.next().map_err(check)? {
                Some(row) => visit(Side::Both(name, self.raw(row)?))?,
                None => visit(Side::Left(name))?,
            }
        }
        Ok(())
    }

    fn raw<'row>(&'row self, row: &'row Row<'_>) -> Result<Raw<'row>, AgentError> {
        let read = || {
            let directory: Option<i64> = row.get(1)?;
            let entry = row.get_ref(2)?.as_blob()?;
            Ok((directory, entry, seen_from(row, 3)?))
        };
        let (directory, entry, seen) = self.index.check(read())?;
        let directory = directory.map(|id| DirectoryId(id as u64));
        Ok(Raw {
            directory,
            seen,
            entry,
            index: self.index,
        })
    }

    /// The row at a place.
    pub(crate) fn at(&self, place: &Place) -> Result<Option<Known>, AgentError> {
        let condition = "parent = ?1 AND name = ?2";
        let found = self.select(condition, (place.parent.0 as i64, place.name.as_bytes()))?;
        Ok(found.into_iter().next().map(|(_, known)| known))
    }

    /// Whether a directory has any rows.
    pub(crate) fn has_entries_in(&self, directory: DirectoryId) -> Result<bool, AgentError> {
        Ok(!self.select("parent = ?1", [directory.0 as i64])?.is_empty())
    }

    /// Rows recorded with this inode.
    pub(crate) fn with_identity(
        &self,
        identity: Identity,
    ) -> Result<Vec<(Place, Known)>, AgentError> {
        let born = identity.born.map(folded);
        self.select("inode = ?1 AND born IS ?2", (identity.inode as i64, born))
    }

    /// The directories that were recorded with this inode.
    pub(crate) fn directories_with_identity(
        &self,
        identity: Identity,
    ) -> Result<Vec<DirectoryId>, AgentError> {
        let found = self.with_identity(identity)?;
        Ok(found
            .iter()
            .filter_map(|(_, known)| known.entry.directory_id())
            .collect())
    }

    /// Where a directory with this number stands, and its row.
    pub(crate) fn directory(
        &self,
        directory: DirectoryId,
    ) -> Result<Option<(Place, Known)>, AgentError> {
        let found = self.select("directory = ?1", [directory.0 as i64])?;
        Ok(found.into_iter().next())
    }

    /// A file with this content, somewhere.
    pub(crate) fn with_content(
        &self,
        size: u64,
        hash: ContentHash,
    ) -> Result<Option<Place>, AgentError> {
        let found = self.select("hash = ?1", [hash.key()])?;
        let same = |(_, known): &(Place, Known)| known.entry.content() == Some((size, hash));
        Ok(found.into_iter().find(same).map(|(place, _)| place))
    }

    fn select(
        &self,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<(Place, Known)>, AgentError> {
        let sql = format!(
            "SELECT parent, name, entry, {SEEN_COLUMNS} FROM entries WHERE {condition} LIMIT {ENOUGH}"
        );
        self.index.select(&self.connection, &sql, parameters)
    }
}

impl Index {
    /// Rows of `parent, name, entry` and [`SEEN_COLUMNS`].
    pub(super) fn select(
        &self,
        connection: &Connection,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<(Place, Known)>, AgentError> {
        let check = |error| crate::db::explain(&self.path, &error);
        let mut statement = connection.prepare_cached(sql).map_err(check)?;
        let mut rows = statement.query(parameters).map_err(check)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(check)? {
            let read = || {
                let parent: i64 = row.get(0)?;
                Ok((
                    parent,
                    row.get_ref(1)?.as_blob()?,
                    row.get_ref(2)?.as_blob()?,
                    seen_from(row, 3)?,
                ))
            };
            let (parent, name, entry, seen) = self.check(read())?;
            let place = Place::new(DirectoryId(parent as u64), self.name(name)?);
            found.push((
                place,
                Known {
                    entry: self.decode(entry)?,
                    seen,
                },
            ));
        }
        Ok(found)
    }

    pub(super) fn name(&self, bytes: &[u8]) -> Result<Name, AgentError> {
        Name::new(bytes).map_err(|error| self.damaged(&error))
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Entry, AgentError> {
        postcard::from_bytes(bytes)
            .map_err(|error| self.damaged(&format!("an entry cannot be read: {error}")))
    }
}
