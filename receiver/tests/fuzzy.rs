//! What an agent tells of files that never stood still: kept for each snapshot, told to whoever asks, and refused
//! where it makes no sense.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_protocol::message::{
    Begin, Change, Changes, Commit, Content, Fuzzy, FuzzyFile, ListFuzzy, ReadManifest,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::{Hello, NEWEST};
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, FailureCode, Message, Name, Node,
    Place, Position, ProtocolError, RelPath, StateDigest, Timestamp,
};
use understudy_receiver::{SessionOptions, Store, serve};

/// A store with a dataset, and what its newest snapshot should be.
struct Stage {
    store: Arc<Store>,
    entries: BTreeMap<Place, Entry>,
    position: Option<Position>,
    version: u32,
    _scratch: tempfile::TempDir,
}

fn dataset() -> DatasetName {
    DatasetName::new("site").expect("name")
}

fn place(parent: u64, name: &str) -> Place {
    Place::new(DirectoryId(parent), Name::new(name).expect("name"))
}

fn entry(node: Node) -> Entry {
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

fn directory(place: Place, id: u64) -> Change {
    Change::Put {
        place,
        entry: entry(Node::Directory {
            id: DirectoryId(id),
        }),
        content: Content::Directory,
    }
}

fn file(place: Place, text: &str) -> Change {
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

fn told(path: &str, since: u64, until: Option<u64>) -> FuzzyFile {
    FuzzyFile {
        path: RelPath::new(path.as_bytes()).expect("path"),
        since,
        until,
    }
}

impl Stage {
    /// With `d/torn`, which is fuzzy, and `still` in the first snapshot.
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&scratch.path().join("store")).expect("store");
        let mut stage = Self {
            store: Arc::new(store),
            entries: BTreeMap::new(),
            position: None,
            version: NEWEST,
            _scratch: scratch,
        };
        let changes = [
            directory(place(0, "files"), 1),
            directory(place(1, "d"), 2),
            file(place(2, "torn"), "half and half"),
            file(place(1, "still"), "whole"),
        ];
        stage.upload(&changes, &[place(2, "torn")]);
        stage
    }

    /// Has a session, after the greeting.
    fn talk<T>(&self, talk: impl FnOnce(&mut Channel) -> T) -> T {
        let (mut ours, theirs) = in_process();
        let store = Arc::clone(&self.store);
        let session = std::thread::spawn(move || serve(store, theirs, SessionOptions::default()));
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

    /// Uploads changes. Fuzzy files are told first: the order means nothing.
    fn try_upload(&self, changes: &[Change], fuzzy: &[Place]) -> Result<Position, ProtocolError> {
        let fingerprint = digest(&self.after(changes)).fingerprint();
        self.talk(|channel| {
            send(channel, &Message::Begin(Begin { dataset: dataset() }));
            hear(channel).expect("ready");
            for place in fuzzy {
                let places = vec![place.clone()];
                send(channel, &Message::Fuzzy(Fuzzy { places }));
            }
            if !changes.is_empty() {
                let records = changes.to_vec();
                send(channel, &Message::Changes(Changes { records }));
            }
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

    fn upload(&mut self, changes: &[Change], fuzzy: &[Place]) {
        let position = self.try_upload(changes, fuzzy).expect("upload");
        self.entries = self.after(changes);
        self.position = Some(position);
    }

    fn after(&self, changes: &[Change]) -> BTreeMap<Place, Entry> {
        let mut entries = self.entries.clone();
        for change in changes {
            match change {
                Change::Remove { place } => {
                    entries.remove(place);
                }
                Change::Put { place, entry, .. } => {
                    let moved = entry.directory_id();
                    entries.retain(|_, old| moved.is_none() || old.directory_id() != moved);
                    entries.insert(place.clone(), entry.clone());
                }
            }
        }
        entries
    }

    fn fuzzy(&self, number: Option<u64>) -> Vec<FuzzyFile> {
        self.talk(|channel| {
            let dataset = dataset();
            send(channel, &Message::ListFuzzy(ListFuzzy { dataset, number }));
            let mut files = Vec::new();
            loop {
                match hear(channel).expect("answer") {
                    Message::FuzzyFiles(more) => files.extend(more.files),
                    Message::FuzzyEnd(_) => return files,
                    other => panic!("{other:?}"),
                }
            }
        })
    }

    fn fuzzy_in_manifest(&self, number: u64) -> Vec<Place> {
        self.talk(|channel| {
            let (dataset, number) = (dataset(), Some(number));
            send(
                channel,
                &Message::ReadManifest(ReadManifest { dataset, number }),
            );
            let mut places = Vec::new();
            loop {
                match hear(channel).expect("answer") {
                    Message::Manifest(_) => {}
                    Message::Fuzzy(fuzzy) => places.extend(fuzzy.places),
                    Message::ManifestEnd(_) => return places,
                    other => panic!("{other:?}"),
                }
            }
        })
    }
}

fn digest(entries: &BTreeMap<Place, Entry>) -> StateDigest {
    let mut digest = StateDigest::empty();
    for (place, entry) in entries {
        digest.add(place, entry);
    }
    digest
}

fn send(channel: &mut Channel, message: &Message) {
    // The other side may have given up already: its reason is heard next.
    let _ = channel.outgoing.send_message(message);
}

fn hear(channel: &mut Channel) -> Result<Message, ProtocolError> {
    channel.incoming.receive_message()
}

#[test]
fn a_file_is_fuzzy_from_snapshot_to_snapshot_until_nobody_says_so() {
    let mut stage = Stage::new();
    let torn = [place(2, "torn")];
    stage.upload(&[file(place(1, "still"), "changed")], &torn);
    // Its directory moves, and gets other attributes where it is.
    stage.upload(&[directory(place(1, "e"), 2)], &torn);
    stage.upload(&[directory(place(1, "e"), 2)], &torn);
    assert_eq!(
        stage.fuzzy(None),
        [told("d/torn", 1, Some(3)), told("e/torn", 3, None)]
    );
    // Only that it is whole is news.
    let before = stage.position.expect("position");
    stage.upload(&[], &[]);
    let after = stage.position.expect("position");
    assert_eq!(
        (after.number, after.fingerprint),
        (before.number + 1, before.fingerprint)
    );
    stage.upload(&[file(torn[0].clone(), "half and half again")], &torn);
    let all = [
        told("d/torn", 1, Some(3)),
        told("e/torn", 3, Some(5)),
        told("e/torn", 6, None),
    ];
    assert_eq!(stage.fuzzy(None), all);
    for number in 1..=6 {
        let is_in = |file: &&FuzzyFile| file.is_in(number);
        let expected: Vec<FuzzyFile> = all
            .iter()
            .filter(is_in)
            .map(|file| FuzzyFile {
                since: number,
                until: None,
                ..file.clone()
            })
            .collect();
        assert_eq!(stage.fuzzy(Some(number)), expected, "snapshot {number}");
        let places = stage.fuzzy_in_manifest(number);
        let expected: Vec<Place> = expected.iter().map(|_| torn[0].clone()).collect();
        assert_eq!(places, expected, "snapshot {number}");
    }
}

#[test]
fn what_is_no_file_of_the_snapshot_is_not_fuzzy() {
    let stage = Stage::new();
    let bad: [&[Place]; 4] = [
        &[place(2, "torn"), place(2, "torn")],
        &[place(1, "d")],
        &[place(1, "nowhere")],
        &[place(7, "still")],
    ];
    for fuzzy in bad {
        let refused = stage.try_upload(&[file(place(1, "new"), "new")], fuzzy);
        let Err(ProtocolError::Failed(failure)) = refused else {
            panic!("{fuzzy:?}: {refused:?}")
        };
        assert_eq!(failure.code, FailureCode::Misbehaved, "{fuzzy:?}");
        assert_eq!(stage.fuzzy(None), [told("d/torn", 1, None)]);
    }
    let removed = Change::Remove {
        place: place(2, "torn"),
    };
    let refused = stage.try_upload(std::slice::from_ref(&removed), &[place(2, "torn")]);
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn an_agent_that_cannot_tell_leaves_files_fuzzy_that_it_leaves_alone() {
    let mut stage = Stage::new();
    stage.version = 1;
    assert!(stage.try_upload(&[], &[place(2, "torn")]).is_err());
    assert_eq!(stage.fuzzy_in_manifest(1), []);
    stage.upload(&[file(place(1, "still"), "changed")], &[]);
    stage.upload(&[file(place(2, "torn"), "whole")], &[]);
    stage.version = NEWEST;
    assert_eq!(stage.fuzzy(None), [told("d/torn", 1, Some(3))]);
}
