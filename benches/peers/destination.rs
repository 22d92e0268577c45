//! Where a peer writes: a file system of its own, made afresh.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::options::Options;

/// A fresh file system, unmounted and deleted when dropped; without root a fresh directory.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) root: PathBuf,
    mounted: bool,
    _directory: TempDir,
}

impl Destination {
    /// One with room for the tree twice, and for some versions of a large file.
    pub(crate) fn make(work: &Path, options: &Options) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("destination-")
            .tempdir_in(work)
            .unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mounted = is_fresh_possible();
        if mounted {
            let image = directory.path().join("image");
            let bytes = (options.bytes + options.files * 4096) * 2 + 3 * options.file + (3 << 30);
            std::fs::File::create(&image)
                .unwrap()
                .set_len(bytes)
                .unwrap();
            let inodes = (options.files * 5 / 2 + 100_000).to_string();
            run(Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-N", &inodes])
                .arg(&image));
            // Without noinit_itable the kernel would write inode tables in the background.
            run(Command::new("mount")
                .args(["-o", "loop,noinit_itable"])
                .arg(&image)
                .arg(&root));
        }
        Self {
            root,
            mounted,
            _directory: directory,
        }
    }
}

/// Whether file systems can be made and mounted here.
pub(crate) fn is_fresh_possible() -> bool {
    rustix::process::geteuid().is_root()
}

impl Drop for Destination {
    fn drop(&mut self) {
        if self.mounted {
            // A process of the receiver may take a moment to see that its parent is gone.
            let is_done = (0..20).any(|_| {
                let done = Command::new("umount").arg("-q").arg(&self.root).output();
                let is_done = done.is_ok_and(|output| output.status.success());
                if !is_done {
                    std::thread::sleep(Duration::from_millis(50));
                }
                is_done
            });
            if !is_done {
                Command::new("umount")
                    .arg("--lazy")
                    .arg(&self.root)
                    .status()
                    .ok();
            }
        }
    }
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
