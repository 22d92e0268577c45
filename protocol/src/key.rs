//! Keys: who a side of a pair is, and what it has signed.
//!
//! Each side has one Ed25519 key. It proves who connects, and the main signs with it what it has sent. Signatures
//! name what they are for, so that none of one kind passes for one of another.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Bytes of a key, secret or public.
pub const KEY_BYTES: usize = 32;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What comes before the key in the SubjectPublicKeyInfo of every Ed25519 key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A side's secret key. Never shown.
pub struct SecretKey {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    pair: Ed25519KeyPair,
}

/// A side's public key: what the other side pins.
///
/// Shown as 52 letters and digits (base32 without padding, lower case).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

/// A signature by a [`SecretKey`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_BYTES]);

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system gives no random bytes.
    #[error("no random bytes for a key")]
    Random,
    /// The text is no key.
    #[error("this is no key: a key has 52 letters from a to z and digits from 2 to 7")]
    Text,
    /// The bytes are no key.
    #[error("these bytes are no key")]
    Bytes,
}

impl SecretKey {
    /// A new key from the system's random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut seed[..]).map_err(|_| KeyError::Random)?;
        Self::from_seed(&seed)
    }

    /// The key that [`SecretKey::seed`] was asked of.
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Bytes)?;
        Ok(Self {
            seed: Zeroizing::new(*seed),
            pair,
        })
    }

    /// All that there is of it; a secret.
    pub fn seed(&self) -> &Zeroizing<[u8; KEY_BYTES]> {
        &self.seed
    }

    /// The seed as it is kept in a file: 52 letters and digits; a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = BASE32_NOPAD.encode(&self.seed[..]);
        text.make_ascii_lowercase();
        Zeroizing::new(text)
    }

    /// The key that [`SecretKey::to_text`] was asked of.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let upper = Zeroizing::new(text.to_ascii_uppercase());
        let bytes = BASE32_NOPAD
            .decode(upper.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| KeyError::Text)?;
        let seed: &[u8; KEY_BYTES] = bytes[..].try_into().map_err(|_| KeyError::Text)?;
        Self::from_seed(seed)
    }

    /// What the other side may know.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `message` for `purpose`, which must be unlike the purpose of every other kind of message.
    pub fn sign(&self, purpose: &str, message: &[u8]) -> Signature {
        let signed = self.pair.sign(&framed(purpose, message));
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(signed.as_ref());
        Signature(bytes)
    }

    /// The key in PKCS #8, version 1 (RFC 5208): a secret.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| KeyError::Bytes)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl PublicKey {
    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key in a SubjectPublicKeyInfo, if that is one of Ed25519.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        let bytes = spki.strip_prefix(&SPKI_PREFIX)?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Whether the owner of this key has signed `message` for `purpose`.
    #[must_use]
    pub fn has_signed(&self, purpose: &str, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&framed(purpose, message), &signature.0)
            .is_ok()
    }
}

/// The purpose, its end, and the message.
fn framed(purpose: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(purpose.len() + 1 + message.len());
    bytes.extend_from_slice(purpose.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(message);
    bytes
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| KeyError::Text)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyError::Text)?))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; KEY_BYTES]>::deserialize(deserializer).map(Self)
        }
    }
}

impl Signature {
    /// A signature from its bytes.
    pub fn from_bytes(bytes: [u8; SIGNATURE_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[7; KEY_BYTES]).expect("key")
    }

    #[test]
    fn signatures_hold_for_their_purpose_message_and_key_only() {
        let signature = key().sign("test", b"message");
        let public = key().public();
        assert!(public.has_signed("test", b"message", &signature));
        assert!(!public.has_signed("test", b"massage", &signature));
        assert!(!public.has_signed("tes", b"tmessage", &signature));
        let other = SecretKey::generate().expect("key").public();
        assert!(!other.has_signed("test", b"message", &signature));
    }

    #[test]
    fn keys_are_read_back_from_what_they_are_shown_as() {
        let public = SecretKey::generate().expect("key").public();
        assert_eq!(public.to_string().len(), 52);
        assert_eq!(public.to_string().parse(), Ok(public));
        for text in ["", "a", &"1".repeat(52), &"a".repeat(53)] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Text), "{text}");
        }
    }

    #[test]
    fn secret_keys_are_read_back_from_what_is_kept_of_them() {
        let text = key().to_text();
        let read = SecretKey::from_text(&text).expect("key");
        assert_eq!(read.public(), key().public());
        assert!(SecretKey::from_text(&text[1..]).is_err());
    }

    #[test]
    fn a_secret_key_is_never_shown() {
        let shown = format!("{:?}", key());
        assert_eq!(shown, format!("SecretKey(of {})", key().public()));
    }

    #[test]
    fn the_known_answer_of_the_standard_holds() {
        // RFC 8032, section 7.1, test 1.
        let hex = |text: &str| -> [u8; KEY_BYTES] {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes());
            bytes.expect("hexadecimal").try_into().expect("32 bytes")
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let key = SecretKey::from_seed(&seed).expect("key");
        assert_eq!(key.public().as_bytes(), &public);
        let spki = [&SPKI_PREFIX[..], &public].concat();
        assert_eq!(PublicKey::from_spki(&spki), Some(key.public()));
        assert_eq!(PublicKey::from_spki(&spki[1..]), None);
    }
}
