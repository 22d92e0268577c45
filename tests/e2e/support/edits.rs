//! Random edits of a tree, as people and programs make them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};

use super::needs::is_root;
use super::random::Random;

/// What one edit does.
#[derive(Clone, Copy, Debug)]
enum Edit {
    NewFile,
    NewDirectory,
    NewSymlink,
    NewHardLink,
    Rewrite,
    RewriteSameSize,
    Append,
    Truncate,
    RemoveFile,
    RemoveDirectory,
    Rename,
    Replace,
    Swap,
    FileToDirectory,
    DirectoryToFile,
    Mode,
    Time,
    Attribute,
    Owner,
}

const EDITS: [Edit; 19] = [
    Edit::NewFile,
    Edit::NewDirectory,
    Edit::NewSymlink,
    Edit::NewHardLink,
    Edit::Rewrite,
    Edit::RewriteSameSize,
    Edit::Append,
    Edit::Truncate,
    Edit::RemoveFile,
    Edit::RemoveDirectory,
    Edit::Rename,
    Edit::Replace,
    Edit::Swap,
    Edit::FileToDirectory,
    Edit::DirectoryToFile,
    Edit::Mode,
    Edit::Time,
    Edit::Attribute,
    Edit::Owner,
];

/// Makes `count` random edits below `root`, each of which changes something.
pub(crate) fn random(random: &mut Random, root: &Path, count: usize) {
    let mut made = 0;
    while made < count {
        let edit = *random.pick(&EDITS);
        made += usize::from(Tree::read(root).edit(edit, random).is_some());
    }
}

/// What there is to choose from.
struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Tree {
    fn read(root: &Path) -> Self {
        let mut tree = Self {
            root: root.to_owned(),
            files: Vec::new(),
            directories: Vec::new(),
        };
        tree.add(root);
        tree.files.sort();
        tree.directories.sort();
        tree
    }

    fn add(&mut self, directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                self.add(&entry.path());
                self.directories.push(entry.path());
            } else if kind.is_file() {
                self.files.push(entry.path());
            }
            debug_assert!(!kind.is_socket() || !kind.is_file());
        }
    }

    fn file<'a>(&'a self, random: &mut Random) -> Option<&'a Path> {
        (!self.files.is_empty()).then(|| random.pick(&self.files).as_path())
    }

    fn directory<'a>(&'a self, random: &mut Random) -> Option<&'a Path> {
        (!self.directories.is_empty()).then(|| random.pick(&self.directories).as_path())
    }

    fn any<'a>(&'a self, random: &mut Random) -> Option<&'a Path> {
        match random.below(3) {
            0 => self.directory(random),
            _ => self.file(random),
        }
    }

    fn new_name(&self, random: &mut Random) -> PathBuf {
        let parent = self.directory(random).unwrap_or(&self.root);
        let parent = if random.below(4) == 0 {
            &self.root
        } else {
            parent
        };
        parent.join(format!("new-{:x}", random.next()))
    }

    /// Makes the edit; nothing where the tree has nothing for it.
    fn edit(&self, edit: Edit, random: &mut Random) -> Option<()> {
        match edit {
            Edit::NewFile => write_new(&self.new_name(random), random),
            Edit::NewDirectory => std::fs::create_dir(self.new_name(random)).unwrap(),
            Edit::NewSymlink => symlink("no/where", self.new_name(random)).unwrap(),
            Edit::NewHardLink => {
                std::fs::hard_link(self.file(random)?, self.new_name(random)).unwrap();
            }
            Edit::Rewrite => {
                let path = self.file(random)?;
                let size = random.size(100_000) + 1;
                std::fs::write(path, random.content(size)).unwrap();
                let marker = random.next().to_le_bytes();
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(&marker, 0).unwrap();
            }
            Edit::RewriteSameSize => return rewrite_same_size(self.file(random)?, random),
            Edit::Append => {
                let path = self.file(random)?;
                let length = path.metadata().unwrap().len();
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(b"appended\n", length).unwrap();
            }
            Edit::Truncate => {
                let path = self.file(random)?;
                let length = path.metadata().unwrap().len();
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(length.checked_sub(1)? / 2).unwrap();
            }
            Edit::RemoveFile => std::fs::remove_file(self.file(random)?).unwrap(),
            Edit::RemoveDirectory => {
                let path = self.directory(random)?;
                if self.directories.len() < 3 || self.below(path) > self.files.len() / 4 {
                    return None;
                }
                std::fs::remove_dir_all(path).unwrap();
            }
            Edit::Rename => {
                let (from, to) = (self.any(random)?, self.new_name(random));
                if to.starts_with(from) {
                    return None;
                }
                std::fs::rename(from, to).unwrap();
            }
            Edit::Replace => {
                let (from, to) = (self.file(random)?, self.file(random)?);
                if from == to || same_inode(from, to) {
                    return None;
                }
                std::fs::rename(from, to).unwrap();
            }
            Edit::Swap => return self.swap(random),
            Edit::FileToDirectory => {
                let path = self.file(random)?;
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir(path).unwrap();
                write_new(&path.join("inner"), random);
            }
            Edit::DirectoryToFile => {
                let path = self.directory(random)?;
                if self.directories.len() < 3 || self.below(path) > self.files.len() / 4 {
                    return None;
                }
                std::fs::remove_dir_all(path).unwrap();
                write_new(path, random);
            }
            Edit::Mode => {
                let path = self.any(random)?;
                let mode = path.metadata().unwrap().permissions().mode();
                let mode = std::fs::Permissions::from_mode((mode & 0o7777) ^ 0o022);
                std::fs::set_permissions(path, mode).unwrap();
            }
            Edit::Time => set_random_time(self.any(random)?, random),
            Edit::Attribute => {
                let value = random.next().to_le_bytes();
                lsetxattr(
                    self.any(random)?,
                    "user.edited",
                    &value,
                    XattrFlags::empty(),
                )
                .unwrap();
            }
            Edit::Owner if is_root() => {
                let owner = u32::try_from(10_000 + random.below(50_000)).unwrap();
                std::os::unix::fs::lchown(self.any(random)?, Some(owner), Some(owner)).unwrap();
            }
            Edit::Owner => return None,
        }
        Some(())
    }

    fn below(&self, directory: &Path) -> usize {
        self.files
            .iter()
            .filter(|file| file.starts_with(directory))
            .count()
    }

    fn swap(&self, random: &mut Random) -> Option<()> {
        let (left, right) = (self.any(random)?, self.any(random)?);
        if left.starts_with(right) || right.starts_with(left) || same_inode(left, right) {
            return None;
        }
        let aside = self.root.join("aside-during-a-swap");
        std::fs::rename(left, &aside).unwrap();
        std::fs::rename(right, left).unwrap();
        std::fs::rename(&aside, right).unwrap();
        Some(())
    }
}

fn write_new(path: &Path, random: &mut Random) {
    let size = random.size(50_000);
    std::fs::write(path, random.content(size)).unwrap();
}

/// Changes a byte of the content; size and modification time stay.
fn rewrite_same_size(path: &Path, random: &mut Random) -> Option<()> {
    let before = path.metadata().unwrap();
    if before.len() == 0 || before.len() > 10_000_000 {
        return None;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let offset = random.below(before.len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    Some(())
}

fn set_random_time(path: &Path, random: &mut Random) {
    let time = Timespec {
        tv_sec: random.below(4_000_000_000).cast_signed(),
        tv_nsec: random.below(1_000_000_000).cast_signed(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(
        CWD,
        path.as_os_str().as_bytes(),
        &times,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

fn same_inode(left: &Path, right: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    left.metadata().unwrap().ino() == right.metadata().unwrap().ino()
}
