//! Reading entries: at a place, below a directory, as the operations between two snapshots.

use rusqlite::{OptionalExtension, params};
use understudy_protocol::{ContentHash, DirectoryId, Entry, Name, Place};

use super::{Catalog, count};
use crate::error::ReceiverError;

/// `kind` of a directory row.
pub(super) const DIRECTORY: i64 = 1;

/// A whole entry row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) place: Place,
    pub(crate) since: u64,
    pub(crate) until: Option<u64>,
    pub(crate) entry: Entry,
}

impl Row {
    /// Whether a snapshot has it.
    pub(crate) fn is_valid_at(&self, at: u64) -> bool {
        self.since <= at && self.until.is_none_or(|until| until > at)
    }
}

/// A directory row as the apply engine needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) id: DirectoryId,
    pub(crate) place: Place,
}

/// A leaf row as the apply engine needs it.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) id: u64,
    pub(crate) place: Place,
    pub(crate) is_device: bool,
    pub(crate) group: u64,
    /// The row whose inode this is: itself or another of the same snapshot if staged, an older one if kept.
    pub(crate) origin: u64,
}

/// Rows read at once, and about as many bytes: extended attributes may take a quarter of a megabyte each.
const PAGE_ROWS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;

pub(super) const VALID_AT: &str = "since <= ?1 AND (until IS NULL OR until > ?1)";
pub(super) const ROW: &str = "id, parent, name, since, until, entry";
const LEAF: &str = "id, parent, name, kind, link_group, origin";

impl Catalog {
    /// The row valid at snapshot `at`.
    pub(crate) fn row(&self, place: &Place, at: u64) -> Result<Option<Row>, ReceiverError> {
        // The newest candidate first: an old place may have thousands of former rows.
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE parent = ?2 AND name = ?3 AND {VALID_AT} ORDER BY since DESC LIMIT 1"
        );
        self.one_row(
            &sql,
            params![at as i64, place.parent.0 as i64, place.name.as_bytes()],
        )
    }

    /// A row by its number.
    pub(crate) fn row_by_id(&self, id: u64) -> Result<Option<Row>, ReceiverError> {
        self.one_row(
            &format!("SELECT {ROW} FROM entry WHERE id = ?1"),
            params![id as i64],
        )
    }

    /// The row of a directory at snapshot `at`.
    pub(crate) fn directory_row(
        &self,
        id: DirectoryId,
        at: u64,
    ) -> Result<Option<Row>, ReceiverError> {
        self.one_row(&of_directory(ROW), params![at as i64, id.0 as i64])
    }

    /// Where a directory stands at snapshot `at`.
    pub(crate) fn directory_place(
        &self,
        id: DirectoryId,
        at: u64,
    ) -> Result<Option<Place>, ReceiverError> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached(&of_directory("parent, name"))?;
            statement
                .query_row(params![at as i64, id.0 as i64], |row| place_from(row, 0))
                .optional()
        })
    }

    /// Some of what a directory has at snapshot `at`, in byte order of the names: what comes after `after`. Empty once nothing does.
    pub(crate) fn rows_in(
        &self,
        parent: DirectoryId,
        at: u64,
        after: Option<&Name>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE parent = ?2 AND name > ?3 AND {VALID_AT} ORDER BY name LIMIT {PAGE_ROWS}"
        );
        let after = after.map_or(&[][..], Name::as_bytes);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        self.run(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut found = statement.query(params![at as i64, parent.0 as i64, after])?;
            while bytes < PAGE_BYTES
                && let Some(row) = found.next()?
            {
                bytes += row.get_ref(5)?.as_blob()?.len();
                rows.push(row_from(row)?);
            }
            Ok(())
        })?;
        rows.into_iter().collect()
    }

    /// Rows with this content that are valid at snapshot `at`, at most a few.
    pub(crate) fn rows_with(&self, hash: ContentHash, at: u64) -> Result<Vec<Row>, ReceiverError> {
        // Two ranges of the index: a content that thousands of former rows share must not be slow to find.
        let part = |until: &str| {
            format!("SELECT {ROW} FROM entry WHERE hash_key = ?2 AND {until} AND since <= ?1")
        };
        let sql = format!(
            "{} UNION ALL {} LIMIT 16",
            part("until IS NULL"),
            part("until > ?1")
        );
        let mut rows = self.collect_rows(&sql, params![at as i64, hash.key()])?;
        rows.retain(|row| row.entry.content().is_some_and(|(_, found)| found == hash));
        Ok(rows)
    }

    /// Makes looking for contents fast. Not done for a first snapshot, which looks for none.
    pub(crate) fn index_contents(&self) -> Result<(), ReceiverError> {
        self.run(|connection| {
            connection.execute_batch(
                "CREATE INDEX IF NOT EXISTS entry_hash ON entry (hash_key, until) WHERE hash_key IS NOT NULL",
            )
        })
    }

    /// Directories that stood in snapshot `to - 1` and do not stand at the same place in `to`.
    pub(crate) fn directories_gone(&self, to: u64) -> Result<Vec<Directory>, ReceiverError> {
        let sql = "SELECT directory, parent, name FROM entry WHERE until = ?1 AND kind = 1";
        self.directories(sql, params![to as i64])
    }

    /// Directories that are new, moved or changed in snapshot `to`.
    pub(crate) fn directories_new(
        &self,
        to: u64,
        first_entry: u64,
    ) -> Result<Vec<Directory>, ReceiverError> {
        let sql =
            "SELECT directory, parent, name FROM entry WHERE id >= ?2 AND since = ?1 AND kind = 1";
        self.directories(sql, params![to as i64, first_entry as i64])
    }

    /// All directories of snapshot `at`.
    pub(crate) fn directories_at(&self, at: u64) -> Result<Vec<Directory>, ReceiverError> {
        let sql = format!(
            "SELECT directory, parent, name FROM entry WHERE directory IS NOT NULL AND {VALID_AT}"
        );
        self.directories(&sql, params![at as i64])
    }

    /// Calls `visit` for each leaf that is new or changed in snapshot `to`, in the order of arrival.
    pub(crate) fn leaves_new(
        &self,
        to: u64,
        first_entry: u64,
        visit: impl FnMut(Leaf) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = format!("SELECT {LEAF} FROM entry WHERE id >= ?2 AND since = ?1 AND kind != 1");
        self.each_leaf(&sql, params![to as i64, first_entry as i64], visit)
    }

    /// Calls `visit` for each leaf that is new in snapshot `to` and has the inode of another row.
    pub(crate) fn leaves_linked(
        &self,
        to: u64,
        first_entry: u64,
        visit: impl FnMut(Leaf) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = format!(
            "SELECT {LEAF} FROM entry WHERE id >= ?2 AND since = ?1 AND kind != 1 AND origin != id"
        );
        self.each_leaf(&sql, params![to as i64, first_entry as i64], visit)
    }

    /// Whether anything was staged for a place in this directory of snapshot `to`.
    pub(crate) fn has_staged_leaves(
        &self,
        id: DirectoryId,
        to: u64,
    ) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM entry WHERE parent = ?1 AND since = ?2 AND kind != 1 \
                       AND kind < 4 AND origin = id)";
            connection.prepare_cached(sql)?.query_row(params![id.0 as i64, to as i64], |row| row.get(0))
        })
    }

    /// Calls `visit` for each leaf of snapshot `at`.
    pub(crate) fn leaves_at(
        &self,
        at: u64,
        visit: impl FnMut(Leaf) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        self.each_leaf(
            &format!("SELECT {LEAF} FROM entry WHERE kind != 1 AND {VALID_AT}"),
            params![at as i64],
            visit,
        )
    }

    /// Calls `visit` for each leaf of snapshot `to - 1` that is not what stands there in `to`.
    pub(crate) fn leaves_gone(
        &self,
        to: u64,
        visit: impl FnMut(Leaf) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        self.each_leaf(
            &format!("SELECT {LEAF} FROM entry WHERE until = ?1 AND kind != 1"),
            params![to as i64],
            visit,
        )
    }

    /// Calls `visit` for every row, with no order.
    pub(crate) fn rows_at(
        &self,
        at: u64,
        mut visit: impl FnMut(Row) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = format!("SELECT {ROW} FROM entry WHERE {VALID_AT}");
        self.each(&sql, params![at as i64], row_from, |row| visit(row?))
    }

    fn one_row(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Option<Row>, ReceiverError> {
        self.run(|connection| {
            connection
                .prepare_cached(sql)?
                .query_row(parameters, row_from)
                .optional()
        })?
        .transpose()
    }

    pub(super) fn collect_rows(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Row>, ReceiverError> {
        let rows: Vec<_> = self.run(|connection| {
            connection
                .prepare_cached(sql)?
                .query_map(parameters, row_from)?
                .collect()
        })?;
        rows.into_iter().collect()
    }

    fn directories(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Directory>, ReceiverError> {
        self.run(|connection| {
            let found = |row: &rusqlite::Row<'_>| {
                let id = DirectoryId(row.get::<_, i64>(0)? as u64);
                Ok(Directory {
                    id,
                    place: place_from(row, 1)?,
                })
            };
            connection
                .prepare_cached(sql)?
                .query_map(parameters, found)?
                .collect()
        })
    }

    fn each_leaf(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        visit: impl FnMut(Leaf) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        self.each(sql, parameters, leaf_from, visit)
    }

    pub(super) fn each<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
        mut visit: impl FnMut(T) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let failed = |source| Self::failed(&self.path, source);
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        let mut rows = statement.query(parameters).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            visit(read(row).map_err(failed)?)?;
        }
        Ok(())
    }
}

/// The row of directory `?2` valid at `?1`: two ranges of the index, each of which begins with the right row.
fn of_directory(columns: &str) -> String {
    let part = |until: &str| {
        format!("SELECT {columns} FROM entry WHERE directory = ?2 AND {until} AND since <= ?1")
    };
    format!(
        "{} UNION ALL {} LIMIT 1",
        part("until IS NULL"),
        part("until > ?1")
    )
}

pub(super) fn place_from(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Place> {
    let name: Vec<u8> = row.get(first + 1)?;
    let name = Name::new(name).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            first + 1,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })?;
    Ok(Place::new(
        DirectoryId(row.get::<_, i64>(first)? as u64),
        name,
    ))
}

fn leaf_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Leaf> {
    Ok(Leaf {
        id: count(row, 0)?,
        place: place_from(row, 1)?,
        is_device: row.get::<_, i64>(3)? >= 4,
        group: row.get::<_, i64>(4)? as u64,
        origin: count(row, 5)?,
    })
}

pub(super) fn row_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Row, ReceiverError>> {
    let (id, place) = (count(row, 0)?, place_from(row, 1)?);
    let since = count(row, 3)?;
    let until = match row.get_ref(4)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(count(row, 4)?),
    };
    let encoded = row.get_ref(5)?.as_blob()?;
    Ok(match postcard::from_bytes::<Entry>(encoded) {
        Ok(entry) => Ok(Row {
            id,
            place,
            since,
            until,
            entry,
        }),
        Err(error) => Err(ReceiverError::Damaged(format!(
            "the catalog's entry {id} ({place:?}) is unreadable: {error}"
        ))),
    })
}
