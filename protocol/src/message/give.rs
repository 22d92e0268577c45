//! Giving back: manifests and contents.

use serde::{Deserialize, Serialize};

use super::{Check, bounded};
use crate::bytes::Bytes;
use crate::entry::Entry;
use crate::error::ProtocolError;
use crate::limits;
use crate::name::DatasetName;
use crate::place::Place;
use crate::place::Snapshot;

/// Asks for a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadManifest {
    /// Of which dataset.
    pub dataset: DatasetName,
    /// Which snapshot; the newest if absent.
    pub number: Option<u64>,
}

/// Asks for contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Regular files of the snapshot; at most [`limits::RECORDS`]. They are given in this order.
    #[serde(deserialize_with = "crate::list::records")]
    pub places: Vec<Place>,
}

/// A part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
    pub entries: Vec<(Place, Entry)>,
}

/// The manifest is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEnd {
    /// The snapshot it described.
    pub snapshot: Snapshot,
}

/// Small contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Each wanted place with its content, at most [`limits::INLINE_BYTES`] each.
    #[serde(deserialize_with = "crate::list::records")]
    pub contents: Vec<(Place, Bytes)>,
}

/// Announces a large content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenStream {
    /// The wanted place.
    pub place: Place,
    /// The stream that follows.
    pub stream: u64,
}

/// Asks for the rest of a content of which the beginning has arrived, or for what differs from another version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantRest {
    /// A regular file of the snapshot with more than [`limits::INLINE_BYTES`].
    pub place: Place,
    /// How much is there already: less than the whole, and at least one byte where there is no other version.
    pub from: u64,
    /// The [`Signature`](crate::delta::Signature) of another version, without blocks; at most [`limits::SIGNATURE_BYTES`].
    pub other: Option<Bytes>,
}

impl Check for WantRest {
    fn check(&self) -> Result<(), ProtocolError> {
        if let Some(signature) = &self.other {
            bounded("a signature", signature.0.len(), limits::SIGNATURE_BYTES)?;
        }
        let least = u64::from(self.other.is_none());
        if (least..=limits::FILE_BYTES).contains(&self.from) {
            return Ok(());
        }
        Err(ProtocolError::malformed(
            "WantRest",
            "it begins at the beginning or beyond the largest file",
        ))
    }
}
