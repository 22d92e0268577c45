//! Receivers at the end of two pipes: given bytes, or started by an agent through a program that stands in for ssh.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::command::{Outcome, Run, binary};

/// What a receiver may allocate. Beyond it the kernel refuses, and the receiver dies of that.
const MEMORY: &str = "--data=300000000";

/// Gives `bytes` to a receiver of its own, says that this was all, and waits for its end.
///
/// # Panics
/// If it does not end, answers without end, dies, or needs much memory.
pub(crate) fn send(store: &Path, bytes: &[u8]) -> Outcome {
    let run = Run::new(["receiver", "--stdio", "--store"]).arg(store);
    let outcome = run.through(&["prlimit", MEMORY]).given(bytes);
    let given = bytes[..bytes.len().min(60)].escape_ascii();
    assert_eq!(outcome.code, Some(0), "given {given}: {outcome}");
    assert!(
        outcome.stdout.len() < 10 << 20,
        "given {given}: it answers without end"
    );
    assert!(
        !outcome.stderr.contains("panicked"),
        "given {given}: {outcome}"
    );
    outcome
}

/// What an agent sends to a store that is not there yet; `sync` is a run without its spare.
pub(crate) fn record(directory: &Path, sync: Run) -> Vec<u8> {
    let file = directory.join("recorded");
    let ssh = stand_in(directory, &format!("tee '{}' | ", file.display()));
    let spare = format!(
        "ssh://recorded{}",
        directory.join("recorded store").display()
    );
    sync.args(["--spare", &spare, "--ssh"]).arg(ssh).ok();
    std::fs::read(file).unwrap()
}

/// A program that takes what ssh does and runs the receiver here; `before` goes before that in a line of shell.
pub(crate) fn stand_in(directory: &Path, before: &str) -> PathBuf {
    let path = directory.join("stand-in-for-ssh");
    let programs = binary().parent().unwrap().display().to_string();
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\nPATH='{programs}':\"$PATH\"\n{before}sh -c \"$last\"\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}
