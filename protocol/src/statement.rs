//! What a main says of one snapshot, signed: that this is what it has sent.
//!
//! The receiver keeps the bytes and gives them back; it need not understand them. A statement that can be held is one whose signature
//! has been checked.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::digest::Fingerprint;
use crate::hash::ContentHash;
use crate::key::{PublicKey, SIGNATURE_BYTES, SecretKey, Signature};
use crate::limits;
use crate::message::Owners;
use crate::name::DatasetName;
use crate::place::Place;

/// No other kind of message is signed for this.
const PURPOSE: &str = "understudy 2026-11 statement v1";
const FUZZY: &str = "understudy 2026-11 fuzzy places v1";
const OWNERS: &str = "understudy 2026-11 owners v1";

/// What is said of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Of which dataset.
    pub dataset: DatasetName,
    /// One more than that of the statement before it; the first has 1.
    pub counter: u64,
    /// The [hash](SignedStatement::hash) of the statement before it; zeros if there is none.
    pub previous: ContentHash,
    /// The epoch of the snapshot.
    pub epoch: u64,
    /// The number of the snapshot.
    pub number: u64,
    /// The fingerprint of its whole state.
    pub fingerprint: Fingerprint,
    /// How many bytes its entries take: the [weight](crate::StateDigest::weight) of that state.
    pub weight: u64,
    /// Digest of the [fuzzy places](fuzzy_digest).
    pub fuzzy: ContentHash,
    /// Digest of [what owners are called](owners_digest), if the main knows all that the receiver was told.
    pub owners: Option<ContentHash>,
    /// When it was signed, in seconds since 1970 by the main's clock.
    pub signed_seconds: i64,
}

/// A statement with the signature that it was checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedStatement {
    statement: Statement,
    key: PublicKey,
    bytes: Vec<u8>,
}

/// The bytes are no statement, or nobody has signed them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StatementError(&'static str);

#[derive(Serialize, Deserialize)]
struct Envelope {
    key: PublicKey,
    signature: Bytes,
    statement: Bytes,
}

impl Statement {
    /// The statement, signed.
    pub fn sign(self, key: &SecretKey) -> Result<SignedStatement, StatementError> {
        let failed = |_| StatementError("a statement cannot be encoded");
        let statement = postcard::to_stdvec(&self).map_err(failed)?;
        let signature = key.sign(PURPOSE, &statement);
        let envelope = Envelope {
            key: key.public(),
            signature: Bytes(signature.as_bytes().to_vec()),
            statement: Bytes(statement),
        };
        Ok(SignedStatement {
            bytes: postcard::to_stdvec(&envelope).map_err(failed)?,
            statement: self,
            key: envelope.key,
        })
    }
}

impl SignedStatement {
    /// Reads a statement, and checks that the key that it names has signed it. Whose key that is, is another question.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() > limits::STATEMENT_BYTES {
            return Err(StatementError("it is longer than any statement"));
        }
        let malformed = |_| StatementError("it cannot be understood");
        let (envelope, rest) = postcard::take_from_bytes::<Envelope>(bytes).map_err(malformed)?;
        let (statement, more) =
            postcard::take_from_bytes::<Statement>(&envelope.statement).map_err(malformed)?;
        if !rest.is_empty() || !more.is_empty() {
            return Err(StatementError("it has bytes too many"));
        }
        let signature: [u8; SIGNATURE_BYTES] = envelope.signature[..]
            .try_into()
            .map_err(|_| StatementError("its signature has a wrong length"))?;
        let signature = Signature::from_bytes(signature);
        let is_signed = envelope
            .key
            .has_signed(PURPOSE, &envelope.statement, &signature);
        if !is_signed {
            return Err(StatementError("its signature is wrong"));
        }
        Ok(Self {
            statement,
            key: envelope.key,
            bytes: bytes.to_vec(),
        })
    }

    /// What is said.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Who has signed it.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// As it travels; at most [`limits::STATEMENT_BYTES`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the next statement names it by.
    pub fn hash(&self) -> ContentHash {
        ContentHash::of(&self.bytes)
    }
}

/// The digest of the fuzzy places of a snapshot, which must come in order.
pub fn fuzzy_digest<'a>(places: impl IntoIterator<Item = &'a Place>) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key(FUZZY);
    for place in places {
        // Encoding into memory fails for no place.
        hasher.update(&postcard::to_stdvec(place).unwrap_or_default());
    }
    hasher.finalize().into()
}

/// The digest of what owners are called, as a receiver tells it with a manifest: each number once, in order.
pub fn owners_digest(owners: &Owners) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key(OWNERS);
    hasher.update(&postcard::to_stdvec(owners).unwrap_or_default());
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KEY_BYTES;

    fn statement() -> Statement {
        Statement {
            dataset: DatasetName::fit(b"site"),
            counter: 3,
            previous: ContentHash::of(b"before"),
            epoch: 1,
            number: 5,
            fingerprint: Fingerprint([7; 32]),
            weight: 900,
            fuzzy: fuzzy_digest([]),
            owners: Some(owners_digest(&Owners::default())),
            signed_seconds: 1_800_000_000,
        }
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; KEY_BYTES]).expect("key")
    }

    #[test]
    fn a_statement_is_read_back_with_who_signed_it() {
        let signed = statement().sign(&key(1)).expect("sign");
        let read = SignedStatement::from_bytes(signed.bytes()).expect("read");
        assert_eq!(read, signed);
        assert_eq!(read.statement(), &statement());
        assert_eq!(read.key(), key(1).public());
        assert!(signed.bytes().len() < limits::STATEMENT_BYTES / 2);
    }

    #[test]
    fn no_byte_of_a_statement_can_be_changed_added_or_left_out() {
        let signed = statement().sign(&key(1)).expect("sign");
        let bytes = signed.bytes();
        for place in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[place] ^= 1;
            assert!(SignedStatement::from_bytes(&changed).is_err(), "{place}");
        }
        assert!(SignedStatement::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(SignedStatement::from_bytes(&[bytes, &[0]].concat()).is_err());
        assert!(SignedStatement::from_bytes(&vec![0; 1 << 20]).is_err());
    }

    #[test]
    fn the_longest_statement_fits_its_bound() {
        let longest = Statement {
            dataset: DatasetName::new("x".repeat(limits::DATASET_NAME_BYTES)).expect("name"),
            counter: u64::MAX,
            epoch: u64::MAX,
            number: u64::MAX,
            weight: u64::MAX,
            signed_seconds: i64::MIN,
            ..statement()
        };
        let signed = longest.sign(&key(1)).expect("sign");
        assert!(SignedStatement::from_bytes(signed.bytes()).is_ok());
    }
}
