//! What mains say of snapshots, signed. It is kept as it came: who can check it is whoever restores.

use rusqlite::{Connection, OptionalExtension, Row, params};
use understudy_protocol::Bytes;

use super::Catalog;
use super::upload::Upload;
use super::used::SMALL_ROW;
use crate::error::ReceiverError;

/// Made where it is missing: catalogs of this format that are older do not have it, and whoever only reads them finds nothing.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS statement (snapshot INTEGER PRIMARY KEY, statement BLOB NOT NULL, hash BLOB NOT NULL);
";

impl Catalog {
    /// What was said of a snapshot, committed or not; nothing if that is damaged, which keeps nobody from the rest.
    pub(crate) fn statement(&self, number: u64) -> Result<Option<Bytes>, ReceiverError> {
        let found = self.run(|connection| {
            if !is_there(connection)? {
                return Ok(None);
            }
            let sql = "SELECT statement, hash FROM statement WHERE snapshot = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row([number as i64], kept_from).optional()
        })?;
        if let Some((_, false)) = found {
            tracing::error!("{}", damaged(number));
        }
        Ok(found.and_then(|(statement, is_as_it_came)| is_as_it_came.then_some(statement)))
    }

    /// One line for each of them that is not as it came.
    pub(super) fn check_statements(&self) -> Result<Vec<String>, ReceiverError> {
        self.run(|connection| {
            if !is_there(connection)? {
                return Ok(Vec::new());
            }
            let mut lines = Vec::new();
            let mut statement =
                connection.prepare("SELECT statement, hash, snapshot FROM statement")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if !kept_from(row)?.1 {
                    lines.push(damaged(super::count(row, 2)?));
                }
            }
            Ok(lines)
        })
    }
}

fn is_there(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'statement'";
    let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found.is_some())
}

/// What was said, and whether it is as it came.
fn kept_from(row: &Row<'_>) -> rusqlite::Result<(Bytes, bool)> {
    let (statement, hash): (Vec<u8>, [u8; 32]) = (row.get(0)?, row.get(1)?);
    let is_as_it_came = *blake3::hash(&statement).as_bytes() == hash;
    Ok((Bytes(statement), is_as_it_came))
}

fn damaged(number: u64) -> String {
    format!("what the main has signed of snapshot {number} is not as it came")
}

impl Upload<'_> {
    /// Keeps what is said of the next snapshot; what is said last counts.
    pub(crate) fn tell_statement(&mut self, statement: &Bytes) -> Result<(), ReceiverError> {
        self.said_bytes = SMALL_ROW + statement.0.len() as u64;
        self.catalog.run(|connection| {
            let sql = "INSERT OR REPLACE INTO statement VALUES (?1, ?2, ?3)";
            let hash = blake3::hash(&statement.0);
            let row = params![self.number as i64, statement.0, hash.as_bytes()];
            connection.prepare_cached(sql)?.execute(row).map(drop)
        })
    }
}

/// Forgets what was said of a snapshot that is dropped.
pub(super) fn forget(connection: &Connection, number: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM statement WHERE snapshot = ?1";
    connection.execute(sql, [number as i64]).map(drop)
}
