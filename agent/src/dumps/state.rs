//! What is told to people of the databases of a dataset.

use std::path::Path;

use serde::{Deserialize, Serialize};
use understudy_protocol::DatasetName;

use super::keeper::Shelf;
use crate::databases::DatabaseSettings;
use crate::error::AgentError;

/// What an agent says of one database.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseState {
    /// Its name in snapshots.
    pub name: String,
    /// When the dump was taken that the spare has; it is as the database was last found to be.
    pub dumped_seconds: Option<i64>,
    /// How often in a row it could not be taken.
    pub failures: u32,
    /// How often a dump that was taken although nothing was said to have changed was another one than before.
    pub misses: u64,
    /// How long those who write had to wait for the last dump, at most.
    pub writers_waited_seconds: f64,
    /// What a person ought to know of that.
    pub notes: Vec<String>,
}

impl DatabaseState {
    /// Of each database that is configured; one that was never taken has nothing but its name.
    pub(crate) fn of_all(
        state: &Path,
        dataset: &DatasetName,
        databases: &[DatabaseSettings],
    ) -> Vec<Self> {
        let of = |settings: &DatabaseSettings| {
            let known = Self::of(state, dataset, &settings.name);
            known.unwrap_or_else(|error| {
                tracing::warn!(%dataset, database = settings.name, "its state is not told: {error}");
                Self::default()
            })
        };
        let named = |settings: &DatabaseSettings| Self {
            name: settings.name.clone(),
            ..of(settings)
        };
        databases.iter().map(named).collect()
    }

    fn of(state: &Path, dataset: &DatasetName, database: &str) -> Result<Self, AgentError> {
        let Some(shelf) = Shelf::existing(state, dataset, database)? else {
            return Ok(Self::default());
        };
        let known = Self {
            failures: shelf.failures()?,
            ..Self::default()
        };
        Ok(match shelf.shipped()? {
            Some(note) => Self {
                dumped_seconds: Some(note.taken_seconds),
                misses: note.misses,
                writers_waited_seconds: note.dump.writers_waited.as_secs_f64(),
                notes: note.dump.notes,
                ..known
            },
            None => known,
        })
    }
}
