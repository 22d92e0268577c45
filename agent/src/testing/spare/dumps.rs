//! Dumps of databases, put there as if they had been uploaded.

use understudy_protocol::{
    Attributes, ContentHash, DirectoryId, Entry, Name, Node, Place, Timestamp,
};

use super::Spare;

/// The number of the root; those of databases follow.
const ROOT: u64 = 1 << 40;

impl Spare {
    /// The newest snapshot has this database besides, with these files.
    pub(crate) fn dump(&mut self, database: &str, files: &[(&str, &[u8])]) {
        let name = |text: &str| Name::new(text).expect("name");
        let root = Place::new(DirectoryId::TOP, name("databases"));
        let known = self.entries.keys().filter(|place| place.parent.0 == ROOT);
        let id = ROOT + 1 + known.count() as u64;
        self.put(
            root,
            Node::Directory {
                id: DirectoryId(ROOT),
            },
            ROOT,
        );
        let directory = Node::Directory {
            id: DirectoryId(id),
        };
        self.put(Place::new(DirectoryId(ROOT), name(database)), directory, id);
        for (number, (file, content)) in files.iter().enumerate() {
            let file_number = id * 1000 + number as u64;
            let node = Node::File {
                size: content.len() as u64,
                hash: ContentHash::of(content),
            };
            self.put(Place::new(DirectoryId(id), name(file)), node, file_number);
            self.contents.insert(file_number, content.to_vec());
        }
        let fingerprint = self.digest().fingerprint();
        let position = self.position.as_mut().expect("a snapshot");
        position.fingerprint = fingerprint;
    }

    fn put(&mut self, place: Place, node: Node, file: u64) {
        let mode = match node {
            Node::Directory { .. } => 0o700,
            _ => 0o600,
        };
        let attributes = Attributes {
            mode,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            modified: Timestamp {
                seconds: 1_700_000_000,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
        };
        let entry = Entry {
            attributes,
            node,
            group: 0,
        };
        self.entries.insert(place, (entry, file));
    }
}
