//! The journals' database.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use understudy_protocol::{DatasetName, Name, Timestamp};
use understudy_tree::Identity;

use super::marks::{Directory, Doubt, Mark, Marks};
use crate::db;
use crate::error::AgentError;

/// The version of the schema, in `user_version`.
const VERSION: i64 = 1;

/// An empty name stands for the directory itself; `listed` is there only. Negative nanoseconds stand
/// for a file system that knows no birth.
const SCHEMA: &str = "
    CREATE TABLE marks (
        dataset TEXT NOT NULL, inode INTEGER NOT NULL, born_seconds INTEGER NOT NULL, born_nanoseconds INTEGER NOT NULL,
        name BLOB NOT NULL, doubt INTEGER NOT NULL, number INTEGER NOT NULL, listed INTEGER,
        PRIMARY KEY (dataset, inode, born_seconds, born_nanoseconds, name)
    ) WITHOUT ROWID;
";

/// What becomes of the marks that are written down already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    Kept,
    Dropped,
}

/// An open database.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens or makes it. What cannot be read is set aside and made anew.
    pub(super) fn open(path: &Path) -> Result<Self, AgentError> {
        match Self::try_open(path) {
            Err(error @ AgentError::IndexDamaged { .. }) => Self::anew(path, &error),
            result => result,
        }
    }

    /// Makes it anew after an error: what was in it is covered by the gap that every start begins with.
    pub(super) fn renew(&mut self, error: &AgentError) -> Result<(), AgentError> {
        *self = Self::anew(&self.path, error)?;
        Ok(())
    }

    fn anew(path: &Path, error: &AgentError) -> Result<Self, AgentError> {
        tracing::warn!(
            "the journal `{}` cannot be used and is made anew, everything will be compared: {error}",
            path.display()
        );
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            remove(Path::new(&name))?;
        }
        Self::try_open(path)
    }

    fn try_open(path: &Path) -> Result<Self, AgentError> {
        let connection = db::connect(path)?;
        let store = Self {
            connection,
            path: path.to_owned(),
        };
        // What a power cut takes from it is covered by the gap that the next start begins with.
        store.check(
            store
                .connection
                .execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -2000;"),
        )?;
        let version: i64 = store.check(store.connection.query_row(
            "PRAGMA user_version",
            [],
            |row| row.get(0),
        ))?;
        if version == VERSION {
            return Ok(store);
        }
        // A journal of another version is worth a look at everything, not a migration.
        store.check(store.connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; DROP TABLE IF EXISTS marks; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"
        )))?;
        Ok(store)
    }

    /// The marks of a dataset and the highest number among them.
    pub(super) fn load(&self, dataset: &DatasetName) -> Result<(Marks, u64), AgentError> {
        let mut marks = Marks::default();
        let mut last = 0;
        let mut directories: Vec<(Identity, Directory)> = Vec::new();
        let sql = "SELECT inode, born_seconds, born_nanoseconds, name, doubt, number, listed FROM marks \
                   WHERE dataset = ?1 ORDER BY inode, born_seconds, born_nanoseconds, name";
        let mut statement = self.check(self.connection.prepare(sql))?;
        let mut rows = self.check(statement.query([dataset.as_str()]))?;
        while let Some(row) = self.check(rows.next())? {
            let row = self.check(Row::read(row))?;
            last = last.max(row.number);
            if row.name.is_empty() {
                let directory = Directory {
                    number: row.number,
                    listed: row.listed,
                    names: Default::default(),
                };
                directories.push((row.identity, directory));
            } else if let (Some((identity, directory)), Ok(name)) =
                (directories.last_mut(), Name::new(row.name))
                && *identity == row.identity
            {
                let number = row.number;
                directory.names.insert(
                    name,
                    Mark {
                        doubt: row.doubt,
                        number,
                    },
                );
            }
        }
        for (identity, directory) in directories {
            marks.restore(identity, directory);
        }
        Ok((marks, last))
    }

    /// Writes these marks down, beside or in the place of those that are.
    pub(super) fn save(
        &mut self,
        dataset: &DatasetName,
        marks: &[(Identity, Directory)],
        former: Former,
    ) -> Result<(), AgentError> {
        let path = self.path.clone();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            if former == Former::Dropped {
                transaction.execute("DELETE FROM marks WHERE dataset = ?1", [dataset.as_str()])?;
            }
            for (identity, directory) in marks {
                write_directory(&transaction, dataset, *identity, directory)?;
            }
            transaction.commit()
        };
        write().map_err(|error| db::explain(&path, &error))
    }

    /// Forgets datasets that are not among these.
    pub(super) fn keep(&self, datasets: &[DatasetName]) -> Result<(), AgentError> {
        let known = datasets
            .iter()
            .map(|name| format!("'{name}'"))
            .collect::<Vec<_>>()
            .join(",");
        let sql = format!("DELETE FROM marks WHERE dataset NOT IN ({known})");
        self.check(self.connection.execute(&sql, [])).map(drop)
    }

    fn check<T>(&self, result: rusqlite::Result<T>) -> Result<T, AgentError> {
        result.map_err(|error| db::explain(&self.path, &error))
    }
}

/// A row as it is read.
struct Row {
    identity: Identity,
    name: Vec<u8>,
    doubt: Doubt,
    number: u64,
    listed: Option<u64>,
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (seconds, nanoseconds): (i64, i64) = (row.get(1)?, row.get(2)?);
        let born = u32::try_from(nanoseconds)
            .ok()
            .map(|nanoseconds| Timestamp {
                seconds,
                nanoseconds,
            });
        let identity = Identity {
            inode: row.get::<_, i64>(0)? as u64,
            born,
        };
        Ok(Self {
            identity,
            name: row.get(3)?,
            doubt: doubt_from(row.get(4)?),
            number: row.get::<_, i64>(5)? as u64,
            listed: row.get::<_, Option<i64>>(6)?.map(|listed| listed as u64),
        })
    }
}

fn write_directory(
    connection: &Connection,
    dataset: &DatasetName,
    identity: Identity,
    directory: &Directory,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO marks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut statement = connection.prepare_cached(sql)?;
    let born = identity
        .born
        .map_or((0, -1), |born| (born.seconds, i64::from(born.nanoseconds)));
    let inode = identity.inode as i64;
    let listed = directory.listed.map(|listed| listed as i64);
    let mut write = |name: &[u8], doubt, number: u64, listed: Option<i64>| {
        let doubt = doubt_number(doubt);
        let number = number as i64;
        let key = (dataset.as_str(), inode, born.0, born.1, name);
        statement.execute((key.0, key.1, key.2, key.3, key.4, doubt, number, listed))
    };
    write(b"", Doubt::Entry, directory.number, listed)?;
    for (name, mark) in &directory.names {
        write(name.as_bytes(), mark.doubt, mark.number, None)?;
    }
    Ok(())
}

fn doubt_number(doubt: Doubt) -> i64 {
    match doubt {
        Doubt::Entry => 1,
        Doubt::Content => 2,
        Doubt::Below => 3,
    }
}

/// What is unknown is in the widest doubt.
fn doubt_from(number: i64) -> Doubt {
    match number {
        1 => Doubt::Entry,
        2 => Doubt::Content,
        _ => Doubt::Below,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "removes a damaged database of this module's own"
)]
fn remove(path: &Path) -> Result<(), AgentError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(AgentError::state("remove", path, &error))
        }
        _ => Ok(()),
    }
}
