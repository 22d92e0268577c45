//! Trees that nobody here made: sources that cargo downloaded, and the documentation of the
//! installed packages. Synced, edited, rolled forward, restored, judged by rsync.

use std::path::{Path, PathBuf};

use crate::support::command::tool;
use crate::support::needs::{needs, skip};
use crate::support::{Kind, Random, Stage, edits, full, judge};

#[test]
fn sources_that_cargo_downloaded() {
    needs!("sources_that_cargo_downloaded": "rsync");
    match downloaded_sources() {
        Some(sources) => there_and_back(&sources, Kind::Tcp),
        None => skip("sources_that_cargo_downloaded", "downloaded sources"),
    }
}

#[test]
fn documentation_of_installed_packages() {
    needs!("documentation_of_installed_packages": "rsync");
    let documentation = Path::new("/usr/share/doc");
    if documentation.is_dir() {
        there_and_back(documentation, Kind::Embedded);
    } else {
        skip("documentation_of_installed_packages", "/usr/share/doc");
    }
}

/// Where cargo unpacked this project's dependencies.
fn downloaded_sources() -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO")?;
    let metadata = std::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).ok()?;
    let packages = metadata["packages"].as_array()?;
    let manifest = packages
        .iter()
        .find(|package| !package["source"].is_null())?["manifest_path"]
        .as_str()?;
    Path::new(manifest).parent()?.parent().map(Path::to_owned)
}

/// Copies entries of `original` into `source` until they are about `most` files.
fn take_part(original: &Path, source: &Path, most: usize) {
    let mut names: Vec<_> = std::fs::read_dir(original)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    let mut taken = 0;
    for path in names {
        let files = count(&path);
        if taken + files <= most {
            taken += files;
            tool("cp", ["-a".as_ref(), path.as_os_str(), source.as_os_str()]);
        }
    }
    assert!(
        taken > most / 10,
        "{} has {taken} files only",
        original.display()
    );
}

fn count(path: &Path) -> usize {
    if !path.symlink_metadata().unwrap().is_dir() {
        return 1;
    }
    let entries = std::fs::read_dir(path).unwrap();
    1 + entries
        .map(|entry| count(&entry.unwrap().path()))
        .sum::<usize>()
}

fn there_and_back(original: &Path, kind: Kind) {
    let stage = Stage::new(kind);
    take_part(
        original,
        &stage.source,
        if full() { 100_000 } else { 4_000 },
    );
    let first = stage.sync_and_judge();
    assert_eq!(first["snapshot"]["number"], 1, "{first}");
    for round in 0..3 {
        edits::random(&mut Random::new(round), &stage.source, 100);
        let data = stage.sync_and_judge();
        assert_eq!(data["snapshot"]["number"], round + 2, "{data}");
        let sent = (
            data["bytes_sent"].as_u64().unwrap(),
            first["bytes_sent"].as_u64().unwrap(),
        );
        assert!(
            sent.0 < sent.1 / 4,
            "100 edits cost {} of {} bytes",
            sent.0,
            sent.1
        );
    }
    stage.ask("verify").ok();
    let target = stage.path().join("restored");
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);
}
