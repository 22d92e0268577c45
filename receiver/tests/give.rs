//! Contents are given from an offset on, and only where there is something from there on.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use understudy_protocol::message::{
    Change, Content, ReadManifest, StreamBlock, StreamEnd, WantRest,
};
use understudy_protocol::{ContentHash, Message, Node, Place, ProtocolError};

use stage::{Stage, dataset, directory, entry, file, hear, place, send};

const SIZE: usize = 1_300_000;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 7 % 251) as u8).collect()
}

/// With a small file and a large one.
fn filled() -> Stage {
    let mut stage = Stage::new();
    let content = content();
    let node = Node::File {
        size: SIZE as u64,
        hash: ContentHash::of(&content),
    };
    let large = Change::Put {
        place: place(1, "large"),
        entry: entry(node),
        content: Content::Stream(1),
    };
    let blocks = content.chunks(500_000).enumerate().map(|(number, data)| {
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: number as u64 * 500_000,
            data: data.into(),
        })
    });
    let end = Message::StreamEnd(StreamEnd {
        stream: 1,
        size: SIZE as u64,
        hash: ContentHash::of(&content),
    });
    let before: Vec<Message> = blocks.chain([end]).collect();
    let changes = [
        directory(place(0, "files"), 1),
        file(place(1, "small"), "small"),
        large,
    ];
    stage.upload(&changes, &before);
    stage
}

/// What comes from an offset on, if anything does.
fn rest(stage: &Stage, place: Place, from: u64) -> Result<Vec<u8>, ProtocolError> {
    stage.talk(|channel| {
        let dataset = dataset();
        send(
            channel,
            &Message::ReadManifest(ReadManifest {
                dataset,
                number: None,
            }),
        );
        while !matches!(hear(channel)?, Message::ManifestEnd(_)) {}
        send(
            channel,
            &Message::WantRest(WantRest {
                place,
                from,
                other: None,
            }),
        );
        let mut came = Vec::new();
        loop {
            match hear(channel)? {
                Message::GivenStream(_) => {}
                Message::StreamBlock(block) => {
                    assert_eq!(block.offset, from + came.len() as u64);
                    came.extend_from_slice(&block.data);
                }
                Message::StreamEnd(end) => {
                    assert_eq!(
                        (end.size, end.hash),
                        (SIZE as u64, ContentHash::of(&content()))
                    );
                    return Ok(came);
                }
                other => panic!("{other:?}"),
            }
        }
    })
}

#[test]
fn the_rest_of_a_content_is_given() {
    let stage = filled();
    for from in [1, 499_999, 524_288, SIZE - 1] {
        let came = rest(&stage, place(1, "large"), from as u64).expect("rest");
        assert!(came == content()[from..], "from {from}");
    }
}

#[test]
fn what_has_no_rest_is_refused() {
    let mut stage = filled();
    for (name, from) in [
        ("large", SIZE as u64),
        ("large", u64::MAX >> 1),
        ("small", 1),
        ("none", 1),
    ] {
        let refused = rest(&stage, place(1, name), from).expect_err("refused");
        assert!(
            matches!(refused, ProtocolError::Failed(_)),
            "{name} from {from}: {refused}"
        );
    }
    assert!(rest(&stage, place(1, "files"), 1).is_err());
    stage.version = 4;
    let refused = rest(&stage, place(1, "large"), 1).expect_err("too new");
    assert!(refused.to_string().contains("WantRest"), "{refused}");
}
