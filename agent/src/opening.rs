//! Opening what can be opened in a restored tree: a database that came back byte for byte may have been torn when it was captured.
#![expect(
    clippy::disallowed_methods,
    reason = "opens other people's databases, read-only, in a tree that is thrown away"
)]

use std::fs::File;
use std::os::fd::AsRawFd;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use understudy_protocol::{Name, RelPath, escape};
use understudy_tree::{Directory, Kind, TreeError, content};

use crate::Cancel;
use crate::error::AgentError;

/// How an SQLite database begins.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";

/// What was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// Databases that were opened and checked.
    pub databases: u64,
    /// Those that were not: there are changes in a file beside them, or their path is too long for SQLite.
    pub unchecked: u64,
    /// Those in which something is wrong, and what.
    pub damaged: Vec<(RelPath, String)>,
}

/// Opens every SQLite database below a directory and runs its own quick check. Nothing is changed.
pub fn open_databases(root: &Directory, cancel: &Cancel) -> Result<Opened, AgentError> {
    let mut opened = Opened::default();
    let mut waiting = vec![RelPath::root()];
    while let Some(path) = waiting.pop() {
        cancel.check()?;
        let directory = root.open_beneath(&path)?;
        for name in directory.names()? {
            let below = path.join(&name);
            match directory.stat(&name)?.kind {
                Kind::Directory => waiting.push(below),
                Kind::File => {
                    let file = directory.open_file(&name)?;
                    if !is_database(&file)? {
                        continue;
                    }
                    match check(&directory, &name, &file)? {
                        Checked::Not => opened.unchecked += 1,
                        Checked::Sound => opened.databases += 1,
                        Checked::Damaged(what) => {
                            opened.databases += 1;
                            opened.damaged.push((below, what));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(opened)
}

fn is_database(file: &File) -> Result<bool, TreeError> {
    let mut begin = [0; SQLITE.len()];
    let length = content::read_at(file, 0, &mut begin)?;
    Ok(length == begin.len() && begin == *SQLITE)
}

enum Checked {
    Not,
    Sound,
    Damaged(String),
}

fn check(directory: &Directory, name: &Name, file: &File) -> Result<Checked, AgentError> {
    for ending in ["-wal", "-journal"] {
        let beside = [name.as_bytes(), ending.as_bytes()].concat();
        let Ok(beside) = Name::new(beside) else {
            continue;
        };
        let stat = directory.stat_if_present(&beside)?;
        if stat.is_some_and(|stat| stat.size > 0) {
            return Ok(Checked::Not);
        }
    }
    // As a file that nobody changes, so that nothing is made beside it. SQLite looks up the path that this leads to.
    let path = format!("file:/proc/self/fd/{}?immutable=1", file.as_raw_fd());
    let checked = connect(&path).and_then(|connection| {
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    });
    Ok(match checked {
        Ok(text) if text == "ok" => Checked::Sound,
        Ok(text) => Checked::Damaged(escape(text.as_bytes())),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => Checked::Not,
        Err(error) => Checked::Damaged(error.to_string()),
    })
}

/// Opens a database whose schema may have been written to do harm: what it calls must be harmless by itself.
fn connect(path: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use understudy_tree::Mounts;

    use super::*;

    #[test]
    fn the_schema_of_a_database_is_not_trusted() {
        let connection = connect("file::memory:").expect("open");
        let is_on = |which| connection.db_config(which).expect("known");
        assert!(!is_on(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA));
        assert!(is_on(DbConfig::SQLITE_DBCONFIG_DEFENSIVE));
    }

    #[test]
    fn databases_are_found_and_damage_is_named() {
        let scratch = tempfile::tempdir().expect("scratch");
        let below = scratch.path().join("below");
        std::fs::create_dir(&below).expect("directory");
        std::fs::write(scratch.path().join("text"), "SQLite is a database").expect("write");
        for name in ["good", "bad"] {
            let connection = Connection::open(below.join(name)).expect("open");
            let sql = "CREATE TABLE t (x); INSERT INTO t SELECT hex(randomblob(2000)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)";
            connection.execute_batch(sql).expect("fill");
        }
        let mut bytes = std::fs::read(below.join("bad")).expect("read");
        bytes[4096..4196].fill(0xee);
        std::fs::write(below.join("bad"), bytes).expect("write");
        let root = Directory::open(scratch.path(), Mounts::Cross).expect("open");
        let opened = open_databases(&root, &Cancel::default()).expect("opened");
        assert_eq!(opened.databases, 2);
        let damaged: Vec<_> = opened
            .damaged
            .iter()
            .map(|(path, _)| path.to_string())
            .collect();
        assert_eq!(damaged, ["below/bad"]);
        // What is not in the file yet cannot be judged by it.
        std::fs::write(below.join("good-wal"), "changes").expect("write");
        let opened = open_databases(&root, &Cancel::default()).expect("opened");
        assert_eq!((opened.databases, opened.unchecked), (1, 1));
    }
}
