//! Which versions of the protocol this build speaks, and how two builds agree.

use serde::{Deserialize, Serialize};

use crate::error::ProtocolError;

/// The oldest version this build speaks.
pub const OLDEST: u32 = 1;
/// The newest version this build speaks.
pub const NEWEST: u32 = 6;
/// The version that brought [`Trouble`](crate::message::Trouble); a receiver of an older one is not sent it.
pub const TROUBLE: u32 = 2;
/// The version in which both sides tell which files are fuzzy; see [`Fuzzy`](crate::message::Fuzzy).
pub const FUZZY: u32 = 2;
/// The version from which on a stream may be told as the difference to a file of the base; see
/// [`StreamBase`](crate::message::StreamBase).
pub const DELTA: u32 = 3;
/// The version in which what changes little of a small file, or of its attributes alone, is told in short; see
/// [`Change::Touch`](crate::message::Change::Touch) and [`Content::Delta`](crate::message::Content::Delta).
pub const SHORT: u32 = 4;
/// The version from which on frames may be compressed in [lanes](crate::lane), and the receiver of an upload tells how
/// long it [waited](crate::message::Waited).
pub const LANES: u32 = 4;
/// The version from which on the receiver tells what it has left over of interrupted uploads; see
/// [`Leftover`](crate::message::Leftover).
pub const RESUME: u32 = 4;
/// The version from which on the agent names contents that the receiver has in its history; see
/// [`Content::History`](crate::message::Content::History).
pub const HISTORY: u32 = 5;
/// The version from which on a content is given from an offset on; see [`WantRest`](crate::message::WantRest).
pub const REST: u32 = 5;
/// The version in which an agent may look into single snapshots; see [`ListTree`](crate::message::ListTree).
pub const BROWSE: u32 = 5;
/// The version in which a receiver may be asked to repair; see [`Repair`](crate::message::Repair).
pub const REPAIR: u32 = 5;
/// The version from which on the receiver tells what its retention has noted; see
/// [`ListRetention`](crate::message::ListRetention).
pub const RETENTION: u32 = 5;
/// The version from which on the receiver tells what it knows of damage and asks the main for lost contents; see
/// [`Health`](crate::message::Health) and [`Wanted`](crate::message::Wanted).
pub const HEALTH: u32 = 5;
/// The version from which on the agent tells which directory its source is; see
/// [`SourceRoot`](crate::message::SourceRoot).
pub const SOURCE_ROOT: u32 = 5;
/// The version from which on restores are told of, and the filling of the disk; see
/// [`Overseen`](crate::message::Overseen).
pub const OVERSEE: u32 = 5;
/// The version in which the agent tells what owners are called; see [`Owners`](crate::message::Owners).
pub const OWNERS: u32 = 5;
/// The version in which the agent signs what it has sent; see [`Stated`](crate::message::Stated).
pub const STATEMENTS: u32 = 5;
/// The version from which on snapshots that are too many for one answer are told as well; see
/// [`ListSnapshots`](crate::message::ListSnapshots).
pub const LISTING: u32 = 5;
/// The version in which a main says in which epoch it is one; see [`Claim`](crate::message::Claim).
pub const EPOCHS: u32 = 5;
/// The version from which on several stretches of a delta come in one message; see
/// [`StreamPieces`](crate::message::StreamPieces).
pub const PIECES: u32 = 6;
/// Opens every greeting, so that a stray connection is recognised at once.
pub const MAGIC: [u8; 4] = *b"USTY";

/// The first message of either side. Its encoding never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// Oldest version the sender speaks.
    pub oldest: u32,
    /// Newest version the sender speaks.
    pub newest: u32,
    /// Name and version of the software, for people.
    pub software: String,
}

impl Hello {
    /// The greeting of this build.
    pub fn ours() -> Self {
        let software = concat!("understudy ", env!("CARGO_PKG_VERSION")).to_owned();
        Self {
            magic: MAGIC,
            oldest: OLDEST,
            newest: NEWEST,
            software,
        }
    }

    /// The version to speak with the sender of `theirs`: the newest that both know.
    pub fn agree(&self, theirs: &Self) -> Result<u32, ProtocolError> {
        if theirs.magic != MAGIC {
            return Err(ProtocolError::NotUnderstudy);
        }
        let version = self.newest.min(theirs.newest);
        if version >= self.oldest.max(theirs.oldest) {
            return Ok(version);
        }
        let upgrade = if self.newest < theirs.oldest {
            "this side"
        } else {
            "the other side"
        };
        Err(ProtocolError::Versions {
            ours: format!("{} to {}", self.oldest, self.newest),
            theirs: format!(
                "{} to {} ({})",
                theirs.oldest,
                theirs.newest,
                theirs.software.escape_debug()
            ),
            upgrade,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaks(oldest: u32, newest: u32) -> Hello {
        Hello {
            oldest,
            newest,
            ..Hello::ours()
        }
    }

    #[test]
    fn neighbouring_versions_agree_and_distant_ones_say_which_to_upgrade() {
        assert_eq!(speaks(1, 2).agree(&speaks(2, 3)).expect("overlap"), 2);
        let message = speaks(1, 1)
            .agree(&speaks(2, 3))
            .expect_err("apart")
            .to_string();
        assert!(message.contains("upgrade this side"), "{message}");
        let message = speaks(3, 4)
            .agree(&speaks(1, 2))
            .expect_err("apart")
            .to_string();
        assert!(message.contains("upgrade the other side"), "{message}");
    }
}
