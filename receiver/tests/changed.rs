//! A content is given as what differs from another version, of which the receiver has the sums alone.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use understudy_protocol::delta::GroupSummer;
use understudy_protocol::message::{
    Change, Content, ReadManifest, StreamBlock, StreamEnd, WantRest,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, FailureCode, Message, Node, ProtocolError};

use stage::{Stage, dataset, directory, entry, hear, place, send};

const SIZE: usize = 3_000_000;
/// In the middle of a group.
const HOLE: std::ops::Range<usize> = 1_000_001..2_000_003;

fn wanted() -> Vec<u8> {
    let mut content: Vec<u8> = (0..SIZE as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    content[HOLE].fill(0);
    content
}

fn filled() -> Stage {
    let mut stage = Stage::new();
    let content = wanted();
    let (size, hash) = (SIZE as u64, ContentHash::of(&content));
    let mut streamed = Vec::new();
    for (offset, end) in [(0, HOLE.start), (HOLE.end, SIZE)] {
        let mut at = offset;
        for data in content[offset..end].chunks(500_000) {
            let offset = at as u64;
            let data = data.into();
            streamed.push(Message::StreamBlock(StreamBlock {
                stream: 1,
                offset,
                data,
            }));
            at += 500_000;
        }
    }
    streamed.push(Message::StreamEnd(StreamEnd {
        stream: 1,
        size,
        hash,
    }));
    let put = Change::Put {
        place: place(1, "large"),
        entry: entry(Node::File { size, hash }),
        content: Content::Stream(1),
    };
    stage.upload(&[directory(place(0, "files"), 1), put], &streamed);
    stage
}

fn signature(content: &[u8]) -> Vec<u8> {
    let mut summer = GroupSummer::fitting(content.len() as u64, 500).expect("fits");
    summer.update(content);
    summer.sum().signature.to_bytes()
}

fn ask(channel: &mut Channel, from: u64, signature: Vec<u8>) {
    send(
        channel,
        &Message::ReadManifest(ReadManifest {
            dataset: dataset(),
            number: None,
        }),
    );
    while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
    send(
        channel,
        &Message::WantRest(WantRest {
            place: place(1, "large"),
            from,
            other: Some(signature.into()),
        }),
    );
}

/// What comes of `base`, of which the beginning is right already, and how many bytes were sent for it.
fn rebuilt(stage: &Stage, base: &[u8], from: usize) -> (Vec<u8>, usize) {
    stage.talk(|channel| {
        ask(channel, from as u64, signature(base));
        assert!(matches!(hear(channel), Ok(Message::GivenStream(_))));
        let (mut made, mut sent) = (wanted()[..from].to_vec(), 0);
        loop {
            match hear(channel).expect("a stream") {
                Message::StreamBlock(block) => {
                    assert!(block.offset >= made.len() as u64, "it goes forward");
                    made.resize(block.offset as usize, 0);
                    made.extend(&block.data.0);
                    sent += block.data.0.len();
                }
                Message::StreamCopy(copy) => {
                    assert!(copy.offset >= made.len() as u64 && copy.from == copy.offset);
                    made.resize(copy.offset as usize, 0);
                    let stretch = copy.from as usize..(copy.from + copy.length) as usize;
                    made.extend(&base[stretch]);
                }
                Message::StreamEnd(end) => {
                    made.resize(end.size as usize, 0);
                    assert_eq!(ContentHash::of(&made), end.hash);
                    return (made, sent);
                }
                other => panic!("{other:?}"),
            }
        }
    })
}

#[test]
fn only_groups_that_differ_are_sent() {
    let stage = filled();
    let mut base = wanted();
    for offset in [3, 500_000, 1_500_000, 2_999_999] {
        base[offset] ^= 1;
    }
    let (made, sent) = rebuilt(&stage, &base, 0);
    assert!(made == wanted());
    // Two groups of 8 KiB and the end; the hole costs nothing whatever the base has there.
    assert!((8192..=3 * 8192).contains(&sent), "{sent}");
    let (made, sent) = rebuilt(&stage, &base, 400_000);
    assert!(made == wanted());
    assert!((4096..=2 * 8192).contains(&sent), "{sent}");
}

#[test]
fn other_lengths_and_other_contents_come_right() {
    let stage = filled();
    let mut longer = wanted();
    longer.extend([7; 100_000]);
    let (made, sent) = rebuilt(&stage, &longer, 0);
    assert!(made == wanted());
    assert!(sent < 20_000, "{sent}");
    let (made, sent) = rebuilt(&stage, &wanted()[..700_001], 0);
    assert!(made == wanted());
    assert!(sent < SIZE - HOLE.len() - 690_000, "{sent}");
    let (made, sent) = rebuilt(&stage, &vec![1; SIZE], 0);
    assert!(made == wanted());
    assert!(sent < SIZE - HOLE.len() + 2 * 8192, "{sent}");
}

#[test]
fn what_is_no_signature_or_leaves_nothing_to_compare_is_refused() {
    let stage = filled();
    let good = signature(&wanted());
    let mut large = good.clone();
    large[1] = 24;
    large[3..11].copy_from_slice(&(1_u64 << 24).to_le_bytes());
    large.truncate(11 + 8);
    for (from, signature) in [
        (0, vec![]),
        (0, good[..good.len() - 1].to_vec()),
        (0, large),
        (SIZE as u64, good),
    ] {
        stage.talk(|channel| {
            ask(channel, from, signature);
            match hear(channel) {
                Err(ProtocolError::Failed(failure)) => {
                    assert_eq!(failure.code, FailureCode::Misbehaved);
                }
                other => panic!("{other:?}"),
            }
        });
    }
}
