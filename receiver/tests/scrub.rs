//! The scrub: it reads everything in steps, goes on where it was, finds what is damaged, and gets it back from the main.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(
    clippy::disallowed_methods,
    reason = "plays a disk that fails, beneath the store"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stage::{Stage, begin, dataset, directory, file, hear, place, send};
use understudy_protocol::message::{
    Change, Finding, FindingState, Health, ListRetention, Repair as RepairAll, Returned, ScrubEnd,
    StreamBlock, StreamEnd,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, FailureCode, Message, ProtocolError};
use understudy_receiver::scrub::{Plan, Repair, Scrub, Turn};

fn plan(repair: Repair) -> Plan {
    Plan {
        // Something is always due.
        every: Duration::ZERO,
        least_bytes: u64::MAX,
        most_bytes: u64::MAX,
        repair,
    }
}

fn health(stage: &Stage) -> Health {
    stage.talk(|channel| {
        let dataset = dataset();
        send(channel, &Message::ListRetention(ListRetention { dataset }));
        let mut health = Health {
            findings: Vec::new(),
            damaged: Vec::new(),
            scrub: None,
            open: 0,
            accepted: 0,
        };
        loop {
            match hear(channel).expect("answer") {
                Message::Health(more) => {
                    health.findings.extend(more.findings);
                    health.damaged.extend(more.damaged);
                    health.scrub = more.scrub;
                }
                Message::Retention(_) => {}
                Message::RetentionEnd(_) => return health,
                other => panic!("{other:?}"),
            }
        }
    })
}

fn last(stage: &Stage) -> Option<ScrubEnd> {
    health(stage).scrub.and_then(|scrub| scrub.last)
}

/// A whole pass by one process.
fn pass(stage: &Stage, repair: Repair) -> ScrubEnd {
    let mut scrub = Scrub::new(Arc::clone(&stage.store), plan(repair));
    loop {
        assert_eq!(scrub.turn(), Turn::Worked);
        let scrub = health(stage).scrub.expect("a state");
        if let (Some(last), None) = (scrub.last, scrub.running) {
            return last;
        }
    }
}

fn live(stage: &Stage, path: &str) -> PathBuf {
    stage.path("live/files").join(path)
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("open");
    let modified = file.metadata().expect("stat").modified().expect("time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 3).expect("write");
    file.set_modified(modified).expect("time");
}

/// Three snapshots, with one object, and more files than one step reads.
fn world() -> Stage {
    let mut stage = Stage::new();
    stage.upload(
        &[directory(place(0, "files"), 1), file(place(1, "a"), "once")],
        &[],
    );
    for part in 0..2 {
        let many = (0..1100).map(|number| {
            let name = format!("f{part}-{number:04}");
            file(place(1, &name), &format!("content of {name}"))
        });
        let mut changes: Vec<Change> = many.collect();
        changes.push(file(place(1, "a"), &format!("again {part}")));
        stage.upload(&changes, &[]);
    }
    stage
}

#[test]
fn a_pass_that_is_interrupted_after_every_step_reads_everything_once() {
    let stage = world();
    let mut processes = 0;
    let last = loop {
        let mut scrub = Scrub::new(Arc::clone(&stage.store), plan(Repair::Never));
        scrub.turn();
        processes += 1;
        if let Some(last) = last(&stage) {
            break last;
        }
    };
    assert!(processes > 5, "{processes}");
    let live: u64 = fs::read_dir(live(&stage, ""))
        .expect("list")
        .map(|entry| entry.expect("entry").metadata().expect("stat").len())
        .sum();
    // Two former contents of `a`: one is an object, and one in the other tree.
    assert_eq!(last.bytes, live + 4 + 7, "{last:?}");
    assert_eq!(last.findings, 0);
}

#[test]
fn what_is_damaged_is_found_wherever_it_is_and_forgotten_when_it_is_right_again() {
    let stage = world();
    let hash = ContentHash::of(b"once").to_string();
    let (shelf, name) = hash.split_at(2);
    let places = [
        ("f1-0777", live(&stage, "f1-0777")),
        ("a", stage.path(".understudy/shadow/files/a")),
        (
            &*format!("objects/{hash}"),
            stage.path(".understudy/objects").join(shelf).join(name),
        ),
    ];
    for (path, on_disk) in &places {
        flip(on_disk);
        let end = pass(&stage, Repair::Never);
        assert_eq!(end.findings, 1, "{path}");
        let health = health(&stage);
        let [finding] = health.findings.as_slice() else {
            panic!("{path}: {health:?}");
        };
        assert_eq!(finding.path.to_string(), *path);
        assert_eq!(finding.state, FindingState::Open);
        assert!(!health.damaged.is_empty(), "{path}");
        flip(on_disk);
        assert_eq!(pass(&stage, Repair::Never).findings, 0);
        assert!(self::health(&stage).findings.is_empty(), "{path}");
    }
}

#[test]
fn commits_in_the_midst_of_a_pass_are_no_damage() {
    let mut stage = world();
    let mut scrub = Scrub::new(Arc::clone(&stage.store), plan(Repair::Never));
    for round in 0..40 {
        scrub.turn();
        let removed = Change::Remove {
            place: place(1, &format!("f0-{:04}", round * 25)),
        };
        let changed = file(place(1, &format!("f1-{:04}", round * 25)), "changed");
        stage.upload(&[removed, changed], &[]);
    }
    assert!(last(&stage).is_some());
    let found = health(&stage).findings;
    assert!(found.is_empty(), "{found:?}");
}

fn give(channel: &mut Channel, hash: ContentHash, content: &[u8]) {
    let stream = 9;
    let returned = Returned {
        hash,
        stream: Some(stream),
    };
    send(channel, &Message::Returned(returned));
    send(
        channel,
        &Message::StreamBlock(StreamBlock {
            stream,
            offset: 0,
            data: content.to_vec().into(),
        }),
    );
    let size = content.len() as u64;
    send(
        channel,
        &Message::StreamEnd(StreamEnd { stream, size, hash }),
    );
}

/// Whether the session goes on, or why not.
fn goes_on(stage: &Stage, channel: &mut Channel) -> Result<(), ProtocolError> {
    let position = stage.position.expect("a snapshot");
    let confirm = understudy_protocol::message::Confirm {
        position,
        elapsed_milliseconds: 0,
    };
    send(channel, &Message::Confirm(confirm));
    hear(channel).map(drop)
}

#[test]
fn the_main_gives_back_what_it_has_and_nothing_else() {
    let mut stage = world();
    let (content, path) = (b"content of f1-0777", live(&stage, "f1-0777"));
    let hash = ContentHash::of(content);
    flip(&path);
    assert_eq!(pass(&stage, Repair::Always).findings, 1);
    assert_eq!(health(&stage).findings[0].state, FindingState::Wanted);
    let damaged = fs::read(&path).expect("read");
    // An agent of a former version is not asked.
    stage.version = 4;
    let wanted = stage.talk(|channel| begin(channel).wanted);
    assert!(wanted.is_empty(), "{wanted:?}");
    stage.version = understudy_protocol::version::NEWEST;
    let other: &[u8] = b"contents of f1-077";
    for wrong in [
        (hash, other),
        (ContentHash::of(other), other),
        (hash, &content[1..]),
    ] {
        let refused = stage.talk(|channel| {
            let wanted = begin(channel).wanted;
            let [one] = wanted.as_slice() else {
                panic!("{wanted:?}");
            };
            assert_eq!((one.path.to_string().as_str(), one.hash), ("f1-0777", hash));
            give(channel, wrong.0, wrong.1);
            goes_on(&stage, channel).expect_err("refused")
        });
        let code = match refused {
            ProtocolError::Failed(failure) => failure.code,
            other => panic!("{other}"),
        };
        assert_eq!(code, FailureCode::Misbehaved);
        assert_eq!(fs::read(&path).expect("read"), damaged);
    }
    stage.talk(|channel| {
        begin(channel);
        give(channel, hash, content);
        goes_on(&stage, channel).expect("it goes on");
    });
    assert_eq!(fs::read(&path).expect("read"), content);
    assert!(health(&stage).findings.is_empty());
    assert_eq!(pass(&stage, Repair::Never).findings, 0);
    stage.upload(&[file(place(1, "a"), "more")], &[]);
    assert_eq!(
        fs::read(&path).expect("read"),
        content,
        "in the other tree too"
    );
}

#[test]
fn an_object_comes_back_too_and_what_the_main_does_not_have_is_named() {
    let stage = world();
    let hash = ContentHash::of(b"once");
    let text = hash.to_string();
    let (shelf, name) = text.split_at(2);
    let object = stage.path(".understudy/objects").join(shelf).join(name);
    for has_it in [true, false] {
        flip(&object);
        assert_eq!(pass(&stage, Repair::Always).findings, 1);
        stage.talk(|channel| {
            let wanted = begin(channel).wanted;
            assert_eq!(
                (wanted[0].path.to_string().as_str(), wanted[0].hash),
                ("a", hash)
            );
            if has_it {
                give(channel, hash, b"once");
            } else {
                send(channel, &Message::Returned(Returned { hash, stream: None }));
            }
            goes_on(&stage, channel).expect("it goes on");
        });
        let found = health(&stage).findings;
        if has_it {
            assert!(found.is_empty(), "{found:?}");
            assert_eq!(fs::read(&object).expect("read"), b"once");
        } else {
            assert_eq!(found[0].state, FindingState::Lost);
        }
    }
    // Nobody is asked again for what is known to be lost.
    let wanted = stage.talk(|channel| begin(channel).wanted);
    assert!(wanted.is_empty(), "{wanted:?}");
}

fn repair(stage: &Stage) -> Vec<Finding> {
    let dataset = Some(dataset());
    stage.talk(|channel| {
        send(channel, &Message::Repair(RepairAll { dataset }));
        let mut found = Vec::new();
        loop {
            match hear(channel).expect("answer") {
                Message::Finding(finding) => found.push(finding),
                Message::Repaired(_) | Message::Verified(_) => {}
                Message::VerifyEnd(_) => return found,
                other => panic!("{other:?}"),
            }
        }
    })
}

/// A directory with a file: in the other tree something else is in its place, which there is nowhere to put.
fn without_directory() -> Stage {
    let mut stage = Stage::new();
    let tree = [
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        directory(place(2, "sub"), 3),
        file(place(3, "f"), "only once"),
    ];
    stage.upload(&tree, &[]);
    stage.upload(&[file(place(1, "x"), "x")], &[]);
    assert!(repair(&stage).is_empty(), "the trees are equal then");
    let sub = stage.path(".understudy/shadow/files/d/sub");
    fs::remove_dir_all(&sub).expect("remove");
    fs::write(&sub, "in its place").expect("write");
    fs::write(stage.path(".understudy/kept"), "no directory").expect("write");
    stage
}

fn states_of(stage: &Stage, path: &str) -> Vec<FindingState> {
    let found = health(stage).findings.into_iter();
    let of_it = found.filter(|finding| finding.path.to_string() == path);
    of_it.map(|finding| finding.state).collect()
}

#[test]
fn what_the_live_tree_has_is_not_asked_for() {
    let stage = without_directory();
    let found = repair(&stage);
    let finding = found
        .iter()
        .find(|finding| finding.path.to_string() == "d/sub/f")
        .expect("found");
    let text = "missing from the other tree; it cannot be repaired: cannot open directory `kept`";
    assert!(finding.what.contains(text), "{finding:?}");
    assert_eq!(states_of(&stage, "d/sub/f"), [FindingState::Open]);
    let wanted = stage.talk(|channel| begin(channel).wanted);
    assert!(wanted.is_empty(), "{wanted:?}");
}

#[test]
fn an_error_in_mending_ends_no_upload_and_is_not_asked_for_again_in_the_next() {
    let stage = without_directory();
    let (content, path) = (b"only once", live(&stage, "d/sub/f"));
    let hash = ContentHash::of(content);
    flip(&path);
    repair(&stage);
    let states = states_of(&stage, "d/sub/f");
    assert_eq!(states, [FindingState::Wanted, FindingState::Open]);
    stage.talk(|channel| {
        assert_eq!(begin(channel).wanted.len(), 1);
        give(channel, hash, content);
        goes_on(&stage, channel).expect("it goes on");
    });
    assert_eq!(states_of(&stage, "d/sub/f"), [FindingState::Open; 2]);
    let wanted = stage.talk(|channel| begin(channel).wanted);
    assert!(wanted.is_empty(), "{wanted:?}");
}

#[test]
fn what_there_is_no_room_for_is_not_asked_for_yet() {
    let mut stage = world();
    flip(&live(&stage, "f1-0777"));
    pass(&stage, Repair::Always);
    let reserve = stage.options.reserve;
    // More than can ever be free.
    stage.options.reserve.percent = 100;
    stage.options.reserve.enough_bytes = u64::MAX;
    let wanted = stage.talk(|channel| begin(channel).wanted);
    assert!(wanted.is_empty(), "{wanted:?}");
    assert_eq!(health(&stage).findings[0].state, FindingState::Wanted);
    stage.options.reserve = reserve;
    assert_eq!(stage.talk(|channel| begin(channel).wanted).len(), 1);
}

#[test]
fn what_is_mended_in_the_live_tree_is_not_kept_in_history_as_well() {
    let mut stage = world();
    let (content, path) = (b"content of f1-0777", live(&stage, "f1-0777"));
    let hash = ContentHash::of(content);
    // Another file had the same content once.
    stage.upload(&[file(place(1, "b"), "content of f1-0777")], &[]);
    for text in ["b", "c", "d"] {
        stage.upload(&[file(place(1, "b"), text)], &[]);
    }
    let text = hash.to_string();
    let (shelf, name) = text.split_at(2);
    let object = stage.path(".understudy/objects").join(shelf).join(name);
    assert!(!object.exists(), "the newest snapshot has it");
    flip(&path);
    pass(&stage, Repair::Always);
    stage.talk(|channel| {
        assert_eq!(begin(channel).wanted.len(), 1);
        give(channel, hash, content);
        goes_on(&stage, channel).expect("it goes on");
    });
    assert_eq!(fs::read(&path).expect("read"), content);
    assert!(!object.exists());
    assert_eq!(pass(&stage, Repair::Never).findings, 0);
}

#[test]
fn what_has_several_names_is_lost_when_the_main_has_it_at_none() {
    let mut stage = world();
    let text = "under two names";
    let hash = ContentHash::of(text.as_bytes());
    let twice = ["n1", "n2"].map(|name| file(place(1, name), text));
    stage.upload(&twice, &[]);
    for name in ["n1", "n2"] {
        flip(&live(&stage, name));
    }
    assert_eq!(pass(&stage, Repair::Always).findings, 2);
    let mut asked = Vec::new();
    for state in [FindingState::Wanted, FindingState::Lost] {
        stage.talk(|channel| {
            let wanted = begin(channel).wanted;
            asked.extend(wanted.iter().map(|one| one.path.to_string()));
            send(channel, &Message::Returned(Returned { hash, stream: None }));
            goes_on(&stage, channel).expect("it goes on");
        });
        let found = health(&stage).findings;
        assert!(found.iter().all(|one| one.state == state), "{found:?}");
    }
    assert_eq!(asked, ["n1", "n2"]);
}

#[test]
fn what_comes_back_mends_every_place_that_has_it() {
    let mut stage = Stage::new();
    let names: Vec<String> = (0..40).map(|number| format!("f{number:02}")).collect();
    let mut changes = vec![directory(place(0, "files"), 1)];
    changes.extend(names.iter().map(|name| file(place(1, name), "said often")));
    stage.upload(&changes, &[]);
    stage.upload(&[file(place(1, "x"), "x")], &[]);
    names.iter().for_each(|name| flip(&live(&stage, name)));
    assert_eq!(pass(&stage, Repair::Always).findings, 40);
    stage.talk(|channel| {
        assert_eq!(begin(channel).wanted.len(), 1);
        give(channel, ContentHash::of(b"said often"), b"said often");
        goes_on(&stage, channel).expect("it goes on");
    });
    for name in &names {
        let mended = fs::read(live(&stage, name)).expect("read");
        assert_eq!(mended, b"said often", "{name}");
    }
    assert!(health(&stage).findings.is_empty());
    assert_eq!(pass(&stage, Repair::Never).findings, 0);
}

#[test]
fn a_dataset_that_cannot_be_read_keeps_no_other_from_being_read() {
    let stage = world();
    fs::create_dir_all(stage.path("../half/.understudy")).expect("directory");
    assert_eq!(pass(&stage, Repair::Never).findings, 0);
}

#[test]
fn a_part_of_history_that_cannot_be_listed_is_found_and_the_rest_is_read() {
    let stage = world();
    fs::write(stage.path(".understudy/objects/00"), "no shelf").expect("write");
    let object = ContentHash::of(b"once").to_string();
    let (shelf, name) = object.split_at(2);
    flip(&stage.path(".understudy/objects").join(shelf).join(name));
    let last = pass(&stage, Repair::Never);
    assert_eq!(last.findings, 2, "{last:?}");
    let found = health(&stage).findings;
    let listed = found
        .iter()
        .filter(|one| one.what.contains("cannot be listed"));
    assert_eq!(listed.count(), 1, "{found:?}");
}
