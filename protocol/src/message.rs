//! Every message of the protocol, with its number and who may send it.
//!
//! Numbers and field order are the format of the wire: messages and fields are only ever appended, with a
//! new protocol version. `docs/protocol.md` describes each; a test holds that document against [`TABLE`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::digest::Fingerprint;
use crate::entry::Entry;
use crate::error::{Failure, ProtocolError};
use crate::hash::ContentHash;
use crate::limits;
use crate::name::DatasetName;
use crate::place::{Place, Position, RelPath, Snapshot};
use crate::version::Hello;

/// One row of the message table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The number on the wire.
    pub number: u8,
    /// The name in code and document.
    pub name: &'static str,
    /// `both`, `agent` or `receiver`.
    pub sender: &'static str,
}

macro_rules! messages {
    ($($number:literal $name:ident($body:ty) from $sender:ident: $doc:literal;)+) => {
        /// Any message.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Message {
            $(#[doc = $doc] $name($body),)+
        }

        /// All messages in the order of their numbers.
        pub const TABLE: &[Row] = &[
            $(Row { number: $number, name: stringify!($name), sender: stringify!($sender) },)+
        ];

        impl Message {
            /// The number on the wire.
            pub fn number(&self) -> u8 {
                match self { $(Self::$name(_) => $number,)+ }
            }

            /// The name for error messages.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)+ }
            }

            /// Appends the encoded body to `buffer`.
            pub(crate) fn encode_into(&self, buffer: Vec<u8>) -> postcard::Result<Vec<u8>> {
                match self { $(Self::$name(body) => postcard::to_extend(body, buffer),)+ }
            }

            /// Decodes a body; trailing bytes and broken limits are errors.
            pub(crate) fn decode(number: u8, body: &[u8]) -> Result<Self, ProtocolError> {
                match number {
                    $($number => decode_all(stringify!($name), body).and_then(|body: $body| {
                        body.check()?;
                        Ok(Self::$name(body))
                    }),)+
                    unknown => Err(ProtocolError::UnknownKind(unknown)),
                }
            }
        }
    };
}

messages! {
    1 Hello(Hello) from both: "Opens the connection and offers versions.";
    2 Failure(Failure) from both: "The sender gives up; nothing follows.";
    3 StreamBlock(StreamBlock) from both: "A stretch of a large file's content.";
    4 StreamEnd(StreamEnd) from both: "The content of a stream is complete.";
    5 StreamAbort(StreamAbort) from both: "The content of a stream is given up and forgotten.";
    10 Begin(Begin) from agent: "Opens an upload and locks the dataset.";
    11 Changes(Changes) from agent: "Entries put and removed.";
    12 Commit(Commit) from agent: "The change set is complete: make it the live snapshot.";
    13 Confirm(Confirm) from agent: "Nothing changed since the newest snapshot.";
    14 ReadManifest(ReadManifest) from agent: "Asks for all entries of a snapshot.";
    15 Want(Want) from agent: "Asks for contents of files of the snapshot whose manifest was read last.";
    16 List(List) from agent: "Asks for the datasets and their snapshots.";
    17 Verify(Verify) from agent: "Asks the receiver to read everything again and compare.";
    30 Ready(Ready) from receiver: "Answers `Begin`: where the dataset stands.";
    31 Committed(Committed) from receiver: "The snapshot is live and durable.";
    32 Confirmed(Confirmed) from receiver: "The confirmation is recorded.";
    33 Manifest(Manifest) from receiver: "Some entries of the snapshot, directories before what they hold.";
    34 ManifestEnd(ManifestEnd) from receiver: "The manifest is complete.";
    35 Given(Given) from receiver: "Contents that were wanted, small ones whole.";
    36 GivenStream(GivenStream) from receiver: "A wanted content follows as this stream.";
    37 Datasets(Datasets) from receiver: "Answers `List`.";
    38 Finding(Finding) from receiver: "Something that verification found wrong.";
    39 Verified(Verified) from receiver: "Verification of one dataset has ended.";
    40 VerifyEnd(VerifyEnd) from receiver: "Verification is complete.";
}

fn decode_all<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, ProtocolError> {
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|error| ProtocolError::malformed(what, error))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(ProtocolError::malformed(
            what,
            format!("{} bytes too many", rest.len()),
        ))
    }
}

/// Limits beyond what the field types guarantee.
trait Check {
    fn check(&self) -> Result<(), ProtocolError> {
        Ok(())
    }
}

fn bounded(what: &'static str, length: usize, limit: usize) -> Result<(), ProtocolError> {
    if length > limit {
        Err(ProtocolError::TooLong {
            what,
            length,
            limit,
        })
    } else {
        Ok(())
    }
}

/// A stretch of a large file. What no block covers below the final size is a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBlock {
    /// Chosen by the sender, one at a time per content.
    pub stream: u64,
    /// Where it belongs; not before the end of the block before it.
    pub offset: u64,
    /// At most [`limits::BLOCK_BYTES`].
    pub data: Bytes,
}

/// Ends a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// Which stream.
    pub stream: u64,
    /// The file's length in bytes.
    pub size: u64,
    /// The hash of the whole content, holes as zeros.
    pub hash: ContentHash,
}

/// Gives a stream up, for instance because the file changed while it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAbort {
    /// Which stream.
    pub stream: u64,
}

/// Opens an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The dataset; made if the store does not have it.
    pub dataset: DatasetName,
}

/// A part of a change set. Parts may come in any order: a change set is a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// At most [`limits::RECORDS`].
    pub records: Vec<Change>,
}

/// One change against the base snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// This entry stands at this place from now on, whatever stood there before. A directory known by its
    /// number is moved here with all it holds.
    Put {
        /// Where.
        place: Place,
        /// What.
        entry: Entry,
        /// Where its content comes from.
        content: Content,
    },
    /// What stood here is gone; a directory goes with all that is not put elsewhere.
    Remove {
        /// Where.
        place: Place,
    },
}

/// Where the content of a put entry comes from. All places are those of the base snapshot, except
/// [`Content::Sibling`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A directory has none.
    Directory,
    /// A new file with this content, or anything new that is no file (then empty).
    Inline(Bytes),
    /// A new file with the content of a stream that has ended before this message.
    Stream(u64),
    /// The very file that stood there: moved, linked once more, or given other metadata.
    Keep(Place),
    /// A new file with the same content as the one there.
    Copy(Place),
    /// One more name of a file put earlier in this upload.
    Sibling(Place),
}

/// Ends an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The snapshot that the changes start from, as [`Ready`] named it.
    pub base: Option<Position>,
    /// The state after the changes.
    pub fingerprint: Fingerprint,
    /// Milliseconds since the capture began, by the agent's boot clock.
    pub elapsed_milliseconds: u64,
}

/// Tells that the newest snapshot is still what the source looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The snapshot meant.
    pub position: Position,
    /// Milliseconds since the capture began, by the agent's boot clock.
    pub elapsed_milliseconds: u64,
}

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
    pub places: Vec<Place>,
}

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

/// Where the dataset stands; the upload may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The newest snapshot; `None` if there is none yet.
    pub position: Option<Position>,
}

/// The upload is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The new snapshot.
    pub snapshot: Snapshot,
    /// How long each step took.
    pub timings: Vec<Timing>,
}

/// How long a step of the receiver took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The step, as `docs/storage.md` calls it.
    pub step: String,
    /// Microseconds.
    pub microseconds: u64,
}

/// The confirmation is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The snapshot it was about.
    pub snapshot: Snapshot,
}

/// A part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// At most [`limits::RECORDS`].
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
    /// Snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Begin of the capture or confirmation that is the newest, by the receiver's clock.
    pub as_of_seconds: Option<i64>,
    /// Whether an upload is running.
    pub uploading: bool,
    /// What keeps it from working, if anything.
    pub trouble: Option<String>,
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
    /// Objects of history read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Number of [`Finding`]s sent.
    pub findings: u64,
}

/// Verification is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyEnd {
    /// Datasets verified.
    pub datasets: u64,
}

impl Check for Hello {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a greeting", self.software.len(), limits::TEXT_BYTES)
    }
}

impl Check for Failure {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a failure", self.text.len(), limits::TEXT_BYTES)
    }
}

impl Check for StreamBlock {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a block", self.data.len(), limits::BLOCK_BYTES)?;
        match self.offset.checked_add(self.data.len() as u64) {
            Some(end) if end <= limits::FILE_BYTES && !self.data.is_empty() => Ok(()),
            _ => Err(ProtocolError::malformed(
                "StreamBlock",
                "it is empty or ends beyond the largest file",
            )),
        }
    }
}

impl Check for StreamEnd {
    fn check(&self) -> Result<(), ProtocolError> {
        if self.size <= limits::FILE_BYTES {
            return Ok(());
        }
        Err(ProtocolError::malformed(
            "StreamEnd",
            "the size is beyond the largest file",
        ))
    }
}

impl Check for Changes {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a change set", self.records.len(), limits::RECORDS)
    }
}

impl Check for Want {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a wish list", self.places.len(), limits::RECORDS)
    }
}

impl Check for Manifest {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a manifest", self.entries.len(), limits::RECORDS)
    }
}

impl Check for Given {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of contents", self.contents.len(), limits::RECORDS)
    }
}

macro_rules! unlimited_by_type {
    ($($name:ident),+) => { $(impl Check for $name {})+ };
}

unlimited_by_type!(
    StreamAbort,
    Begin,
    Commit,
    Confirm,
    ReadManifest,
    List,
    Verify,
    Ready,
    Committed,
    Confirmed,
    ManifestEnd,
    GivenStream,
    Datasets,
    Finding,
    Verified,
    VerifyEnd
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_message() {
        let document = include_str!("../../docs/protocol.md");
        let listed: Vec<(u8, String, String)> = document
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                match cells.as_slice() {
                    ["", number, name, sender, ..] => Some((
                        number.parse().ok()?,
                        name.trim_matches('`').to_owned(),
                        (*sender).to_owned(),
                    )),
                    _ => None,
                }
            })
            .collect();
        let ours: Vec<_> = TABLE
            .iter()
            .map(|row| (row.number, row.name.to_owned(), row.sender.to_owned()))
            .collect();
        assert_eq!(listed, ours, "docs/protocol.md and message.rs differ");
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut body = Message::VerifyEnd(VerifyEnd { datasets: 3 })
            .encode_into(Vec::new())
            .expect("encode");
        assert!(Message::decode(40, &body).is_ok());
        body.push(0);
        assert!(matches!(
            Message::decode(40, &body),
            Err(ProtocolError::Malformed { .. })
        ));
        assert!(matches!(
            Message::decode(99, &body),
            Err(ProtocolError::UnknownKind(99))
        ));
    }

    #[test]
    fn blocks_beyond_the_largest_file_are_refused() {
        let block = StreamBlock {
            stream: 1,
            offset: u64::MAX,
            data: b"x"[..].into(),
        };
        let body = Message::StreamBlock(block)
            .encode_into(Vec::new())
            .expect("encode");
        assert!(Message::decode(3, &body).is_err());
    }
}
