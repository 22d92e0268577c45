//! What an upload makes of the entries of the spare in memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use understudy_protocol::message::{Change, Content, Touch};
use understudy_protocol::{ContentHash, DirectoryId, Entry, Node, Place, delta, version};

use super::{Spare, Upload};

impl Spare {
    /// The `Put` that a `Touch` is short for.
    pub(super) fn in_full(&self, record: Change) -> Change {
        let Change::Touch {
            place,
            attributes,
            touch,
        } = record
        else {
            return record;
        };
        assert!(
            self.speaks(version::SHORT),
            "an older version does not know it"
        );
        let (base, _) = &self.entries[&place];
        let mut entry = base.clone();
        entry.attributes = attributes;
        let content = match touch {
            Touch::Kept => Content::Keep(place.clone()),
            Touch::Copied => {
                entry.group = 0;
                Content::Copy(place.clone())
            }
        };
        Change::Put {
            place,
            entry,
            content,
        }
    }

    pub(super) fn apply(&mut self, mut upload: Upload) {
        let base = std::mem::take(&mut self.entries);
        let mut new = base.clone();
        let mut put = HashSet::new();
        let mut removed = HashSet::new();
        let mut put_directories = HashMap::new();
        for record in &upload.records {
            match record {
                Change::Put { place, entry, .. } => {
                    assert!(put.insert(place.clone()), "{place:?} put twice");
                    if let Some(id) = entry.directory_id() {
                        assert!(
                            put_directories.insert(id, place.clone()).is_none(),
                            "directory {id:?} put twice"
                        );
                    }
                }
                Change::Touch { place, .. } => unreachable!("{place:?} was put in full"),
                Change::Remove { place } => {
                    assert!(removed.insert(place.clone()), "{place:?} removed twice");
                    assert!(
                        base.contains_key(place),
                        "{place:?} removed, but was not there"
                    );
                }
            }
        }
        assert!(put.is_disjoint(&removed), "put and removed");
        let mut ended: Vec<DirectoryId> = Vec::new();
        for (place, (entry, _)) in &base {
            let id = entry.directory_id();
            let moves = id.is_some_and(|id| put_directories.contains_key(&id));
            if put.contains(place) || removed.contains(place) || moves {
                new.remove(place);
                ended.extend(id.filter(|id| !put_directories.contains_key(id)));
            }
        }
        while let Some(gone) = ended.pop() {
            for (place, (entry, _)) in base.iter().filter(|(place, _)| place.parent == gone) {
                if new.remove(place).is_some() {
                    ended.extend(
                        entry
                            .directory_id()
                            .filter(|id| !put_directories.contains_key(id)),
                    );
                }
            }
        }
        for record in &upload.records {
            let Change::Put {
                place,
                entry,
                content,
            } = record
            else {
                continue;
            };
            let file = self.file(entry, content, &base, &new, &mut upload.ended);
            if let (Node::File { size, hash }, data) = (&entry.node, self.contents.get(&file)) {
                let data = data.expect("content");
                assert_eq!(
                    (data.len() as u64, ContentHash::of(data)),
                    (*size, *hash),
                    "{place:?}"
                );
            }
            new.insert(place.clone(), (entry.clone(), file));
        }
        check(&new);
        self.supersede(&base, &new);
        self.uploads.push(upload.records);
        self.before = base;
        self.entries = new;
    }

    /// What no entry has any more is history.
    fn supersede(
        &mut self,
        base: &BTreeMap<Place, (Entry, u64)>,
        new: &BTreeMap<Place, (Entry, u64)>,
    ) {
        let is_there: HashSet<u64> = new.values().map(|(_, file)| *file).collect();
        for (_, file) in base.values().filter(|(_, file)| !is_there.contains(file)) {
            self.history.extend(self.contents.remove(file));
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        content: &Content,
        base: &BTreeMap<Place, (Entry, u64)>,
        new: &BTreeMap<Place, (Entry, u64)>,
        streams: &mut HashMap<u64, Vec<u8>>,
    ) -> u64 {
        self.next_file += 1;
        let file = self.next_file;
        let is_directory = entry.directory_id().is_some();
        let data = match content {
            Content::Directory => {
                assert!(is_directory);
                return file;
            }
            Content::Keep(from) => {
                let (was, file) = &base[from];
                assert_eq!(was.node, entry.node, "kept from {from:?}");
                return *file;
            }
            Content::Sibling(first) => {
                let (was, file) = &new[first];
                assert!(
                    was.group != 0 && was.group == entry.group,
                    "sibling of {first:?}"
                );
                return *file;
            }
            Content::Copy(from) => {
                assert_eq!(base[from].0.node, entry.node, "copied from {from:?}");
                self.contents[&base[from].1].clone()
            }
            Content::Inline(bytes) => bytes.0.clone(),
            Content::Delta(from, pieces) => {
                let base = &self.contents[&base[from].1];
                delta::assemble(base, pieces).expect("pieces of the base")
            }
            Content::Leftover => {
                let (_, hash) = entry.content().expect("a file");
                let is_it = |content: &Vec<u8>| ContentHash::of(content) == hash;
                let index = self.leftovers.iter().position(is_it);
                self.leftovers.remove(index.expect("a leftover, once"))
            }
            Content::History => {
                let (_, hash) = entry.content().expect("a file");
                let is_it = |content: &&Vec<u8>| ContentHash::of(content) == hash;
                let found = self.history.iter().find(is_it);
                found.expect("a content of history").clone()
            }
            Content::Stream(stream) => streams.remove(stream).expect("a stream that has ended"),
        };
        assert!(!is_directory);
        self.contents.insert(file, data);
        file
    }
}

/// One file at several places is a group; every entry stands in a directory of the tree.
fn check(entries: &BTreeMap<Place, (Entry, u64)>) {
    let mut groups: HashMap<u64, u64> = HashMap::new();
    let mut places: HashMap<u64, &Place> = HashMap::new();
    let directories: HashMap<DirectoryId, &Place> = entries
        .iter()
        .filter_map(|(place, (entry, _))| Some((entry.directory_id()?, place)))
        .collect();
    for (place, (entry, file)) in entries {
        if let Some(other) = places.insert(*file, place) {
            assert!(
                entry.group != 0 && groups[file] == entry.group,
                "{place:?} and {other:?} are one file, but no group"
            );
        }
        groups.insert(*file, entry.group);
        let (mut at, mut depth) = (place.parent, 0);
        while at != DirectoryId::TOP {
            depth += 1;
            assert!(depth < 10_000, "{place:?} is in itself");
            at = directories
                .get(&at)
                .unwrap_or_else(|| unreachable!("{place:?} stands in no directory"))
                .parent;
        }
    }
}
