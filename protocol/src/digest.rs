//! The state digest: a sum over all entries that both sides keep in time proportional to the change.
//!
//! It is LtHash (Bellare and Micciancio's AdHash over a lattice; parameters 16 bits by 1024 lanes as in
//! Facebook's LtHash16): each entry is expanded by BLAKE3 to 1024 lanes which are added modulo 2^16.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::hash::{InvalidHex, parse_hex, write_hex};
use crate::place::Place;

const LANES: usize = 1024;
const CONTEXT: &str = "understudy 2026-11 state digest v1";

/// The sum over a set of entries. Order does not matter; adding and removing are inverse.
#[derive(Clone)]
pub struct StateDigest {
    lanes: Box<[u16; LANES]>,
    /// Bytes that its entries take as they are encoded; of a difference how many more, modulo 2^64. No part of the fingerprint.
    weight: u64,
}

/// By the sum alone.
impl PartialEq for StateDigest {
    fn eq(&self, other: &Self) -> bool {
        self.lanes == other.lanes
    }
}

impl Eq for StateDigest {}

impl StateDigest {
    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = LANES * 2;

    /// The digest of no entries.
    pub fn empty() -> Self {
        Self {
            lanes: Box::new([0; LANES]),
            weight: 0,
        }
    }

    /// Adds an entry.
    pub fn add(&mut self, place: &Place, entry: &Entry) {
        let (element, length) = element(place, entry);
        self.combine(&element, u16::wrapping_add);
        self.weight = self.weight.wrapping_add(length);
    }

    /// Takes away an entry that was added before.
    pub fn remove(&mut self, place: &Place, entry: &Entry) {
        let (element, length) = element(place, entry);
        self.combine(&element, u16::wrapping_sub);
        self.weight = self.weight.wrapping_sub(length);
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        for (lane, add) in self.lanes.iter_mut().zip(other.lanes.iter()) {
            *lane = lane.wrapping_add(*add);
        }
        self.weight = self.weight.wrapping_add(other.weight);
    }

    /// The 32 bytes that name this state.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(*blake3::hash(&self.to_bytes()).as_bytes())
    }

    /// How many bytes its entries take as they are encoded, each with its place.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The same digest with this weight: for one that was read back.
    #[must_use]
    pub fn weighing(mut self, weight: u64) -> Self {
        self.weight = weight;
        self
    }

    /// The lanes, little-endian, [`Self::BYTES`] long.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.to_le_bytes())
            .collect()
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if the length is another. The weight is not in there.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let mut digest = Self::empty();
        for (lane, pair) in digest.lanes.iter_mut().zip(bytes.chunks_exact(2)) {
            *lane = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Some(digest)
    }

    fn combine(&mut self, element: &[u8; Self::BYTES], operation: fn(u16, u16) -> u16) {
        for (lane, pair) in self.lanes.iter_mut().zip(element.chunks_exact(2)) {
            *lane = operation(*lane, u16::from_le_bytes([pair[0], pair[1]]));
        }
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateDigest({})", self.fingerprint())
    }
}

/// The canonical bytes of an entry are its postcard encoding, which is a documented stable format.
fn element(place: &Place, entry: &Entry) -> ([u8; StateDigest::BYTES], u64) {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    // Encoding into memory fails for no value of these types.
    let bytes = postcard::to_stdvec(&(place, entry)).unwrap_or_default();
    hasher.update(&bytes);
    let mut element = [0; StateDigest::BYTES];
    hasher.finalize_xof().fill(&mut element);
    (element, bytes.len() as u64)
}

/// Names a state: BLAKE3 of the state digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0[..6], f)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidHex;

    fn from_str(text: &str) -> Result<Self, InvalidHex> {
        parse_hex(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, ContentHash, DirectoryId, Name, Node, Timestamp};

    fn sample(number: u8) -> (Place, Entry) {
        let place = Place::new(
            DirectoryId(1),
            Name::new([b'f', number.max(1)]).expect("name"),
        );
        let modified = Timestamp {
            seconds: i64::from(number),
            nanoseconds: 0,
        };
        let attributes = Attributes {
            mode: 0o644,
            uid: 1,
            gid: 2,
            modified,
            xattrs: vec![],
        };
        let node = Node::File {
            size: 1,
            hash: ContentHash::of(&[number]),
        };
        (
            place,
            Entry {
                attributes,
                node,
                group: 0,
            },
        )
    }

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let (mut forward, mut backward) = (StateDigest::empty(), StateDigest::empty());
        let samples: Vec<_> = (1..20).map(sample).collect();
        samples
            .iter()
            .for_each(|(place, entry)| forward.add(place, entry));
        samples
            .iter()
            .rev()
            .for_each(|(place, entry)| backward.add(place, entry));
        assert_eq!(forward, backward);
        assert_eq!(
            StateDigest::from_bytes(&forward.to_bytes()),
            Some(forward.clone())
        );
        samples
            .iter()
            .for_each(|(place, entry)| forward.remove(place, entry));
        assert_eq!(forward, StateDigest::empty());
    }

    #[test]
    fn every_field_counts() {
        let (place, entry) = sample(1);
        let fingerprint = |place: &Place, entry: &Entry| {
            let mut digest = StateDigest::empty();
            digest.add(place, entry);
            digest.fingerprint()
        };
        let original = fingerprint(&place, &entry);
        let mut other = entry.clone();
        other.attributes.mode = 0o600;
        assert_ne!(original, fingerprint(&place, &other));
        other = entry.clone();
        other.group = 5;
        assert_ne!(original, fingerprint(&place, &other));
        assert_ne!(
            original,
            fingerprint(&Place::new(DirectoryId(2), place.name.clone()), &entry)
        );
    }
}
