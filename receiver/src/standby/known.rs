//! What is known of a database that is loaded on this host.

use serde::{Deserialize, Serialize};

/// What is known of a database on this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// What was loaded last, of which nobody has seen since that it is not there any more.
    pub loaded: Option<Loaded>,
    /// A load that was begun, and of whose end nothing is known.
    pub begun: Option<Begun>,
    /// Why the last load has failed.
    pub failure: Option<Failed>,
    /// What the last load took that has succeeded.
    pub last: Option<Took>,
    /// Whether a load was ever begun: what had the name before that is nothing that may be replaced.
    pub is_ours: bool,
}

/// A database as it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The epoch in which this host was the spare then. In any other one an application may have written to the database.
    pub epoch: u64,
    /// The newest snapshot that has this very dump.
    pub snapshot: u64,
    /// When that was committed, seconds since 1970.
    pub committed_seconds: i64,
    /// What the dump consists of: [`hash`](super::Dump::hash).
    pub hash: String,
    /// What tells the database from any other of its name, as the engine says.
    pub identity: String,
    /// When it could be used: seconds since 1970.
    pub ended_seconds: i64,
}

/// A load under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The snapshot.
    pub snapshot: u64,
    /// What its dump consists of.
    pub hash: String,
    /// Its bytes.
    pub bytes: u64,
    /// When: seconds since 1970.
    pub since_seconds: i64,
}

/// A load that has failed, or could not even be begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Why, and what to do.
    pub text: String,
    /// Whether anything is wrong; else it only could not be done at that moment.
    pub is_wrong: bool,
    /// Since when it fails: seconds since 1970.
    pub since_seconds: i64,
    /// How often in a row.
    pub times: u32,
}

/// What a load took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// How long.
    pub seconds: f64,
    /// Bytes of the dump.
    pub bytes: u64,
}

impl Known {
    /// How long a load of so many bytes is likely to take, in seconds; `None` if there was none before.
    pub fn expected_seconds(&self, bytes: u64) -> Option<f64> {
        let last = self.last?;
        let share = match last.bytes {
            0 => 1.0,
            before => bytes as f64 / before as f64,
        };
        Some(last.seconds * share)
    }

    /// Notes one more failure in a row.
    pub fn fail(&mut self, text: &str, is_wrong: bool, now_seconds: i64) {
        let before = self.failure.take();
        self.begun = None;
        self.failure = Some(Failed {
            text: text.to_owned(),
            is_wrong,
            since_seconds: before.as_ref().map_or(now_seconds, |one| one.since_seconds),
            times: before.map_or(0, |one| one.times).saturating_add(1),
        });
    }
}
