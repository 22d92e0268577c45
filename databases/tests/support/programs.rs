//! Programs of an engine in tests: skipped where they are missing, and never run as root.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

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

/// Writes a program. A process of its own does, for as long as this one has it open for writing, another thread's child may as well, and then
/// it cannot be run.
#[allow(dead_code, reason = "not every test needs one")]
pub(crate) fn script(path: &Path, text: &str) {
    let mut cat = Command::new("sh");
    let cat = cat
        .args(["-c", r#"cat > "$0" && chmod 755 "$0""#])
        .arg(path);
    let mut child = cat.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
}
