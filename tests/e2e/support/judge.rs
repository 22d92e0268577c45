//! Judges of whether two trees are the same: rsync, which nobody here wrote, and the own
//! comparison, which also sees nanoseconds and paths beyond PATH_MAX.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::facts::{Facts, differences, facts};
use super::needs;

/// Panics unless both judges find `copy` to be the same as `original`.
pub(crate) fn same(original: &Path, copy: &Path) {
    same_except(original, copy, &[]);
}

/// As `same`, rsync leaving out what the patterns in `excluded` match: sockets, which
/// are not copied, and what it cannot read. The own comparison leaves out sockets by itself.
pub(crate) fn same_except(original: &Path, copy: &Path, excluded: &[&str]) {
    let found = rsync(original, copy, excluded);
    assert!(
        found.is_empty(),
        "rsync finds differences between {} and {}:\n{found}",
        original.display(),
        copy.display(),
    );
    same_facts(original, copy);
}

/// Panics unless the own comparison finds `copy` to be the same as `original`.
pub(crate) fn same_facts(original: &Path, copy: &Path) {
    untouched(&facts(original), copy);
}

/// Panics unless the tree at `root` still is as it `was`.
pub(crate) fn untouched(was: &Facts, root: &Path) {
    let found = differences(was, &facts(root));
    assert!(
        found.is_empty(),
        "in {}:\n{}",
        root.display(),
        found.join("\n")
    );
}

/// What rsync would do to make `copy` the same as `original`; contents are compared too.
///
/// # Panics
/// If rsync fails.
pub(crate) fn rsync(original: &Path, copy: &Path, excluded: &[&str]) -> String {
    let slash = |path: &Path| {
        let mut path = path.as_os_str().to_owned();
        path.push(OsStr::new("/"));
        path
    };
    assert!(copy.is_dir(), "there is no {}", copy.display());
    let program = needs::program("rsync").expect("rsync is what judges every tree: install it");
    let output = Command::new(program)
        .args(["-aHAXnci", "--delete"])
        .args(
            excluded
                .iter()
                .map(|pattern| format!("--exclude={pattern}")),
        )
        .args([slash(original), slash(copy)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "rsync failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn judges_see_what_differs() {
    use super::{Random, edits, trees};

    let directory = tempfile::tempdir_in(super::stage::directory_for_tests()).unwrap();
    let (left, right) = (
        directory.path().join("left"),
        directory.path().join("right"),
    );
    for seed in 0..12 {
        std::fs::create_dir(&left).unwrap();
        trees::mixed(&mut Random::new(seed), &left, 40);
        super::command::tool(
            "cp",
            [OsStr::new("-a"), left.as_os_str(), right.as_os_str()],
        );
        same(&left, &right);
        edits::random(&mut Random::new(seed), &right, 1);
        let found = differences(&facts(&left), &facts(&right));
        assert!(
            !found.is_empty(),
            "the own comparison misses the edit of seed {seed}"
        );
        let found = rsync(&left, &right, &[]);
        assert!(!found.is_empty(), "rsync misses the edit of seed {seed}");
        std::fs::remove_dir_all(&left).unwrap();
        std::fs::remove_dir_all(&right).unwrap();
    }
}
