//! Somebody swaps directories and links, and files and links, under every operation: nothing outside the root is ever
//! read, made, changed or removed. Negative control: the same by plain paths is caught.
//!
//! `UNDERSTUDY_TEST_FULL=1` makes 1,000,000 tries instead of 20,000.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests prepare files by any means, and a failed preparation is a failed test"
)]

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, XattrFlags, lgetxattr, renameat_with, setxattr};
use understudy_protocol::{
    Attributes, ContentHash, DirectoryId, Entry, Name, Node, RelPath, Timestamp, Xattr,
};
use understudy_tree::attributes::{drop_default_acl, make_accessible, set_attributes};
use understudy_tree::durable::{self, Durability};
use understudy_tree::walk::walk;
use understudy_tree::{Directory, Kind, Mounts, Privileges, TreeError, node, read_xattrs, remove};

const CANARY: &[u8] = b"canary: nobody may read this";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A root whose directory `d` and whose file `f` are swapped all the time, and what is outside.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        for made in ["root", "root/d", "root/d/deep", "outside", "outside/deep"] {
            std::fs::create_dir(place(made)).unwrap();
        }
        for file in ["root/f", "root/d/file", "root/d/deep/file"] {
            std::fs::write(place(file), "inside").unwrap();
        }
        for file in ["outside/file", "outside/deep/file", "secret"] {
            std::fs::write(place(file), CANARY).unwrap();
            std::fs::set_permissions(place(file), PermissionsExt::from_mode(0o640)).unwrap();
        }
        symlink(place("outside"), place("root/link")).unwrap();
        symlink(place("secret"), place("root/link-to-file")).unwrap();
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn swap(&self, is_over: &AtomicBool, swaps: &AtomicU64) {
        let root = self.root();
        while !is_over.load(Ordering::Relaxed) {
            for (one, other) in [("d", "link"), ("f", "link-to-file")] {
                let (one, other) = (root.join(one), root.join(other));
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What was made, changed or removed outside.
    fn escapes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let place = |name: &str| self.directory.path().join(name);
        let mut names: Vec<_> = std::fs::read_dir(place("outside"))
            .unwrap()
            .chain(std::fs::read_dir(place("outside/deep")).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        if names != ["deep", "file", "file"] {
            found.push(format!("outside are {names:?}"));
        }
        for file in ["outside/file", "outside/deep/file", "secret"] {
            let path = place(file);
            let is_same = std::fs::read(&path).is_ok_and(|content| content == CANARY);
            let mode = path.symlink_metadata().map(|found| found.mode() & 0o7777);
            let mut value = [0; 16];
            let is_marked = lgetxattr(&path, "user.swapped", &mut value[..]).is_ok();
            if !is_same || !matches!(mode, Ok(0o640)) || is_marked {
                found.push(format!("{file}: {is_same}, {mode:?}, {is_marked}"));
            }
        }
        found
    }

    /// Runs `operation` again and again while things are swapped; how often it worked, and how many swaps there were.
    fn attack(&self, tries: u64, mut operation: impl FnMut(u64) -> bool) -> (u64, u64) {
        let (is_over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| self.swap(&is_over, &swaps));
            let worked = (0..tries).filter(|&number| operation(number)).count() as u64;
            is_over.store(true, Ordering::Relaxed);
            (worked, swaps.load(Ordering::Relaxed))
        })
    }
}

fn entry(node: Node, mode: u16) -> Entry {
    Entry {
        attributes: Attributes {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            modified: Timestamp {
                seconds: 1_000_000_000,
                nanoseconds: 0,
            },
            xattrs: vec![Xattr {
                name: b"user.swapped".as_slice().into(),
                value: b"swapped".as_slice().into(),
            }],
        },
        node,
        group: 0,
    }
}

fn a_file() -> Entry {
    let node = Node::File {
        size: 6,
        hash: ContentHash::of(b"inside"),
    };
    entry(node, 0o600)
}

/// Reads what was opened; panics on what is outside.
fn read(opened: Result<std::fs::File, TreeError>) -> bool {
    let Ok(mut file) = opened else {
        return false;
    };
    let mut content = Vec::new();
    if !file.metadata().unwrap().is_file() || file.read_to_end(&mut content).is_err() {
        return false;
    }
    assert_ne!(content, CANARY, "something outside was read");
    true
}

/// What is done in the directory that is swapped, once it is open.
fn operate_in(inside: &Directory, number: u64, privileges: &Privileges) -> Result<(), TreeError> {
    let (file, new) = (name("file"), name("new"));
    match number % 12 {
        0 => {
            read(Ok(inside.open_file(&file)?));
            return Ok(());
        }
        1 => drop(inside.create_file(&new)?),
        2 => inside.create_symlink(&new, b"/etc")?,
        3 => inside.create_special(&new, Kind::Fifo, (0, 0))?,
        4 => inside.link(&file, inside, &new)?,
        5 => {
            inside.rename(&file, inside, &new)?;
            return inside.rename_new(&new, inside, &file);
        }
        6 => {
            let made = inside.ensure_directory(&new)?;
            made.create_file(&file)?;
            remove::empty(&made)?;
            return inside.remove_directory(&new);
        }
        7 => return set_attributes(inside, &file, &a_file(), privileges).map(drop),
        8 => return drop_default_acl(inside),
        9 => durable::replace(inside, &new, b"new", Durability::Later)?,
        10 => {
            let content = durable::read(inside, &file, 4096)?;
            assert_ne!(
                content.as_deref(),
                Some(CANARY),
                "something outside was read"
            );
            return Ok(());
        }
        _ => {
            let target = b"/etc/passwd".as_slice().into();
            let link = entry(Node::Symlink { target }, 0o777);
            node::create_special(inside, &new, &link, privileges)?;
        }
    }
    inside.remove_file(&new)
}

/// What is done by names that are swapped themselves.
fn operate_on(root: &Directory, number: u64, privileges: &Privileges) -> Result<(), TreeError> {
    let (d, f, file) = (name("d"), name("f"), name("file"));
    match number % 8 {
        0 => {
            read(root.open_file(&f));
        }
        1 => {
            let deep = RelPath::new(b"d/deep").unwrap();
            read(root.open_beneath(&deep)?.open_file(&file));
        }
        2 => {
            let id = DirectoryId(7);
            set_attributes(root, &d, &entry(Node::Directory { id }, 0o755), privileges)?;
        }
        3 => {
            set_attributes(root, &f, &a_file(), privileges)?;
        }
        4 => make_accessible(root, &d)?,
        5 => drop(read_xattrs(root, &f)?),
        6 => {
            read(root.open_file_to_change(&f));
        }
        _ => walk(root, |directory, visited| {
            read(directory.open_file(&visited.name));
            Ok::<_, TreeError>(true)
        })?,
    }
    Ok(())
}

fn tries() -> u64 {
    match std::env::var_os("UNDERSTUDY_TEST_FULL") {
        Some(full) if full == "1" => 1_000_000,
        _ => 20_000,
    }
}

#[test]
fn nothing_outside_is_touched_whatever_is_swapped() {
    let stage = Stage::new();
    let root = Directory::open(&stage.root(), Mounts::Stay).unwrap();
    let privileges = Privileges::current();
    let tries = tries();
    let (worked, swaps) = stage.attack(tries, |number| {
        let done = match number % 2 {
            0 => operate_on(&root, number / 2, &privileges),
            _ => root
                .open_directory(&name("d"))
                .and_then(|inside| operate_in(&inside, number / 2, &privileges)),
        };
        done.is_ok()
    });
    println!("{tries} tries, {worked} of them worked, {swaps} swaps");
    assert_eq!(stage.escapes(), Vec::<String>::new());
    assert!(worked > tries / 100, "{worked} of {tries} worked");
    assert!(swaps > tries / 100, "{swaps} swaps in {tries} tries");
}

/// The same by plain paths, as often as it takes: on a busy machine, thousands of tries can pass between two swaps.
#[test]
fn plain_paths_are_caught() {
    let stage = Stage::new();
    let root = stage.root();
    let deadline = Instant::now() + Duration::from_mins(1);
    let (mut was_read, mut swaps) = (0_u64, 0_u64);
    while (was_read == 0 || stage.escapes().is_empty()) && Instant::now() < deadline {
        let (_, more) = stage.attack(20_000, |number| {
            // Looks first, as a careful program would.
            let found = root.join("d").symlink_metadata();
            if !found.is_ok_and(|found| found.is_dir()) {
                return false;
            }
            let file = root.join("d/file");
            let content = std::fs::read(&file).unwrap_or_default();
            was_read += u64::from(content == CANARY);
            if number % 2 == 0 {
                let _ = setxattr(&file, "user.swapped", b"swapped", XattrFlags::empty());
            }
            true
        });
        swaps += more;
    }
    assert!(was_read > 0, "nothing was read in {swaps} swaps");
    assert_ne!(stage.escapes(), Vec::<String>::new());
}
