//! Large files of which little changes: each twin has its own, brought forward in place, and every former version
//! comes back.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use std::fs::File;
use std::io::Read;
use std::num::NonZeroU32;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use understudy_protocol::message::{
    Change, Content, ListRetention, ReadManifest, StreamBase, StreamBlock, StreamCopy, StreamEnd,
    Verify, Want,
};
use understudy_protocol::{ContentHash, Message, Node, Place};
use understudy_receiver::health::accept;
use understudy_receiver::retention::{Grace, Mode, Moment, Policy, Request, Trust, pin, prune};

use stage::{Stage, dataset, directory, entry, hear, place, send};

const SIZE: usize = 6 << 20;
const PAGE: usize = 4096;

fn large() -> Place {
    place(1, "large")
}

/// A store with versions of one large file.
struct Versions {
    stage: Stage,
    /// By the number of their snapshot, less one.
    contents: Vec<Vec<u8>>,
}

impl Versions {
    fn new() -> Self {
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
        let mut stage = Stage::new();
        let blocks = content.chunks(512 * 1024).enumerate();
        let mut messages: Vec<Message> = blocks
            .map(|(number, data)| block(number * 512 * 1024, data))
            .collect();
        messages.push(end(&content));
        stage.upload(&[directory(place(0, "files"), 1), put(&content)], &messages);
        Self {
            stage,
            contents: vec![content],
        }
    }

    fn newest(&self) -> Vec<u8> {
        self.contents.last().expect("one").clone()
    }

    /// Uploads a new version in which these stretches are not what they were.
    fn upload(&mut self, content: Vec<u8>, stretches: &[(usize, usize)]) {
        let former = self.newest();
        let mut messages = vec![Message::StreamBase(StreamBase {
            stream: 1,
            place: large(),
        })];
        let mut position = 0;
        for &(start, after) in stretches {
            messages.extend(copy(position, start));
            messages.push(block(start, &content[start..after]));
            position = after;
        }
        messages.extend(copy(position, content.len().min(former.len())));
        messages.push(end(&content));
        self.stage.upload(&[put(&content)], &messages);
        assert!(std::fs::read(self.live()).expect("live") == content);
        self.contents.push(content);
    }

    /// Uploads a version with some pages changed.
    fn touch(&mut self, seed: usize) {
        let mut content = self.newest();
        let pages = content.len() / PAGE;
        let mut touched: Vec<usize> = (0..20).map(|n| (seed * 131 + n * 977) % pages).collect();
        touched.sort_unstable();
        touched.dedup();
        let stretches: Vec<_> = touched
            .iter()
            .map(|page| (page * PAGE, (page + 1) * PAGE))
            .collect();
        for &(start, after) in &stretches {
            content[start..after].fill(seed as u8 + 100);
        }
        self.upload(content, &stretches);
    }

    fn live(&self) -> PathBuf {
        self.stage.path("live/files/large")
    }

    fn inode(&self) -> u64 {
        std::fs::metadata(self.live()).expect("stat").ino()
    }

    /// Objects of history, and how many of them are patches.
    fn objects(&self) -> (usize, usize) {
        let shelves = std::fs::read_dir(self.stage.path(".understudy/objects")).expect("list");
        let names = shelves.flat_map(|shelf| {
            let names = std::fs::read_dir(shelf.expect("shelf").path()).expect("list");
            names.map(|name| name.expect("name").file_name().into_string().expect("text"))
        });
        names.fold((0, 0), |(all, patches), name| {
            (all + 1, patches + usize::from(name.ends_with(".patch")))
        })
    }

    /// What the receiver gives as the file of a snapshot.
    fn given(&self, number: u64) -> Vec<u8> {
        self.stage.talk(|channel| {
            let request = ReadManifest {
                dataset: dataset(),
                number: Some(number),
            };
            send(channel, &Message::ReadManifest(request));
            while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
            let places = vec![large()];
            send(channel, &Message::Want(Want { places }));
            let mut content = Vec::new();
            loop {
                match hear(channel).expect("content") {
                    Message::GivenStream(_) => {}
                    Message::StreamBlock(block) => {
                        content.resize(block.offset as usize, 0);
                        content.extend(&block.data.0);
                    }
                    Message::StreamEnd(end) => {
                        content.resize(end.size as usize, 0);
                        return content;
                    }
                    other => panic!("{other:?}"),
                }
            }
        })
    }

    /// Every version comes back, and the receiver finds nothing wrong.
    fn check(&self) {
        for (number, content) in (1..).zip(&self.contents) {
            assert!(self.given(number) == *content, "snapshot {number}");
        }
        assert_eq!(self.findings(), Vec::<String>::new());
    }

    fn findings(&self) -> Vec<String> {
        self.stage.talk(|channel| {
            send(channel, &Message::Verify(Verify { dataset: None }));
            let mut findings = Vec::new();
            loop {
                match hear(channel).expect("answer") {
                    Message::Finding(finding) => findings.push(finding.what),
                    Message::Verified(_) => {}
                    Message::VerifyEnd(_) => return findings,
                    other => panic!("{other:?}"),
                }
            }
        })
    }
}

fn block(offset: usize, data: &[u8]) -> Message {
    Message::StreamBlock(StreamBlock {
        stream: 1,
        offset: offset as u64,
        data: data.to_vec().into(),
    })
}

fn copy(start: usize, after: usize) -> Option<Message> {
    (start < after).then(|| {
        Message::StreamCopy(StreamCopy {
            stream: 1,
            offset: start as u64,
            from: start as u64,
            length: (after - start) as u64,
        })
    })
}

fn end(content: &[u8]) -> Message {
    Message::StreamEnd(StreamEnd {
        stream: 1,
        size: content.len() as u64,
        hash: ContentHash::of(content),
    })
}

fn put(content: &[u8]) -> Change {
    let (size, hash) = (content.len() as u64, ContentHash::of(content));
    Change::Put {
        place: large(),
        entry: entry(Node::File { size, hash }),
        content: Content::Stream(1),
    }
}

#[test]
fn files_are_changed_in_place_and_every_version_comes_back() {
    let mut versions = Versions::new();
    let mut inodes = vec![versions.inode()];
    for seed in 0..6 {
        versions.touch(seed);
        inodes.push(versions.inode());
    }
    // The second version is a copy; from then on the two files take turns.
    assert_ne!(inodes[0], inodes[1]);
    for number in 2..inodes.len() {
        assert_eq!(inodes[number], inodes[number - 2], "{inodes:?}");
    }
    versions.check();
    let (objects, patches) = versions.objects();
    assert!(patches >= 4 && objects == patches, "{objects}, {patches}");
}

#[test]
fn contents_that_come_again_leave_no_circle_behind() {
    let mut versions = Versions::new();
    let stretch = (8 * PAGE, 9 * PAGE);
    let mut letters = ["A", "B", "C", "D"].map(|_| versions.newest());
    for (number, letter) in letters.iter_mut().enumerate() {
        letter[stretch.0..stretch.1].fill(number as u8 + 1);
    }
    for letter in [0, 1, 0, 2, 0, 1, 2, 1, 3, 0, 3, 2] {
        versions.upload(letters[letter].clone(), &[stretch]);
    }
    versions.check();
}

#[test]
fn a_patched_file_that_gets_a_second_name_is_one_file() {
    let mut versions = Versions::new();
    for seed in 0..3 {
        versions.touch(seed);
    }
    let content = versions.newest();
    let (size, hash) = (SIZE as u64, ContentHash::of(&content));
    let mut both = entry(Node::File { size, hash });
    both.group = 7;
    let name = |name| Change::Put {
        place: place(1, name),
        entry: both.clone(),
        content: Content::Keep(large()),
    };
    versions.stage.upload(&[name("large"), name("second")], &[]);
    let second = versions.stage.path("live/files/second");
    assert_eq!(
        std::fs::metadata(second).expect("stat").ino(),
        versions.inode()
    );
    versions
        .stage
        .upload(&[stage::file(place(1, "other"), "x")], &[]);
    versions.check();
}

#[test]
fn growing_shrinking_and_holes_come_back_too() {
    let mut versions = Versions::new();
    versions.touch(1);
    let mut grown = versions.newest();
    grown.extend([9; 10_000]);
    versions.upload(grown, &[(SIZE, SIZE + 10_000)]);
    versions.touch(2);
    let mut shrunk = versions.newest();
    shrunk.truncate(SIZE - 100_000);
    versions.upload(shrunk, &[]);
    versions.touch(3);
    // What neither a block nor a copy covers is a hole.
    let mut holed = versions.newest();
    holed.resize(SIZE + 50_000, 0);
    versions.upload(holed, &[]);
    versions.touch(4);
    versions.touch(5);
    versions.check();
}

#[test]
fn whoever_has_a_file_open_keeps_what_it_was() {
    let mut versions = Versions::new();
    for seed in 0..3 {
        versions.touch(seed);
    }
    let (before, inode) = (versions.newest(), versions.inode());
    let mut reader = File::open(versions.live()).expect("open");
    for seed in 3..7 {
        versions.touch(seed);
        assert_ne!(versions.inode(), inode, "it is being read");
    }
    let mut read = Vec::new();
    reader.read_to_end(&mut read).expect("read");
    assert!(read == before);
    drop(reader);
    versions.check();
}

#[test]
fn what_a_stranger_wrote_into_a_retired_file_is_not_served() {
    let mut versions = Versions::new();
    for seed in 0..4 {
        versions.touch(seed);
    }
    let retired = versions.stage.path(".understudy/shadow/files/large");
    let stranger = File::options().write(true).open(retired).expect("open");
    stranger.write_at(b"strange", 3_000_000).expect("write");
    drop(stranger);
    for seed in 4..8 {
        versions.touch(seed);
    }
    let newest = versions.contents.len() as u64;
    for number in newest - 3..=newest {
        assert!(versions.given(number) == versions.contents[number as usize - 1]);
    }
}

#[test]
fn a_file_that_moves_is_rewritten_or_goes_leaves_its_versions() {
    let mut versions = Versions::new();
    for seed in 0..4 {
        versions.touch(seed);
    }
    let rewritten: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
    let blocks: Vec<_> = (0..SIZE / (512 * 1024))
        .map(|number| (number * 512 * 1024, (number + 1) * 512 * 1024))
        .collect();
    versions.upload(rewritten, &blocks);
    for seed in 4..7 {
        versions.touch(seed);
    }
    versions.check();
    let kept = versions.newest();
    let (size, hash) = (SIZE as u64, ContentHash::of(&kept));
    let moved = Change::Put {
        place: place(1, "moved"),
        entry: entry(Node::File { size, hash }),
        content: Content::Keep(large()),
    };
    let gone = Change::Remove { place: large() };
    versions.stage.upload(&[moved, gone], &[]);
    versions.stage.upload(
        &[Change::Remove {
            place: place(1, "moved"),
        }],
        &[],
    );
    versions
        .stage
        .upload(&[stage::file(place(1, "other"), "x")], &[]);
    versions.check();
}

#[test]
fn damaged_patches_are_found_and_not_given() {
    let mut versions = Versions::new();
    for seed in 0..5 {
        versions.touch(seed);
    }
    let shelves = std::fs::read_dir(versions.stage.path(".understudy/objects")).expect("list");
    let mut damaged = 0;
    for shelf in shelves {
        for object in std::fs::read_dir(shelf.expect("shelf").path()).expect("list") {
            let path = object.expect("object").path();
            let length = std::fs::metadata(&path).expect("stat").len();
            let file = File::options().write(true).open(&path).expect("open");
            file.set_len(length - 1).expect("cut");
            damaged += 1;
        }
    }
    let findings = versions.findings();
    let told = findings.iter().filter(|what| what.contains("damaged"));
    assert_eq!(told.count(), damaged, "{findings:?}");
    assert!(
        findings.len() > damaged,
        "what cannot come back is told, too"
    );
}

#[test]
fn a_little_that_moved_stays_a_patch() {
    let mut versions = Versions::new();
    versions.touch(1);
    let inode = versions.inode();
    let mut content = versions.newest();
    let (page, moved) = (700 * PAGE, 20 * PAGE..21 * PAGE);
    content.copy_within(moved.clone(), page);
    let messages = [
        Message::StreamBase(StreamBase {
            stream: 1,
            place: large(),
        }),
        copy(0, page).expect("a stretch"),
        Message::StreamCopy(StreamCopy {
            stream: 1,
            offset: page as u64,
            from: moved.start as u64,
            length: PAGE as u64,
        }),
        copy(page + PAGE, SIZE).expect("a stretch"),
        end(&content),
    ];
    versions.stage.upload(&[put(&content)], &messages);
    versions.contents.push(content);
    // The other twin's own copy comes next, and after two more cycles the first one again.
    versions.touch(2);
    assert_eq!(versions.inode(), inode);
    versions.check();
}

/// Flips a bit, and leaves the times as they were, as a failing disk does.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("open");
    let modified = file.metadata().expect("stat").modified().expect("time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("write");
    file.set_modified(modified).expect("time");
}

fn patches(stage: &Stage) -> Vec<PathBuf> {
    let shelves = std::fs::read_dir(stage.path(".understudy/objects")).expect("list");
    let files = shelves
        .flat_map(|shelf| std::fs::read_dir(shelf.expect("shelf").path()).expect("list"))
        .map(|file| file.expect("file").path());
    files
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "patch"))
        .collect()
}

#[test]
fn a_way_back_that_was_made_of_damage_is_found_and_stays_so() {
    let mut versions = Versions::new();
    for seed in 0..3 {
        versions.touch(seed);
    }
    let stretch = (500 * PAGE, 501 * PAGE);
    flip(&versions.live(), stretch.0 as u64 + 7);
    assert_eq!(versions.findings().len(), 1);
    let damaged = versions.contents.len();
    let mut content = versions.newest();
    content[stretch.0..stretch.1].fill(1);
    versions.upload(content, &[stretch]);
    versions.touch(7);
    versions.touch(8);
    let findings = versions.findings();
    let is_led = |what: &String| what.contains("lead back");
    assert!(findings.iter().any(is_led), "{findings:?}");
    // What was read before and leads through it is read again.
    for _ in 0..2 {
        assert_eq!(versions.findings().len(), damaged);
        let all: Vec<u64> = (1..=damaged as u64).collect();
        assert_eq!(damaged_snapshots(&versions.stage), all);
    }
}

#[test]
fn what_patches_lead_back_to_is_read_once() {
    let mut versions = Versions::new();
    for seed in 0..5 {
        versions.touch(seed);
    }
    let unproved = |versions: &Versions| {
        let patches = patches(&versions.stage).into_iter();
        let stats = patches.map(|path| std::fs::metadata(path).expect("stat"));
        stats.filter(|stat| stat.mode() & 0o200 != 0).count()
    };
    assert!(unproved(&versions) > 2);
    versions.check();
    assert_eq!(unproved(&versions), 0);
    versions.touch(5);
    assert_eq!(unproved(&versions), 1);
    versions.check();
}

/// Snapshots that cannot be restored whole.
fn damaged_snapshots(stage: &Stage) -> Vec<u64> {
    stage.talk(|channel| {
        let dataset = dataset();
        send(channel, &Message::ListRetention(ListRetention { dataset }));
        let mut damaged = Vec::new();
        loop {
            match hear(channel).expect("answer") {
                Message::Health(health) => damaged.extend(health.damaged),
                Message::Retention(_) => {}
                Message::RetentionEnd(_) => return damaged,
                other => panic!("{other:?}"),
            }
        }
    })
}

fn pruned(stage: &Stage) -> understudy_receiver::retention::Pruned {
    let none = Duration::ZERO;
    let policy = Policy {
        all: none,
        hourly: none,
        daily: none,
        monthly: none,
        minimum_age: none,
        newest: NonZeroU32::MIN,
        grace: none,
        ..Policy::default()
    };
    let request = Request {
        policy: &policy,
        moment: &Moment {
            seconds: Moment::now().seconds + 5,
            ..Moment::now()
        },
        mode: Mode::Act,
        grace: Grace::Skip,
        trust: Trust::Given,
    };
    prune(&stage.store, &dataset(), &request).expect("prune")
}

#[test]
fn damage_that_only_older_versions_lead_through_counts_and_can_be_accepted() {
    let mut versions = Versions::new();
    for seed in 0..5 {
        versions.touch(seed);
    }
    let stage = &versions.stage;
    pin(&stage.store, &dataset(), 1, "the first").expect("pin");
    assert!(pruned(stage).removed.len() >= 3);
    // Of the second version there is only what the first leads through.
    let digits = ContentHash::of(&versions.contents[1]).to_string();
    let (shelf, name) = digits.split_at(2);
    let path = stage.path(&format!(".understudy/objects/{shelf}/{name}.patch"));
    let file = File::options().write(true).open(&path).expect("open");
    let length = file.metadata().expect("stat").len();
    file.set_len(length - 1).expect("cut");
    assert_eq!(versions.findings().len(), 2);
    assert_eq!(damaged_snapshots(stage), [1]);
    accept(&stage.store, &dataset()).expect("accept");
    versions.touch(9);
    versions.touch(10);
    let done = pruned(&versions.stage);
    assert!(
        done.obstacle.is_none() && !done.removed.is_empty(),
        "{done:?}"
    );
    assert!(versions.findings().is_empty(), "they are accepted");
}
