//! Opening SQLite databases: the pragmas, the version that is safe, and errors in words.
//!
//! The index and the journal are the only users of rusqlite in this crate.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::AgentError;

/// SQLite before 3.51.3 can lose a commit when a WAL is reset at the wrong moment.
const OLDEST_SQLITE: i32 = 3_051_003;

/// For the owner only.
const PRIVATE: u32 = 0o600;

/// Makes the state directory if it is missing, for its owner only.
pub(crate) fn ensure_state_directory(state: &Path) -> Result<(), AgentError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|error| AgentError::state("create the state directory", state, &error))
}

/// Opens or makes a database for writing; a power cut costs it no commit.
pub(crate) fn connect(path: &Path) -> Result<Connection, AgentError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        let reason = format!(
            "SQLite {} has a defect that loses data; 3.51.3 is needed",
            rusqlite::version()
        );
        return Err(AgentError::state("open", path, &reason));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    keep_private(path)?;
    let connect = || {
        let connection = open(path, flags)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32000;
             PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;",
        )?;
        Ok(connection)
    };
    connect().map_err(|error| explain(path, &error))
}

/// Makes the file unless it is there, and takes it away from everybody but its owner: it tells what the sources hold.
/// SQLite gives the files beside it the same mode, and those that it left behind are changed here.
#[expect(
    clippy::disallowed_methods,
    reason = "a database is opened by its path, and so is its mode"
)]
fn keep_private(path: &Path) -> Result<(), AgentError> {
    let made = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(PRIVATE)
        .open(path);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(AgentError::state("make", path, &error));
        }
        _ => {}
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        // Never opened here: closing it would take away the locks that SQLite has on it in this process.
        match std::fs::set_permissions(&file, Permissions::from_mode(PRIVATE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(AgentError::state("take from other users", file, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a database that nobody has open, and what SQLite left beside it.
#[expect(
    clippy::disallowed_methods,
    reason = "this module owns the files of databases"
)]
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    for suffix in ["-wal", "-shm", ""] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Opens a database.
#[expect(
    clippy::disallowed_methods,
    reason = "this module owns the opening of databases"
)]
pub(crate) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// An error with the file's path; what says that the file is not what it was tells so.
pub(crate) fn explain(path: &Path, error: &rusqlite::Error) -> AgentError {
    let damaged = match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(
                failure.code,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase
            )
        }
        // A missing table or a value of another type: somebody changed the file.
        rusqlite::Error::SqlInputError { .. } | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    };
    if damaged {
        AgentError::IndexDamaged {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    } else {
        AgentError::state("use the index", path, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "prepares files")]
    fn databases_are_for_their_owner_also_those_that_were_not() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let path = scratch.path().join("index.db");
        let files =
            ["index.db", "index.db-wal", "index.db-shm"].map(|name| scratch.path().join(name));
        let fill = || {
            let connection = connect(&path).expect("open");
            let sql = "CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (1);";
            connection.execute_batch(sql).expect("write");
            for file in &files {
                let mode = file.metadata().expect("there").permissions().mode();
                assert_eq!(mode & 0o777, PRIVATE, "{}", file.display());
            }
            connection
        };
        // As if the process had died: nobody tidies up.
        std::mem::forget(fill());
        for file in &files {
            std::fs::set_permissions(file, Permissions::from_mode(0o644)).expect("chmod");
        }
        fill();
    }
}
