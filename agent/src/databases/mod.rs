//! The databases of a dataset, and who takes them.

mod settings;
mod stillness;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_databases::{DatabaseError, Dump, Probe};
use understudy_protocol::DatasetName;

pub use crate::dumps::{DatabaseState, place, rows_of};
pub use settings::{DatabaseSettings, Engine, OnFailure};
pub(crate) use stillness::is_noted;
pub use stillness::{LetGo, SnapshotPrograms, Stillness, notes, snapshot_notes};

/// Takes databases; it may start other programs, which an agent may not.
pub trait Capture: Send + Sync + Debug {
    /// Whether a database has changed: see [`understudy_databases::Database::probe`].
    fn probe(&self, dataset: &DatasetName, database: &str) -> Result<Probe, CaptureError>;

    /// Writes a dump into an empty directory: see [`understudy_databases::Database::dump`].
    fn dump(
        &self,
        dataset: &DatasetName,
        database: &str,
        into: &Path,
    ) -> Result<Dump, CaptureError>;

    /// Runs what keeps the application of a dataset still; after an error it goes on, as far as that can be brought about.
    fn keep_still(&self, dataset: &DatasetName) -> Result<(), CaptureError>;

    /// Lets it go on, if it was kept still by anybody who has not. Nobody's wish to end keeps this from being done.
    fn let_go(&self, dataset: &DatasetName) -> Result<LetGo, CaptureError>;

    /// Makes a snapshot of the file system of a source; returns where the source is in it.
    fn take_snapshot(&self, dataset: &DatasetName) -> Result<PathBuf, CaptureError>;

    /// Removes it. Nobody's wish to end keeps this from being done.
    fn drop_snapshot(&self, dataset: &DatasetName) -> Result<LetGo, CaptureError>;
}

/// A database could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
#[serde(deny_unknown_fields)]
pub struct CaptureError {
    /// What happened, and what to do.
    pub text: String,
    /// Whether anything is wrong.
    pub kind: CaptureFailure,
}

/// Whether something is wrong with a database that could not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureFailure {
    /// It is.
    Failed,
    /// Nothing is: it does not let itself be taken at this moment.
    NotNow,
    /// Who takes it is not there any more.
    Gone,
}

impl CaptureError {
    /// Something is wrong.
    pub fn failed(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            kind: CaptureFailure::Failed,
        }
    }

    /// Who takes it is not there any more.
    pub fn gone(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            kind: CaptureFailure::Gone,
        }
    }
}

impl From<DatabaseError> for CaptureError {
    fn from(error: DatabaseError) -> Self {
        let kind = match &error {
            DatabaseError::NotNow(_) => CaptureFailure::NotNow,
            _ => CaptureFailure::Failed,
        };
        Self {
            text: error.to_string(),
            kind,
        }
    }
}
