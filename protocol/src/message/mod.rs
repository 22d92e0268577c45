//! Every message of the protocol, with its number and who may send it.
//!
//! Numbers and field order are the format of the wire: messages and fields are only ever appended, with a
//! new protocol version. `docs/protocol.md` describes each; a test holds that document against [`TABLE`].

mod browse;
mod fuzzy;
mod give;
mod health;
mod leftover;
mod oversee;
mod owners;
mod report;
mod retention;
mod stream;
mod upload;

use serde::de::DeserializeOwned;

use crate::error::{Failure, ProtocolError};
use crate::limits;
use crate::role::FIRST_EPOCH;
use crate::version::Hello;

pub use browse::{
    Aspect, Compare, Depth, Difference, Differences, Find, Found, ListTree, Listed, Locate,
    Located, Summaries, Summarise, Summary, Tally, Told, Version,
};
pub use fuzzy::{Fuzzy, FuzzyEnd, FuzzyFile, FuzzyFiles, ListFuzzy};
pub use give::{Given, GivenStream, Manifest, ManifestEnd, ReadManifest, Want, WantRest};
pub use health::{
    FindingState, Health, Inspect, KnownFinding, Repairing, Returned, ScrubEnd, ScrubRun,
    ScrubState, Wanted, WantedContent,
};
pub use leftover::{Leftover, LeftoverEnd};
pub use oversee::{Filling, Oversee, Overseen, RestorePhase, Restoring, RunningRestore};
pub use owners::{Owners, Stated};
pub use report::{
    DatasetRole, DatasetStatus, Datasets, Finding, HandOver, List, ListRoles, ListSnapshots, Noted,
    Repair, Repaired, Snapshots, Trouble, Verified, Verify, VerifyEnd,
};
pub use retention::{Flag, LastVerified, ListRetention, Pin, Retained, Retention, RetentionEnd};
pub use stream::{
    StreamAbort, StreamBase, StreamBlock, StreamCopy, StreamEnd, StreamPiece, StreamPieces,
    StreamResume,
};
pub use upload::{
    Begin, Change, Changes, Claim, Commit, Committed, Confirm, Confirmed, Content, Piece, Ready,
    SourceRoot, Timing, Touch, Waited,
};

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
    6 Fuzzy(Fuzzy) from both: "Places of the snapshot whose files may be mixtures of several states.";
    7 StreamBase(StreamBase) from agent: "A stream is a new version of a file of the base snapshot.";
    8 StreamCopy(StreamCopy) from both: "A stretch of a stream that its base has.";
    9 StreamResume(StreamResume) from agent: "A stream begins with what the receiver has left over.";
    10 Begin(Begin) from agent: "Opens an upload and locks the dataset.";
    11 Changes(Changes) from agent: "Entries put and removed.";
    12 Commit(Commit) from agent: "The change set is complete: make it the live snapshot.";
    13 Confirm(Confirm) from agent: "Nothing changed since the newest snapshot.";
    14 ReadManifest(ReadManifest) from agent: "Asks for all entries of a snapshot.";
    15 Want(Want) from agent: "Asks for contents of files of the snapshot whose manifest was read last.";
    16 List(List) from agent: "Asks for the datasets and their snapshots.";
    17 Verify(Verify) from agent: "Asks the receiver to read everything again and compare.";
    18 Trouble(Trouble) from agent: "Tells that a cycle failed before or outside an upload.";
    19 ListFuzzy(ListFuzzy) from agent: "Asks which files may be mixtures of several states.";
    20 WantRest(WantRest) from agent: "Asks for a content from an offset on, or for what differs in it.";
    21 ListRetention(ListRetention) from agent: "Asks what retention has noted of a dataset's snapshots.";
    24 Locate(Locate) from agent: "Asks what stands at a path of a snapshot.";
    25 ListTree(ListTree) from agent: "Asks what a directory of a snapshot holds.";
    26 Find(Find) from agent: "Asks for all versions of files by a pattern of their paths.";
    27 Compare(Compare) from agent: "Asks what differs between two snapshots.";
    28 Summarise(Summarise) from agent: "Asks how much changed with each snapshot.";
    29 Repair(Repair) from agent: "Asks the receiver to verify, and to repair what it can by itself.";
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
    41 Noted(Noted) from receiver: "Answers `Trouble` and `HandOver`.";
    42 FuzzyFiles(FuzzyFiles) from receiver: "Some files that may be mixtures of several states.";
    43 FuzzyEnd(FuzzyEnd) from receiver: "All files that were asked for are told.";
    44 Leftover(Leftover) from receiver: "Some of what interrupted uploads left.";
    45 LeftoverEnd(LeftoverEnd) from receiver: "All leftovers are told.";
    46 Waited(Waited) from receiver: "How long it waited for frames of the upload.";
    47 Retention(Retention) from receiver: "Some snapshots of which retention has noted anything.";
    48 RetentionEnd(RetentionEnd) from receiver: "All snapshots of which anything is noted are told.";
    54 Located(Located) from receiver: "Answers `Locate`; contents may be wanted.";
    55 Listed(Listed) from receiver: "Some of what a directory holds.";
    56 Found(Found) from receiver: "Some versions of files.";
    57 Differences(Differences) from receiver: "Some differences between two snapshots.";
    58 Summaries(Summaries) from receiver: "How much changed with some snapshots.";
    59 Told(Told) from receiver: "All that was asked for is told.";
    60 Repaired(Repaired) from receiver: "Something that was wrong and is not any more.";
    61 Wanted(Wanted) from receiver: "Some contents that it has lost and would like to have again.";
    62 Returned(Returned) from agent: "Answers one wanted content.";
    63 Health(Health) from receiver: "What verifications and scrubs know of damage in a dataset.";
    64 Inspect(Inspect) from agent: "Asks the receiver to verify at a pace.";
    65 SourceRoot(SourceRoot) from agent: "Which directory the source of the upload is.";
    69 Restoring(Restoring) from agent: "Tells how far a restore is.";
    70 Oversee(Oversee) from agent: "Asks which restores run and how the disk fills.";
    71 Overseen(Overseen) from receiver: "Answers `Oversee`.";
    72 Owners(Owners) from both: "Names of users and groups of the snapshot.";
    73 Stated(Stated) from both: "What the main says of a snapshot, signed.";
    74 ListSnapshots(ListSnapshots) from agent: "Asks for the snapshots that were too many for `Datasets`.";
    75 Snapshots(Snapshots) from receiver: "Some of them, oldest first.";
    76 Claim(Claim) from agent: "As `Begin`, by the main of an epoch.";
    77 ListRoles(ListRoles) from agent: "Asks which part the receiver's host plays.";
    78 DatasetRole(DatasetRole) from receiver: "Which part it plays in a dataset.";
    79 HandOver(HandOver) from agent: "Tells that the main has handed a dataset over, or goes on.";
    80 StreamPieces(StreamPieces) from agent: "Several stretches of a stream, new ones and such that its base has.";
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

impl Check for Claim {
    fn check(&self) -> Result<(), ProtocolError> {
        if (FIRST_EPOCH..=limits::EPOCH).contains(&self.epoch) {
            return Ok(());
        }
        Err(ProtocolError::malformed("Claim", "there is no such epoch"))
    }
}

impl Check for Trouble {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a trouble", self.reason.len(), limits::TEXT_BYTES)
    }
}

impl Check for Changes {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a change set", self.records.len(), limits::RECORDS)
    }
}

impl Check for Waited {
    fn check(&self) -> Result<(), ProtocolError> {
        if self.milliseconds <= self.of_milliseconds {
            return Ok(());
        }
        Err(ProtocolError::malformed(
            "Waited",
            "it waited for longer than it took",
        ))
    }
}

impl Check for Fuzzy {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of fuzzy places", self.places.len(), limits::RECORDS)
    }
}

impl Check for FuzzyFiles {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of fuzzy files", self.files.len(), limits::RECORDS)
    }
}

impl Check for Leftover {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of leftovers", self.contents.len(), limits::RECORDS)?;
        bounded("a list of leftovers", self.partials.len(), limits::RECORDS)
    }
}

impl Check for Wanted {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded(
            "a list of lost contents",
            self.contents.len(),
            limits::WANTED,
        )
    }
}

impl Check for Health {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of findings", self.findings.len(), limits::RECORDS)?;
        bounded("a list of snapshots", self.damaged.len(), limits::RECORDS)?;
        let mut texts = self.findings.iter().map(|one| one.what.len());
        texts.try_for_each(|length| bounded("a finding", length, limits::TEXT_BYTES))
    }
}

impl Check for Inspect {
    fn check(&self) -> Result<(), ProtocolError> {
        if self.bytes_per_second > 0 {
            return Ok(());
        }
        Err(ProtocolError::malformed("Inspect", "it would never end"))
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

impl Check for Find {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a pattern", self.pattern.len(), limits::TEXT_BYTES)
    }
}

impl Check for Listed {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a listing", self.entries.len(), limits::RECORDS)
    }
}

impl Check for Found {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of versions", self.versions.len(), limits::RECORDS)
    }
}

impl Check for Differences {
    fn check(&self) -> Result<(), ProtocolError> {
        let length = self.differences.len();
        bounded("a list of differences", length, limits::RECORDS)
    }
}

impl Check for Summaries {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of summaries", self.summaries.len(), limits::RECORDS)
    }
}

impl Check for Snapshots {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of snapshots", self.snapshots.len(), limits::RECORDS)
    }
}

macro_rules! unlimited_by_type {
    ($($name:ident),+) => { $(impl Check for $name {})+ };
}

unlimited_by_type!(
    StreamAbort,
    StreamBase,
    Begin,
    ListRoles,
    DatasetRole,
    HandOver,
    Commit,
    Confirm,
    ReadManifest,
    List,
    Verify,
    ListFuzzy,
    Ready,
    Committed,
    Confirmed,
    ManifestEnd,
    GivenStream,
    Datasets,
    Finding,
    Verified,
    VerifyEnd,
    Noted,
    FuzzyEnd,
    LeftoverEnd,
    Locate,
    ListTree,
    Compare,
    Summarise,
    ListSnapshots,
    Located,
    Told,
    Repair,
    Repaired,
    ListRetention,
    RetentionEnd,
    Returned,
    SourceRoot,
    Oversee
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{DatasetName, Name};
    use crate::place::{DirectoryId, Place};

    #[test]
    fn the_document_lists_every_message() {
        let document = include_str!("../../../docs/protocol.md");
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
    fn a_list_of_fuzzy_places_beyond_the_limit_is_refused() {
        let body = |length: usize| {
            let name = |number: usize| Name::new(number.to_string()).expect("name");
            let places = (0..length).map(|number| Place::new(DirectoryId::FILES, name(number)));
            let message = Message::Fuzzy(Fuzzy {
                places: places.collect(),
            });
            message.encode_into(Vec::new()).expect("encode")
        };
        assert!(Message::decode(6, &body(limits::RECORDS)).is_ok());
        assert!(matches!(
            Message::decode(6, &body(limits::RECORDS + 1)),
            Err(ProtocolError::Malformed { .. })
        ));
    }

    #[test]
    fn an_epoch_that_nothing_can_follow_is_refused() {
        let body = |epoch| {
            let dataset = DatasetName::fit(b"site");
            let message = Message::Claim(Claim { dataset, epoch });
            message.encode_into(Vec::new()).expect("encode")
        };
        for epoch in [FIRST_EPOCH, 2, limits::EPOCH] {
            assert!(Message::decode(76, &body(epoch)).is_ok(), "{epoch}");
        }
        for epoch in [0, limits::EPOCH + 1, u64::MAX] {
            assert!(Message::decode(76, &body(epoch)).is_err(), "{epoch}");
        }
    }

    #[test]
    fn a_reason_beyond_the_limit_is_refused() {
        let body = |length| {
            let trouble = Trouble {
                dataset: DatasetName::fit(b"site"),
                reason: "x".repeat(length),
            };
            let message = Message::Trouble(trouble);
            message.encode_into(Vec::new()).expect("encode")
        };
        assert!(Message::decode(18, &body(limits::TEXT_BYTES)).is_ok());
        assert!(matches!(
            Message::decode(18, &body(limits::TEXT_BYTES + 1)),
            Err(ProtocolError::TooLong { .. })
        ));
    }

    #[test]
    fn pieces_that_are_none_or_too_much_are_refused() {
        let decode = |offset, pieces: Vec<StreamPiece>| {
            let message = Message::StreamPieces(StreamPieces {
                stream: 1,
                offset,
                pieces,
            });
            Message::decode(80, &message.encode_into(Vec::new()).expect("encode"))
        };
        let new = |length| StreamPiece::New(vec![b'x'; length].into());
        let former = |from, length| StreamPiece::Former { from, length };
        assert!(decode(0, vec![new(limits::BLOCK_BYTES), former(0, 1)]).is_ok());
        assert!(decode(0, vec![former(3, 1); limits::RECORDS]).is_ok());
        let last = limits::FILE_BYTES;
        assert!(decode(last - 5, vec![former(last - 5, 5)]).is_ok());
        for (offset, pieces) in [
            (0, vec![]),
            (0, vec![new(1), new(0)]),
            (0, vec![former(0, 0)]),
            (0, vec![new(limits::BLOCK_BYTES), new(1)]),
            (0, vec![former(3, 1); limits::RECORDS + 1]),
            (last - 5, vec![former(0, 5), new(1)]),
            (0, vec![former(last - 5, 6)]),
            (1, vec![former(0, u64::MAX)]),
            (u64::MAX, vec![new(1)]),
        ] {
            assert!(decode(offset, pieces).is_err(), "{offset}");
        }
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
