//! A held directory: everything is opened and changed relative to its descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, linkat, makedev,
    mkdirat, mknodat, openat, openat2, readlinkat, renameat_with, statx, symlinkat, syncfs,
    unlinkat,
};
use rustix::io::Errno;
use understudy_protocol::{Name, RelPath};

use crate::error::{Context, TreeError};
use crate::stat::{self, Kind, Stat};

/// Whether directories of other file systems mounted below a root are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mounts {
    /// A mount point is an empty directory.
    #[default]
    Stay,
    /// What is mounted belongs to the tree.
    Cross,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
/// openat2 takes paths below PATH_MAX (4096); longer ones are opened in pieces.
const PIECE_BYTES: usize = 4000;

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    mounts: Mounts,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Directory {
    /// Opens a directory by the path a person gave; links in it are followed as in any command.
    pub fn open(path: &Path, mounts: Mounts) -> Result<Self, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat(CWD, path, flags, Mode::empty())
            .context("open directory", path.as_os_str().as_bytes())?;
        Ok(Self { descriptor, mounts })
    }

    /// Opens the directory at `path` below this one; no link is followed, nothing above can be reached.
    pub fn open_beneath(&self, path: &RelPath) -> Result<Self, TreeError> {
        let mut rest = path.as_bytes();
        let mut held: Option<Self> = None;
        while rest.len() > PIECE_BYTES {
            // A component has at most 255 bytes, so there is a slash in every piece.
            let cut = rest[..PIECE_BYTES]
                .iter()
                .rposition(|&byte| byte == b'/')
                .unwrap_or(PIECE_BYTES);
            held = Some(held.as_ref().unwrap_or(self).resolve(&rest[..cut])?);
            rest = &rest[cut + 1..];
        }
        let rest = if rest.is_empty() { b"." } else { rest };
        held.as_ref().unwrap_or(self).resolve(rest)
    }

    /// Opens the directory `name` in this one.
    pub fn open_directory(&self, name: &Name) -> Result<Self, TreeError> {
        self.resolve(name.as_bytes())
    }

    /// The same directory, from which nothing that is mounted below can be entered.
    #[must_use]
    pub fn without_mounts(self) -> Self {
        Self {
            mounts: Mounts::Stay,
            ..self
        }
    }

    /// Another descriptor of this directory.
    pub fn try_clone(&self) -> Result<Self, TreeError> {
        self.resolve(b".")
    }

    fn resolve(&self, path: &[u8]) -> Result<Self, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = self.openat2(path, flags).context("open directory", path)?;
        Ok(Self {
            descriptor,
            mounts: self.mounts,
        })
    }

    fn openat2(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = match self.mounts {
            Mounts::Stay => BENEATH | ResolveFlags::NO_XDEV,
            Mounts::Cross => BENEATH,
        };
        loop {
            match openat2(
                &self.descriptor,
                OsStr::from_bytes(path),
                flags,
                Mode::empty(),
                resolve,
            ) {
                // A rename somewhere in the system made the kernel unsure; it says so rather than guess.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// Opens a file for reading without waiting for a fifo's writer.
    pub fn open_file(&self, name: &Name) -> Result<File, TreeError> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(self
            .openat2(name.as_bytes(), flags)
            .context("open", name.as_bytes())?
            .into())
    }

    /// Opens a file for reading and writing.
    pub fn open_file_to_change(&self, name: &Name) -> Result<File, TreeError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(self
            .openat2(name.as_bytes(), flags)
            .context("open", name.as_bytes())?
            .into())
    }

    /// A new file without a name, which goes when it is closed.
    pub fn create_unnamed(&self) -> Result<File, TreeError> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        openat(&self.descriptor, c".", flags, mode)
            .map(File::from)
            .context("create a file without a name in", b".")
    }

    /// A descriptor that pins what stands at `name`, whatever it is, without opening it.
    pub(crate) fn pin(&self, name: &[u8]) -> Result<OwnedFd, TreeError> {
        self.openat2(name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
            .context("open", name)
    }

    /// Creates a file that must not exist, readable by its owner only.
    pub fn create_file(&self, name: &Name) -> Result<File, TreeError> {
        self.create_file_with(name, Mode::RUSR | Mode::WUSR)
    }

    /// Creates a file that must not exist, with these permissions less the process's mask.
    pub(crate) fn create_file_with(&self, name: &Name, mode: Mode) -> Result<File, TreeError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = openat(&self.descriptor, name.as_os_str(), flags, mode)
            .context("create", name.as_bytes())?;
        Ok(descriptor.into())
    }

    /// Creates a directory, accessible by its owner only until its attributes are set.
    pub fn create_directory(&self, name: &Name) -> Result<(), TreeError> {
        mkdirat(&self.descriptor, name.as_os_str(), Mode::RWXU)
            .context("create directory", name.as_bytes())
    }

    /// Creates a directory unless it is there, and opens it.
    pub fn ensure_directory(&self, name: &Name) -> Result<Self, TreeError> {
        match self.create_directory(name) {
            Err(error) if error.errno() != Some(Errno::EXIST) => Err(error),
            _ => self.open_directory(name),
        }
    }

    /// Creates a symbolic link.
    pub fn create_symlink(&self, name: &Name, target: &[u8]) -> Result<(), TreeError> {
        symlinkat(
            OsStr::from_bytes(target),
            &self.descriptor,
            name.as_os_str(),
        )
        .context("create symbolic link", name.as_bytes())
    }

    /// Creates a fifo or device node.
    pub fn create_special(
        &self,
        name: &Name,
        kind: Kind,
        (major, minor): (u32, u32),
    ) -> Result<(), TreeError> {
        let (file_type, device) = match kind {
            Kind::CharacterDevice => (FileType::CharacterDevice, makedev(major, minor)),
            Kind::BlockDevice => (FileType::BlockDevice, makedev(major, minor)),
            _ => (FileType::Fifo, 0),
        };
        mknodat(
            &self.descriptor,
            name.as_os_str(),
            file_type,
            Mode::RUSR | Mode::WUSR,
            device,
        )
        .context("create special file", name.as_bytes())
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, name: &Name) -> Result<Vec<u8>, TreeError> {
        let target = readlinkat(&self.descriptor, name.as_os_str(), Vec::new())
            .context("read link", name.as_bytes())?;
        Ok(target.into_bytes())
    }

    /// What stands at `name`; the link itself where it is one.
    pub fn stat(&self, name: &Name) -> Result<Stat, TreeError> {
        self.stat_at(name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)
            .context("stat", name.as_bytes())
    }

    /// Like [`Self::stat`], with `None` for nothing there.
    pub fn stat_if_present(&self, name: &Name) -> Result<Option<Stat>, TreeError> {
        match self.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// This directory itself.
    pub fn stat_self(&self) -> Result<Stat, TreeError> {
        self.stat_at(OsStr::new(""), AtFlags::EMPTY_PATH)
            .context("stat", b".")
    }

    fn stat_at(&self, name: &OsStr, flags: AtFlags) -> Result<Stat, Errno> {
        statx(&self.descriptor, name, flags, stat::WANTED).map(|raw| Stat::from_statx(&raw))
    }

    /// All names in byte order. A name the protocol cannot carry does not exist on Linux.
    pub fn names(&self) -> Result<Vec<Name>, TreeError> {
        // A descriptor of its own: reading moves the position.
        let reading = self.try_clone()?;
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        let mut entries = RawDir::new(&reading.descriptor, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.context("list directory", b".")?;
            if let Ok(name) = Name::new(entry.file_name().to_bytes()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Adds a name to a file; the new name must be free.
    pub fn link(&self, name: &Name, to: &Self, to_name: &Name) -> Result<(), TreeError> {
        linkat(
            &self.descriptor,
            name.as_os_str(),
            &to.descriptor,
            to_name.as_os_str(),
            AtFlags::empty(),
        )
        .context("link", name.as_bytes())
    }

    /// Moves an entry, replacing what is there where the kernel allows it.
    pub fn rename(&self, name: &Name, to: &Self, to_name: &Name) -> Result<(), TreeError> {
        self.rename_with(name, to, to_name, RenameFlags::empty())
    }

    /// Moves an entry to a name that must be free.
    pub fn rename_new(&self, name: &Name, to: &Self, to_name: &Name) -> Result<(), TreeError> {
        self.rename_with(name, to, to_name, RenameFlags::NOREPLACE)
    }

    /// Exchanges two entries in one step.
    pub fn exchange(&self, name: &Name, to: &Self, to_name: &Name) -> Result<(), TreeError> {
        self.rename_with(name, to, to_name, RenameFlags::EXCHANGE)
    }

    fn rename_with(
        &self,
        name: &Name,
        to: &Self,
        to_name: &Name,
        flags: RenameFlags,
    ) -> Result<(), TreeError> {
        renameat_with(
            &self.descriptor,
            name.as_os_str(),
            &to.descriptor,
            to_name.as_os_str(),
            flags,
        )
        .context("rename", name.as_bytes())
    }

    /// Removes a name that is no directory.
    pub fn remove_file(&self, name: &Name) -> Result<(), TreeError> {
        unlinkat(&self.descriptor, name.as_os_str(), AtFlags::empty())
            .context("remove", name.as_bytes())
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, name: &Name) -> Result<(), TreeError> {
        unlinkat(&self.descriptor, name.as_os_str(), AtFlags::REMOVEDIR)
            .context("remove directory", name.as_bytes())
    }

    /// Sets the permission bits of this directory itself.
    pub fn set_mode(&self, mode: u16) -> Result<(), TreeError> {
        rustix::fs::fchmod(&self.descriptor, Mode::from_raw_mode(u32::from(mode)))
            .context("set mode of", b".")
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> Result<(), TreeError> {
        rustix::fs::fsync(&self.descriptor).context("sync directory", b".")
    }

    /// Makes the whole file system durable. Reports every write error since this descriptor was opened, so
    /// hold one opened before the writes; never repeat a failed call, the kernel has dropped the pages.
    pub fn sync_file_system(&self) -> Result<(), TreeError> {
        syncfs(&self.descriptor).context("sync file system of", b".")
    }

    /// The number of the mount it is in, which no other mount has as long as the machine runs; `None` where the kernel
    /// does not tell (before Linux 6.8).
    pub fn unique_mount(&self) -> Option<u64> {
        let raw = statx(
            &self.descriptor,
            "",
            AtFlags::EMPTY_PATH,
            stat::UNIQUE_MOUNT,
        )
        .ok()?;
        (raw.stx_mask & stat::UNIQUE_MOUNT.bits() != 0).then_some(raw.stx_mnt_id)
    }

    /// A number of its file system that is made of its UUID, and so the same after every restart and on every mount; `None` where
    /// the kernel makes it of something else.
    pub fn lasting_file_system(&self) -> Option<u64> {
        /// ext2 to ext4, btrfs (each subvolume has its own), ZFS; xfs tells the number of a device.
        const OF_UUID: [u64; 3] = [0xef53, 0x9123_683e, 0x2fc1_2fc1];
        let kind = rustix::fs::fstatfs(&self.descriptor).ok()?.f_type as u64;
        let number = rustix::fs::fstatvfs(&self.descriptor).ok()?.f_fsid;
        OF_UUID.contains(&kind).then_some(number)
    }

    /// A path of `name` in this directory that the kernel resolves through the held descriptor.
    pub(crate) fn proc_path(&self, name: &Name) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.descriptor.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("name")
    }

    #[test]
    fn links_are_never_followed_below_a_root() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let root = Directory::open(scratch.path(), Mounts::Stay).expect("open");
        root.create_symlink(&name("away"), b"/etc")
            .expect("symlink");
        root.create_symlink(&name("file"), b"/etc/passwd")
            .expect("symlink");
        assert!(root.open_directory(&name("away")).is_err());
        assert!(
            root.open_beneath(&RelPath::new(b"away/ssl").expect("path"))
                .is_err()
        );
        assert!(root.open_file(&name("file")).is_err());
        assert_eq!(root.read_link(&name("away")).expect("target"), b"/etc");
        assert_eq!(root.stat(&name("away")).expect("stat").kind, Kind::Symlink);
    }

    #[test]
    fn paths_beyond_the_systems_limit_are_opened() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let root = Directory::open(scratch.path(), Mounts::Stay).expect("open");
        let mut directory = root.try_clone().expect("clone");
        let mut path = RelPath::root();
        let component = name(&"d".repeat(200));
        for _ in 0..60 {
            directory = directory.ensure_directory(&component).expect("create");
            path = path.join(&component);
        }
        assert!(path.as_bytes().len() > 12_000);
        let opened = root.open_beneath(&path).expect("open");
        assert_eq!(
            opened.stat_self().expect("stat"),
            directory.stat_self().expect("stat")
        );
        crate::remove::empty(&root).expect("remove");
    }
}
