//! Opening SQLite databases: the pragmas, the version that is safe, and errors in words.
//!
//! The index and the journal are the only users of rusqlite in this crate.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::AgentError;

/// SQLite before 3.51.3 can lose a commit when a WAL is reset at the wrong moment.
const OLDEST_SQLITE: i32 = 3_051_003;

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
