//! Databases as directories of plain files: taken by their own engine's tools, proved to be whole, and loaded again.
//!
//! Knows nothing of snapshots, spares or schedules. Everything here may take long and starts other programs: an agent calls it in a process
//! of its own.

pub mod command;
mod error;
pub mod mariadb;
mod names;
pub mod postgres;
pub mod run;
pub mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::DatabaseError;

/// How long each thing may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A probe, or any single question.
    pub probe: Duration,
    /// A whole dump.
    pub dump: Duration,
    /// How long a dump may keep writers waiting, where an engine cannot do without.
    pub lock: Duration,
    /// A whole load.
    pub load: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            probe: Duration::from_secs(10),
            dump: Duration::from_secs(60 * 60),
            lock: Duration::from_secs(20),
            load: Duration::from_secs(4 * 60 * 60),
        }
    }
}

/// What tells whether a database has changed. It is read before a dump, and kept with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Equal to that of a dump before: nothing has changed since, if that one was settled.
    pub token: String,
    /// Whether every change that was committed when it was read is in `token`, and none can come that leaves `token` as it is.
    pub is_settled: bool,
}

/// What a dump has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Rows of each table, by its name, where the engine lets them be counted in the same moment without a second look at everything.
    pub rows: BTreeMap<String, u64>,
    /// How long writers had to wait, at most.
    pub writers_waited: Duration,
    /// What a person ought to know of it: a lock that was needed, something that was left out.
    pub notes: Vec<String>,
}

/// A database of one site.
pub trait Database: Send + Sync {
    /// Asks whether anything has changed: cheap, and without an effect on anybody who works with the database.
    fn probe(&self) -> Result<Probe, DatabaseError>;

    /// Writes everything into `into`, an empty directory, in files whose bytes are the same whenever the database is. What is found there
    /// after an error is worth nothing. Nothing is synced.
    fn dump(&self, into: &Path) -> Result<Dump, DatabaseError>;

    /// What would make a dump fail, or leave something out, with what to do about it, a line each; empty if all is well.
    fn check(&self) -> Result<Vec<String>, DatabaseError>;

    /// Makes the database `name` of what [`Database::dump`] has written to `from`, in place of one of that name. Until everything is loaded
    /// that stays as it was, as far as the engine can do that.
    fn load(&self, from: &Path, name: &str) -> Result<(), DatabaseError>;

    /// What tells the database `name` as it stands from any other that had this name before or has it later: a text that changes when it is
    /// replaced, removed and made again, or has another table; rows may change without it. `None` if there is no such database.
    fn identity(&self, name: &str) -> Result<Option<String>, DatabaseError>;

    /// Ends what a load of `name` has left running in the server whose process was killed. When this returns, none will replace it any more.
    fn settle(&self, name: &str) -> Result<(), DatabaseError>;

    /// Removes the database `name`; one that is not there was removed before.
    fn drop_database(&self, name: &str) -> Result<(), DatabaseError>;

    /// Rows of each table of the database `name`, counted one after another.
    fn count(&self, name: &str) -> Result<BTreeMap<String, u64>, DatabaseError>;
}
