//! Random change sets against a naive model: the live tree, every older snapshot and verification must agree
//! with it, whatever moves where.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

mod edits;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use understudy_protocol::message::{
    Begin, Change, Changes, Commit, Content, Message, ReadManifest, Verify, Want,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, FailureCode, Fingerprint, Name, Node,
    Place, Position, ProtocolError, StateDigest, Timestamp,
};
use understudy_receiver::guard::{self, Guards, Thresholds};
use understudy_receiver::{ReceiverError, Reserve, SessionOptions, Store, serve};

use edits::{Edit, Model, Thing, directories, edit, edit_model, root_model};

fn entry(thing: &Thing) -> Entry {
    let (mode, node) = match thing {
        Thing::Directory { id, mode } => (
            *mode,
            Node::Directory {
                id: DirectoryId(*id),
            },
        ),
        Thing::File { content, mode } => (
            *mode,
            Node::File {
                size: content.len() as u64,
                hash: ContentHash::of(content),
            },
        ),
        Thing::Link { target } => (
            0o777,
            Node::Symlink {
                target: target.clone().into(),
            },
        ),
    };
    let privileges = understudy_tree::Privileges::current();
    let modified = Timestamp {
        seconds: 1_000_000,
        nanoseconds: 5,
    };
    let attributes = Attributes {
        mode,
        uid: privileges.uid,
        gid: privileges.gid,
        modified,
        xattrs: vec![],
    };
    Entry {
        attributes,
        node,
        group: 0,
    }
}

fn place(key: &(u64, Vec<u8>)) -> Place {
    Place::new(DirectoryId(key.0), Name::new(key.1.clone()).expect("name"))
}

fn digest(model: &Model) -> StateDigest {
    let mut digest = StateDigest::empty();
    model
        .iter()
        .for_each(|(key, thing)| digest.add(&place(key), &entry(thing)));
    digest
}

/// The change set between two models. Files that stand elsewhere with the same content in `old`, and no longer
/// there, are kept; contents that only former snapshots have come from history.
fn changes(old: &Model, new: &Model, history: &BTreeSet<Vec<u8>>) -> Vec<Change> {
    let mut free: Vec<_> = old
        .iter()
        .filter(|(key, thing)| matches!(thing, Thing::File { .. }) && new.get(*key) != Some(thing))
        .map(|(key, thing)| (key.clone(), thing.clone()))
        .collect();
    let mut changes = Vec::new();
    for (key, thing) in new {
        if old.get(key) == Some(thing) {
            continue;
        }
        let content = match thing {
            Thing::Directory { .. } => Content::Directory,
            Thing::Link { .. } => Content::Inline(Vec::new().into()),
            Thing::File { content, .. } => {
                let same = |(_, thing): &(_, Thing)| matches!(thing, Thing::File { content: other, .. } if other == content);
                match free.iter().position(same) {
                    Some(index) => Content::Keep(place(&free.swap_remove(index).0)),
                    None => match old
                        .iter()
                        .find(|(key, thing)| same(&((*key).clone(), (*thing).clone())))
                    {
                        Some((other, _)) => Content::Copy(place(other)),
                        None if history.contains(content) => Content::History,
                        None => Content::Inline(content.clone().into()),
                    },
                }
            }
        };
        changes.push(Change::Put {
            place: place(key),
            entry: entry(thing),
            content,
        });
    }
    let kept_directories: BTreeSet<u64> = directories(new).into_iter().collect();
    for key in old.keys() {
        let parent_stays = key.0 == 0 || kept_directories.contains(&key.0);
        if parent_stays && !new.contains_key(key) {
            changes.push(Change::Remove { place: place(key) });
        }
    }
    changes
}

fn session(store: &Arc<Store>) -> (Channel, std::thread::JoinHandle<Result<(), ReceiverError>>) {
    let (mut ours, theirs) = in_process();
    let store = Arc::clone(store);
    let options = SessionOptions {
        guards: Arc::new(strict_guards()),
        ..SessionOptions::default()
    };
    let thread = std::thread::spawn(move || serve(store, theirs, options));
    ours.greet().expect("greeting");
    (ours, thread)
}

/// Guards that hold many of the small cycles here.
fn strict_guards() -> Guards {
    let usual = Thresholds {
        files_percent: 30,
        files_least: 1,
        bytes_percent: 30,
        bytes_least: 1,
        caches: Vec::new(),
    };
    Guards {
        usual,
        datasets: BTreeMap::new(),
    }
}

/// Whoever looks at a held cycle lets a third of them through, drops a third, and leaves the others for later; whether it is live.
fn decide(store: &Arc<Store>, fingerprint: Fingerprint) -> bool {
    let held = guard::held(store, &dataset()).expect("held");
    let digest = held.expect("it is refused because it is held").digest;
    assert_eq!(digest, fingerprint);
    store.recover().expect("recover");
    let (name, digits) = (dataset(), digest.to_string());
    match digest.0[0] % 3 {
        0 => drop(guard::release(store, &name, &digits, Reserve::default()).expect("released")),
        1 => drop(guard::reject(store, &name, &digits).expect("rejected")),
        // The next change set takes its place.
        _ => return false,
    }
    assert!(guard::held(store, &name).expect("held").is_none());
    digest.0[0].is_multiple_of(3)
}

/// What the receiver tells to be left over, as keys of contents.
fn hear_leftovers(channel: &mut Channel) -> Vec<[u8; 16]> {
    let mut keys = Vec::new();
    loop {
        match channel.incoming.receive_message().expect("leftovers") {
            Message::Leftover(told) => keys.extend(told.contents.iter().map(|(_, key)| *key)),
            Message::LeftoverEnd(_) => return keys,
            other => panic!("{other:?}"),
        }
    }
}

/// Names what is left instead of sending it.
fn take_leftovers(changes: &mut [Change], mut left: Vec<[u8; 16]>) {
    for change in changes {
        let Change::Put { entry, content, .. } = change else {
            continue;
        };
        let Some((_, hash)) = entry.content() else {
            continue;
        };
        let found = left.iter().position(|key| *key == hash.0[..16]);
        if let (Content::Inline(_), Some(index)) = (&*content, found) {
            left.swap_remove(index);
            *content = Content::Leftover;
        }
    }
}

fn dataset() -> DatasetName {
    DatasetName::new("model").expect("name")
}

/// Uploads the difference; returns the new position, if it became live.
fn upload(
    store: &Arc<Store>,
    (old, new): (&Model, &Model),
    history: &BTreeSet<Vec<u8>>,
    base: Option<Position>,
) -> Option<Position> {
    let (mut channel, thread) = session(store);
    channel
        .outgoing
        .send_message(&Message::Begin(Begin { dataset: dataset() }))
        .expect("send");
    let Message::Ready(ready) = channel.incoming.receive_message().expect("ready") else {
        panic!("not ready")
    };
    assert_eq!(ready.position, base);
    let left = hear_leftovers(&mut channel);
    let mut changes = changes(old, new, history);
    take_leftovers(&mut changes, left);
    for records in changes.chunks(3) {
        let message = Message::Changes(Changes {
            records: records.to_vec(),
        });
        channel.outgoing.send_message(&message).expect("send");
    }
    let fingerprint = digest(new).fingerprint();
    let commit = Commit {
        base,
        fingerprint,
        elapsed_milliseconds: 0,
    };
    channel
        .outgoing
        .send_message(&Message::Commit(commit))
        .expect("send");
    let reply = channel.incoming.receive_message();
    drop(channel);
    let ended = thread.join().expect("thread");
    match reply {
        Ok(Message::Committed(committed)) => {
            ended.expect("session");
            assert_eq!(committed.snapshot.entries, new.len() as u64);
            Some(committed.snapshot.position)
        }
        Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::Refused => {
            decide(store, fingerprint).then(|| Position {
                epoch: 1,
                number: base.map_or(0, |base| base.number) + 1,
                fingerprint,
            })
        }
        reply => panic!("{reply:?} for {changes:#?}"),
    }
}

/// Reads the live tree without the product's help.
fn read_live(path: &Path, model: &Model, parent: u64, found: &mut usize) {
    for item in std::fs::read_dir(path).expect("list") {
        let item = item.expect("item");
        let name = std::os::unix::ffi::OsStrExt::as_bytes(item.file_name().as_os_str()).to_vec();
        if parent == 0 && name == b"SNAPSHOT" {
            continue;
        }
        *found += 1;
        let thing = model
            .get(&(parent, name))
            .unwrap_or_else(|| panic!("{:?} should not be there", item.path()));
        let metadata = item.path().symlink_metadata().expect("metadata");
        let mode =
            (std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777) as u16;
        match thing {
            Thing::Directory { id, mode: wanted } => {
                assert!(metadata.is_dir(), "{:?}", item.path());
                assert_eq!(mode, *wanted, "{:?}", item.path());
                assert_eq!(
                    std::os::unix::fs::MetadataExt::mtime(&metadata),
                    1_000_000,
                    "{:?}",
                    item.path()
                );
                read_live(&item.path(), model, *id, found);
            }
            Thing::File {
                content,
                mode: wanted,
            } => {
                assert_eq!(mode, *wanted, "{:?}", item.path());
                assert_eq!(
                    std::fs::read(item.path()).expect("read"),
                    *content,
                    "{:?}",
                    item.path()
                );
            }
            Thing::Link { target } => {
                let found = std::fs::read_link(item.path()).expect("link");
                assert_eq!(
                    std::os::unix::ffi::OsStrExt::as_bytes(found.as_os_str()),
                    *target
                );
            }
        }
    }
}

/// Every content of a snapshot comes back as it was.
fn check_snapshot(store: &Arc<Store>, number: u64, model: &Model) {
    let (mut channel, thread) = session(store);
    let request = ReadManifest {
        dataset: dataset(),
        number: Some(number),
    };
    channel
        .outgoing
        .send_message(&Message::ReadManifest(request))
        .expect("send");
    let mut entries = BTreeMap::new();
    loop {
        match channel.incoming.receive_message().expect("manifest") {
            Message::Manifest(part) => entries.extend(part.entries),
            Message::ManifestEnd(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let wanted: BTreeMap<_, _> = model
        .iter()
        .map(|(key, thing)| (place(key), entry(thing)))
        .collect();
    assert_eq!(entries, wanted, "manifest of snapshot {number}");
    let files: Vec<_> = model
        .iter()
        .filter_map(|(key, thing)| {
            if let Thing::File { content, .. } = thing {
                Some((place(key), content))
            } else {
                None
            }
        })
        .collect();
    if !files.is_empty() {
        let places = files.iter().map(|(place, _)| place.clone()).collect();
        channel
            .outgoing
            .send_message(&Message::Want(Want { places }))
            .expect("send");
        let mut given = BTreeMap::new();
        while given.len() < files.len() {
            match channel.incoming.receive_message().expect("contents") {
                Message::Given(part) => given.extend(part.contents),
                other => panic!("{other:?}"),
            }
        }
        for (place, content) in files {
            assert_eq!(given[&place].0, *content, "{place:?} of snapshot {number}");
        }
    }
    drop(channel);
    thread.join().expect("thread").expect("session");
}

fn check_verify(store: &Arc<Store>) {
    let (mut channel, thread) = session(store);
    channel
        .outgoing
        .send_message(&Message::Verify(Verify { dataset: None }))
        .expect("send");
    loop {
        match channel.incoming.receive_message().expect("verification") {
            Message::Finding(finding) => panic!("{finding:?}"),
            Message::Verified(_) => {}
            Message::VerifyEnd(_) => break,
            other => panic!("{other:?}"),
        }
    }
    drop(channel);
    thread.join().expect("thread").expect("session");
}

fn run(steps: &[Vec<Edit>]) {
    let scratch = tempfile::tempdir().expect("scratch");
    let store = Arc::new(Store::open(&scratch.path().join("store")).expect("store"));
    let (mut old, mut base, mut next_id) = (Model::new(), None, 1);
    let mut snapshots: Vec<(u64, Model)> = Vec::new();
    let mut history = BTreeSet::new();
    for edits in std::iter::once(&Vec::new()).chain(steps) {
        let mut new = if old.is_empty() {
            root_model()
        } else {
            old.clone()
        };
        edits
            .iter()
            .for_each(|edit| edit_model(&mut new, edit, &mut next_id, &history));
        if new == old {
            continue;
        }
        // The guard is not the subject here.
        if new.len() <= 1 && old.len() > 2 {
            continue;
        }
        let Some(position) = upload(&store, (&old, &new), &history, base) else {
            let mut found = 0;
            let live = scratch.path().join("store/model/live");
            read_live(&live, &old, 0, &mut found);
            assert_eq!(found, old.len(), "what is rejected or held changes nothing");
            continue;
        };
        let mut found = 0;
        read_live(
            &scratch.path().join("store/model/live"),
            &new,
            0,
            &mut found,
        );
        assert_eq!(
            found,
            new.len(),
            "everything of the model is in the live tree"
        );
        history.extend(new.values().filter_map(|thing| match thing {
            Thing::File { content, .. } => Some(content.clone()),
            _ => None,
        }));
        snapshots.push((position.number, new.clone()));
        (old, base) = (new, Some(position));
    }
    for (number, model) in &snapshots {
        check_snapshot(&store, *number, model);
    }
    check_verify(&store);
}

/// 60 cases unless `PROPTEST_CASES` asks for more: each is some commits on a real file system.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn live_tree_history_and_verification_follow_the_model(
        steps in prop::collection::vec(prop::collection::vec(edit(), 1..12), 1..8)
    ) {
        run(&steps);
    }
}

#[test]
fn swapped_directories_change_places() {
    let add = |directory, name| Edit::AddDirectory { directory, name };
    run(&[
        vec![
            add(0, 0),
            add(0, 1),
            Edit::AddFile {
                directory: 1,
                name: 2,
                content: 7,
            },
        ],
        vec![Edit::Swap { left: 0, right: 1 }],
        vec![Edit::Swap { left: 0, right: 1 }],
    ]);
}
