//! Contents, attributes and positions that are not what they are said to be.

use understudy_protocol::message::{
    Begin, Change, Confirm, Content, Piece, Returned, StreamBase, StreamBlock, StreamCopy,
    StreamEnd, StreamResume, Verify,
};
use understudy_protocol::{
    ContentHash, DatasetName, Entry, FailureCode, Message, Node, Position, StateDigest, Timestamp,
};

use crate::victim::{
    Outcome, Victim, begin, changes, commit, digest, entry, file, of_text, place, put, xattr,
};

fn block(stream: u64, offset: u64, data: &[u8]) -> Message {
    Message::StreamBlock(StreamBlock {
        stream,
        offset,
        data: data.into(),
    })
}

fn end(stream: u64, size: u64, hash: ContentHash) -> Message {
    Message::StreamEnd(StreamEnd { stream, size, hash })
}

fn from_base(stream: u64, name: &str) -> Message {
    let place = place(1, name);
    Message::StreamBase(StreamBase { stream, place })
}

fn copy(offset: u64, from: u64, length: u64) -> Message {
    Message::StreamCopy(StreamCopy {
        stream: 1,
        offset,
        from,
        length,
    })
}

fn of(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

/// Sends these in an upload, and commits.
fn upload(victim: &Victim, base: Position, messages: &[Message]) -> Outcome {
    let last = commit(Some(base), &StateDigest::empty());
    victim.attack(&[&[begin()], messages, &[last]].concat())
}

fn refused(victim: &Victim, base: Position, messages: &[Message], code: FailureCode) {
    let outcome = upload(victim, base, messages);
    let failure = outcome.failure.unwrap_or_else(|| panic!("{messages:?}"));
    assert_eq!(failure.code, code, "{messages:?}: {failure:?}");
}

#[test]
fn streams_that_are_not_what_they_say_are_refused() {
    use FailureCode::{BadDelta, BadLeftover, Misbehaved, OutOfStep};
    let (victim, base) = Victim::new();
    let long = 1 << 62;
    let resume = Message::StreamResume(StreamResume {
        stream: 1,
        length: 1 << 20,
        hash: of("x"),
    });
    for (messages, code) in [
        (vec![block(1, 0, b"x"), end(1, 1, of("y"))], Misbehaved),
        (vec![block(1, 0, b"xy"), end(1, 1, of("x"))], Misbehaved),
        (vec![block(1, 5, b"x"), block(1, 4, b"y")], Misbehaved),
        (vec![block(1, 5, b"xy"), block(1, 6, b"y")], Misbehaved),
        (vec![end(1, 0, of("")), end(1, 0, of(""))], Misbehaved),
        (vec![end(1, u64::MAX, of(""))], Misbehaved),
        (vec![copy(0, 0, 1)], Misbehaved),
        (vec![block(1, 0, b"x"), from_base(1, "a")], Misbehaved),
        (vec![from_base(1, "a"), from_base(1, "a")], Misbehaved),
        (vec![from_base(1, "a"), copy(0, 0, 6)], BadDelta),
        (vec![from_base(1, "a"), copy(0, 5, 1)], BadDelta),
        (vec![from_base(1, "a"), copy(0, long, 1)], BadDelta),
        (vec![from_base(1, "a"), copy(0, 0, long)], BadDelta),
        (vec![from_base(1, "a"), copy(0, 0, 0)], Misbehaved),
        (vec![from_base(1, "a"), copy(u64::MAX, 0, 1)], Misbehaved),
        (vec![from_base(1, "a"), copy(0, u64::MAX, 2)], Misbehaved),
        (
            vec![from_base(1, "a"), copy(4, 0, 2), copy(5, 0, 1)],
            Misbehaved,
        ),
        (
            vec![from_base(1, "a"), copy(0, 0, 5), end(1, 5, of("x"))],
            BadDelta,
        ),
        (vec![from_base(1, "d")], BadDelta),
        (vec![from_base(1, "nothing")], OutOfStep),
        (vec![resume], BadLeftover),
        (vec![block(1, i64::MAX as u64, b"x")], Misbehaved),
    ] {
        refused(&victim, base, &messages, code);
    }
    let many: Vec<Message> = (0..100).map(|stream| block(stream, 0, b"x")).collect();
    refused(&victim, base, &many, Misbehaved);
    victim.check();
}

#[test]
fn files_that_are_not_what_they_say_are_refused() {
    use FailureCode::{BadDelta, BadLeftover, Misbehaved, NotInHistory, OutOfStep};
    let (victim, base) = Victim::new();
    let inline = |text: &str| Content::Inline(text.as_bytes().to_vec().into());
    let pieces = |pieces| Content::Delta(place(1, "a"), pieces);
    let piece = |from, length| Piece::Copy { from, length };
    for (node, content, code) in [
        (of_text("x"), inline("y"), Misbehaved),
        (of_text("x"), inline("xx"), Misbehaved),
        (of_text("x"), Content::Stream(7), Misbehaved),
        (of_text("x"), Content::Directory, Misbehaved),
        (of_text("x"), Content::Copy(place(1, "a")), OutOfStep),
        (of_text("x"), Content::Keep(place(1, "a")), OutOfStep),
        (of_text("x"), Content::Copy(place(1, "d")), OutOfStep),
        (of_text("x"), Content::Leftover, BadLeftover),
        (of_text("x"), Content::History, NotInHistory),
        (of_text("x"), pieces(vec![piece(0, u32::MAX)]), BadDelta),
        (
            of_text("x"),
            pieces(vec![piece(u32::MAX, u32::MAX)]),
            BadDelta,
        ),
        (of_text("x"), pieces(vec![piece(0, 5); 60_000]), BadDelta),
        (Node::Fifo, inline("x"), Misbehaved),
        (Node::Fifo, Content::Stream(7), Misbehaved),
        (Node::Fifo, Content::Leftover, Misbehaved),
        (
            Node::File {
                size: u64::MAX,
                hash: of(""),
            },
            inline(""),
            Misbehaved,
        ),
    ] {
        let shown = format!("{node:?}");
        let put = put(place(1, "x"), entry(node), content);
        let outcome = upload(&victim, base, &[changes(vec![put])]);
        let failure = outcome.failure.expect(&shown);
        assert_eq!(failure.code, code, "{shown}: {failure:?}");
    }
    victim.check();
}

#[test]
fn positions_and_digests_that_are_not_the_present_ones_are_refused() {
    use FailureCode::OutOfStep;
    let (victim, base) = Victim::new();
    let records = [file(place(1, "new"), "x")];
    let after = digest(&[crate::victim::base(), records.to_vec()].concat());
    let mut wrong = vec![None];
    for (epoch, number) in [(0, 1), (2, 1), (u64::MAX, 1), (1, 0), (1, 2), (1, u64::MAX)] {
        wrong.push(Some(Position {
            epoch,
            number,
            ..base
        }));
    }
    let fingerprint = StateDigest::empty().fingerprint();
    wrong.push(Some(Position {
        fingerprint,
        ..base
    }));
    for position in wrong {
        let all = [begin(), changes(records.to_vec()), commit(position, &after)];
        let failure = victim.attack(&all).failure.expect("refused");
        assert_eq!(failure.code, OutOfStep, "{position:?}: {failure:?}");
        let Some(position) = position else { continue };
        let confirm = Message::Confirm(Confirm {
            position,
            elapsed_milliseconds: 0,
        });
        let failure = victim.attack(&[begin(), confirm]).failure.expect("refused");
        assert_eq!(failure.code, OutOfStep, "{position:?}: {failure:?}");
    }
    refused(&victim, base, &[changes(records.to_vec())], OutOfStep);
    victim.still_works(base, &records, &after);
    victim.check();
}

#[test]
fn answers_that_nobody_asked_for_are_refused() {
    let (victim, base) = Victim::new();
    for stream in [None, Some(1)] {
        let returned = Message::Returned(Returned {
            hash: of("x"),
            stream,
        });
        refused(&victim, base, &[returned], FailureCode::Misbehaved);
    }
    victim.check();
}

/// Entries that an encoder writes and no decoder takes.
#[test]
fn attributes_and_devices_that_do_not_exist_are_refused() {
    let (victim, base) = Victim::new();
    let special = |node: Node| {
        put(
            place(1, "x"),
            entry(node),
            Content::Inline(Vec::new().into()),
        )
    };
    for (major, minor) in [(4096, 0), (4097, 3), (1, 1 << 20), (u32::MAX, u32::MAX)] {
        for node in [
            Node::CharacterDevice { major, minor },
            Node::BlockDevice { major, minor },
        ] {
            let records = vec![special(node)];
            refused(&victim, base, &[changes(records)], FailureCode::Misbehaved);
        }
    }
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = entry(of_text("x"));
        change(&mut entry);
        let content = Content::Inline(b"x".to_vec().into());
        put(place(1, "x"), entry, content)
    };
    let large = vec![b'v'; 70_000];
    let unfit: [&dyn Fn(&mut Entry); 11] = [
        &|entry| entry.attributes.mode = 0o17777,
        &|entry| entry.attributes.mode = u16::MAX,
        &|entry| entry.attributes.uid = u32::MAX,
        &|entry| entry.attributes.gid = u32::MAX,
        &|entry| entry.attributes.modified.nanoseconds = 1_000_000_000,
        &|entry| entry.attributes.modified.nanoseconds = u32::MAX,
        &|entry| entry.attributes.xattrs = vec![xattr("", b"v")],
        &|entry| entry.attributes.xattrs = vec![xattr("user.\0", b"v")],
        &|entry| entry.attributes.xattrs = vec![xattr("user.b", b""), xattr("user.a", b"")],
        &|entry| entry.attributes.xattrs = vec![xattr("user.a", b""), xattr("user.a", b"")],
        &|entry| {
            let named = |number: u32| xattr(&format!("user.{number}"), &large);
            entry.attributes.xattrs = (0..5).map(named).collect();
        },
    ];
    for change in unfit {
        let records = vec![with(change)];
        refused(&victim, base, &[changes(records)], FailureCode::Misbehaved);
    }
    victim.check();
}

/// What a system may have and a hostile main may choose: kept as it is or refused, and it hurts nobody.
#[test]
fn attributes_that_exist_stay_within_the_dataset() {
    let strange: [&dyn Fn(&mut Entry); 9] = [
        &|entry| entry.attributes.mode = 0o7777,
        &|entry| entry.attributes.mode = 0,
        &|entry| (entry.attributes.uid, entry.attributes.gid) = (u32::MAX - 1, u32::MAX - 1),
        &|entry| entry.attributes.modified.seconds = i64::MAX,
        &|entry| entry.attributes.modified.seconds = i64::MIN,
        &|entry| {
            entry.attributes.modified = Timestamp {
                seconds: i64::MIN,
                nanoseconds: 999_999_999,
            }
        },
        &|entry| {
            let capability = b"\x01\0\0\x02\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\0\0\0\0";
            entry.attributes.xattrs = vec![xattr("security.capability", capability)];
        },
        &|entry| {
            let names = ["trusted.overlay.opaque", "trusted.overlay.redirect"];
            entry.attributes.xattrs = names.map(|name| xattr(name, b"/etc")).to_vec();
        },
        &|entry| entry.attributes.xattrs = vec![xattr("no.such.namespace", &[b'v'; 60_000])],
    ];
    for (number, change) in strange.into_iter().enumerate() {
        let (victim, base) = Victim::new();
        let mut odd = entry(of_text("x"));
        change(&mut odd);
        let content = Content::Inline(b"x".to_vec().into());
        let record: Change = put(place(1, "odd"), odd, content);
        let records = [record];
        let all = digest(&[crate::victim::base(), records.to_vec()].concat());
        let upload = [begin(), changes(records.to_vec()), commit(Some(base), &all)];
        let outcome = victim.attack(&upload);
        let more = [file(place(1, "more"), "more")];
        match outcome.committed() {
            Some(now) => {
                let parts = [crate::victim::base(), records.to_vec(), more.to_vec()];
                victim.still_works(now, &more, &digest(&parts.concat()));
            }
            None => {
                assert!(outcome.failure.is_some(), "{number}: {outcome:?}");
                let parts = [crate::victim::base(), more.to_vec()];
                victim.still_works(base, &more, &digest(&parts.concat()));
            }
        }
        victim.check();
    }
}

#[test]
fn holes_without_end_are_refused() {
    let (victim, base) = Victim::new();
    // A hole without end costs a few bytes to tell, and would take years to hash.
    let endless = i64::MAX as u64;
    for messages in [
        vec![end(1, endless, of("x"))],
        vec![block(1, endless - 1, b"x")],
        vec![from_base(1, "a"), copy(endless - 1, 0, 1)],
    ] {
        refused(&victim, base, &messages, FailureCode::NoSpace);
    }
    let records = [file(place(1, "new"), "x")];
    let after = digest(&[crate::victim::base(), records.to_vec()].concat());
    victim.still_works(base, &records, &after);
    victim.check();
}

#[test]
fn a_capture_that_began_before_there_were_clocks_is_no_older_than_they_are() {
    let (victim, base) = Victim::new();
    let confirm = Message::Confirm(Confirm {
        position: base,
        elapsed_milliseconds: u64::MAX,
    });
    let outcome = victim.attack(&[begin(), confirm]);
    assert!(
        matches!(outcome.heard.last(), Some(Message::Confirmed(_))),
        "{outcome:?}"
    );
    let dataset = Some(DatasetName::fit(b"evil"));
    let list = understudy_protocol::message::List { dataset };
    match victim.attack(&[Message::List(list)]).heard.last() {
        Some(Message::Datasets(told)) => {
            let as_of = told.datasets[0].as_of_seconds.expect("known");
            // That of the snapshot counts, which is later.
            assert!(as_of > 0, "{as_of}");
        }
        other => panic!("{other:?}"),
    }
    victim.check();
}

#[test]
fn datasets_of_others_cannot_be_repaired_or_filled() {
    let (victim, _) = Victim::new();
    let honest = DatasetName::fit(b"honest");
    let begun = victim.attack(&[Message::Begin(Begin {
        dataset: honest.clone(),
    })]);
    let failure = begun.failure.expect("refused");
    assert_eq!(failure.code, FailureCode::Forbidden);
    let asked = victim.attack(&[Message::Verify(Verify {
        dataset: Some(honest),
    })]);
    let failure = asked.failure.expect("refused");
    assert_eq!(failure.code, FailureCode::NotFound);
    victim.check();
}
