//! The reserve: what uploads leave free, so that a commit, the next cycle and the removal of old snapshots always find room.

use rustix::fs::fstatvfs;
use understudy_protocol::shown::size;
use understudy_tree::{Directory, TreeError};

use crate::error::ReceiverError;

/// With less a disk counts as full.
const ROOM_BYTES: u64 = 1 << 20;
/// A database that is written to needs three files.
const ROOM_INODES: u64 = 4;

/// Whether next to nothing is free on the file system of a directory, or nobody can tell.
pub(crate) fn is_full(directory: &Directory) -> bool {
    Room::of(directory).map_or(true, Room::is_full)
}

/// What must stay free of the store's file system, in bytes and in inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Percent of its size, 1 to 50.
    pub percent: u32,
    /// As many bytes are enough, however large it is.
    pub enough_bytes: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            percent: 2,
            enough_bytes: 10 << 30,
        }
    }
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    pub(crate) free_bytes: u64,
    /// What is used by anybody.
    pub(crate) used_bytes: u64,
    /// Zero where inodes are made as they are needed.
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
    pub(crate) used_inodes: u64,
}

impl Room {
    /// That of the file system of a directory.
    pub(crate) fn of(directory: &Directory) -> Result<Self, ReceiverError> {
        let stat = fstatvfs(directory)
            .map_err(|error| TreeError::new("ask for the free space of", b"the store", error))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self {
            bytes: bytes(stat.f_blocks),
            free_bytes: bytes(stat.f_bavail),
            used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            inodes: stat.f_files,
            free_inodes: stat.f_favail,
            used_inodes: stat.f_files.saturating_sub(stat.f_ffree),
        })
    }

    fn is_full(self) -> bool {
        // Where inodes are made as they are needed, there are none to count.
        self.free_bytes < ROOM_BYTES || self.inodes > 0 && self.free_inodes < ROOM_INODES
    }

    /// Bytes and inodes in all, each with what is free of them.
    #[cfg(test)]
    pub(crate) fn new((bytes, free_bytes): (u64, u64), (inodes, free_inodes): (u64, u64)) -> Self {
        Self {
            bytes,
            free_bytes,
            used_bytes: bytes - free_bytes,
            inodes,
            free_inodes,
            used_inodes: inodes - free_inodes,
        }
    }
}

impl Reserve {
    /// Fails with [`ReceiverError::NoSpace`] if less is free than must stay so.
    pub(crate) fn check(self, directory: &Directory) -> Result<(), ReceiverError> {
        self.judge(Room::of(directory)?)
            .map_or(Ok(()), |why| Err(ReceiverError::NoSpace(why)))
    }

    /// Whether so many bytes can be written and the reserve is left.
    pub(crate) fn has_room_for(
        self,
        directory: &Directory,
        bytes: u64,
    ) -> Result<bool, ReceiverError> {
        Ok(self.fits(Room::of(directory)?, bytes))
    }

    fn fits(self, room: Room, bytes: u64) -> bool {
        let (kept, _) = self.of(room);
        self.judge(room).is_none() && room.free_bytes - kept >= bytes
    }

    /// How many bytes and inodes are kept.
    pub(crate) fn of(self, room: Room) -> (u64, u64) {
        let part = |whole: u64| {
            let part = u128::from(whole) * u128::from(self.percent) / 100;
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        (part(room.bytes).min(self.enough_bytes), part(room.inodes))
    }

    /// Why there is not enough room.
    fn judge(self, room: Room) -> Option<String> {
        let (bytes, inodes) = self.of(room);
        if room.free_bytes < bytes {
            return Some(format!(
                "{} of {} are free on the store's file system, and {} are kept in reserve: nothing was changed",
                size(room.free_bytes),
                size(room.bytes),
                size(bytes)
            ));
        }
        (room.free_inodes < inodes).then(|| {
            format!(
                "{} of {} inodes are free on the store's file system, and {inodes} are kept in reserve: \
                 nothing was changed",
                room.free_inodes, room.inodes
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_inodes_is_full_too() {
        let room = |free_bytes, inodes, free_inodes| {
            Room::new((1 << 30, free_bytes), (inodes, free_inodes)).is_full()
        };
        assert!(!room(1 << 20, 400, 4) && !room(1 << 20, 0, 0));
        assert!(room((1 << 20) - 1, 400, 4) && room(1 << 20, 400, 3));
    }

    #[test]
    fn bytes_and_inodes_must_be_left() {
        let reserve = Reserve {
            percent: 10,
            enough_bytes: 500,
        };
        let room = |bytes, free_bytes, inodes, free_inodes| {
            Room::new((bytes, free_bytes), (inodes, free_inodes))
        };
        assert_eq!(reserve.judge(room(1000, 100, 50, 5)), None);
        let why = reserve.judge(room(1000, 99, 50, 5)).expect("too little");
        assert!(
            why.contains("99 B of 1.0 KB") && why.contains("100 B are kept"),
            "{why}"
        );
        let why = reserve.judge(room(1000, 100, 50, 4)).expect("too few");
        assert!(why.contains("4 of 50 inodes"), "{why}");
        assert!(reserve.fits(room(1000, 150, 50, 5), 50));
        assert!(!reserve.fits(room(1000, 150, 50, 5), 51));
        assert!(!reserve.fits(room(1000, 99, 50, 5), 0));
        // A large disk keeps what is enough.
        assert_eq!(reserve.judge(room(1 << 40, 500, 0, 0)), None);
        assert!(reserve.judge(room(1 << 40, 499, 0, 0)).is_some());
    }
}
