//! Reading entries for people who look into the past: versions in a directory, what differs between snapshots.
//!
//! Everything comes in pages, so that no reader keeps the catalog's log from being used again while a peer is slow,
//! and none holds more than a page of entries. Extended attributes are left out.

use rusqlite::{OptionalExtension, params};
use understudy_protocol::{ContentHash, DirectoryId, Name};

use super::Catalog;
use super::read::{Row, row_from};
use crate::error::ReceiverError;

/// Rows read at once.
pub(crate) const PAGE_ROWS: usize = 128;
/// Rows of one content that are looked at: with so many nobody can tell which became which.
pub(crate) const TWINS: usize = 8;

const ROW: &str = "id, parent, name, since, until, entry";

/// The rows that one of two snapshots has and the other has not: `earlier < later`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between {
    pub(crate) earlier: u64,
    pub(crate) later: u64,
    /// The first row of a snapshot after `earlier`.
    pub(crate) first_entry: u64,
    /// The first row of a snapshot after `later`.
    pub(crate) end_entry: u64,
}

impl Catalog {
    /// Rows of a directory that are valid in any of the snapshots `range`, by name, then age: those after `after`, which
    /// is a name and the begin of a row.
    pub(crate) fn versions_in(
        &self,
        parent: DirectoryId,
        range: (u64, u64),
        after: Option<&(Name, u64)>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE parent = ?1 AND since <= ?3 AND (until IS NULL OR until > ?2) \
             AND (name, since) > (?4, ?5) ORDER BY name, since LIMIT {PAGE_ROWS}"
        );
        let (name, since) = after.map_or((&[][..], 0), |(name, since)| (name.as_bytes(), *since));
        let (first, last) = (range.0 as i64, clamped(range.1));
        self.page(
            &sql,
            params![parent.0 as i64, first, last, name, since as i64],
        )
    }

    /// The same for one name of a directory.
    pub(crate) fn versions_of(
        &self,
        parent: DirectoryId,
        name: &Name,
        range: (u64, u64),
        after: Option<&(Name, u64)>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE parent = ?1 AND name = ?4 AND since <= ?3 AND since > ?5 \
             AND (until IS NULL OR until > ?2) ORDER BY since LIMIT {PAGE_ROWS}"
        );
        let since = after.map_or(0, |(_, since)| *since as i64);
        let (first, last) = (range.0 as i64, clamped(range.1));
        self.page(
            &sql,
            params![parent.0 as i64, first, last, name.as_bytes(), since],
        )
    }

    /// Where to look for what differs between two snapshots.
    pub(crate) fn between(&self, earlier: u64, later: u64) -> Result<Between, ReceiverError> {
        Ok(Between {
            earlier,
            later,
            first_entry: self.first_entry_after(earlier)?,
            end_entry: self.first_entry_after(later)?,
        })
    }

    /// The first row of a snapshot after this one. Rows are numbered in the order of their snapshots, so that no index
    /// is needed, and no row of a snapshot that may be gone.
    fn first_entry_after(&self, number: u64) -> Result<u64, ReceiverError> {
        let (mut low, mut high) = self.run(|connection| {
            let sql = "SELECT coalesce(min(id), 0), coalesce(max(id), 0) + 1 FROM entry";
            connection.query_row(sql, [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
        })?;
        while low < high {
            let middle = low + (high - low) / 2;
            let found: Option<(i64, i64)> = self.run(|connection| {
                let sql = "SELECT id, since FROM entry WHERE id >= ?1 ORDER BY id LIMIT 1";
                let mut statement = connection.prepare_cached(sql)?;
                let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                statement.query_row([middle], read).optional()
            })?;
            match found {
                Some((id, since)) if since as u64 <= number => low = id + 1,
                _ => high = middle,
            }
        }
        Ok(low as u64)
    }

    /// Rows valid in the earlier snapshot and not in the later one: those after `after`, which is the end of a row and
    /// its number.
    pub(crate) fn rows_gone(
        &self,
        between: &Between,
        after: Option<(u64, u64)>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let (until, id) = after.unwrap_or((between.earlier, i64::MAX as u64));
        let (earlier, later) = (between.earlier as i64, between.later as i64);
        self.page(ROWS_GONE, params![earlier, later, until as i64, id as i64])
    }

    /// Rows valid in the later snapshot and not in the earlier one: those after the row `after`.
    pub(crate) fn rows_come(
        &self,
        between: &Between,
        after: Option<u64>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let first = after.map_or(between.first_entry, |after| after.saturating_add(1));
        let (end, later) = (between.end_entry as i64, between.later as i64);
        self.page(ROWS_COME, params![first as i64, end, later])
    }

    /// Whether contents can be looked for; see [`Catalog::index_contents`].
    pub(crate) fn finds_contents(&self) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = 'entry_hash')";
            connection.query_row(sql, [], |row| row.get(0))
        })
    }

    /// As [`Self::rows_gone`], those with this content; the first few.
    pub(crate) fn twins_gone(
        &self,
        between: &Between,
        hash: ContentHash,
    ) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE hash_key = ?1 AND until > ?2 AND until <= ?3 AND since <= ?2 LIMIT {TWINS}"
        );
        let (earlier, later) = (between.earlier as i64, between.later as i64);
        self.twins(&sql, params![hash.key(), earlier, later], hash)
    }

    /// As [`Self::rows_come`], those with this content; the first few.
    pub(crate) fn twins_come(
        &self,
        between: &Between,
        hash: ContentHash,
    ) -> Result<Vec<Row>, ReceiverError> {
        let part = |until: &str| {
            format!(
                "SELECT {ROW} FROM entry WHERE hash_key = ?1 AND {until} AND id >= ?2 AND id < ?3"
            )
        };
        let sql = format!(
            "{} UNION ALL {} LIMIT {TWINS}",
            part("until IS NULL"),
            part("until > ?4")
        );
        let (first, end) = (between.first_entry as i64, between.end_entry as i64);
        self.twins(
            &sql,
            params![hash.key(), first, end, between.later as i64],
            hash,
        )
    }

    /// Rows that had this content and ended, in any snapshot; the first few.
    pub(crate) fn former_rows(&self, hash: ContentHash) -> Result<Vec<Row>, ReceiverError> {
        let sql = format!(
            "SELECT {ROW} FROM entry WHERE hash_key = ?1 AND until IS NOT NULL LIMIT {TWINS}"
        );
        self.twins(&sql, params![hash.key()], hash)
    }

    fn twins(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        hash: ContentHash,
    ) -> Result<Vec<Row>, ReceiverError> {
        let mut rows = self.page(sql, parameters)?;
        rows.retain(|row| row.entry.content().is_some_and(|(_, found)| found == hash));
        Ok(rows)
    }

    fn page(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Row>, ReceiverError> {
        let failed = |source| Self::failed(&self.path, source);
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query(parameters).map_err(failed)?;
        let mut page = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let mut row = row_from(row).map_err(failed)??;
            row.entry.attributes.xattrs = Vec::new();
            page.push(row);
        }
        Ok(page)
    }
}

const ROWS_GONE: &str = "SELECT id, parent, name, since, until, entry FROM entry WHERE until IS NOT NULL \
     AND (until, id) > (?3, ?4) AND until <= ?2 AND since <= ?1 ORDER BY until, id LIMIT 128";
const ROWS_COME: &str = "SELECT id, parent, name, since, until, entry FROM entry WHERE id >= ?1 AND id < ?2 \
     AND (until IS NULL OR until > ?3) ORDER BY id LIMIT 128";

/// A number that SQLite takes.
fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_without_looking_at_the_rest() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let catalog = Catalog::open(&scratch.path().join("catalog.db")).expect("open");
        let plan = |sql: &str| {
            let explained = format!("EXPLAIN QUERY PLAN {sql}");
            let lines = catalog.run(|connection| {
                let mut statement = connection.prepare(&explained)?;
                let lines = statement.raw_query().mapped(|row| row.get::<_, String>(3));
                lines.collect::<rusqlite::Result<Vec<_>>>()
            });
            lines.expect("plan").join("; ")
        };
        let gone = plan(ROWS_GONE);
        assert!(gone.contains("USING INDEX entry_until"), "{gone}");
        assert!(!gone.contains("TEMP B-TREE"), "{gone}");
        let come = plan(ROWS_COME);
        assert!(come.contains("USING INTEGER PRIMARY KEY"), "{come}");
        assert!(!come.contains("TEMP B-TREE"), "{come}");
    }
}
