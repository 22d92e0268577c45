//! Files that were sent although they never stood still while they were read: which ones they are.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::limits;
use crate::name::DatasetName;
use crate::place::{Place, RelPath};

/// Some of the places whose files may be mixtures of several states. All such messages of an upload or a manifest
/// together name every fuzzy file of the snapshot, whether or not it is among the changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fuzzy {
    /// Regular files of the snapshot, each once; at most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub places: Vec<Place>,
}

/// Asks which files of a dataset are fuzzy, and in which snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFuzzy {
    /// The dataset.
    pub dataset: DatasetName,
    /// Of which snapshot; of all if absent.
    pub number: Option<u64>,
}

/// A file that is fuzzy in a stretch of the snapshots that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuzzyFile {
    /// Its path in all of them.
    pub path: RelPath,
    /// The first of these snapshots.
    pub since: u64,
    /// The first one after them; `None` if the newest that was asked for is among them.
    pub until: Option<u64>,
}

impl FuzzyFile {
    /// Whether it is fuzzy in this snapshot.
    pub fn is_in(&self, number: u64) -> bool {
        self.since <= number && self.until.is_none_or(|until| number < until)
    }
}

/// Some fuzzy files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuzzyFiles {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub files: Vec<FuzzyFile>,
}

/// All fuzzy files that were asked for are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuzzyEnd {}
