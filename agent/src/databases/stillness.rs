//! An application that is kept still while its files and databases are captured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_protocol::DatasetName;

/// How an application is kept still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stillness {
    /// The programs that make it so, each with its arguments; never empty ones.
    pub before: Vec<Vec<String>>,
    /// The programs that let it go on; likewise.
    pub after: Vec<Vec<String>>,
    /// How long it may take from the first program of `before` to the first of `after`.
    pub most: Duration,
}

impl Stillness {
    /// How long it may take if nobody says otherwise.
    pub const MOST: Duration = Duration::from_secs(10 * 60);
}

/// How a stillness has ended. Nothing is wrong by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetGo {
    /// Why the application may have gone on before everything was captured, if it may.
    pub early: Option<String>,
    /// Why it may not have gone on yet, if so.
    pub stuck: Option<String>,
}

/// The programs that make and remove snapshots of a source's file system, each with its arguments; never empty ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPrograms {
    /// Makes one, read-only, and removes what is left of one before; prints where the source is in it.
    pub make: Vec<String>,
    /// Removes it, if there is one.
    pub remove: Vec<String>,
}

/// Where it is noted of which datasets there is a snapshot of the file system: a file for each, called like it.
pub fn snapshot_notes(state: &Path) -> PathBuf {
    state.join("frozen")
}

/// Where it is noted which applications are kept still: a file for each dataset, called like it.
pub fn notes(state: &Path) -> PathBuf {
    state.join("still")
}

/// Whether a note says that an application was to be kept still, and nobody has let it go on since.
pub(crate) fn is_noted(state: &Path, dataset: &DatasetName) -> bool {
    notes(state).join(dataset.as_str()).exists()
}
