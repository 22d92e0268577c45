//! The vocabulary that agent and receiver share: names, entries, digests, messages and frames.
//!
//! Everything outside [`transport`] is sans-IO: bytes in, values out. It owns the format of the wire
//! (written down in `docs/protocol.md`) and must not know files, databases, clocks or threads.
//! [`delta`] finds what differs between two versions of a content.

pub mod bytes;
pub mod delta;
pub mod digest;
pub mod encode;
pub mod entry;
pub mod error;
pub mod frame;
pub mod hash;
pub mod key;
pub mod lane;
pub mod limits;
mod list;
pub mod message;
pub mod name;
pub mod place;
pub mod randomness;
pub mod role;
pub mod shown;
pub mod statement;
pub mod transport;
pub mod version;

pub use bytes::Bytes;
pub use digest::{Fingerprint, StateDigest};
pub use encode::{Compression, Encoder};
pub use entry::{Attributes, Entry, Node, Timestamp, Xattr};
pub use error::{Failure, FailureCode, ProtocolError};
pub use frame::Frame;
pub use hash::ContentHash;
pub use key::{PublicKey, SecretKey, Signature};
pub use message::Message;
pub use name::{DatasetName, MainName, Name, escape, harmless, is_harmful};
pub use place::{DirectoryId, Place, Position, RelPath, Snapshot};
pub use role::{FIRST_EPOCH, Role, Standing};
pub use statement::{SignedStatement, Statement};
