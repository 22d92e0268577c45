//! What mains say of snapshots, signed. It is kept as it came: who can check it is whoever restores.

use rusqlite::{Connection, OptionalExtension, params};
use understudy_protocol::Bytes;

use super::Catalog;
use super::upload::Upload;
use crate::error::ReceiverError;

/// Made where it is missing: catalogs of this format that are older do not have it, and whoever only reads them finds nothing.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS statement (snapshot INTEGER PRIMARY KEY, statement BLOB NOT NULL);
";

impl Catalog {
    /// What was said of a snapshot, committed or not.
    pub(crate) fn statement(&self, number: u64) -> Result<Option<Bytes>, ReceiverError> {
        self.run(|connection| {
            let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'statement'";
            let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
            if found.is_none() {
                return Ok(None);
            }
            let sql = "SELECT statement FROM statement WHERE snapshot = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_row([number as i64], |row| row.get(0));
            Ok(found.optional()?.map(Bytes))
        })
    }
}

impl Upload<'_> {
    /// Keeps what is said of the next snapshot; what is said last counts.
    pub(crate) fn tell_statement(&self, statement: &Bytes) -> Result<(), ReceiverError> {
        self.catalog.run(|connection| {
            let sql = "INSERT OR REPLACE INTO statement VALUES (?1, ?2)";
            let row = params![self.number as i64, statement.0];
            connection.prepare_cached(sql)?.execute(row).map(drop)
        })
    }
}

/// Forgets what was said of a snapshot that is dropped.
pub(super) fn forget(connection: &Connection, number: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM statement WHERE snapshot = ?1";
    connection.execute(sql, [number as i64]).map(drop)
}
