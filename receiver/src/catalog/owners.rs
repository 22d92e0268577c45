//! What the main calls users and groups. A name counts from the snapshot on with which it was told, until another is told for the
//! same number.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use understudy_protocol::message::Owners;
use understudy_protocol::{Bytes, limits};

use super::retention::Needed;
use super::upload::Upload;
use super::used::SMALL_ROW;
use super::{Catalog, used};
use crate::error::ReceiverError;

/// Made where it is missing: catalogs of this format that are older do not have it, and whoever only reads them finds no names.
/// Those in between have no hashes.
const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS owner (
        kind INTEGER NOT NULL, id INTEGER NOT NULL, since INTEGER NOT NULL, name BLOB NOT NULL, hash BLOB,
        PRIMARY KEY (kind, id, since)) WITHOUT ROWID;
";
const USERS: i64 = 0;
const GROUPS: i64 = 1;
/// Findings about names of which verification tells.
const TOLD: usize = 20;

/// Makes the table, or what it lacks.
pub(super) fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLE)?;
    if !has_hashes(connection)? {
        connection.execute_batch("ALTER TABLE owner ADD COLUMN hash BLOB")?;
    }
    Ok(())
}

fn has_hashes(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('owner') WHERE name = 'hash')";
    connection.query_row(sql, [], |row| row.get(0))
}

/// Of a row that is as it was told.
fn hash(kind: i64, id: i64, since: i64, name: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for number in [kind, id, since] {
        hasher.update(&number.to_le_bytes());
    }
    *hasher.update(name).finalize().as_bytes()
}

/// Whether a row is as it was told, as far as it says.
fn is_as_it_came(row: &Row<'_>) -> rusqlite::Result<bool> {
    let number = |index| -> rusqlite::Result<Option<i64>> {
        match row.get_ref(index)? {
            ValueRef::Integer(number) => Ok(Some(number)),
            _ => Ok(None),
        }
    };
    let (Some(kind), Some(id), Some(since)) = (number(0)?, number(1)?, number(2)?) else {
        return Ok(false);
    };
    Ok(match (row.get_ref(3)?, row.get_ref(4)?) {
        (ValueRef::Blob(_), ValueRef::Null) => true,
        (ValueRef::Blob(name), ValueRef::Blob(found)) => found == hash(kind, id, since, name),
        _ => false,
    })
}

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

impl Catalog {
    /// One line for each of them that is not as it was told; the first few.
    pub(super) fn check_owners(&self) -> Result<Vec<String>, ReceiverError> {
        self.run(|connection| {
            let mut lines = Vec::new();
            if !has_hashes(connection)? {
                return Ok(lines);
            }
            let sql = "SELECT kind, id, since, name, hash FROM owner";
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if lines.len() < TOLD && !is_as_it_came(row)? {
                    let of = match row.get_ref(0)? {
                        ValueRef::Integer(GROUPS) => "group",
                        _ => "user",
                    };
                    let id = row.get::<_, i64>(1).unwrap_or(-1);
                    lines.push(format!(
                        "what the main has called its {of} {id} is not as it was told"
                    ));
                }
            }
            Ok(lines)
        })
    }

    /// Removes names that no needed snapshot has, at most `limit` of those after `after`, which moves on; `false` once it has seen all.
    pub(crate) fn remove_owners(
        &self,
        needed: &Needed,
        after: &mut Option<(i64, i64, i64)>,
        limit: usize,
    ) -> Result<bool, ReceiverError> {
        let sql = "SELECT kind, id, since, (SELECT min(next.since) FROM owner AS next \
                   WHERE next.kind = owner.kind AND next.id = owner.id AND next.since > owner.since) \
                   FROM owner WHERE (kind, id, since) > (?1, ?2, ?3) ORDER BY kind, id, since LIMIT ?4";
        let (kind, id, since) = after.unwrap_or((i64::MIN, i64::MIN, i64::MIN));
        let read = |row: &Row<'_>| {
            let key = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((key, row.get::<_, Option<i64>>(3)?))
        };
        let mut replaced: Vec<(i64, i64, i64)> = Vec::new();
        let mut last = None;
        let from = params![kind, id, since, limit as i64];
        self.each(sql, from, read, |(key, until)| {
            last = Some(key);
            let range = (key.2 as u64, until.map(|until| until as u64));
            if !needed.has_in(range.0, range.1) {
                replaced.push(key);
            }
            Ok(())
        })?;
        if !replaced.is_empty() {
            self.transact(|connection| {
                let sql = "DELETE FROM owner WHERE kind = ?1 AND id = ?2 AND since = ?3";
                let mut statement = connection.prepare_cached(sql)?;
                for (kind, id, since) in &replaced {
                    statement.execute([kind, id, since])?;
                }
                used::remove(connection)
            })?;
        }
        let has_more = last.is_some();
        *after = last.or(*after);
        Ok(has_more)
    }
}

impl Upload<'_> {
    /// Notes what owners are called from the next snapshot on.
    pub(crate) fn tell_owners(&mut self, owners: &Owners) -> Result<(), ReceiverError> {
        let all = [(USERS, &owners.users), (GROUPS, &owners.groups)];
        for (kind, (id, name)) in all
            .into_iter()
            .flat_map(|(kind, owners)| owners.iter().map(move |owner| (kind, owner)))
        {
            let since = self.number as i64;
            let hash = hash(kind, i64::from(*id), since, &name.0);
            let added = self.catalog.run(|connection| {
                let sql = "INSERT OR REPLACE INTO owner (kind, id, since, name, hash) SELECT ?1, ?2, ?3, ?4, ?5 \
                           WHERE ?4 IS NOT (SELECT name FROM owner WHERE kind = ?1 AND id = ?2 \
                           ORDER BY since DESC LIMIT 1)";
                let row = params![kind, id, since, name.0, hash];
                connection.prepare_cached(sql)?.execute(row)
            })?;
            self.row_bytes += added as u64 * (SMALL_ROW + name.0.len() as u64);
        }
        Ok(())
    }
}
