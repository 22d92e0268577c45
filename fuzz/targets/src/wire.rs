//! What arrives as bytes: frames, messages and compressed bodies.

use understudy_protocol::encode::{Compression, Encoder};
use understudy_protocol::frame::{Deframer, Frame};
use understudy_protocol::lane::{ReceivingLanes, SendingLanes};
use understudy_protocol::message::StreamBlock;
use understudy_protocol::{Message, ProtocolError, limits};

use crate::choices::Choices;
use crate::samples;

/// Number and flags of a frame.
const PREFIX: usize = 2;

/// A stream of frames gives the same however it is cut, and no frame is longer than allowed.
pub(crate) fn frames(data: &[u8]) {
    let Some((&pace, wire)) = data.split_first() else {
        return;
    };
    let whole = cut(std::iter::once(wire));
    let pieces = cut(wire.chunks(usize::from(pace) + 1));
    assert_eq!(whole, pieces, "it depends on how the stream was cut");
    let mut lanes = ReceivingLanes::default();
    for frame in whole.0 {
        assert!(frame.payload().len() <= limits::FRAME_BYTES + PREFIX);
        let Ok(opened) = lanes.open(frame) else {
            return;
        };
        assert!(opened.payload().len() <= limits::FRAME_BYTES + PREFIX);
        if let Ok(message) = opened.decode() {
            comes_back(&message);
        }
    }
}

/// The frames, and whether the stream broke a rule.
fn cut<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let mut deframer = Deframer::default();
    let mut frames = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        loop {
            match deframer.next_frame(&mut rest) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

/// A message that can be decoded is encoded and decoded to the same, and what it is encoded to does not change any more.
pub(crate) fn messages(data: &[u8]) {
    if let Some(message) = message(data) {
        comes_back(&message);
        // What is told of it in logs and errors.
        let _ = format!("{message:?}");
    }
}

fn comes_back(message: &Message) {
    let mut encoder = Encoder::new(Compression::Off);
    let frame = encoder.encode(message).expect("what was decoded fits");
    let again = frame.decode().expect("it was encoded here");
    assert_eq!(again, *message);
    assert_eq!(encoder.encode(&again).expect("encode"), frame);
}

/// A frame with a body as it is.
fn plain(number: u8, body: &[u8]) -> Result<Frame, ProtocolError> {
    frame(&[&[number, 0], body].concat())
}

/// The message that is encoded in these bytes after its number, if there is one.
pub(crate) fn message(bytes: &[u8]) -> Option<Message> {
    let (&number, body) = bytes.split_first()?;
    plain(number, body).ok()?.decode().ok()
}

/// Its number and its encoding.
pub(crate) fn bytes(message: &Message) -> Vec<u8> {
    let frame = Encoder::new(Compression::Off).encode(message);
    let frame = frame.expect("it fits");
    [&[message.number()], &frame.payload()[PREFIX..]].concat()
}

fn frame(payload: &[u8]) -> Result<Frame, ProtocolError> {
    let wire = [&(payload.len() as u32).to_be_bytes(), payload].concat();
    let frame = Deframer::default().next_frame(&mut &wire[..])?;
    frame.ok_or(ProtocolError::Cut)
}

/// Compressed bodies give no more than they may, and what is compressed here comes back.
pub(crate) fn compression(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (mut receiving, mut honest) = (ReceivingLanes::default(), ReceivingLanes::default());
    let sending = SendingLanes::default();
    sending.set_level(1 + choices.below(4) as i32);
    let mut encoder = Encoder::in_lane(&sending);
    while !choices.is_empty() {
        let flag = choices.byte() % 5;
        if flag == 4 {
            let data = choices.some().repeat(1 + choices.below(64));
            let (stream, offset) = (1, 7);
            let data = data.into();
            let message = Message::StreamBlock(StreamBlock {
                stream,
                offset,
                data,
            });
            let frame = encoder.encode(&message).expect("encode");
            let opened = honest.open(frame).expect("it was made here");
            if let Message::StreamBlock(block) = &message
                && !block.data.is_empty()
            {
                assert_eq!(opened.decode().expect("decode"), message);
            }
            continue;
        }
        let mut payload = vec![3, flag];
        if flag > 1 {
            payload.push(choices.byte());
        }
        payload.extend((choices.number() as u32).to_be_bytes());
        let length = usize::from(choices.short() % 4096);
        payload.extend(choices.take(length));
        let Ok(opened) = frame(&payload).and_then(|frame| receiving.open(frame)) else {
            continue;
        };
        assert!(opened.payload().len() <= limits::BODY_BYTES + PREFIX);
        if let Ok(message) = opened.decode() {
            comes_back(&message);
        }
    }
}

/// Streams of one message each, plain, compressed and in a lane.
pub(crate) fn frames_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for message in samples::messages() {
        let mut seed = vec![7];
        for encoder in &mut encoders() {
            append(&mut seed, encoder, &message);
        }
        seeds.push(seed);
    }
    let mut all = vec![100];
    let mut encoder = Encoder::in_lane(&SendingLanes::default());
    for message in samples::messages() {
        append(&mut all, &mut encoder, &message);
    }
    seeds.push(all);
    seeds
}

fn encoders() -> [Encoder; 3] {
    [
        Encoder::new(Compression::Off),
        Encoder::new(Compression::Zstd(1)),
        Encoder::in_lane(&SendingLanes::default()),
    ]
}

fn append(stream: &mut Vec<u8>, encoder: &mut Encoder, message: &Message) {
    let frame = encoder.encode(message).expect("encode");
    stream.extend(frame.wire_length());
    stream.extend(frame.payload());
}

pub(crate) fn messages_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = samples::messages().iter().map(bytes).collect();
    for row in understudy_protocol::message::TABLE {
        seeds.push(vec![row.number, 1, 1, 1, 1, 1, 1, 1, 1]);
        seeds.push(vec![row.number; 40]);
    }
    seeds
}

pub(crate) fn compression_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![[&[1, 4, 200][..], &[b'x'; 200], &[60, 4, 5], b"other", &[9]].concat()];
    for message in samples::messages() {
        for encoder in &mut encoders()[1..] {
            let mut seed = vec![0];
            for _ in 0..2 {
                let frame = encoder.encode(&message).expect("encode");
                let payload = frame.payload();
                let (flag, body) = (payload[1], &payload[PREFIX..]);
                if flag == 0 {
                    continue;
                }
                let (lane, body) = body.split_at(usize::from(flag > 1));
                let (length, packed) = body.split_at(4);
                seed.push(flag);
                seed.extend(lane);
                // The length as `Choices::number` reads one with all its bytes.
                seed.push(255);
                seed.extend(length.iter().rev());
                seed.extend([0; 4]);
                seed.extend((packed.len() as u16).to_le_bytes());
                seed.extend(packed);
            }
            if seed.len() > 1 {
                seeds.push(seed);
            }
        }
    }
    seeds
}
