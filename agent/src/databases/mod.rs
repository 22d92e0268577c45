//! The databases of a dataset, and who takes them.

mod settings;

use std::fmt::Debug;
use std::path::Path;

use serde::{Deserialize, Serialize};
use understudy_databases::{DatabaseError, Dump, Probe};
use understudy_protocol::DatasetName;

pub use crate::dumps::{DatabaseState, place, rows_of};
pub use settings::{DatabaseSettings, Engine, OnFailure};

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
}

impl CaptureError {
    /// Something is wrong.
    pub fn failed(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            kind: CaptureFailure::Failed,
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
