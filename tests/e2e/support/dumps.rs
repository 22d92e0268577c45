//! Puts what a directory holds into a dataset as the dumps of its databases: what a main does that captures some.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use understudy_agent::identity::Identity;
use understudy_protocol::message::{Begin, Change, Changes, Commit, Content, ReadManifest};
use understudy_protocol::transport::Channel;
use understudy_protocol::transport::tls::{self, Credentials};
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Message, Name, Node, Place,
    StateDigest, Timestamp,
};

use super::Stage;
use super::stage::DATASET;

/// Commits a snapshot that has them besides what the newest has.
pub(crate) fn put(stage: &Stage, directory: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = stage.spare();
    let identity = Identity::open(&stage.state).unwrap().unwrap();
    let credentials = Credentials::new(identity.secret()).unwrap();
    let key = identity.spare(&address).unwrap().unwrap().key;
    let mut channel = tls::connect(runtime.handle(), &address, &credentials, key).unwrap();
    channel.greet().unwrap();
    let dataset = DatasetName::new(DATASET).unwrap();
    let send = |channel: &Channel, message| channel.outgoing.send_message(&message).unwrap();
    send(
        &channel,
        Message::Begin(Begin {
            dataset: dataset.clone(),
        }),
    );
    let mut base = None;
    loop {
        match channel.incoming.receive_message().unwrap() {
            Message::Ready(ready) => base = ready.position,
            Message::LeftoverEnd(_) => break,
            _ => {}
        }
    }
    let number = None;
    send(
        &channel,
        Message::ReadManifest(ReadManifest { dataset, number }),
    );
    let (mut digest, mut next) = (StateDigest::empty(), 0);
    loop {
        match channel.incoming.receive_message().unwrap() {
            Message::Manifest(part) => {
                for (place, entry) in part.entries {
                    digest.add(&place, &entry);
                    next = next.max(entry.directory_id().map_or(0, |id| id.0));
                }
            }
            Message::ManifestEnd(_) => break,
            _ => {}
        }
    }
    let mut records = Vec::new();
    let root = Place::new(DirectoryId::TOP, Name::new("databases").unwrap());
    collect(root, directory, &mut next, &mut records);
    for record in &records {
        if let Change::Put { place, entry, .. } = record {
            digest.add(place, entry);
        }
    }
    send(&channel, Message::Changes(Changes { records }));
    send(
        &channel,
        Message::Commit(Commit {
            base,
            fingerprint: digest.fingerprint(),
            elapsed_milliseconds: 0,
        }),
    );
    loop {
        if let Message::Committed(_) = channel.incoming.receive_message().unwrap() {
            return;
        }
    }
}

fn collect(place: Place, path: &Path, last: &mut u64, records: &mut Vec<Change>) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_file() {
        let bytes = std::fs::read(path).unwrap();
        let node = Node::File {
            size: bytes.len() as u64,
            hash: ContentHash::of(&bytes),
        };
        let content = Content::Inline(bytes.into());
        return records.push(record(place, &metadata, node, content));
    }
    *last += 1;
    let id = DirectoryId(*last);
    let node = Node::Directory { id };
    records.push(record(place, &metadata, node, Content::Directory));
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = Name::new(entry.file_name().as_bytes()).unwrap();
        collect(Place::new(id, name), &entry.path(), last, records);
    }
}

fn record(place: Place, metadata: &Metadata, node: Node, content: Content) -> Change {
    let attributes = Attributes {
        mode: (metadata.mode() & 0o7777) as u16,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: Timestamp {
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec() as u32,
        },
        xattrs: Vec::new(),
    };
    let entry = Entry {
        attributes,
        node,
        group: 0,
    };
    Change::Put {
        place,
        entry,
        content,
    }
}
