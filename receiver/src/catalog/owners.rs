//! What the main calls users and groups. A name counts from the snapshot on with which it was told, until another is told for the
//! same number.

use rusqlite::{OptionalExtension, params};
use understudy_protocol::message::Owners;
use understudy_protocol::{Bytes, limits};

use super::Catalog;
use super::upload::Upload;
use crate::error::ReceiverError;

/// Made where it is missing: catalogs of this format that are older do not have it, and whoever only reads them finds no names.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS owner (
        kind INTEGER NOT NULL, id INTEGER NOT NULL, since INTEGER NOT NULL, name BLOB NOT NULL,
        PRIMARY KEY (kind, id, since)) WITHOUT ROWID;
";
const USERS: i64 = 0;
const GROUPS: i64 = 1;

impl Catalog {
    /// What owners are called in snapshot `at`; no more of them than can be told at once.
    pub(crate) fn owners(&self, at: u64) -> Result<Owners, ReceiverError> {
        Ok(Owners {
            users: self.owners_of(USERS, at)?,
            groups: self.owners_of(GROUPS, at)?,
        })
    }

    fn owners_of(&self, kind: i64, at: u64) -> Result<Vec<(u32, Bytes)>, ReceiverError> {
        self.run(|connection| {
            let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'owner'";
            let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
            if found.is_none() {
                return Ok(Vec::new());
            }
            // SQLite takes the name from the row that has the maximum.
            let sql = "SELECT id, name, max(since) FROM owner WHERE kind = ?1 AND since <= ?2 \
                       GROUP BY id ORDER BY id LIMIT ?3";
            let owner = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Bytes(row.get(1)?)));
            let limit = limits::RECORDS as i64;
            let mut statement = connection.prepare_cached(sql)?;
            statement
                .query_map([kind, at as i64, limit], owner)?
                .collect()
        })
    }
}

impl Upload<'_> {
    /// Notes what owners are called from the next snapshot on.
    pub(crate) fn tell_owners(&self, owners: &Owners) -> Result<(), ReceiverError> {
        let all = [(USERS, &owners.users), (GROUPS, &owners.groups)];
        for (kind, (id, name)) in all
            .into_iter()
            .flat_map(|(kind, owners)| owners.iter().map(move |owner| (kind, owner)))
        {
            self.catalog.run(|connection| {
                let sql = "INSERT OR REPLACE INTO owner (kind, id, since, name) SELECT ?1, ?2, ?3, ?4 \
                           WHERE ?4 IS NOT (SELECT name FROM owner WHERE kind = ?1 AND id = ?2 \
                           ORDER BY since DESC LIMIT 1)";
                let row = params![kind, id, self.number as i64, name.0];
                connection.prepare_cached(sql)?.execute(row).map(drop)
            })?;
        }
        Ok(())
    }
}
