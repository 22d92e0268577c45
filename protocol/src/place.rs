//! Where an entry stands, and which state of a dataset is meant.

use std::fmt;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use crate::bytes::BytesVisitor;
use crate::digest::Fingerprint;
use crate::limits;
use crate::name::{InvalidName, Name, escape};

/// A directory of a dataset, named by a number that stays the same when the directory moves.
///
/// The agent assigns it and never uses one twice for two directories of the same snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DirectoryId(pub u64);

impl DirectoryId {
    /// The directory that holds the roots `files` and `databases`; it has no entry of its own.
    pub const TOP: Self = Self(0);
    /// The root of the file tree: the entry `files` of [`Self::TOP`].
    pub const FILES: Self = Self(1);
}

/// A directory and a name in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: DirectoryId,
    /// The name in it.
    pub name: Name,
}

impl Place {
    /// `name` in `parent`.
    pub fn new(parent: DirectoryId, name: Name) -> Self {
        Self { parent, name }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.parent.0, self.name)
    }
}

/// A path below the root of a file tree, for reports and patterns; the root itself is the empty path.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RelPath(#[serde(serialize_with = "serialize_bytes")] Vec<u8>);

fn serialize_bytes<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl RelPath {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses components separated by single slashes.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidName> {
        if !bytes.is_empty() {
            for component in bytes.split(|&byte| byte == b'/') {
                Name::new(component)?;
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The path of `name` in this directory.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.as_bytes().len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name.as_bytes());
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str(".")
        } else {
            f.write_str(&escape(&self.0))
        }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_bytes(BytesVisitor)?;
        let slashes = bytes.iter().filter(|&&byte| byte == b'/').count();
        if bytes.len() > limits::DEPTH * (limits::NAME_BYTES + 1) || slashes > limits::DEPTH {
            return Err(de::Error::custom("the path is too long"));
        }
        Self::new(&bytes).map_err(de::Error::custom)
    }
}

/// A state of a dataset: what both sides compare before an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch it was committed in; rises with every promotion.
    pub epoch: u64,
    /// The snapshot's number within the dataset, from 1.
    pub number: u64,
    /// The fingerprint of the state digest.
    pub fingerprint: Fingerprint,
}

/// A committed snapshot as the receiver tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Epoch, number and digest.
    pub position: Position,
    /// Commit time by the receiver's clock, seconds since 1970.
    pub committed_seconds: i64,
    /// Entries of every kind, directories included.
    pub entries: u64,
    /// Sum of the sizes of all regular files, every name of a hard-link group counted.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parsed_and_never_lead_out() {
        for bad in [&b"/a"[..], b"a//b", b"a/../b", b"a/", b"./a"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        let path = RelPath::new(b"a/b").expect("valid");
        assert_eq!(path.as_bytes(), b"a/b");
        assert_eq!(RelPath::root().to_string(), ".");
        let encoded = postcard::to_stdvec(&path).expect("encode");
        assert_eq!(postcard::from_bytes::<RelPath>(&encoded), Ok(path));
    }
}
