//! What a main says of its snapshots: kept as it came, with the snapshot, for as long as that is there.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

#[allow(dead_code, reason = "other tests use the rest")]
mod stage;

use understudy_protocol::message::{Change, ReadManifest, Stated};
use understudy_protocol::{FailureCode, Message, ProtocolError, limits};
use understudy_receiver::{Reserve, guard};

use stage::{Stage, begin, dataset, directory, file, hear, place, send};

fn says(text: &str) -> Message {
    Message::Stated(Stated {
        statement: text.as_bytes().to_vec().into(),
    })
}

/// What the receiver tells with a manifest, before everything else, or that there is no such snapshot.
fn told(stage: &Stage, number: Option<u64>) -> Option<String> {
    stage.talk(|channel| {
        let dataset = dataset();
        send(
            channel,
            &Message::ReadManifest(ReadManifest { dataset, number }),
        );
        match hear(channel).expect("manifest") {
            Message::Stated(told) => String::from_utf8(told.statement.0).ok(),
            Message::Manifest(_) => None,
            other => panic!("{other:?}"),
        }
    })
}

fn removals(numbers: std::ops::Range<u32>) -> Vec<Change> {
    let removal = |number| Change::Remove {
        place: place(2, &format!("f{number}")),
    };
    numbers.map(removal).collect()
}

fn with_files() -> Stage {
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.extend((0..20).map(|number| {
        file(
            place(2, &format!("f{number}")),
            &format!("{number} ").repeat(50),
        )
    }));
    stage.upload(&changes, &[says("first")]);
    stage
}

fn assert_refused(stage: &Stage, changes: &[Change], text: &str) {
    match stage.try_upload(changes, &[says(text)]) {
        Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::Refused => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_statement_is_told_with_its_snapshot_and_before_an_upload() {
    let mut stage = with_files();
    assert_eq!(told(&stage, None).as_deref(), Some("first"));
    let left = stage.talk(begin);
    assert_eq!(left.stated.as_deref(), Some(&b"first"[..]));
    // Nobody need say anything.
    stage.upload(&[file(place(2, "more"), "more")], &[]);
    assert_eq!(told(&stage, None), None);
    assert_eq!(told(&stage, Some(1)).as_deref(), Some("first"));
    assert_eq!(stage.talk(begin).stated, None);
}

#[test]
fn what_is_held_has_its_own_until_another_takes_its_place() {
    let mut stage = with_files();
    assert_refused(&stage, &removals(0..18), "held");
    assert_eq!(told(&stage, None).as_deref(), Some("first"));
    // Another one, which is released.
    let most = removals(0..19);
    assert_refused(&stage, &most, "held again");
    let held = guard::held(&stage.store, &dataset())
        .expect("held")
        .expect("held");
    let digest = held.digest.to_string();
    guard::release(&stage.store, &dataset(), &digest, Reserve::default()).expect("released");
    assert_eq!(told(&stage, None).as_deref(), Some("held again"));
    // What is rejected leaves nothing.
    stage.entries = stage.after(&most);
    stage.position = stage.talk(|channel| {
        send(
            channel,
            &Message::Begin(understudy_protocol::message::Begin { dataset: dataset() }),
        );
        match hear(channel).expect("ready") {
            Message::Ready(ready) => ready.position,
            other => panic!("{other:?}"),
        }
    });
    stage.upload(&[file(place(2, "f0"), "back")], &[]);
    assert_eq!(told(&stage, None), None);
    assert_eq!(told(&stage, Some(2)).as_deref(), Some("held again"));
}

#[test]
fn an_upload_that_fails_says_nothing() {
    let mut stage = with_files();
    let nothing = [Change::Remove {
        place: place(2, "nothing"),
    }];
    stage
        .try_upload(&nothing, &[says("failed")])
        .expect_err("out of step");
    assert_eq!(told(&stage, None).as_deref(), Some("first"));
    stage.upload(&[file(place(2, "more"), "more")], &[]);
    assert_eq!(told(&stage, None), None);
}

#[test]
fn more_than_any_statement_is_refused() {
    let stage = with_files();
    let most = "x".repeat(limits::STATEMENT_BYTES + 1);
    let changes = [file(place(2, "more"), "more")];
    let error = stage
        .try_upload(&changes, &[says(&most)])
        .expect_err("too long");
    assert!(error.to_string().contains("statement"), "{error}");
    assert_eq!(told(&stage, None).as_deref(), Some("first"));
}
