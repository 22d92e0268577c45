//! From the paths that inotify tells to directories: each is looked up beneath the root, where no link leads out.

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;
use understudy_protocol::{Name, RelPath};

use super::{Event, Touched};
use crate::directory::Directory;
use crate::error::TreeError;
use crate::stat::{Identity, Kind};

/// What is collected at once; a directory is looked up once.
pub(super) struct Batch {
    key: u32,
    root: Directory,
    told: HashSet<(RelPath, Touched)>,
    directories: HashMap<RelPath, Option<Identity>>,
}

impl Batch {
    pub(super) fn new(key: u32, root: Directory) -> Self {
        Self {
            key,
            root,
            told: HashSet::new(),
            directories: HashMap::new(),
        }
    }

    pub(super) fn root(&self) -> &Directory {
        &self.root
    }

    /// Forgets which directory stands where.
    pub(super) fn forget(&mut self) {
        self.directories.clear();
    }

    /// Tells of the directory at `path` itself, if it is one.
    pub(super) fn tell_itself(
        &mut self,
        path: &RelPath,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), String> {
        let is_directory = match split(path) {
            Some((parent, name)) => self.is_directory(&parent, &name)?,
            None => true,
        };
        if is_directory {
            self.tell(path.clone(), Touched::Itself, tell)?;
        }
        Ok(())
    }

    /// Tells it once, with the directory that stands at `path`.
    pub(super) fn tell(
        &mut self,
        path: RelPath,
        what: Touched,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), String> {
        if let Some(directory) = self.identity(&path)?
            && self.told.insert((path.clone(), what.clone()))
        {
            tell(Event::Touched {
                root: self.key,
                directory,
                path,
                what,
            });
        }
        Ok(())
    }

    /// Which directory stands at `path`; `None` if there is none, which the one above it tells.
    fn identity(&mut self, path: &RelPath) -> Result<Option<Identity>, String> {
        if let Some(known) = self.directories.get(path) {
            return Ok(*known);
        }
        let looked = self
            .root
            .open_beneath(path)
            .and_then(|directory| directory.stat_self());
        let identity = match looked {
            Ok(stat) => Some(stat.identity),
            Err(error) if is_elsewhere(&error) => None,
            Err(error) => return Err(error.to_string()),
        };
        self.directories.insert(path.clone(), identity);
        Ok(identity)
    }

    pub(super) fn is_directory(&self, parent: &RelPath, name: &Name) -> Result<bool, String> {
        let stat = self
            .root
            .open_beneath(parent)
            .and_then(|directory| directory.stat(name));
        match stat {
            Ok(stat) => Ok(stat.kind == Kind::Directory),
            Err(error) if is_elsewhere(&error) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The names of the directories in a directory.
pub(super) fn directories_in(root: &Directory, path: &RelPath) -> Result<Vec<Name>, TreeError> {
    let directory = root.open_beneath(path)?;
    let mut names = directory.names()?;
    let mut failed = None;
    names.retain(|name| match directory.stat_if_present(name) {
        Ok(stat) => stat.is_some_and(|stat| stat.kind == Kind::Directory),
        Err(error) => {
            failed = Some(error);
            false
        }
    });
    failed.map_or(Ok(names), Err)
}

/// Whether a path leads to nothing, or to what does not belong to the tree (a mount).
pub(super) fn is_elsewhere(error: &TreeError) -> bool {
    error.is_gone() || error.errno() == Some(Errno::XDEV)
}

/// The directory and the name of a path; `None` for the root.
pub(super) fn split(path: &RelPath) -> Option<(RelPath, Name)> {
    let bytes = path.as_bytes();
    let (parent, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&bytes[..0], bytes),
    };
    Some((RelPath::new(parent).ok()?, Name::new(name).ok()?))
}
