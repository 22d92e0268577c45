//! Where a history is played: a source, a spare, what the agent knows, and room beside them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use understudy_protocol::DatasetName;

use crate::random::Random;

/// A source and a spare below a directory of their own.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    /// Below `root`, where everything may be made.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Makes the source, empty but for one file that stays.
    pub(crate) fn prepare(&self) {
        std::fs::create_dir(self.source()).unwrap();
        std::fs::write(self.source().join("anchor"), "stays").unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The file tree of the newest snapshot.
    pub(crate) fn live(&self) -> PathBuf {
        self.dataset().join("live/files")
    }

    pub(crate) fn dataset(&self) -> PathBuf {
        self.store().join(name().as_str())
    }

    /// What the receiver keeps beside the live tree.
    pub(crate) fn control(&self, path: &str) -> PathBuf {
        self.dataset().join(".understudy").join(path)
    }

    pub(crate) fn catalog(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.control("catalog.db")).unwrap()
    }
}

/// The one dataset.
pub(crate) fn name() -> DatasetName {
    DatasetName::new("site").unwrap()
}

/// A directory that goes when it is dropped.
pub(crate) fn scratch() -> tempfile::TempDir {
    let place = std::env::var_os("UNDERSTUDY_TEST_DIR");
    let place = place.map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("understudy-history-")
        .tempdir_in(place)
        .unwrap()
}

/// The seeds that `SEEDS` asks for, or the usual ones.
pub(crate) fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("SEEDS") else {
        return usual;
    };
    let (from, to) = asked.split_once("..").expect("SEEDS=FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Whether something that is likely once in so many times happens.
pub(crate) fn once_in(random: &mut Random, times: u64) -> bool {
    random.below(times) == 0
}
