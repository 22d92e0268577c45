//! What a main says of a snapshot beside its tree: names of users and groups, for restores on hosts that number them otherwise, and
//! that it was the main who sent it.

use serde::{Deserialize, Serialize};

use super::{Check, bounded};
use crate::bytes::Bytes;
use crate::error::ProtocolError;
use crate::limits;

/// What the main calls users and groups of the snapshot. Numbers that have no name there are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Numbers and names of users; at most [`limits::RECORDS`], of at most [`limits::OWNER_BYTES`] each.
    #[serde(deserialize_with = "crate::list::records")]
    pub users: Vec<(u32, Bytes)>,
    /// The same of groups.
    #[serde(deserialize_with = "crate::list::records")]
    pub groups: Vec<(u32, Bytes)>,
}

impl Check for Owners {
    fn check(&self) -> Result<(), ProtocolError> {
        for owners in [&self.users, &self.groups] {
            bounded("a list of owners", owners.len(), limits::RECORDS)?;
            for (_, name) in owners {
                bounded("the name of an owner", name.0.len(), limits::OWNER_BYTES)?;
            }
        }
        Ok(())
    }
}

/// What the main says of a snapshot, signed: a [`SignedStatement`](crate::SignedStatement), which the receiver keeps as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// At most [`limits::STATEMENT_BYTES`].
    pub statement: Bytes,
}

impl Check for Stated {
    fn check(&self) -> Result<(), ProtocolError> {
        let length = self.statement.0.len();
        bounded("a statement", length, limits::STATEMENT_BYTES)
    }
}
