//! How much the rows of a catalog come to, for quotas.
//!
//! What is known is what the snapshots take, at most, and beside it what the intent that waits brings: whatever takes its place does
//! not have that. Counting reads every row, so it is worth it only once much was changed since, or an hour went by.

use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashSet;

use understudy_protocol::{ContentHash, Entry};

use super::upload::{FILE, Upload};
use super::{Catalog, count};
use crate::dataset::now_seconds;
use crate::error::ReceiverError;
use crate::quota::Used;

/// Made where it is missing. `changed` is how many rows came or ended since it was counted, for the time `counts`, when there were as
/// many `rows`. A version before had less, and in another table.
pub(super) const TABLE: &str = "
    DROP TABLE IF EXISTS used;
    CREATE TABLE IF NOT EXISTS taken (
        only INTEGER PRIMARY KEY CHECK (only = 1), bytes INTEGER NOT NULL, files INTEGER NOT NULL,
        waiting_bytes INTEGER NOT NULL, waiting_files INTEGER NOT NULL, waiting_changed INTEGER NOT NULL,
        counts INTEGER NOT NULL, counted_seconds INTEGER NOT NULL, rows INTEGER NOT NULL, changed INTEGER NOT NULL);
";

/// What a row of `entry` takes beside its name and its entry: numbers, and its places in indexes.
pub(super) const ROW: u64 = 128;
/// The same of a row of any other table.
pub(super) const SMALL_ROW: u64 = 64;

/// It is counted again once one of so many rows has changed.
const CHANGED_PART: u64 = 64;
/// It is counted again after so long in any case.
const COUNT_SECONDS: i64 = 60 * 60;

/// Further names that are known to be names of one file: beyond so many each counts as a file.
const GROUPED: usize = 1 << 20;

/// What a catalog is known to take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// What is committed: never too little.
    pub(crate) committed: Used,
    /// What the intent that waits brings.
    pub(crate) waiting: Used,
    changed: u64,
    rows: u64,
    counts: i64,
    counted_seconds: i64,
}

impl Known {
    /// All of it.
    pub(crate) fn sum(&self) -> Used {
        self.committed.and(self.waiting)
    }

    /// Whether nothing has changed since it was counted.
    pub(crate) fn is_exact(&self) -> bool {
        self.changed == 0
    }

    /// Whether counting can tell something else, and enough has changed since that was done.
    pub(crate) fn is_worth_counting(&self) -> bool {
        let is_old = !(0..COUNT_SECONDS).contains(&(now_seconds() - self.counted_seconds));
        let is_other = self.changed.saturating_mul(CHANGED_PART) >= self.rows;
        !self.is_exact() && (is_other || is_old)
    }
}

/// What was counted, and what was known then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) committed: Used,
    before: Known,
}

impl Counted {
    /// All of it, with what waited then.
    pub(crate) fn sum(&self) -> Used {
        self.committed.and(self.before.waiting)
    }
}

impl Catalog {
    /// What is known; `None` if it was never counted.
    pub(crate) fn known_used(&self) -> Result<Option<Known>, ReceiverError> {
        self.run(|connection| {
            if !has_table(connection, "taken")? {
                return Ok(None);
            }
            let sql = "SELECT bytes, files, waiting_bytes, waiting_files, changed, rows, counts, counted_seconds FROM taken";
            connection.query_row(sql, [], known_from).optional()
        })
    }

    /// Counts it for the first time, and writes that down.
    pub(crate) fn count_used(&self) -> Result<Known, ReceiverError> {
        let known = self.at_one_moment(|| self.count_known())?;
        self.run(|connection| {
            let sql = "INSERT OR REPLACE INTO taken VALUES (1, ?1, ?2, ?3, ?4, ?4, 1, ?5, ?2, 0)";
            let row = params![
                signed(known.committed.bytes),
                signed(known.committed.files),
                signed(known.waiting.bytes),
                signed(known.waiting.files),
                known.counted_seconds,
            ];
            connection.execute(sql, row).map(drop)
        })?;
        Ok(known)
    }

    /// Counts it where nothing can be written.
    pub(crate) fn count_once(&self) -> Result<Known, ReceiverError> {
        self.at_one_moment(|| self.count_known())
    }

    fn count_known(&self) -> Result<Known, ReceiverError> {
        let committed = self.committed_used()?;
        Ok(Known {
            committed,
            waiting: self.waiting_used()?,
            changed: 0,
            rows: committed.files,
            counts: 1,
            counted_seconds: now_seconds(),
        })
    }

    /// Counts what is committed, reading every row; for one that was counted before.
    pub(crate) fn count_again(&self) -> Result<Option<Counted>, ReceiverError> {
        self.at_one_moment(|| {
            let Some(before) = self.known_used()? else {
                return Ok(None);
            };
            Ok(Some(Counted {
                committed: self.committed_used()?,
                before,
            }))
        })
    }

    /// Writes down what was counted: what was added since is added, and what was counted by another since counts.
    pub(crate) fn keep_count(&self, counted: &Counted) -> Result<(), ReceiverError> {
        let Some(now) = self.known_used()? else {
            return Ok(());
        };
        let before = &counted.before;
        if now.counts != before.counts {
            return Ok(());
        }
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let committed = counted.committed.and(Used {
            bytes: since(now.committed.bytes, before.committed.bytes),
            files: since(now.committed.files, before.committed.files),
        });
        let changed = since(now.changed, before.changed);
        self.run(|connection| {
            let sql = "UPDATE taken SET bytes = ?1, files = ?2, changed = ?3, rows = ?4, counts = counts + 1, \
                       counted_seconds = ?5";
            let row = params![
                signed(committed.bytes),
                signed(committed.files),
                signed(changed),
                signed(counted.committed.files),
                now_seconds(),
            ];
            connection.execute(sql, row).map(drop)
        })
    }

    /// What the snapshots take, without what waits.
    fn committed_used(&self) -> Result<Used, ReceiverError> {
        let end = self.end()?;
        let (live, former) = (self.live_bytes(end)?, self.former_bytes(end)?);
        let rows = self.rows_from(0, end)?;
        Ok(Used {
            bytes: live.saturating_add(former).saturating_add(rows.bytes),
            files: rows.files,
        })
    }

    /// What the intent that waits brings, at most.
    fn waiting_used(&self) -> Result<Used, ReceiverError> {
        let Some(pending) = self.pending()? else {
            return Ok(Used::default());
        };
        let number = pending.snapshot.position.number as i64;
        let mut used = self.rows_from(number, number + 1)?;
        let sql = "SELECT entry FROM entry WHERE since = ?1 AND kind = ?2 AND origin = id";
        let read = |row: &Row<'_>| Ok(decoded(row.get_ref(0)?.as_blob()?));
        self.each(sql, [number, FILE], read, |content| {
            let size = content.map_or(0, |(size, _)| size);
            used.bytes = used.bytes.saturating_add(size);
            Ok(())
        })?;
        Ok(used)
    }

    /// The number of the first snapshot that is not committed.
    fn end(&self) -> Result<i64, ReceiverError> {
        let pending = self.pending()?;
        Ok(pending.map_or(i64::MAX, |pending| pending.snapshot.position.number as i64))
    }

    /// Rows that begin with the snapshots from `first` to before `end`, of all tables that a main fills.
    fn rows_from(&self, first: i64, end: i64) -> Result<Used, ReceiverError> {
        self.run(|connection| {
            let of_entry = ("since", "length(name) + length(entry)");
            let entries = sum_of(connection, "entry", of_entry, (first, end), ROW)?;
            let small = [
                ("fuzzy", ("since", "length(name)")),
                ("owner", ("since", "length(name)")),
                ("statement", ("snapshot", "length(statement)")),
            ];
            let (mut bytes, files) = (entries.bytes, entries.files);
            for (table, columns) in small {
                // Catalogs that are older lack some.
                if has_table(connection, table)? {
                    bytes += sum_of(connection, table, columns, (first, end), SMALL_ROW)?.bytes;
                }
            }
            Ok(Used { bytes, files })
        })
    }

    /// Every file that stands.
    fn live_bytes(&self, end: i64) -> Result<u64, ReceiverError> {
        let sql = format!("SELECT entry, link_group, origin FROM entry WHERE kind = ?2 AND {LIVE}");
        let (mut sum, mut files) = (0_u64, HashSet::new());
        let read = |row: &Row<'_>| {
            let entry = decoded(row.get_ref(0)?.as_blob()?);
            Ok((entry, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        };
        self.each(&sql, [end, FILE], read, |(entry, group, origin)| {
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
    fn former_bytes(&self, end: i64) -> Result<u64, ReceiverError> {
        let sql = "SELECT hash_key, entry FROM entry WHERE hash_key IS NOT NULL AND until < ?1 ORDER BY hash_key";
        let mut sum = 0_u64;
        // Contents with the same beginning of their hash, of which there is hardly ever more than one.
        let (mut key, mut of_key) = (None, Vec::new());
        let read = |row: &Row<'_>| {
            let content = decoded(row.get_ref(1)?.as_blob()?);
            Ok((row.get::<_, i64>(0)?, content))
        };
        self.each(sql, [end], read, |(found, content)| {
            if key != Some(found) {
                (key, of_key) = (Some(found), Vec::new());
            }
            let Some((size, hash)) = content else {
                return Ok(());
            };
            if !of_key.contains(&hash) {
                of_key.push(hash);
                if !self.is_live((found, hash), end)? {
                    sum = sum.saturating_add(size);
                }
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn is_live(&self, (key, hash): (i64, ContentHash), end: i64) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            let sql = format!("SELECT entry FROM entry WHERE hash_key = ?2 AND {LIVE}");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([end, key])?;
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

/// Rows of the newest committed snapshot, which is the last before ?1.
const LIVE: &str = "since < ?1 AND (until IS NULL OR until >= ?1)";

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
    connection.query_row(sql, [name], |row| row.get(0))
}

/// What the rows of a table take that begin with some snapshots, and how many there are.
fn sum_of(
    connection: &Connection,
    table: &str,
    (since, length): (&str, &str),
    (first, end): (i64, i64),
    each: u64,
) -> rusqlite::Result<Used> {
    let sql = format!(
        "SELECT coalesce(sum({length}), 0) + ?3 * count(*), count(*) FROM {table} WHERE {since} >= ?1 AND {since} < ?2"
    );
    connection.query_row(&sql, params![first, end, each as i64], used_from)
}

fn used_from(row: &Row<'_>) -> rusqlite::Result<Used> {
    Ok(Used {
        bytes: count(row, 0)?,
        files: count(row, 1)?,
    })
}

fn known_from(row: &Row<'_>) -> rusqlite::Result<Known> {
    Ok(Known {
        committed: used_from(row)?,
        waiting: Used {
            bytes: count(row, 2)?,
            files: count(row, 3)?,
        },
        changed: count(row, 4)?,
        rows: count(row, 5)?,
        counts: row.get(6)?,
        counted_seconds: row.get(7)?,
    })
}

fn decoded(encoded: &[u8]) -> Option<(u64, ContentHash)> {
    postcard::from_bytes::<Entry>(encoded).ok()?.content()
}

/// What SQLite can have and [`count`] takes.
fn signed(number: u64) -> i64 {
    i64::try_from(number).map_or(super::MOST, |number| number.min(super::MOST))
}

impl Upload<'_> {
    /// What the upload brings: the files that were staged, and rows.
    pub(crate) fn brings(&self) -> Used {
        Used {
            bytes: self.brings.bytes.saturating_add(self.row_bytes),
            files: self.brings.files,
        }
    }

    /// What its rows take so far.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Notes what waits from now on, if anything is known.
    pub(super) fn note_used(&self) -> rusqlite::Result<()> {
        let sql = "UPDATE taken SET waiting_bytes = ?1, waiting_files = ?2, waiting_changed = ?3";
        let brings = self.brings();
        // What is signed comes with every snapshot, and is nothing to refuse one for.
        let bytes = brings.bytes.saturating_add(self.said_bytes);
        let changed = self.ended.saturating_add(brings.files);
        let row = params![signed(bytes), signed(brings.files), signed(changed)];
        self.catalog.connection.execute(sql, row).map(drop)
    }
}

/// What waited is committed.
pub(super) fn commit(connection: &Connection) -> rusqlite::Result<()> {
    // SQLite would go on with a sum that is too large as a fraction.
    let sql = "UPDATE taken SET bytes = min(bytes + waiting_bytes, ?1), files = min(files + waiting_files, ?1), \
               changed = min(changed + waiting_changed, ?1), waiting_bytes = 0, waiting_files = 0, waiting_changed = 0";
    connection.execute(sql, [super::MOST]).map(drop)
}

/// What waited is dropped.
pub(super) fn drop_waiting(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE taken SET waiting_bytes = 0, waiting_files = 0, waiting_changed = 0";
    connection.execute(sql, []).map(drop)
}

/// Rows are removed, or will be: it is worth counting, and what is being counted is not what there will be.
pub(super) fn remove(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE taken SET rows = 0, changed = max(changed, 1), counts = counts + 1";
    connection.execute(sql, []).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_counted_again_once_enough_has_changed() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let catalog = Catalog::open(&scratch.path().join("catalog.db")).expect("open");
        catalog.count_used().expect("count");
        let set = |what: &str| {
            let sql = format!("UPDATE taken SET {what}");
            catalog
                .run(|connection| connection.execute_batch(&sql))
                .expect("set");
        };
        let known = || catalog.known_used().expect("read").expect("known");
        for (what, is_worth_it) in [
            ("rows = 6400, changed = 0", false),
            ("changed = 99", false),
            ("changed = 100", true),
            ("changed = 1", false),
            ("counted_seconds = counted_seconds - 3601", true),
            ("counted_seconds = counted_seconds + 9999", true),
            ("changed = 0", false),
        ] {
            set(what);
            assert_eq!(known().is_worth_counting(), is_worth_it, "{what}");
        }
        set("counted_seconds = strftime('%s')");
        catalog.run(remove).expect("remove");
        assert!(known().is_worth_counting(), "rows were removed");
    }

    #[test]
    fn what_is_added_while_it_is_counted_is_not_forgotten() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let catalog = Catalog::open(&scratch.path().join("catalog.db")).expect("open");
        catalog.count_used().expect("count");
        let set = |what: &str| {
            let sql = format!("UPDATE taken SET {what}");
            catalog
                .run(|connection| connection.execute_batch(&sql))
                .expect("set");
        };
        // It is known to be 70 at most, and is nothing.
        set("bytes = 70, changed = 7");
        let counted = catalog.count_again().expect("count").expect("known");
        set("waiting_bytes = 5, waiting_files = 1, waiting_changed = 2");
        catalog.run(commit).expect("commit");
        catalog.keep_count(&counted).expect("keep");
        let known = catalog.known_used().expect("read").expect("known");
        assert_eq!(known.committed, Used { bytes: 5, files: 1 });
        assert_eq!((known.waiting, known.changed), (Used::default(), 2));
        // Somebody else has counted since.
        set("bytes = 6");
        catalog.keep_count(&counted).expect("keep");
        let known = catalog.known_used().expect("read").expect("known");
        assert_eq!(known.committed.bytes, 6);
    }
}
