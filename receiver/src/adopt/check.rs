//! Whether a tree can be moved into a store, and what is asked of its path.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use understudy_protocol::{Name, escape};
use understudy_tree::{Directory, Kind, Mounts};

use crate::error::ReceiverError;
use crate::store::Store;

/// Whether a tree can be moved into the store by its name alone, and is worth it.
pub(super) fn check(store: &Store, path: &Path) -> Result<(), ReceiverError> {
    let refused = |why: String| {
        ReceiverError::Adoption(format!("`{}` cannot be adopted: {why}", shown(path)))
    };
    let (parent, name) = split(path)?;
    let Some(stat) = parent.stat_if_present(&name)? else {
        return Err(refused("it is not there".to_owned()));
    };
    if stat.kind != Kind::Directory {
        let why = "it is no directory (a link must be given as what it leads to)";
        return Err(refused(why.to_owned()));
    }
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (tree, root) = (canonical(path), canonical(store.path()));
    if tree.starts_with(&root) || root.starts_with(&tree) {
        let why =
            "it and the store lie in one another; give a store beside it, on the same file system";
        return Err(refused(why.to_owned()));
    }
    if stat.mount_root {
        return Err(refused(
            "a file system is mounted there, which cannot be moved: adopt a directory in it, with a store beside that, or copy it by \
             `understudy sync`"
                .to_owned(),
        ));
    }
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    if device(path) != device(store.path()) {
        return Err(refused(elsewhere()));
    }
    if parent.open_directory(&name)?.names()?.is_empty() {
        return Err(refused(
            "it is empty: there is nothing that would not have to be sent. Leave it, and the first cycle of the main makes the dataset"
                .to_owned(),
        ));
    }
    Ok(())
}

pub(super) fn elsewhere() -> String {
    "it is on another file system than the store, and adopting copies nothing: give a store on the same one, or copy it by `understudy \
     sync`"
        .to_owned()
}

pub(super) fn is_directory(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(found) => found.is_dir(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// The directory that holds it, and its name there.
pub(super) fn split(path: &Path) -> Result<(Directory, Name), ReceiverError> {
    let refused = || {
        let why = format!(
            "`{}` cannot be adopted: it has no name of its own",
            shown(path)
        );
        ReceiverError::Adoption(why)
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused());
    };
    let name = Name::new(name.as_bytes()).map_err(|_| refused())?;
    Ok((Directory::open(parent, Mounts::Cross)?, name))
}

pub(super) fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
