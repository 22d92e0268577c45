use understudy_protocol::{
    Attributes, ContentHash, DirectoryId, Entry, Fingerprint, Name, Node, Place, Timestamp,
};

use super::*;
use crate::clock::Settled;

fn place(parent: u64, name: &str) -> Place {
    Place::new(DirectoryId(parent), Name::new(name).expect("name"))
}

fn entry(node: Node) -> Entry {
    let modified = Timestamp {
        seconds: 1,
        nanoseconds: 2,
    };
    Entry {
        attributes: Attributes {
            mode: 0o644,
            uid: 1,
            gid: 2,
            modified,
            xattrs: vec![],
        },
        node,
        group: 0,
    }
}

fn file(content: &str) -> Entry {
    entry(Node::File {
        size: content.len() as u64,
        hash: ContentHash::of(content.as_bytes()),
    })
}

fn directory(id: u64) -> Entry {
    entry(Node::Directory {
        id: DirectoryId(id),
    })
}

fn open(state: &Path) -> Result<Index, AgentError> {
    Index::open(
        state,
        Path::new("/source"),
        &DatasetName::new("test").expect("name"),
        "spare",
    )
}

fn seen(of: &Path) -> Seen {
    let parent = understudy_tree::Directory::open(of, Default::default()).expect("open");
    Seen::of(&parent.stat_self().expect("stat"), Settled::Yes)
}

/// Makes the entries the base, at a position of their own.
fn fill(index: &Index, entries: &[(Place, Entry)], seen: Option<Seen>) -> Meta {
    let mut meta = index.meta().expect("meta");
    index.begin().expect("begin");
    for (place, entry) in entries {
        meta.digest.add(place, entry);
        index
            .apply(&[Update {
                place: place.clone(),
                entry: entry.clone(),
                seen,
            }])
            .expect("apply");
    }
    meta.position = Some(Position {
        epoch: 1,
        number: 1,
        fingerprint: meta.digest.fingerprint(),
    });
    index.commit(&meta).expect("commit");
    index.ensure_lookups().expect("lookups");
    meta
}

fn merged(reader: &Reader<'_>, parent: u64, names: &[&str]) -> Vec<String> {
    let names = names
        .iter()
        .map(|name| Name::new(*name).expect("name"))
        .collect();
    let mut sides = Vec::new();
    reader
        .merge(DirectoryId(parent), names, |side| {
            sides.push(match side {
                Side::Left(name) => format!("< {name}"),
                Side::Right(name, _) => format!("> {name}"),
                Side::Both(name, raw) => format!("= {name} {}", raw.decode()?.entry.kind()),
            });
            Ok(())
        })
        .expect("merge");
    sides
}

#[test]
fn names_and_rows_are_merged_in_order() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    let entries = [
        (place(1, "b"), file("b")),
        (place(1, "d"), directory(2)),
        (place(2, "x"), file("x")),
    ];
    fill(&index, &entries, None);
    let reader = index.reader().expect("reader");
    assert_eq!(
        merged(&reader, 1, &["a", "b", "c", "e"]),
        ["< a", "= b file", "< c", "> d", "< e"]
    );
    assert_eq!(merged(&reader, 2, &[]), ["> x"]);
    assert_eq!(merged(&reader, 3, &["a"]), ["< a"]);
}

#[test]
fn readers_see_the_base_until_it_is_committed() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    fill(&index, &[(place(1, "a"), file("a"))], None);
    index.begin().expect("begin");
    index
        .apply(&[Update {
            place: place(1, "b"),
            entry: file("b"),
            seen: None,
        }])
        .expect("apply");
    assert!(
        index
            .reader()
            .expect("reader")
            .at(&place(1, "b"))
            .expect("read")
            .is_none()
    );
    assert!(index.pending_at(&place(1, "b")).expect("read").is_some());
    index.roll_back().expect("roll back");
    assert!(index.pending_at(&place(1, "b")).expect("read").is_none());
}

#[test]
fn rows_are_found_by_inode_and_content() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    let seen = seen(state.path());
    fill(
        &index,
        &[
            (place(1, "a"), file("content")),
            (place(1, "empty"), file("")),
        ],
        Some(seen),
    );
    let reader = index.reader().expect("reader");
    let stat = understudy_tree::Directory::open(state.path(), Default::default())
        .expect("open")
        .stat_self();
    let identity = stat.expect("stat").identity;
    assert_eq!(reader.with_identity(identity).expect("read").len(), 2);
    let other = Identity {
        inode: identity.inode,
        born: None,
    };
    assert!(
        reader.with_identity(other).expect("read").is_empty(),
        "another inode with the same number"
    );
    let found = reader
        .with_content(7, ContentHash::of(b"content"))
        .expect("read");
    assert_eq!(found, Some(place(1, "a")));
    assert_eq!(
        reader
            .with_content(8, ContentHash::of(b"content"))
            .expect("read"),
        None
    );
}

#[test]
fn removing_a_directory_spares_what_stands_elsewhere() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    let entries = [
        (place(1, "gone"), directory(2)),
        (place(2, "file"), file("x")),
        (place(2, "below"), directory(3)),
        (place(3, "file"), file("y")),
        (place(2, "moved"), directory(4)),
        (place(4, "file"), file("z")),
    ];
    let meta = fill(&index, &entries, None);
    index.begin().expect("begin");
    let mut digest = meta.digest;
    assert_eq!(
        index
            .delete(&place(1, "gone"), &mut digest)
            .expect("delete"),
        Some(directory(2))
    );
    let gone = index
        .delete_below(DirectoryId(2), &mut digest, |id| id == DirectoryId(4))
        .expect("delete");
    assert_eq!(gone, 3);
    let mut left = StateDigest::empty();
    left.add(&place(4, "file"), &file("z"));
    assert_eq!(digest, left);
    assert_eq!(
        index.pending_children(DirectoryId(4)).expect("read").len(),
        1
    );
}

#[test]
fn an_adopted_manifest_keeps_what_was_seen_of_equal_entries() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    let entries = [
        (place(1, "same"), file("a")),
        (place(1, "other"), file("b")),
        (place(1, "gone"), file("c")),
    ];
    let former = fill(&index, &entries, Some(seen(state.path())));
    let manifest = [
        (place(0, "files"), directory(1)),
        (place(1, "same"), file("a")),
        (place(1, "other"), file("B")),
        (place(1, "new"), directory(70)),
    ];
    let mut digest = StateDigest::empty();
    manifest
        .iter()
        .for_each(|(place, entry)| digest.add(place, entry));
    let position = Position {
        epoch: 3,
        number: 9,
        fingerprint: digest.fingerprint(),
    };
    let snapshot = understudy_protocol::Snapshot {
        position,
        committed_seconds: 0,
        entries: 3,
        bytes: 2,
    };

    let mut adoption = Adoption::begin(&index, &former).expect("begin");
    for (place, entry) in manifest.clone() {
        adoption.add(place, entry).expect("add");
    }
    let meta = adoption.finish(&snapshot, &former).expect("finish");
    assert_eq!((meta.position, meta.next_directory), (Some(position), 71));
    let reader = index.reader().expect("reader");
    let at = |name| reader.at(&place(1, name)).expect("read");
    assert!(at("same").expect("same").seen.is_some());
    assert!(at("other").expect("other").seen.is_none());
    assert!(at("new").is_some() && at("gone").is_none());
    assert_eq!(index.meta().expect("meta").position, Some(position));
}

#[test]
fn a_manifest_that_is_not_the_snapshot_is_refused() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    let former = fill(&index, &[(place(1, "a"), file("a"))], None);
    let position = Position {
        epoch: 1,
        number: 2,
        fingerprint: Fingerprint([7; 32]),
    };
    let snapshot = understudy_protocol::Snapshot {
        position,
        committed_seconds: 0,
        entries: 0,
        bytes: 0,
    };
    let adoption = Adoption::begin(&index, &former).expect("begin");
    assert!(matches!(
        adoption.finish(&snapshot, &former),
        Err(AgentError::OutOfStep { .. })
    ));
    drop(index);
    let index = open(state.path()).expect("open");
    assert!(
        !index.is_empty().expect("read"),
        "the old rows are still there"
    );
}

#[test]
fn positions_without_their_digest_are_not_believed() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    let meta = fill(&index, &[(place(1, "a"), file("a"))], None);
    assert_eq!(index.meta().expect("meta").position, meta.position);
    index
        .store("digest", &StateDigest::empty().to_bytes())
        .expect("store");
    assert_eq!(index.meta().expect("meta").position, None);
}

#[test]
fn an_index_belongs_to_one_source_dataset_and_spare() {
    let name = |source: &str, dataset: &str, spare: &str| {
        file_name(
            Path::new(source),
            &DatasetName::new(dataset).expect("name"),
            spare,
        )
    };
    let one = name("/a", "d", "s");
    for other in [
        name("/b", "d", "s"),
        name("/a", "e", "s"),
        name("/a", "d", "t"),
        name("s/a", "d", ""),
    ] {
        assert_ne!(one, other);
    }
    assert_eq!(one, name("/a", "d", "s"));
}

#[test]
fn a_newer_index_is_refused_by_name() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    index
        .connection()
        .execute_batch("PRAGMA user_version = 99")
        .expect("version");
    drop(index);
    let error = open(state.path()).expect_err("newer");
    assert!(
        matches!(error, AgentError::IndexNewer { found: 99, .. }),
        "{error}"
    );
    assert!(error.to_string().contains(".db"), "{error}");
}

#[test]
fn an_index_of_the_version_before_fuzzy_files_is_upgraded() {
    let state = tempfile::tempdir().expect("tempdir");
    let index = open(state.path()).expect("open");
    fill(&index, &[(place(1, "a"), file("a"))], None);
    let downgraded = index.connection().execute_batch(
        "DROP TABLE fuzzy; DROP TABLE signatures; DROP TABLE history; PRAGMA user_version = 2",
    );
    downgraded.expect("downgrade");
    drop(index);
    let index = open(state.path()).expect("upgrade");
    assert!(index.fuzzy().expect("places").is_empty());
    let places = std::collections::BTreeSet::from([place(1, "a")]);
    assert!(index.set_fuzzy(&places).expect("set"));
    assert!(!index.set_fuzzy(&places).expect("set again"));
    assert_eq!(index.fuzzy().expect("places"), places);
    assert!(index.meta().expect("meta").position.is_some());
}

#[test]
fn times_beyond_what_nanoseconds_count_are_told_apart() {
    let at = |seconds, nanoseconds| {
        row::folded(Timestamp {
            seconds,
            nanoseconds,
        })
    };
    assert_eq!(at(0, 5), 5);
    assert_ne!(at(9_223_372_037, 0), at(9_223_372_036, 999_999_999));
    assert_ne!(at(i64::MAX, 1), at(i64::MAX, 2));
}

fn large(letter: &str) -> Entry {
    file(&letter.repeat(5000))
}

/// Which of these contents are remembered as history.
fn remembered<'a>(index: &Index, letters: &[&'a str]) -> Vec<&'a str> {
    let reader = index.reader().expect("reader");
    let is_known = |letter: &str| {
        let (size, hash) = large(letter).content().expect("a file");
        reader.is_in_history(size, hash).expect("read")
    };
    let known = letters.iter().filter(|letter| is_known(letter));
    known.copied().collect()
}

#[test]
fn contents_that_leave_the_base_are_remembered_once_that_is_committed() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let index = open(scratch.path()).expect("open");
    let names = ["a", "b", "c", "d"];
    let mut entries: Vec<_> = names.map(|name| (place(1, name), large(name))).into();
    entries.push((place(1, "twice"), large("d")));
    entries.push((place(1, "short"), file("short")));
    let mut meta = fill(&index, &entries, None);
    let leave = |meta: &mut Meta| {
        index.begin().expect("begin");
        for name in ["a", "b", "d", "short"] {
            let deleted = index.delete(&place(1, name), &mut meta.digest);
            deleted.expect("delete").expect("an entry");
        }
        // The second one only moves.
        meta.digest.add(&place(1, "moved"), &large("b"));
        let update = Update {
            place: place(1, "moved"),
            entry: large("b"),
            seen: None,
        };
        index.apply(&[update]).expect("apply");
    };
    leave(&mut meta.clone());
    index.roll_back().expect("roll back");
    assert!(remembered(&index, &names).is_empty());
    leave(&mut meta);
    index.commit(&meta).expect("commit");
    assert_eq!(remembered(&index, &names), ["a"]);
    let (_, hash) = large("a").content().expect("a file");
    index.forget_former(hash).expect("forget");
    assert!(remembered(&index, &names).is_empty());
}

#[test]
fn the_oldest_contents_of_history_are_forgotten_first() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let index = open(scratch.path()).expect("open");
    let letters = ["a", "b", "c", "d"];
    for letter in letters.iter().chain(&["a"]) {
        index.remember_former(&large(letter)).expect("remember");
    }
    index.keep_of_history(0, 3).expect("keep");
    assert_eq!(remembered(&index, &letters), ["a", "c", "d"]);
    index.keep_of_history(0, 1).expect("keep");
    assert_eq!(remembered(&index, &letters), ["a"]);
    index.forget_history().expect("forget");
    assert!(remembered(&index, &letters).is_empty());
}
