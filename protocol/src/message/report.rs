//! Questions about a store and their answers.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::limits;
use crate::name::DatasetName;
use crate::place::RelPath;
use crate::place::{Position, Snapshot};
use crate::role::Standing;

/// Asks for an overview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Only this dataset, or all.
    pub dataset: Option<DatasetName>,
}

/// Asks for verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Only this dataset, or all.
    pub dataset: Option<DatasetName>,
}

/// A cycle failed before or outside an upload: the receiver would not hear of it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The dataset; made if the store does not have it.
    pub dataset: DatasetName,
    /// What happened, for people; at most [`limits::TEXT_BYTES`].
    pub reason: String,
}

/// The failed cycle is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {}

/// The datasets of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datasets {
    /// In the order of their names.
    pub datasets: Vec<DatasetStatus>,
    /// Free bytes on the store's file system.
    pub free_bytes: u64,
    /// The receiver's clock, seconds since 1970.
    pub now_seconds: i64,
}

/// One dataset of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetStatus {
    /// Its name.
    pub name: DatasetName,
    /// Snapshots, oldest first: the newest [so many](limits::listed_snapshots).
    pub snapshots: Vec<Snapshot>,
    /// Begin of the capture or confirmation that is the newest, by the receiver's clock.
    pub as_of_seconds: Option<i64>,
    /// Whether an upload is running.
    pub uploading: bool,
    /// What keeps it from working, if anything.
    pub trouble: Option<String>,
}

/// Asks for the snapshots of a dataset that were too many for [`Datasets`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSnapshots {
    /// The dataset.
    pub dataset: DatasetName,
    /// Only those with a smaller number.
    pub before: u64,
}

/// Some snapshots of a dataset, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub snapshots: Vec<Snapshot>,
}

/// Something wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The dataset.
    pub dataset: DatasetName,
    /// The path below its root; for objects and records their own name.
    pub path: RelPath,
    /// What is wrong with it.
    pub what: String,
}

/// Verification of one dataset has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The dataset.
    pub dataset: DatasetName,
    /// The snapshot compared; `None` if there is none.
    pub snapshot: Option<Snapshot>,
    /// Entries compared.
    pub entries: u64,
    /// Regular files among them, each name counted.
    pub files: u64,
    /// Bytes of live files read.
    pub bytes: u64,
    /// Objects of history read.
    pub objects: u64,
    /// Bytes of objects read.
    pub object_bytes: u64,
    /// Number of [`Finding`]s sent.
    pub findings: u64,
}

/// Verification is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyEnd {
    /// Datasets verified.
    pub datasets: u64,
}

/// Asks for verification, and for the repair of what the receiver can repair by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Only this dataset, or all.
    pub dataset: Option<DatasetName>,
}

/// Something that was wrong in a store and is not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The dataset.
    pub dataset: DatasetName,
    /// The path below its root.
    pub path: RelPath,
    /// What was wrong with it.
    pub what: String,
}

/// Asks which part the receiver's host plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRoles {
    /// Only in this dataset.
    pub dataset: Option<DatasetName>,
}

/// The main has handed a dataset over: it ships nothing any more, and the receiver's newest snapshot is all that it had. Or it takes that
/// back. It is noted for whoever promotes; no role changes by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The dataset.
    pub dataset: DatasetName,
    /// In which the sender is, or was, the main.
    pub epoch: u64,
    /// The snapshot that is all it had; `None` if it goes on as the main.
    pub position: Option<Position>,
}

/// Which part the receiver's host plays in a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetRole {
    /// The dataset.
    pub dataset: DatasetName,
    /// `None` if nobody can tell, because its note is damaged.
    pub standing: Option<Standing>,
}
