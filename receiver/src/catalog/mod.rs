//! The catalog: snapshots, entries as version ranges, and the intent of the cycle in flight. The only module
//! that knows rusqlite.
//!
//! An entry row is valid for the snapshots `since <= N < until`. The rows of the next snapshot are written
//! with its number before it exists; they are the intent. Committing it moves the head, nothing more.

mod absorbed;
mod browse;
mod digests;
mod full;
mod fuzzy;
mod harmed;
mod owners;
mod prove;
mod read;
mod retention;
mod statement;
mod upload;
mod used;
mod verify;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use understudy_protocol::{Fingerprint, Position, Snapshot, StateDigest};

use crate::error::ReceiverError;

pub(crate) use absorbed::Nature;
pub(crate) use browse::{Between, TWINS};
pub(crate) use fuzzy::{FuzzyRange, Telling};
pub(crate) use harmed::Ended;
pub(crate) use read::{Directory, Leaf, Row};
pub(crate) use retention::{FlagRow, Needed, PinRow, RetentionChange, Swept};
pub(crate) use upload::{Fate, Origin, Put, Upload};
pub(crate) use used::Counted;

/// The schema this build writes.
const FORMAT: i64 = 3;
/// The schema that brought the ranges of fuzzy files: who only reads may meet an older one.
const FORMAT_FUZZY: i64 = 2;
/// The schema that brought pins and flags.
const FORMAT_RETENTION: i64 = 3;
/// SQLite before 3.51.3 can lose committed pages when two connections checkpoint at once.
const SQLITE_NEEDED: i32 = 3_051_003;

/// Each step is one transaction, so an interrupted upgrade carries on where it stopped.
const UPGRADES: [&str; FORMAT as usize] = [ENTRIES, FUZZY, RETENTION];

const ENTRIES: &str = "
    CREATE TABLE snapshot (
        number INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, fingerprint BLOB NOT NULL, digest BLOB,
        committed_seconds INTEGER NOT NULL, as_of_seconds INTEGER NOT NULL,
        entries INTEGER NOT NULL, bytes INTEGER NOT NULL, first_entry INTEGER NOT NULL,
        committed INTEGER NOT NULL);
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL,
        since INTEGER NOT NULL, until INTEGER, kind INTEGER NOT NULL, directory INTEGER,
        hash_key INTEGER, link_group INTEGER NOT NULL, origin INTEGER NOT NULL, entry BLOB NOT NULL);
    CREATE UNIQUE INDEX entry_place ON entry (parent, name, since);
    CREATE INDEX entry_directory ON entry (directory, until) WHERE directory IS NOT NULL;
    CREATE UNIQUE INDEX entry_directory_once ON entry (directory, since) WHERE directory IS NOT NULL;
    CREATE INDEX entry_until ON entry (until) WHERE until IS NOT NULL;
    CREATE TABLE confirmation (only INTEGER PRIMARY KEY CHECK (only = 1), as_of_seconds INTEGER NOT NULL);
";

const FUZZY: &str = "
    CREATE TABLE fuzzy (
        parent INTEGER NOT NULL, name BLOB NOT NULL, since INTEGER NOT NULL, until INTEGER,
        PRIMARY KEY (parent, name, since)) WITHOUT ROWID;
    CREATE INDEX fuzzy_since ON fuzzy (since);
    CREATE INDEX fuzzy_until ON fuzzy (until);
";

const RETENTION: &str = "
    CREATE TABLE pin (snapshot INTEGER PRIMARY KEY, reason TEXT NOT NULL, since_seconds INTEGER NOT NULL);
    CREATE TABLE flag (
        snapshot INTEGER PRIMARY KEY, flagged_seconds INTEGER NOT NULL, due_seconds INTEGER NOT NULL);
    CREATE TABLE moment (
        only INTEGER PRIMARY KEY CHECK (only = 1), seconds INTEGER NOT NULL, boot TEXT NOT NULL,
        boot_seconds INTEGER NOT NULL);
    CREATE TABLE swept (only INTEGER PRIMARY KEY CHECK (only = 1));
";

/// An open catalog. One connection per dataset writes; any number read.
pub(crate) struct Catalog {
    connection: Connection,
    path: PathBuf,
    /// The schema that it has.
    format: i64,
    /// Of the dataset, where SQLite takes none; it goes after the connection.
    _lock: Option<Arc<File>>,
}

/// What a snapshot row holds beyond what the protocol tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) snapshot: Snapshot,
    pub(crate) as_of_seconds: i64,
    /// The first row of this snapshot; all later ones are of later snapshots.
    pub(crate) first_entry: u64,
}

impl Catalog {
    /// Opens or creates the catalog for writing.
    pub(crate) fn open(path: &Path) -> Result<Self, ReceiverError> {
        if rusqlite::version_number() < SQLITE_NEEDED {
            let reason = format!(
                "SQLite {} has a defect that loses data; 3.51.3 is needed",
                rusqlite::version()
            );
            return Err(ReceiverError::Store {
                path: path.to_owned(),
                reason,
            });
        }
        let mut catalog = Self::connect(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        )?;
        catalog.run(|connection| {
            connection.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; \
                 PRAGMA journal_size_limit = 16777216;",
            )
        })?;
        catalog.upgrade()?;
        catalog.run(|connection| {
            owners::make(connection)?;
            connection.execute_batch(used::TABLE)?;
            connection.execute_batch(statement::TABLE)?;
            connection.execute_batch(absorbed::TABLE)
        })?;
        Ok(catalog)
    }

    /// Opens another connection that only reads: it sees the last committed state, whatever is being written.
    pub(crate) fn open_reading(path: &Path) -> Result<Self, ReceiverError> {
        let mut catalog = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        catalog.run(|connection| connection.execute_batch("PRAGMA query_only = ON;"))?;
        catalog.format = catalog.check_format()?;
        Ok(catalog)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this module owns the catalog's connections"
    )]
    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, ReceiverError> {
        let failed = |source| Self::failed(path, source);
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(failed)?;
        connection
            .busy_timeout(std::time::Duration::from_secs(10))
            .map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection
            .execute_batch("PRAGMA cache_size = -24576; PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON;")
            .map_err(failed)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            format: 0,
            _lock: None,
        })
    }

    /// Another reading connection to the same catalog.
    pub(crate) fn reader(&self) -> Result<Self, ReceiverError> {
        Self::open_reading(&self.path)
    }

    fn check_format(&self) -> Result<i64, ReceiverError> {
        let found: i64 = self
            .run(|connection| connection.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        if found > FORMAT {
            return Err(ReceiverError::Newer {
                path: self.path.clone(),
                found,
                known: FORMAT,
            });
        }
        Ok(found)
    }

    fn upgrade(&mut self) -> Result<(), ReceiverError> {
        let found = self.check_format()?;
        for (step, statements) in UPGRADES
            .iter()
            .enumerate()
            .skip(usize::try_from(found).unwrap_or(0))
        {
            let version = step + 1;
            self.run(|connection| {
                connection.execute_batch(&format!(
                    "BEGIN; {statements} PRAGMA user_version = {version}; COMMIT;"
                ))
            })?;
        }
        self.format = FORMAT;
        Ok(())
    }

    /// Runs SQL; a failure names the database.
    fn run<T>(
        &self,
        statement: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReceiverError> {
        statement(&self.connection).map_err(|source| Self::failed(&self.path, source))
    }

    fn failed(path: &Path, source: rusqlite::Error) -> ReceiverError {
        use rusqlite::{ErrorCode, ffi};
        let code = source.sqlite_error().map(|error| error.extended_code);
        match source.sqlite_error_code() {
            // What connections share in memory is a file as well.
            Some(ErrorCode::SystemIoFailure) if code == Some(ffi::SQLITE_IOERR_SHMSIZE) => {
                ReceiverError::NoSpace(format!("opening `{}`", path.display()))
            }
            Some(ErrorCode::DiskFull) => {
                ReceiverError::NoSpace(format!("writing `{}`", path.display()))
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::damaged(path, &source)
            }
            // A column that has what this program never writes to it.
            None if is_of_value(&source) => Self::damaged(path, &source),
            _ => ReceiverError::Catalog {
                path: path.to_owned(),
                source,
            },
        }
    }

    fn damaged(path: &Path, source: &rusqlite::Error) -> ReceiverError {
        ReceiverError::Damaged(format!(
            "the catalog `{}` cannot be read ({source}); the live tree is not affected and can go on serving. Move \
             the dataset's directory aside, sync again, and keep the old one for its history",
            path.display()
        ))
    }

    /// The newest committed snapshot.
    pub(crate) fn head(&self) -> Result<Option<Recorded>, ReceiverError> {
        self.recorded("committed = 1")
    }

    /// The snapshot whose intent is complete but which is not committed.
    pub(crate) fn pending(&self) -> Result<Option<Recorded>, ReceiverError> {
        self.recorded("committed IN (0, 2, 3)")
    }

    /// Whether the pending intent was sealed to be [held](Fate::Held).
    pub(crate) fn is_pending_held(&self) -> Result<bool, ReceiverError> {
        Ok(self.recorded("committed = 2")?.is_some())
    }

    /// Whether the pending intent was sealed to be [absorbed](Fate::Absorbed).
    pub(crate) fn is_pending_absorbed(&self) -> Result<bool, ReceiverError> {
        Ok(self.recorded("committed = 3")?.is_some())
    }

    /// The newest snapshot row for which `condition` holds.
    fn recorded(&self, condition: &'static str) -> Result<Option<Recorded>, ReceiverError> {
        self.run(|connection| {
            let sql = format!("{SELECT_SNAPSHOT} WHERE {condition} ORDER BY number DESC LIMIT 1");
            connection
                .prepare_cached(&sql)?
                .query_row([], recorded_from)
                .optional()
        })
    }

    /// One committed snapshot.
    pub(crate) fn snapshot(&self, number: u64) -> Result<Option<Recorded>, ReceiverError> {
        self.run(|connection| {
            let sql = format!("{SELECT_SNAPSHOT} WHERE committed = 1 AND number = ?1");
            connection
                .prepare_cached(&sql)?
                .query_row([number as i64], recorded_from)
                .optional()
        })
    }

    /// All committed snapshots, oldest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<Recorded>, ReceiverError> {
        self.run(|connection| {
            let sql = format!("{SELECT_SNAPSHOT} WHERE committed = 1 ORDER BY number");
            connection
                .prepare(&sql)?
                .query_map([], recorded_from)?
                .collect()
        })
    }

    /// How many directories stand, or are to stand.
    pub(crate) fn directory_count(&self) -> Result<u64, ReceiverError> {
        let count: i64 = self.run(|connection| {
            let sql = "SELECT count(*) FROM entry WHERE directory IS NOT NULL AND until IS NULL";
            connection.query_row(sql, [], |row| row.get(0))
        })?;
        Ok(count as u64)
    }

    /// How many committed snapshots there are.
    pub(crate) fn snapshot_count(&self) -> Result<u64, ReceiverError> {
        let count: i64 = self.run(|connection| {
            let sql = "SELECT count(*) FROM snapshot WHERE committed = 1";
            connection.query_row(sql, [], |row| row.get(0))
        })?;
        Ok(count as u64)
    }

    /// The state digest of the newest committed snapshot, or of the pending one.
    pub(crate) fn digest(&self, number: u64) -> Result<StateDigest, ReceiverError> {
        if number == 0 {
            return Ok(StateDigest::empty());
        }
        let bytes: Option<Vec<u8>> = self.run(|connection| {
            let sql = "SELECT digest FROM snapshot WHERE number = ?1";
            connection
                .query_row(sql, [number as i64], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })?;
        bytes
            .and_then(|bytes| StateDigest::from_bytes(&bytes))
            .ok_or_else(|| ReceiverError::Damaged(format!("snapshot {number} has no state digest")))
    }

    /// The begin of the newest confirmation, by the receiver's clock.
    pub(crate) fn confirmed_seconds(&self) -> Result<Option<i64>, ReceiverError> {
        self.run(|connection| {
            connection
                .query_row("SELECT as_of_seconds FROM confirmation", [], |row| {
                    row.get(0)
                })
                .optional()
        })
    }

    /// Records that the newest snapshot was still what the source looked like at this time.
    pub(crate) fn confirm(&self, as_of_seconds: i64) -> Result<(), ReceiverError> {
        self.run(|connection| {
            let sql = "INSERT OR REPLACE INTO confirmation VALUES (1, ?1)";
            connection.execute(sql, [as_of_seconds]).map(drop)
        })?;
        self.checkpoint()
    }

    /// Makes the pending snapshot the newest committed one. Durable when it returns.
    pub(crate) fn record(&self, pending: &Recorded) -> Result<(), ReceiverError> {
        let number = pending.snapshot.position.number as i64;
        self.run(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let seconds = (pending.snapshot.committed_seconds, pending.as_of_seconds);
            let sql = "UPDATE snapshot SET committed = 1, committed_seconds = ?2, as_of_seconds = ?3 WHERE number = ?1";
            connection.execute(sql, params![number, seconds.0, seconds.1])?;
            connection.execute("UPDATE snapshot SET digest = NULL WHERE number < ?1", [number])?;
            connection.execute("DELETE FROM confirmation", [])?;
            used::commit(connection)?;
            connection.execute_batch("COMMIT")
        })
        .inspect_err(|_| self.abandon())
    }

    /// Drops the intent of the pending snapshot.
    pub(crate) fn roll_back(&self, pending: &Recorded) -> Result<(), ReceiverError> {
        self.run(|connection| connection.execute_batch("BEGIN IMMEDIATE"))?;
        self.undo(pending)
            .and_then(|()| self.run(|connection| connection.execute_batch("COMMIT")))
            .inspect_err(|_| self.abandon())
    }

    /// Drops the intent of the pending snapshot within the transaction that is open.
    fn undo(&self, pending: &Recorded) -> Result<(), ReceiverError> {
        let number = pending.snapshot.position.number as i64;
        self.run(|connection| {
            connection.execute(
                "DELETE FROM entry WHERE id >= ?1",
                [pending.first_entry as i64],
            )?;
            connection.execute("UPDATE entry SET until = NULL WHERE until = ?1", [number])?;
            connection.execute("DELETE FROM fuzzy WHERE since = ?1", [number])?;
            connection.execute("UPDATE fuzzy SET until = NULL WHERE until = ?1", [number])?;
            connection.execute("DELETE FROM owner WHERE since = ?1", [number])?;
            statement::forget(connection, pending.snapshot.position.number)?;
            used::drop_waiting(connection)?;
            absorbed::forget(connection, pending.snapshot.position.number)?;
            // Only with an absorbed one a pin comes before the commit.
            connection.execute("DELETE FROM pin WHERE snapshot = ?1", [number])?;
            connection
                .execute(
                    "DELETE FROM snapshot WHERE number = ?1 AND committed IN (0, 2, 3)",
                    [number],
                )
                .map(drop)
        })
    }

    /// Ends an open transaction without effect, after an error.
    pub(crate) fn abandon(&self) {
        if !self.connection.is_autocommit() {
            // If even this fails the connection is closed next, which has the same effect.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Moves the write-ahead log into the database so that its space is used again; off the critical path.
    pub(crate) fn checkpoint(&self) -> Result<(), ReceiverError> {
        // Busy readers make it incomplete, which the next one repairs.
        self.run(|connection| {
            connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .optional()
                .map(drop)
        })
    }

    /// Gives the space of an abandoned transaction back.
    pub(crate) fn shrink(&self) -> Result<(), ReceiverError> {
        self.run(|connection| {
            connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .optional()
                .map(drop)
        })
    }

    /// Finds damage in the database file itself: one line per finding.
    pub(crate) fn check(&self) -> Result<Vec<String>, ReceiverError> {
        let lines: Vec<String> = self.run(|connection| {
            connection
                .prepare("PRAGMA integrity_check(20)")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        let mut lines: Vec<_> = lines.into_iter().filter(|line| line != "ok").collect();
        if lines.is_empty() {
            lines = self.check_statements()?;
            lines.extend(self.check_owners()?);
        }
        Ok(lines)
    }
}

const SELECT_SNAPSHOT: &str = "SELECT number, epoch, fingerprint, committed_seconds, as_of_seconds, entries, bytes, first_entry FROM snapshot";

fn is_of_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
    )
}

/// More of anything than a catalog can have: it leaves room for whoever adds to it.
const MOST: i64 = i64::MAX >> 1;

/// A number of snapshots, rows, entries or bytes. Another one than there can be is an error: the catalog is damaged.
fn count(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<u64> {
    match row.get::<_, i64>(index)? {
        value @ 0..=MOST => Ok(value as u64),
        value => Err(rusqlite::Error::IntegralValueOutOfRange(index, value)),
    }
}

fn recorded_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Recorded> {
    let fingerprint = Fingerprint(row.get::<_, [u8; 32]>(2)?);
    let number = |index| count(row, index);
    let position = Position {
        number: number(0)?,
        epoch: number(1)?,
        fingerprint,
    };
    let snapshot = Snapshot {
        position,
        committed_seconds: row.get(3)?,
        entries: number(5)?,
        bytes: number(6)?,
    };
    Ok(Recorded {
        snapshot,
        as_of_seconds: row.get(4)?,
        first_entry: number(7)?,
    })
}
