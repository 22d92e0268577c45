use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use understudy_protocol::{DatasetName, DirectoryId, Name};
use understudy_tree::Mounts;

use super::*;
use crate::housekeeping::Stop;
use crate::recover;

struct Stage {
    scratch: tempfile::TempDir,
    dataset: Dataset,
    locked: Locked,
    catalog: Catalog,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tree that somebody else has made"
)]
impl Stage {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("directory");
        let store = Directory::open(scratch.path(), Mounts::Stay).expect("store");
        let name = DatasetName::new("site").expect("name");
        let dataset =
            Dataset::ensure(&store, scratch.path(), &name, &Arc::default()).expect("dataset");
        let locked = dataset.lock().expect("lock");
        let catalog = dataset.catalog(&locked).expect("catalog");
        let stage = Self {
            scratch,
            dataset,
            locked,
            catalog,
        };
        fs::create_dir_all(stage.live("d/e")).expect("mkdir");
        for number in 0..300 {
            fs::write(stage.live(&format!("d/{number}")), format!("{number}")).expect("write");
        }
        fs::hard_link(stage.live("d/7"), stage.live("d/e/also-7")).expect("link");
        symlink("nowhere", stage.live("link")).expect("symlink");
        stage
    }

    fn live(&self, path: &str) -> PathBuf {
        self.scratch.path().join("site/live/files").join(path)
    }

    fn shadow(&self, path: &str) -> PathBuf {
        let shadow = self.scratch.path().join("site/.understudy/shadow/files");
        shadow.join(path)
    }

    fn absorb(&self, least_number: u64) -> Option<Absorption> {
        let options = options(least_number);
        absorb(&self.dataset, &self.catalog, &self.locked, &options).expect("absorb")
    }

    fn recover(&self) -> u64 {
        recover::recover(&self.dataset, &self.catalog, &self.locked).expect("recover");
        assert_eq!(self.catalog.pending().expect("pending"), None);
        let head = self.catalog.head().expect("head");
        head.map_or(0, |head| head.snapshot.position.number)
    }
}

fn options(least_number: u64) -> AbsorbOptions {
    AbsorbOptions {
        epoch: 3,
        nature: Nature::Written,
        pin: Some("found".to_owned()),
        as_of: AsOf::Now,
        least_number,
        sound_until: None,
    }
}

#[test]
fn a_tree_without_a_snapshot_becomes_the_first_one_and_nothing_is_copied() {
    let stage = Stage::new();
    let before = fs::metadata(stage.live("d/7")).expect("stat");
    let absorption = stage.absorb(7).expect("it is new");
    let snapshot = &absorption.recorded.snapshot;
    assert_eq!((snapshot.position.number, snapshot.position.epoch), (7, 3));
    // The root, two directories, 301 names of files and a link.
    assert_eq!(snapshot.entries, 305);
    assert_eq!(absorption.tally.added, 305);
    assert!(stage.catalog.has_digest(snapshot.position).expect("digest"));
    let pins = stage.catalog.pins().expect("pins");
    assert!(pins[0].reason.starts_with("found: 305 added"), "{pins:?}");
    assert_eq!(stage.recover(), 7);
    assert!(stage.absorb(1).is_none(), "it is that already");

    let (dataset, catalog) = (&stage.dataset, &stage.catalog);
    cycle::catch_up(dataset, catalog, &stage.locked, &Stop::default()).expect("twin");
    let after = fs::metadata(stage.shadow("d/e/also-7")).expect("twin");
    assert_eq!(after.ino(), before.ino());
    assert_eq!(after.nlink(), 4);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "somebody who writes")]
fn what_is_sealed_counts_once_the_marker_says_so_and_never_before() {
    let stage = Stage::new();
    stage.absorb(1).expect("first");
    fs::write(stage.live("d/1"), "another").expect("write");
    fs::create_dir(stage.live("new")).expect("mkdir");
    fs::remove_file(stage.live("d/2")).expect("remove");
    let live = stage.dataset.live().expect("live").expect("there");
    let sealed = || {
        let (dataset, catalog) = (&stage.dataset, &stage.catalog);
        let found = find(dataset, catalog, &stage.locked, (&live, &options(1)));
        found.expect("find").expect("it differs").0
    };
    sealed();
    assert_eq!(stage.recover(), 1, "without the marker it is dropped");
    assert_eq!(stage.catalog.pins().expect("pins").len(), 1, "with its pin");
    assert!(stage.live("new").is_dir() && !stage.live("d/2").exists());

    let pending = sealed();
    marker::write(&live, &pending.snapshot).expect("marker");
    assert_eq!(stage.recover(), 2, "with it it is recorded");
    assert_eq!(fs::read(stage.live("d/1")).expect("read"), b"another");
    assert!(stage.absorb(1).is_none());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "somebody who writes")]
fn names_of_one_file_are_found_wherever_they_are() {
    let stage = Stage::new();
    stage.absorb(1).expect("first");
    // A name of a file that is otherwise as it was, one of a group, and a group that comes apart.
    fs::hard_link(stage.live("d/9"), stage.live("also-9")).expect("link");
    fs::hard_link(stage.live("d/7"), stage.live("third-7")).expect("link");
    stage.absorb(1).expect("second");
    let group = |path: &str| {
        let number = stage.catalog.head().expect("head").expect("some").snapshot;
        let mut found = None;
        let mut id = DirectoryId::FILES;
        for part in path.split('/') {
            let name = Name::new(part).expect("name");
            let row = stage
                .catalog
                .row(&Place::new(id, name), number.position.number);
            let row = row.expect("row").expect("it is there");
            id = row.entry.directory_id().unwrap_or(id);
            found = Some(row.entry.group);
        }
        found.expect("a path")
    };
    assert_ne!(group("d/9"), 0);
    assert_eq!(group("d/9"), group("also-9"));
    assert_ne!(group("d/9"), group("d/7"));
    assert_eq!(group("d/7"), group("d/e/also-7"));
    assert_eq!(group("d/7"), group("third-7"));

    fs::remove_file(stage.live("third-7")).expect("remove");
    fs::copy(stage.live("d/7"), stage.live("third-7")).expect("copy");
    stage.absorb(1).expect("third");
    assert_eq!(group("third-7"), 0);
    assert_eq!(group("d/7"), group("d/e/also-7"));
    assert!(stage.absorb(1).is_none());
}
