//! What retention keeps in the catalog: pins, flags, the last moment at which the clock was believed; and the removal of
//! snapshots and of the rows that belong to none.

use rusqlite::{OptionalExtension, params};
use understudy_protocol::ContentHash;

use super::{Catalog, FORMAT_RETENTION, absorbed, count, statement, used};
use crate::error::ReceiverError;
use crate::retention::Moment;

/// That a snapshot must stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinRow {
    pub(crate) snapshot: u64,
    pub(crate) reason: String,
    pub(crate) since_seconds: i64,
}

/// That a snapshot is expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlagRow {
    pub(crate) snapshot: u64,
    pub(crate) flagged_seconds: i64,
    /// When it goes.
    pub(crate) due_seconds: i64,
}

/// Whether everything that belongs to no snapshot is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swept {
    Clean,
    Unfinished,
}

/// What one pass of retention changes. All of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RetentionChange {
    pub(crate) flag: Vec<FlagRow>,
    pub(crate) unflag: Vec<u64>,
    pub(crate) remove: Vec<u64>,
}

/// Snapshots whose rows and contents must stay, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed(Vec<u64>);

impl Needed {
    /// Of these snapshots. The twins are the newest one and the one before it, and what both are made of stays too, and so does
    /// what is pending.
    pub(crate) fn new(snapshots: impl IntoIterator<Item = u64>, head: u64) -> Self {
        let mut numbers: Vec<u64> = snapshots.into_iter().collect();
        numbers.extend([head.saturating_sub(1), head, head + 1]);
        numbers.sort_unstable();
        numbers.dedup();
        Self(numbers)
    }

    /// Whether a range of snapshots has one of them.
    pub(crate) fn has_in(&self, since: u64, until: Option<u64>) -> bool {
        let first = self.0.get(self.0.partition_point(|&number| number < since));
        first.is_some_and(|&number| until.is_none_or(|until| number < until))
    }

    /// Stretches with none of them, as what comes before and after.
    fn gaps(&self) -> impl Iterator<Item = (u64, u64)> {
        let before = std::iter::once(0).chain(self.0.iter().copied());
        before
            .zip(self.0.iter().copied())
            .filter(|(before, after)| after - before > 1)
    }
}

impl Catalog {
    /// Pins, in the order of the snapshots. A catalog of an older format has none.
    pub(crate) fn pins(&self) -> Result<Vec<PinRow>, ReceiverError> {
        if self.format < FORMAT_RETENTION {
            return Ok(Vec::new());
        }
        self.run(|connection| {
            let row = |row: &rusqlite::Row<'_>| {
                Ok(PinRow {
                    snapshot: count(row, 0)?,
                    reason: row.get(1)?,
                    since_seconds: row.get(2)?,
                })
            };
            let sql = "SELECT snapshot, reason, since_seconds FROM pin ORDER BY snapshot";
            connection
                .prepare_cached(sql)?
                .query_map([], row)?
                .collect()
        })
    }

    /// Flags, in the order of the snapshots. A catalog of an older format has none.
    pub(crate) fn flags(&self) -> Result<Vec<FlagRow>, ReceiverError> {
        if self.format < FORMAT_RETENTION {
            return Ok(Vec::new());
        }
        self.run(|connection| {
            let row = |row: &rusqlite::Row<'_>| {
                Ok(FlagRow {
                    snapshot: count(row, 0)?,
                    flagged_seconds: row.get(1)?,
                    due_seconds: row.get(2)?,
                })
            };
            let sql = "SELECT snapshot, flagged_seconds, due_seconds FROM flag ORDER BY snapshot";
            connection
                .prepare_cached(sql)?
                .query_map([], row)?
                .collect()
        })
    }

    /// Pins a snapshot, or gives its pin another reason. A pinned snapshot is not flagged.
    pub(crate) fn pin(&self, pin: &PinRow) -> Result<(), ReceiverError> {
        self.transact(|connection| {
            let sql = "INSERT INTO pin VALUES (?1, ?2, ?3) ON CONFLICT (snapshot) DO UPDATE SET reason = ?2";
            connection.execute(sql, params![pin.snapshot as i64, pin.reason, pin.since_seconds])?;
            connection.execute("DELETE FROM flag WHERE snapshot = ?1", [pin.snapshot as i64]).map(drop)
        })
    }

    /// Takes a pin away; `false` if there was none.
    pub(crate) fn unpin(&self, snapshot: u64) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            connection.execute("DELETE FROM pin WHERE snapshot = ?1", [snapshot as i64])
        })
        .map(|removed| removed > 0)
    }

    /// The last moment at which the clock was believed.
    pub(crate) fn last_moment(&self) -> Result<Option<Moment>, ReceiverError> {
        if self.format < FORMAT_RETENTION {
            return Ok(None);
        }
        self.run(|connection| {
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Moment {
                    seconds: row.get(0)?,
                    boot: row.get(1)?,
                    boot_seconds: row.get(2)?,
                })
            };
            let sql = "SELECT seconds, boot, boot_seconds FROM moment";
            connection.query_row(sql, [], row).optional()
        })
    }

    /// Notes a moment at which the clock is believed.
    pub(crate) fn note_moment(&self, moment: &Moment) -> Result<(), ReceiverError> {
        self.run(|connection| {
            let sql = "INSERT OR REPLACE INTO moment VALUES (1, ?1, ?2, ?3)";
            connection
                .execute(
                    sql,
                    params![moment.seconds, moment.boot, moment.boot_seconds],
                )
                .map(drop)
        })
    }

    /// Whether a removal was carried to its end.
    pub(crate) fn swept(&self) -> Result<Swept, ReceiverError> {
        if self.format < FORMAT_RETENTION {
            return Ok(Swept::Unfinished);
        }
        let found = self.run(|connection| {
            connection
                .query_row("SELECT 1 FROM swept", [], |_| Ok(()))
                .optional()
        })?;
        Ok(found.map_or(Swept::Unfinished, |()| Swept::Clean))
    }

    /// Notes that everything is gone that belongs to no snapshot.
    pub(crate) fn note_swept(&self) -> Result<(), ReceiverError> {
        self.run(|connection| {
            connection
                .execute("INSERT OR REPLACE INTO swept VALUES (1)", [])
                .map(drop)
        })
    }

    /// Makes the change. Durable when it returns: from then on the removed snapshots do not exist.
    pub(crate) fn apply_retention(&self, change: &RetentionChange) -> Result<(), ReceiverError> {
        self.transact(|connection| {
            for flag in &change.flag {
                let sql = "INSERT OR REPLACE INTO flag VALUES (?1, ?2, ?3)";
                let row = params![flag.snapshot as i64, flag.flagged_seconds, flag.due_seconds];
                connection.prepare_cached(sql)?.execute(row)?;
            }
            for &number in change.unflag.iter().chain(&change.remove) {
                connection
                    .prepare_cached("DELETE FROM flag WHERE snapshot = ?1")?
                    .execute([number as i64])?;
            }
            for &number in &change.remove {
                let sql = "DELETE FROM snapshot WHERE number = ?1 AND committed = 1 \
                           AND number NOT IN (SELECT snapshot FROM pin) \
                           AND number < (SELECT max(number) FROM snapshot WHERE committed = 1)";
                let removed = connection.prepare_cached(sql)?.execute([number as i64])?;
                if removed > 0 {
                    statement::forget(connection, number)?;
                    absorbed::forget(connection, number)?;
                }
            }
            if !change.remove.is_empty() {
                connection.execute("DELETE FROM swept", [])?;
                used::remove(connection)?;
            }
            Ok(())
        })
    }

    /// Removes some rows that belong to no needed snapshot, at most `limit` of each table, beginning at `gap`, which moves
    /// on; `false` once none are left. Each call is a transaction of its own.
    pub(crate) fn remove_rows(
        &self,
        needed: &Needed,
        gap: &mut usize,
        limit: usize,
    ) -> Result<bool, ReceiverError> {
        const IN_GAP: &str = "until > ?1 AND until <= ?2 AND since > ?1";
        let entries =
            format!("DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE {IN_GAP} LIMIT ?3)");
        let fuzzy = format!(
            "DELETE FROM fuzzy WHERE (parent, name, since) IN \
             (SELECT parent, name, since FROM fuzzy WHERE {IN_GAP} LIMIT ?3)"
        );
        let Some((before, after)) = needed.gaps().nth(*gap) else {
            return Ok(false);
        };
        let mut most = 0;
        self.transact(|connection| {
            for sql in [&entries, &fuzzy] {
                let stretch = params![before as i64, after as i64, limit as i64];
                most = most.max(connection.prepare_cached(sql)?.execute(stretch)?);
            }
            if most > 0 {
                used::remove(connection)?;
            }
            Ok(())
        })?;
        if most < limit {
            *gap += 1;
        }
        Ok(true)
    }

    /// Whether a row of a needed snapshot has this content. Two contents with the same key count as one: neither goes.
    pub(crate) fn needs_content(
        &self,
        hash: ContentHash,
        needed: &Needed,
    ) -> Result<bool, ReceiverError> {
        self.run(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT since, until FROM entry WHERE hash_key = ?1")?;
            let mut rows = statement.query([hash.key()])?;
            while let Some(row) = rows.next()? {
                let (since, until): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
                if needed.has_in(since as u64, until.map(|until| until as u64)) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Calls `visit` with the range of every entry.
    pub(crate) fn ranges(
        &self,
        mut visit: impl FnMut(u64, Option<u64>),
    ) -> Result<(), ReceiverError> {
        self.run(|connection| {
            let mut statement = connection.prepare("SELECT since, until FROM entry")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (since, until): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
                visit(since as u64, until.map(|until| until as u64));
            }
            Ok(())
        })
    }

    /// Lets `work` read one state of the catalog, whatever is committed meanwhile.
    pub(crate) fn at_one_moment<T>(
        &self,
        work: impl FnOnce() -> Result<T, ReceiverError>,
    ) -> Result<T, ReceiverError> {
        self.run(|connection| connection.execute_batch("BEGIN"))?;
        let result = work();
        self.abandon();
        result
    }

    pub(super) fn transact(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()>,
    ) -> Result<(), ReceiverError> {
        self.run(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            work(connection)?;
            connection.execute_batch("COMMIT")
        })
        .inspect_err(|_| self.abandon())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_needed_if_a_needed_snapshot_is_in_it() {
        let needed = Needed::new([3, 7], 10);
        let has = |since, until| needed.has_in(since, Some(until));
        assert!(has(1, 4) && has(3, 4) && has(4, 8) && has(9, 10));
        assert!(!has(1, 3) && !has(4, 7) && !has(8, 9));
        assert!(needed.has_in(10, None) && needed.has_in(1, None));
        let gaps: Vec<_> = needed.gaps().collect();
        assert_eq!(gaps, [(0, 3), (3, 7), (7, 9)]);
        assert!(needed.has_in(11, None));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "plays an older version")]
    fn a_catalog_of_the_second_format_is_read_as_it_is_and_upgraded_by_who_writes() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let path = scratch.path().join("catalog.db");
        let older = rusqlite::Connection::open(&path).expect("open");
        let (first, second) = (super::super::ENTRIES, super::super::FUZZY);
        let made = older.execute_batch(&format!(
            "BEGIN; {first} {second} PRAGMA user_version = 2; COMMIT;"
        ));
        made.expect("make");
        drop(older);
        let reading = Catalog::open_reading(&path).expect("open");
        assert_eq!(reading.pins().expect("pins"), []);
        assert_eq!(reading.flags().expect("flags"), []);
        assert_eq!(reading.last_moment().expect("moment"), None);
        assert_eq!(reading.swept().expect("swept"), Swept::Unfinished);
        drop(reading);
        let catalog = Catalog::open(&path).expect("open");
        let pin = PinRow {
            snapshot: 4,
            reason: "audit".to_owned(),
            since_seconds: 5,
        };
        catalog.pin(&pin).expect("pin");
        let reading = Catalog::open_reading(&path).expect("open");
        assert_eq!(reading.pins().expect("pins"), [pin]);
        assert!(catalog.unpin(4).expect("unpin"));
        assert!(!catalog.unpin(4).expect("unpin"));
    }
}
