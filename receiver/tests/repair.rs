//! Bits that flip in the live tree: repaired in both twins from whatever is sound, or told with the snapshots they are in.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(
    clippy::disallowed_methods,
    reason = "plays a disk that fails, beneath the store"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use stage::{Stage, dataset, directory, file, hear, place, send};
use understudy_protocol::message::{Change, Content, Repair, Verify};
use understudy_protocol::{Message, Place};

/// What was found, and what was repaired.
#[derive(Debug, Default)]
struct Told {
    findings: Vec<(String, String)>,
    repaired: Vec<String>,
}

fn told(stage: &Stage, request: &Message) -> Told {
    stage.talk(|channel| {
        send(channel, request);
        let mut told = Told::default();
        loop {
            match hear(channel).expect("answer") {
                Message::Finding(finding) => {
                    told.findings.push((finding.path.to_string(), finding.what));
                }
                Message::Repaired(repaired) => told.repaired.push(repaired.path.to_string()),
                Message::Verified(verified) => {
                    assert_eq!(verified.findings, told.findings.len() as u64);
                }
                Message::VerifyEnd(_) => return told,
                other => panic!("{other:?}"),
            }
        }
    })
}

fn repair(stage: &Stage) -> Told {
    let dataset = Some(dataset());
    told(stage, &Message::Repair(Repair { dataset }))
}

fn verify(stage: &Stage) -> Told {
    let dataset = Some(dataset());
    told(stage, &Message::Verify(Verify { dataset }))
}

/// Flips the lowest bit of a byte, and leaves the times as they were, as a failing disk does.
fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let modified = file.metadata().expect("stat").modified().expect("time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("write");
    file.set_modified(modified).expect("time");
}

fn live(stage: &Stage, path: &str) -> std::path::PathBuf {
    stage.path("live/files").join(path)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("stat").ino()
}

fn link(to: Place, of: Place, text: &str) -> [Change; 2] {
    let with_group = |change| match change {
        Change::Put {
            place,
            mut entry,
            content,
        } => {
            entry.group = 7;
            Change::Put {
                place,
                entry,
                content,
            }
        }
        other => other,
    };
    let first = with_group(file(of.clone(), text));
    let second = match with_group(file(to, text)) {
        Change::Put { place, entry, .. } => Change::Put {
            place,
            entry,
            content: Content::Sibling(of),
        },
        other => other,
    };
    [first, second]
}

/// A directory with files whose content is found elsewhere, in history, or nowhere.
fn world() -> Stage {
    let mut stage = Stage::new();
    let mut changes = vec![
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        file(place(2, "twice"), "said twice"),
        file(place(2, "again"), "said twice"),
        file(place(2, "returns"), "it was here before"),
        file(place(2, "once"), "said once"),
    ];
    changes.extend(link(place(2, "link"), place(2, "name"), "two names"));
    changes.push(file(place(2, "other"), "two names"));
    stage.upload(&changes, &[]);
    stage.upload(&[file(place(2, "returns"), "not for long")], &[]);
    stage.upload(&[file(place(1, "x"), "x")], &[]);
    stage.upload(&[file(place(2, "returns"), "it was here before")], &[]);
    stage.upload(&[file(place(1, "x"), "y")], &[]);
    stage
}

/// Makes another snapshot, so that the twins change places.
fn turn(stage: &mut Stage, text: &str) {
    stage.upload(&[file(place(1, "x"), text)], &[]);
}

#[test]
fn damage_is_repaired_in_both_twins_from_what_is_sound() {
    for damage in ["twice", "returns"] {
        let mut stage = world();
        flip(&live(&stage, &format!("d/{damage}")), 3);
        assert_eq!(verify(&stage).findings.len(), 1);
        let told = repair(&stage);
        assert_eq!(told.repaired, [format!("d/{damage}")], "{told:?}");
        assert!(told.findings.is_empty(), "{told:?}");
        for text in ["1", "2", "3"] {
            let found = verify(&stage).findings;
            assert!(found.is_empty(), "before {text}: {found:?}");
            turn(&mut stage, text);
        }
    }
}

#[test]
fn what_is_cut_or_gone_is_repaired_too() {
    let mut stage = world();
    let path = live(&stage, "d/twice");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open");
    file.set_len(3).expect("cut");
    drop(file);
    fs::remove_file(live(&stage, "d/returns")).expect("remove");
    let mut told = repair(&stage);
    told.repaired.sort();
    assert_eq!(told.repaired, ["d", "d/returns", "d/twice"], "{told:?}");
    turn(&mut stage, "1");
    let found = verify(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn all_names_of_a_file_stay_one_file() {
    let mut stage = world();
    flip(&live(&stage, "d/name"), 0);
    let told = repair(&stage);
    assert_eq!(told.repaired.len(), 1, "{told:?}");
    assert!(told.findings.is_empty(), "{told:?}");
    assert_eq!(
        inode(&live(&stage, "d/name")),
        inode(&live(&stage, "d/link"))
    );
    turn(&mut stage, "1");
    let found = verify(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_twin_with_a_copy_of_its_own_gives_it_and_keeps_it() {
    let mut stage = world();
    // The twins are equal after the first one that finds nothing to repair.
    assert!(repair(&stage).findings.is_empty());
    let shadow = stage.path(".understudy/shadow/files/d/once");
    let copy = stage.path(".understudy/copy");
    let modified = fs::metadata(&shadow)
        .expect("stat")
        .modified()
        .expect("time");
    fs::copy(&shadow, &copy).expect("copy");
    let file = fs::File::options().write(true).open(&copy).expect("open");
    file.set_modified(modified).expect("time");
    let around = fs::File::open(shadow.parent().expect("parent")).expect("open");
    let times = around.metadata().expect("stat").modified().expect("time");
    fs::rename(&copy, &shadow).expect("rename");
    around.set_modified(times).expect("time");
    let own = inode(&shadow);
    flip(&live(&stage, "d/once"), 1);
    let told = repair(&stage);
    assert_eq!(told.repaired, ["d/once"], "{told:?}");
    assert_eq!(inode(&shadow), own);
    let found = verify(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
    turn(&mut stage, "1");
    let found = verify(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_is_nowhere_else_is_told_with_its_snapshots() {
    let stage = world();
    flip(&live(&stage, "d/once"), 1);
    let before = fs::read(live(&stage, "d/once")).expect("read");
    let told = repair(&stage);
    assert!(told.repaired.is_empty(), "{told:?}");
    let [(path, what)] = told.findings.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(path, "d/once");
    assert!(
        what.contains("no other copy") && what.contains("snapshots from 1 on"),
        "{what}"
    );
    assert_eq!(fs::read(live(&stage, "d/once")).expect("read"), before);
}

#[test]
fn damaged_history_is_told_by_the_names_it_had_and_repairs_nothing() {
    let stage = world();
    assert!(repair(&stage).findings.is_empty());
    let objects = stage.path(".understudy/objects");
    let mut flipped = 0;
    for shelf in fs::read_dir(objects).expect("objects") {
        for object in fs::read_dir(shelf.expect("shelf").path()).expect("shelf") {
            flip(&object.expect("object").path(), 0);
            flipped += 1;
        }
    }
    flip(&live(&stage, "d/returns"), 0);
    let told = repair(&stage);
    assert!(told.repaired.is_empty(), "{told:?}");
    assert_eq!(told.findings.len(), flipped + 1, "{told:?}");
    let all = format!("{told:?}");
    assert!(
        all.contains("it is `d/returns` in snapshots 2 to 3"),
        "{all}"
    );
    assert!(
        all.contains("it is `d/returns` in snapshots 1 to 1"),
        "{all}"
    );
}

#[test]
fn of_many_flipped_bits_every_one_is_repaired_or_told() {
    for seed in 0..3_u64 {
        let mut stage = Stage::new();
        let content = |index: u64| format!("the content number {}", index % 12).repeat(40);
        let name = |index: u64| format!("f{index:02}");
        let mut changes = vec![directory(place(0, "files"), 1)];
        changes.extend((0..30).map(|index| file(place(1, &name(index)), &content(index))));
        stage.upload(&changes, &[]);
        turn(&mut stage, "1");
        // Of some contents all files are damaged, of some one, of some none.
        let is_flipped = |index: u64| (index % 12 + seed).is_multiple_of(3) || index % 7 == seed;
        let flipped = || (0..30).filter(|&index| is_flipped(index));
        for index in flipped() {
            flip(&live(&stage, &name(index)), index * 20 + seed);
        }
        let has_other =
            |index: u64| (0..30).any(|other| other % 12 == index % 12 && !is_flipped(other));
        let names = |are_healed| -> Vec<String> {
            let indices = flipped().filter(|&index| has_other(index) == are_healed);
            indices.map(name).collect()
        };
        let (healed, lost) = (names(true), names(false));
        assert!(!healed.is_empty() && !lost.is_empty(), "seed {seed}");
        let paths = |findings: Vec<(String, String)>| {
            let mut paths: Vec<_> = findings.into_iter().map(|(path, _)| path).collect();
            paths.sort();
            paths
        };
        let mut told = repair(&stage);
        told.repaired.sort();
        assert_eq!(told.repaired, healed, "seed {seed}");
        assert_eq!(paths(told.findings), lost, "seed {seed}");
        for text in ["2", "3"] {
            turn(&mut stage, text);
            let found = paths(verify(&stage).findings);
            assert_eq!(found, lost, "seed {seed}, after {text}");
        }
    }
}

/// Puts a file of its own in the place of one that both twins share, as a copy of a large file is.
fn part(stage: &Stage, twin: &str, path: &str) {
    let path = stage.path(twin).join("files").join(path);
    let stat = fs::metadata(&path).expect("stat");
    let modified = stat.modified().expect("time");
    let (copy, above) = (path.with_extension("copy"), path.parent().expect("parent"));
    let above_modified = fs::metadata(above).expect("stat").modified().expect("time");
    fs::copy(&path, &copy).expect("copy");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&copy)
        .expect("open");
    file.set_modified(modified).expect("time");
    fs::rename(&copy, &path).expect("rename");
    fs::File::open(above)
        .and_then(|above| above.set_modified(above_modified))
        .expect("time");
}

#[test]
fn what_the_other_tree_has_of_its_own_is_read_and_repaired() {
    let mut stage = world();
    // Both trees show the newest snapshot then.
    assert!(repair(&stage).findings.is_empty());
    part(&stage, ".understudy/shadow", "d/once");
    let found = verify(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
    flip(&stage.path(".understudy/shadow/files/d/once"), 2);
    let found = verify(&stage).findings;
    let [(path, what)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert!(path == "d/once" && what.contains("other tree"), "{found:?}");
    let served = inode(&live(&stage, "d/once"));
    assert_eq!(repair(&stage).repaired, ["d/once"]);
    assert_eq!(inode(&live(&stage, "d/once")), served, "it was sound");
    for text in ["1", "2"] {
        let found = verify(&stage).findings;
        assert!(found.is_empty(), "before {text}: {found:?}");
        turn(&mut stage, text);
    }
}

#[test]
fn an_object_is_repaired_with_what_has_its_content() {
    let mut stage = world();
    // It leaves the live tree once more, and comes back under another name.
    stage.upload(&[file(place(2, "returns"), "something else")], &[]);
    turn(&mut stage, "1");
    stage.upload(&[file(place(2, "elsewhere"), "it was here before")], &[]);
    turn(&mut stage, "2");
    let hash = understudy_protocol::ContentHash::of(b"it was here before").to_string();
    let (shelf, name) = hash.split_at(2);
    let object = stage.path(".understudy/objects").join(shelf).join(name);
    flip(&object, 1);
    assert_eq!(verify(&stage).findings.len(), 1);
    assert_eq!(repair(&stage).repaired, [format!("objects/{hash}")]);
    assert_eq!(fs::read(&object).expect("read"), b"it was here before");
    let found = verify(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
}
