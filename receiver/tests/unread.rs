//! What a verification did not read is not proved to be right.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(
    clippy::disallowed_methods,
    reason = "plays a disk that fails, beneath the store"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stage::{Stage, dataset, directory, file, hear, place, send};
use understudy_protocol::Message;
use understudy_protocol::message::{DatasetStatus, List, ListRetention, Verify};
use understudy_receiver::scrub::{Plan, Repair, Scrub, Turn};

/// Paths and what is wrong with them.
fn told(stage: &Stage, request: &Message) -> Vec<(String, String)> {
    stage.talk(|channel| {
        send(channel, request);
        let mut told = Vec::new();
        loop {
            match hear(channel).expect("answer") {
                Message::Finding(finding) => told.push((finding.path.to_string(), finding.what)),
                Message::Verified(verified) => assert_eq!(verified.findings, told.len() as u64),
                Message::VerifyEnd(_) => return told,
                Message::Repaired(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

fn verify(stage: &Stage) -> Vec<(String, String)> {
    let dataset = Some(dataset());
    told(stage, &Message::Verify(Verify { dataset }))
}

/// What is open, as retention counts it.
fn open(stage: &Stage) -> u64 {
    stage.talk(|channel| {
        let dataset = dataset();
        send(channel, &Message::ListRetention(ListRetention { dataset }));
        loop {
            match hear(channel).expect("answer") {
                Message::RetentionEnd(end) => {
                    return end.verified.map_or(0, |verified| verified.findings);
                }
                Message::Health(_) | Message::Retention(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let modified = file.metadata().expect("stat").modified().expect("time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 0).expect("write");
    file.set_modified(modified).expect("time");
}

/// Gives the other tree a file of its own, as that of a large file is which was changed in place.
fn part(path: &Path) {
    let modified = fs::metadata(path).expect("stat").modified().expect("time");
    let (copy, above) = (path.with_extension("copy"), path.parent().expect("parent"));
    let around = fs::File::open(above).expect("open");
    let times = around.metadata().expect("stat").modified().expect("time");
    fs::copy(path, &copy).expect("copy");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&copy)
        .expect("open");
    file.set_modified(modified).expect("time");
    fs::rename(&copy, path).expect("rename");
    around.set_modified(times).expect("time");
}

/// Both trees have `large`, each its own, and that of the other tree is damaged and found to be.
fn damaged() -> Stage {
    let mut stage = Stage::new();
    stage.upload(
        &[
            directory(place(0, "files"), 1),
            file(place(1, "large"), "a large one"),
            file(place(1, "x"), "0"),
        ],
        &[],
    );
    // One former content of `x` is history then, and one in the other tree.
    stage.upload(&[file(place(1, "x"), "1")], &[]);
    stage.upload(&[file(place(1, "x"), "2")], &[]);
    let path = stage.path(".understudy/shadow/files/large");
    part(&path);
    flip(&path);
    assert_eq!(verify(&stage).len(), 1);
    assert_eq!(open(&stage), 1);
    stage
}

fn scrub(stage: &Stage) -> Scrub {
    let plan = Plan {
        every: Duration::ZERO,
        least_bytes: u64::MAX,
        most_bytes: u64::MAX,
        repair: Repair::Never,
    };
    Scrub::new(Arc::clone(&stage.store), plan)
}

fn passes(stage: &Stage) -> bool {
    stage.talk(|channel| {
        let dataset = dataset();
        send(channel, &Message::ListRetention(ListRetention { dataset }));
        let mut has_ended = false;
        loop {
            match hear(channel).expect("answer") {
                Message::Health(health) => {
                    has_ended |= health
                        .scrub
                        .is_some_and(|scrub| scrub.last.is_some() && scrub.running.is_none());
                }
                Message::RetentionEnd(_) => return has_ended,
                Message::Retention(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

#[test]
fn a_commit_between_the_trees_closes_no_finding() {
    for turns in 0..7 {
        let mut stage = damaged();
        let mut scrub = scrub(&stage);
        for _ in 0..turns {
            assert_eq!(scrub.turn(), Turn::Worked);
        }
        stage.upload(&[file(place(1, "x"), "3")], &[]);
        while !passes(&stage) {
            assert_eq!(scrub.turn(), Turn::Worked);
        }
        assert_eq!(open(&stage), 1, "a commit after {turns} turns");
        // Whichever tree it is by now.
        for twin in ["live", ".understudy/shadow"] {
            let path = stage.path(twin).join("files/large");
            if fs::read(&path).expect("read") != b"a large one" {
                flip(&path);
            }
        }
        let found = verify(&stage);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(open(&stage), 0);
    }
}

#[test]
fn a_tree_that_is_being_changed_closes_no_finding() {
    let stage = damaged();
    let marker = stage.path(".understudy/shadow/SNAPSHOT");
    let content = fs::read(&marker).expect("read");
    fs::remove_file(&marker).expect("remove");
    let found = verify(&stage);
    let is_told = |(path, what): &(String, String)| {
        path == "large" && what.contains("could not be read again")
    };
    assert!(found.iter().any(is_told), "{found:?}");
    // What only such a tree has is missing meanwhile.
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(open(&stage), 2);
    fs::write(&marker, content).expect("write");
    flip(&stage.path(".understudy/shadow/files/large"));
    let found = verify(&stage);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(open(&stage), 0);
}

fn status(stage: &Stage) -> DatasetStatus {
    stage.talk(|channel| {
        let dataset = Some(dataset());
        send(channel, &Message::List(List { dataset }));
        match hear(channel).expect("answer") {
            Message::Datasets(mut told) => told.datasets.remove(0),
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn a_dataset_without_its_catalog_is_not_sound() {
    let stage = Stage::new();
    stage.talk(stage::begin);
    assert!(verify(&stage).is_empty(), "nothing was ever sent");
    assert_eq!(status(&stage).trouble, None);
    let all = ["live", ".understudy/shadow/SNAPSHOT", ".understudy/objects"];
    for kept in all {
        let stage = damaged();
        let control = fs::read_dir(stage.path(".understudy")).expect("list");
        for entry in control {
            let entry = entry.expect("entry");
            if entry.file_name().to_string_lossy().starts_with("catalog") {
                fs::remove_file(entry.path()).expect("remove");
            }
        }
        for other in all.iter().filter(|other| **other != kept) {
            let path = stage.path(other);
            if path.is_dir() {
                fs::remove_dir_all(path).expect("remove");
            } else {
                fs::remove_file(path).expect("remove");
            }
        }
        let found = verify(&stage);
        let [(_, what)] = found.as_slice() else {
            panic!("{kept}: {found:?}");
        };
        assert!(what.contains("the catalog is gone"), "{what}");
        assert_eq!(open(&stage), 2, "{kept}: what was open stays so");
        let trouble = status(&stage).trouble;
        assert!(
            trouble.is_some_and(|trouble| trouble.contains("the catalog is gone")),
            "{kept}"
        );
    }
}
