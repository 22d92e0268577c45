//! Guards: a change set that looks like the loss of its source is not applied, but held until somebody on the spare has
//! looked at it.
//!
//! What is held is a whole intent, staged and durable, which recovery does not carry on with as long as the file `held` stands
//! beside it. That file is written before the intent, so there is no moment at which the intent could slip through.

pub(crate) mod aside;
mod harm;
mod held;
mod ignored;
mod judge;
mod looks;
pub(crate) mod root;
mod successors;

pub use held::{Held, held, reject, release};
pub(crate) use held::{drop_held, forget, forget_stale, hold, standing, tell};
pub(crate) use judge::{Verdict, judge};

use std::collections::BTreeMap;

use understudy_protocol::DatasetName;

/// Directories that do not count unless somebody says otherwise: what is in them is made again.
const CACHES: [&str; 5] = ["cache", ".cache", "caches", "tmp", "__pycache__"];

/// How much a change set may harm before it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    /// Percent of the files, 1 to 99; more is too much.
    pub files_percent: u32,
    /// Fewer harmed files than this are never too many.
    pub files_least: u64,
    /// Percent of the bytes, 1 to 99; more is too much, however few files these are.
    pub bytes_percent: u32,
    /// Fewer harmed bytes than this are never too many.
    pub bytes_least: u64,
    /// Directories that do not count: a name counts wherever it is, a path with a `/` from the root of the dataset on; `*` stands for
    /// one name. A directory with a `CACHEDIR.TAG` is one as well.
    pub caches: Vec<String>,
}

impl Thresholds {
    /// Those for a cycle whose source is on another file system than before: half of the shares.
    fn halved(&self) -> Self {
        Self {
            files_percent: self.files_percent.div_ceil(2),
            bytes_percent: self.bytes_percent.div_ceil(2),
            ..self.clone()
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            files_percent: 25,
            files_least: 10,
            bytes_percent: 50,
            bytes_least: 16 << 20,
            caches: CACHES.map(str::to_owned).to_vec(),
        }
    }
}

/// The thresholds of a receiver. They are the spare's: no main can change them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// Those of every dataset that has none of its own.
    pub usual: Thresholds,
    /// Those of single datasets.
    pub datasets: BTreeMap<DatasetName, Thresholds>,
}

impl Guards {
    /// The thresholds of a dataset.
    pub fn of(&self, dataset: &DatasetName) -> &Thresholds {
        self.datasets.get(dataset).unwrap_or(&self.usual)
    }
}
