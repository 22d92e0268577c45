//! An upload: what the agent changes, and what the receiver makes of it.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::digest::Fingerprint;
use crate::entry::{Attributes, Entry, Timestamp};
#[cfg(doc)]
use crate::limits;
use crate::name::DatasetName;
use crate::place::Place;
use crate::place::Position;
use crate::place::Snapshot;

/// Opens an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The dataset; made if the store does not have it.
    pub dataset: DatasetName,
}

/// Opens an upload as [`Begin`] does, by the main of an epoch. `Begin` itself is a claim of [`FIRST_EPOCH`](crate::FIRST_EPOCH).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The dataset; made if the store does not have it.
    pub dataset: DatasetName,
    /// The epoch in which the sender is the main.
    pub epoch: u64,
}

/// Which directory the source of an upload is: the same as long as that lives, across restarts and remounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRoot {
    /// A number of its file system, where that has one that lasts.
    pub file_system: Option<u64>,
    /// Its inode.
    pub inode: u64,
    /// When it was made, where the file system tells.
    pub born: Option<Timestamp>,
}

/// A part of a change set. Parts may come in any order: a change set is a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// At most [`limits::RECORDS`].
    #[serde(deserialize_with = "crate::list::records")]
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
    /// The file that stood here stays with other attributes, or is replaced by one with the same content: a `Put` of
    /// what the base has, in short.
    Touch {
        /// Where, before and after.
        place: Place,
        /// The new ones.
        attributes: Attributes,
        /// Which of both.
        touch: Touch,
    },
}

/// What becomes of a file that is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Touch {
    /// It is the same, in the same group: short for [`Content::Keep`].
    Kept,
    /// It is another, in no group: short for [`Content::Copy`].
    Copied,
}

/// A piece of a small content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// What the base has there.
    Copy {
        /// Where in the base it begins, in bytes.
        from: u32,
        /// Bytes.
        length: u32,
    },
    /// These bytes.
    Data(Bytes),
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
    /// A new file made of these pieces, which are told as differences to the small file there.
    Delta(
        Place,
        #[serde(deserialize_with = "crate::list::pieces")] Vec<Piece>,
    ),
    /// A new file with this content, which the receiver told of as [`Leftover`](crate::message::Leftover).
    Leftover,
    /// A new file with this content, which a former snapshot has.
    History,
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

/// Where the dataset stands; the upload may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The newest snapshot; `None` if there is none yet.
    pub position: Option<Position>,
}

/// How the receiver of an upload spends its time, told about twice in a second while frames arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// How long it had nothing to do because no frame was there.
    pub milliseconds: u64,
    /// The time since it told this before, at least as long.
    pub of_milliseconds: u64,
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
