//! A small file system of its own, to be filled up. It needs root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted ext4, unmounted when dropped.
pub(crate) struct Disk {
    /// Where it is mounted.
    pub(crate) root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Disk {
    /// One of `size_mib` MiB; `None`, said aloud, where there can be none. With `CI=true` there must be one.
    pub(crate) fn new(size_mib: u64) -> Option<Self> {
        let directory = crate::place::scratch();
        let (image, root) = (
            directory.path().join("image"),
            directory.path().join("root"),
        );
        std::fs::create_dir(&root).unwrap();
        File::create(&image)
            .unwrap()
            .set_len(size_mib << 20)
            .unwrap();
        let run = |program: &str, words: &[&str], paths: &[&Path]| {
            let output = Command::new(program).args(words).args(paths).output();
            output.is_ok_and(|output| output.status.success())
        };
        let is_mounted = run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-b", "4096"],
            &[&image],
        ) && run("mount", &["-o", "loop"], &[&image, &root]);
        if !is_mounted {
            let must = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!must, "no file system can be made here");
            eprintln!("skipped: no file system can be made here");
            return None;
        }
        Some(Self {
            root,
            _directory: directory,
        })
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.root).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all room but so much.
    pub(crate) fn fill(&self, leave_bytes: u64) {
        let file = File::create(self.root.join("filler")).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        let mut length = 0;
        // What the file system needs to note it is not known before.
        for _ in 0..20 {
            let room = self.free_bytes().saturating_sub(leave_bytes);
            if room < 4096
                || rustix::fs::fallocate(&file, flags, length, room).is_err() && room < 8192
            {
                break;
            }
            length = file.metadata().unwrap().len();
        }
    }

    /// Gives it back.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.root.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.root)
            .status();
    }
}
