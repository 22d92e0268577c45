//! The dumps of one dataset on this host: for each database the one that the spare has, and the one that was taken last.
//!
//! ```text
//! STATE/databases/DATASET/lock       held while somebody takes or ships them
//!                         NAME/dump  what the spare acknowledged: the next differences start from it
//!                         NAME/next  what was taken after that, whole if the file `taken` is there
//!                         NAME/shipped, NAME/taken   what is known of them
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_databases::{Dump, Probe};
use understudy_protocol::{DatasetName, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Kind, Mounts, content, remove};

use super::counts;
use crate::error::AgentError;
use crate::lock::try_lock;

/// The layout of the notes.
const FORMAT: u32 = 1;
/// Far more than a few numbers and the names of all tables take.
const NOTE_BYTES: u64 = 64 << 20;
/// What the name of a dump that is being taken begins with.
const TAKING: &str = "taking-";
/// How deep a dump may be.
const DEPTH: usize = 64;

/// What is known of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    format: u32,
    /// Read before it was taken.
    pub(crate) probe: Probe,
    /// When it was taken, in seconds since 1970.
    pub(crate) taken_seconds: i64,
    /// Rows, by table, and what a person ought to know.
    pub(crate) dump: Dump,
    /// How often one that was taken although nothing was said to have changed was another one.
    pub(crate) misses: u64,
}

impl Note {
    pub(crate) fn new(probe: Probe, taken_seconds: i64, dump: Dump, misses: u64) -> Self {
        Self {
            format: FORMAT,
            probe,
            taken_seconds,
            dump,
            misses,
        }
    }

    /// Whether a dump of a database that says `probe` now would be the same.
    pub(crate) fn proves(&self, probe: &Probe, now_seconds: i64, force: Duration) -> bool {
        let age = now_seconds - self.taken_seconds;
        let is_young = u64::try_from(age).is_ok_and(|age| age < force.as_secs());
        self.says_unchanged(probe) && is_young
    }

    /// Whether the database says that nothing has changed since.
    pub(crate) fn says_unchanged(&self, probe: &Probe) -> bool {
        self.probe.is_settled && self.probe.token == probe.token
    }
}

/// Opens the directory that a dump is to be written to. No link is followed below the state directory.
pub fn place(
    state: &Path,
    dataset: &DatasetName,
    database: &str,
    taking: &Name,
) -> Result<Directory, AgentError> {
    let database = Name::new(database)
        .map_err(|error| AgentError::state("look for dumps of", Path::new(database), &error))?;
    let home = Directory::open(state, Mounts::Cross)?
        .open_directory(&name("databases"))?
        .open_directory(&name(dataset.as_str()))?
        .open_directory(&database)?;
    Ok(home.open_directory(taking)?)
}

/// Whether the files go first where the application is kept still: what is large is on the spare then, and the rest takes moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilesFirst {
    /// They do: nothing was captured yet, or the last capture took too long.
    Due,
    /// They did, or need not.
    Done,
    /// They did, and it took too long all the same.
    InVain,
}

/// The dumps of a dataset.
#[derive(Debug)]
pub(crate) struct Keeper {
    root: Directory,
    path: PathBuf,
    _lock: File,
}

/// Those of one of its databases.
#[derive(Debug)]
pub(crate) struct Shelf {
    home: Directory,
    path: PathBuf,
}

impl Keeper {
    /// Opens or makes them; [`AgentError::IndexLocked`] if somebody else works with them.
    pub(crate) fn open(state: &Path, dataset: &DatasetName) -> Result<Self, AgentError> {
        crate::db::ensure_state_directory(state)?;
        let root = Directory::open(state, Mounts::Cross)?
            .ensure_directory(&name("databases"))?
            .ensure_directory(&name(dataset.as_str()))?;
        root.set_mode(0o700)?;
        let path = state.join("databases").join(dataset.as_str());
        let lock = path.join("lock");
        match try_lock(&lock)? {
            Some(lock) => Ok(Self {
                root,
                path,
                _lock: lock,
            }),
            None => Err(AgentError::IndexLocked { path: lock }),
        }
    }

    /// Whether the files go first.
    pub(crate) fn files_first(&self) -> Result<FilesFirst, AgentError> {
        let noted = durable::read(&self.root, &name("files-first"), 64)?;
        Ok(match noted.as_deref() {
            None => FilesFirst::Due,
            Some(b"done\n") => FilesFirst::Done,
            Some(_) => FilesFirst::InVain,
        })
    }

    /// Notes whether they do the next time.
    pub(crate) fn note_files_first(&self, noted: FilesFirst) -> Result<(), AgentError> {
        let file = "files-first";
        let text = match noted {
            FilesFirst::Due => return remove_file(&self.root, file),
            FilesFirst::Done => "done\n",
            FilesFirst::InVain => "in vain\n",
        };
        let text = text.as_bytes();
        Ok(durable::replace(
            &self.root,
            &name(file),
            text,
            Durability::Later,
        )?)
    }

    /// The dumps of a database.
    pub(crate) fn shelf(&self, database: &str) -> Result<Shelf, AgentError> {
        Ok(Shelf {
            home: self.root.ensure_directory(&name(database))?,
            path: self.path.join(database),
        })
    }
}

impl Shelf {
    /// Those of a database as they are, whoever works with them; `None` if there are none.
    pub(crate) fn existing(
        state: &Path,
        dataset: &DatasetName,
        database: &str,
    ) -> Result<Option<Self>, AgentError> {
        let home = Directory::open(state, Mounts::Cross)
            .and_then(|state| state.open_directory(&name("databases")))
            .and_then(|all| all.open_directory(&name(dataset.as_str())))
            .and_then(|own| own.open_directory(&name(database)));
        match home {
            Ok(home) => Ok(Some(Self {
                home,
                path: state
                    .join("databases")
                    .join(dataset.as_str())
                    .join(database),
            })),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of the dump that the spare has.
    pub(crate) fn shipped(&self) -> Result<Option<Note>, AgentError> {
        match self.home.stat_if_present(&name("dump"))? {
            Some(_) => self.note("shipped"),
            None => Ok(None),
        }
    }

    /// What is known of the one that was taken after that, if it is whole.
    pub(crate) fn taken(&self) -> Result<Option<Note>, AgentError> {
        self.note("taken")
    }

    /// The files of the dump that the spare has.
    pub(crate) fn dump(&self) -> Result<Option<Directory>, AgentError> {
        opened(&self.home, "dump")
    }

    /// The files of the one that was taken last.
    pub(crate) fn next(&self) -> Result<Option<Directory>, AgentError> {
        opened(&self.home, "next")
    }

    /// Makes room for another one; returns where it is to be written. No two have the same place: a program that was left alone may still be
    /// writing to another.
    pub(crate) fn prepare(&self) -> Result<PathBuf, AgentError> {
        remove_file(&self.home, "taken")?;
        self.remove("next")?;
        self.give_up()?;
        let now = crate::clock::now();
        let place = format!("{TAKING}{}.{:09}", now.seconds, now.nanoseconds);
        self.home.create_directory(&name(&place))?;
        Ok(self.path.join(place))
    }

    /// What was being written is worth nothing.
    pub(crate) fn give_up(&self) -> Result<(), AgentError> {
        for one in self.home.names()? {
            if one.as_bytes().starts_with(TAKING.as_bytes()) {
                let trash = self.home.ensure_directory(&name("trash"))?;
                remove::tree(&self.home, &one, &trash)?;
            }
        }
        Ok(())
    }

    /// What was written to `place` is whole.
    pub(crate) fn is_whole(&self, place: &Path) -> Result<(), AgentError> {
        let last = place.file_name().unwrap_or_default();
        let taken = name(&last.to_string_lossy());
        Ok(self.home.rename_new(&taken, &self.home, &name("next"))?)
    }

    /// Notes what is known of what was taken last. Its files that are as before become the same files, so that nobody reads them again; returns
    /// whether any is not.
    pub(crate) fn keep(&self, note: &Note) -> Result<Difference, AgentError> {
        if let Some(next) = self.next()?.filter(|_| !note.dump.rows.is_empty()) {
            counts::write(&next, &note.dump.rows)?;
        }
        let difference = match (self.next()?, self.dump()?) {
            (Some(next), Some(former)) => align(&next, &former, DEPTH)?,
            _ => Difference::Some,
        };
        self.write("taken", note)?;
        Ok(difference)
    }

    /// The spare has what was taken last.
    pub(crate) fn acknowledge(&self) -> Result<(), AgentError> {
        let Some(note) = self.taken()? else {
            return Ok(());
        };
        // Interrupted after this, the next differences start from nothing.
        remove_file(&self.home, "shipped")?;
        self.remove("dump")?;
        remove_file(&self.home, "taken")?;
        self.home
            .rename_new(&name("next"), &self.home, &name("dump"))?;
        self.write("shipped", &note)
    }

    /// How often in a row it could not be taken.
    pub(crate) fn failures(&self) -> Result<u32, AgentError> {
        let text = durable::read(&self.home, &name("failures"), 64)?;
        let failures = text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        Ok(failures.unwrap_or(0))
    }

    /// One more failure in a row; returns how many there were.
    pub(crate) fn count_failure(&self) -> Result<u32, AgentError> {
        let failures = self.failures()?.saturating_add(1);
        let text = format!("{failures}\n");
        durable::replace(
            &self.home,
            &name("failures"),
            text.as_bytes(),
            Durability::Later,
        )?;
        Ok(failures)
    }

    /// It was taken.
    pub(crate) fn end_failures(&self) -> Result<(), AgentError> {
        remove_file(&self.home, "failures")
    }

    fn note(&self, file: &str) -> Result<Option<Note>, AgentError> {
        let content = durable::read(&self.home, &name(file), NOTE_BYTES)?;
        let note: Option<Note> = content.and_then(|content| serde_json::from_slice(&content).ok());
        Ok(note.filter(|note| note.format == FORMAT))
    }

    fn write(&self, file: &str, note: &Note) -> Result<(), AgentError> {
        let content = serde_json::to_vec(note)
            .map_err(|error| AgentError::state("write", self.path.join(file), &error))?;
        Ok(durable::replace(
            &self.home,
            &name(file),
            &content,
            Durability::Later,
        )?)
    }

    fn remove(&self, directory: &str) -> Result<(), AgentError> {
        let trash = self.home.ensure_directory(&name("trash"))?;
        Ok(remove::tree(&self.home, &name(directory), &trash)?)
    }
}

/// Whether two dumps differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// In no byte, and in no name.
    None,
    /// They do.
    Some,
}

/// Makes files of `next` that are as those of `former` the same files.
fn align(next: &Directory, former: &Directory, depth: usize) -> Result<Difference, AgentError> {
    let mut difference = Difference::None;
    let mut left: BTreeMap<Name, ()> = former.names()?.into_iter().map(|name| (name, ())).collect();
    for one in next.names()? {
        let is_known = left.remove(&one).is_some();
        let (Some(stat), Some(before)) =
            (next.stat_if_present(&one)?, former.stat_if_present(&one)?)
        else {
            difference = Difference::Some;
            continue;
        };
        let is_same = match (stat.kind, before.kind) {
            (Kind::Directory, Kind::Directory) if depth > 0 && is_known => {
                let (next, former) = (next.open_directory(&one)?, former.open_directory(&one)?);
                align(&next, &former, depth - 1)? == Difference::None
            }
            (Kind::File, Kind::File) if stat.size == before.size => {
                let hash = |directory: &Directory| {
                    content::hash_file(&directory.open_file(&one)?, stat.size)
                };
                let is_same = hash(next)? == hash(former)?;
                if is_same {
                    next.remove_file(&one)?;
                    former.link(&one, next, &one)?;
                }
                is_same
            }
            _ => false,
        };
        if !is_same {
            difference = Difference::Some;
        }
    }
    match left.is_empty() {
        true => Ok(difference),
        false => Ok(Difference::Some),
    }
}

fn opened(home: &Directory, directory: &str) -> Result<Option<Directory>, AgentError> {
    match home.open_directory(&name(directory)) {
        Err(error) if error.is_gone() => Ok(None),
        directory => Ok(Some(directory?)),
    }
}

fn remove_file(home: &Directory, file: &str) -> Result<(), AgentError> {
    match home.remove_file(&name(file)) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}

fn name(text: &str) -> Name {
    #[expect(
        clippy::unwrap_used,
        reason = "names of datasets and databases are names"
    )]
    Name::new(text).unwrap()
}
