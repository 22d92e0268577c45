//! PostgreSQL, by its own client programs: `pg_dump` in the directory format, `pg_restore`, and `psql` for our own questions.
//!
//! Passwords are left to the engine's own files (`~/.pgpass`, `~/.pg_service.conf`), or not needed with peer authentication. The names
//! `NAME__next` and `NAME__previous` belong to what is loaded as `NAME`.
//!
//! What is not in a dump: rows of foreign tables, large objects and tables that the role may not read (the dump fails then), passwords of
//! roles, and the part of a sequence that was handed out without a transaction: `nextval` alone may leave no trace for up to 32 values, so an
//! application that uses numbers of a sequence without storing them may see them again.

mod archive;
mod check;
mod clients;
mod contents;
mod count;
mod dump;
mod errors;
mod facts;
mod identity;
mod listing;
mod load;
mod probe;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::run::Program;
use crate::{Database, Dump, Limits, Probe};
use clients::Client;

/// Where a PostgreSQL database is, and who asks. What is not said is as the engine's programs have it: the local socket, the system user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// The database.
    pub database: String,
    /// The directory of the server's socket, or a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port, which is a part of the socket's name as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A section of `~/.pg_service.conf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Instead of `~/.pgpass`, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The directory of `pg_dump`, `pg_restore` and `psql`, instead of those that are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
    /// Where one is connected while databases are made, renamed and removed.
    #[serde(default = "maintenance_database")]
    pub maintenance_database: String,
}

/// The name of a session, as `pg_stat_activity` shows it.
const APPLICATION: &str = "understudy";

fn maintenance_database() -> String {
    "postgres".to_owned()
}

/// A PostgreSQL database.
#[derive(Debug)]
pub struct Postgres {
    settings: PostgresSettings,
    limits: Limits,
    clients: OnceLock<Vec<Client>>,
}

impl Postgres {
    /// Asks nobody yet.
    pub fn new(settings: PostgresSettings, limits: Limits) -> Self {
        Self {
            settings,
            limits,
            clients: OnceLock::new(),
        }
    }

    fn clients(&self) -> &[Client] {
        self.clients
            .get_or_init(|| clients::installed(self.settings.programs.as_deref()))
    }

    /// Everything about the connection, for `-d`: names may have any characters, and a name with `=` would be taken for a whole connection.
    fn connection(&self, database: &str, application: &str) -> String {
        let settings = &self.settings;
        let port = settings.port.map(|port| port.to_string());
        let seconds = self.limits.probe.as_secs().max(2).to_string();
        let file = settings.password_file.as_deref();
        let file = file.map(|path| path.to_string_lossy().into_owned());
        let parts = [
            ("service", settings.service.as_deref()),
            ("host", settings.host.as_deref()),
            ("port", port.as_deref()),
            ("user", settings.user.as_deref()),
            ("passfile", file.as_deref()),
            ("dbname", Some(database)),
            ("connect_timeout", Some(&*seconds)),
            ("application_name", Some(application)),
        ];
        let parts = parts.into_iter().filter_map(|(key, value)| {
            let value = value?.replace('\\', "\\\\").replace('\'', "\\'");
            Some(format!("{key}='{value}'"))
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    /// A program of a client. Its own messages are in English, for they are looked through.
    fn program(
        &self,
        client: &Client,
        name: &str,
        arguments: impl IntoIterator<Item = OsString>,
        limit: Duration,
    ) -> Program {
        let words = [
            client.program(name).into_os_string(),
            "--no-password".into(),
        ];
        Program::new(words.into_iter().chain(arguments), limit)
            .variable("LC_ALL", "C")
            .if_missing(clients::INSTALL)
    }

    /// Runs statements one after another in one session, and returns what they print.
    fn sql(
        &self,
        database: &str,
        statements: &str,
        limit: Duration,
    ) -> Result<Vec<u8>, DatabaseError> {
        self.sql_as(APPLICATION, database, statements, limit)
    }

    /// In a session that others can tell from the rest.
    fn sql_as(
        &self,
        application: &str,
        database: &str,
        statements: &str,
        limit: Duration,
    ) -> Result<Vec<u8>, DatabaseError> {
        let client = clients::newest(self.clients())?;
        let arguments = [
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
        ];
        let arguments = arguments.into_iter().map(OsString::from);
        let connection = OsString::from(self.connection(database, application));
        self.program(client, "psql", arguments.chain([connection]), limit)
            .input(statements)
            .answer()
            .map_err(|error| errors::explain(error, &self.settings, database))
    }
}

impl Database for Postgres {
    fn probe(&self) -> Result<Probe, DatabaseError> {
        probe::probe(self)
    }

    fn dump(&self, into: &Path) -> Result<Dump, DatabaseError> {
        dump::dump(self, into)
    }

    fn check(&self) -> Result<Vec<String>, DatabaseError> {
        Ok(check::check(self))
    }

    /// Sessions that are connected to a database `name` are ended when it is replaced; it stays as `NAME__previous` until the next load.
    fn load(&self, from: &Path, name: &str) -> Result<(), DatabaseError> {
        load::load(self, from, name)
    }

    fn identity(&self, name: &str) -> Result<Option<String>, DatabaseError> {
        identity::identity(self, name)
    }

    fn settle(&self, name: &str) -> Result<(), DatabaseError> {
        load::settle(self, name)
    }

    /// With `NAME__next` and `NAME__previous`. Sessions that are connected to them are ended.
    fn drop_database(&self, name: &str) -> Result<(), DatabaseError> {
        load::drop_database(self, name)
    }

    fn count(&self, name: &str) -> Result<BTreeMap<String, u64>, DatabaseError> {
        count::count(self, name)
    }
}

/// A name in a statement.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in a statement, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn settings(json: &str) -> PostgresSettings {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_connection_quotes_what_could_be_taken_for_something_else() {
        let settings =
            settings(r#"{"database": "a", "host": "/run/pg", "port": 5433, "user": "o'neil\\"}"#);
        let postgres = Postgres::new(settings, Limits::default());
        assert_eq!(
            postgres.connection("host=evil", APPLICATION),
            r"host='/run/pg' port='5433' user='o\'neil\\' dbname='host=evil' connect_timeout='10' application_name='understudy'"
        );
    }

    #[test]
    fn unknown_settings_are_refused_and_missing_ones_are_the_engines() {
        assert!(
            serde_json::from_str::<PostgresSettings>(r#"{"database": "a", "pasword": "x"}"#)
                .is_err()
        );
        assert_eq!(
            settings(r#"{"database": "a"}"#).maintenance_database,
            "postgres"
        );
    }

    #[test]
    fn names_and_texts_end_where_they_should() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\"), r" E'a\'b\\'");
    }
}
