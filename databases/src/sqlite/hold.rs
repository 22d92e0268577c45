//! SQLite's read lock on a database.

#![expect(clippy::disallowed_methods, reason = "the database is somebody else's")]

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Source;

/// A reader of one state of the database: as long as it is there, a checkpoint leaves what it reads, and with a rollback journal nobody writes.
pub(super) struct Hold {
    connection: Connection,
}

/// Why there is no lock.
pub(super) enum Refusal {
    /// SQLite can make nothing of the file.
    Damaged(String),
    /// Others do not let anybody in.
    Locked(String),
    /// Something would have to be written first: by nobody is the database open, or it was not closed.
    Unready,
}

impl Hold {
    /// Waits so long for those who write.
    pub(super) fn take(source: &Source<'_>, wait: Duration) -> Result<Self, Refusal> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let hold = Self {
            connection: Connection::open_with_flags(address(source), flags)
                .map_err(|error| refusal(&error))?,
        };
        hold.begin(wait).map_err(|error| refusal(&error))?;
        match is_open_twice(source) {
            Ok(true) => Ok(hold),
            // It was moved meanwhile.
            Ok(false) | Err(_) => Err(Refusal::Unready),
        }
    }

    fn begin(&self, wait: Duration) -> rusqlite::Result<()> {
        self.connection.busy_timeout(wait)?;
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.connection.execute_batch("BEGIN")?;
        // What reads a number in the header reads no schema, which somebody else has made.
        self.connection
            .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?;
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing ends it as well.
        let _ = self.connection.execute_batch("ROLLBACK");
    }
}

/// By the descriptor of its directory. Nothing is written there, not even to the index of its log.
fn address(source: &Source<'_>) -> String {
    let mut address = format!("file:/proc/self/fd/{}/", source.directory.as_raw_fd());
    for byte in source.name.as_bytes() {
        if byte.is_ascii_alphanumeric() {
            address.push(char::from(*byte));
        } else {
            address.push_str(&format!("%{byte:02x}"));
        }
    }
    address.push_str("?mode=ro&readonly_shm=1");
    address
}

/// Whether SQLite, which looked for the file by its path, has opened the very file that is open here.
fn is_open_twice(source: &Source<'_>) -> std::io::Result<bool> {
    let here = source.file.metadata()?;
    let mut times = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // The descriptor of this very listing is gone by then.
        if let Ok(open) = std::fs::metadata(entry?.path()) {
            times += usize::from((open.dev(), open.ino()) == (here.dev(), here.ino()));
        }
    }
    Ok(times > 1)
}

fn refusal(error: &rusqlite::Error) -> Refusal {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Refusal::Damaged(text),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Refusal::Locked(text),
        _ => Refusal::Unready,
    }
}
