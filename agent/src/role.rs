//! In which epoch this host is the main of a dataset, if it is: what an upload claims, and what is remembered once another host took over.
//!
//! A source that is the live tree of a store on this host (of a spare that was promoted, or will be) has its role there. Any other source
//! was the main's from the beginning on; what becomes of it is in `STATE/roles`.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use understudy_protocol::role::STANDING_BYTES;
use understudy_protocol::{DatasetName, Name, Position, Role, Standing};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Mounts};

use crate::Source;
use crate::clock;
use crate::db;
use crate::error::AgentError;

const DIRECTORY: &str = "roles";
/// Where a store has the live tree of a dataset, and what is beside it.
const LIVE: [&str; 2] = ["live", "files"];
const CONTROL: &str = ".understudy";
const ROLE: &str = "role";

/// Where the role of this host in a dataset is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    /// In a store on this host, by its receiver.
    Store(PathBuf),
    /// In the state directory, by the agent.
    State(PathBuf),
}

/// The part that this host plays in a dataset.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    kept: Kept,
    dataset: DatasetName,
    standing: Standing,
}

impl Part {
    /// Reads it. `source` is the canonical path of the source, `spare` the address as the index is kept for.
    pub(crate) fn load(
        state: &Path,
        source: &Path,
        dataset: &DatasetName,
        spare: &str,
    ) -> Result<Self, AgentError> {
        let (kept, first) = match control_of(source) {
            Some(control) => (Kept::Store(control), Role::Spare),
            None => {
                let place = state.join(DIRECTORY).join(file_name(dataset, spare));
                (Kept::State(place), Role::Main)
            }
        };
        let standing = match &kept {
            Kept::Store(control) => read(&control.join(ROLE))?,
            Kept::State(path) => read(path)?,
        };
        Ok(Self {
            kept,
            dataset: dataset.clone(),
            standing: standing.unwrap_or(Standing::first(first)),
        })
    }

    /// What is known of it.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether this host was a spare before it became the main.
    pub(crate) fn is_promoted(&self) -> bool {
        matches!(self.kept, Kept::Store(_)) && self.standing.role == Role::Main
    }

    /// The epoch in which this host is, or was, the main. A spare is none: its live tree must not be shipped.
    pub(crate) fn claim(&self) -> Result<u64, AgentError> {
        match (self.standing.role, &self.kept) {
            (Role::Main, _) | (Role::Fenced, Kept::State(_)) => Ok(self.standing.epoch),
            (role, _) => Err(self.refused(role)),
        }
    }

    /// Whether the spare's welcome counts: a host that was told once that another one took over does not go on by itself.
    pub(crate) fn check_welcome(&self) -> Result<(), AgentError> {
        match self.standing.role {
            Role::Main => Ok(()),
            role => Err(self.refused(role)),
        }
    }

    fn refused(&self, role: Role) -> AgentError {
        let (dataset, epoch) = (&self.dataset, self.standing.epoch);
        let reason = match role {
            Role::Spare => format!(
                "this host is the spare of dataset `{dataset}`, in epoch {epoch}, and its source is the live tree that the main keeps up to date"
            ),
            Role::HandedOver => format!(
                "this host has handed dataset `{dataset}` over, in epoch {epoch}, and ships nothing any more"
            ),
            Role::Fenced | Role::Main => format!(
                "this host was the main of dataset `{dataset}` in epoch {epoch}, and was told that another one took over"
            ),
        };
        AgentError::Fenced { reason }
    }

    /// Remembers that another host took over. Durable when it returns; a store on this host has its own note.
    pub(crate) fn fence(&self) -> Result<(), AgentError> {
        let Kept::State(path) = &self.kept else {
            return Ok(());
        };
        if self.standing.role == Role::Fenced {
            return Ok(());
        }
        let standing = Standing {
            role: Role::Fenced,
            since_seconds: clock::now().seconds,
            ..self.standing
        };
        write(path, &standing)
    }
}

/// Which part this host plays in the dataset of a source, and in which epoch. `spare` is the address as a report names it.
pub fn standing(source: &Source, state: &Path, spare: &str) -> Result<Standing, AgentError> {
    let path = std::fs::canonicalize(&source.path).unwrap_or_else(|_| source.path.clone());
    Part::load(state, &path, &source.dataset, spare).map(|part| part.standing)
}

/// Makes this host the main of a dataset again, in the epoch that its spare knows. Durable when it returns; fails for a source that is the live
/// tree of a store, whose role is decided there.
pub fn resume(
    source: &Source,
    state: &Path,
    spare: &str,
    epoch: u64,
) -> Result<Standing, AgentError> {
    let path = std::fs::canonicalize(&source.path).unwrap_or_else(|_| source.path.clone());
    let part = Part::load(state, &path, &source.dataset, spare)?;
    let (Kept::State(place), true) = (&part.kept, epoch >= part.standing.epoch) else {
        return Err(part.refused(part.standing.role));
    };
    let standing = Standing {
        role: Role::Main,
        epoch,
        since_seconds: clock::now().seconds,
        snapshot: None,
    };
    write(place, &standing)?;
    Ok(standing)
}

/// Writes down that this host, the main, has handed a dataset over, with this as its last snapshot. Durable when it returns; fails for a
/// source that is the live tree of a store, whose role is decided there.
pub fn retire(
    source: &Source,
    state: &Path,
    spare: &str,
    last: Position,
) -> Result<Standing, AgentError> {
    let path = std::fs::canonicalize(&source.path).unwrap_or_else(|_| source.path.clone());
    let part = Part::load(state, &path, &source.dataset, spare)?;
    let (Kept::State(place), Role::Main) = (&part.kept, part.standing.role) else {
        return Err(part.refused(part.standing.role));
    };
    let standing = Standing {
        role: Role::HandedOver,
        epoch: part.standing.epoch,
        since_seconds: clock::now().seconds,
        snapshot: Some(last),
    };
    write(place, &standing)?;
    Ok(standing)
}

/// The store on this host, and the dataset in it, whose live tree a source is; `None` of any other source.
pub fn store_of(source: &Path) -> Option<(PathBuf, DatasetName)> {
    let path = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    let control = control_of(&path)?;
    let dataset = control.parent()?;
    let name = DatasetName::new(dataset.file_name()?.to_str()?).ok()?;
    Some((dataset.parent()?.to_owned(), name))
}

/// The directory with what a store keeps of a dataset, if this is the live tree of one. Whoever may not look there must not take it for
/// an ordinary directory.
fn control_of(source: &Path) -> Option<PathBuf> {
    let [live, files] = LIVE;
    let above = source.parent()?;
    if source.file_name()? != files || above.file_name()? != live {
        return None;
    }
    let control = above.parent()?.join(CONTROL);
    match std::fs::symlink_metadata(&control) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        _ => Some(control),
    }
}

/// What a small file has; `None` if it is not there.
pub(crate) fn read_file(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, AgentError> {
    let failed = |error: &dyn std::fmt::Display| AgentError::state("read", path, error);
    let (directory, name) = match open(path) {
        Ok(opened) => opened,
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    durable::read(&directory, &name, limit_bytes).map_err(|error| failed(&error))
}

fn read(path: &Path) -> Result<Option<Standing>, AgentError> {
    let failed = |error: &dyn std::fmt::Display| AgentError::state("read", path, error);
    let Some(content) = read_file(path, STANDING_BYTES)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    text.parse().map(Some).map_err(|error| failed(&error))
}

fn write(path: &Path, standing: &Standing) -> Result<(), AgentError> {
    write_file(path, standing.to_string().as_bytes())
}

/// Replaces a small file; durable when it returns.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<(), AgentError> {
    let failed = |error: &dyn std::fmt::Display| AgentError::state("write", path, error);
    if let Some(parent) = path.parent() {
        db::ensure_state_directory(parent)?;
    }
    let (directory, name) = open(path).map_err(|error| failed(&error))?;
    durable::replace(&directory, &name, content, Durability::Now).map_err(|error| failed(&error))
}

/// The directory of a file and its name in it.
fn open(path: &Path) -> Result<(Directory, Name), understudy_tree::TreeError> {
    let invalid = |error: &dyn std::fmt::Display| {
        let error = std::io::Error::other(error.to_string());
        understudy_tree::TreeError::new("name", path.as_os_str().as_bytes(), error)
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(invalid(&"it is no file"));
    };
    let name = Name::new(name.as_bytes()).map_err(|error| invalid(&error))?;
    Ok((Directory::open(parent, Mounts::Cross)?, name))
}

/// The file of a dataset and a spare.
pub(crate) fn file_name(dataset: &DatasetName, spare: &str) -> String {
    let hash = blake3::hash(spare.as_bytes()).to_hex();
    format!("{dataset}-{}", &hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(state: &Path, source: &Path) -> Result<Part, AgentError> {
        Part::load(state, source, &DatasetName::fit(b"site"), "spare:7433")
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn a_main_stays_fenced_once_it_was_told() {
        let state = tempfile::tempdir().expect("state");
        let load = || part(state.path(), Path::new("/srv/site")).expect("part");
        assert_eq!(load().claim().expect("claim"), 1);
        load().check_welcome().expect("the main");
        load().fence().expect("fence");
        assert_eq!(load().claim().expect("it keeps asking"), 1);
        assert!(matches!(
            load().check_welcome(),
            Err(AgentError::Fenced { .. })
        ));
        let file = std::fs::read_dir(state.path().join(DIRECTORY))
            .expect("list")
            .next();
        std::fs::write(file.expect("one").expect("entry").path(), b"role: main\n").expect("write");
        assert!(
            part(state.path(), Path::new("/srv/site")).is_err(),
            "damaged"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn the_live_tree_of_a_spare_is_no_source_until_it_is_promoted() {
        let place = tempfile::tempdir().expect("store");
        let (state, store) = (place.path().join("state"), place.path().join("store"));
        let source = store.join("site/live/files");
        let control = store.join("site/.understudy");
        for directory in [&source, &control] {
            std::fs::create_dir_all(directory).expect("directory");
        }
        let refused = part(&state, &source).expect("part").claim();
        assert!(matches!(refused, Err(AgentError::Fenced { .. })));
        let stand = |role: Role| {
            let standing = Standing {
                epoch: 2,
                ..Standing::first(role)
            };
            std::fs::write(control.join(ROLE), standing.to_string()).expect("write");
        };
        stand(Role::Main);
        let promoted = part(&state, &source).expect("part");
        assert_eq!(promoted.claim().expect("claim"), 2);
        promoted.check_welcome().expect("the main");
        for role in [Role::Spare, Role::HandedOver, Role::Fenced] {
            stand(role);
            let refused = part(&state, &source).expect("part").claim();
            assert!(matches!(refused, Err(AgentError::Fenced { .. })), "{role}");
        }
        std::fs::remove_dir_all(&control).expect("remove");
        let ordinary = part(&state, &source).expect("part");
        assert_eq!(ordinary.claim().expect("an ordinary directory"), 1);
    }
}
