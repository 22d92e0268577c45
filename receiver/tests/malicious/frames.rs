//! Frames that no encoder makes: names that lead elsewhere, lengths of gigabytes, bodies that unpack to more than they say.

use understudy_protocol::frame::Deframer;
use understudy_protocol::message::{Begin, Change, Depth, ListTree, Locate};
use understudy_protocol::{
    Compression, DatasetName, Encoder, FailureCode, Frame, Message, RelPath, StateDigest, limits,
};

use crate::victim::{Victim, begin, changes, commit, file, peer, place};

/// Stands in a message for bytes that have no type.
const MARK: &[u8] = b"\x08MARKMARK";

/// A frame of these bytes.
pub(crate) fn raw(number: u8, flags: u8, body: &[u8]) -> Frame {
    let mut wire = (body.len() as u32 + 2).to_be_bytes().to_vec();
    wire.extend([number, flags]);
    wire.extend(body);
    let whole = Deframer::default().next_frame(&mut wire.as_slice());
    whole.expect("length").expect("whole")
}

pub(crate) fn plain(message: &Message) -> Frame {
    Encoder::new(Compression::Off)
        .encode(message)
        .expect("encode")
}

pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The frame with these bytes, of the length that they have, in the place of the mark.
fn marked(message: &Message, bytes: &[u8]) -> Frame {
    let frame = plain(message);
    let body = &frame.payload()[2..];
    let at = body.windows(MARK.len()).position(|window| window == MARK);
    let (before, rest) = body.split_at(at.expect("the mark"));
    let after = &rest[MARK.len()..];
    let text = [before, &varint(bytes.len() as u64), bytes, after].concat();
    raw(frame.number(), 0, &text)
}

/// Sends a frame within an upload, and commits: it must be refused as a breach of the protocol.
fn breach(victim: &Victim, base: understudy_protocol::Position, frame: Frame, what: &str) {
    let frames = [
        plain(&begin()),
        frame,
        plain(&commit(Some(base), &StateDigest::empty())),
    ];
    let outcome = victim.throw(&peer("alpha"), frames);
    let failure = outcome.failure.unwrap_or_else(|| panic!("{what}"));
    assert_eq!(failure.code, FailureCode::Misbehaved, "{what}: {failure:?}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (victim, base) = Victim::new();
    let long = [b'x'; 256];
    let bad: [&[u8]; 10] = [
        b"",
        b".",
        b"..",
        b"/",
        b"a/b",
        b"/etc/passwd",
        b"../../sentinel/inner/file",
        b"a\0b",
        b"\0",
        &long,
    ];
    for name in bad {
        let shown = name.escape_ascii().to_string();
        let put = changes(vec![file(place(1, "MARKMARK"), "x")]);
        breach(&victim, base, marked(&put, name), &shown);
        let remove = Change::Remove {
            place: place(1, "MARKMARK"),
        };
        breach(&victim, base, marked(&changes(vec![remove]), name), &shown);
    }
    victim.check();
}

#[test]
fn every_byte_but_two_may_be_in_a_name_and_stays_within_the_dataset() {
    let (victim, base) = Victim::new();
    let records: Vec<Change> = (1..=u8::MAX)
        .filter(|byte| *byte != b'/')
        .map(|byte| file(place(1, [b'n', byte]), "x"))
        .collect();
    let all = [crate::victim::base(), records.clone()].concat();
    victim.still_works(base, &records, &crate::victim::digest(&all));
    victim.check();
}

#[test]
fn datasets_and_paths_that_lead_elsewhere_are_refused() {
    let (victim, _) = Victim::new();
    let alpha = peer("alpha");
    let marked_dataset = Message::Begin(Begin {
        dataset: DatasetName::new("markmark").expect("name"),
    });
    let mark = b"\x08markmark";
    let frame = plain(&marked_dataset);
    let body = &frame.payload()[2..];
    assert_eq!(body, mark);
    for name in [
        &b""[..],
        b"..",
        b"../evil",
        b"/etc",
        b"a/b",
        b"Evil",
        b"understudy.trust",
        b"understudy.new-1-1",
        b"\xff",
        &[b'a'; 101],
    ] {
        let body = [&varint(name.len() as u64)[..], name].concat();
        let outcome = victim.throw(&alpha, [raw(frame.number(), 0, &body)]);
        let failure = outcome.failure.expect("refused");
        assert_eq!(failure.code, FailureCode::Misbehaved, "{name:?}");
    }
    let path = RelPath::new(b"MARKMARK").expect("path");
    let dataset = DatasetName::fit(b"evil");
    let locate = Message::Locate(Locate {
        dataset: dataset.clone(),
        number: None,
        path: path.clone(),
    });
    let list = Message::ListTree(ListTree {
        dataset,
        number: 1,
        path,
        depth: Depth::All,
    });
    let deep = vec![&b"a"[..]; limits::DEPTH + 2].join(&b'/');
    for path in [
        &b".."[..],
        b"../..",
        b"/etc/passwd",
        b"a//b",
        b"a/",
        b"a\0b",
        &deep,
    ] {
        for message in [&locate, &list] {
            let outcome = victim.throw(&alpha, [marked(message, path)]);
            let failure = outcome.failure.expect("refused");
            assert_eq!(failure.code, FailureCode::Misbehaved, "{path:?}");
        }
    }
    victim.check();
}

#[test]
fn lengths_that_are_not_there_are_refused_before_they_cost_anything() {
    assert!(Deframer::default().next_frame(&mut &[0xff; 4][..]).is_err());
    let (victim, base) = Victim::new();
    for length in [4097, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
        let shown = format!("a count of {length}");
        breach(&victim, base, raw(11, 0, &varint(length)), &shown);
        // One record, of which the name, the content or an attribute is said to be so long.
        let record = [&[1, 0, 1][..], &varint(length)].concat();
        breach(&victim, base, raw(11, 0, &record), &shown);
        let block = [&[1, 0][..], &varint(length)].concat();
        breach(&victim, base, raw(3, 0, &block), &shown);
    }
    // As many names as fit a frame, of one byte each: more than one message may have.
    let many = [&varint(300_000)[..], &[1, 1, 1, b'a'].repeat(250_000)].concat();
    breach(&victim, base, raw(11, 0, &many), "records");
    victim.check();
}

#[test]
fn what_unpacks_to_more_than_it_says_is_refused() {
    let (victim, base) = Victim::new();
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).expect("compress");
    assert!(bomb.len() < limits::FRAME_BYTES);
    for claimed in [0, 10, limits::BODY_BYTES as u32, u32::MAX] {
        let alone = [&claimed.to_be_bytes()[..], &bomb].concat();
        breach(&victim, base, raw(11, 1, &alone), "a bomb alone");
        for lane in [0, 7, 8, 255] {
            let laned = [&[lane][..], &alone].concat();
            breach(&victim, base, raw(11, 3, &laned), "a bomb in a lane");
            breach(&victim, base, raw(11, 2, &laned), "a lane that never began");
        }
    }
    for flags in [4, 128, 255] {
        breach(&victim, base, raw(11, flags, &[0]), "unknown flags");
    }
    for number in [0, 22, 50, 99, 255] {
        breach(&victim, base, raw(number, 0, &[]), "an unknown number");
    }
    breach(&victim, base, raw(11, 0, &[0, 0]), "a byte too many");
    breach(&victim, base, raw(11, 0, &[]), "nothing at all");
    victim.check();
}

#[test]
fn windows_beyond_the_limit_are_refused() {
    let (victim, base) = Victim::new();
    let mut packer = zstd::bulk::Compressor::new(1).expect("compressor");
    packer.window_log(27).expect("window");
    packer.long_distance_matching(true).expect("long");
    packer.include_contentsize(false).expect("size");
    let packed = packer.compress(&vec![7; 64 << 20]).expect("compress");
    let body = [&[0][..], &1_000_000_u32.to_be_bytes(), &packed].concat();
    breach(&victim, base, raw(11, 3, &body), "a window of 128 MiB");
    victim.check();
}
