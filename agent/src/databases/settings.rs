//! What the configuration says of a database.

use std::time::Duration;

use understudy_databases::command::{CommandDatabase, CommandSettings};
use understudy_databases::mariadb::{Mariadb, MariadbSettings};
use understudy_databases::postgres::{Postgres, PostgresSettings};
use understudy_databases::{Database, Limits};
use understudy_protocol::DatasetName;

/// A database of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// Its name in snapshots: letters, digits, `_`, `-` and `.`, which it does not begin with.
    pub name: String,
    /// Whose it is, and where.
    pub engine: Engine,
    /// How long each thing may take.
    pub limits: Limits,
    /// How often a dump is taken although nothing is said to have changed.
    pub force_dump: Duration,
}

/// Whose a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// MariaDB, or MySQL.
    Mariadb(MariadbSettings),
    /// PostgreSQL.
    Postgres(PostgresSettings),
    /// Any other one, by a program.
    Command(CommandSettings),
}

impl DatabaseSettings {
    /// How often a dump is taken if nobody says otherwise.
    pub const FORCE_DUMP: Duration = Duration::from_secs(6 * 60 * 60);

    /// What a load makes of a dump: the database as the engine calls it.
    pub fn target(&self) -> &str {
        match &self.engine {
            Engine::Mariadb(settings) => &settings.database,
            Engine::Postgres(settings) => &settings.database,
            Engine::Command(_) => &self.name,
        }
    }

    /// The database of a dataset; nobody is asked yet.
    pub fn open(&self, dataset: &DatasetName) -> Box<dyn Database> {
        match &self.engine {
            Engine::Mariadb(settings) => Box::new(Mariadb::new(settings.clone(), self.limits)),
            Engine::Postgres(settings) => Box::new(Postgres::new(settings.clone(), self.limits)),
            Engine::Command(settings) => Box::new(CommandDatabase::new(
                settings.clone(),
                dataset.as_str(),
                &*self.name,
                self.limits,
            )),
        }
    }
}

/// What becomes of a cycle when a database cannot be captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails: the spare keeps its last snapshot.
    #[default]
    Fail,
    /// After so many failures in a row the files are shipped with the dump that the spare has.
    ShipFiles {
        /// How many.
        after: u32,
    },
}
