//! What a receiver still has of an upload that was interrupted, so that it need not be sent again.

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
#[cfg(doc)]
use crate::limits;
#[cfg(doc)]
use crate::message::{Content, StreamResume};

/// Some contents of interrupted uploads. All such messages after a `Ready` together tell them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Size and the first half of the hash of each content that may be named by [`Content::Leftover`], once for each file
    /// that has it; at most [`limits::RECORDS`], and [`limits::LEFTOVERS`] in all messages.
    #[serde(deserialize_with = "crate::list::records")]
    pub contents: Vec<(u64, [u8; 16])>,
    /// Beginnings of contents that may be named by [`StreamResume`]: how many bytes, and their hash. At most
    /// [`limits::RECORDS`], and [`limits::PARTIALS`] in all messages.
    #[serde(deserialize_with = "crate::list::records")]
    pub partials: Vec<(u64, ContentHash)>,
}

/// All leftovers are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverEnd {}
