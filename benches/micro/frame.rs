//! Encoding, compressing, cutting and decoding frames.

use understudy_protocol::encode::{Compression, Encoder};
use understudy_protocol::frame::{Deframer, Frame};
use understudy_protocol::message::{Change, Changes, Content};
use understudy_protocol::{
    Attributes, ContentHash, DirectoryId, Entry, Message, Name, Node, Place, Timestamp,
};

/// Times 200 batches of 64 files of 4 KiB each, half of it compressible.
pub(crate) fn run() {
    let batches: Vec<Message> = (0..200).map(batch).collect();
    let bytes = 200.0 * 64.0 * 4096.0;
    for (label, compression) in [
        ("plain", Compression::Off),
        ("zstd 1", Compression::Zstd(1)),
    ] {
        let mut encoder = Encoder::new(compression);
        let mut frames: Vec<Frame> = Vec::new();
        let encode = crate::median(|| {
            frames = batches
                .iter()
                .map(|batch| encoder.encode(batch).expect("encode"))
                .collect();
        });
        let wire: Vec<u8> = frames
            .iter()
            .flat_map(|frame| [&frame.wire_length()[..], frame.payload()].concat())
            .collect();
        let decode = crate::median(|| {
            let mut deframer = Deframer::default();
            for piece in wire.chunks(256 * 1024) {
                deframer.push(piece);
                while let Some(frame) = deframer.next_frame().expect("frame") {
                    std::hint::black_box(frame.decode().expect("decode"));
                }
            }
        });
        println!(
            "frame {label}: encode {:.0} MB/s, decode {:.0} MB/s, {:.2} of the size",
            bytes / 1e6 / encode.as_secs_f64(),
            bytes / 1e6 / decode.as_secs_f64(),
            wire.len() as f64 / bytes,
        );
    }
}

fn batch(number: u64) -> Message {
    let records = (0..64).map(|file| put(number * 64 + file)).collect();
    Message::Changes(Changes { records })
}

fn put(number: u64) -> Change {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = vec![b'-'; 4096];
    for byte in &mut data[..2048] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
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
