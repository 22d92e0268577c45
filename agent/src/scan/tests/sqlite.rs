//! SQLite databases among the files, taken by somebody who puts their log behind them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use understudy_databases::sqlite::{Image, ImageError, Way};
use understudy_protocol::{ContentHash, Node};

use super::*;
use crate::SyncReport;
use crate::images::{Imaged, Images, Which};
use crate::journal::Journal;
use crate::scan::Turn;
use crate::sync::{Reliance, by_itself, cycle};
use crate::testing::observer::Observer;

#[derive(Debug, Default)]
struct Copier {
    taken: AtomicU64,
}

impl Images for Copier {
    fn take(&self, which: Which<'_>, _max_lock: Duration) -> Result<Imaged, ImageError> {
        use std::os::unix::ffi::OsStrExt;
        let below = std::ffi::OsStr::from_bytes(which.directory.as_bytes());
        let path = which.root.join(below).join(which.name.as_os_str());
        let mut bytes = fs::read(&path).map_err(|_| ImageError::Gone)?;
        if bytes.get(100) == Some(&b'?') {
            return Err(ImageError::Damaged("so it is".to_owned()));
        }
        bytes.extend(fs::read(beside(&path, "-wal")).unwrap_or_default());
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let into = which.root.with_file_name(format!("image{number}"));
        fs::write(&into, bytes).expect("write");
        let image = Image {
            way: Way::Held,
            writers_waited: Duration::ZERO,
        };
        Ok(Imaged::new(into, image))
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// What looks like a database.
fn database(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; 600];
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes[16..18].copy_from_slice(&512_u16.to_be_bytes());
    bytes[21..24].copy_from_slice(&[64, 32, 32]);
    bytes[100..100 + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// What looks like its log.
fn log(text: &str) -> Vec<u8> {
    [&[0x37, 0x7f, 0x06, 0x82], text.as_bytes()].concat()
}

fn with_database() -> (Stage, Arc<Copier>) {
    let copier = Arc::<Copier>::default();
    let mut stage = filled();
    stage.images = Some(Arc::<Copier>::clone(&copier));
    stage.write("d1/shop.db", database("one"));
    stage.write("d1/shop.db-wal", log("a log"));
    stage.write("d1/shop.db-shm", 3_007_000_u32.to_le_bytes());
    (stage, copier)
}

fn run(stage: &Stage, turn: Turn, journal: Option<&Journal>) -> SyncReport {
    settle();
    let reliance = Reliance {
        turn,
        journal,
        ..by_itself(crate::sync::Carrying::On)
    };
    stage
        .with_channel(|channel| cycle(channel, &stage.source, &stage.context(), reliance))
        .expect("cycle")
}

/// What the spare has at a path: the hash of a file.
fn on_spare(stage: &Stage, path: &str) -> Option<ContentHash> {
    let tree = stage.spare().tree();
    let (entry, _) = tree.get(path.as_bytes())?;
    match entry.node {
        Node::File { hash, .. } => Some(hash),
        _ => None,
    }
}

fn state(text: &str, behind: &str) -> Option<ContentHash> {
    let bytes = [database(text), log(behind)].concat();
    Some(ContentHash::of(&bytes))
}

#[test]
fn a_database_comes_with_its_log_and_what_is_beside_it_does_not() {
    let (stage, copier) = with_database();
    let report = run(&stage, Turn::Whichever, None);
    assert!(report.is_turn_of_databases, "it was met first");
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "a log"));
    for end in ["-wal", "-shm"] {
        assert_eq!(on_spare(&stage, &format!("d1/shop.db{end}")), None);
    }
    let report = run(&stage, Turn::Databases, None);
    assert!(!report.committed && !report.is_turn_of_databases);
    assert_eq!(
        (report.files_read, copier.taken.load(Ordering::Relaxed)),
        (0, 1)
    );
    assert!(!stage.beside("image0").exists(), "a copy was left");

    // The log alone changed: the files go first, and nothing that is gone goes.
    stage.write("d1/shop.db-wal", log("a longer log"));
    fs::remove_file(stage.path("d2/f2")).expect("remove");
    let report = run(&stage, Turn::Whichever, None);
    assert!(report.is_turn_of_databases);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "a log"));
    assert!(on_spare(&stage, "d2/f2").is_some(), "a row may speak of it");
    let report = run(&stage, Turn::Databases, None);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "a longer log"));
    assert_eq!(on_spare(&stage, "d2/f2"), None, "it went before");
    assert_eq!(report.images, 1);

    // It is removed, and with it what hid the others.
    fs::remove_file(stage.path("d1/shop.db")).expect("remove");
    run(&stage, Turn::Whichever, None);
    run(&stage, Turn::Whichever, None);
    stage.compare();
}

#[test]
fn what_goes_after_a_database_was_taken_stays_for_one_snapshot() {
    let (stage, _) = with_database();
    run(&stage, Turn::Whichever, None);
    stage.write("d1/shop.db", database("two"));
    let path = stage.path("d3/f3");
    stage.at("visiting d3", move || {
        fs::remove_file(path).expect("remove");
    });
    run(&stage, Turn::Databases, None);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("two", "a log"));
    assert!(on_spare(&stage, "d3/f3").is_some());
    run(&stage, Turn::Whichever, None);
    assert_eq!(on_spare(&stage, "d3/f3"), None);
}

#[test]
fn a_log_that_changes_is_found_without_any_event() {
    let (stage, copier) = with_database();
    let observer = Observer::new(&stage.source.path, &stage.beside("state"));
    run(&stage, Turn::Whichever, Some(observer.journal()));
    run(&stage, Turn::Databases, Some(observer.journal()));
    let taken = copier.taken.load(Ordering::Relaxed);
    let report = run(&stage, Turn::Whichever, Some(observer.journal()));
    assert!(matches!(report.looked_at, crate::LookedAt::Journal { .. }));
    assert!(!report.committed && !report.is_turn_of_databases);
    assert_eq!(copier.taken.load(Ordering::Relaxed), taken);
    stage.write("d1/shop.db-wal", log("more of it"));
    assert!(run(&stage, Turn::Whichever, Some(observer.journal())).is_turn_of_databases);
    let report = run(&stage, Turn::Databases, Some(observer.journal()));
    assert_eq!((report.images, report.missed), (1, 0));
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "more of it"));
    assert_eq!(on_spare(&stage, "d1/shop.db-wal"), None);
}

#[test]
fn what_is_damaged_is_a_file_with_files_beside_it_and_is_told() {
    let (stage, _) = with_database();
    run(&stage, Turn::Whichever, None);
    stage.write("d1/shop.db", database("?"));
    for _ in 0..2 {
        let report = run(&stage, Turn::Databases, None);
        assert_eq!(report.fuzzy.len(), 1, "{report:?}");
        assert!(report.fuzzy[0].reason.contains("so it is"));
        assert!(report.troubled_since_seconds.is_some());
    }
    stage.compare();
    stage.write("d1/shop.db", database("again"));
    run(&stage, Turn::Databases, None);
    run(&stage, Turn::Databases, None);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("again", "a log"));
    assert_eq!(on_spare(&stage, "d1/shop.db-wal"), None);
}

#[test]
fn without_anybody_who_takes_them_they_are_files() {
    let (mut stage, _) = with_database();
    stage.images = None;
    run(&stage, Turn::Whichever, None);
    stage.compare();
}

#[test]
fn what_is_called_like_a_log_and_is_none_is_somebodys() {
    let (stage, _) = with_database();
    stage.write("d1/shop.db-journal", "what we did in summer");
    stage.write("d2/shop.db", database("other"));
    stage.write("d2/shop.db-wal/deep/file", "in a directory");
    run(&stage, Turn::Whichever, None);
    run(&stage, Turn::Databases, None);
    assert!(on_spare(&stage, "d1/shop.db-journal").is_some());
    assert!(on_spare(&stage, "d2/shop.db-wal/deep/file").is_some());
    assert_eq!(on_spare(&stage, "d1/shop.db-wal"), None);
}

#[test]
fn a_database_that_was_sent_as_files_is_taken_once_somebody_takes_them() {
    let (mut stage, copier) = with_database();
    stage.images = None;
    run(&stage, Turn::Whichever, None);
    stage.compare();
    stage.images = Some(Arc::<Copier>::clone(&copier));
    run(&stage, Turn::Whichever, None);
    run(&stage, Turn::Databases, None);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "a log"));
    assert_eq!(on_spare(&stage, "d1/shop.db-wal"), None);
}

/// The database is found unchanged before anything is looked at, and changes before its own turn comes.
#[test]
fn a_database_that_changes_after_its_turn_waits_for_the_next_one() {
    let (stage, _) = with_database();
    run(&stage, Turn::Whichever, None);
    run(&stage, Turn::Databases, None);
    let path = stage.path("d1/shop.db-wal");
    stage.at("visiting d1", move || {
        fs::write(path, log("a later log")).expect("write");
    });
    let report = run(&stage, Turn::Whichever, None);
    assert!(report.is_turn_of_databases);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "a log"));
    run(&stage, Turn::Databases, None);
    assert_eq!(on_spare(&stage, "d1/shop.db"), state("one", "a later log"));
}
