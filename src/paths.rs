//! Paths as people give them: made canonical, compared, and the default places.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::address::Address;
use crate::exit::{Code, CommandError};

/// The canonical path, links resolved, of something whose last components need not exist yet.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        match std::fs::canonicalize(existing) {
            Ok(mut found) => {
                found.extend(missing.iter().rev());
                return Ok(found);
            }
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && existing.symlink_metadata().is_err() =>
            {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(error);
                };
                missing.push(name);
                existing = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The canonical path of a source directory.
pub(crate) fn source(path: &Path) -> Result<PathBuf, CommandError> {
    let shown = path.display();
    let failed = |message: String| {
        CommandError::new(
            Code::Failed,
            message,
            "check the path, and whether it is mounted; nothing was changed on the spare",
        )
    };
    let canonical = std::fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(format!("the source `{shown}` does not exist")),
        _ => failed(format!("the source `{shown}` cannot be reached: {error}")),
    })?;
    if canonical.is_dir() {
        Ok(canonical)
    } else {
        Err(failed(format!("the source `{shown}` is not a directory")))
    }
}

/// Refuses a tree (`what`: the source, the target) that holds the spare's store, or the other way round. Both paths
/// are canonical.
pub(crate) fn check_apart(what: &str, tree: &Path, spare: &Address) -> Result<(), CommandError> {
    let Address::Directory(store) = spare else {
        return Ok(());
    };
    let (shown_tree, shown_store) = (tree.display(), store.display());
    let message = if tree == store {
        format!("the {what} and the store of the spare are the same directory, `{shown_store}`")
    } else if tree.starts_with(store) {
        format!("the {what} `{shown_tree}` is inside the spare's store `{shown_store}`")
    } else if store.starts_with(tree) {
        format!("the spare's store `{shown_store}` is inside the {what} `{shown_tree}`")
    } else {
        return Ok(());
    };
    Err(CommandError::usage(
        message,
        format!("give a spare and a {what} apart from each other, best on different disks"),
    ))
}

/// The directory for the agent's index: what was given, or the default.
pub(crate) fn state(given: Option<&Path>) -> Result<PathBuf, CommandError> {
    if let Some(path) = given {
        return Ok(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/understudy".into());
    }
    let variable = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("understudy"))
        .ok_or_else(|| {
            CommandError::usage(
                "there is no place for the agent's state: neither XDG_STATE_HOME nor HOME is set",
                "add --state DIR, or set UNDERSTUDY_STATE_DIR",
            )
        })
}

/// Makes the state directory, for its owner only, unless it is there.
pub(crate) fn make_state(path: &Path) -> Result<(), CommandError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| {
            let message = format!(
                "cannot make the state directory `{}`: {error}",
                path.display()
            );
            CommandError::new(
                Code::Failed,
                message,
                "choose another one with --state DIR or UNDERSTUDY_STATE_DIR",
            )
        })
}

/// Makes a directory that trees are restored into.
pub(crate) fn make_directory(path: &Path) -> Result<(), CommandError> {
    std::fs::DirBuilder::new().create(path).map_err(|error| {
        CommandError::usage(
            format!("cannot make the directory `{}`: {error}", path.display()),
            "check the path, and that its parent directory exists",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "prepares links")]
    fn what_is_not_there_yet_is_seen_through_links() {
        let directory = tempfile::tempdir().expect("directory");
        let root = std::fs::canonicalize(directory.path()).expect("canonical");
        std::fs::create_dir(root.join("source")).expect("source");
        std::os::unix::fs::symlink(root.join("source"), root.join("link")).expect("link");
        let store = canonical(&root.join("link/b")).expect("path");
        assert_eq!(store, root.join("source/b"));
        assert!(
            canonical(&root.join("link/x/y"))
                .expect("path")
                .starts_with(root.join("source"))
        );
        std::os::unix::fs::symlink("nowhere", root.join("dangling")).expect("link");
        assert!(canonical(&root.join("dangling/store")).is_err());
        assert!(canonical(&root.join("missing/../store")).is_err());

        let error = check_apart("source", &root.join("source"), &Address::Directory(store))
            .expect_err("inside");
        assert_eq!(error.code, Code::Usage);
        assert!(error.message.contains("inside"), "{}", error.message);
        let apart = Address::Directory(root.join("source-spare"));
        assert!(check_apart("source", &root.join("source"), &apart).is_ok());
    }
}
