//! A commit in the very midst of a step.

#![expect(clippy::panic, reason = "a test that meets something else ends there")]

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;

use rustix::io::Errno;
use understudy_protocol::message::{Change, Content, StreamEnd, Touch};
use understudy_protocol::{ContentHash, Entry, Message, Node};
use understudy_tree::TreeError;
use understudy_tree::content::HoleyHasher;

use super::reading::{Found, Position, Reading, is_of_disk};
use super::{Mending, Settled, settle};
use crate::findings::Wish;
use stage::{Stage, dataset, directory, entry, file, place};

#[path = "../../tests/stage/mod.rs"]
#[allow(dead_code, reason = "the stage has more than this test needs")]
mod stage;

fn name(number: u64) -> String {
    format!("f{number:02}")
}

#[test]
fn what_a_commit_changes_under_a_step_is_no_damage() {
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.extend((0..40).map(|number| file(place(2, &name(number)), &name(number))));
    stage.upload(&changes, &[]);
    let store = Arc::clone(&stage.store);
    let stage = RefCell::new(stage);
    let mut reads = 0_u64;
    let mut pace = |_| {
        reads += 1;
        // Two commits: what was live is changed in its turn.
        if reads == 5 {
            for round in 0..2 {
                let changed = file(place(2, &name(20 + round)), "changed");
                let removed = Change::Remove {
                    place: place(2, &name(30 + round)),
                };
                let added = file(place(2, &format!("f2{round}-added")), "added");
                stage.borrow_mut().upload(&[changed, removed, added], &[]);
            }
        }
        Ok(())
    };
    let opened = store.dataset(&dataset()).expect("open").expect("there");
    let mut reading = Reading::new(&opened, &mut pace);
    let mut position = Position::Begin;
    while position != Position::End {
        let (next, found) = reading.step(position).expect("step");
        assert!(found.is_empty(), "{found:?}");
        position = next;
    }
    assert!(reads > 40, "{reads}");
}

/// A dataset of which `f` is damaged, with a copy of it or without, and what a step has found of it.
fn found(copies: &[&str]) -> (Stage, Vec<Found>) {
    let mut stage = Stage::new();
    let mut changes = vec![
        directory(place(0, "files"), 1),
        file(place(1, "f"), "first"),
    ];
    changes.extend(copies.iter().map(|name| file(place(1, name), "first")));
    stage.upload(&changes, &[]);
    stage.upload(&[file(place(1, "x"), "x")], &[]);
    let path = stage.path("live/files/f");
    let damaged = fs::OpenOptions::new().write(true).open(&path);
    let damaged = damaged.expect("open");
    let modified = fs::metadata(&path).expect("stat").modified().expect("time");
    damaged.write_all_at(b"w", 0).expect("write");
    damaged.set_modified(modified).expect("time");
    let mut pace = |_| Ok(());
    let dataset = stage.store.dataset(&dataset()).expect("open");
    let dataset = dataset.expect("there");
    let mut reading = Reading::new(&dataset, &mut pace);
    let (next, nothing) = reading.step(Position::Begin).expect("step");
    assert!(nothing.is_empty(), "{nothing:?}");
    let (_, found) = reading.step(next).expect("step");
    assert_eq!(found.len(), 1, "{found:?}");
    (stage, found)
}

fn mended(stage: &Stage, found: Vec<Found>) -> Settled {
    let store = &stage.store;
    let dataset = store.dataset(&dataset()).expect("open").expect("there");
    settle(store, &dataset, (Mending::All, None), Wish::Ask, found).expect("settle")
}

/// What is wrong with the dataset.
fn wrong(stage: &Stage) -> Vec<Found> {
    let mut pace = |_| Ok(());
    let dataset = stage.store.dataset(&dataset()).expect("open");
    let dataset = dataset.expect("there");
    let mut reading = Reading::new(&dataset, &mut pace);
    let (mut position, mut all) = (Position::Begin, Vec::new());
    while position != Position::End {
        let (next, found) = reading.step(position).expect("step");
        all.extend(found);
        position = next;
    }
    all
}

/// The same file with other attributes, or at another place.
fn same(mode: u16) -> Entry {
    let node = Node::File {
        size: 5,
        hash: ContentHash::of(b"first"),
    };
    let mut same = entry(node);
    same.attributes.mode = mode;
    same
}

#[test]
fn a_repair_does_not_bring_back_what_a_commit_has_replaced() {
    let (mut stage, found) = found(&["copy"]);
    stage.upload(&[file(place(1, "f"), "second")], &[]);
    let settled = mended(&stage, found);
    assert_eq!(settled.repaired.len(), 1, "{settled:?}");
    let live = stage.path("live/files/f");
    assert_eq!(fs::read(live).expect("read"), b"second");
    let wrong = wrong(&stage);
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_repair_follows_what_a_commit_has_touched_or_moved() {
    let touch = Change::Touch {
        place: place(1, "f"),
        attributes: same(0o640).attributes,
        touch: Touch::Kept,
    };
    let moved = [
        Change::Put {
            place: place(1, "g"),
            entry: same(0o755),
            content: Content::Keep(place(1, "f")),
        },
        Change::Remove {
            place: place(1, "f"),
        },
    ];
    for (changes, name) in [(&[touch][..], "f"), (&moved[..], "g")] {
        let (mut stage, found) = found(&["copy"]);
        stage.upload(changes, &[]);
        let settled = mended(&stage, found);
        assert_eq!(settled.repaired.len(), 1, "{settled:?}");
        let live = stage.path("live/files").join(name);
        assert_eq!(fs::read(&live).expect("read"), b"first");
        let mode = fs::metadata(live).expect("stat").permissions().mode();
        let wanted = if name == "f" { 0o640 } else { 0o755 };
        assert_eq!(mode & 0o777, wanted);
        let wrong = wrong(&stage);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

#[test]
fn what_a_commit_has_touched_and_nobody_can_mend_is_told() {
    let (mut stage, found) = found(&[]);
    let touch = Change::Touch {
        place: place(1, "f"),
        attributes: same(0o640).attributes,
        touch: Touch::Kept,
    };
    stage.upload(&[touch], &[]);
    let settled = mended(&stage, found);
    assert_eq!(settled.left.len(), 1, "{settled:?}");
}

#[test]
fn a_step_ends_within_a_directory_when_it_has_read_enough() {
    const SIZE: u64 = 40 << 20;
    let hash = HoleyHasher::default().finish(SIZE);
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1)];
    let mut streams = Vec::new();
    for number in 0..3 {
        changes.push(Change::Put {
            place: place(1, &name(number)),
            entry: entry(Node::File { size: SIZE, hash }),
            content: Content::Stream(number),
        });
        streams.push(Message::StreamEnd(StreamEnd {
            stream: number,
            size: SIZE,
            hash,
        }));
    }
    stage.upload(&changes, &streams);
    let dataset = stage.store.dataset(&dataset()).expect("open");
    let dataset = dataset.expect("there");
    let mut pace = |_| Ok(());
    let mut reading = Reading::new(&dataset, &mut pace);
    let (mut position, mut most) = (Position::Begin, 0);
    while position != Position::End {
        let (next, found) = reading.step(position).expect("step");
        assert!(found.is_empty(), "{found:?}");
        most = most.max(reading.take_tally().files);
        position = next;
    }
    assert_eq!(most, 1);
}

#[test]
fn only_what_the_disk_says_is_damage() {
    let is_of_disk = |errno: Errno| is_of_disk(&TreeError::new("list directory", b"d", errno));
    assert!(is_of_disk(Errno::IO) && is_of_disk(Errno::BADMSG));
    assert!(!is_of_disk(Errno::NOENT) && !is_of_disk(Errno::MFILE));
}
