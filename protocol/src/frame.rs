//! Frames: how messages are cut out of a stream of bytes.
//!
//! `length: u32, big-endian` of all that follows, `number: u8` of the message, `flags: u8`, body. Flag 1 says
//! that the body is `raw length: u32, big-endian` followed by one zstd frame; flags 2 and 3 belong to
//! [lanes](crate::lane).

use crate::error::ProtocolError;
use crate::lane::{ANEW, CONTINUED};
use crate::limits;
use crate::message::Message;

const HEADER_BYTES: usize = 4;
/// Number and flags.
pub(crate) const PREFIX_BYTES: usize = 2;
/// The flag of a body that is compressed by itself.
pub(crate) const COMPRESSED: u8 = 1;

/// One frame without its length: number, flags, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(pub(crate) Vec<u8>);

impl Frame {
    /// The bytes as they go on the wire, length first.
    pub fn wire_length(&self) -> [u8; HEADER_BYTES] {
        // Frames are only made below the limit, which fits.
        (self.0.len() as u32).to_be_bytes()
    }

    /// What follows the length.
    pub fn payload(&self) -> &[u8] {
        &self.0
    }

    /// The message's number, without decoding.
    pub fn number(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    /// Bytes on the wire.
    pub fn wire_bytes(&self) -> u64 {
        (HEADER_BYTES + self.0.len()) as u64
    }

    /// Decompresses and decodes; may take milliseconds, so call it on a worker. A frame of a lane must have been
    /// opened before.
    pub fn decode(&self) -> Result<Message, ProtocolError> {
        let &[number, flags, ref body @ ..] = self.0.as_slice() else {
            return Err(ProtocolError::malformed(
                "frame",
                "it is shorter than its prefix",
            ));
        };
        match flags {
            0 => Message::decode(number, body),
            COMPRESSED => Message::decode(number, &decompress(body)?),
            CONTINUED | ANEW => Err(ProtocolError::malformed(
                "frame",
                "it belongs to a lane, and there are none in this session",
            )),
            _ => Err(ProtocolError::malformed(
                "frame",
                format!("unknown flags {flags:#x}"),
            )),
        }
    }
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let Some((length, packed)) = body.split_first_chunk::<4>() else {
        return Err(ProtocolError::malformed(
            "frame",
            "no length before the compressed body",
        ));
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > limits::BODY_BYTES {
        return Err(ProtocolError::TooLong {
            what: "a body",
            length,
            limit: limits::BODY_BYTES,
        });
    }
    // The capacity bounds the output: a frame that would give more is an error, not more memory.
    let raw = zstd::bulk::decompress(packed, length)
        .map_err(|error| ProtocolError::malformed("compressed body", error))?;
    if raw.len() == length {
        Ok(raw)
    } else {
        Err(ProtocolError::malformed(
            "compressed body",
            "it is shorter than it claims",
        ))
    }
}

/// Cuts frames out of bytes as they arrive. Keeps one frame at most.
#[derive(Debug, Default)]
pub struct Deframer {
    /// What arrived of a length.
    head: [u8; HEADER_BYTES],
    head_bytes: usize,
    /// What arrived of the frame whose length is known.
    payload: Vec<u8>,
    length: Option<usize>,
}

impl Deframer {
    /// Takes bytes off the front until a frame is whole, and returns it; `None` once they are used up. An error is final.
    pub fn next_frame(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, ProtocolError> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let taken = take(bytes, HEADER_BYTES - self.head_bytes);
                let end = self.head_bytes + taken.len();
                self.head[self.head_bytes..end].copy_from_slice(taken);
                self.head_bytes = end;
                if end < HEADER_BYTES {
                    return Ok(None);
                }
                self.begin()?
            }
        };
        let missing = length - self.payload.len();
        self.payload.extend_from_slice(take(bytes, missing));
        Ok(self.whole())
    }

    /// Where the rest of a frame that has begun belongs, and how many bytes that are: whoever reads them there saves a copy.
    pub fn rest(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let missing = self.length? - self.payload.len();
        Some((&mut self.payload, missing))
    }

    /// The frame, if all of it was put to the [`rest`](Self::rest).
    pub fn whole(&mut self) -> Option<Frame> {
        if self.length? > self.payload.len() {
            return None;
        }
        self.length = None;
        self.head_bytes = 0;
        Some(Frame(std::mem::take(&mut self.payload)))
    }

    /// Whether the bytes end between two frames.
    pub fn is_empty(&self) -> bool {
        self.head_bytes == 0
    }

    /// Makes room for the frame whose length is there; returns that.
    fn begin(&mut self) -> Result<usize, ProtocolError> {
        let length = u32::from_be_bytes(self.head) as usize;
        let limit = limits::FRAME_BYTES + PREFIX_BYTES;
        if length > limit {
            return Err(ProtocolError::TooLong {
                what: "a frame",
                length,
                limit,
            });
        }
        if length < PREFIX_BYTES {
            return Err(ProtocolError::malformed(
                "frame",
                "it is shorter than its prefix",
            ));
        }
        self.payload.reserve_exact(length);
        self.length = Some(length);
        Ok(length)
    }
}

/// The first `most` bytes, which leave `bytes`.
fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Fingerprint;
    use crate::encode::{Compression, Encoder};
    use crate::entry::{Attributes, Entry, Node, Timestamp};
    use crate::error::{Failure, FailureCode};
    use crate::message::{
        Compare, Depth, Difference, Differences, Find, Found, Fuzzy, FuzzyEnd, FuzzyFile,
        FuzzyFiles, ListFuzzy, ListTree, Listed, Locate, Located, Noted, Repair, Repaired,
        SourceRoot, StreamBase, StreamBlock, StreamCopy, StreamPiece, StreamPieces, Summaries,
        Summarise, Summary, Tally, Told, Trouble, VerifyEnd, Version, Waited,
    };
    use crate::name::{DatasetName, Name};
    use crate::place::{DirectoryId, Place, Position, RelPath, Snapshot};

    fn wire(frame: &Frame) -> Vec<u8> {
        [&frame.wire_length()[..], frame.payload()].concat()
    }

    fn block(data: Vec<u8>) -> Message {
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: 7,
            data: data.into(),
        })
    }

    #[test]
    fn compressible_bodies_shrink_and_come_back() {
        let mut encoder = Encoder::new(Compression::Zstd(1));
        let message = block(vec![7; 100_000]);
        let frame = encoder.encode(&message).expect("encode");
        assert!(frame.wire_bytes() < 1000);
        assert_eq!(frame.decode().expect("decode"), message);
    }

    #[test]
    fn a_bomb_is_refused_before_it_grows() {
        let packed = zstd::bulk::compress(&vec![0; 64 * 1024 * 1024], 1).expect("compress");
        for claimed in [u32::MAX, limits::BODY_BYTES as u32, 10] {
            let mut frame = vec![3, COMPRESSED];
            frame.extend_from_slice(&claimed.to_be_bytes());
            frame.extend_from_slice(&packed);
            assert!(Frame(frame).decode().is_err());
        }
    }

    #[test]
    fn oversized_frames_are_refused_by_their_length_alone() {
        let mut deframer = Deframer::default();
        assert!(matches!(
            deframer.next_frame(&mut &u32::MAX.to_be_bytes()[..]),
            Err(ProtocolError::TooLong { .. })
        ));
    }

    #[test]
    fn a_golden_frame_is_still_read() {
        // Version 1, kept for ever: VerifyEnd with 300 datasets.
        let golden = [0, 0, 0, 4, 40, 0, 0xac, 0x02];
        let message = Message::VerifyEnd(VerifyEnd { datasets: 300 });
        let frame = Encoder::new(Compression::Off)
            .encode(&message)
            .expect("encode");
        assert_eq!(wire(&frame), golden);
        let mut deframer = Deframer::default();
        let read = deframer.next_frame(&mut &golden[..]);
        let read = read.expect("valid").expect("whole");
        assert_eq!(read.decode().expect("decode"), message);
        assert!(deframer.is_empty());
    }

    #[test]
    fn the_frames_of_trouble_are_still_read() {
        // Version 2, kept for ever: Trouble of dataset `a` because of `x`, and its answer.
        let golden = [0, 0, 0, 6, 18, 0, 1, b'a', 1, b'x', 0, 0, 0, 2, 41, 0];
        let messages = [
            Message::Trouble(Trouble {
                dataset: DatasetName::fit(b"a"),
                reason: "x".to_owned(),
            }),
            Message::Noted(Noted {}),
        ];
        assert_golden(&golden, &messages);
    }

    #[test]
    fn the_frames_of_fuzzy_files_are_still_read() {
        // Version 2, kept for ever: the place `x` of directory 1; those of snapshot 3 of dataset `a`; `d/x` since
        // snapshot 2 and `y` from 1 to 4; the end.
        let golden = [
            &[0, 0, 0, 6, 6, 0, 1, 1, 1, b'x'][..],
            &[0, 0, 0, 6, 19, 0, 1, b'a', 1, 3],
            &[0, 0, 0, 14, 42, 0, 2, 3, b'd', b'/', b'x', 2, 0],
            &[1, b'y', 1, 1, 5],
            &[0, 0, 0, 2, 43, 0],
        ]
        .concat();
        let file = |path: &[u8], since, until| FuzzyFile {
            path: RelPath::new(path).expect("path"),
            since,
            until,
        };
        let messages = [
            Message::Fuzzy(Fuzzy {
                places: vec![Place::new(DirectoryId(1), Name::new("x").expect("name"))],
            }),
            Message::ListFuzzy(ListFuzzy {
                dataset: DatasetName::fit(b"a"),
                number: Some(3),
            }),
            Message::FuzzyFiles(FuzzyFiles {
                files: vec![file(b"d/x", 2, None), file(b"y", 1, Some(5))],
            }),
            Message::FuzzyEnd(FuzzyEnd {}),
        ];
        assert_golden(&golden, &messages);
    }

    #[test]
    fn the_frames_of_deltas_are_still_read() {
        // Version 3, kept for ever: stream 7 is a version of `x` in directory 1; its 300 bytes from 5 are those of the
        // base from 4; and they are not.
        let golden = [
            &[0, 0, 0, 6, 7, 0, 7, 1, 1, b'x'][..],
            &[0, 0, 0, 7, 8, 0, 7, 5, 4, 0xac, 2],
            &[0, 0, 0, 5, 2, 0, 10, 1, b'n'],
        ]
        .concat();
        let messages = [
            Message::StreamBase(StreamBase {
                stream: 7,
                place: Place::new(DirectoryId(1), Name::new("x").expect("name")),
            }),
            Message::StreamCopy(StreamCopy {
                stream: 7,
                offset: 5,
                from: 4,
                length: 300,
            }),
            Message::Failure(Failure::new(FailureCode::BadDelta, "n")),
        ];
        assert_golden(&golden, &messages);
    }

    #[test]
    fn the_frame_of_pieces_is_still_read() {
        // Version 6, kept for ever: of stream 7, from 300 on, `ab`, and then 9 bytes of the base from 5 on.
        let golden = [0, 0, 0, 13, 80, 0, 7, 0xac, 2, 2, 0, 2, b'a', b'b', 1, 5, 9];
        let pieces = StreamPieces {
            stream: 7,
            offset: 300,
            pieces: vec![
                StreamPiece::New(b"ab"[..].into()),
                StreamPiece::Former { from: 5, length: 9 },
            ],
        };
        let stands_for = [
            Message::StreamBlock(StreamBlock {
                stream: 7,
                offset: 300,
                data: b"ab"[..].into(),
            }),
            Message::StreamCopy(StreamCopy {
                stream: 7,
                offset: 302,
                from: 5,
                length: 9,
            }),
        ];
        assert!(pieces.clone().into_messages().eq(stands_for));
        assert_golden(&golden, &[Message::StreamPieces(pieces)]);
    }

    #[test]
    fn the_frame_of_a_wait_is_still_read() {
        // Version 4, kept for ever: 300 of 500 milliseconds.
        let golden = [0, 0, 0, 6, 46, 0, 0xac, 2, 0xf4, 3];
        let message = Message::Waited(Waited {
            milliseconds: 300,
            of_milliseconds: 500,
        });
        assert_golden(&golden, &[message]);
        assert!(Frame(vec![46, 0, 11, 10]).decode().is_err(), "11 of 10");
    }

    #[test]
    fn the_frames_of_looking_into_the_past_are_still_read() {
        // Version 5, kept for ever: what stands at `d/x` of snapshot 3 of dataset `a`? All below `d`? Versions of `*`
        // up to snapshot 4? From snapshot 1 to 300? How much with each? And the end.
        let golden = [
            &[0, 0, 0, 10, 24, 0, 1, b'a', 1, 3, 3, b'd', b'/', b'x'][..],
            &[0, 0, 0, 8, 25, 0, 1, b'a', 3, 1, b'd', 1],
            &[0, 0, 0, 9, 26, 0, 1, b'a', 1, b'*', 0, 1, 4],
            &[0, 0, 0, 7, 27, 0, 1, b'a', 1, 0xac, 2],
            &[0, 0, 0, 4, 28, 0, 1, b'a'],
            &[0, 0, 0, 2, 59, 0],
        ]
        .concat();
        let dataset = DatasetName::fit(b"a");
        let path = |path: &[u8]| RelPath::new(path).expect("path");
        let messages = [
            Message::Locate(Locate {
                dataset: dataset.clone(),
                number: Some(3),
                path: path(b"d/x"),
            }),
            Message::ListTree(ListTree {
                dataset: dataset.clone(),
                number: 3,
                path: path(b"d"),
                depth: Depth::All,
            }),
            Message::Find(Find {
                dataset: dataset.clone(),
                pattern: "*".to_owned(),
                first: None,
                last: Some(4),
            }),
            Message::Compare(Compare {
                dataset: dataset.clone(),
                from: 1,
                to: 300,
            }),
            Message::Summarise(Summarise { dataset }),
            Message::Told(Told {}),
        ];
        assert_golden(&golden, &messages);
    }

    #[test]
    fn the_frames_of_what_was_in_the_past_are_still_read() {
        // Version 5, kept for ever. The fifo `x` in directory 1 of snapshot 3; it in a list; in the snapshots 2 to 4;
        // added, removed, changed and moved; 1 entry of 2 bytes added, and nothing else.
        let fifo = [6, 7, 8, 18, 10, 0, 3, 0];
        let at = [1, b'x'];
        let golden = [
            &[0, 0, 0, 50, 54, 0, 1, 3][..],
            &[9; 32],
            &[4, 5, 6, 1, 1, b'x'],
            &fifo,
            &[0, 0, 0, 13, 55, 0, 1],
            &[at.as_slice(), &fifo].concat(),
            &[0, 0, 0, 16, 56, 0, 1],
            &[at.as_slice(), &fifo, &[2, 1, 5]].concat(),
            &[0, 0, 0, 65, 57, 0, 4, 0],
            &[at.as_slice(), &fifo, &[1], &at, &fifo].concat(),
            &[&[2][..], &at, &fifo, &fifo].concat(),
            &[&[3, 1, b'y'][..], &at, &fifo, &fifo].concat(),
            &[0, 0, 0, 14, 58, 0, 1, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let entry = Entry {
            attributes: Attributes {
                mode: 6,
                uid: 7,
                gid: 8,
                modified: Timestamp {
                    seconds: 9,
                    nanoseconds: 10,
                },
                xattrs: Vec::new(),
            },
            node: Node::Fifo,
            group: 0,
        };
        assert_golden(&golden, &answers(&entry));
    }

    #[test]
    fn the_frames_of_repairs_are_still_read() {
        // Version 5, kept for ever: repair dataset `a`; what was wrong with `x` there was `n`.
        let golden = [
            &[0, 0, 0, 5, 29, 0, 1, 1, b'a'][..],
            &[0, 0, 0, 8, 60, 0, 1, b'a', 1, b'x', 1, b'n'],
        ]
        .concat();
        let dataset = DatasetName::fit(b"a");
        let messages = [
            Message::Repair(Repair {
                dataset: Some(dataset.clone()),
            }),
            Message::Repaired(Repaired {
                dataset,
                path: RelPath::new(b"x").expect("path"),
                what: "n".to_owned(),
            }),
        ];
        assert_golden(&golden, &messages);
    }

    #[test]
    fn golden_frame_of_a_source_root() {
        let golden = [0, 0, 0, 9, 65, 0, 1, 7, 0x80, 2, 1, 2, 5].to_vec();
        let message = Message::SourceRoot(SourceRoot {
            file_system: Some(7),
            inode: 256,
            born: Some(Timestamp {
                seconds: 1,
                nanoseconds: 5,
            }),
        });
        assert_golden(&golden, &[message]);
    }

    fn answers(entry: &Entry) -> [Message; 5] {
        let snapshot = Snapshot {
            position: Position {
                epoch: 1,
                number: 3,
                fingerprint: Fingerprint([9; 32]),
            },
            committed_seconds: 2,
            entries: 5,
            bytes: 6,
        };
        let path = |path: &[u8]| RelPath::new(path).expect("path");
        let (x, entry) = (path(b"x"), || entry.clone());
        let differences = vec![
            Difference::Added {
                path: x.clone(),
                entry: entry(),
            },
            Difference::Removed {
                path: x.clone(),
                entry: entry(),
            },
            Difference::Changed {
                path: x.clone(),
                before: entry(),
                after: entry(),
            },
            Difference::Moved {
                from: path(b"y"),
                path: x.clone(),
                before: entry(),
                after: entry(),
            },
        ];
        let summary = Summary {
            number: 3,
            added: Tally {
                entries: 1,
                bytes: 2,
            },
            ..Summary::default()
        };
        [
            Message::Located(Located {
                snapshot,
                place: Place::new(DirectoryId(1), Name::new("x").expect("name")),
                entry: entry(),
            }),
            Message::Listed(Listed {
                entries: vec![(x.clone(), entry())],
            }),
            Message::Found(Found {
                versions: vec![Version {
                    path: x,
                    entry: entry(),
                    since: 2,
                    until: Some(5),
                }],
            }),
            Message::Differences(Differences { differences }),
            Message::Summaries(Summaries {
                summaries: vec![summary],
            }),
        ]
    }

    /// The messages are written as `golden`, and read from it.
    fn assert_golden(golden: &[u8], messages: &[Message]) {
        let mut encoder = Encoder::new(Compression::Off);
        let mut deframer = Deframer::default();
        let mut rest = golden;
        let mut written = Vec::new();
        for message in messages {
            written.extend(wire(&encoder.encode(message).expect("encode")));
            let read = deframer.next_frame(&mut rest).expect("valid");
            let read = read.expect("whole").decode();
            assert_eq!(read.expect("decode"), *message);
        }
        assert_eq!(written, golden);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(sizes in prop::collection::vec(1usize..3000, 1..20), cut in 1usize..500) {
            let mut encoder = Encoder::new(Compression::Zstd(1));
            let messages: Vec<_> = sizes.iter().map(|&size| block(vec![size as u8; size])).collect();
            let bytes: Vec<u8> =
                messages.iter().flat_map(|message| wire(&encoder.encode(message).expect("encode"))).collect();
            let mut deframer = Deframer::default();
            let mut read = Vec::new();
            for (number, mut piece) in bytes.chunks(cut).enumerate() {
                if let Some((rest, missing)) = deframer.rest().filter(|_| number % 2 == 0) {
                    rest.extend(take(&mut piece, missing));
                }
                read.extend(deframer.whole());
                while let Some(frame) = deframer.next_frame(&mut piece).expect("valid") {
                    read.push(frame);
                }
            }
            let read: Vec<_> = read.iter().map(|frame| frame.decode().expect("decode")).collect();
            prop_assert_eq!(read, messages);
            prop_assert!(deframer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Frame(bytes.clone()).decode();
            let mut deframer = Deframer::default();
            let mut rest = &bytes[..];
            while let Ok(Some(frame)) = deframer.next_frame(&mut rest) {
                let _ = frame.decode();
            }
        }
    }
}
