//! Making frames of messages: which are compressed, and how.

use crate::error::ProtocolError;
use crate::frame::{COMPRESSED, Frame, PREFIX_BYTES};
use crate::lane::{SendingLane, SendingLanes, UNCOMPRESSED};
use crate::limits;
use crate::message::Message;
use crate::randomness::looks_random;

/// Bodies below this are sent as they are: zstd gains nothing on them.
const COMPRESS_FROM_BYTES: usize = 200;
/// The level of frames that are compressed by themselves where lanes are used, too.
const LEVEL_ALONE: i32 = 1;

/// Whether frames are compressed, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Never: both sides are the same process.
    Off,
    /// zstd at this level.
    Zstd(i32),
}

/// Makes frames; keep one per thread, it holds the compressor's memory.
pub struct Encoder {
    packer: Packer,
    blocks: Experience,
    others: Experience,
}

enum Packer {
    None,
    Alone(zstd::bulk::Compressor<'static>),
    /// A lane is taken with the first frame that is worth it.
    Lanes(SendingLanes),
    Lane(SendingLane),
}

impl Packer {
    /// Whether nothing is compressed now.
    fn stands_still(&self) -> bool {
        match self {
            Self::None => true,
            Self::Alone(_) => false,
            Self::Lanes(lanes) => lanes.level() == UNCOMPRESSED,
            Self::Lane(lane) => lane.wanted_level() == UNCOMPRESSED,
        }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let packer = match &self.packer {
            Packer::None => "none",
            Packer::Alone(_) => "alone",
            Packer::Lanes(_) | Packer::Lane(_) => "lane",
        };
        write!(f, "Encoder({packer})")
    }
}

impl Encoder {
    /// An encoder whose frames stand alone: they may be sent in any order, or not at all.
    pub fn new(compression: Compression) -> Self {
        Self::with(match compression {
            Compression::Off => Packer::None,
            Compression::Zstd(level) => alone(level),
        })
    }

    /// An encoder with a lane of its own, as long as there is one. All its frames must be sent, in the order in which
    /// they were made.
    pub fn in_lane(lanes: &SendingLanes) -> Self {
        Self::with(Packer::Lanes(lanes.clone()))
    }

    fn with(packer: Packer) -> Self {
        Self {
            packer,
            blocks: Experience::default(),
            others: Experience::default(),
        }
    }

    /// Encodes one message. Fails only for a message over the limits, which is the caller's mistake.
    pub fn encode(&mut self, message: &Message) -> Result<Frame, ProtocolError> {
        let plain = message
            .encode_into(vec![message.number(), 0])
            .map_err(|error| ProtocolError::malformed(message.name(), error))?;
        let body_bytes = plain.len() - PREFIX_BYTES;
        if body_bytes > limits::BODY_BYTES {
            let (what, limit) = (message.name(), limits::BODY_BYTES);
            return Err(ProtocolError::TooLong {
                what,
                length: body_bytes,
                limit,
            });
        }
        let packed = self.compress(message, &plain);
        Ok(packed.unwrap_or(Frame(plain)))
    }

    /// The compressed frame, if that is worth it.
    fn compress(&mut self, message: &Message, plain: &[u8]) -> Option<Frame> {
        let (&number, body) = (plain.first()?, plain.get(PREFIX_BYTES..)?);
        if body.len() < COMPRESS_FROM_BYTES || self.packer.stands_still() {
            return None;
        }
        let experience = match message {
            Message::StreamBlock(_) => &mut self.blocks,
            _ => &mut self.others,
        };
        if !experience.suggests(body) {
            return None;
        }
        if let Packer::Lanes(lanes) = &self.packer {
            self.packer = lanes
                .take()
                .map_or_else(|| alone(LEVEL_ALONE), Packer::Lane);
        }
        let (frame, must_be_sent) = match &mut self.packer {
            Packer::None | Packer::Lanes(_) => return None,
            Packer::Alone(compressor) => (pack_alone(compressor, number, body)?, false),
            Packer::Lane(lane) => (lane.pack(number, body)?, true),
        };
        let has_shrunk = frame.payload().len() + body.len() / 16 <= plain.len();
        experience.add(has_shrunk);
        (has_shrunk || must_be_sent).then_some(frame)
    }
}

/// Without a compressor frames are sent uncompressed, which every peer reads.
fn alone(level: i32) -> Packer {
    zstd::bulk::Compressor::new(level).map_or(Packer::None, Packer::Alone)
}

fn pack_alone(
    compressor: &mut zstd::bulk::Compressor<'_>,
    number: u8,
    body: &[u8],
) -> Option<Frame> {
    let packed = compressor.compress(body).ok()?;
    let mut frame = Vec::with_capacity(PREFIX_BYTES + 4 + packed.len());
    frame.extend_from_slice(&[number, COMPRESSED]);
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&packed);
    Some(Frame(frame))
}

/// What became of the bodies before, which tells whether it is worth trying to compress the next one.
#[derive(Debug, Default)]
struct Experience {
    /// How many in a row did not shrink, of those of which it could not be seen.
    in_vain: u32,
    /// Whether the newest one looked random.
    is_random: bool,
    /// How many in a row were doubtful.
    doubtful: u32,
}

impl Experience {
    /// After this many in a row that did not shrink, the next ones are doubtful.
    const IN_VAIN: u32 = 2;
    /// Of doubtful bodies one of this many is tried.
    const TRIED: u32 = 8;

    fn suggests(&mut self, body: &[u8]) -> bool {
        self.is_random = looks_random(body);
        if self.in_vain < Self::IN_VAIN && !self.is_random {
            self.doubtful = 0;
            return true;
        }
        self.doubtful += 1;
        self.doubtful.is_multiple_of(Self::TRIED)
    }

    fn add(&mut self, has_shrunk: bool) {
        if has_shrunk {
            self.in_vain = 0;
        } else if !self.is_random {
            self.in_vain = self.in_vain.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::ReceivingLanes;
    use crate::message::StreamBlock;

    const PLAIN: u8 = 0;

    fn block(data: Vec<u8>) -> Message {
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: 7,
            data: data.into(),
        })
    }

    fn random(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// How the bodies are sent, each of which comes back whole.
    fn flags(encoder: &mut Encoder, lanes: &mut ReceivingLanes, bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut flag = |body: &Vec<u8>| {
            let message = block(body.clone());
            let frame = encoder.encode(&message).expect("encode");
            let flag = frame.payload()[1];
            let opened = lanes.open(frame).expect("open");
            assert_eq!(opened.decode().expect("decode"), message);
            flag
        };
        bodies.iter().map(&mut flag).collect()
    }

    #[test]
    fn random_blocks_are_passed_through_and_one_of_eight_is_tried() {
        let blocks: Vec<_> = (0..16).map(|seed| random(seed, 100_000)).collect();
        let mut encoder = Encoder::in_lane(&SendingLanes::default());
        let mut lanes = ReceivingLanes::default();
        let mut expected = [PLAIN; 16];
        (expected[7], expected[15]) = (3, 2);
        assert_eq!(flags(&mut encoder, &mut lanes, &blocks), expected);
        let text = [vec![b'x'; 100_000]];
        assert_eq!(flags(&mut encoder, &mut lanes, &text), [2]);
    }

    #[test]
    fn blocks_that_do_not_look_random_are_tried_until_two_did_not_shrink() {
        // Some bytes are twice as frequent as others, which saves less than a sixteenth.
        let blocks: Vec<Vec<u8>> = (0..12)
            .map(|seed| {
                random(seed, 100_000)
                    .iter()
                    .map(|byte| byte % 200)
                    .collect()
            })
            .collect();
        let mut encoder = Encoder::new(Compression::Zstd(1));
        let mut lanes = ReceivingLanes::default();
        flags(&mut encoder, &mut lanes, &blocks);
        assert!(encoder.blocks.in_vain >= Experience::IN_VAIN);
        let repeated = vec![blocks[0][..1000].repeat(100); 8];
        let found = flags(&mut encoder, &mut lanes, &repeated);
        let tried = found
            .iter()
            .position(|&flag| flag == COMPRESSED)
            .expect("tried");
        assert!(tried < Experience::TRIED as usize, "{found:?}");
        assert!(
            found[tried..].iter().all(|&flag| flag == COMPRESSED),
            "{found:?}"
        );
    }

    #[test]
    fn without_a_level_frames_are_plain_and_lanes_stand_still() {
        let lanes = SendingLanes::default();
        let mut encoder = Encoder::in_lane(&lanes);
        let mut receiving = ReceivingLanes::default();
        let body = [vec![b'x'; 1000]];
        let mut found = Vec::new();
        for level in [UNCOMPRESSED, 1, UNCOMPRESSED, 1] {
            lanes.set_level(level);
            found.extend(flags(&mut encoder, &mut receiving, &body));
        }
        assert_eq!(found, [PLAIN, 3, PLAIN, 2]);
    }

    #[test]
    fn encoders_beyond_the_lanes_make_frames_that_stand_alone() {
        let lanes = SendingLanes::default();
        let body = vec![vec![b'x'; 1000]];
        let mut encoders: Vec<_> = (0..=limits::LANES)
            .map(|_| Encoder::in_lane(&lanes))
            .collect();
        let found: Vec<_> = encoders
            .iter_mut()
            .map(|encoder| flags(encoder, &mut ReceivingLanes::default(), &body)[0])
            .collect();
        let (last, others) = found.split_last().expect("encoders");
        assert_eq!(*last, COMPRESSED);
        assert!(others.iter().all(|&flag| flag == 3), "{found:?}");
    }

    #[test]
    fn text_and_pictures_of_few_colours_do_not_look_random() {
        let hexadecimal: Vec<u8> = random(1, 50_000)
            .iter()
            .flat_map(|byte| format!("{byte:02x}").into_bytes())
            .collect();
        assert!(!looks_random(&hexadecimal));
        let few: Vec<u8> = random(1, 50_000).iter().map(|byte| byte & 0x7f).collect();
        assert!(!looks_random(&few));
        for seed in 0..50 {
            assert!(looks_random(&random(seed, 10_000)), "{seed}");
        }
        assert!(!looks_random(&random(1, 8191)), "too short to tell");
    }
}
