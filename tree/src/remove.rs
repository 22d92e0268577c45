//! Removing whole trees, however deep, without recursion.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use understudy_protocol::Name;

use crate::attributes::make_accessible;
use crate::directory::Directory;
use crate::error::TreeError;
use crate::stat::Kind;

/// Removes everything in `directory`, not itself.
///
/// Sub-directories are moved up into `directory` before they are emptied, so depth costs neither stack nor
/// descriptors. Interrupted and repeated it carries on.
pub fn empty(directory: &Directory) -> Result<(), TreeError> {
    loop {
        let names = directory.names()?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            remove_one(directory, &name)?;
        }
    }
}

/// Removes what stands at `name` in `parent`, a tree with all it holds; nothing there is fine.
///
/// A tree is first moved into `trash`, a directory of the same file system that nobody else uses.
pub fn tree(parent: &Directory, name: &Name, trash: &Directory) -> Result<(), TreeError> {
    match parent.remove_file(name) {
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) if !is_directory(&error) => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    discard(parent, name, trash)?;
    empty(trash)
}

/// Moves what stands at `name` into `trash` to be removed later.
pub fn discard(parent: &Directory, name: &Name, trash: &Directory) -> Result<(), TreeError> {
    loop {
        match parent.rename_new(name, trash, &fresh_name()) {
            // A name that an earlier process with the same number left there.
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            result => return result,
        }
    }
}

/// Removes `name` in `top` if it is no directory; else moves its sub-directories up and removes it.
fn remove_one(top: &Directory, name: &Name) -> Result<(), TreeError> {
    match top.remove_file(name) {
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) if !is_directory(&error) => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    let directory = open_accessible(top, name)?;
    for child in directory.names()? {
        match directory.remove_file(&child) {
            Err(error) if is_directory(&error) => move_up(&directory, &child, top)?,
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    top.remove_directory(name)
}

fn move_up(directory: &Directory, child: &Name, top: &Directory) -> Result<(), TreeError> {
    match discard(directory, child, top) {
        // A directory can only be moved by who may write it: its `..` changes.
        Err(error) if error.errno() == Some(Errno::ACCESS) => {
            make_accessible(directory, child)?;
            discard(directory, child, top)
        }
        result => result,
    }
}

fn open_accessible(parent: &Directory, name: &Name) -> Result<Directory, TreeError> {
    let stat = parent.stat(name)?;
    if stat.kind == Kind::Directory && stat.mode & 0o700 != 0o700 {
        make_accessible(parent, name)?;
    }
    parent.open_directory(name)
}

/// `unlink` of a directory says EISDIR on Linux, EPERM by POSIX.
fn is_directory(error: &TreeError) -> bool {
    matches!(error.errno(), Some(Errno::ISDIR | Errno::PERM))
}

/// A name that no captured tree and no other call uses.
fn fresh_name() -> Name {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("..understudy-trash-{}-{number}", std::process::id());
    // Letters, digits and dots, far below 255 bytes.
    #[expect(
        clippy::unwrap_used,
        reason = "the text is a valid name by construction"
    )]
    Name::new(text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Mounts;

    #[test]
    fn closed_and_deep_directories_go() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let root = Directory::open(scratch.path(), Mounts::Stay).expect("open");
        let mut directory = root.try_clone().expect("clone");
        for depth in 0..3000 {
            let name = Name::new(format!("d{depth}")).expect("name");
            drop(
                directory
                    .create_file(&Name::new("f").expect("name"))
                    .expect("create"),
            );
            directory = directory.ensure_directory(&name).expect("create");
        }
        empty(&root).expect("empty");
        assert!(root.names().expect("names").is_empty());
    }
}
