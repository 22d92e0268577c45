//! Cycles that a guard holds, and what comes after them.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(
    clippy::disallowed_methods,
    reason = "looks into the store, and damages it"
)]

mod stage;

use std::sync::Arc;

use understudy_protocol::message::{
    Begin, Change, Changes, Confirm, Content, SourceRoot, StreamBase, StreamBlock, StreamCopy,
    StreamEnd,
};
use understudy_protocol::{
    ContentHash, FailureCode, Message, Node, Position, ProtocolError, Timestamp,
};
use understudy_receiver::guard::{self, Held};
use understudy_receiver::{ReceiverError, Reserve, Store};

use stage::{Stage, begin, dataset, digest, directory, entry, file, hear, place, send};

fn text(number: u32) -> String {
    format!("{number} ").repeat(50)
}

fn put(number: u32) -> Change {
    file(place(2, &format!("f{number}")), &text(number))
}

fn removals(numbers: std::ops::Range<u32>) -> Vec<Change> {
    let removal = |number| Change::Remove {
        place: place(2, &format!("f{number}")),
    };
    numbers.map(removal).collect()
}

/// The same change with what was staged for the held cycle.
fn staged_already(change: &Change) -> Change {
    let Change::Put { place, entry, .. } = change.clone() else {
        panic!("{change:?}");
    };
    Change::Put {
        place,
        entry,
        content: Content::Leftover,
    }
}

/// Twenty files in a directory.
fn with_files() -> Stage {
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.extend((0..20).map(put));
    stage.upload(&changes, &[]);
    stage
}

fn assert_held(stage: &Stage, changes: &[Change]) -> Held {
    match stage.try_upload(changes, &[]) {
        Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::Refused => {}
        other => panic!("{other:?}"),
    }
    let held = held(stage).expect("held");
    assert_eq!(held.digest, digest(&stage.after(changes)).fingerprint());
    held
}

fn held(stage: &Stage) -> Option<Held> {
    guard::held(&stage.store, &dataset()).expect("held")
}

fn release(stage: &Stage, held: &Held) -> Result<Held, ReceiverError> {
    let digest = held.digest.to_string();
    guard::release(&stage.store, &dataset(), &digest, Reserve::default())
}

/// Numbers of the files that are live, each with its content.
fn live(stage: &Stage) -> Vec<u32> {
    let mut found: Vec<u32> = std::fs::read_dir(stage.path("live/files/d"))
        .expect("list")
        .map(|entry| {
            let entry = entry.expect("entry");
            let name = entry.file_name().into_string().expect("name");
            let number = name[1..].parse().expect("number");
            let content = std::fs::read_to_string(entry.path()).expect("read");
            assert_eq!(content, text(number));
            number
        })
        .collect();
    found.sort_unstable();
    found
}

fn numbers(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

fn assert_nothing_is_put_aside(stage: &Stage) {
    assert!(!stage.path(".understudy/held").exists());
    assert!(!stage.path(".understudy/held.staged").exists());
    let staging = std::fs::read_dir(stage.path(".understudy/staging")).expect("list");
    assert_eq!(staging.count(), 0);
}

#[test]
fn a_later_cycle_takes_the_place_of_the_held_one_and_nothing_is_sent_twice() {
    let stage = with_files();
    let (one, two) = (put(101), put(102));
    let mut changes = removals(0..15);
    changes.push(one.clone());
    let first = assert_held(&stage, &changes);
    let left = stage.talk(begin);
    let mut key = [0; 16];
    key.copy_from_slice(&ContentHash::of(text(101).as_bytes()).0[..16]);
    assert_eq!(left.contents, [(text(101).len() as u64, key)]);

    // One file more is little compared with what is held, and as much as before compared with what is live.
    let mut changes = removals(0..16);
    changes.extend([staged_already(&one), two]);
    let second = assert_held(&stage, &changes);
    assert_eq!(second.since_seconds, first.since_seconds);
    assert!(second.renewed_seconds.is_some() && first.renewed_seconds.is_none());
    assert_eq!((first.removed.0, second.removed.0), (15, 16));
    assert_eq!(live(&stage), numbers(0..20));

    // The same once more changes nothing.
    changes[17] = staged_already(&changes[17]);
    assert_eq!(assert_held(&stage, &changes), second);

    // Only what was looked at last is applied.
    let refused = release(&stage, &first).expect_err("another one is held");
    let text = refused.to_string();
    assert!(text.contains(&second.short_digest()), "{text}");
    assert_eq!(live(&stage), numbers(0..20));
    assert_eq!(release(&stage, &second).expect("release"), second);
    assert_eq!(live(&stage), [16, 17, 18, 19, 101, 102]);
    assert_nothing_is_put_aside(&stage);
}

#[test]
fn what_is_staged_takes_the_place_of_nothing() {
    let stage = with_files();
    assert_held(&stage, &removals(0..15));
    let changes = [removals(0..15), vec![put(101)]].concat();
    let second = assert_held(&stage, &changes);
    release(&stage, &second).expect("release");
    assert_eq!(live(&stage), [15, 16, 17, 18, 19, 101]);
}

#[test]
fn a_file_that_is_held_with_other_attributes_is_copied() {
    let stage = with_files();
    let one = put(101);
    let mut changes = removals(0..15);
    changes.push(one.clone());
    let first = assert_held(&stage, &changes);
    let Change::Put {
        place, mut entry, ..
    } = one
    else {
        panic!("no file")
    };
    entry.attributes.mode = 0o600;
    changes[15] = Change::Put {
        place,
        entry,
        content: Content::Leftover,
    };
    // Breaks off after it was staged.
    let records = changes.clone();
    stage.talk(|channel| {
        begin(channel);
        send(channel, &Message::Changes(Changes { records }));
    });
    assert_eq!(held(&stage).as_ref(), Some(&first));
    release(&stage, &first).expect("release");
    let metadata = std::fs::metadata(stage.path("live/files/d/f101")).expect("metadata");
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(live(&stage), [15, 16, 17, 18, 19, 101]);
}

#[test]
fn an_upload_that_breaks_off_leaves_what_is_held() {
    let mut stage = with_files();
    let one = put(101);
    let mut changes = removals(0..15);
    changes.push(one.clone());
    let first = assert_held(&stage, &changes);
    for _ in 0..2 {
        let mut records = removals(0..18);
        records.extend([staged_already(&one), put(102)]);
        stage.talk(|channel| {
            begin(channel);
            send(channel, &Message::Changes(Changes { records }));
        });
        assert_eq!(held(&stage).as_ref(), Some(&first));
        // Whether the process lives on or not.
        let path = stage.store.path().to_owned();
        stage.store = Arc::new(Store::open(&path).expect("store"));
        stage.store.recover().expect("recover");
        assert_eq!(held(&stage).as_ref(), Some(&first));
    }
    release(&stage, &first).expect("release");
    assert_eq!(live(&stage), [15, 16, 17, 18, 19, 101]);
}

#[test]
fn a_source_that_is_whole_again_ends_the_hold() {
    // As it was.
    let stage = with_files();
    assert_held(&stage, &removals(0..15));
    let confirmed = stage.talk(|channel| {
        begin(channel);
        let position = stage.position.expect("snapshot");
        send(
            channel,
            &Message::Confirm(Confirm {
                position,
                elapsed_milliseconds: 0,
            }),
        );
        hear(channel)
    });
    assert!(matches!(confirmed, Ok(Message::Confirmed(_))));
    assert_eq!(held(&stage), None);
    assert_nothing_is_put_aside(&stage);

    // With a little work since.
    let mut stage = with_files();
    let mut changes = removals(0..15);
    changes.push(put(101));
    assert_held(&stage, &changes);
    let changes = [removals(0..1), vec![staged_already(&put(101)), put(102)]].concat();
    stage.upload(&changes, &[]);
    assert_eq!(held(&stage), None);
    assert_nothing_is_put_aside(&stage);
    assert_eq!(live(&stage), [numbers(1..20), vec![101, 102]].concat());
    // The next one is held anew.
    let held = assert_held(&stage, &removals(1..20));
    assert_eq!(held.renewed_seconds, None);
}

#[test]
fn a_release_that_fails_leaves_it_held() {
    let stage = with_files();
    let mut changes = removals(0..15);
    changes.push(put(101));
    let first = assert_held(&stage, &changes);
    // More than any disk has.
    let much = Reserve {
        percent: 101,
        enough_bytes: u64::MAX,
    };
    let digits = first.digest.to_string();
    let refused = guard::release(&stage.store, &dataset(), &digits, much);
    assert!(
        matches!(refused, Err(ReceiverError::NoSpace(_))),
        "{refused:?}"
    );
    assert_eq!(held(&stage).as_ref(), Some(&first));

    // What is staged cannot be reached for a while.
    let aside = stage.path(".understudy/held.staged");
    let staged = file_below(&aside, text(101).len() as u64);
    let hidden = stage.path(".understudy/hidden");
    std::fs::rename(&staged, &hidden).expect("hide");
    for _ in 0..2 {
        release(&stage, &first).expect_err("something is missing");
        assert_eq!(held(&stage).as_ref(), Some(&first));
        assert_eq!(live(&stage), numbers(0..20));
    }
    std::fs::rename(&hidden, &staged).expect("show");
    release(&stage, &first).expect("release");
    assert_eq!(live(&stage), [15, 16, 17, 18, 19, 101]);
    assert_nothing_is_put_aside(&stage);
}

#[test]
fn a_loss_that_comes_with_another_source_is_told_so_and_held_earlier() {
    let root = |file_system, inode| {
        Message::SourceRoot(SourceRoot {
            file_system: Some(file_system),
            inode,
            born: Some(Timestamp {
                seconds: 1,
                nanoseconds: 5,
            }),
        })
    };
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.extend((0..80).map(put));
    stage.upload(&changes, &[root(1, 2)]);
    // A sixth is no reason where the source is what it was, nor where it only stands elsewhere.
    stage.upload(&removals(0..12), &[root(1, 2)]);
    stage.upload(&removals(12..23), &[root(1, 3)]);
    let refused = |stage: &Stage, changes: &[Change], root| {
        stage.try_upload(changes, &[root]).expect_err("held");
        held(stage).expect("held")
    };
    let held = refused(&stage, &removals(23..40), root(1, 4));
    let told = "the source is another directory than before";
    assert!(held.reason.contains(told), "{}", held.reason);
    guard::reject(&stage.store, &dataset(), &held.digest.to_string()).expect("reject");

    let changes = removals(23..33);
    let held = refused(&stage, &changes, root(2, 3));
    let told = "the source is on another file system than before";
    assert!(held.reason.contains(told), "{}", held.reason);
    // Little is lost: it is noted, and that is all.
    release(&stage, &held).expect("release");
    stage.entries = stage.after(&changes);
    let position = stage.position.expect("snapshot");
    stage.position = Some(Position {
        number: position.number + 1,
        fingerprint: held.digest,
        ..position
    });
    stage.upload(&removals(33..34), &[root(3, 3)]);
    // Whoever released it has seen where the source is.
    stage.upload(&removals(34..44), &[root(3, 3)]);
}

/// A tag as programs leave it, or something that only has its name.
fn tag(parent: u64, text: &str) -> Change {
    file(place(parent, "CACHEDIR.TAG"), text)
}

const SIGNATURE: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# by a program\n";

#[test]
fn what_was_a_cache_from_the_beginning_may_be_cleared() {
    for tag in [Some(tag(2, SIGNATURE)), None] {
        let name = if tag.is_some() { "thumbs" } else { "cache" };
        let mut stage = Stage::new();
        let mut changes = vec![
            directory(place(0, "files"), 1),
            directory(place(1, name), 2),
        ];
        changes.extend(tag);
        changes.extend((0..40).map(put));
        stage.upload(&changes, &[]);
        // What comes into it later is as little worth.
        stage.upload(&(40..60).map(put).collect::<Vec<_>>(), &[]);
        stage.upload(&removals(0..60), &[]);
    }
}

#[test]
fn what_becomes_a_cache_just_before_counts() {
    let made: [fn(&mut Stage); 3] = [
        |stage| stage.upload(&[tag(2, SIGNATURE)], &[]),
        |stage| {
            let moved = directory(place(1, "cache"), 2);
            stage.upload(&[moved], &[]);
        },
        // Every file moves into a directory that is new.
        |stage| {
            let mut changes = vec![directory(place(1, "cache"), 3)];
            for number in 0..20 {
                let from = place(2, &format!("f{number}"));
                changes.push(Change::Put {
                    place: place(3, &format!("f{number}")),
                    entry: stage.entries[&from].clone(),
                    content: Content::Keep(from.clone()),
                });
                changes.push(Change::Remove { place: from });
            }
            stage.upload(&changes, &[]);
        },
    ];
    for (number, make) in made.into_iter().enumerate() {
        let mut stage = with_files();
        make(&mut stage);
        let parent = if number == 2 { 3 } else { 2 };
        let removal = |number| Change::Remove {
            place: place(parent, &format!("f{number}")),
        };
        let held = assert_held(&stage, &(0..20).map(removal).collect::<Vec<_>>());
        assert_eq!(held.removed.0, 20, "{number}");
    }
}

#[test]
fn a_tag_without_its_signature_is_none() {
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.push(tag(
        2,
        "this is a cache, believe me, it really is one of them",
    ));
    changes.extend((0..20).map(put));
    stage.upload(&changes, &[]);
    assert_held(&stage, &removals(0..20));
}

const LARGE: usize = 4 << 20;
const STEP: usize = 256 << 10;
const PAGE: usize = 4096;

fn large(number: u64, content: &[u8]) -> Change {
    let (size, hash) = (content.len() as u64, ContentHash::of(content));
    Change::Put {
        place: place(1, &format!("image{number}")),
        entry: entry(Node::File { size, hash }),
        content: Content::Stream(number),
    }
}

fn block(stream: u64, offset: usize, data: &[u8]) -> Message {
    Message::StreamBlock(StreamBlock {
        stream,
        offset: offset as u64,
        data: data.to_vec().into(),
    })
}

fn end(stream: u64, content: &[u8]) -> Message {
    Message::StreamEnd(StreamEnd {
        stream,
        size: content.len() as u64,
        hash: ContentHash::of(content),
    })
}

/// One page in many is another one.
fn patched(stage: &Stage, page: impl Fn(usize) -> Vec<u8>) -> Result<Position, ProtocolError> {
    let (mut content, mut stretches) = (lines(LARGE), Vec::new());
    for offset in (PAGE..LARGE).step_by(STEP) {
        let new = page(offset);
        content[offset..offset + PAGE].copy_from_slice(&new);
        stretches.push((offset, new));
    }
    let (mut changes, mut messages) = (Vec::new(), Vec::new());
    for number in 1..=12 {
        changes.push(large(number, &content));
        messages.push(Message::StreamBase(StreamBase {
            stream: number,
            place: place(1, &format!("image{number}")),
        }));
        let mut position = 0;
        let mut copy = |to: usize| {
            let copied = Message::StreamCopy(StreamCopy {
                stream: number,
                offset: position as u64,
                from: position as u64,
                length: (to - position) as u64,
            });
            position = to + PAGE;
            copied
        };
        for (offset, new) in &stretches {
            messages.extend([copy(*offset), block(number, *offset, new)]);
        }
        messages.extend([copy(LARGE), end(number, &content)]);
    }
    stage.try_upload(&changes, &messages)
}

fn lines(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line| format!("line {line} of a file\n").into_bytes());
    lines.take(length).collect()
}

#[test]
fn many_files_of_which_a_little_becomes_noise_are_held() {
    let mut stage = Stage::new();
    let content = lines(LARGE);
    let (mut changes, mut messages) = (vec![directory(place(0, "files"), 1)], Vec::new());
    for number in 1..=12 {
        changes.push(large(number, &content));
        for (index, data) in content.chunks(STEP).enumerate() {
            messages.push(block(number, index * STEP, data));
        }
        messages.push(end(number, &content));
    }
    stage.upload(&changes, &messages);
    let noise = |offset: usize| {
        let mut page = vec![0; PAGE];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&offset.to_le_bytes());
        hasher.finalize_xof().fill(&mut page);
        page
    };
    patched(&stage, noise).expect_err("held");
    let held = held(&stage).expect("held");
    // Where the file system shares blocks there are no patches, but files, of which two places are looked at.
    let patches = std::fs::read_dir(stage.path(".understudy/patches")).expect("list");
    assert_eq!((patches.count(), held.noise.0), (12, 12));
    assert_eq!(held.noise.1, 12 * (LARGE / STEP * PAGE) as u64);
    guard::reject(&stage.store, &dataset(), &held.digest.to_string()).expect("reject");
    patched(&stage, |_| {
        b"another line of text\n".repeat(200)[..PAGE].to_vec()
    })
    .expect("as usual");
}

/// The file of this size that is staged.
fn file_below(directory: &std::path::Path, size: u64) -> std::path::PathBuf {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("list") {
            let path = entry.expect("entry").path();
            let metadata = path.metadata().expect("metadata");
            match metadata.is_dir() {
                true => directories.push(path),
                false if metadata.len() == size => return path,
                false => {}
            }
        }
    }
    panic!("not found");
}

#[test]
fn a_release_that_fails_after_the_switch_tells_that_it_is_live() {
    let root = Message::SourceRoot(SourceRoot {
        file_system: Some(1),
        inode: 2,
        born: None,
    });
    // What comes after the record keeps nobody from hearing that it is done.
    let stage = with_files();
    let changes = removals(0..15);
    stage
        .try_upload(&changes, std::slice::from_ref(&root))
        .expect_err("held");
    let first = held(&stage).expect("held");
    let source = stage.path(".understudy/source");
    std::fs::create_dir_all(source).expect("in the way");
    release(&stage, &first).expect("release");
    assert_eq!(live(&stage), numbers(15..20));
    assert_nothing_is_put_aside(&stage);

    let stage = with_files();
    let first = assert_held(&stage, &changes);
    let catalog = rusqlite::Connection::open(stage.path(".understudy/catalog.db")).expect("open");
    let sql = "CREATE TRIGGER full BEFORE UPDATE OF committed ON snapshot BEGIN SELECT RAISE(ABORT, 'full'); END";
    catalog.execute_batch(sql).expect("trigger");
    let told = release(&stage, &first)
        .expect_err("not recorded")
        .to_string();
    assert!(
        told.contains("is live, and could not be recorded"),
        "{told}"
    );
    assert_eq!(live(&stage), numbers(15..20));
    catalog.execute_batch("DROP TRIGGER full").expect("drop");
    // The next one records it.
    let later = release(&stage, &first)
        .expect_err("it is not held any more")
        .to_string();
    assert!(later.contains("nothing is held"), "{later}");
    assert_eq!(held(&stage), None);
    assert_eq!(live(&stage), numbers(15..20));
}

#[test]
fn what_is_held_and_cannot_be_understood_is_never_applied_and_can_be_dropped() {
    let stage = with_files();
    let changes = removals(0..15);
    for garbage in [vec![b'x'; 2 << 20], b"{}".to_vec()] {
        let first = assert_held(&stage, &changes);
        std::fs::write(stage.path(".understudy/held"), garbage).expect("write");
        let told = guard::held(&stage.store, &dataset()).expect_err("unclear");
        let typed = format!("`understudy reject {} {}`", dataset(), first.short_digest());
        assert!(told.to_string().contains(&typed), "{told}");
        stage.talk(|channel| {
            send(channel, &Message::Begin(Begin { dataset: dataset() }));
            hear(channel).expect_err("unclear");
        });
        release(&stage, &first).expect_err("unclear");
        let reject = |digest: &str| guard::reject(&stage.store, &dataset(), digest);
        reject("00000000").expect_err("another digest");
        assert_eq!(live(&stage), numbers(0..20));
        assert_eq!(reject(&first.short_digest()).expect("reject"), None);
        assert_eq!(live(&stage), numbers(0..20));
        assert_nothing_is_put_aside(&stage);
    }
    let again = assert_held(&stage, &changes);
    release(&stage, &again).expect("release");
    assert_eq!(live(&stage), numbers(15..20));
}

#[test]
fn what_was_held_is_not_applied_when_its_file_vanishes() {
    let stage = with_files();
    let changes = removals(0..15);
    assert_held(&stage, &changes);
    std::fs::remove_file(stage.path(".understudy/held")).expect("remove");
    stage.talk(|channel| {
        begin(channel);
    });
    assert_eq!(live(&stage), numbers(0..20));
    assert_eq!(held(&stage), None);
    assert_nothing_is_put_aside(&stage);
    let again = assert_held(&stage, &changes);
    release(&stage, &again).expect("release");
    assert_eq!(live(&stage), numbers(15..20));
}

#[test]
fn paths_as_long_as_a_main_likes_keep_nobody_from_deciding() {
    let mut stage = Stage::new();
    let name = |level: u64| "\u{1}".repeat(200) + &level.to_string();
    let mut changes = vec![directory(place(0, "files"), 1)];
    changes.extend((1..30).map(|level| directory(place(level, &name(level)), level + 1)));
    let files = (0..20).map(|number| place(30, &format!("{}{number}", name(30))));
    let files: Vec<_> = files.collect();
    changes.extend(files.iter().map(|place| file(place.clone(), &text(1))));
    stage.upload(&changes, &[]);
    let removals: Vec<Change> = files
        .into_iter()
        .map(|place| Change::Remove { place })
        .collect();
    let held = assert_held(&stage, &removals);
    assert_eq!(held.paths.len(), 20);
    assert!(held.paths.iter().all(|path| path.chars().count() <= 1001));
    let file = stage.path(".understudy/held").metadata().expect("metadata");
    assert!(file.len() < 100_000, "{}", file.len());
    guard::reject(&stage.store, &dataset(), &held.digest.to_string()).expect("reject");
}
