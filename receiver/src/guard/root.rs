//! Which directory the source of a dataset was: a loss that comes together with another one is named so.

use serde::{Deserialize, Serialize};
use understudy_protocol::message::SourceRoot;
use understudy_tree::durable::{self, Durability};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::names;

/// The layout this build writes.
const FORMAT: u32 = 1;
/// Far more than a few numbers take.
const LIMIT_BYTES: u64 = 4096;

/// The file `source`.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// The first snapshot that was captured of it.
    since: u64,
    root: Root,
}

/// A source root as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    file_system: Option<u64>,
    inode: u64,
    /// Seconds since 1970, and nanoseconds.
    born: Option<(i64, u32)>,
}

impl From<SourceRoot> for Root {
    fn from(told: SourceRoot) -> Self {
        Self {
            file_system: told.file_system,
            inode: told.inode,
            born: told.born.map(|born| (born.seconds, born.nanoseconds)),
        }
    }
}

/// How the source of an upload is another directory than that of the snapshot before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Its file system is another one: a disk was exchanged, or is not mounted.
    FileSystem,
    /// It is another directory, maybe of the same file system.
    Directory,
}

impl Moved {
    /// For people.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::FileSystem => "on another file system",
            Self::Directory => "another directory",
        }
    }

    fn between(before: &Root, now: &Root) -> Option<Self> {
        let differ = |before: Option<u64>, now: Option<u64>| before.zip(now).map(|(a, b)| a != b);
        if differ(before.file_system, now.file_system) == Some(true) {
            return Some(Self::FileSystem);
        }
        let is_born_otherwise = before.born.zip(now.born).is_some_and(|(a, b)| a != b);
        (before.inode != now.inode || is_born_otherwise).then_some(Self::Directory)
    }
}

/// Whether the source is another directory than it was; `None` where nobody knows.
pub(crate) fn moved(dataset: &Dataset, now: Option<&Root>) -> Result<Option<Moved>, ReceiverError> {
    let kept = read(dataset)?;
    Ok(kept
        .zip(now)
        .and_then(|(kept, now)| Moved::between(&kept.root, now)))
}

/// Forgets which directory the source is: another host is the main, with a tree of its own.
pub(crate) fn forget(dataset: &Dataset) -> Result<(), ReceiverError> {
    match dataset.control.remove_file(&names::SOURCE) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Notes which directory snapshot `number` was captured of, unless it is the one that is known.
pub(crate) fn keep(
    dataset: &Dataset,
    number: u64,
    root: Option<&Root>,
) -> Result<(), ReceiverError> {
    let Some(root) = root else {
        return Ok(());
    };
    let kept = read(dataset)?;
    if kept.as_ref().is_some_and(|kept| kept.root == *root) {
        return Ok(());
    }
    if let Some(moved) = kept.and_then(|kept| Moved::between(&kept.root, root)) {
        tracing::warn!(dataset = %dataset.name, "from snapshot {number} on the source is {} than before", moved.what());
    }
    let kept = Kept {
        format: FORMAT,
        since: number,
        root: *root,
    };
    let content = serde_json::to_vec_pretty(&kept)
        .map_err(|error| ReceiverError::Damaged(format!("`source` cannot be written: {error}")))?;
    Ok(durable::replace(
        &dataset.control,
        &names::SOURCE,
        &content,
        Durability::Now,
    )?)
}

/// One that cannot be understood is none.
fn read(dataset: &Dataset) -> Result<Option<Kept>, ReceiverError> {
    let content = durable::read(&dataset.control, &names::SOURCE, LIMIT_BYTES)?;
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(file_system: Option<u64>, inode: u64, born: Option<i64>) -> Root {
        Root {
            file_system,
            inode,
            born: born.map(|seconds| (seconds, 5)),
        }
    }

    #[test]
    fn only_what_both_sides_know_tells_two_directories_apart() {
        let before = root(Some(1), 2, Some(3));
        for (now, expected) in [
            (before, None),
            (root(None, 2, None), None),
            (root(Some(2), 2, Some(3)), Some(Moved::FileSystem)),
            (root(Some(1), 3, Some(3)), Some(Moved::Directory)),
            (root(None, 2, Some(4)), Some(Moved::Directory)),
        ] {
            assert_eq!(Moved::between(&before, &now), expected, "{now:?}");
        }
    }

    #[test]
    fn what_is_kept_is_understood_again() {
        let kept = Kept {
            format: FORMAT,
            since: 4,
            root: root(Some(1), 2, Some(3)),
        };
        let content = serde_json::to_vec_pretty(&kept).expect("encode");
        let read: Kept = serde_json::from_slice(&content).expect("decode");
        assert_eq!(read.root, kept.root);
    }
}
