//! Small files of which differences are told, and files of which attributes alone are.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(clippy::disallowed_methods, reason = "damages files")]

mod stage;

use std::os::unix::fs::MetadataExt;

use understudy_protocol::message::{Change, Content, Piece, Touch};
use understudy_protocol::{
    Attributes, Bytes, ContentHash, FailureCode, Node, Place, ProtocolError, Timestamp,
};

use stage::{Stage, directory, entry, file, place};

const BASE: &str = "the content of a small file, of which some stays";

fn filled() -> Stage {
    let mut stage = Stage::new();
    let changes = [
        directory(place(0, "files"), 1),
        file(place(1, "small"), BASE),
        file(place(1, "other"), "other"),
    ];
    stage.upload(&changes, &[]);
    stage
}

fn delta(from: Place, pieces: Vec<Piece>, content: &str) -> Change {
    Change::Put {
        place: place(1, "small"),
        entry: entry(Node::File {
            size: content.len() as u64,
            hash: ContentHash::of(content.as_bytes()),
        }),
        content: Content::Delta(from, pieces),
    }
}

fn copy(from: u32, length: u32) -> Piece {
    Piece::Copy { from, length }
}

fn data(data: &str) -> Piece {
    Piece::Data(Bytes(data.as_bytes().to_vec()))
}

fn live(stage: &Stage, name: &str) -> String {
    std::fs::read_to_string(stage.path("live/files").join(name)).expect("live")
}

fn refused(stage: &Stage, change: Change) -> FailureCode {
    match stage.try_upload(&[change], &[]) {
        Err(ProtocolError::Failed(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pieces_become_the_new_version_and_the_former_is_history() {
    let mut stage = filled();
    let new = "the content of a LARGE file, of which some stays";
    let pieces = vec![copy(0, 17), data("LARGE"), copy(22, BASE.len() as u32 - 22)];
    stage.upload(&[delta(place(1, "small"), pieces, new)], &[]);
    assert_eq!(live(&stage, "small"), new);
    // From another file, and to nothing.
    stage.upload(&[delta(place(1, "other"), vec![copy(1, 3)], "the")], &[]);
    assert_eq!(live(&stage, "small"), "the");
    stage.upload(&[delta(place(1, "other"), vec![], "")], &[]);
    assert_eq!(live(&stage, "small"), "");
}

#[test]
fn what_does_not_lead_to_the_content_is_a_bad_delta() {
    let stage = filled();
    let small = || place(1, "small");
    let wrong = delta(small(), vec![copy(0, 3)], "not");
    assert_eq!(refused(&stage, wrong), FailureCode::BadDelta);
    let mut longer = delta(small(), vec![copy(0, 3)], "the");
    if let Change::Put { entry, .. } = &mut longer {
        let hash = ContentHash::of(b"the");
        entry.node = Node::File { size: 4, hash };
    }
    assert_eq!(refused(&stage, longer), FailureCode::BadDelta);
    let short = || delta(small(), vec![copy(0, 3)], "the");
    std::fs::write(stage.path("live/files/small"), "th").expect("write");
    assert_eq!(refused(&stage, short()), FailureCode::BadDelta);
    std::fs::remove_file(stage.path("live/files/small")).expect("remove");
    assert_eq!(refused(&stage, short()), FailureCode::BadDelta);
}

#[test]
fn what_the_protocol_forbids_is_refused() {
    let stage = filled();
    let beyond = vec![copy(BASE.len() as u32, 1)];
    let beyond = delta(place(1, "small"), beyond, "x");
    assert_eq!(refused(&stage, beyond), FailureCode::BadDelta);
    let directory = delta(place(0, "files"), vec![], "");
    assert_eq!(refused(&stage, directory), FailureCode::BadDelta);
    let nothing = delta(place(1, "nothing"), vec![], "");
    assert_eq!(refused(&stage, nothing), FailureCode::OutOfStep);
    let touch = Change::Touch {
        place: place(1, "nothing"),
        attributes: touched(),
        touch: Touch::Kept,
    };
    assert_eq!(refused(&stage, touch), FailureCode::OutOfStep);
    let root = Change::Touch {
        place: place(0, "files"),
        attributes: touched(),
        touch: Touch::Kept,
    };
    assert_eq!(refused(&stage, root), FailureCode::Misbehaved);
}

fn touched() -> Attributes {
    let mut attributes = entry(Node::Fifo).attributes;
    attributes.mode = 0o640;
    attributes.modified = Timestamp {
        seconds: 1_000_000,
        nanoseconds: 5,
    };
    attributes
}

#[test]
fn a_touched_file_has_its_new_attributes_and_its_content() {
    for touch in [Touch::Kept, Touch::Copied] {
        let mut stage = filled();
        let before = std::fs::metadata(stage.path("live/files/small")).expect("stat");
        let change = Change::Touch {
            place: place(1, "small"),
            attributes: touched(),
            touch,
        };
        stage.upload(&[change], &[]);
        let after = std::fs::metadata(stage.path("live/files/small")).expect("stat");
        assert_eq!(live(&stage, "small"), BASE);
        assert_eq!((after.mode() & 0o7777, after.mtime()), (0o640, 1_000_000));
        let is_kept = before.ino() == after.ino();
        assert_eq!(is_kept, touch == Touch::Kept);
    }
}

#[test]
fn an_older_session_has_nothing_short() {
    let mut stage = filled();
    stage.version = 3;
    let short = delta(place(1, "small"), vec![copy(0, 3)], "the");
    assert_eq!(refused(&stage, short), FailureCode::Misbehaved);
    let touch = Change::Touch {
        place: place(1, "small"),
        attributes: touched(),
        touch: Touch::Kept,
    };
    assert_eq!(refused(&stage, touch), FailureCode::Misbehaved);
}
