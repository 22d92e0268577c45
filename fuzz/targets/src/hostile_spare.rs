//! A spare that answers an agent with anything.

use std::collections::BTreeMap;

use understudy_protocol::message::{
    Committed, Confirmed, Datasets, Fuzzy, Given, GivenStream, Leftover, LeftoverEnd, Manifest,
    ManifestEnd, Owners, Ready, StreamAbort, StreamBlock, StreamCopy, StreamEnd, Waited, Wanted,
    WantedContent,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::version::Hello;
use understudy_protocol::{
    ContentHash, DirectoryId, Entry, Fingerprint, Message, Name, Node, Place, Position, Snapshot,
    StateDigest,
};

use crate::choices::Choices;
use crate::spare::tell;
use crate::{samples, wire};

/// Contents of the files that it tells of.
const CONTENTS: [&[u8]; 3] = [b"", b"content", &[b'x'; 70_000]];
/// More would take longer than one input should.
const ENTRIES: usize = 40;
const MESSAGES: usize = 200;
const LARGEST_FILE: u64 = i64::MAX as u64;
/// Up to there a hole is hashed in no time.
const LARGEST: u64 = 8 << 20;

/// Answers until it has nothing to say any more. Returns what it was sent.
pub(crate) fn answer(mut channel: Channel, data: &[u8]) -> Vec<Message> {
    let mut choices = Choices::new(data);
    let mut spare = HostileSpare {
        entries: entries(&mut choices),
        position: None,
        streams: 0,
    };
    tell(&channel, &Message::Hello(Hello::ours()));
    let mut heard = Vec::new();
    while heard.len() < MESSAGES && !choices.is_empty() {
        let Ok(message) = channel.incoming.receive_message() else {
            break;
        };
        spare.react(&channel, &message, &mut choices);
        heard.push(message);
    }
    // What is under way is heard as well.
    drop(channel.outgoing);
    while let Ok(message) = channel.incoming.receive_message() {
        heard.push(message);
    }
    heard
}

struct HostileSpare {
    entries: Vec<(Place, Entry)>,
    position: Option<Position>,
    streams: u64,
}

impl HostileSpare {
    fn react(&mut self, channel: &Channel, message: &Message, choices: &mut Choices<'_>) {
        if choices.seldom(32) {
            anything(channel, choices);
        }
        match message {
            Message::ReadManifest(_) => self.manifest(channel, choices),
            Message::Want(want) => {
                for place in &want.places {
                    self.give(channel, place, 0, choices);
                }
            }
            Message::WantRest(want) => self.give(channel, &want.place, want.from, choices),
            Message::List(_) => tell(
                channel,
                &Message::Datasets(Datasets {
                    datasets: Vec::new(),
                    free_bytes: choices.number(),
                    now_seconds: choices.number() as i64,
                }),
            ),
            Message::Begin(_) => self.ready(channel, choices),
            Message::Commit(commit) => {
                let position = Position {
                    epoch: choices.number(),
                    number: choices.number(),
                    fingerprint: commit.fingerprint,
                };
                let snapshot = snapshot(position, choices);
                let timings = Vec::new();
                tell(
                    channel,
                    &Message::Committed(Committed { snapshot, timings }),
                );
            }
            Message::Confirm(confirm) => {
                let snapshot = snapshot(confirm.position, choices);
                tell(channel, &Message::Confirmed(Confirmed { snapshot }));
            }
            _ => {}
        }
    }

    /// Where it stands, what it has lost, and what it has left over.
    fn ready(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let position = choices.seldom(2).then(|| self.position(choices));
        tell(channel, &Message::Ready(Ready { position }));
        if choices.seldom(2) {
            let wanted = |choices: &mut Choices<'_>| WantedContent {
                path: samples::path(["a", "d/b", "link", "link/secret", "d"][choices.below(5)]),
                size: [7, 6, choices.number()][choices.below(3)],
                hash: ContentHash::of([&b"content"[..], b"secret"][choices.below(2)]),
            };
            let contents = (0..choices.below(3)).map(|_| wanted(choices)).collect();
            tell(channel, &Message::Wanted(Wanted { contents }));
        }
        for _ in 0..choices.below(3) {
            let content = CONTENTS[choices.below(3)];
            let hash = ContentHash::of(content);
            let mut half = [0; 16];
            half.copy_from_slice(&hash.0[..16]);
            tell(
                channel,
                &Message::Leftover(Leftover {
                    contents: vec![(content.len() as u64, half)],
                    partials: vec![(choices.number(), hash)],
                }),
            );
        }
        if choices.seldom(4) {
            tell(
                channel,
                &Message::Waited(Waited {
                    milliseconds: choices.number(),
                    of_milliseconds: choices.number(),
                }),
            );
        }
        tell(channel, &Message::LeftoverEnd(LeftoverEnd {}));
    }

    /// That of what it tells, mostly.
    fn position(&mut self, choices: &mut Choices<'_>) -> Position {
        let mut digest = StateDigest::empty();
        for (place, entry) in &self.entries {
            digest.add(place, entry);
        }
        let mut fingerprint = digest.fingerprint();
        if choices.seldom(16) {
            fingerprint = Fingerprint([choices.byte(); 32]);
        }
        *self.position.get_or_insert(Position {
            epoch: 1,
            number: choices.number(),
            fingerprint,
        })
    }

    fn manifest(&mut self, channel: &Channel, choices: &mut Choices<'_>) {
        let position = self.position(choices);
        for entries in self.entries.chunks(1 + choices.below(8)) {
            let entries = entries.to_vec();
            tell(channel, &Message::Manifest(Manifest { entries }));
        }
        if choices.seldom(4) {
            let places = (0..choices.below(3)).map(|_| place(choices)).collect();
            tell(channel, &Message::Fuzzy(Fuzzy { places }));
        }
        if choices.seldom(4) {
            let users = vec![
                (0, choices.some().into()),
                (choices.byte().into(), b"root"[..].into()),
            ];
            let groups = Vec::new();
            tell(channel, &Message::Owners(Owners { users, groups }));
        }
        let snapshot = snapshot(position, choices);
        tell(channel, &Message::ManifestEnd(ManifestEnd { snapshot }));
    }

    /// Gives the content of a place, or something else.
    fn give(&mut self, channel: &Channel, place: &Place, from: u64, choices: &mut Choices<'_>) {
        let entry = self.entries.iter().find(|(known, _)| known == place);
        let content = entry
            .and_then(|(_, entry)| content(entry))
            .unwrap_or_default();
        let place = if choices.seldom(16) {
            self::place(choices)
        } else {
            place.clone()
        };
        let content = match choices.seldom(8) {
            true => choices.some(),
            false => content,
        };
        if from == 0 && content.len() <= 65_536 && !choices.seldom(4) {
            let contents = vec![(place, content.into())];
            return tell(channel, &Message::Given(Given { contents }));
        }
        self.streams += 1;
        let stream = self.streams;
        tell(
            channel,
            &Message::GivenStream(GivenStream { place, stream }),
        );
        if choices.seldom(8) {
            tell(
                channel,
                &Message::StreamCopy(StreamCopy {
                    stream,
                    offset: near(choices),
                    from: near(choices),
                    length: near(choices),
                }),
            );
        }
        let start = (from as usize).min(content.len());
        for (number, data) in content[start..].chunks(30_000).enumerate() {
            let gap = if choices.seldom(16) { near(choices) } else { 0 };
            tell(
                channel,
                &Message::StreamBlock(StreamBlock {
                    stream,
                    offset: (start + number * 30_000) as u64 + gap,
                    data: data.into(),
                }),
            );
        }
        if choices.seldom(16) {
            return tell(channel, &Message::StreamAbort(StreamAbort { stream }));
        }
        let size = match choices.seldom(16) {
            true => near(choices),
            false => content.len() as u64,
        };
        let hash = ContentHash::of(content);
        tell(
            channel,
            &Message::StreamEnd(StreamEnd { stream, size, hash }),
        );
    }
}

/// A number that is no offset at which years are spent on zeros.
fn near(choices: &mut Choices<'_>) -> u64 {
    choices.number() % LARGEST
}

/// One of the contents, if the entry says so.
fn content(entry: &Entry) -> Option<&'static [u8]> {
    let (_, hash) = entry.content()?;
    CONTENTS
        .into_iter()
        .find(|content| ContentHash::of(content) == hash)
}

fn snapshot(position: Position, choices: &mut Choices<'_>) -> Snapshot {
    Snapshot {
        position,
        committed_seconds: choices.number() as i64,
        entries: choices.number(),
        bytes: choices.number(),
    }
}

/// A manifest: mostly a tree, with its root first.
fn entries(choices: &mut Choices<'_>) -> Vec<(Place, Entry)> {
    let mut entries = Vec::new();
    if !choices.seldom(16) {
        entries.push((samples::place(0, "files"), samples::directory(1)));
    }
    for _ in 0..choices.below(ENTRIES) {
        entries.push((place(choices), entry(choices)));
    }
    if choices.seldom(8) {
        return entries;
    }
    // Each place once, and each directory before what it holds.
    let mut placed = BTreeMap::new();
    for (place, entry) in entries {
        placed.insert(place, entry);
    }
    placed.into_iter().collect()
}

fn place(choices: &mut Choices<'_>) -> Place {
    const NAMES: [&[u8]; 10] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b"e",
        b"link",
        b"\x1b[2J",
        b"...",
        b"files",
        b"databases",
    ];
    let byte = choices.byte();
    let parent = match byte >> 4 {
        0..=7 => 1,
        8..=13 => 2 + u64::from(byte & 3),
        14 => 0,
        _ => choices.number(),
    };
    let name = NAMES[usize::from(byte & 15) % NAMES.len()];
    Place::new(DirectoryId(parent), Name::new(name).expect("a name"))
}

fn entry(choices: &mut Choices<'_>) -> Entry {
    let mut entry = match choices.below(16) {
        0..=3 => samples::directory(2 + choices.below(5) as u64),
        4..=9 => samples::file(CONTENTS[choices.below(3)]),
        10 => samples::entry(Node::File {
            size: choices.number() & LARGEST_FILE,
            hash: ContentHash::of(CONTENTS[choices.below(3)]),
        }),
        11 | 12 => samples::entry(Node::Symlink {
            target: ["..", "../outside", "/", "a"][choices.below(4)]
                .as_bytes()
                .into(),
        }),
        13 => samples::entry(Node::Fifo),
        14 => samples::entry(Node::CharacterDevice { major: 1, minor: 3 }),
        _ => samples::directory(choices.number()),
    };
    if choices.seldom(4) {
        entry.attributes.mode = choices.short() & 0o7777;
        entry.attributes.uid = choices.number() as u32;
        entry.attributes.modified.seconds = choices.number() as i64;
    }
    if choices.seldom(8) {
        entry.group = 1 + choices.below(3) as u64;
    }
    entry
}

fn anything(channel: &Channel, choices: &mut Choices<'_>) {
    let Some(message) = wire::message(choices.some()) else {
        return;
    };
    let end = match &message {
        Message::StreamBlock(block) => block.offset,
        Message::StreamEnd(end) => end.size,
        Message::StreamCopy(copy) => copy.offset,
        Message::StreamPieces(pieces) => pieces.offset,
        _ => 0,
    };
    if end <= LARGEST {
        tell(channel, &message);
    }
}
