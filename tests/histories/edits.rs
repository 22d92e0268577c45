//! Random changes of a source tree, of everything that a snapshot keeps.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, mknodat, renameat_with};

use crate::random::Random;

/// Sizes below and above each bound at which contents are treated in another way, large files apart.
const SIZES: [usize; 10] = [0, 1, 63, 64, 100, 2047, 2048, 5000, 65_537, 300_000];
/// Just long enough to be patched in place.
const LARGE: usize = (4 << 20) + 1234;
const PAGE: u64 = 4096;
const NAMES: [&str; 6] = ["a", "b", "c", "d\u{e9}", "e f", "g"];

/// Makes a file that is patched in place when pages of it change.
pub(crate) fn make_large(source: &Path, random: &mut Random) {
    fs::write(source.join("large"), random.noise(LARGE)).unwrap();
}

/// Changes something. The file `anchor` stays.
pub(crate) fn edit(source: &Path, random: &mut Random) {
    let mut directories = vec![source.to_owned()];
    let mut leaves = Vec::new();
    list(source, &mut directories, &mut leaves);
    let all: Vec<PathBuf> = directories[1..].iter().chain(&leaves).cloned().collect();
    let somewhere = random.pick(&directories).join(random.pick(&NAMES));
    match random.below(20) {
        0..4 => write(&somewhere, &content(random)),
        4 => make(&somewhere, |path| fs::create_dir(path).unwrap()),
        5 => make(&somewhere, |path| {
            symlink("elsewhere/\u{fc}", path).unwrap();
        }),
        6 => make(&somewhere, |path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        }),
        7 if !leaves.is_empty() => hard_link(any(&leaves, random), &somewhere),
        8..10 if !all.is_empty() => remove(any(&all, random)),
        10..12 if !all.is_empty() => rename(any(&all, random), &somewhere),
        12 if !all.is_empty() => exchange(any(&all, random), any(&all, random)),
        13..20 if !all.is_empty() => touch(any(&all, random), random),
        _ => {}
    }
    let large = source.join("large");
    if large.exists() && random.below(3) > 0 {
        let file = File::options().write(true).open(large).unwrap();
        // Few states of few pages, so that contents come back.
        let (page, state) = (random.below(20), random.below(3) as u8);
        file.write_all_at(&[state; 100], page * 9 * PAGE).unwrap();
    }
}

fn any<'a>(of: &'a [PathBuf], random: &mut Random) -> &'a Path {
    &of[random.index(of.len())]
}

fn list(directory: &Path, directories: &mut Vec<PathBuf>, leaves: &mut Vec<PathBuf>) {
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    found.sort_by_key(fs::DirEntry::file_name);
    for entry in found {
        if entry.file_type().unwrap().is_dir() {
            directories.push(entry.path());
            list(&entry.path(), directories, leaves);
        } else if !["anchor", "large"]
            .iter()
            .any(|name| entry.file_name() == *name)
        {
            leaves.push(entry.path());
        }
    }
}

/// Few contents, so that they come back.
fn content(random: &mut Random) -> Vec<u8> {
    let number = random.below(30);
    let size = *random.pick(&SIZES);
    Random::new(number).content(size as u64)
}

fn write(path: &Path, content: &[u8]) {
    match fs::symlink_metadata(path) {
        // In place, if it is a file.
        Ok(metadata) if metadata.is_file() => fs::write(path, content).unwrap(),
        _ => make(path, |path| fs::write(path, content).unwrap()),
    }
}

/// Makes something new at a place, of which the former owner goes.
fn make(path: &Path, make: impl FnOnce(&Path)) {
    remove(path);
    make(path);
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn hard_link(of: &Path, path: &Path) {
    if !of.starts_with(path) {
        make(path, |path| fs::hard_link(of, path).unwrap());
    }
}

fn rename(from: &Path, to: &Path) {
    if !to.starts_with(from) && !from.starts_with(to) {
        make(to, |to| fs::rename(from, to).unwrap());
    }
}

fn exchange(left: &Path, right: &Path) {
    if !left.starts_with(right) && !right.starts_with(left) {
        renameat_with(CWD, left, CWD, right, RenameFlags::EXCHANGE).unwrap();
    }
}

/// Changes what is there, or something about it.
fn touch(path: &Path, random: &mut Random) {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        return lchown(path, Some(random.below(3) as u32), None).unwrap();
    }
    let is_plain = metadata.is_dir() || metadata.is_file();
    match random.below(6) {
        0 => {
            let modes = if metadata.is_dir() {
                [0o755, 0o700, 0o555, 0o1777]
            } else {
                [0o644, 0o600, 0o4755, 0o444]
            };
            fs::set_permissions(path, Permissions::from_mode(*random.pick(&modes))).unwrap();
        }
        1 => lchown(
            path,
            Some(random.below(3) as u32),
            Some(random.below(3) as u32),
        )
        .unwrap(),
        2 if is_plain => {
            let value = random.noise(random.clone().index(200));
            rustix::fs::setxattr(path, "user.note", &value, XattrFlags::empty()).unwrap();
        }
        3 if is_plain => {
            let time = Duration::new(random.below(1 << 31), random.below(1_000_000_000) as u32);
            let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + time);
            File::open(path).unwrap().set_times(times).unwrap();
        }
        4 if metadata.is_file() => {
            // The same size and time.
            let file = File::options().write(true).open(path).unwrap();
            if metadata.len() > 0 {
                file.write_all_at(&[random.next() as u8], random.below(metadata.len()))
                    .unwrap();
                file.set_modified(metadata.modified().unwrap()).unwrap();
            }
        }
        5 if metadata.is_file() => {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(metadata.len() / 2 + random.below(100_000))
                .unwrap();
        }
        _ => {}
    }
}
