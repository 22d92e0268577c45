//! MariaDB and MySQL, by their own client programs: `mariadb-dump` and `mariadb`, or `mysqldump` and `mysql`.
//!
//! Passwords are left to an option file of the engine, or not needed where the account is of the system's user. The names `NAME__next`,
//! `NAME__previous` and `NAME__undone` belong to what is loaded as `NAME`.

mod check;
mod dump;
mod errors;
mod identity;
mod load;
mod own;
mod parts;
mod pour;
mod probe;
mod split;
mod statements;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::run::Program;
use crate::{Database, Dump, Limits, Probe};

/// Where a MariaDB database is, and who asks. What is not said is as the engine's programs have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MariadbSettings {
    /// The database.
    pub database: String,
    /// The server's socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The server's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// An option file of the engine, with a section `[client]` that has `user` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults_file: Option<PathBuf>,
}

/// A MariaDB or MySQL database.
#[derive(Debug)]
pub struct Mariadb {
    settings: MariadbSettings,
    limits: Limits,
}

impl Mariadb {
    /// Asks nobody yet.
    pub fn new(settings: MariadbSettings, limits: Limits) -> Self {
        Self { settings, limits }
    }

    /// A client program, with everything that is said about the connection. The option file has to come first.
    fn client(&self, names: [&str; 2], words: &[&str], limit: Duration) -> Program {
        let settings = &self.settings;
        let mut all = vec![OsString::from(installed(names))];
        let mut option = |key: &str, value: OsString| {
            let mut word = OsString::from(key);
            word.push(value);
            all.push(word);
        };
        if let Some(file) = &settings.defaults_file {
            option("--defaults-extra-file=", file.into());
        }
        if let Some(socket) = &settings.socket {
            option("--socket=", socket.into());
        }
        if let Some(host) = &settings.host {
            option("--host=", host.into());
        }
        if let Some(port) = settings.port {
            option("--port=", port.to_string().into());
        }
        all.extend(words.iter().map(OsString::from));
        Program::new(all, limit).if_missing(
            "Install the engine's client programs (on Debian: mariadb-client) where `understudy` runs",
        )
    }

    fn sql_client(&self, limit: Duration) -> Program {
        let words = [
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1G",
        ];
        self.client(["mariadb", "mysql"], &words, limit)
    }

    /// Lines of fields.
    fn ask(&self, statements: &str) -> Result<Vec<Vec<String>>, DatabaseError> {
        let client = self.sql_client(self.limits.probe).input(statements);
        let answer = client
            .answer()
            .map_err(|error| errors::explain(error, &self.settings.database))?;
        let lines = String::from_utf8_lossy(&answer).into_owned();
        let fields = |line: &str| line.split('\t').map(unescape).collect();
        Ok(lines.lines().map(fields).collect())
    }

    /// The base tables of a database, in order.
    fn tables(&self, database: &str) -> Result<Vec<String>, DatabaseError> {
        let answer = self.ask(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema={} \
             AND table_type IN ('BASE TABLE','SYSTEM VERSIONED') ORDER BY table_name;",
            literal(database)
        ))?;
        Ok(answer.into_iter().flatten().collect())
    }
}

impl Database for Mariadb {
    fn probe(&self) -> Result<Probe, DatabaseError> {
        self.read_probe()
    }

    fn dump(&self, into: &Path) -> Result<Dump, DatabaseError> {
        self.write_dump(into)
    }

    fn check(&self) -> Result<Vec<String>, DatabaseError> {
        self.find_obstacles()
    }

    fn load(&self, from: &Path, name: &str) -> Result<(), DatabaseError> {
        self.load_dump(from, name)
    }

    fn identity(&self, name: &str) -> Result<Option<String>, DatabaseError> {
        self.read_identity(name)
    }

    fn settle(&self, name: &str) -> Result<(), DatabaseError> {
        self.end_loads(name)
    }

    /// With `NAME__next`, `NAME__undone` and `NAME__previous`.
    fn drop_database(&self, name: &str) -> Result<(), DatabaseError> {
        self.remove(name)
    }

    fn count(&self, name: &str) -> Result<BTreeMap<String, u64>, DatabaseError> {
        let mut counts = BTreeMap::new();
        for table in self.tables(name)? {
            let (schema, quoted) = (identifier(name), identifier(&table));
            let statement = format!("SELECT COUNT(*) FROM {schema}.{quoted};\n");
            let client = self.sql_client(self.limits.load).input(statement);
            let answer = client
                .answer()
                .map_err(|error| errors::explain(error, name))?;
            let count = String::from_utf8_lossy(&answer).trim().parse();
            let count = count.map_err(|_| {
                DatabaseError::Incomplete(format!(
                    "the rows of the table `{table}` of the database `{name}` could not be counted: the answer is no number"
                ))
            })?;
            counts.insert(table, count);
        }
        Ok(counts)
    }
}

/// The first that is in PATH, or the first of all, so that its name is in the error.
fn installed(names: [&str; 2]) -> &str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    names.into_iter().find(is_there).unwrap_or(names[0])
}

/// As a string in a statement, whatever it has.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// As a name in a statement, whatever it has.
fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What `--batch` has done to a field.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some(other) => other,
                None => '\\',
            }),
            other => text.push(other),
        }
    }
    text
}
