//! Files of the store and of the agent's state that were damaged, or come from the future.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{FILES, files_named, refused, stopped, with_a_snapshot};
use crate::support::facts::facts;
use crate::support::trees::set_generation;
use crate::support::{Kind, Stage, judge};

/// Writes noise over the pages of a database, its header included or not.
fn damage(database: &Path, from: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(database)
        .unwrap();
    let length = file.metadata().unwrap().len();
    assert!(length > from, "{} is too small", database.display());
    let noise: Vec<u8> = (from..length)
        .map(|offset| (offset % 251) as u8 | 1)
        .collect();
    file.write_all_at(&noise, from).unwrap();
}

/// Sets SQLite's `user_version`, a big-endian number in the header.
fn set_version(database: &Path, version: u32) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(database)
        .unwrap();
    file.write_all_at(&version.to_be_bytes(), 60).unwrap();
}

#[test]
fn a_catalog_that_is_damaged_is_refused() {
    for (kind, from) in [
        (Kind::Embedded, 4096),
        (Kind::Embedded, 0),
        (Kind::Tcp, 4096),
    ] {
        let (mut stage, was) = with_a_snapshot(kind);
        stopped(&mut stage, |stage| {
            damage(&stage.dataset().join(".understudy/catalog.db"), from);
        });
        set_generation(&stage.source, 2, FILES);
        refused(|| stage.sync(), 1, &["catalog.db"]);
        judge::untouched(&was, &stage.live());
    }
}

#[test]
fn a_catalog_that_is_damaged_hurts_no_other_dataset() {
    let (stage, _) = with_a_snapshot(Kind::Embedded);
    damage(&stage.dataset().join(".understudy/catalog.db"), 0);
    let run = crate::support::Run::new(["sync", "--dataset", "other"]);
    let run = run.arg(&stage.source).arg("--spare").arg(stage.spare());
    run.arg("--state").arg(&stage.state).ok();
    judge::same(&stage.source, &stage.store.join("other/live/files"));
}

#[test]
fn an_index_that_is_damaged_costs_no_data() {
    for from in [0, 4096] {
        let (stage, was) = with_a_snapshot(Kind::Embedded);
        for database in files_named(&stage.state, ".db") {
            damage(&database, from);
        }
        set_generation(&stage.source, 2, FILES);
        let outcome = stage.sync().outcome();
        if outcome.code != Some(0) {
            assert_eq!(outcome.code, Some(1), "{outcome}");
            outcome.mentions(&[".db"]);
            judge::untouched(&was, &stage.live());
            std::fs::remove_dir_all(&stage.state).unwrap();
        }
        stage.sync_and_judge();
    }
}

#[test]
fn an_object_that_is_damaged_is_not_restored() {
    let stage = Stage::new(Kind::Embedded);
    for content in ["first", "second", "third"] {
        std::fs::write(stage.source.join("file"), content.repeat(3_000)).unwrap();
        stage.sync().ok();
    }
    let objects = files_named(&stage.dataset().join(".understudy/objects"), "");
    assert!(!objects.is_empty());
    for object in objects {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&object, mode).unwrap();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&object)
            .unwrap();
        file.write_all_at(b"damaged", 10).unwrap();
    }
    let target = stage.path().join("restored");
    let outcome = stage.restore(&target).arg("--snapshot").arg("1").outcome();
    assert!(matches!(outcome.code, Some(1 | 9)), "{outcome}");
    outcome.mentions(&["file"]);
    assert!(!target.exists(), "half a restore is left");
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);
}

#[test]
fn stores_and_indexes_of_a_newer_version_are_refused() {
    let (stage, was) = with_a_snapshot(Kind::Embedded);
    set_generation(&stage.source, 2, FILES);
    for database in files_named(&stage.state, ".db") {
        set_version(&database, 9999);
    }
    refused(|| stage.sync(), 1, &["newer", "upgrade"]);
    std::fs::remove_dir_all(&stage.state).unwrap();
    set_version(&stage.dataset().join(".understudy/catalog.db"), 9999);
    refused(|| stage.sync(), 1, &["newer", "upgrade"]);
    judge::untouched(&was, &stage.live());
}

#[test]
fn a_store_of_a_newer_layout_is_refused() {
    let (stage, was) = with_a_snapshot(Kind::Embedded);
    let file = stage.store.join("understudy.store");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("format: 1", "format: 9999")).unwrap();
    refused(|| stage.sync(), 1, &["newer", "upgrade"]);
    for command in ["status", "snapshots", "verify"] {
        refused(|| stage.ask(command), 1, &["newer", "upgrade"]);
    }
    judge::untouched(&was, &stage.live());
    std::fs::write(&file, text).unwrap();
    stage.sync_and_judge();
}

#[test]
fn a_live_tree_that_somebody_took_away_is_not_taken_for_an_empty_one() {
    let (stage, _) = with_a_snapshot(Kind::Embedded);
    set_generation(&stage.source, 2, FILES);
    stage.sync().ok();
    std::fs::rename(stage.dataset().join("live"), stage.path().join("taken")).unwrap();
    let was = facts(&stage.path().join("taken"));
    set_generation(&stage.source, 3, FILES);
    let outcome = stage.sync().outcome();
    if outcome.code == Some(0) {
        judge::same(&stage.source, &stage.live());
    } else {
        outcome.mentions(&["live"]);
    }
    judge::untouched(&was, &stage.path().join("taken"));
}
