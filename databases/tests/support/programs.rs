//! Programs of an engine in tests: skipped where they are missing, and never run as root.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Says so; where everything has to be installed, fails.
pub(crate) fn skipped(program: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{program} is missing"
    );
    eprintln!("skipped: {program} is missing");
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// As `user`, if this is root.
pub(crate) fn as_user<'a>(command: &'a mut Command, user: &str) -> &'a mut Command {
    match is_root() {
        true => command.uid(number("-u", user)).gid(number("-g", user)),
        false => command,
    }
}

/// The directory belongs to `user`, if this is root, and others may enter it.
pub(crate) fn give(directory: &Path, user: &str) {
    if is_root() {
        let (uid, gid) = (number("-u", user), number("-g", user));
        std::os::unix::fs::chown(directory, Some(uid), Some(gid)).unwrap();
    }
}

fn number(of: &str, user: &str) -> u32 {
    let output = Command::new("id").args([of, user]).output().unwrap();
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap()
}
