//! Which snapshots were absorbed: made of a tree as it was found, and not sent by a main.

use rusqlite::{Connection, OptionalExtension, params};
use understudy_protocol::DirectoryId;

use super::upload::Upload;
use super::{Catalog, PinRow, count};
use crate::error::ReceiverError;

/// Made where it is missing: in catalogs of this format that are older nothing was absorbed.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS absorbed (
        snapshot INTEGER PRIMARY KEY, nature INTEGER NOT NULL);
";

const DRIFT: i64 = 1;
const WRITTEN: i64 = 2;

/// Who wrote what a snapshot has that was absorbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Somebody who should not have.
    Drift,
    /// The application, while this was the main, or before this was anything.
    Written,
}

impl Catalog {
    /// Whether this snapshot was absorbed.
    pub(crate) fn is_absorbed(&self, number: u64) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            if !is_there(connection)? {
                return Ok(false);
            }
            let sql = "SELECT EXISTS (SELECT 1 FROM absorbed WHERE snapshot = ?1)";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row([number as i64], |row| row.get(0))
        })
    }

    /// The newest committed snapshot up to `number` that is no drift; 0 if there is none.
    pub(crate) fn last_without_drift(&self, number: u64) -> Result<u64, ReceiverError> {
        self.last_but(number, "SELECT snapshot FROM absorbed WHERE nature = 1")
    }

    /// The newest committed snapshot up to `number` that a main has sent; 0 if there is none.
    pub(crate) fn last_sent(&self, number: u64) -> Result<u64, ReceiverError> {
        self.last_but(number, "SELECT snapshot FROM absorbed")
    }

    fn last_but(&self, number: u64, left_out: &str) -> Result<u64, ReceiverError> {
        self.run(|connection| {
            let left_out = match is_there(connection)? {
                true => left_out,
                false => "SELECT 0",
            };
            let sql = format!(
                "SELECT coalesce(max(number), 0) FROM snapshot WHERE committed = 1 AND number <= ?1 AND number NOT IN ({left_out})"
            );
            connection.query_row(&sql, [number as i64], |row| count(row, 0))
        })
    }

    /// The drift points, oldest first.
    pub(crate) fn drift_points(&self) -> Result<Vec<u64>, ReceiverError> {
        self.run(|connection| {
            if !is_there(connection)? {
                return Ok(Vec::new());
            }
            let sql = "SELECT number FROM snapshot JOIN absorbed ON snapshot = number \
                       WHERE committed = 1 AND nature = 1 ORDER BY number";
            let mut statement = connection.prepare_cached(sql)?;
            let numbers = statement.query_map([], |row| count(row, 0))?;
            numbers.collect()
        })
    }

    /// A number that no directory of any snapshot has, and none after it.
    pub(crate) fn next_directory(&self) -> Result<DirectoryId, ReceiverError> {
        let last = self.run(|connection| {
            let sql = "SELECT max(directory) FROM entry WHERE directory IS NOT NULL";
            connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
        })?;
        let last = last.unwrap_or(0).max(DirectoryId::FILES.0 as i64);
        let next = last.checked_add(1).ok_or_else(|| {
            ReceiverError::Refused("no numbers for directories are left".to_owned())
        })?;
        Ok(DirectoryId(next as u64))
    }

    /// A number that no hard-link group has, and none after it.
    pub(crate) fn next_group(&self) -> Result<u64, ReceiverError> {
        let last = self.run(|connection| {
            let sql = "SELECT coalesce(max(link_group), 0) FROM entry";
            connection.query_row(sql, [], |row| row.get::<_, i64>(0))
        })?;
        let next = last.max(0).checked_add(1).ok_or_else(|| {
            ReceiverError::Refused("no numbers for hard-link groups are left".to_owned())
        })?;
        Ok(next as u64)
    }
}

impl Upload<'_> {
    /// Notes that the next snapshot is absorbed, and why it is pinned, if it is.
    pub(crate) fn tell_absorbed(
        &self,
        nature: Nature,
        pin: Option<&PinRow>,
    ) -> Result<(), ReceiverError> {
        let number = self.number as i64;
        self.catalog.run(|connection| {
            let sql = "INSERT OR REPLACE INTO absorbed VALUES (?1, ?2)";
            let nature = match nature {
                Nature::Drift => DRIFT,
                Nature::Written => WRITTEN,
            };
            connection.execute(sql, params![number, nature])?;
            if let Some(pin) = pin {
                let sql = "INSERT OR REPLACE INTO pin VALUES (?1, ?2, ?3)";
                connection.execute(sql, params![number, pin.reason, pin.since_seconds])?;
            }
            Ok(())
        })
    }
}

/// Forgets a snapshot that is dropped or removed.
pub(super) fn forget(connection: &Connection, number: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM absorbed WHERE snapshot = ?1";
    connection.execute(sql, [number as i64]).map(drop)
}

fn is_there(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'absorbed'";
    let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found.is_some())
}
