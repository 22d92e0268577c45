//! The main's side: finds what changed in a source tree and brings it to a spare, and brings it back.
//!
//! Data flows one way: tree and index, scan, change set, frames. The scan knows the network only as an outbox;
//! the index knows neither. Nothing here knows the receiver, prints, or ends the process.

mod ask;
mod chain;
mod clock;
pub mod config;
mod conversation;
pub mod daemon;
pub mod databases;
mod db;
mod dumps;
mod effort;
mod error;
mod estimate;
mod fenced;
mod gathering;
pub mod identity;
pub mod images;
mod index;
mod journal;
mod leftovers;
mod listing;
mod lock;
mod lost;
mod manifest;
mod opening;
mod outbox;
mod outlook;
mod owners;
pub mod pace;
mod past;
mod progress;
mod recovery;
mod restore;
mod retention;
mod role;
mod scan;
mod sync;
#[cfg(test)]
mod testing;
mod wishes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use databases::{Capture, DatabaseSettings, OnFailure, SnapshotPrograms, Stillness};
use images::{Images, Sqlite};
use serde::Deserialize;
use understudy_protocol::{DatasetName, SecretKey};
use understudy_tree::{Excludes, Mounts};

pub use ask::{FuzzyOf, Survey, Verification, hand_over, oversee, roles, survey, verify};
pub use chain::{
    Evidence, Freshness, Known, Leniency, Proven, Trusted, known_datasets, newest_known,
};
pub use error::{AgentError, Unproven};
pub use estimate::Costs;
pub use fenced::Fencing;
pub use opening::{Opened, open_databases};
pub use outlook::Outlook;
pub use pace::Pace;
pub use past::{Past, Which};
pub use progress::{Phase, Progress};
pub use recovery::{RecoveryError, RecoveryKit};
pub use restore::{
    Action, Dumped, Existing, Lost, Manner, Order, OwnedBy, Part, Reconnect, RestoreReport,
    RestoreRequest, compare, restore,
};
pub use retention::{RetentionOf, retention};
pub use role::{resume, retire, standing, store_of};
pub use scan::Trust;
pub use sync::{
    Again, LookedAt, Problem, SyncReport, again, sync, sync_again, sync_with_databases,
};
pub use wishes::Cancel;

/// A directory tree that is one dataset.
#[derive(Debug, Clone)]
pub struct Source {
    /// The root of the tree.
    pub path: PathBuf,
    /// The dataset it becomes on the spare.
    pub dataset: DatasetName,
    /// What is left out.
    pub excludes: Excludes,
    /// Whether other file systems below the root belong to it.
    pub mounts: Mounts,
    /// What an empty root means.
    pub emptied: Emptied,
    /// How often everything is compared once it has so many entries that changes are looked for by their journal.
    pub sweep: Duration,
    /// What happens with files that never stand still.
    pub unsettled: Unsettled,
    /// Its databases.
    pub databases: Vec<DatabaseSettings>,
    /// What becomes of a cycle when one of them cannot be captured.
    pub on_database_failure: OnFailure,
    /// What is done with SQLite databases among the files.
    pub sqlite: Sqlite,
    /// How its application is kept still meanwhile; `None` if it is not.
    pub stillness: Option<Stillness>,
    /// Who makes a snapshot of its file system, from which it is read; `None` if it is read itself.
    pub snapshot: Option<SnapshotPrograms>,
}

impl Source {
    /// How often a large source is compared with everything that is known of it, if nobody says otherwise.
    pub const SWEEP: Duration = Duration::from_secs(3600);
}

/// What it means when the root of a source that had entries is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emptied {
    /// That the source is not there: nothing is sent.
    #[default]
    Refuse,
    /// That somebody emptied it and says so.
    Accept,
}

/// What happens with a file that changes whenever it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsettled {
    /// It is sent as it was read, and marked: nothing busy stays stale in silence.
    #[default]
    Ship,
    /// The spare keeps what it has of it.
    Keep,
}

/// What every call needs beside its own subject.
#[derive(Debug, Clone)]
pub struct Context {
    /// The state directory, made if it is missing.
    pub state: PathBuf,
    /// The spare's address in canonical form; an index belongs to one spare.
    pub spare: String,
    /// Where the call tells how far it is.
    pub progress: Arc<Progress>,
    /// How the call is told to end early.
    pub cancel: Cancel,
    /// What the call may take of the host.
    pub pace: Arc<Pace>,
    /// The directory of a spare on this host: no source may hold it or lie in it.
    pub store: Option<PathBuf>,
    /// The main's key, which signs what is sent; without one nothing is signed.
    pub signer: Option<Arc<SecretKey>>,
    /// Who captures databases; `None` leaves what the spare has of them as it is.
    pub databases: Option<Arc<dyn Capture>>,
    /// Who takes states of SQLite databases among the files; without, they are files like any other.
    pub images: Option<Arc<dyn Images>>,
}
