//! Walking a tree in order: depth first, names of a directory in byte order.

use understudy_protocol::{Name, RelPath};

use crate::directory::Directory;
use crate::error::TreeError;
use crate::stat::{Kind, Stat};

/// One step of a walk.
#[derive(Debug)]
pub struct Visited {
    /// The directory it is in.
    pub parent: RelPath,
    /// Its name.
    pub name: Name,
    /// What stands there.
    pub stat: Stat,
}

/// Calls `visit` for everything below `root`, a directory before what it holds. Holds one directory open at a
/// time, whatever the depth. What vanishes meanwhile is skipped.
///
/// `visit` gets the open parent, and says whether to enter if it is a directory.
pub fn walk<E: From<TreeError>>(
    root: &Directory,
    mut visit: impl FnMut(&Directory, Visited) -> Result<bool, E>,
) -> Result<(), E> {
    let mut pending = vec![RelPath::root()];
    while let Some(path) = pending.pop() {
        let directory = match root.open_beneath(&path) {
            Ok(directory) => directory,
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error.into()),
        };
        let mut below = Vec::new();
        for name in directory.names()? {
            let Some(stat) = directory.stat_if_present(&name)? else {
                continue;
            };
            let enter = stat.kind == Kind::Directory;
            let child = path.join(&name);
            let visited = Visited {
                parent: path.clone(),
                name,
                stat,
            };
            if visit(&directory, visited)? && enter {
                below.push(child);
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}
