//! A receiver with a store of its own, and what its one dataset should be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::message::{
    Begin, Change, Changes, Commit, List, ReadManifest, Touch, Verify,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::{Hello, NEWEST};
use understudy_protocol::{
    DirectoryId, Entry, Message, Place, Position, ProtocolError, StateDigest,
};
use understudy_receiver::{ReceiverError, SessionOptions, Store, serve};

use crate::{samples, scratch};

/// A spare, and the newest snapshot of its dataset.
pub(crate) struct Spare {
    pub(crate) entries: BTreeMap<Place, Entry>,
    pub(crate) position: Option<Position>,
    store: Arc<Store>,
    scratch: tempfile::TempDir,
}

impl Spare {
    pub(crate) fn new() -> Self {
        let scratch = scratch::directory();
        let store = Store::open(&scratch.path().join("store")).expect("a store");
        Self {
            entries: BTreeMap::new(),
            position: None,
            store: Arc::new(store),
            scratch,
        }
    }

    /// A spare on what lies at `store` in the directory.
    pub(crate) fn at(scratch: tempfile::TempDir) -> Result<Self, ReceiverError> {
        let store = Store::open(&scratch.path().join("store"))?;
        store.recover()?;
        Ok(Self {
            entries: BTreeMap::new(),
            position: None,
            store: Arc::new(store),
            scratch,
        })
    }

    /// Uploads what must be taken.
    pub(crate) fn commit(&mut self, changes: &[Change]) {
        let entries = self.after(changes);
        let position = self.talk(NEWEST, |channel| {
            let dataset = samples::dataset();
            tell(channel, &Message::Begin(Begin { dataset }));
            while !matches!(hear(channel), Message::LeftoverEnd(_)) {}
            let records = changes.to_vec();
            tell(channel, &Message::Changes(Changes { records }));
            let commit = Commit {
                base: self.position,
                fingerprint: digest(&entries).fingerprint(),
                elapsed_milliseconds: 0,
            };
            tell(channel, &Message::Commit(commit));
            loop {
                if let Message::Committed(committed) = hear(channel) {
                    return committed.snapshot.position;
                }
            }
        });
        self.entries = entries;
        self.position = Some(position);
    }

    /// The directory that has the store.
    pub(crate) fn into_scratch(self) -> tempfile::TempDir {
        self.scratch
    }

    /// Has a session in this version, after the greeting. How it ends for the receiver is no finding, as long as it ends.
    pub(crate) fn talk<T>(&self, version: u32, talk: impl FnOnce(&mut Channel) -> T) -> T {
        let (mut ours, theirs) = in_process();
        let store = Arc::clone(&self.store);
        let session = std::thread::spawn(move || serve(store, theirs, SessionOptions::default()));
        let hello = Hello {
            newest: version.clamp(1, NEWEST),
            ..Hello::ours()
        };
        tell(&ours, &Message::Hello(hello));
        let _ = ours.incoming.receive_message();
        let result = talk(&mut ours);
        drop(ours);
        if let Err(error) = session.join().expect("a session never panics") {
            let _ = error.to_string();
        }
        result
    }

    /// What a session answers to one question, up to the end of the answer or of the session.
    pub(crate) fn ask(&self, question: &Message) -> Vec<Message> {
        self.talk(NEWEST, |channel| {
            tell(channel, question);
            let mut answers = Vec::new();
            while let Ok(answer) = channel.incoming.receive_message() {
                let is_last = matches!(
                    answer,
                    Message::ManifestEnd(_)
                        | Message::VerifyEnd(_)
                        | Message::Datasets(_)
                        | Message::Told(_)
                        | Message::Located(_)
                        | Message::FuzzyEnd(_)
                        | Message::RetentionEnd(_)
                );
                answers.push(answer);
                if is_last {
                    break;
                }
            }
            answers
        })
    }

    /// What the dataset should be after these changes.
    pub(crate) fn after(&self, changes: &[Change]) -> BTreeMap<Place, Entry> {
        let mut entries = self.entries.clone();
        for change in changes {
            match change {
                Change::Remove { place } => drop(entries.remove(place)),
                Change::Touch {
                    place,
                    attributes,
                    touch,
                } => {
                    if let Some(entry) = entries.get_mut(place) {
                        entry.attributes = attributes.clone();
                        if *touch == Touch::Copied {
                            entry.group = 0;
                        }
                    }
                }
                Change::Put { place, entry, .. } => {
                    let moved = entry.directory_id();
                    entries.retain(|_, old| moved.is_none() || old.directory_id() != moved);
                    entries.insert(place.clone(), entry.clone());
                }
            }
        }
        without_the_detached(entries)
    }

    /// The newest snapshot is what was committed, all of it is whole, and nothing is beside the store.
    pub(crate) fn check(&self) {
        let manifest = self.ask(&Message::ReadManifest(ReadManifest {
            dataset: samples::dataset(),
            number: None,
        }));
        let mut found = BTreeMap::new();
        for message in manifest {
            match message {
                Message::Manifest(part) => found.extend(part.entries),
                Message::ManifestEnd(end) => {
                    assert_eq!(Some(end.snapshot.position), self.position);
                }
                _ => {}
            }
        }
        assert_eq!(found, self.entries, "the newest snapshot");
        // Attributes that no file can have are recorded all the same, and found to differ.
        let mut entries = self.entries.values();
        let are_possible = entries.all(|entry| entry.attributes.xattrs.is_empty());
        for message in self.ask(&Message::Verify(Verify { dataset: None })) {
            if let Message::Finding(finding) = message {
                assert!(
                    is_of_attributes(&finding.what) && !are_possible,
                    "{finding:?} of {:#?}",
                    self.entries
                );
            }
        }
        self.ask(&Message::List(List { dataset: None }));
        self.is_alone();
    }

    /// Nothing is beside the store.
    pub(crate) fn is_alone(&self) {
        assert_eq!(names(self.scratch.path()), ["store"]);
    }
}

fn is_of_attributes(what: &str) -> bool {
    what.starts_with("differs in") || what.contains("extended attributes")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.to_string_lossy().into_owned()
    };
    entries.map(name).collect()
}

/// What a directory holds goes with it.
fn without_the_detached(mut entries: BTreeMap<Place, Entry>) -> BTreeMap<Place, Entry> {
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

pub(crate) fn digest(entries: &BTreeMap<Place, Entry>) -> StateDigest {
    let mut digest = StateDigest::empty();
    for (place, entry) in entries {
        digest.add(place, entry);
    }
    digest
}

/// Sends a message.
pub(crate) fn tell(channel: &Channel, message: &Message) {
    // It may have given up already, or the message may not fit.
    let _ = channel.outgoing.send_message(message);
}

fn hear(channel: &mut Channel) -> Message {
    let heard = channel.incoming.receive_message();
    heard.expect("an honest agent is answered")
}

/// Takes what has come.
pub(crate) fn drain(channel: &mut Channel) -> Result<(), ProtocolError> {
    while channel
        .incoming
        .receive_message_within(Duration::ZERO)?
        .is_some()
    {}
    Ok(())
}
