//! Dumps of the databases of a dataset, as the agent keeps and ships them.

mod capture;
mod counts;
mod difference;
mod keeper;
mod state;

use understudy_protocol::{Name, Timestamp};
use understudy_tree::Directory;

pub(crate) use capture::{Taken, Taking, begin};
pub use counts::rows_of;
pub(crate) use difference::{Stretch, difference};
pub(crate) use keeper::FilesFirst;
pub use keeper::place;
pub use state::DatabaseState;

/// What was captured before a scan.
#[derive(Debug)]
pub(crate) struct Captured {
    /// What stays in the snapshot although it is gone, for a row may speak of it.
    pub(crate) staying: Staying,
    /// All databases that the dataset has.
    pub(crate) databases: Vec<Captive>,
}

/// What stays in a snapshot although it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Staying {
    /// Nothing: everything was captured while nobody wrote.
    Nothing,
    /// Everything that the spare has: its dumps are those of a moment before.
    Everything,
    /// What was there at this moment, by the clock of the file system, or later: then the dumps were begun.
    Since(Timestamp),
}

impl Staying {
    /// What stays for the sake of both.
    pub(crate) fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, staying) | (staying, Self::Nothing) => staying,
            (Self::Since(one), Self::Since(other)) => Self::Since(one.min(other)),
            _ => Self::Everything,
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Captive {
    pub(crate) name: Name,
    /// `None` if it could not be captured, and the spare is to keep what it has.
    pub(crate) dump: Option<Dump>,
}

/// The files of a dump.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) files: Directory,
    /// Those of the one before, which the spare should have.
    pub(crate) former: Option<Directory>,
}

#[cfg(test)]
mod tests;
