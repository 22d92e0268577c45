//! What is told of the past against full copies of every snapshot: listings, versions, differences and contents.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use stage::{Stage, dataset, directory, file, hear, place, send};
use understudy_protocol::message::{
    Change, Compare, Content, Depth, Difference, Find, List, ListSnapshots, ListTree, Locate,
    Summarise, Summary, Version, Want,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{
    DirectoryId, Entry, FailureCode, Message, Name, Node, Place, ProtocolError, RelPath, Snapshot,
};

/// A snapshot by paths.
type Copy = BTreeMap<RelPath, Entry>;

/// A small generator of numbers, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A tree that is edited, with a copy of every snapshot that was made of it.
struct World {
    stage: Stage,
    dice: Dice,
    entries: BTreeMap<Place, Entry>,
    contents: HashMap<[u8; 32], String>,
    next_directory: u64,
    copies: Vec<Copy>,
}

impl World {
    fn new(seed: u64) -> Self {
        let stage = Stage::new();
        let mut world = Self {
            stage,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            entries: BTreeMap::new(),
            contents: HashMap::new(),
            next_directory: 3,
            copies: Vec::new(),
        };
        // Half of them have databases.
        for (name, id) in [("files", 1), ("databases", 2)]
            .into_iter()
            .take(1 + seed as usize % 2)
        {
            let Change::Put { place, entry, .. } = directory(place(0, name), id) else {
                unreachable!();
            };
            world.entries.insert(place, entry);
        }
        world
    }

    fn directories(&self) -> Vec<u64> {
        let directories = self.entries.values().filter_map(Entry::directory_id);
        directories.map(|id| id.0).collect()
    }

    fn some_place(&mut self) -> Place {
        let directories = self.directories();
        let parent = directories[self.dice.below(directories.len())];
        let names = ["a", "b", "c", "d\n", "e\u{1b}[31m"];
        place(parent, names[self.dice.below(names.len())])
    }

    fn some_entry(&mut self) -> Option<Place> {
        let places: Vec<_> = self
            .entries
            .keys()
            .filter(|place| place.parent.0 != 0)
            .collect();
        (!places.is_empty()).then(|| places[self.dice.below(places.len())].clone())
    }

    fn is_below(&self, mut directory: u64, above: u64) -> bool {
        loop {
            if directory == above {
                return true;
            }
            let up = self
                .entries
                .iter()
                .find(|(_, entry)| entry.directory_id() == Some(DirectoryId(directory)));
            match up {
                Some((place, _)) if place.parent.0 != 0 => directory = place.parent.0,
                _ => return false,
            }
        }
    }

    fn remove(&mut self, place: &Place) {
        self.entries.remove(place);
        loop {
            let directories = self.directories();
            let before = self.entries.len();
            self.entries
                .retain(|place, _| place.parent.0 == 0 || directories.contains(&place.parent.0));
            if self.entries.len() == before {
                return;
            }
        }
    }

    /// Puts a file, a link or a new directory.
    fn make(&mut self) {
        let place = self.some_place();
        if self
            .entries
            .get(&place)
            .is_some_and(|entry| entry.directory_id().is_some())
        {
            self.remove(&place);
        }
        let change = match self.dice.below(6) {
            0 | 1 => {
                self.next_directory += 1;
                directory(place, self.next_directory - 1)
            }
            2 => {
                let mut change = directory(place, 0);
                if let Change::Put { entry, .. } = &mut change {
                    let target = format!("to {}", self.dice.below(3));
                    let target = target.into_bytes().into();
                    entry.node = Node::Symlink { target };
                }
                change
            }
            // Few contents, so that they are found at several places; some are streams.
            _ => {
                let text = match self.dice.below(9) {
                    0 => String::new(),
                    number => format!("content {number}"),
                };
                let change = file(place, &text);
                if let Change::Put { entry, .. } = &change
                    && let Some((_, hash)) = entry.content()
                {
                    self.contents.insert(hash.0, text);
                }
                change
            }
        };
        let Change::Put { place, entry, .. } = change else {
            unreachable!();
        };
        // A parent that went with what stood there.
        if self.directories().contains(&place.parent.0) {
            self.entries.insert(place, entry);
        }
    }

    fn edit(&mut self) {
        let Some(from) = self.some_entry() else {
            return self.make();
        };
        match self.dice.below(8) {
            0 => self.remove(&from),
            1 | 2 => {
                let to = self.some_place();
                let id = self.entries[&from].directory_id();
                if to == from || id.is_some_and(|id| self.is_below(to.parent.0, id.0)) {
                    return;
                }
                let entry = self.entries.remove(&from).expect("entry");
                // What it displaces goes, unless it holds the entry that moves.
                let displaced = self.entries.get(&to).and_then(Entry::directory_id);
                if displaced.is_some_and(|id| self.is_below(from.parent.0, id.0)) {
                    self.entries.insert(from, entry);
                    return;
                }
                self.entries.insert(from.clone(), entry.clone());
                if self.entries.contains_key(&to) {
                    self.remove(&to);
                }
                self.entries.remove(&from);
                self.entries.insert(to, entry);
            }
            3 => {
                let mode = 0o700 + self.dice.below(2) as u16;
                let entry = self.entries.get_mut(&from).expect("entry");
                entry.attributes.mode = mode;
            }
            // A directory that is made anew under its name, with what it held.
            4 => {
                if let Some(id) = self.entries[&from].directory_id() {
                    let anew = DirectoryId(self.next_directory);
                    self.next_directory += 1;
                    let held: Vec<_> = self.entries.keys().cloned().collect();
                    for place in held.into_iter().filter(|place| place.parent == id) {
                        let entry = self.entries.remove(&place).expect("entry");
                        self.entries.insert(Place::new(anew, place.name), entry);
                    }
                    let entry = self.entries.get_mut(&from).expect("entry");
                    entry.node = Node::Directory { id: anew };
                }
            }
            _ => self.make(),
        }
    }

    /// Uploads what differs, and keeps a copy.
    fn snapshot(&mut self) {
        // One without entries is held by the guard.
        while self.entries.keys().all(|place| place.parent.0 != 1) {
            self.make();
        }
        let old = &self.stage.entries;
        let mut changes = Vec::new();
        for (place, entry) in &self.entries {
            if old.get(place) == Some(entry) {
                continue;
            }
            let content = match &entry.node {
                Node::Directory { .. } => Content::Directory,
                Node::File { hash, .. } => {
                    Content::Inline(self.contents[&hash.0].clone().into_bytes().into())
                }
                _ => Content::Inline(Vec::new().into()),
            };
            changes.push(Change::Put {
                place: place.clone(),
                entry: entry.clone(),
                content,
            });
        }
        let stays = self.directories();
        for (place, entry) in old {
            let has_moved = entry.directory_id().is_some_and(|id| stays.contains(&id.0));
            let goes_along = !stays.contains(&place.parent.0);
            if !self.entries.contains_key(place) && !has_moved && !goes_along && place.parent.0 != 0
            {
                changes.push(Change::Remove {
                    place: place.clone(),
                });
            }
        }
        // Touched at least, so that every snapshot is one of its own.
        self.stage.upload(&changes, &[]);
        assert_eq!(self.stage.entries, self.entries);
        self.copies.push(self.copy());
    }

    fn copy(&self) -> Copy {
        // The root of the files is not told, that of databases is.
        let mut paths = BTreeMap::from([(0, RelPath::root()), (1, RelPath::root())]);
        let mut copy = BTreeMap::new();
        while copy.len() + 1 < self.entries.len() {
            let told = |(place, _): &(&Place, &Entry)| **place != place_of_files();
            for (place, entry) in self.entries.iter().filter(told) {
                if let Some(parent) = paths.get(&place.parent.0) {
                    let path = parent.join(&place.name);
                    if let Some(id) = entry.directory_id() {
                        paths.insert(id.0, path.clone());
                    }
                    copy.insert(path, entry.clone());
                }
            }
        }
        let root = self
            .entries
            .values()
            .find(|entry| entry.directory_id() == Some(DirectoryId::FILES));
        copy.insert(RelPath::root(), root.expect("root").clone());
        copy
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("path")
}

fn place_of_files() -> Place {
    place(0, "files")
}

/// All answers up to the end.
fn ask<T>(
    channel: &mut Channel,
    request: &Message,
    take: impl Fn(Message) -> Vec<T>,
) -> Result<Vec<T>, ProtocolError> {
    send(channel, request);
    let mut answers = Vec::new();
    loop {
        match hear(channel)? {
            Message::Told(_) => return Ok(answers),
            answer => answers.extend(take(answer)),
        }
    }
}

fn list(channel: &mut Channel, number: u64, at: &RelPath, depth: Depth) -> Vec<(RelPath, Entry)> {
    let request = ListTree {
        dataset: dataset(),
        number,
        path: at.clone(),
        depth,
    };
    let listed = ask(
        channel,
        &Message::ListTree(request),
        |answer| match answer {
            Message::Listed(listed) => listed.entries,
            other => panic!("{other:?}"),
        },
    );
    listed.expect("listed")
}

fn find(channel: &mut Channel, pattern: &str, range: (Option<u64>, Option<u64>)) -> Vec<Version> {
    let request = Find {
        dataset: dataset(),
        pattern: pattern.to_owned(),
        first: range.0,
        last: range.1,
    };
    let found = ask(channel, &Message::Find(request), |answer| match answer {
        Message::Found(found) => found.versions,
        other => panic!("{other:?}"),
    });
    found.expect("found")
}

fn compare(channel: &mut Channel, from: u64, to: u64) -> Vec<Difference> {
    let request = Compare {
        dataset: dataset(),
        from,
        to,
    };
    let told = ask(channel, &Message::Compare(request), |answer| match answer {
        Message::Differences(told) => told.differences,
        other => panic!("{other:?}"),
    });
    told.expect("differences")
}

/// As a walk meets them.
fn in_order(copy: &Copy) -> Vec<(RelPath, Entry)> {
    let mut entries: Vec<_> = copy
        .iter()
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect();
    entries.retain(|(path, _)| *path != RelPath::root());
    entries.sort_by(|(left, _), (right, _)| {
        let parts = |path: &RelPath| -> Vec<Vec<u8>> {
            path.as_bytes()
                .split(|&byte| byte == b'/')
                .map(<[u8]>::to_vec)
                .collect()
        };
        let of_databases = |path: &RelPath| parts(path)[0] == b"databases";
        let key = |path| (of_databases(path), parts(path));
        key(left).cmp(&key(right))
    });
    entries
}

fn parent(path: &RelPath) -> RelPath {
    let bytes = path.as_bytes();
    let cut = bytes.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    RelPath::new(&bytes[..cut]).expect("path")
}

fn base(path: &RelPath) -> Name {
    let bytes = path.as_bytes();
    let cut = bytes
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |cut| cut + 1);
    Name::new(&bytes[cut..]).expect("name")
}

/// Whether two entries are the same to whoever looks at them: a directory's number does not show.
fn looks_same(left: &Entry, right: &Entry) -> bool {
    let are_directories = left.directory_id().is_some() && right.directory_id().is_some();
    left.attributes == right.attributes && (are_directories || left.node == right.node)
}

/// Does to the copy `from` what is told, and expects `to`.
fn check_differences(from: &Copy, to: &Copy, told: &[Difference]) {
    let (mut moved, mut removed) = (BTreeMap::new(), BTreeSet::new());
    let (mut added, mut changed) = (BTreeSet::new(), BTreeMap::new());
    for difference in told {
        let is_new = match difference {
            Difference::Added { path, entry } => {
                assert_eq!(to.get(path), Some(entry), "{difference:?}");
                added.insert(path)
            }
            Difference::Removed { path, entry } => {
                assert_eq!(from.get(path), Some(entry), "{difference:?}");
                removed.insert(path)
            }
            Difference::Moved {
                from: old,
                path,
                before,
                after,
            } => {
                assert_eq!(from.get(old), Some(before), "{difference:?}");
                assert_eq!(to.get(path), Some(after), "{difference:?}");
                assert_ne!(old, path, "{difference:?}");
                moved.insert(old, path).is_none()
            }
            Difference::Changed {
                path,
                before,
                after,
            } => {
                assert!(!looks_same(before, after), "{difference:?}");
                changed.insert(path, (before, after)).is_none()
            }
        };
        assert!(is_new, "told twice: {difference:?}");
    }
    // Where each path leads: parents come first in a copy.
    let mut images: BTreeMap<&RelPath, RelPath> = BTreeMap::new();
    let mut reached = BTreeSet::new();
    for (path, entry) in from {
        if removed.contains(path) {
            continue;
        }
        let image = match (moved.get(path), *path == RelPath::root()) {
            (Some(image), _) => (*image).clone(),
            (None, true) => RelPath::root(),
            (None, false) => {
                let above = parent(path);
                // What is left where everything around it went keeps its path: it must be the same directory's.
                let above = images.get(&above).cloned().unwrap_or(above);
                above.join(&base(path))
            }
        };
        let now = to
            .get(&image)
            .unwrap_or_else(|| panic!("{path} leads to {image}, which is not there"));
        match changed.get(&image) {
            Some((before, after)) => assert_eq!((*before, *after), (entry, now), "{path}"),
            None if moved.contains_key(path) => {
                assert!(
                    entry.directory_id().is_some() || entry.node == now.node,
                    "{path}"
                );
            }
            None => assert!(
                looks_same(entry, now),
                "{path} is {image}: {entry:?} {now:?}"
            ),
        }
        assert!(reached.insert(image.clone()), "two lead to {image}");
        images.insert(path, image);
    }
    for path in added {
        assert!(
            reached.insert(path.clone()),
            "{path} was added and is there"
        );
    }
    let all: BTreeSet<RelPath> = to.keys().cloned().collect();
    assert_eq!(reached, all);
    let moves_directories = moved
        .keys()
        .any(|path| from[*path].directory_id().is_some());
    if !moves_directories {
        let gone = removed.iter().chain(moved.keys());
        let stays: Vec<_> = gone.filter(|path| to.contains_key(**path)).collect();
        assert!(stays.is_empty(), "still there: {stays:?}");
    }
}

/// All versions that the copies have, as found by looking at every path in every copy.
fn versions(copies: &[Copy]) -> BTreeSet<(RelPath, u64, Option<u64>, u64)> {
    let mut versions = BTreeSet::new();
    let paths: BTreeSet<&RelPath> = copies.iter().flat_map(BTreeMap::keys).collect();
    for path in paths {
        let mut since: Option<(u64, &Entry)> = None;
        for (index, copy) in copies.iter().enumerate() {
            let number = index as u64 + 1;
            let now = copy.get(path).filter(|entry| entry.content().is_some());
            if let Some((first, entry)) = since
                && now != Some(entry)
            {
                versions.insert((path.clone(), first, Some(number), entry.size_bytes()));
                since = None;
            }
            if since.is_none() {
                since = now.map(|entry| (number, entry));
            }
        }
        if let Some((first, entry)) = since {
            versions.insert((path.clone(), first, None, entry.size_bytes()));
        }
    }
    versions
}

/// What was told, where a directory that was made anew splits no version.
fn joined(mut found: Vec<Version>) -> BTreeSet<(RelPath, u64, Option<u64>, u64)> {
    found.sort_by(|left, right| (&left.path, left.since).cmp(&(&right.path, right.since)));
    let mut joined: Vec<Version> = Vec::new();
    for version in found {
        match joined.last_mut() {
            Some(last)
                if last.path == version.path
                    && last.until == Some(version.since)
                    && last.entry == version.entry =>
            {
                last.until = version.until;
            }
            _ => joined.push(version),
        }
    }
    let told = joined.into_iter().map(|version| {
        let size = version.entry.size_bytes();
        (version.path, version.since, version.until, size)
    });
    told.collect()
}

#[test]
fn what_is_told_of_the_past_is_what_full_copies_say() {
    for seed in 1..=12 {
        let mut world = World::new(seed);
        for _ in 0..9 {
            for _ in 0..10 {
                world.edit();
            }
            world.snapshot();
        }
        let copies = &world.copies;
        world.stage.talk(|channel| {
            for (index, copy) in copies.iter().enumerate() {
                let number = index as u64 + 1;
                let listed = list(channel, number, &RelPath::root(), Depth::All);
                assert_eq!(listed, in_order(copy), "seed {seed}, snapshot {number}");
                for (path, entry) in copy {
                    let mut children = in_order(copy);
                    children.retain(|(child, _)| parent(child) == *path);
                    if entry.directory_id().is_none() {
                        children = vec![(path.clone(), entry.clone())];
                    }
                    assert_eq!(list(channel, number, path, Depth::Children), children);
                }
            }
            let all = versions(copies);
            assert_eq!(joined(find(channel, "*", (None, None))), all, "seed {seed}");
            for name in ["a", "b", "c", "databases", "databases/a"] {
                let below = format!("{name}/");
                let mut wanted = all.clone();
                wanted.retain(|(path, ..)| {
                    *path.as_bytes() == *name.as_bytes()
                        || path.as_bytes().starts_with(below.as_bytes())
                });
                let found = joined(find(channel, &format!("/{name}"), (None, None)));
                assert_eq!(found, wanted, "seed {seed}, below {name}");
            }
            let mut some = find(channel, "*", (None, None));
            some.retain(|version| {
                version.since <= 6 && version.until.is_none_or(|until| until > 4)
            });
            assert_eq!(find(channel, "*", (Some(4), Some(6))), some, "seed {seed}");
            let mut summaries = vec![];
            for from in 1..=copies.len() as u64 {
                for to in 1..=copies.len() as u64 {
                    let told = compare(channel, from, to);
                    let copy = |number: u64| &copies[number as usize - 1];
                    check_differences(copy(from), copy(to), &told);
                    if to == from + 1 {
                        let mut summary = Summary {
                            number: to,
                            ..Summary::default()
                        };
                        told.iter().for_each(|difference| summary.count(difference));
                        summaries.push(summary);
                    }
                }
            }
            let request = Summarise { dataset: dataset() };
            let told = ask(
                channel,
                &Message::Summarise(request),
                |answer| match answer {
                    Message::Summaries(told) => told.summaries,
                    other => panic!("{other:?}"),
                },
            );
            assert_eq!(told.expect("summaries")[1..], summaries);
        });
    }
}

#[test]
fn the_content_of_a_path_is_given_for_any_snapshot() {
    let mut stage = Stage::new();
    let root = directory(place(0, "files"), 1);
    let changes = [
        root,
        directory(place(1, "d"), 2),
        file(place(2, "x"), "one"),
    ];
    stage.upload(&changes, &[]);
    stage.upload(&[file(place(2, "x"), "two")], &[]);
    let goes = Change::Remove {
        place: place(1, "d"),
    };
    let databases = [
        directory(place(0, "databases"), 7),
        directory(place(7, "shop"), 8),
        file(place(8, "x"), "four"),
        file(place(8, "z"), "five"),
        directory(place(1, "databases"), 9),
        directory(place(9, "shop"), 10),
        file(place(10, "z"), "a file's"),
    ];
    let third = [vec![goes, file(place(1, "y"), "three")], databases.to_vec()].concat();
    stage.upload(&third, &[]);
    let read = |number, at: &str| {
        stage.talk(|channel| {
            let locate = Locate {
                dataset: dataset(),
                number,
                path: path(at),
            };
            send(channel, &Message::Locate(locate));
            let located = match hear(channel)? {
                Message::Located(located) => located,
                other => panic!("{other:?}"),
            };
            let places = vec![located.place];
            send(channel, &Message::Want(Want { places }));
            match hear(channel)? {
                Message::Given(given) => Ok(given.contents[0].1.0.clone()),
                other => panic!("{other:?}"),
            }
        })
    };
    assert_eq!(read(Some(1), "d/x").expect("read"), b"one");
    assert_eq!(read(Some(2), "d/x").expect("read"), b"two");
    assert_eq!(read(None, "databases/shop/x").expect("read"), b"four");
    // People's own files come first.
    assert_eq!(read(None, "databases/shop/z").expect("read"), b"a file's");
    for (number, at) in [
        (None, "d/x"),
        (Some(1), "d/x/y"),
        (Some(1), "d/y"),
        (Some(9), "d/x"),
        (Some(2), "databases/shop/x"),
        (None, "databases/shop/x/y"),
        (None, "files/y"),
    ] {
        match read(number, at) {
            Err(ProtocolError::Failed(failure)) => {
                assert_eq!(failure.code, FailureCode::NotFound, "{failure:?}");
            }
            other => panic!("{number:?} {at}: {other:?}"),
        }
    }
}

#[test]
fn an_agent_of_an_older_version_may_not_ask() {
    let mut stage = Stage::new();
    stage.upload(&[directory(place(0, "files"), 1)], &[]);
    stage.version = 4;
    let request = Summarise { dataset: dataset() };
    let told = stage.talk(|channel| ask(channel, &Message::Summarise(request), |_| vec![()]));
    match told {
        Err(ProtocolError::Failed(failure)) => {
            assert_eq!(failure.code, FailureCode::Misbehaved, "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "makes snapshots that would take hours"
)]
fn no_snapshot_is_beyond_what_can_be_listed() {
    let mut stage = Stage::new();
    stage.upload(&[directory(place(0, "files"), 1)], &[]);
    let path = stage.path(".understudy/catalog.db");
    let catalog = rusqlite::Connection::open(path).expect("open");
    let made = "WITH RECURSIVE made (number) AS (SELECT 2 UNION ALL SELECT number + 1 FROM made WHERE number < 12500)
                INSERT INTO snapshot SELECT made.number, epoch, fingerprint, digest, made.number, made.number,
                entries, bytes, first_entry, 1 FROM snapshot, made WHERE snapshot.number = 1";
    catalog.execute_batch(made).expect("make");
    drop(catalog);
    let list = List {
        dataset: Some(dataset()),
    };
    stage.talk(|channel| {
        send(channel, &Message::List(list));
        let newest = match hear(channel).expect("list") {
            Message::Datasets(mut told) => told.datasets.remove(0).snapshots,
            other => panic!("{other:?}"),
        };
        let numbers = |told: &[Snapshot]| -> Vec<u64> {
            let numbers = told.iter().map(|snapshot| snapshot.position.number);
            numbers.collect()
        };
        assert_eq!(numbers(&newest), Vec::from_iter(501..=12_500));
        let mut before = |before: u64| {
            let dataset = dataset();
            let request = Message::ListSnapshots(ListSnapshots { dataset, before });
            let told = ask(channel, &request, |answer| match answer {
                Message::Snapshots(told) => told.snapshots,
                other => panic!("{other:?}"),
            });
            numbers(&told.expect("snapshots"))
        };
        assert_eq!(before(501), Vec::from_iter(1..501));
        assert_eq!(before(u64::MAX), Vec::from_iter(1..=12_500));
        assert!(before(1).is_empty());
    });
}
