//! Reading everything in pieces that can be carried on with, whatever is committed in between.

use rusqlite::{OptionalExtension, params};
use understudy_protocol::{ContentHash, DirectoryId, Name};

use super::read::{ROW, VALID_AT, row_from};
use super::{Catalog, Row};
use crate::error::ReceiverError;

impl Catalog {
    /// The first rows in a directory at snapshot `at` with a name after the given one, in byte order of the names.
    pub(crate) fn rows_after(
        &self,
        parent: DirectoryId,
        after: Option<&Name>,
        at: u64,
        limit: usize,
    ) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE parent = ?2 AND name > ?3 AND {VALID_AT} ORDER BY name LIMIT ?4"
        );
        // No name is empty.
        let after = after.map_or(&[][..], |name| name.as_bytes());
        self.collect_rows(
            &sql,
            params![at as i64, parent.0 as i64, after, limit as i64],
        )
    }

    /// The directory of snapshot `at` that comes after another, in an order that stays; the first if none is given.
    pub(crate) fn directory_after(
        &self,
        after: Option<DirectoryId>,
        at: u64,
    ) -> Result<Option<DirectoryId>, ReceiverError> {
        let after = after.map_or(i64::MIN, |id| id.0 as i64);
        self.run(|connection| {
            let sql = format!(
                "SELECT directory FROM entry WHERE directory > ?2 AND {VALID_AT} ORDER BY directory LIMIT 1"
            );
            connection
                .prepare_cached(&sql)?
                .query_row(params![at as i64, after], |row| row.get::<_, i64>(0))
                .optional()
                .map(|id| id.map(|id| DirectoryId(id as u64)))
        })
    }

    /// The first file rows after row `after` that no snapshot from `head` on has.
    pub(crate) fn superseded_after(
        &self,
        head: u64,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE id > ?2 AND kind = 0 AND until IS NOT NULL AND until <= ?1 ORDER BY id LIMIT ?3"
        );
        self.collect_rows(&sql, params![head as i64, after as i64, limit as i64])
    }

    /// The first rows after row `after` that have this content at snapshot `at`, and the number of the last one looked at;
    /// `None` if there are no more.
    pub(crate) fn some_rows_with(
        &self,
        hash: ContentHash,
        at: u64,
        after: u64,
        limit: usize,
    ) -> Result<Option<(u64, Vec<Row>)>, ReceiverError> {
        // Two ranges of the index, each in the order of the rows' numbers.
        let part = |until: &str| {
            format!(
                "SELECT {ROW} FROM entry WHERE hash_key = ?2 AND {until} AND since <= ?1 AND id > ?3"
            )
        };
        let sql = format!(
            "{} UNION ALL {} ORDER BY id LIMIT ?4",
            part("until IS NULL"),
            part("until > ?1")
        );
        let mut rows = self.collect_rows(
            &sql,
            params![at as i64, hash.key(), after as i64, limit as i64],
        )?;
        let last = rows.last().map(|row| row.id);
        rows.retain(|row| row.entry.content().is_some_and(|(_, found)| found == hash));
        Ok(last.map(|last| (last, rows)))
    }

    /// Calls `visit` for every row that has or had this content.
    pub(crate) fn rows_of(
        &self,
        hash: ContentHash,
        mut visit: impl FnMut(Row) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = format!("SELECT {ROW} FROM entry WHERE hash_key = ?1");
        self.each(&sql, params![hash.key()], row_from, |row| {
            let row = row?;
            match row.entry.content() {
                Some((_, found)) if found == hash => visit(row),
                _ => Ok(()),
            }
        })
    }
}
