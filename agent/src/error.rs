//! What can go wrong on the main's side, split by what the caller does next.

use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use understudy_protocol::{DatasetName, ProtocolError, PublicKey, RelPath};
use understudy_tree::TreeError;

use crate::databases::CaptureFailure;
use crate::past::Which;

/// A call of this crate failed. Unless a variant says otherwise nothing changed on the spare.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is no source: mount it or correct the path.
    #[error(
        "the source `{}` does not exist; nothing was changed on the spare",
        shown(path)
    )]
    SourceMissing {
        /// The source.
        path: PathBuf,
    },
    /// The source is a file or something else.
    #[error("the source `{}` is not a directory", shown(path))]
    SourceNotDirectory {
        /// The source.
        path: PathBuf,
    },
    /// The source's root may not be read.
    #[error(
        "the source `{}` cannot be read: {error}; nothing was changed on the spare",
        shown(path)
    )]
    SourceUnreadable {
        /// The source.
        path: PathBuf,
        /// Why.
        error: TreeError,
    },
    /// The source was there when the cycle began and is no longer.
    #[error(
        "the source `{}` vanished or was replaced while it was read; nothing was changed on the spare",
        shown(path)
    )]
    SourceVanished {
        /// The source.
        path: PathBuf,
    },
    /// A database could not be taken: no snapshot is made with files that are newer than those that were sent before the attempt.
    #[error(
        "database `{database}` of dataset `{dataset}` could not be captured, and the spare keeps its last snapshot: {reason}"
    )]
    Database {
        /// The dataset.
        dataset: DatasetName,
        /// The database, as it is named in snapshots.
        database: String,
        /// What happened, and what to do.
        reason: String,
        /// Whether anything is wrong with it.
        kind: CaptureFailure,
    },
    /// The application could not be kept still, or not for as long as it took: no snapshot is made of what it may have changed meanwhile.
    #[error(
        "the application of dataset `{dataset}` was not kept still while it was captured, and the spare keeps its last snapshot: {reason}"
    )]
    NotStill {
        /// The dataset.
        dataset: DatasetName,
        /// What happened, and what to do.
        reason: String,
    },
    /// The application was kept still, and may be so for ever. Unlike others this error may come after a snapshot was made.
    #[error("THE APPLICATION OF DATASET `{dataset}` MAY STILL BE KEPT FROM WORKING: {reason}")]
    Stuck {
        /// The dataset.
        dataset: DatasetName,
        /// What happened, and what to do.
        reason: String,
    },
    /// The same, and nobody is there who could let it go on before the agent is started again.
    #[error(
        "THE APPLICATION OF DATASET `{dataset}` MAY STILL BE KEPT FROM WORKING: the process that lets it go on has gone; the agent does so when it is started again"
    )]
    Deserted {
        /// The dataset.
        dataset: DatasetName,
    },
    /// No snapshot of the file system could be made, or it is none of the source.
    #[error(
        "no snapshot of the file system of dataset `{dataset}` could be used, and the spare keeps what it has: {reason}"
    )]
    Freeze {
        /// The dataset.
        dataset: DatasetName,
        /// What happened, and what to do.
        reason: String,
    },
    /// Everything is gone at once, which a missing mount looks like.
    #[error(
        "the source `{}` is empty, but dataset `{dataset}` on the spare is not: is something not mounted? Nothing \
         was changed on the spare",
        shown(path)
    )]
    BecameEmpty {
        /// The source.
        path: PathBuf,
        /// The dataset that still has entries.
        dataset: DatasetName,
    },
    /// Another process works with the same index: wait for it.
    #[error(
        "another understudy is working on this dataset: `{}` is locked; wait until it has ended",
        shown(path)
    )]
    IndexLocked {
        /// The lock file.
        path: PathBuf,
    },
    /// Another daemon works with the same state directory.
    #[error(
        "another agent is running with the state directory `{}`, and two would take each other's notes of what \
         changed; stop that one, or give this one a state directory of its own",
        shown(state)
    )]
    AgentRunning {
        /// The state directory.
        state: PathBuf,
    },
    /// The index cannot be used any more; it can be rebuilt.
    #[error(
        "the index `{}` is damaged: {reason}; it is safe to delete it, the next run rebuilds it from the spare \
         without sending contents again",
        shown(path)
    )]
    IndexDamaged {
        /// The database file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A newer understudy made the index.
    #[error(
        "the index `{}` has version {found}, made by a newer understudy than this one, which reads up to {known}: \
         upgrade, or delete the file, which is safe: it is rebuilt from the spare",
        shown(path)
    )]
    IndexNewer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version this build reads.
        known: i64,
    },
    /// The state directory or the index cannot be read or written (permissions, space).
    #[error("cannot {operation} `{}`: {reason}", shown(path))]
    State {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        reason: String,
    },
    /// The spare, or the way to it, failed.
    #[error(transparent)]
    Spare(#[from] ProtocolError),
    /// This host is not the main of the dataset, or not any more.
    #[error("{reason}; nothing was changed on the spare")]
    Fenced {
        /// Which part it plays.
        reason: String,
    },
    /// The host that is to be the spare has not failed back.
    #[error(
        "the other host has no dataset `{dataset}` of this one: the old main has not failed back yet, and what it never shipped is to be kept first; \
         nothing was sent"
    )]
    NotFailedBack {
        /// The dataset.
        dataset: DatasetName,
    },
    /// The two sides do not hold the same state; the next run compares everything.
    #[error(
        "the spare does not hold the state this index was made for: {reason}; the next run compares both"
    )]
    OutOfStep {
        /// What differs.
        reason: String,
    },
    /// A file tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The target of a restore has content of its own.
    #[error(
        "the target `{}` is not empty; with --replace it is exchanged for the restored tree and kept beside it",
        shown(path)
    )]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// The target of a restore cannot be one.
    #[error("cannot restore to `{}`: {reason}", shown(path))]
    Target {
        /// The target.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The configuration cannot be used; the text names file, line and column.
    #[error("{0}")]
    Configuration(String),
    /// Somebody asked for the end.
    #[error("interrupted; the next run carries on")]
    Interrupted,
    /// The patterns of a restore match nothing.
    #[error("nothing in snapshot {number} matches the patterns that were given")]
    NothingMatches {
        /// The snapshot.
        number: u64,
    },
    /// There is no snapshot that old.
    #[error("{reason}")]
    NoneThatOld {
        /// Which there are.
        reason: String,
    },
    /// The spare lists more entries than a restore takes from whoever has not proved that there are so many.
    #[error(
        "the entries that the spare lists would take more than {} MiB of memory here, and nobody has signed that they are so many",
        most_bytes >> 20
    )]
    Crowded {
        /// What they may take.
        most_bytes: u64,
    },
    /// The spare's version of understudy does not know what was asked for.
    #[error(
        "the spare is too old for {what}: it speaks version {spoken} of the protocol, and {needed} is needed"
    )]
    SpareTooOld {
        /// What was asked for.
        what: &'static str,
        /// The version that is spoken.
        spoken: u32,
        /// The first version that knows it.
        needed: u32,
    },
    /// The spare was not told what the owners of a snapshot are called.
    #[error(
        "the spare does not know the names of the owners of this snapshot: it is older than them, or the main is"
    )]
    NoOwners,
    /// There is no snapshot that could be meant.
    #[error("dataset `{dataset}` has no snapshot {}", meant(*which))]
    NoSnapshot {
        /// The dataset.
        dataset: DatasetName,
        /// Which one was asked for.
        which: Which,
    },
    /// Only regular files have a content.
    #[error("`{path}` is a {kind}, and only a file has a content")]
    NoFile {
        /// What was asked for.
        path: RelPath,
        /// What it is.
        kind: &'static str,
    },
    /// What the spare gives cannot be proved to be what the main has sent.
    #[error("nothing of dataset `{dataset}` was restored: {verdict}")]
    Unproven {
        /// The dataset.
        dataset: DatasetName,
        /// Why not.
        verdict: Box<Unproven>,
    },
    /// What is remembered of a spare cannot be read.
    #[error(
        "what this host remembers of what a spare acknowledged, `{}`, is damaged; without it nobody can tell whether the spare shows the \
         newest snapshot, and everything else can be proved as well",
        shown(path)
    )]
    MemoryDamaged {
        /// The file.
        path: PathBuf,
    },
    /// What was asked for cannot be written.
    #[error("cannot write what was asked for: {0}")]
    Output(std::io::Error),
}

/// Why a snapshot is not proved to be what the main has sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Nobody has signed it.
    #[error("the snapshot that the spare gave is not signed: {because}")]
    Unsigned {
        /// What that may mean.
        because: String,
    },
    /// Somebody else has signed it.
    #[error("the snapshot that the spare gave is signed by another key than this main's: {key}")]
    Foreign {
        /// Whose.
        key: PublicKey,
    },
    /// It is another than was signed.
    #[error("what the spare gave is not what the main has sent: {what}")]
    Differs {
        /// What differs.
        what: String,
    },
    /// The spare has acknowledged a newer one.
    #[error(
        "the spare shows snapshot {shown}, of {}, as the newest or as of that time, and has acknowledged snapshot {known}, of {}: it was set back to an \
         earlier time, or hides what came later",
        time(*shown_seconds), time(*known_seconds)
    )]
    Older {
        /// The one that it shows.
        shown: u64,
        /// When that was signed.
        shown_seconds: i64,
        /// The newest that it has acknowledged.
        known: u64,
        /// When that was signed.
        known_seconds: i64,
    },
    /// It is shown as of another time.
    #[error(
        "the spare says that snapshot {number} was committed at {}, and the main has signed it at {}: a clock was wrong, the snapshot was \
         held and released later, or the spare shows it as one of another time",
        time(*shown_seconds), time(*signed_seconds)
    )]
    Moved {
        /// Its number.
        number: u64,
        /// When it was committed, by the spare.
        shown_seconds: i64,
        /// When it was signed, by the main.
        signed_seconds: i64,
    },
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "a time out of all bounds".to_owned(),
        |time| time.to_string(),
    )
}

fn meant(which: Which) -> String {
    match which {
        Which::Newest => "yet".to_owned(),
        Which::Number(number) => number.to_string(),
        Which::At(seconds) => jiff::Timestamp::from_second(seconds).map_or_else(
            |_| "so old".to_owned(),
            |time| format!("as old as {time}; its first one is younger"),
        ),
    }
}

/// A path for people: what could steer a terminal or forge a line of a log is escaped.
fn shown(path: &Path) -> String {
    understudy_protocol::escape(path.as_os_str().as_bytes())
}

impl AgentError {
    /// A failure on a file of the state directory.
    pub(crate) fn state(
        operation: &'static str,
        path: impl Into<PathBuf>,
        reason: &dyn Display,
    ) -> Self {
        Self::State {
            operation,
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
