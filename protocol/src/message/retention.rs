//! What the receiver's retention has noted of snapshots. Nothing here changes it: that is for people on the spare.

use serde::{Deserialize, Serialize};

use super::{Check, bounded};
use crate::error::ProtocolError;
use crate::limits;
use crate::name::DatasetName;

/// Asks what retention has noted of a dataset's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRetention {
    /// The dataset.
    pub dataset: DatasetName,
}

/// Somebody said that a snapshot must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Why, for people; at most [`limits::TEXT_BYTES`].
    pub reason: String,
    /// Since when.
    pub since_seconds: i64,
}

/// A snapshot is expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// Since when.
    pub since_seconds: i64,
    /// When it goes.
    pub due_seconds: i64,
}

/// What is noted of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// The snapshot.
    pub number: u64,
    /// Its pin.
    pub pin: Option<Pin>,
    /// Whether it is expired.
    pub flag: Option<Flag>,
}

/// Some of the snapshots of which anything is noted, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub snapshots: Vec<Retained>,
}

/// How the last verification of a dataset ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerified {
    /// When.
    pub seconds: i64,
    /// How many findings it had.
    pub findings: u64,
}

/// All snapshots of which anything is noted are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionEnd {
    /// The last verification, if there was one.
    pub verified: Option<LastVerified>,
}

impl Check for Retention {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of snapshots", self.snapshots.len(), limits::RECORDS)?;
        let mut pins = self.snapshots.iter().filter_map(|one| one.pin.as_ref());
        pins.try_for_each(|pin| bounded("a pin", pin.reason.len(), limits::TEXT_BYTES))
    }
}
