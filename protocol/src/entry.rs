//! What stands at a place: kind, metadata and, for files, the hash of the content.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::hash::ContentHash;
use crate::limits;
use crate::list::AtMost;
use crate::place::DirectoryId;

/// A point in time with nanoseconds, before 1970 as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Timestamp {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (seconds, nanoseconds) = <(i64, u32)>::deserialize(deserializer)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(de::Error::custom("nanoseconds of a second or more"));
        }
        Ok(Self {
            seconds,
            nanoseconds,
        })
    }
}

/// One extended attribute; POSIX ACLs and file capabilities are such attributes too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// The full name, for instance `user.comment`.
    pub name: Bytes,
    /// The value as the kernel stores it.
    pub value: Bytes,
}

/// Metadata that every kind of entry has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Attributes {
    /// Permission bits with set-user-id, set-group-id and sticky: `0o7777` at most.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of the last modification.
    pub modified: Timestamp,
    /// Extended attributes in the order of their names, each name once.
    pub xattrs: Vec<Xattr>,
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mode, uid, gid, modified, AtMost(xattrs)) =
            <(u16, u32, u32, Timestamp, AtMost<Xattr, { limits::XATTRS }>)>::deserialize(
                deserializer,
            )?;
        if mode > 0o7777 {
            return Err(de::Error::custom("mode has bits beyond 7777"));
        }
        // To the kernel this number means that an owner is left as it is.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(de::Error::custom("no user or group has this number"));
        }
        let bytes: usize = xattrs
            .iter()
            .map(|xattr| xattr.name.len() + xattr.value.len())
            .sum();
        if bytes > limits::XATTRS_BYTES {
            return Err(de::Error::custom("too many extended attributes"));
        }
        let valid = |xattr: &Xattr| {
            !xattr.name.is_empty()
                && xattr.name.len() <= limits::XATTR_NAME_BYTES
                && !xattr.name.contains(&0)
        };
        if !xattrs.iter().all(valid) || !xattrs.is_sorted_by(|a, b| a.name < b.name) {
            return Err(de::Error::custom(
                "extended attributes without a name, unsorted or repeated",
            ));
        }
        Ok(Self {
            mode,
            uid,
            gid,
            modified,
            xattrs,
        })
    }
}

/// The kind of an entry with what is particular to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Node {
    /// A directory, known by its number wherever it moves.
    Directory {
        /// Its number.
        id: DirectoryId,
    },
    /// A regular file.
    File {
        /// Length in bytes, at most [`limits::FILE_BYTES`].
        #[serde(deserialize_with = "deserialize_size")]
        size: u64,
        /// Hash of the content.
        hash: ContentHash,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points; never followed.
        #[serde(deserialize_with = "deserialize_link_target")]
        target: Bytes,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharacterDevice {
        /// Major number.
        #[serde(deserialize_with = "deserialize_major")]
        major: u32,
        /// Minor number.
        #[serde(deserialize_with = "deserialize_minor")]
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        #[serde(deserialize_with = "deserialize_major")]
        major: u32,
        /// Minor number.
        #[serde(deserialize_with = "deserialize_minor")]
        minor: u32,
    },
}

fn deserialize_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if size > limits::FILE_BYTES {
        return Err(de::Error::custom("larger than the largest file"));
    }
    Ok(size)
}

fn deserialize_link_target<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let target = Bytes::deserialize(deserializer)?;
    if target.is_empty() || target.len() > limits::LINK_TARGET_BYTES || target.contains(&0) {
        return Err(de::Error::custom("not the target of a symbolic link"));
    }
    Ok(target)
}

fn deserialize_major<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserialize_device_number(deserializer, limits::DEVICE_MAJOR)
}

fn deserialize_minor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserialize_device_number(deserializer, limits::DEVICE_MINOR)
}

/// The kernel would cut a larger number off, and make another device than the one that was named.
fn deserialize_device_number<'de, D: Deserializer<'de>>(
    deserializer: D,
    most: u32,
) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if number > most {
        return Err(de::Error::custom("no device of Linux has this number"));
    }
    Ok(number)
}

/// Everything that is kept of one name in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Owner, mode, times and extended attributes.
    pub attributes: Attributes,
    /// What it is.
    pub node: Node,
    /// Names with the same number other than 0 are one file (a hard-link group); 0 stands alone.
    pub group: u64,
}

impl Entry {
    /// The directory's number, if it is a directory.
    pub fn directory_id(&self) -> Option<DirectoryId> {
        match self.node {
            Node::Directory { id } => Some(id),
            _ => None,
        }
    }

    /// Size and hash, if it is a regular file.
    pub fn content(&self) -> Option<(u64, ContentHash)> {
        match self.node {
            Node::File { size, hash } => Some((size, hash)),
            _ => None,
        }
    }

    /// Size of a regular file, 0 for everything else.
    pub fn size_bytes(&self) -> u64 {
        self.content().map_or(0, |(size, _)| size)
    }

    /// The kind as people call it.
    pub fn kind(&self) -> &'static str {
        match self.node {
            Node::Directory { .. } => "directory",
            Node::File { .. } => "file",
            Node::Symlink { .. } => "symbolic link",
            Node::Fifo => "fifo",
            Node::CharacterDevice { .. } => "character device",
            Node::BlockDevice { .. } => "block device",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(xattrs: Vec<Xattr>) -> Attributes {
        Attributes {
            mode: 0o4755,
            uid: 0,
            gid: 7,
            modified: Timestamp {
                seconds: -1,
                nanoseconds: 999_999_999,
            },
            xattrs,
        }
    }

    fn xattr(name: &[u8]) -> Xattr {
        Xattr {
            name: name.into(),
            value: b"v"[..].into(),
        }
    }

    fn decodes(attributes: &Attributes) -> bool {
        let encoded = postcard::to_stdvec(attributes).expect("encode");
        postcard::from_bytes::<Attributes>(&encoded).is_ok_and(|decoded| decoded == *attributes)
    }

    #[test]
    fn files_are_no_larger_than_offsets_are() {
        let hash = ContentHash::of(b"");
        for (size, is_file) in [(limits::FILE_BYTES, true), (limits::FILE_BYTES + 1, false)] {
            let encoded = postcard::to_stdvec(&Node::File { size, hash }).expect("encode");
            assert_eq!(postcard::from_bytes::<Node>(&encoded).is_ok(), is_file);
        }
    }

    #[test]
    fn an_owner_that_would_leave_the_file_as_it_is_is_none() {
        for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
            let mut attributes = attributes(Vec::new());
            (attributes.uid, attributes.gid) = (uid, gid);
            assert!(!decodes(&attributes), "{uid}:{gid}");
        }
    }

    #[test]
    fn attributes_are_checked_when_decoded() {
        assert!(decodes(&attributes(vec![
            xattr(b"user.a"),
            xattr(b"user.b")
        ])));
        assert!(
            !decodes(&attributes(vec![xattr(b"user.b"), xattr(b"user.a")])),
            "unsorted"
        );
        assert!(
            !decodes(&attributes(vec![xattr(b"user.a"), xattr(b"user.a")])),
            "repeated"
        );
        assert!(
            !decodes(&attributes(vec![xattr(b"user.\0")])),
            "NUL in a name"
        );
        assert!(
            !decodes(&Attributes {
                mode: 0o17777,
                ..attributes(vec![])
            }),
            "mode"
        );
        let late = Timestamp {
            seconds: 0,
            nanoseconds: 1_000_000_000,
        };
        assert!(
            !decodes(&Attributes {
                modified: late,
                ..attributes(vec![])
            }),
            "nanoseconds"
        );
    }

    #[test]
    fn device_numbers_that_linux_does_not_have_are_refused() {
        let decodes = |major, minor| {
            let block = postcard::to_stdvec(&Node::BlockDevice { major, minor }).expect("encode");
            let other =
                postcard::to_stdvec(&Node::CharacterDevice { major, minor }).expect("encode");
            let both = [block, other].map(|node| postcard::from_bytes::<Node>(&node).is_ok());
            assert_eq!(both[0], both[1]);
            both[0]
        };
        assert!(decodes(4095, 1_048_575));
        // Without this check it would be made as device 1 of the kernel.
        assert!(!decodes(4097, 3) && !decodes(1, 1 << 20) && !decodes(u32::MAX, u32::MAX));
    }

    #[test]
    fn empty_and_endless_link_targets_are_refused() {
        for target in [vec![], vec![b'x'; 4096], b"a\0b".to_vec()] {
            let encoded = postcard::to_stdvec(&Node::Symlink {
                target: target.into(),
            })
            .expect("encode");
            assert!(postcard::from_bytes::<Node>(&encoded).is_err());
        }
    }
}
