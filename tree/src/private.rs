//! A directory for one owner alone: a secret key, and what that owner knows of others.
//!
//! Files are replaced whole and durably; who reads before writing holds the lock. A directory or a key that others could
//! read is refused, for the secret may be known to anybody then.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};
use understudy_protocol::{Name, SecretKey, Timestamp, escape};

use crate::directory::{Directory, Mounts};
use crate::durable::{self, Durability};
use crate::error::{Context, TreeError};

/// Longest file that is read.
const FILE_BYTES: u64 = 4 << 20;
/// Who may do what: all bits that belong to others.
const OTHERS: u16 = 0o077;
const KEY: &str = "key";

/// Such a directory.
#[derive(Debug)]
pub struct Private {
    directory: Directory,
    path: PathBuf,
}

/// Held while files are read and replaced.
#[derive(Debug)]
pub struct Locked<'a> {
    private: &'a Private,
    /// Locked as long as it is open.
    _descriptor: Directory,
}

/// What changes whenever a file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: Timestamp,
    changed: Timestamp,
}

impl Private {
    /// Opens the directory; `None` if it is not there.
    pub fn open(path: &Path) -> Result<Option<Self>, TreeError> {
        let directory = match Directory::open(path, Mounts::Stay) {
            Ok(directory) => directory,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error),
        };
        let private = Self {
            directory,
            path: path.to_owned(),
        };
        let stat = private.directory.stat_self()?;
        if stat.mode & OTHERS != 0 {
            let why = "others than its owner may enter it; take that away with `chmod 700`, and make new keys if they had cause to look";
            return Err(private.refused("use the directory", "", why));
        }
        Ok(Some(private))
    }

    /// Opens the directory `name` in `parent`, made if it is missing. It belongs to the owner of `parent`, even where
    /// root makes it.
    pub fn ensure(parent: &Path, name: &Name) -> Result<Self, TreeError> {
        let path = parent.join(name.as_os_str());
        let above = Directory::open(parent, Mounts::Cross)?;
        if above.stat_if_present(name)?.is_none() {
            let made = above.ensure_directory(name)?;
            give_to_owner_of(&above, &made).context("give to the owner", name.as_bytes())?;
            above.sync()?;
        }
        let private = Self::open(&path)?;
        private.ok_or_else(|| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            TreeError::new("open directory", path.as_os_str().as_bytes(), gone)
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else is at it.
    pub fn lock(&self) -> Result<Locked<'_>, TreeError> {
        let descriptor = self.directory.try_clone()?;
        flock(&descriptor, FlockOperation::LockExclusive)
            .context("lock", self.path.as_os_str().as_bytes())?;
        Ok(Locked {
            private: self,
            _descriptor: descriptor,
        })
    }

    /// The text of a file, which somebody may be about to replace; `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<String>, TreeError> {
        let content = durable::read(&self.directory, &parsed(name)?, FILE_BYTES);
        let Some(content) = content.map_err(|error| self.below(error))? else {
            return Ok(None);
        };
        let text = String::from_utf8(content);
        text.map(Some)
            .map_err(|_| self.refused("read", name, "it is no text"))
    }

    /// When a file was last written; `None` if it is not there.
    pub fn stamp(&self, name: &str) -> Result<Option<Stamp>, TreeError> {
        let stat = self.directory.stat_if_present(&parsed(name)?);
        let stat = stat.map_err(|error| self.below(error))?;
        Ok(stat.map(|stat| Stamp {
            inode: stat.identity.inode,
            size: stat.size,
            modified: stat.modified,
            changed: stat.changed,
        }))
    }

    /// The secret key; `None` if there is none yet.
    pub fn key(&self) -> Result<Option<SecretKey>, TreeError> {
        let Some(stat) = self.directory.stat_if_present(&parsed(KEY)?)? else {
            return Ok(None);
        };
        if stat.mode & OTHERS != 0 {
            let path = self.path.join(KEY);
            let why = format!(
                "others than its owner may read it; take that away with `chmod 600 {}`, and make a new key only if they had cause to look",
                escape(path.as_os_str().as_bytes())
            );
            return Err(self.refused("use the secret key", KEY, &why));
        }
        let Some(text) = self.read(KEY)?.map(zeroize::Zeroizing::new) else {
            return Ok(None);
        };
        let key = SecretKey::from_text(text.trim())
            .map_err(|error| self.refused("use the secret key", KEY, &error.to_string()))?;
        Ok(Some(key))
    }

    /// The secret key, made if there is none.
    pub fn ensure_key(&self) -> Result<SecretKey, TreeError> {
        let locked = self.lock()?;
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        let key = SecretKey::generate()
            .map_err(|error| self.refused("make the secret key", KEY, &error.to_string()))?;
        let mut text = key.to_text();
        text.push('\n');
        locked.replace(KEY, &text)?;
        Ok(key)
    }

    /// Takes a secret key that was made elsewhere; fails if there is another one.
    pub fn adopt_key(&self, key: &SecretKey) -> Result<SecretKey, TreeError> {
        let locked = self.lock()?;
        match self.key()? {
            Some(known) if known.public() == key.public() => return Ok(known),
            Some(_) => {
                let why = "there is another key already, and what was signed with it could not be proved any more";
                return Err(self.refused("replace the secret key", KEY, why));
            }
            None => {}
        }
        let mut text = key.to_text();
        text.push('\n');
        locked.replace(KEY, &text)?;
        let adopted = self.key()?;
        adopted.ok_or_else(|| self.refused("use the secret key", KEY, "it is gone"))
    }

    fn below(&self, error: TreeError) -> TreeError {
        error.below(&escape(self.path.as_os_str().as_bytes()))
    }

    fn refused(&self, operation: &'static str, name: &str, why: &str) -> TreeError {
        let path = if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        };
        TreeError::new(
            operation,
            path.as_os_str().as_bytes(),
            io::Error::other(why),
        )
    }
}

impl Locked<'_> {
    /// Replaces or makes a file, durably, for the owner of the directory alone.
    pub fn replace(&self, name: &str, text: &str) -> Result<(), TreeError> {
        let directory = &self.private.directory;
        let name = parsed(name)?;
        let below = |error| self.private.below(error);
        durable::replace(directory, &name, text.as_bytes(), Durability::Now).map_err(below)?;
        let file: File = directory.open_file(&name).map_err(below)?;
        give_to_owner_of(directory, &file).context("give to the owner", name.as_bytes())
    }
}

fn parsed(name: &str) -> Result<Name, TreeError> {
    Name::new(name)
        .map_err(|error| TreeError::new("name", name.as_bytes(), io::Error::other(error)))
}

/// Gives what root has made to the owner of the directory it is in, who must be able to use it.
fn give_to_owner_of(directory: &Directory, made: impl std::os::fd::AsFd) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stat = directory.stat_self().map_err(io::Error::other)?;
    let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
    Ok(fchown(made, Some(uid), Some(gid))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn name() -> Name {
        Name::new("identity").expect("name")
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn a_key_is_made_once_and_is_for_its_owner_alone() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("identity");
        assert!(Private::open(&path).expect("nothing").is_none());
        let private = Private::ensure(scratch.path(), &name()).expect("made");
        let key = private.ensure_key().expect("key").public();
        assert_eq!(private.ensure_key().expect("key").public(), key);
        let mode = |path: &Path| path.metadata().expect("there").mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("key"))), (0o700, 0o600));

        let open_to = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
        };
        open_to(&path.join("key"), 0o640);
        let error = private.ensure_key().expect_err("readable").to_string();
        let advice = format!("chmod 600 {}/key", path.display());
        assert!(error.contains(&advice), "{error}");
        open_to(&path.join("key"), 0o600);
        assert_eq!(private.ensure_key().expect("key").public(), key);
        open_to(&path, 0o711);
        let error = Private::open(&path).expect_err("open").to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn a_damaged_key_is_never_replaced() {
        let scratch = tempfile::tempdir().expect("scratch");
        let private = Private::ensure(scratch.path(), &name()).expect("made");
        private.ensure_key().expect("key");
        let file = scratch.path().join("identity/key");
        std::fs::write(&file, "nonsense\n").expect("damage");
        assert!(private.ensure_key().is_err());
        assert_eq!(std::fs::read(&file).expect("there"), b"nonsense\n");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn what_root_makes_belongs_to_the_owner_of_the_directory() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().expect("scratch");
        std::os::unix::fs::chown(scratch.path(), Some(1234), Some(1235)).expect("chown");
        let private = Private::ensure(scratch.path(), &name()).expect("made");
        private.ensure_key().expect("key");
        for path in [private.path().to_owned(), private.path().join("key")] {
            let found = path.metadata().expect("there");
            assert_eq!(
                (found.uid(), found.gid()),
                (1234, 1235),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_stamp_tells_when_a_file_was_replaced() {
        let scratch = tempfile::tempdir().expect("scratch");
        let private = Private::ensure(scratch.path(), &name()).expect("made");
        assert_eq!(private.stamp("list").expect("none"), None);
        private
            .lock()
            .expect("lock")
            .replace("list", "a")
            .expect("written");
        let first = private.stamp("list").expect("stamp");
        assert_eq!(private.stamp("list").expect("stamp"), first);
        private
            .lock()
            .expect("lock")
            .replace("list", "b")
            .expect("written");
        assert_ne!(private.stamp("list").expect("stamp"), first);
        assert_eq!(private.read("list").expect("read").as_deref(), Some("b"));
    }
}
