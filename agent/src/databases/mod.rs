//! The databases of a dataset, and who takes them.

mod settings;

use std::fmt::Debug;
use std::path::Path;

use understudy_databases::{Dump, Probe};
use understudy_protocol::DatasetName;

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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CaptureError {
    /// What happened, and what to do.
    pub text: String,
}
