//! The notes of applications that are kept still, and of snapshots of file systems: one is written before the first program runs that makes it so, and
//! goes when those have succeeded that undo it. Whoever finds one that nobody holds has them run.
//!
//! A note says nothing of what is to be run: the agent, which is confined, can write where it is.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use understudy_agent::databases::{notes, snapshot_notes};
use understudy_protocol::{DatasetName, Name};
use understudy_tree::{Directory, Mounts, TreeError};

use crate::words;

/// More than a note has.
const BYTES: u64 = 1 << 10;

/// A note, which nobody else acts upon as long as this is there.
#[derive(Debug)]
pub(super) struct Note {
    place: Directory,
    name: Name,
    /// Locked (flock).
    _file: File,
    /// What it says.
    pub(super) text: String,
}

/// What is begun and must be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// An application is kept still.
    Stillness,
    /// There is a snapshot of a file system.
    Snapshot,
}

impl What {
    /// Where the notes of it are.
    pub(super) fn place(self, state: &Path) -> PathBuf {
        match self {
            Self::Stillness => notes(state),
            Self::Snapshot => snapshot_notes(state),
        }
    }
}

/// What there are notes of.
pub(super) fn all(state: &Path) -> Vec<(What, DatasetName)> {
    let mut all = Vec::new();
    for what in [What::Stillness, What::Snapshot] {
        let entries = std::fs::read_dir(what.place(state));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let datasets = names.filter_map(|name| DatasetName::new(name).ok());
        all.extend(datasets.map(|dataset| (what, dataset)));
    }
    all
}

impl Note {
    /// Writes one, durably; `None` if somebody else holds it.
    pub(super) fn write(
        state: &Path,
        (what, dataset): (What, &DatasetName),
    ) -> Result<Option<Self>, TreeError> {
        let place = place(state, what)?;
        let name = name(dataset);
        let file = match place.create_file(&name) {
            Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) => {
                return Self::open(place, name);
            }
            file => file?,
        };
        let io = |error| TreeError::new("write", name.as_bytes(), error);
        if !is_locked_now(&file).map_err(io)? {
            return Ok(None);
        }
        let text = format!(
            "since {} by process {}\n",
            words::time(words::now_seconds()),
            std::process::id()
        );
        (&file).write_all(text.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        place.sync()?;
        Ok(Some(Self {
            place,
            name,
            _file: file,
            text,
        }))
    }

    /// Takes one that is there; `None` if there is none, or somebody else holds it.
    pub(super) fn take(
        state: &Path,
        (what, dataset): (What, &DatasetName),
    ) -> Result<Option<Self>, TreeError> {
        let place = place(state, what)?;
        Self::open(place, name(dataset))
    }

    fn open(place: Directory, name: Name) -> Result<Option<Self>, TreeError> {
        let file = match place.open_file(&name) {
            Err(error) if error.is_gone() => return Ok(None),
            file => file?,
        };
        let io = |error| TreeError::new("read", name.as_bytes(), error);
        if !is_locked_now(&file).map_err(io)? || place.stat_if_present(&name)?.is_none() {
            return Ok(None);
        }
        let mut text = String::new();
        (&file).take(BYTES).read_to_string(&mut text).map_err(io)?;
        Ok(Some(Self {
            place,
            name,
            _file: file,
            text,
        }))
    }

    /// It is undone: nothing is to be done any more.
    pub(super) fn remove(self) -> Result<(), TreeError> {
        self.place.remove_file(&self.name)?;
        self.place.sync()
    }
}

fn place(state: &Path, what: What) -> Result<Directory, TreeError> {
    let state = Directory::open(state, Mounts::Cross)?;
    let last = what.place(Path::new("")).into_os_string();
    let last = Name::new(last.as_encoded_bytes()).map_err(|error| {
        let error = std::io::Error::other(error);
        TreeError::new("name", last.as_encoded_bytes(), error)
    })?;
    state.ensure_directory(&last)
}

fn name(dataset: &DatasetName) -> Name {
    #[expect(clippy::unwrap_used, reason = "names of datasets are names")]
    Name::new(dataset.as_str()).unwrap()
}

fn is_locked_now(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
