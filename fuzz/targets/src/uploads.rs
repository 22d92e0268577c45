//! Change sets as the receiver takes them: whole sessions with a store, most of it right and some of it wrong.

use std::collections::HashMap;

use understudy_protocol::message::{
    Begin, Change, Changes, Commit, Confirm, Content, Fuzzy, Leftover, Owners, Piece, StreamAbort,
    StreamBase, StreamBlock, StreamCopy, StreamEnd, StreamPiece, StreamPieces, StreamResume, Touch,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::version::{NEWEST, RESUME};
use understudy_protocol::{
    ContentHash, DatasetName, DirectoryId, Entry, Fingerprint, Message, Name, Node, Place, Xattr,
};

use crate::choices::Choices;
use crate::spare::{Spare, digest, drain, tell};
use crate::{samples, wire};

/// Sessions of one input, and steps of a session.
const SESSIONS: usize = 5;
const STEPS: usize = 40;
/// Beyond it a file is hashed for longer than one input should take.
const LARGEST: u64 = 8 << 20;

/// Whatever is sent, a snapshot is what was said of it, and nothing is written elsewhere.
pub(crate) fn changes(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut spare = Spare::new();
    for _ in 0..SESSIONS {
        if choices.is_empty() {
            break;
        }
        session(&mut spare, &mut choices);
    }
    if spare.position.is_some() {
        spare.check();
    }
    spare.is_alone();
}

fn session(spare: &mut Spare, choices: &mut Choices<'_>) {
    let version = match choices.byte() {
        old @ 1..=5 => u32::from(old),
        _ => NEWEST,
    };
    let committed = spare.talk(version, |channel| {
        let mut upload = Upload::new(spare);
        let dataset = if choices.seldom(64) {
            DatasetName::fit(b"other")
        } else {
            samples::dataset()
        };
        let is_other = dataset != samples::dataset();
        begin(channel, dataset, version, &mut upload)?;
        if is_other {
            // It is begun and left.
            return None;
        }
        for _ in 0..STEPS {
            if drain(channel).is_err() {
                return None;
            }
            if let Some(end) = upload.step(channel, choices) {
                return end;
            }
        }
        upload.commit(channel, choices)
    });
    if let Some((position, entries)) = committed {
        spare.position = Some(position);
        spare.entries = entries;
    }
}

/// Begins, and hears what is left over.
fn begin(
    channel: &mut Channel,
    dataset: DatasetName,
    version: u32,
    upload: &mut Upload<'_>,
) -> Option<()> {
    tell(channel, &Message::Begin(Begin { dataset }));
    loop {
        match channel.incoming.receive_message().ok()? {
            Message::Ready(_) if version < RESUME => return Some(()),
            Message::Leftover(Leftover { partials, .. }) => upload.partials.extend(partials),
            Message::LeftoverEnd(_) => return Some(()),
            _ => {}
        }
    }
}

type Committed = (
    understudy_protocol::Position,
    std::collections::BTreeMap<Place, Entry>,
);

struct Upload<'a> {
    spare: &'a Spare,
    /// All records so far, and those that were not sent yet.
    changes: Vec<Change>,
    unsent: Vec<Change>,
    /// What was sent of each stream.
    streams: HashMap<u64, Vec<u8>>,
    /// What is whole: size and hash.
    whole: HashMap<u64, (u64, ContentHash)>,
    partials: Vec<(u64, ContentHash)>,
}

impl<'a> Upload<'a> {
    fn new(spare: &'a Spare) -> Self {
        Self {
            spare,
            changes: Vec::new(),
            unsent: Vec::new(),
            streams: HashMap::new(),
            whole: HashMap::new(),
            partials: Vec::new(),
        }
    }

    /// One step; `Some` if it was the last.
    fn step(
        &mut self,
        channel: &mut Channel,
        choices: &mut Choices<'_>,
    ) -> Option<Option<Committed>> {
        match choices.byte() % 24 {
            0 => return Some(self.commit(channel, choices)),
            1..=3 => self.put(choices, Kind::Directory),
            4..=8 => self.put(choices, Kind::File),
            9 => self.put(choices, Kind::Special),
            10 => {
                let place = place(choices);
                self.record(Change::Remove { place });
            }
            11 => {
                let touch = [Touch::Kept, Touch::Copied][choices.below(2)];
                let (place, mut attributes) = (place(choices), samples::attributes());
                attributes.mode = choices.short() & 0o7777;
                self.record(Change::Touch {
                    place,
                    attributes,
                    touch,
                });
            }
            12..=14 => self.block(channel, choices),
            15 | 16 => self.end(channel, choices),
            17 => self.base(channel, choices),
            18 => self.copy(channel, choices),
            19 => self.flush(channel),
            20 => {
                let places = (0..choices.below(3)).map(|_| place(choices)).collect();
                tell(channel, &Message::Fuzzy(Fuzzy { places }));
            }
            21 => self.rarely(channel, choices),
            22 => return Some(None),
            _ => anything(channel, choices),
        }
        None
    }

    fn record(&mut self, change: Change) {
        self.changes.push(change.clone());
        self.unsent.push(change);
    }

    fn flush(&mut self, channel: &Channel) {
        let records = std::mem::take(&mut self.unsent);
        tell(channel, &Message::Changes(Changes { records }));
    }

    fn put(&mut self, choices: &mut Choices<'_>, kind: Kind) {
        let place = match self.changes.is_empty() && self.spare.position.is_none() {
            true => samples::place(0, "files"),
            false => place(choices),
        };
        let is_root = place.parent == DirectoryId::TOP;
        let (mut entry, content) = match kind {
            _ if is_root && !choices.seldom(16) => (samples::directory(1), Content::Directory),
            Kind::Directory => {
                let id = 2 + choices.below(6) as u64;
                (samples::directory(id), Content::Directory)
            }
            Kind::File => self.file(choices),
            Kind::Special => (
                samples::entry(special(choices)),
                Content::Inline(Vec::new().into()),
            ),
        };
        if choices.seldom(8) {
            attributes(&mut entry, choices);
        }
        if choices.seldom(8) {
            entry.group = 1 + choices.below(3) as u64;
        }
        self.record(Change::Put {
            place,
            entry,
            content,
        });
    }

    fn file(&self, choices: &mut Choices<'_>) -> (Entry, Content) {
        let bytes = content(choices);
        let honest = samples::file(&bytes);
        let known = |place: &Place| self.spare.entries.get(place).cloned();
        match choices.below(12) {
            0..=4 => (honest, Content::Inline(bytes.into())),
            5 => {
                let stream = choices.below(5) as u64;
                let (size, hash) = self
                    .whole
                    .get(&stream)
                    .copied()
                    .unwrap_or((0, ContentHash::of(b"")));
                let node = Node::File { size, hash };
                (samples::entry(node), Content::Stream(stream))
            }
            6 => {
                let from = place(choices);
                (known(&from).unwrap_or(honest), Content::Keep(from))
            }
            7 => {
                let from = place(choices);
                (known(&from).unwrap_or(honest), Content::Copy(from))
            }
            8 => {
                let first = place(choices);
                let of_first = self.changes.iter().rev().find_map(|change| match change {
                    Change::Put { place, entry, .. } if *place == first => Some(entry.clone()),
                    _ => None,
                });
                (of_first.unwrap_or(honest), Content::Sibling(first))
            }
            9 => delta(choices),
            10 => (honest, Content::Leftover),
            _ => (honest, Content::History),
        }
    }

    fn block(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let stream = choices.below(5) as u64;
        let sent = self.streams.entry(stream).or_default();
        let gap = if choices.seldom(4) {
            choices.number()
        } else {
            0
        };
        let offset = (sent.len() as u64).wrapping_add(gap);
        let data = content(choices).repeat(1 + choices.below(3));
        let end = offset.saturating_add(data.len() as u64);
        if end <= LARGEST {
            sent.resize(offset as usize, 0);
            sent.extend(&data);
        } else if end <= i64::MAX as u64 {
            // It would be hashed as zeros up to there.
            return;
        }
        tell(
            channel,
            &Message::StreamBlock(StreamBlock {
                stream,
                offset,
                data: data.into(),
            }),
        );
    }

    fn end(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let stream = choices.below(5) as u64;
        if choices.seldom(8) {
            self.streams.remove(&stream);
            return tell(channel, &Message::StreamAbort(StreamAbort { stream }));
        }
        let mut sent = self.streams.remove(&stream).unwrap_or_default();
        if choices.seldom(4) {
            let length = sent.len() + usize::from(choices.short());
            sent.resize(length, 0);
        }
        let (size, mut hash) = (sent.len() as u64, ContentHash::of(&sent));
        if choices.seldom(16) {
            hash.0[0] ^= choices.byte();
        }
        self.whole.insert(stream, (size, hash));
        tell(
            channel,
            &Message::StreamEnd(StreamEnd { stream, size, hash }),
        );
    }

    fn base(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let stream = choices.below(5) as u64;
        if choices.seldom(3) {
            let (length, hash) = match self.partials.get(choices.below(4)) {
                Some(&partial) => partial,
                None => (choices.number(), ContentHash::of(b"")),
            };
            return tell(
                channel,
                &Message::StreamResume(StreamResume {
                    stream,
                    length,
                    hash,
                }),
            );
        }
        let place = place(choices);
        tell(channel, &Message::StreamBase(StreamBase { stream, place }));
    }

    fn copy(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let stream = choices.below(5) as u64;
        let sent = self.streams.entry(stream).or_default();
        let offset = if choices.seldom(8) {
            choices.number()
        } else {
            sent.len() as u64
        };
        if offset > LARGEST && offset <= i64::MAX as u64 {
            return;
        }
        let (from, length) = (choices.number(), choices.number());
        // What the base has there is one of the contents, if any.
        tell(
            channel,
            &Message::StreamCopy(StreamCopy {
                stream,
                offset,
                from,
                length,
            }),
        );
    }

    fn pieces(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let stream = choices.below(5) as u64;
        let sent = self.streams.entry(stream).or_default();
        let offset = sent.len() as u64;
        let mut pieces = Vec::new();
        for _ in 0..choices.below(4) {
            pieces.push(match choices.below(2) {
                0 => {
                    let data = content(choices);
                    sent.extend_from_slice(&data);
                    StreamPiece::New(data.into())
                }
                _ => StreamPiece::Former {
                    from: choices.number(),
                    length: choices.number(),
                },
            });
        }
        tell(
            channel,
            &Message::StreamPieces(StreamPieces {
                stream,
                offset,
                pieces,
            }),
        );
    }

    fn rarely(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let name = |choices: &mut Choices<'_>| (u32::from(choices.byte()), choices.some().into());
        match choices.below(4) {
            3 => self.pieces(channel, choices),
            0 => tell(
                channel,
                &Message::Owners(Owners {
                    users: vec![name(choices)],
                    groups: vec![name(choices), name(choices)],
                }),
            ),
            1 => {
                if let Some(position) = self.spare.position {
                    tell(
                        channel,
                        &Message::Confirm(Confirm {
                            position,
                            elapsed_milliseconds: choices.number(),
                        }),
                    );
                }
            }
            _ => tell(
                channel,
                &Message::SourceRoot(understudy_protocol::message::SourceRoot {
                    file_system: Some(choices.number()),
                    inode: choices.number(),
                    born: None,
                }),
            ),
        }
    }

    /// Commits, mostly with the right digest; returns what is the newest snapshot from now on, if it is another.
    fn commit(&mut self, channel: &mut Channel, choices: &mut Choices<'_>) -> Option<Committed> {
        if !self.unsent.is_empty() {
            self.flush(channel);
        }
        let entries = self.spare.after(&self.changes);
        let mut fingerprint = digest(&entries).fingerprint();
        let is_wrong = choices.seldom(32);
        if is_wrong {
            fingerprint = Fingerprint([choices.byte(); 32]);
        }
        let base = if choices.seldom(32) {
            None
        } else {
            self.spare.position
        };
        tell(
            channel,
            &Message::Commit(Commit {
                base,
                fingerprint,
                elapsed_milliseconds: choices.number(),
            }),
        );
        loop {
            match channel.incoming.receive_message() {
                Ok(Message::Committed(committed)) => {
                    assert!(!is_wrong, "a wrong digest");
                    assert_eq!(base, self.spare.position, "a wrong base");
                    let position = committed.snapshot.position;
                    assert_eq!(position.fingerprint, fingerprint);
                    assert_eq!(committed.snapshot.entries, entries.len() as u64);
                    return Some((position, entries));
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Directory,
    File,
    Special,
}

fn special(choices: &mut Choices<'_>) -> Node {
    let target = ["/", "../..", "a", "/etc/passwd"][choices.below(4)];
    match choices.below(4) {
        0 | 1 => Node::Symlink {
            target: target.as_bytes().into(),
        },
        2 => Node::Fifo,
        _ => Node::CharacterDevice { major: 1, minor: 3 },
    }
}

fn attributes(entry: &mut Entry, choices: &mut Choices<'_>) {
    let attributes = &mut entry.attributes;
    attributes.mode = choices.short() & 0o7777;
    attributes.uid = choices.number() as u32;
    attributes.gid = choices.number() as u32;
    attributes.modified.seconds = choices.number() as i64;
    let name = [
        &b"user.a"[..],
        b"security.capability",
        b"system.posix_acl_access",
        b"trusted.x",
        b"nonsense",
    ][choices.below(5)];
    attributes.xattrs = vec![Xattr {
        name: name.into(),
        value: choices.some().into(),
    }];
}

/// Pieces of what one of the contents may be.
fn delta(choices: &mut Choices<'_>) -> (Entry, Content) {
    let (base, from) = (content(choices), place(choices));
    let mut made = Vec::new();
    let mut pieces = Vec::new();
    for _ in 0..choices.below(4) {
        if choices.seldom(3) {
            let data = choices.some();
            made.extend(data);
            pieces.push(Piece::Data(data.into()));
            continue;
        }
        let (from, length) = (choices.number() as u32, choices.number() as u32);
        let end = (from as usize).saturating_add(length as usize);
        made.extend(base.get(from as usize..end).unwrap_or_default());
        pieces.push(Piece::Copy { from, length });
    }
    (samples::file(&made), Content::Delta(from, pieces))
}

/// A message of any kind that the rest of the step can be read as.
fn anything(channel: &Channel, choices: &mut Choices<'_>) {
    let bytes = choices.some();
    let Some(message) = wire::message(bytes) else {
        return;
    };
    // Those would be hashed as zeros for years.
    let end = match &message {
        Message::StreamBlock(block) => block.offset,
        Message::StreamEnd(end) => end.size,
        Message::StreamCopy(copy) => copy.offset,
        Message::StreamPieces(pieces) => pieces.offset,
        _ => 0,
    };
    // A pace at which nothing would ever end.
    let is_slow =
        matches!(&message, Message::Inspect(inspect) if inspect.bytes_per_second < 1 << 20);
    if end <= LARGEST && !is_slow {
        tell(channel, &message);
    }
}

/// A place of few, so that they meet.
fn place(choices: &mut Choices<'_>) -> Place {
    const NAMES: [&str; 10] = [
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "files",
        ".understudy",
        "SNAPSHOT",
        "catalog.db",
    ];
    let byte = choices.byte();
    let parent = match byte >> 4 {
        0..=9 => 1,
        10..=13 => 2 + u64::from(byte & 3),
        14 => 0,
        _ => choices.number(),
    };
    let name = NAMES[usize::from(byte & 15) % NAMES.len()];
    let name = if parent == 0 && byte & 1 == 0 {
        "files"
    } else {
        name
    };
    Place::new(DirectoryId(parent), Name::new(name).expect("a name"))
}

/// A content of few, so that they come back.
fn content(choices: &mut Choices<'_>) -> Vec<u8> {
    let byte = choices.byte();
    let edit = byte >> 4;
    let mut content = match byte & 15 {
        0 => Vec::new(),
        1..=5 => b"short".to_vec(),
        6..=10 => (0..3000_u32)
            .map(|at| (at.wrapping_mul(at) >> 4) as u8)
            .collect(),
        11..=13 => (0..70_000_u32)
            .map(|at| (at.wrapping_mul(at) >> 5) as u8)
            .collect(),
        14 => vec![b'x'; 65_536],
        _ => vec![7; 500_000],
    };
    if let Some(byte) = content.get_mut(usize::from(edit) * 101) {
        *byte ^= edit;
    }
    content
}

/// Programs that reach far: a tree, streams, a second version, a broken upload and one that carries on with it.
pub(crate) fn changes_seeds() -> Vec<Vec<u8>> {
    let root: &[u8] = &[1, 0, 0, 0];
    let tree = [
        &[9, 0][..],
        &[1, 1, 0, 0],
        &[1, 0x01, 1, 0, 0],
        &[4, 0xa2, 1, 0, 0, 0],
        &[4, 0x02, 6, 0, 0, 0],
        &[4, 0x03, 11, 0, 0, 0],
        &[9, 0x04, 0, 0, 0, 0],
        &[0, 0, 0, 0],
    ]
    .concat();
    let streams = [
        &[9, 0][..],
        root,
        &[12, 1, 0, 11, 0],
        &[12, 1, 0, 14, 0],
        &[15, 1, 0, 0, 0],
        &[5, 0x05, 0, 5, 1, 0, 0],
        &[0, 0, 0, 0],
    ]
    .concat();
    let broken = [
        &[9, 0][..],
        &[12, 1, 0, 15, 2],
        &[12, 1, 0, 15, 2],
        &[19],
        &[22],
    ]
    .concat();
    let mut seeds = vec![tree.clone(), streams.clone()];
    seeds.push([&tree[..], &[9, 0, 11, 0, 0x02, 1, 1, 0, 0, 0, 0]].concat());
    seeds.push(
        [
            &tree[..],
            &[9, 0, 10, 0x02, 4, 0x05, 6, 11, 0, 0, 0, 0, 0, 0],
        ]
        .concat(),
    );
    seeds.push(
        [
            &streams[..],
            &broken,
            &[9, 0, 17, 1, 2, 0, 15, 1, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat(),
    );
    for message in samples::messages() {
        let mut seed = [&tree[..], &[9, 0, 23]].concat();
        let bytes = wire::bytes(&message);
        if let Ok(length) = u8::try_from(bytes.len()) {
            seed.push(length);
            seed.extend(bytes);
            seeds.push(seed);
        }
    }
    seeds
}
