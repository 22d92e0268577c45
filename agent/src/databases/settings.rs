//! What the configuration says of a database.

use std::time::Duration;

/// A database of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// Its name in snapshots.
    pub name: String,
    /// How often a dump is taken although nothing is said to have changed.
    pub force_dump: Duration,
}

/// What becomes of a cycle when a database cannot be taken.
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
