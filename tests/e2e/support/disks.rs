//! Small file systems of their own, to be filled up or benchmarked. They need root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::command::tool;

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Where it is mounted.
    pub(crate) root: PathBuf,
    _directory: TempDir,
}

impl Disk {
    /// An ext4 file system of `size_mib` MiB on a loop device.
    pub(crate) fn ext4(size_mib: u64) -> Self {
        Self::made_by("mkfs.ext4", &["-q", "-F", "-m", "0"], size_mib)
    }

    /// A btrfs, which can share blocks between files.
    pub(crate) fn btrfs(size_mib: u64) -> Self {
        Self::made_by("mkfs.btrfs", &["-q"], size_mib)
    }

    fn made_by(mkfs: &str, options: &[&str], size_mib: u64) -> Self {
        let (directory, root) = place();
        let image = directory.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(size_mib << 20)
            .unwrap();
        let options = options.iter().map(OsStr::new);
        tool(mkfs, options.chain([image.as_os_str()]));
        mount(&["-o", "loop"], &image, &root);
        Self {
            root,
            _directory: directory,
        }
    }

    /// A tmpfs of `size_mib` MiB.
    pub(crate) fn tmpfs(size_mib: u64) -> Self {
        let (directory, root) = place();
        let options = format!("size={size_mib}m,mode=0755");
        mount(&["-t", "tmpfs", "-o", &options], Path::new("tmpfs"), &root);
        Self {
            root,
            _directory: directory,
        }
    }

    /// A ramfs, which has no extended attributes of users.
    pub(crate) fn ramfs() -> Self {
        let (directory, root) = place();
        mount(&["-t", "ramfs"], Path::new("ramfs"), &root);
        Self {
            root,
            _directory: directory,
        }
    }

    /// Lets nothing be written any more, or lets it again.
    pub(crate) fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        tool(
            "mount",
            [
                OsStr::new("-o"),
                OsStr::new(&options),
                self.root.as_os_str(),
            ],
        );
    }

    /// Bytes that may still be written.
    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.root).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.root);
    }
}

fn unmount(root: &Path) {
    let program = super::needs::program("umount").unwrap();
    let done = std::process::Command::new(program)
        .arg("--lazy")
        .arg(root)
        .status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("cannot unmount {}", root.display());
    }
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::Builder::new()
        .prefix("understudy-disk-")
        .tempdir_in(super::stage::directory_for_tests())
        .unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    (directory, root)
}

fn mount(options: &[&str], device: &Path, root: &Path) {
    let words = options
        .iter()
        .map(OsStr::new)
        .chain([device.as_os_str(), root.as_os_str()]);
    tool("mount", words);
}

/// Something that is mounted at a place, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts `device` at `place`, with further options.
    pub(crate) fn new(options: &[&str], device: &Path, place: &Path) -> Self {
        mount(options, device, place);
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}
