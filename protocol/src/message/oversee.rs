//! What goes on at a store and how its disk fills: for people who watch the spare.

use serde::{Deserialize, Serialize};

use super::{Check, bounded};
use crate::error::ProtocolError;
use crate::limits;
use crate::name::DatasetName;

/// What a restore is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestorePhase {
    /// Reading what is there already.
    Checking,
    /// Contents come.
    Restoring,
    /// Nothing more comes: it is being made durable and put in its place.
    Finishing,
}

/// An agent says how far its restore is. What was there already is part of what is done, and told apart as found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// Who restores and where to, for people; at most [`limits::TEXT_BYTES`].
    pub who: String,
    /// What it is doing.
    pub phase: RestorePhase,
    /// Files in all.
    pub files_total: u64,
    /// Files that are there.
    pub files_done: u64,
    /// Files of those that were there before.
    pub files_found: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// Bytes of those that were there before.
    pub bytes_found: u64,
    /// Bytes in a second, of late, without those found.
    pub bytes_per_second: Option<u64>,
    /// How long the rest is likely to take.
    pub remaining_seconds: Option<u64>,
}

/// Asks what goes on at the store and how its disk fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oversee {}

/// A restore that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningRestore {
    /// Of which dataset.
    pub dataset: DatasetName,
    /// Of which snapshot.
    pub number: u64,
    /// When this connection began to ask for contents.
    pub since_seconds: i64,
    /// Contents that the receiver gave in this connection.
    pub files_given: u64,
    /// Their bytes.
    pub bytes_given: u64,
    /// What the agent said last, and when; an old one says nothing.
    pub told: Option<(i64, Restoring)>,
}

/// How something fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filling {
    /// How much there is in all; zero if it has no limit.
    pub total: u64,
    /// How much of it is free.
    pub free: u64,
    /// How much of that uploads leave free.
    pub reserve: u64,
    /// How much more is used each day, where enough was seen to say so.
    pub each_day: Option<i64>,
    /// When uploads would be refused if that goes on; none if nobody can say, or not within ten years.
    pub full_seconds: Option<i64>,
}

/// Answers [`Oversee`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overseen {
    /// At most [`limits::RESTORES`].
    #[serde(deserialize_with = "crate::list::records")]
    pub restores: Vec<RunningRestore>,
    /// The bytes of the store's file system.
    pub bytes: Filling,
    /// Its inodes.
    pub inodes: Filling,
    /// How long the filling has been observed.
    pub observed_seconds: u64,
}

impl Check for Restoring {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a report", self.who.len(), limits::TEXT_BYTES)
    }
}

impl Check for Overseen {
    fn check(&self) -> Result<(), ProtocolError> {
        bounded("a list of restores", self.restores.len(), limits::RESTORES)?;
        let mut told = self.restores.iter().filter_map(|one| one.told.as_ref());
        told.try_for_each(|(_, restoring)| restoring.check())
    }
}
