//! What a test needs from the machine, and what happens when it is not there.

use std::path::PathBuf;

use rustix::process::geteuid;

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether `program` is on the path, or where only root's path looks.
pub(crate) fn program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Says that `test` is skipped because it lacks `need`; a failure where CI=true.
pub(crate) fn skip(test: &str, need: &str) {
    let message = format!("skipped: {test} needs {need}");
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{message}"
    );
    eprintln!("{message}");
}

/// Returns from the test, having said so, unless all the programs named are there.
/// `root` stands for the privilege.
macro_rules! needs {
    ($test:literal: $($need:literal),+) => {
        $(
            let there = if $need == "root" {
                $crate::support::needs::is_root()
            } else {
                $crate::support::needs::program($need).is_some()
            };
            if !there {
                $crate::support::needs::skip($test, $need);
                return;
            }
        )+
    };
}
pub(crate) use needs;
