//! A receiver in this process, and what the newest snapshot of its one dataset should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_protocol::message::{Begin, Change, Changes, Commit, Content, Touch, WantedContent};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::{Hello, NEWEST, RESUME};
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Message, Name, Node, Place, Position,
    ProtocolError, StateDigest, Timestamp,
};
use understudy_receiver::{SessionOptions, Store, serve};

/// A store with a dataset, and what its newest snapshot should be.
pub(crate) struct Stage {
    pub(crate) store: Arc<Store>,
    pub(crate) entries: BTreeMap<Place, Entry>,
    pub(crate) position: Option<Position>,
    pub(crate) version: u32,
    pub(crate) options: SessionOptions,
    scratch: tempfile::TempDir,
}

pub(crate) fn dataset() -> DatasetName {
    DatasetName::new("site").expect("name")
}

pub(crate) fn place(parent: u64, name: &str) -> Place {
    Place::new(DirectoryId(parent), Name::new(name).expect("name"))
}

pub(crate) fn entry(node: Node) -> Entry {
    let privileges = understudy_tree::Privileges::current();
    let attributes = Attributes {
        mode: 0o755,
        uid: privileges.uid,
        gid: privileges.gid,
        modified: Timestamp {
            seconds: 1,
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
    };
    Entry {
        attributes,
        node,
        group: 0,
    }
}

pub(crate) fn directory(place: Place, id: u64) -> Change {
    Change::Put {
        place,
        entry: entry(Node::Directory {
            id: DirectoryId(id),
        }),
        content: Content::Directory,
    }
}

pub(crate) fn file(place: Place, text: &str) -> Change {
    let node = Node::File {
        size: text.len() as u64,
        hash: ContentHash::of(text.as_bytes()),
    };
    Change::Put {
        place,
        entry: entry(node),
        content: Content::Inline(text.as_bytes().to_vec().into()),
    }
}

impl Stage {
    /// Without a snapshot.
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&scratch.path().join("store")).expect("store");
        Self {
            store: Arc::new(store),
            entries: BTreeMap::new(),
            position: None,
            version: NEWEST,
            options: SessionOptions::default(),
            scratch,
        }
    }

    /// A path in the store.
    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.scratch.path().join("store/site").join(path)
    }

    /// Has a session, after the greeting.
    pub(crate) fn talk<T>(&self, talk: impl FnOnce(&mut Channel) -> T) -> T {
        let (mut ours, theirs) = in_process();
        let (store, options) = (Arc::clone(&self.store), self.options.clone());
        let session = std::thread::spawn(move || serve(store, theirs, options));
        let hello = Hello {
            newest: self.version,
            ..Hello::ours()
        };
        send(&mut ours, &Message::Hello(hello));
        hear(&mut ours).expect("greeting");
        let result = talk(&mut ours);
        drop(ours);
        // How it ended was told to this side as well.
        let _ = session.join().expect("thread");
        result
    }

    /// Uploads changes, and other messages before them.
    pub(crate) fn try_upload(
        &self,
        changes: &[Change],
        before: &[Message],
    ) -> Result<Position, ProtocolError> {
        self.try_upload_while(changes, before, || {})
    }

    /// As [`Stage::try_upload`]; something else happens before the commit is asked for.
    pub(crate) fn try_upload_while(
        &self,
        changes: &[Change],
        before: &[Message],
        meanwhile: impl FnOnce(),
    ) -> Result<Position, ProtocolError> {
        let fingerprint = digest(&self.after(changes)).fingerprint();
        self.talk(|channel| {
            if self.version < RESUME {
                begin_anew(channel);
            } else {
                begin(channel);
            }
            for message in before {
                send(channel, message);
            }
            if !changes.is_empty() {
                let records = changes.to_vec();
                send(channel, &Message::Changes(Changes { records }));
            }
            meanwhile();
            let commit = Commit {
                base: self.position,
                fingerprint,
                elapsed_milliseconds: 0,
            };
            send(channel, &Message::Commit(commit));
            match hear(channel)? {
                Message::Committed(committed) => Ok(committed.snapshot.position),
                other => panic!("{other:?}"),
            }
        })
    }

    pub(crate) fn upload(&mut self, changes: &[Change], before: &[Message]) {
        let position = self.try_upload(changes, before).expect("upload");
        self.entries = self.after(changes);
        self.position = Some(position);
    }

    pub(crate) fn after(&self, changes: &[Change]) -> BTreeMap<Place, Entry> {
        let mut entries = self.entries.clone();
        for change in changes {
            match change {
                Change::Remove { place } => {
                    entries.remove(place);
                }
                Change::Touch {
                    place,
                    attributes,
                    touch,
                } => {
                    // What cannot be touched is refused.
                    let Some(entry) = entries.get_mut(place) else {
                        continue;
                    };
                    entry.attributes = attributes.clone();
                    if *touch == Touch::Copied {
                        entry.group = 0;
                    }
                }
                Change::Put { place, entry, .. } => {
                    let moved = entry.directory_id();
                    entries.retain(|_, old| moved.is_none() || old.directory_id() != moved);
                    entries.insert(place.clone(), entry.clone());
                }
            }
        }
        // What a directory holds goes with it.
        loop {
            let directories = entries.values().filter_map(Entry::directory_id);
            let directories: Vec<DirectoryId> = directories.chain([DirectoryId::TOP]).collect();
            let before = entries.len();
            entries.retain(|place, _| directories.contains(&place.parent));
            if entries.len() == before {
                return entries;
            }
        }
    }
}

pub(crate) fn digest(entries: &BTreeMap<Place, Entry>) -> StateDigest {
    let mut digest = StateDigest::empty();
    for (place, entry) in entries {
        digest.add(place, entry);
    }
    digest
}

/// What was told after `Ready`.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) contents: Vec<(u64, [u8; 16])>,
    pub(crate) partials: Vec<(u64, ContentHash)>,
    /// What the receiver has lost.
    pub(crate) wanted: Vec<WantedContent>,
    /// What the main has said of the newest snapshot.
    pub(crate) stated: Option<Vec<u8>>,
}

/// Begins an upload in a session in which leftovers are not told.
pub(crate) fn begin_anew(channel: &mut Channel) {
    send(channel, &Message::Begin(Begin { dataset: dataset() }));
    hear(channel).expect("ready");
}

/// Begins an upload.
pub(crate) fn begin(channel: &mut Channel) -> Left {
    begin_anew(channel);
    let mut left = Left::default();
    loop {
        match hear(channel).expect("leftovers") {
            Message::Leftover(told) => {
                left.contents.extend(told.contents);
                left.partials.extend(told.partials);
            }
            Message::Wanted(told) => left.wanted.extend(told.contents),
            Message::Stated(told) => left.stated = Some(told.statement.0),
            Message::LeftoverEnd(_) => return left,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn send(channel: &mut Channel, message: &Message) {
    // The other side may have given up already: its reason is heard next.
    let _ = channel.outgoing.send_message(message);
}

pub(crate) fn hear(channel: &mut Channel) -> Result<Message, ProtocolError> {
    channel.incoming.receive_message()
}
