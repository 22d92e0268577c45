//! What a receiver knows of damage in a dataset, and how it gets lost contents back from the main.

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
#[cfg(doc)]
use crate::limits;
use crate::name::DatasetName;
use crate::place::RelPath;

/// Some contents that the receiver has lost, and where they were: the agent looks whether it still has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// At most [`limits::WANTED`] in all of an upload.
    #[serde(deserialize_with = "crate::list::records")]
    pub contents: Vec<WantedContent>,
}

/// A content that is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedContent {
    /// Where the dataset has or had it, below its root.
    pub path: RelPath,
    /// Its length in bytes.
    pub size: u64,
    /// Its hash.
    pub hash: ContentHash,
}

/// Answers one wanted content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// Which one.
    pub hash: ContentHash,
    /// The stream that follows with it; `None` if the agent does not have it any more.
    pub stream: Option<u64>,
}

/// What is known of damage in a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Those that nobody has accepted first; at most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub findings: Vec<KnownFinding>,
    /// Snapshots that cannot be restored whole, in order; at most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub damaged: Vec<u64>,
    /// How far the scrub is; `None` if there never was one.
    pub scrub: Option<ScrubState>,
    /// How many findings there are that nobody has accepted, told or not.
    pub open: u64,
    /// How many losses somebody has accepted, told or not.
    pub accepted: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFinding {
    /// Where: below the dataset's root, or an object's own name.
    pub path: RelPath,
    /// What, for people; at most [`limits::TEXT_BYTES`].
    pub what: String,
    /// The content that is not there as it should be, where it is one.
    pub content: Option<ContentHash>,
    /// What is done about it.
    pub state: FindingState,
    /// When it was first found.
    pub found_seconds: i64,
}

/// What is done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FindingState {
    /// Nothing yet.
    Open,
    /// The main is asked for the content at its next cycle.
    Wanted,
    /// The main does not have it any more.
    Lost,
    /// Somebody on the spare knows that it is lost.
    Accepted,
}

/// Passes of the scrub over a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// The last one that has read everything.
    pub last: Option<ScrubEnd>,
    /// The one that is not over.
    pub running: Option<ScrubRun>,
}

/// A pass that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubEnd {
    /// When it began.
    pub since_seconds: i64,
    /// When it ended.
    pub seconds: i64,
    /// Bytes read.
    pub bytes: u64,
    /// How much it found.
    pub findings: u64,
}

/// A pass that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRun {
    /// When it began.
    pub since_seconds: i64,
    /// What it has done, in bytes that include a charge for each file.
    pub done_bytes: u64,
    /// What it has to do, as far as is known.
    pub total_bytes: u64,
    /// How much it found up to now.
    pub findings: u64,
}

/// Asks for verification at a pace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspect {
    /// Only this dataset, or all.
    pub dataset: Option<DatasetName>,
    /// Whether what can be repaired is repaired, and the main asked for the rest.
    pub repair: Repairing,
    /// How fast the receiver reads, at most; not zero.
    pub bytes_per_second: u64,
}

/// What an inspection does about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repairing {
    /// It tells.
    Never,
    /// As `Repair` does.
    Always,
}
