#![expect(clippy::disallowed_methods, reason = "lays objects into a store")]

use std::fs::File;
use std::path::PathBuf;

use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Name, Node, Place, Position,
    Snapshot, StateDigest, Timestamp,
};

use super::*;
use crate::catalog::{Fate, Origin, Put, Recorded, Telling};
use crate::patch::{About, Patch};
use crate::retention::{Grace, Mode, Moment, Policy, Trust};

struct Stage {
    scratch: tempfile::TempDir,
    store: Store,
}

fn name() -> DatasetName {
    DatasetName::new("site").expect("name")
}

fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

impl Stage {
    fn path(&self, hash: ContentHash, form: &str) -> PathBuf {
        let digits = hash.to_string();
        let shelf = self.scratch.path().join("store/site/.understudy/objects");
        let shelf = shelf.join(&digits[..2]);
        std::fs::create_dir_all(&shelf).expect("shelf");
        shelf.join(format!("{}{form}", &digits[2..]))
    }

    fn add(&self, text: &str) {
        std::fs::write(self.path(hash(text), ""), text).expect("write");
    }

    /// A patch that leads from `base` to `text`.
    fn add_patch(&self, text: &str, base: &str) {
        let path = self.path(hash(text), ".patch");
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(path).expect("create");
        content(&file, text);
        let about = About {
            size: text.len() as u64,
            hash: hash(text),
            base: hash(base),
            run: 1,
            run_bytes: 0,
        };
        Patch::finish(file, about, vec![(0, text.len() as u64)]).expect("patch");
    }

    fn has(&self, text: &str) -> bool {
        let hash = hash(text);
        self.path(hash, "").exists() || self.path(hash, ".patch").exists()
    }
}

fn content(file: &File, text: &str) {
    understudy_tree::content::write_at(file, 0, text.as_bytes()).expect("write");
}

/// Commits a snapshot with one file.
fn commit(catalog: &Catalog, text: &str) {
    let attributes = Attributes {
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: Timestamp {
            seconds: 1,
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
    };
    let entry = |node| Entry {
        attributes: attributes.clone(),
        node,
        group: 0,
    };
    let id = DirectoryId::FILES;
    let size = text.len() as u64;
    let hash = hash(text);
    let rows = [
        (DirectoryId::TOP, "files", entry(Node::Directory { id })),
        (id, "file", entry(Node::File { size, hash })),
    ];
    let mut upload = catalog.upload().expect("upload");
    let mut digest = StateDigest::empty();
    for (number, (parent, name, entry)) in rows.into_iter().enumerate() {
        let place = Place::new(parent, Name::new(name).expect("name"));
        digest.add(&place, &entry);
        let put = Put {
            id: upload.first_entry() + number as u64,
            place,
            entry,
            origin: Origin::Own,
        };
        upload.put(&put).expect("put");
    }
    upload.add_digest(&digest);
    upload.settle().expect("settle");
    let position = Position {
        epoch: 1,
        number: upload.number(),
        fingerprint: digest.fingerprint(),
    };
    let pending = Recorded {
        snapshot: Snapshot {
            position,
            committed_seconds: 1,
            entries: 0,
            bytes: 0,
        },
        as_of_seconds: 1,
        first_entry: 0,
    };
    let pending = upload
        .seal(pending, Telling::All, Fate::Applied)
        .expect("seal");
    drop(upload);
    catalog.record(&pending).expect("record");
}

#[test]
fn a_sweep_goes_on_whatever_is_committed_and_leaves_what_comes_back() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&scratch.path().join("store")).expect("store");
    let stage = Stage { scratch, store };
    let dataset = stage.store.ensure_dataset(&name()).expect("dataset");
    for text in ["of nothing", "base", "other base"] {
        stage.add(text);
    }
    stage.add_patch("middle", "base");
    stage.add_patch("comes back", "middle");
    stage.add_patch("does not", "other base");
    let locked = dataset.lock().expect("lock");
    let catalog = dataset.catalog(&locked).expect("catalog");
    catalog.index_contents().expect("index");
    let request = Request {
        policy: &Policy::default(),
        moment: &Moment::now(),
        mode: Mode::Act,
        grace: Grace::Skip,
        trust: Trust::Given,
    };
    let removal = Removal::new(&stage.store, &dataset, &request);
    let none = needed(&catalog).expect("needed");
    let planned = sweep::plan(&dataset, &catalog, &none).expect("plan");
    let planned = planned.expect("no obstacle");
    assert_eq!(planned.garbage.len(), 6);

    commit(&catalog, "comes back");
    drop((catalog, locked));
    let mut pruned = Pruned::nothing(&dataset.name);
    let end = removal.remove_objects(&planned, &mut pruned);
    assert!(matches!(end, Ok(End::Done)));
    assert_eq!(pruned.freed.objects, 3);
    for (text, is_there) in [
        ("of nothing", false),
        ("does not", false),
        ("other base", false),
        ("comes back", true),
        ("middle", true),
        ("base", true),
    ] {
        assert_eq!(stage.has(text), is_there, "{text}");
    }
}
