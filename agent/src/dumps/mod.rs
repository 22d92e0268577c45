//! Dumps of the databases of a dataset, as the agent keeps and ships them.

mod capture;
mod difference;
mod keeper;

use understudy_protocol::{Name, Timestamp};
use understudy_tree::Directory;

pub(crate) use capture::capture;
pub(crate) use difference::{Stretch, difference};
pub use keeper::place;

/// What was captured before a scan.
#[derive(Debug)]
pub(crate) struct Captured {
    /// What stands in the source at this moment, or later, stays in the snapshot under its name: a row may speak of it.
    pub(crate) since: Timestamp,
    /// All databases that the dataset has.
    pub(crate) databases: Vec<Captive>,
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
