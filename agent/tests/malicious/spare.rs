//! The malicious spare: it answers as an honest one would, but for the lies that a test tells it to tell.

use std::thread;

use understudy_protocol::frame::Deframer;
use understudy_protocol::message::{
    Committed, DatasetStatus, Datasets, Fuzzy, Given, GivenStream, LeftoverEnd, Manifest,
    ManifestEnd, Owners, Ready, Stated, StreamBlock, StreamEnd, Want,
};
use understudy_protocol::statement::{fuzzy_digest, owners_digest};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::{
    Attributes, Bytes, Compression, ContentHash, DirectoryId, Encoder, Entry, Frame, Message, Name,
    Node, Place, Position, SecretKey, Snapshot, StateDigest, Statement, Timestamp, limits,
};

use crate::world::{dataset, key};

/// Something that it says.
pub(crate) enum Said {
    Message(Message),
    Frame(Frame),
}

impl From<Message> for Said {
    fn from(message: Message) -> Self {
        Self::Message(message)
    }
}

/// All that it says to one question.
pub(crate) type Answers = Box<dyn Iterator<Item = Said> + Send>;

type Lie = Box<dyn FnMut(&Message) -> Option<Answers> + Send>;

pub(crate) struct Spare {
    pub(crate) entries: Vec<(Place, Entry)>,
    pub(crate) contents: Vec<(Place, Vec<u8>)>,
    pub(crate) fuzzy: Vec<Place>,
    pub(crate) owners: Owners,
    pub(crate) stated: Option<Vec<u8>>,
    pub(crate) snapshot: Snapshot,
    /// Says something else to some questions.
    pub(crate) lie: Lie,
    stream: u64,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("name")
}

pub(crate) fn place(parent: u64, text: &str) -> Place {
    Place::new(DirectoryId(parent), name(text))
}

pub(crate) fn entry(node: Node) -> Entry {
    let mode = if matches!(node, Node::Directory { .. }) {
        0o755
    } else {
        0o644
    };
    let uid = rustix::process::getuid().as_raw();
    Entry {
        attributes: Attributes {
            mode,
            uid,
            gid: rustix::process::getgid().as_raw(),
            modified: Timestamp {
                seconds: 1_700_000_000,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
        },
        node,
        group: 0,
    }
}

pub(crate) fn directory(id: u64) -> Entry {
    entry(Node::Directory {
        id: DirectoryId(id),
    })
}

pub(crate) fn file(content: &[u8]) -> Entry {
    entry(Node::File {
        size: content.len() as u64,
        hash: ContentHash::of(content),
    })
}

pub(crate) fn link(target: &str) -> Entry {
    entry(Node::Symlink {
        target: target.as_bytes().into(),
    })
}

/// Larger than what comes within a message.
pub(crate) fn large() -> Vec<u8> {
    (0..50_000_u32).flat_map(u32::to_le_bytes).collect()
}

impl Spare {
    /// One with a small tree: `f`, `d/g`, `d/large` and a link.
    pub(crate) fn new() -> Self {
        let mut spare = Self {
            entries: vec![(place(0, "files"), directory(1))],
            contents: Vec::new(),
            fuzzy: Vec::new(),
            owners: Owners::default(),
            stated: None,
            snapshot: Snapshot {
                position: Position {
                    epoch: 1,
                    number: 3,
                    fingerprint: StateDigest::empty().fingerprint(),
                },
                committed_seconds: 1_800_000_000,
                entries: 6,
                bytes: 0,
            },
            lie: Box::new(|_| None),
            stream: 0,
        };
        spare.add_file(place(1, "f"), b"f");
        spare.entries.push((place(1, "d"), directory(2)));
        spare.add_file(place(2, "g"), b"g");
        spare.add_file(place(2, "large"), &large());
        spare.entries.push((place(1, "link"), link("d/g")));
        spare.settle()
    }

    pub(crate) fn add_file(&mut self, place: Place, content: &[u8]) {
        self.entries.push((place.clone(), file(content)));
        self.contents.push((place, content.to_vec()));
    }

    /// With these entries as well, and everything that it says of them true.
    pub(crate) fn with(mut self, entries: impl IntoIterator<Item = (Place, Entry)>) -> Self {
        self.entries.extend(entries);
        self.settle()
    }

    /// Makes the fingerprint that of the entries.
    pub(crate) fn settle(mut self) -> Self {
        self.snapshot.position.fingerprint = self.digest().fingerprint();
        self.snapshot.entries = self.entries.len() as u64;
        self
    }

    pub(crate) fn digest(&self) -> StateDigest {
        let mut digest = StateDigest::empty();
        for (place, entry) in &self.entries {
            digest.add(place, entry);
        }
        digest
    }

    /// What an honest main would say of what it has.
    pub(crate) fn statement(&self) -> Statement {
        let digest = self.digest();
        let position = self.snapshot.position;
        Statement {
            dataset: dataset(),
            counter: position.number,
            previous: ContentHash::of(b"before"),
            epoch: position.epoch,
            number: position.number,
            fingerprint: digest.fingerprint(),
            weight: digest.weight(),
            fuzzy: fuzzy_digest(&self.fuzzy),
            owners: Some(owners_digest(&self.owners)),
            signed_seconds: self.snapshot.committed_seconds,
        }
    }

    pub(crate) fn signed(self) -> Self {
        self.signed_by(&key(1))
    }

    pub(crate) fn signed_by(mut self, key: &SecretKey) -> Self {
        let signed = self.statement().sign(key).expect("sign");
        self.stated = Some(signed.bytes().to_vec());
        self
    }

    /// Says something else to some questions.
    pub(crate) fn lying(
        mut self,
        lie: impl FnMut(&Message) -> Option<Answers> + Send + 'static,
    ) -> Self {
        self.lie = Box::new(lie);
        self
    }

    /// Answers one connection, on a thread of its own.
    pub(crate) fn serve(mut self) -> Channel {
        let (ours, mut theirs) = in_process();
        thread::spawn(move || {
            if theirs.greet().is_err() {
                return;
            }
            while let Ok(message) = theirs.incoming.receive_message() {
                let answers = match (self.lie)(&message) {
                    Some(answers) => answers,
                    None => self.answer(&message),
                };
                for said in answers {
                    let sent = match said {
                        Said::Message(message) => theirs.outgoing.send_message(&message),
                        Said::Frame(frame) => theirs.outgoing.send(frame),
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            }
        });
        ours
    }

    pub(crate) fn answer(&mut self, message: &Message) -> Answers {
        match message {
            Message::List(_) => says([Message::Datasets(Datasets {
                datasets: vec![DatasetStatus {
                    name: dataset(),
                    snapshots: vec![self.snapshot.clone()],
                    as_of_seconds: None,
                    uploading: false,
                    trouble: None,
                }],
                free_bytes: 0,
                now_seconds: 0,
            })]),
            Message::ReadManifest(_) => self.manifest(),
            Message::Want(want) => self.give(want),
            Message::Begin(_) => {
                let ready = Message::Ready(Ready {
                    position: Some(self.snapshot.position),
                });
                let stated = self.said();
                let end = Message::LeftoverEnd(LeftoverEnd {});
                says([ready].into_iter().chain(stated).chain([end]))
            }
            Message::Commit(commit) => {
                let mut snapshot = self.snapshot.clone();
                snapshot.position.number += 1;
                snapshot.position.fingerprint = commit.fingerprint;
                says([Message::Committed(Committed {
                    snapshot,
                    timings: Vec::new(),
                })])
            }
            _ => says([]),
        }
    }

    fn said(&self) -> Option<Message> {
        let statement = Bytes(self.stated.clone()?);
        Some(Message::Stated(Stated { statement }))
    }

    pub(crate) fn manifest(&self) -> Answers {
        let parts: Vec<Message> = self
            .entries
            .chunks(1000)
            .map(|part| manifest(part.to_vec()))
            .collect();
        let fuzzy = Message::Fuzzy(Fuzzy {
            places: self.fuzzy.clone(),
        });
        let owners = Message::Owners(self.owners.clone());
        let end = Message::ManifestEnd(ManifestEnd {
            snapshot: self.snapshot.clone(),
        });
        let all = self.said().into_iter().chain(parts);
        says(all.chain([fuzzy, owners, end]))
    }

    fn give(&mut self, want: &Want) -> Answers {
        let mut answers = Vec::new();
        for place in &want.places {
            let found = self.contents.iter().find(|(known, _)| known == place);
            let content = found.map_or_else(Vec::new, |(_, content)| content.clone());
            if content.len() <= limits::INLINE_BYTES {
                let contents = vec![(place.clone(), Bytes(content))];
                answers.push(Message::Given(Given { contents }));
                continue;
            }
            self.stream += 1;
            answers.extend(streamed(place, self.stream, &content));
        }
        says(answers)
    }
}

/// A content as a stream.
pub(crate) fn streamed(place: &Place, stream: u64, content: &[u8]) -> Vec<Message> {
    let mut messages = vec![Message::GivenStream(GivenStream {
        place: place.clone(),
        stream,
    })];
    for (number, data) in content.chunks(limits::BLOCK_BYTES).enumerate() {
        messages.push(Message::StreamBlock(StreamBlock {
            stream,
            offset: (number * limits::BLOCK_BYTES) as u64,
            data: data.into(),
        }));
    }
    messages.push(Message::StreamEnd(StreamEnd {
        stream,
        size: content.len() as u64,
        hash: ContentHash::of(content),
    }));
    messages
}

pub(crate) fn manifest(entries: Vec<(Place, Entry)>) -> Message {
    Message::Manifest(Manifest { entries })
}

pub(crate) fn says<I>(messages: I) -> Answers
where
    I: IntoIterator<Item = Message>,
    I::IntoIter: Send + 'static,
{
    Box::new(messages.into_iter().map(Said::from))
}

/// The frame of a message in which one stretch of bytes is another of the same length.
pub(crate) fn forged(message: &Message, from: &[u8], to: &[u8]) -> Said {
    assert_eq!(from.len(), to.len());
    let frame = Encoder::new(Compression::Off)
        .encode(message)
        .expect("encode");
    let mut bytes = frame.payload().to_vec();
    let at = bytes.windows(from.len()).position(|window| window == from);
    let at = at.expect("the stretch is there");
    bytes[at..at + to.len()].copy_from_slice(to);
    Said::Frame(raw(&bytes))
}

/// A frame of these bytes.
pub(crate) fn raw(payload: &[u8]) -> Frame {
    let length = (payload.len() as u32).to_be_bytes();
    let bytes = [&length[..], payload].concat();
    let mut deframer = Deframer::default();
    let mut rest = &bytes[..];
    loop {
        if let Some(frame) = deframer.next_frame(&mut rest).expect("a frame") {
            return frame;
        }
    }
}
