//! Encoding, compressing, cutting and decoding frames.

use understudy_protocol::encode::{Compression, Encoder};
use understudy_protocol::frame::{Deframer, Frame};
use understudy_protocol::lane::{ReceivingLanes, SendingLanes};
use understudy_protocol::message::{Change, Changes, Content, StreamBlock};
use understudy_protocol::{
    Attributes, ContentHash, DirectoryId, Entry, Message, Name, Node, Place, Timestamp, limits,
};

/// A name, and how its encoders are made.
type Way = (&'static str, fn() -> Encoder);

/// Times 200 batches of 64 files of 4 KiB each, half of it compressible, and 200 blocks of a random file: as they are, each
/// by itself, and in a lane.
pub(crate) fn run() {
    let batches: Vec<Message> = (0..200).map(batch).collect();
    let blocks: Vec<Message> = (0..200).map(block).collect();
    let ways: [Way; 5] = [
        ("plain", || Encoder::new(Compression::Off)),
        ("zstd 1", || Encoder::new(Compression::Zstd(1))),
        ("lane 1", || lane(1)),
        ("lane 3", || lane(3)),
        ("lane 9", || lane(9)),
    ];
    for (label, encoder) in ways {
        let bytes = 200.0 * 64.0 * 4096.0;
        time(&format!("{label}, batches"), bytes, &batches, encoder);
    }
    for (label, encoder) in ways {
        let bytes = 200.0 * limits::BLOCK_BYTES as f64;
        time(&format!("{label}, random blocks"), bytes, &blocks, encoder);
    }
}

fn lane(level: i32) -> Encoder {
    let lanes = SendingLanes::default();
    lanes.set_level(level);
    Encoder::in_lane(&lanes)
}

fn time(label: &str, bytes: f64, messages: &[Message], encoder: fn() -> Encoder) {
    let mut frames: Vec<Frame> = Vec::new();
    let encode = crate::median(|| {
        let mut encoder = encoder();
        frames = messages
            .iter()
            .map(|message| encoder.encode(message).expect("encode"))
            .collect();
    });
    let wire: Vec<u8> = frames
        .iter()
        .flat_map(|frame| [&frame.wire_length()[..], frame.payload()].concat())
        .collect();
    let decode = crate::median(|| {
        let (mut deframer, mut lanes) = (Deframer::default(), ReceivingLanes::default());
        for mut piece in wire.chunks(256 * 1024) {
            while let Some(frame) = deframer.next_frame(&mut piece).expect("frame") {
                let frame = lanes.open(frame).expect("open");
                std::hint::black_box(frame.decode().expect("decode"));
            }
        }
    });
    println!(
        "frame {label}: encode {:.0} MB/s, decode {:.0} MB/s, {:.3} of the size",
        bytes / 1e6 / encode.as_secs_f64(),
        bytes / 1e6 / decode.as_secs_f64(),
        wire.len() as f64 / bytes,
    );
}

fn block(number: u64) -> Message {
    let mut data = vec![0; limits::BLOCK_BYTES];
    fill_random(&mut data, number);
    Message::StreamBlock(StreamBlock {
        stream: 1,
        offset: number * limits::BLOCK_BYTES as u64,
        data: data.into(),
    })
}

fn fill_random(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

fn batch(number: u64) -> Message {
    let records = (0..64).map(|file| put(number * 64 + file)).collect();
    Message::Changes(Changes { records })
}

fn put(number: u64) -> Change {
    let mut data = vec![b'-'; 4096];
    fill_random(&mut data[..2048], number);
    let modified = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: number as u32,
    };
    let attributes = Attributes {
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified,
        xattrs: vec![],
    };
    let node = Node::File {
        size: data.len() as u64,
        hash: ContentHash::of(&data),
    };
    let name = Name::new(format!("file-{number}")).expect("name");
    Change::Put {
        place: Place::new(DirectoryId::FILES, name),
        entry: Entry {
            attributes,
            node,
            group: 0,
        },
        content: Content::Inline(data.into()),
    }
}
