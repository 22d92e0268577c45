//! Streams that are told as the difference to a file of the base: what they become, and what is refused.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(clippy::disallowed_methods, reason = "damages files")]

mod stage;

use understudy_protocol::message::{
    Change, Content, StreamBase, StreamBlock, StreamCopy, StreamEnd,
};
use understudy_protocol::{ContentHash, FailureCode, Message, Node, Place, ProtocolError};

use stage::{Stage, directory, entry, file, place};

const SIZE: usize = 300_000;

/// A part of a delta.
enum Part<'a> {
    Data(u64, &'a [u8]),
    /// Offset, where from, length.
    Copy(u64, u64, u64),
}
use Part::{Copy, Data};

fn former() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 100) as u8).collect()
}

/// With one large file, `large`, and an empty directory, `d`.
fn filled() -> Stage {
    let mut stage = Stage::new();
    let content = former();
    let whole = messages(None, &[Data(0, &content)], &content);
    let changes = [
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        large(&content),
        file(place(1, "small"), "x"),
    ];
    stage.upload(&changes, &whole);
    stage
}

/// Puts stream 1 as `large`.
fn large(content: &[u8]) -> Change {
    let (size, hash) = (content.len() as u64, ContentHash::of(content));
    Change::Put {
        place: place(1, "large"),
        entry: entry(Node::File { size, hash }),
        content: Content::Stream(1),
    }
}

/// Stream 1.
fn messages(base: Option<Place>, parts: &[Part<'_>], content: &[u8]) -> Vec<Message> {
    let stream = 1;
    let base = base.map(|place| Message::StreamBase(StreamBase { stream, place }));
    let parts = parts.iter().map(|part| match *part {
        Data(offset, data) => Message::StreamBlock(StreamBlock {
            stream,
            offset,
            data: data.to_vec().into(),
        }),
        Copy(offset, from, length) => Message::StreamCopy(StreamCopy {
            stream,
            offset,
            from,
            length,
        }),
    });
    let end = Message::StreamEnd(StreamEnd {
        stream,
        size: content.len() as u64,
        hash: ContentHash::of(content),
    });
    base.into_iter().chain(parts).chain([end]).collect()
}

fn upload(stage: &mut Stage, parts: &[Part<'_>], content: &[u8]) {
    let delta = messages(Some(place(1, "large")), parts, content);
    stage.upload(&[large(content)], &delta);
    let live = std::fs::read(stage.path("live/files/large")).expect("live");
    assert!(live == content, "the live file");
}

fn refused(stage: &Stage, before: &[Message], content: &[u8]) -> FailureCode {
    match stage.try_upload(&[large(content)], before) {
        Err(ProtocolError::Failed(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_and_data_become_the_new_version() {
    let mut stage = filled();
    let base = former();
    let mut changed = base.clone();
    changed[100_000..100_010].fill(200);
    let parts = [
        Copy(0, 0, 100_000),
        Data(100_000, &changed[100_000..100_010]),
        Copy(100_010, 100_010, SIZE as u64 - 100_010),
    ];
    upload(&mut stage, &parts, &changed);
    // Halves that change places, with something between.
    let swapped = [&changed[150_000..], b"between", &changed[..150_000]].concat();
    let parts = [
        Copy(0, 150_000, 150_000),
        Data(150_000, b"between"),
        Copy(150_007, 0, 150_000),
    ];
    upload(&mut stage, &parts, &swapped);
    // Shorter, and longer with a hole at the end and one where the base has data.
    upload(&mut stage, &[Copy(0, 0, 1000)], &swapped[..1000]);
    let holey = [&swapped[..100], &[0; 400], &swapped[500..600], &[0; 9400]].concat();
    upload(&mut stage, &[Copy(0, 0, 100), Copy(500, 500, 100)], &holey);
    upload(&mut stage, &[], &[]);
}

#[test]
fn what_does_not_become_what_was_announced_is_a_bad_delta_and_changes_nothing() {
    let stage = filled();
    let base = former();
    let mut other = base.clone();
    other[0] ^= 1;
    let delta = messages(Some(place(1, "large")), &[Copy(0, 0, SIZE as u64)], &other);
    assert_eq!(refused(&stage, &delta, &other), FailureCode::BadDelta);
    let live = std::fs::read(stage.path("live/files/large")).expect("live");
    assert!(live == base);
    // The same with a damaged base: whatever it is, it is not served.
    let mut damaged = base.clone();
    damaged[5] ^= 1;
    std::fs::write(stage.path("live/files/large"), damaged).expect("damage");
    let delta = messages(Some(place(1, "large")), &[Copy(0, 0, SIZE as u64)], &base);
    assert_eq!(refused(&stage, &delta, &base), FailureCode::BadDelta);
    std::fs::remove_file(stage.path("live/files/large")).expect("remove");
    assert_eq!(refused(&stage, &delta, &base), FailureCode::BadDelta);
}

#[test]
fn what_breaks_the_rules_of_deltas_is_refused() {
    let stage = filled();
    let content = former();
    let whole = SIZE as u64;
    let from = |base, parts: &[Part<'_>]| messages(base, parts, &content);
    let itself = || Some(place(1, "large"));
    let mut late = from(itself(), &[Copy(0, 0, whole)]);
    late.swap(0, 1);
    let mut twice = from(itself(), &[Copy(0, 0, whole)]);
    twice.insert(0, twice[0].clone());
    let cases = [
        (
            "backwards",
            from(itself(), &[Copy(5, 0, 10), Copy(4, 0, 10)]),
        ),
        ("too long", from(itself(), &[Copy(1, 0, whole)])),
        ("no base", from(None, &[Copy(0, 0, whole)])),
        ("a base after its copies", late),
        ("two bases", twice),
        ("an empty copy", from(itself(), &[Copy(0, 0, 0)])),
        ("an overflow", from(itself(), &[Copy(0, u64::MAX, 2)])),
    ];
    for (what, messages) in cases {
        assert_eq!(
            refused(&stage, &messages, &content),
            FailureCode::Misbehaved,
            "{what}"
        );
    }
    for (what, messages) in [
        ("beyond the end", from(itself(), &[Copy(0, 1, whole)])),
        ("a directory", from(Some(place(1, "d")), &[])),
    ] {
        let code = refused(&stage, &messages, &content);
        assert_eq!(code, FailureCode::BadDelta, "{what}");
    }
    let nowhere = from(Some(place(1, "nowhere")), &[]);
    assert_eq!(refused(&stage, &nowhere, &content), FailureCode::OutOfStep);
}

#[test]
fn an_older_session_has_no_deltas() {
    let mut stage = filled();
    stage.version = 2;
    let content = former();
    let delta = messages(
        Some(place(1, "large")),
        &[Copy(0, 0, SIZE as u64)],
        &content,
    );
    assert_eq!(refused(&stage, &delta, &content), FailureCode::Misbehaved);
}
