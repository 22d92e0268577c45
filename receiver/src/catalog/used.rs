//! How much the rows of a catalog come to, for quotas.

use rusqlite::{OptionalExtension, params};
use std::collections::HashSet;

use understudy_protocol::{ContentHash, Entry};

use super::upload::{FILE, Upload};
use super::{Catalog, count};
use crate::error::ReceiverError;
use crate::quota::Used;

/// Made where it is missing. The last three columns say of which state of the catalog it was counted; what was added since is added.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS used (
        only INTEGER PRIMARY KEY CHECK (only = 1), bytes INTEGER NOT NULL, files INTEGER NOT NULL,
        last INTEGER NOT NULL, snapshots INTEGER NOT NULL, swept INTEGER NOT NULL);
";

/// Further names that are known to be names of one file: beyond so many each counts as a file.
const GROUPED: usize = 1 << 20;

/// A state of the catalog in which as many rows were there.
const STATE: &str = "SELECT coalesce((SELECT max(id) FROM entry), 0), (SELECT count(*) FROM snapshot), \
                     (SELECT count(*) FROM swept)";

type State = (i64, i64, i64);

impl Catalog {
    /// What is known: never too little. `None` if it was never counted.
    pub(crate) fn used(&self) -> Result<Option<Used>, ReceiverError> {
        Ok(self.noted()?.map(|(used, _)| used))
    }

    fn noted(&self) -> Result<Option<(Used, State)>, ReceiverError> {
        self.run(|connection| {
            let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'used'";
            let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
            if found.is_none() {
                return Ok(None);
            }
            let sql = "SELECT bytes, files, last, snapshots, swept FROM used";
            let noted = |row: &rusqlite::Row<'_>| {
                let used = Used {
                    bytes: count(row, 0)?,
                    files: count(row, 1)?,
                };
                Ok((used, (row.get(2)?, row.get(3)?, row.get(4)?)))
            };
            connection.query_row(sql, [], noted).optional()
        })
    }

    fn state(&self) -> Result<State, ReceiverError> {
        self.run(|connection| {
            let state = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            connection.prepare_cached(STATE)?.query_row([], state)
        })
    }

    /// Counts it, and writes that down.
    pub(crate) fn count_used(&self) -> Result<Used, ReceiverError> {
        let used = self.counted()?;
        let (last, snapshots, swept) = self.state()?;
        self.run(|connection| {
            let sql = "INSERT OR REPLACE INTO used VALUES (1, ?1, ?2, ?3, ?4, ?5)";
            let (bytes, files) = (signed(used.bytes), signed(used.files));
            let row = params![bytes, files, last, snapshots, swept];
            connection.execute(sql, row).map(drop)
        })?;
        Ok(used)
    }

    /// Counts it. Reads every row, unless that was done in this very state.
    pub(crate) fn counted(&self) -> Result<Used, ReceiverError> {
        if let Some((used, state)) = self.noted()?
            && state == self.state()?
        {
            return Ok(used);
        }
        let (live, former) = (self.live_bytes()?, self.former_bytes()?);
        let files: i64 = self.run(|connection| {
            connection.query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        })?;
        Ok(Used {
            bytes: live.saturating_add(former),
            files: files as u64,
        })
    }

    /// Every file that stands, or is to stand.
    fn live_bytes(&self) -> Result<u64, ReceiverError> {
        let sql = "SELECT entry, link_group, origin FROM entry WHERE kind = ?1 AND until IS NULL";
        let (mut sum, mut files) = (0_u64, HashSet::new());
        let read = |row: &rusqlite::Row<'_>| {
            let entry = decoded(row.get_ref(0)?.as_blob()?);
            Ok((entry, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        };
        self.each(sql, [FILE], read, |(entry, group, origin)| {
            let is_further_name = group != 0 && files.contains(&origin);
            if group != 0 && files.len() < GROUPED {
                files.insert(origin);
            }
            if !is_further_name {
                sum = sum.saturating_add(entry.map_or(0, |(size, _)| size));
            }
            Ok(())
        })?;
        Ok(sum)
    }

    /// Every other content that a former snapshot has, once.
    fn former_bytes(&self) -> Result<u64, ReceiverError> {
        let sql = "SELECT hash_key, entry FROM entry WHERE hash_key IS NOT NULL AND until IS NOT NULL ORDER BY hash_key";
        let mut sum = 0_u64;
        // Contents with the same beginning of their hash, of which there is hardly ever more than one.
        let (mut key, mut of_key) = (None, Vec::new());
        let read = |row: &rusqlite::Row<'_>| {
            let content = decoded(row.get_ref(1)?.as_blob()?);
            Ok((row.get::<_, i64>(0)?, content))
        };
        self.each(sql, [], read, |(found, content)| {
            if key != Some(found) {
                (key, of_key) = (Some(found), Vec::new());
            }
            let Some((size, hash)) = content else {
                return Ok(());
            };
            if !of_key.contains(&hash) {
                of_key.push(hash);
                if !self.is_live(found, hash)? {
                    sum = sum.saturating_add(size);
                }
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn is_live(&self, key: i64, hash: ContentHash) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            let sql = "SELECT entry FROM entry WHERE hash_key = ?1 AND until IS NULL";
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([key])?;
            while let Some(row) = rows.next()? {
                let content = decoded(row.get_ref(0)?.as_blob()?);
                if content.is_some_and(|(_, found)| found == hash) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

fn decoded(encoded: &[u8]) -> Option<(u64, ContentHash)> {
    postcard::from_bytes::<Entry>(encoded).ok()?.content()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Upload<'_> {
    /// What the upload brings: the files that were staged, and rows.
    pub(crate) fn brings(&self) -> Used {
        self.brings
    }

    /// Adds that to what is known, if anything is; it is not exact any more in any state, also if all of this is undone.
    pub(super) fn note_used(&self) -> rusqlite::Result<()> {
        // SQLite would go on with a sum that is too large as a fraction.
        let sql = "UPDATE used SET last = -1, files = files + ?2, \
                   bytes = CASE WHEN bytes > ?3 - ?1 THEN ?3 ELSE bytes + ?1 END";
        let (bytes, files) = (signed(self.brings.bytes), signed(self.brings.files));
        let connection = &self.catalog.connection;
        connection
            .execute(sql, params![bytes, files, i64::MAX])
            .map(drop)
    }
}
