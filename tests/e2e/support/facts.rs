//! An own reading of a tree: every fact about every entry, read through descriptors, so that
//! paths beyond PATH_MAX are no obstacle and nothing of the code under test is used.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, lgetxattr, llistxattr, open, openat,
    readlinkat, seek, statat,
};
use rustix::io::Errno;

/// All entries of a tree by path, `.` being the root. Sockets are left out.
pub(crate) type Facts = BTreeMap<Vec<u8>, Fact>;

/// What is known about one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// `-dlpcb`, as `ls` shows it.
    pub(crate) kind: char,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    /// Numeric owner and group.
    pub(crate) owners: (u32, u32),
    /// Of files.
    pub(crate) size: u64,
    /// Of devices.
    pub(crate) device: u64,
    /// Modification time, seconds and nanoseconds.
    pub(crate) modified: (i64, u64),
    /// Of symbolic links.
    pub(crate) target: Vec<u8>,
    /// All extended attributes, ACLs and capabilities among them.
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Hash of the content that is not zeros, with its offsets.
    pub(crate) content: u64,
    /// The first path of this entry's hard-link group; its own if it is alone.
    pub(crate) group: Vec<u8>,
}

/// All facts about the tree at `root`.
pub(crate) fn facts(root: &Path) -> Facts {
    let mut reader = Reader::default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(root, flags, Mode::empty())
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", root.display()));
    let stat = rustix::fs::fstat(&directory).unwrap();
    reader.record(b".".to_vec(), &directory, c".", &stat);
    reader.directory(&directory, b"");
    reader.facts
}

#[derive(Default)]
struct Reader {
    facts: Facts,
    groups: HashMap<(u64, u64), Vec<u8>>,
}

impl Reader {
    fn directory(&mut self, directory: &OwnedFd, prefix: &[u8]) {
        let mut names: Vec<_> = Dir::read_from(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_owned())
            .filter(|name| name.as_bytes() != b"." && name.as_bytes() != b"..")
            .collect();
        names.sort();
        for name in names {
            let stat = statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                continue;
            }
            let mut path = prefix.to_vec();
            path.extend_from_slice(name.as_bytes());
            self.record(path.clone(), directory, &name, &stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(directory, &*name, flags, Mode::empty()).unwrap();
                path.push(b'/');
                self.directory(&below, &path);
            }
        }
    }

    fn record(&mut self, path: Vec<u8>, directory: &OwnedFd, name: &CStr, stat: &Stat) {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => '-',
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::Fifo => 'p',
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            other => panic!("{other:?} at {}", path.escape_ascii()),
        };
        let group = if kind == 'd' {
            path.clone()
        } else {
            let inode = (stat.st_dev, stat.st_ino);
            self.groups
                .entry(inode)
                .or_insert_with(|| path.clone())
                .clone()
        };
        let fact = Fact {
            kind,
            mode: stat.st_mode & 0o7777,
            owners: (stat.st_uid, stat.st_gid),
            size: if kind == '-' {
                stat.st_size.cast_unsigned()
            } else {
                0
            },
            device: if matches!(kind, 'c' | 'b') {
                stat.st_rdev
            } else {
                0
            },
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            target: match kind {
                'l' => readlinkat(directory, name, Vec::new())
                    .unwrap()
                    .into_bytes(),
                _ => Vec::new(),
            },
            attributes: attributes(directory.as_fd(), name),
            content: if kind == '-' && group == path {
                content(directory, name)
            } else {
                0
            },
            group,
        };
        self.facts.insert(path, fact);
    }
}

fn attributes(directory: BorrowedFd<'_>, name: &CStr) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let mut names = vec![0_u8; 64 << 10];
    let length = match llistxattr(path.as_slice(), names.as_mut_slice()) {
        Err(Errno::NOTSUP | Errno::ACCESS) => 0,
        other => other.unwrap(),
    };
    names.truncate(length);
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .filter_map(|name| {
            let mut value = vec![0_u8; 64 << 10];
            let length = lgetxattr(path.as_slice(), name, value.as_mut_slice()).ok()?;
            value.truncate(length);
            Some((name.to_vec(), value))
        })
        .collect()
}

/// A hash of the blocks that are not all zeros; 0 if the file may not be read.
fn content(directory: &OwnedFd, name: &CStr) -> u64 {
    const BLOCK: u64 = 4096;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => return 0,
        other => other.unwrap(),
    };
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0_u8; 64 * usize::try_from(BLOCK).unwrap()];
    let mut offset = 0;
    while let Ok(data) = seek(&file, SeekFrom::Data(offset)) {
        offset = data - data % BLOCK;
        let length = rustix::io::pread(&file, &mut buffer, offset).unwrap();
        if length == 0 {
            break;
        }
        for (index, block) in (0..).zip(buffer[..length].chunks(4096)) {
            if block.iter().any(|byte| *byte != 0) {
                (offset + index * BLOCK, block).hash(&mut hasher);
            }
        }
        offset += length as u64;
    }
    hasher.finish()
}

/// The differences between two trees, one line each; none if they are the same.
pub(crate) fn differences(left: &Facts, right: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, fact) in left {
        let shown = path.escape_ascii();
        match right.get(path) {
            _ if lines.len() >= 20 => break,
            None => lines.push(format!("only on the left: {shown}")),
            Some(other) if other != fact => {
                lines.push(format!("differs: {shown}\n  {fact:?}\n  {other:?}"));
            }
            Some(_) => {}
        }
    }
    let extra = right
        .keys()
        .filter(|path| !left.contains_key(*path))
        .take(20);
    lines.extend(extra.map(|path| format!("only on the right: {}", path.escape_ascii())));
    lines
}
