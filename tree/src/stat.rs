//! What the file system says about one inode.

use std::ffi::OsStr;
use std::fs::File;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, statx};
use understudy_protocol::Timestamp;

use crate::error::{Context, TreeError};

/// `STATX_MNT_ID_UNIQUE`, which rustix does not know.
pub(crate) const UNIQUE_MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket; never captured.
    Socket,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
}

/// What stays the same while an inode lives, however it is named: inode number and birth time.
///
/// The device number is left out on purpose: it changes between mounts on btrfs and ZFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Inode number.
    pub inode: u64,
    /// Birth time; `None` where the file system keeps none.
    pub born: Option<Timestamp>,
}

/// The result of `statx`, symbolic links not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Kind.
    pub kind: Kind,
    /// Identity.
    pub identity: Identity,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Time of the last content change; can be set by anybody who may write.
    pub modified: Timestamp,
    /// Time of the last change of anything; only the kernel sets it.
    pub changed: Timestamp,
    /// Number of names.
    pub links: u32,
    /// Device number of a device node: major, minor.
    pub device: (u32, u32),
    /// Device number of the file system.
    pub file_system: (u32, u32),
    /// Whether something is mounted here.
    pub mount_root: bool,
}

/// What [`Stat`] needs from the kernel.
pub(crate) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Stat {
    /// An open file.
    pub fn of(file: &File) -> Result<Self, TreeError> {
        let raw = statx(file, OsStr::new(""), AtFlags::EMPTY_PATH, WANTED)
            .context("stat", b"an open file")?;
        Ok(Self::from_statx(&raw))
    }

    pub(crate) fn from_statx(raw: &Statx) -> Self {
        let time = |time: rustix::fs::StatxTimestamp| Timestamp {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        };
        let kind = match FileType::from_raw_mode(u32::from(raw.stx_mode)) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => Kind::File,
        };
        let born = (raw.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(raw.stx_btime));
        Self {
            kind,
            identity: Identity {
                inode: raw.stx_ino,
                born,
            },
            mode: raw.stx_mode & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            size: raw.stx_size,
            allocated: raw.stx_blocks.saturating_mul(512),
            modified: time(raw.stx_mtime),
            changed: time(raw.stx_ctime),
            links: raw.stx_nlink,
            device: (raw.stx_rdev_major, raw.stx_rdev_minor),
            file_system: (raw.stx_dev_major, raw.stx_dev_minor),
            mount_root: raw.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }

    /// Whether it is a regular file with holes.
    pub fn has_holes(&self) -> bool {
        self.kind == Kind::File && self.allocated < self.size
    }
}
