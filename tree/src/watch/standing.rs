//! What a root is at this moment: which directories, in which mounts. Two equal answers mean that what was armed
//! is still what the path leads to.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, fstatfs, fstatvfs, openat, readlinkat, statx,
};
use rustix::io::Errno;
use understudy_protocol::escape;

use super::mounts::{self, Mount};
use crate::directory::Mounts;
use crate::error::{Context, TreeError};
use crate::stat::{self, Identity, Stat};

/// The number of a file system in fanotify's records.
pub(super) type FileSystemId = [u8; 8];

/// File systems to which other hosts, or a process that tells nobody, may write.
const SHARED: [(u64, &str); 18] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x2003_0528, "OrangeFS"),
    (0x1983_0326, "BeeGFS"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
];

/// Where a root stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its path without links.
    pub(super) real: Vec<u8>,
    /// The root itself, and with [`Mounts::Cross`] what is mounted below it.
    pub(super) parts: Vec<Part>,
    /// What is mounted at or below it: with [`Mounts::Stay`] too, for a mount hides names.
    mounts: Vec<Mount>,
}

/// The topmost directory of one file system in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its path without links.
    pub(super) path: Vec<u8>,
    /// Which directory.
    pub(super) identity: Identity,
    /// In which mount: a number that is never given again from Linux 6.8 on, and soon is before.
    pub(super) mount: u64,
    /// On which file system.
    pub(super) file_system: FileSystemId,
    /// Which kind of file system (`statfs`).
    pub(super) kind: u64,
}

impl Standing {
    /// Looks at `path` with these mounts in force.
    pub(super) fn look(path: &Path, mounts: Mounts, all: &[Mount]) -> Result<Self, TreeError> {
        let (_, root) = Part::open(path)?;
        let mut standing = Self {
            real: root.path.clone(),
            parts: vec![root],
            mounts: Vec::new(),
        };
        for mount in all {
            if !mounts::is_at_or_below(&mount.point, &standing.real) {
                continue;
            }
            standing.mounts.push(mount.clone());
            if mounts == Mounts::Cross && mount.point != standing.real {
                match Part::open(Path::new(OsStr::from_bytes(&mount.point))) {
                    Ok((_, part)) if !standing.parts.contains(&part) => standing.parts.push(part),
                    Ok(_) => {}
                    // Another mount hides it, or it is a single file.
                    Err(error) if error.is_gone() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(standing)
    }

    /// Why nobody can watch it, if other hosts may write to a part of it.
    pub(super) fn shared_with_others(&self) -> Option<String> {
        self.parts.iter().find_map(|part| {
            let (_, name) = SHARED.iter().find(|(kind, _)| *kind == part.kind)?;
            Some(format!(
                "`{}` is on {name}, where changes made by other hosts give no events",
                escape(&part.path)
            ))
        })
    }

    /// What is different now, in words.
    pub(super) fn difference(&self, now: &Self) -> &'static str {
        if self.real != now.real {
            "its path leads elsewhere than before"
        } else if self.parts.first().map(|part| part.identity)
            != now.parts.first().map(|part| part.identity)
        {
            "another directory stands at its path"
        } else {
            "something was mounted or unmounted in it"
        }
    }
}

impl Part {
    /// Opens the directory at `path`, and tells what it is. The descriptor keeps the file system from being
    /// unmounted: hold it for moments only.
    pub(super) fn open(path: &Path) -> Result<(OwnedFd, Self), TreeError> {
        let name = path.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
        let descriptor = match openat(CWD, path, flags, Mode::empty()) {
            // Leaving the access time alone is for the owner.
            Err(Errno::PERM) => openat(CWD, path, flags - OFlags::NOATIME, Mode::empty()),
            opened => opened,
        }
        .context("open directory", name)?;
        let (identity, mount) = identify(descriptor.as_fd()).context("stat", name)?;
        let system = fstatfs(&descriptor).context("stat the file system of", name)?;
        let number = fstatvfs(&descriptor)
            .context("stat the file system of", name)?
            .f_fsid;
        // Two integers, of which rustix makes one.
        let mut file_system = FileSystemId::default();
        file_system[..4].copy_from_slice(&(number as u32).to_ne_bytes());
        file_system[4..].copy_from_slice(&((number >> 32) as u32).to_ne_bytes());
        let part = Self {
            path: path_of(descriptor.as_fd()).context("find the path of", name)?,
            identity,
            mount,
            file_system,
            kind: system.f_type as u64,
        };
        Ok((descriptor, part))
    }

    /// Whether the same directory in the same mount is at its path. Cheaper than opening it, and asked of every
    /// root in most batches.
    pub(super) fn still_stands(&self) -> bool {
        statx_at(CWD, OsStr::from_bytes(&self.path), AtFlags::empty()).is_ok_and(|raw| {
            Stat::from_statx(&raw).identity == self.identity && raw.stx_mnt_id == self.mount
        })
    }
}

/// The identity of an open inode, and the number of its mount.
pub(super) fn identify(descriptor: BorrowedFd<'_>) -> Result<(Identity, u64), Errno> {
    let raw = statx_at(descriptor, OsStr::new(""), AtFlags::EMPTY_PATH)?;
    Ok((Stat::from_statx(&raw).identity, raw.stx_mnt_id))
}

/// The identity of an open inode, and how many names it has.
pub(super) fn identify_with_names(descriptor: BorrowedFd<'_>) -> Result<(Identity, u32), Errno> {
    let raw = statx_at(descriptor, OsStr::new(""), AtFlags::EMPTY_PATH)?;
    Ok((Stat::from_statx(&raw).identity, raw.stx_nlink))
}

/// An inode without a name is gone.
fn statx_at(directory: BorrowedFd<'_>, path: &OsStr, flags: AtFlags) -> Result<Statx, Errno> {
    // A kernel that does not know the number that is never used again gives the other one.
    let wanted = stat::WANTED | StatxFlags::MNT_ID | stat::UNIQUE_MOUNT;
    let raw = statx(directory, path, flags, wanted)?;
    if raw.stx_nlink == 0 {
        return Err(Errno::STALE);
    }
    Ok(raw)
}

/// The path by which the kernel knows an open directory now.
pub(super) fn path_of(descriptor: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    Ok(readlinkat(CWD, link, Vec::with_capacity(256))?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_hosts_may_write_to_is_known() {
        let scratch = tempfile::tempdir().expect("scratch");
        let all = mounts::read().expect("mounts");
        let mut standing = Standing::look(scratch.path(), Mounts::Stay, &all).expect("look");
        assert_eq!(standing.shared_with_others(), None);
        standing.parts[0].kind = 0x6969;
        let why = standing.shared_with_others().expect("shared");
        assert!(why.contains("NFS"), "{why}");
    }
}
