//! The index: every entry as the spare last acknowledged it, with what the source's file system said then.
//!
//! During a cycle one transaction is open on the writing connection: the
//! *pending* state. It is committed once the spare has acknowledged the snapshot; everything that ends a cycle
//! early rolls it back. [`Reader`]s see the *base*, the state of the last commit.

mod adopt;
mod attention;
mod fuzzy;
mod history;
mod pending;
mod reader;
mod row;
mod shipped;
mod signatures;

use std::fmt::Display;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;
use understudy_protocol::{DatasetName, DirectoryId, Place, Position, StateDigest};
use understudy_tree::Identity;

use crate::db::{self, explain};
use crate::error::AgentError;
use crate::lock::try_lock;

pub(crate) use adopt::Adoption;
pub(crate) use attention::{Attended, Reason};
pub(crate) use pending::Update;
pub(crate) use reader::{Raw, Reader, Side};
pub(crate) use row::{Known, Seen};

/// The version of the schema, in `user_version`.
const VERSION: i64 = 5;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE entries (
        parent INTEGER NOT NULL, name BLOB NOT NULL, directory INTEGER,
        kind INTEGER, inode INTEGER, born INTEGER, size INTEGER, modified INTEGER, changed INTEGER,
        hash INTEGER, entry BLOB NOT NULL,
        PRIMARY KEY (parent, name)
    ) WITHOUT ROWID;
";

/// Names that every cycle looks at. An empty name stands for the directory itself and all that is below it.
const ATTENTION: &str = "
    CREATE TABLE attention (
        directory INTEGER NOT NULL, name BLOB NOT NULL, reason INTEGER NOT NULL, since INTEGER NOT NULL,
        PRIMARY KEY (directory, name)
    ) WITHOUT ROWID;
";

/// Places whose files may be mixtures of several states on the spare.
const FUZZY: &str = "
    CREATE TABLE fuzzy (parent INTEGER NOT NULL, name BLOB NOT NULL, PRIMARY KEY (parent, name)) WITHOUT ROWID;
";

/// What deltas start from.
const SIGNATURES: &str = "
    CREATE TABLE signatures (
        parent INTEGER NOT NULL, name BLOB NOT NULL, hash INTEGER NOT NULL, signature BLOB NOT NULL,
        PRIMARY KEY (parent, name)
    );
";

/// Contents that left the base, the newest with the largest number.
const HISTORY: &str = "
    CREATE TABLE history (number INTEGER PRIMARY KEY, hash INTEGER NOT NULL UNIQUE, size INTEGER NOT NULL);
    CREATE INDEX large_history ON history (size) WHERE size > 65536;
";

/// Made after the first commit: filling a table is faster without them.
const LOOKUPS: &str = "
    CREATE INDEX IF NOT EXISTS by_inode ON entries (inode) WHERE inode IS NOT NULL;
    CREATE INDEX IF NOT EXISTS by_hash ON entries (hash) WHERE hash IS NOT NULL;
    CREATE INDEX IF NOT EXISTS by_directory ON entries (directory) WHERE directory IS NOT NULL;
    CREATE INDEX IF NOT EXISTS unproven ON entries (parent, name) WHERE changed IS NULL;
";

/// An open index; nobody else can open it meanwhile.
#[derive(Debug)]
pub(crate) struct Index {
    connection: Mutex<Connection>,
    /// The number of the newest content of history when the transaction began.
    newest_former: AtomicI64,
    path: PathBuf,
    _lock: File,
}

/// What the index knows about itself.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    /// The snapshot it equals; `None` before the first one, or if it cannot be trusted.
    pub(crate) position: Option<Position>,
    /// The digest over all its entries.
    pub(crate) digest: StateDigest,
    /// The smallest number that no directory ever had.
    pub(crate) next_directory: u64,
    /// Inode and birth of the source's root, as recorded.
    pub(crate) root: Option<Identity>,
}

impl Index {
    /// Opens or makes the index of `source` as `dataset` on `spare`.
    pub(crate) fn open(
        state: &Path,
        source: &Path,
        dataset: &DatasetName,
        spare: &str,
    ) -> Result<Self, AgentError> {
        db::ensure_state_directory(state)?;
        let path = state.join(file_name(source, dataset, spare));
        let lock_path = path.with_extension("lock");
        let Some(lock) = try_lock(&lock_path)? else {
            return Err(AgentError::IndexLocked { path: lock_path });
        };
        let connection = db::connect(&path)?;
        let index = Self {
            connection: Mutex::new(connection),
            newest_former: AtomicI64::new(0),
            path,
            _lock: lock,
        };
        index.prepare()?;
        Ok(index)
    }

    fn prepare(&self) -> Result<(), AgentError> {
        let connection = self.connection();
        let version: i64 =
            self.check(connection.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        let make = |tables: &str| {
            self.check(connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {tables} PRAGMA user_version = {VERSION}; COMMIT;"
            )))
        };
        match version {
            VERSION => Ok(()),
            0 => make(&format!(
                "{SCHEMA} {ATTENTION} {FUZZY} {SIGNATURES} {HISTORY}"
            )),
            1 => make(&format!("{ATTENTION} {FUZZY} {SIGNATURES} {HISTORY}")),
            2 => make(&format!("{FUZZY} {SIGNATURES} {HISTORY}")),
            3 => make(&format!("{SIGNATURES} {HISTORY}")),
            4 => make(HISTORY),
            found => Err(AgentError::IndexNewer {
                path: self.path.clone(),
                found,
                known: VERSION,
            }),
        }
    }

    /// A connection of its own that sees the base.
    pub(crate) fn reader(&self) -> Result<Reader<'_>, AgentError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = self.check(db::open(&self.path, flags))?;
        let begun = connection
            .execute_batch("PRAGMA cache_size = -8000; PRAGMA temp_store = MEMORY; BEGIN;");
        self.check(begun)?;
        Ok(Reader::new(self, connection))
    }

    /// What the base says about itself.
    pub(crate) fn meta(&self) -> Result<Meta, AgentError> {
        let digest = self
            .load::<Vec<u8>>("digest")?
            .and_then(|bytes| StateDigest::from_bytes(&bytes));
        let digest = match digest {
            Some(digest) => digest.weighing(self.weight()?),
            None => StateDigest::empty(),
        };
        let position: Option<Position> = self.load("position")?;
        Ok(Meta {
            // A digest that does not belong to the position proves nothing about the rows.
            position: position.filter(|position| position.fingerprint == digest.fingerprint()),
            digest,
            next_directory: self.load("next_directory")?.unwrap_or(2),
            root: self
                .load::<(u64, Option<(i64, u32)>)>("root")?
                .map(identity_from),
        })
    }

    /// How many bytes the entries of the base take as a digest counts them. An older build has not noted it: then they are counted.
    fn weight(&self) -> Result<u64, AgentError> {
        if let Some(weight) = self.load("weight")? {
            return Ok(weight);
        }
        let connection = self.connection();
        let sql = "SELECT parent, name, length(entry) FROM entries";
        let mut statement = self.check(connection.prepare(sql))?;
        let mut rows = self.check(statement.query([]))?;
        let mut weight = 0_u64;
        while let Some(row) = self.check(rows.next())? {
            let parent: i64 = self.check(row.get(0))?;
            let name: Vec<u8> = self.check(row.get(1))?;
            let length: i64 = self.check(row.get(2))?;
            let place = Place::new(DirectoryId(parent as u64), self.name(&name)?);
            weight += self.encode(&place)?.len() as u64 + length.unsigned_abs();
        }
        Ok(weight)
    }

    /// Whether it has no entries.
    pub(crate) fn is_empty(&self) -> Result<bool, AgentError> {
        let any: Option<i64> = self.check(
            self.connection()
                .query_row("SELECT 1 FROM entries LIMIT 1", [], |row| row.get(0))
                .optional(),
        )?;
        Ok(any.is_none())
    }

    /// Forgets that it equals a snapshot: the next cycle compares it with the spare's manifest.
    pub(crate) fn distrust(&self) -> Result<(), AgentError> {
        self.check(
            self.connection()
                .execute("DELETE FROM meta WHERE key = 'position'", []),
        )
        .map(drop)
    }

    /// Makes the look-up indexes unless they are there.
    pub(crate) fn ensure_lookups(&self) -> Result<(), AgentError> {
        self.check(self.connection().execute_batch(LOOKUPS))
    }

    /// Opens the transaction that holds the pending state.
    pub(crate) fn begin(&self) -> Result<(), AgentError> {
        self.check(self.connection().execute_batch("BEGIN IMMEDIATE"))?;
        let newest = self.newest_former()?;
        self.newest_former.store(newest, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the pending state the base, durably.
    pub(crate) fn commit(&self, meta: &Meta) -> Result<(), AgentError> {
        self.settle_history(self.newest_former.load(Ordering::Relaxed))?;
        self.sends_differences()?;
        self.store("digest", &meta.digest.to_bytes())?;
        self.store("weight", &meta.digest.weight())?;
        self.store("next_directory", &meta.next_directory)?;
        if let Some(position) = &meta.position {
            self.store("position", position)?;
        }
        if let Some(root) = meta.root {
            self.store(
                "root",
                &(
                    root.inode,
                    root.born.map(|born| (born.seconds, born.nanoseconds)),
                ),
            )?;
        }
        self.check(self.connection().execute_batch("COMMIT"))
    }

    /// Drops the pending state.
    pub(crate) fn roll_back(&self) -> Result<(), AgentError> {
        let connection = self.connection();
        if connection.is_autocommit() {
            Ok(())
        } else {
            self.check(connection.execute_batch("ROLLBACK"))
        }
    }

    fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, AgentError> {
        let connection = self.connection();
        let found = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
            row.get::<_, Vec<u8>>(0)
        });
        match self.check(found.optional())? {
            None => Ok(None),
            Some(bytes) => postcard::from_bytes(&bytes)
                .map(Some)
                .map_err(|error| self.damaged(&error)),
        }
    }

    fn store<T: Serialize>(&self, key: &str, value: &T) -> Result<(), AgentError> {
        let bytes = self.encode(value)?;
        let stored = self
            .connection()
            .execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", (key, bytes));
        self.check(stored).map(drop)
    }

    /// Encoding into memory fails for no value that is stored here.
    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, AgentError> {
        postcard::to_stdvec(value)
            .map_err(|error| AgentError::state("encode a row of", &self.path, &error))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked left a transaction that is never committed.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, reason: &dyn Display) -> AgentError {
        AgentError::IndexDamaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn check<T>(&self, result: rusqlite::Result<T>) -> Result<T, AgentError> {
        result.map_err(|error| explain(&self.path, &error))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // What is not committed is dropped by closing as well.
        let _ = self.roll_back();
    }
}

fn identity_from((inode, born): (u64, Option<(i64, u32)>)) -> Identity {
    let born = born.map(|(seconds, nanoseconds)| understudy_protocol::Timestamp {
        seconds,
        nanoseconds,
    });
    Identity { inode, born }
}

fn file_name(source: &Path, dataset: &DatasetName, spare: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(spare.len() as u64).to_le_bytes());
    hasher.update(spare.as_bytes());
    hasher.update(source.as_os_str().as_bytes());
    format!("{dataset}-{}.db", &hasher.finalize().to_hex()[..16])
}

#[cfg(test)]
mod tests;
