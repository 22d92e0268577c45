//! What is found keeps retention from removing anything until it is repaired or accepted as lost.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(
    clippy::disallowed_methods,
    reason = "plays a disk that fails, beneath the store"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stage::{Stage, dataset, directory, file, hear, place, send};
use understudy_protocol::message::Verify;
use understudy_protocol::{ContentHash, Message};
use understudy_receiver::health::accept;
use understudy_receiver::retention::{
    Grace, Mode, Moment, ObstacleKind, Policy, Pruned, Reason, Request, Trust, prune,
};

const DAY: i64 = 86_400;

/// Five snapshots, a day apart; the second's `f` is damaged in history.
fn world() -> (Stage, PathBuf) {
    let mut stage = Stage::new();
    let first = [directory(place(0, "files"), 1), file(place(1, "f"), "f 1")];
    stage.upload(&first, &[]);
    for number in 2..=5 {
        stage.upload(&[file(place(1, "f"), &format!("f {number}"))], &[]);
    }
    let catalog = rusqlite::Connection::open(stage.path(".understudy/catalog.db")).expect("open");
    let age = format!(
        "UPDATE snapshot SET committed_seconds = committed_seconds - (10 - number) * {DAY}"
    );
    catalog.execute_batch(&age).expect("age");
    let hash = ContentHash::of(b"f 2").to_string();
    let (shelf, name) = hash.split_at(2);
    let object = stage.path(".understudy/objects").join(shelf).join(name);
    (stage, object)
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 0).expect("write");
}

fn verify(stage: &Stage) -> u64 {
    let dataset = Some(dataset());
    stage.talk(|channel| {
        send(channel, &Message::Verify(Verify { dataset }));
        loop {
            match hear(channel).expect("answer") {
                Message::Verified(verified) => return verified.findings,
                Message::Finding(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

/// Nothing but the newest `newest` healthy ones stays.
fn pruned(stage: &Stage, newest: u32, mode: Mode) -> Pruned {
    let none = Duration::ZERO;
    let policy = Policy {
        all: none,
        hourly: none,
        daily: none,
        monthly: none,
        minimum_age: none,
        newest: NonZeroU32::new(newest).expect("a number"),
        grace: none,
        ..Policy::default()
    };
    let request = Request {
        policy: &policy,
        moment: &Moment::now(),
        mode,
        grace: Grace::Skip,
        trust: Trust::Given,
    };
    prune(&stage.store, &dataset(), &request).expect("prune")
}

#[test]
fn a_loss_that_is_accepted_stops_nothing_and_its_snapshot_never_counts_as_healthy() {
    let (stage, object) = world();
    flip(&object);
    assert_eq!(verify(&stage), 1);
    let stopped = pruned(&stage, 4, Mode::Act).obstacle.expect("an obstacle");
    assert_eq!(stopped.kind, ObstacleKind::Findings);
    let accepted = accept(&stage.store, &dataset()).expect("accept");
    assert_eq!(
        (accepted.now.len(), accepted.before, accepted.refused),
        (1, 0, 0)
    );
    assert_eq!(verify(&stage), 0, "it is known");
    // The fourth healthy one is the first: the second is older than three others and damaged.
    let told = pruned(&stage, 4, Mode::Act);
    assert_eq!(told.obstacle, None);
    let kept = [1, 3, 4].map(|number| (number, Reason::Newest));
    assert_eq!(told.kept[..3], kept, "{told:?}");
    assert_eq!(told.removed.len(), 1, "{told:?}");
    assert!(!object.exists());
    // With what it was about, the loss is gone.
    assert_eq!(verify(&stage), 0);
    let accepted = accept(&stage.store, &dataset()).expect("accept");
    assert_eq!(accepted, understudy_receiver::health::Accepted::default());
}

#[test]
fn what_is_found_after_a_loss_was_accepted_stops_pruning_again() {
    let (stage, object) = world();
    flip(&object);
    verify(&stage);
    accept(&stage.store, &dataset()).expect("accept");
    flip(&stage.path("live/files/f"));
    assert_eq!(verify(&stage), 1);
    assert!(pruned(&stage, 4, Mode::Look).obstacle.is_some());
}

#[test]
fn nobody_accepts_a_catalog_that_is_wrong() {
    let (stage, _) = world();
    let catalog = rusqlite::Connection::open(stage.path(".understudy/catalog.db")).expect("open");
    let lie = "UPDATE snapshot SET fingerprint = zeroblob(32) WHERE number = 5";
    catalog.execute_batch(lie).expect("lie");
    assert!(verify(&stage) > 0);
    let accepted = accept(&stage.store, &dataset()).expect("accept");
    assert!(
        accepted.now.is_empty() && accepted.refused > 0,
        "{accepted:?}"
    );
    assert!(pruned(&stage, 4, Mode::Look).obstacle.is_some());
}
