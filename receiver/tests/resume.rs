//! Uploads that are interrupted: what is kept of them, told, taken, and dropped.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(clippy::disallowed_methods, reason = "damages and ages files")]

mod stage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use understudy_protocol::message::{
    Change, Changes, Content, StreamBlock, StreamEnd, StreamResume,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, FailureCode, Message, Node, ProtocolError};
use understudy_receiver::Store;
use understudy_tree::{Directory, Mounts};

use stage::{Left, Stage, begin, directory, entry, file, place, send};

const LARGE: usize = 3 << 20;

fn text(number: u32) -> String {
    format!("{number} ").repeat(50)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn files(numbers: std::ops::Range<u32>) -> Vec<Change> {
    let file = |number| file(place(2, &format!("f{number}")), &text(number));
    numbers.map(file).collect()
}

/// The same change with what was left of an interrupted upload.
fn leftover(change: &Change) -> Change {
    let Change::Put { place, entry, .. } = change.clone() else {
        panic!("{change:?}");
    };
    Change::Put {
        place,
        entry,
        content: Content::Leftover,
    }
}

fn tree() -> [Change; 2] {
    [directory(place(0, "files"), 1), directory(place(1, "d"), 2)]
}

fn changes(records: &[Change]) -> Message {
    let records = records.to_vec();
    Message::Changes(Changes { records })
}

fn block(stream: u64, offset: usize, data: &[u8]) -> Vec<Message> {
    let pieces = data.chunks(500_000).enumerate();
    let block = |(number, data): (usize, &[u8])| {
        Message::StreamBlock(StreamBlock {
            stream,
            offset: (offset + number * 500_000) as u64,
            data: data.to_vec().into(),
        })
    };
    pieces.map(block).collect()
}

fn end(stream: u64, content: &[u8]) -> Message {
    Message::StreamEnd(StreamEnd {
        stream,
        size: content.len() as u64,
        hash: ContentHash::of(content),
    })
}

fn resume(stream: u64, beginning: &[u8]) -> Message {
    Message::StreamResume(StreamResume {
        stream,
        length: beginning.len() as u64,
        hash: ContentHash::of(beginning),
    })
}

fn large(content: &[u8], stream: u64) -> Change {
    let (size, hash) = (content.len() as u64, ContentHash::of(content));
    Change::Put {
        place: place(1, "large"),
        entry: entry(Node::File { size, hash }),
        content: Content::Stream(stream),
    }
}

/// An upload that is cut after these messages; returns what was left before it.
fn cut(stage: &Stage, messages: &[Message]) -> Left {
    stage.talk(|channel| {
        let left = begin(channel);
        messages.iter().for_each(|message| send(channel, message));
        left
    })
}

/// What is told to be left now.
fn left(stage: &Stage) -> Left {
    stage.talk(begin)
}

/// The sizes of all contents that are left.
fn sizes(left: &Left) -> Vec<u64> {
    let mut sizes: Vec<u64> = left.contents.iter().map(|(size, _)| *size).collect();
    sizes.sort_unstable();
    sizes
}

fn assert_live(stage: &Stage, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let live = stage.path(&format!("live/files/d/f{number}"));
        assert_eq!(std::fs::read_to_string(live).expect("live"), text(number));
    }
}

fn generations(stage: &Stage) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(stage.path(".understudy/leftovers")) else {
        return Vec::new();
    };
    entries.map(|entry| entry.expect("entry").path()).collect()
}

/// Changes where the ledgers say that they were written: the boot comes first, then the mount.
fn rewrite_openings(stage: &Stage, rewrite: impl Fn(&mut Vec<u8>, usize)) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot");
    for generation in generations(stage) {
        let path = generation.join("ledger");
        let bytes = std::fs::read(&path).expect("ledger");
        let mut opening = chunks(&bytes)[0].to_vec();
        let rest = &bytes[12 + opening.len()..];
        let at = opening
            .windows(36)
            .position(|window| window == boot.trim().as_bytes())
            .expect("the boot");
        rewrite(&mut opening, at);
        let mut bytes = (opening.len() as u32).to_le_bytes().to_vec();
        bytes.extend(&ContentHash::of(&opening).0[..8]);
        bytes.extend(&opening);
        bytes.extend(rest);
        std::fs::write(path, bytes).expect("write");
    }
}

/// What only a restart of the machine changes: the boot in which each ledger was written is another one.
fn restart(stage: &Stage) {
    rewrite_openings(stage, |opening, at| opening[at] = b'x');
}

/// As if the file system had been away and was mounted again; the kernel must tell the numbers of mounts.
fn mount_again(stage: &Stage) {
    rewrite_openings(stage, |opening, at| opening[at + 37] ^= 1);
}

/// As if the kernel did not tell the numbers of mounts.
fn forget_mount(stage: &Stage) {
    rewrite_openings(stage, |opening, at| {
        opening.truncate(at + 36);
        opening.push(0);
    });
}

/// Whether the kernel tells the numbers of mounts.
fn are_mounts_told(stage: &Stage) -> bool {
    let store = Directory::open(stage.store.path(), Mounts::Stay);
    store.expect("store").unique_mount().is_some()
}

fn failure(stage: &Stage, changes: &[Change], before: &[Message]) -> FailureCode {
    match stage.try_upload(changes, before) {
        Err(ProtocolError::Failed(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_staged_is_told_and_taken_and_gone_after_the_commit() {
    let mut stage = Stage::new();
    let content = noise(LARGE);
    let mut sent = vec![changes(&tree()), changes(&files(0..50))];
    sent.extend(block(1, 0, &content));
    sent.extend([end(1, &content), changes(&[large(&content, 1)])]);
    assert!(cut(&stage, &sent).contents.is_empty());
    assert_eq!(generations(&stage).len(), 1);
    let told = left(&stage);
    assert_eq!((told.contents.len(), told.partials.len()), (51, 0));
    let mut all = tree().to_vec();
    all.extend(files(0..50).iter().map(leftover));
    all.push(leftover(&large(&content, 1)));
    all.extend(files(50..60));
    stage.upload(&all, &[]);
    assert_live(&stage, 0..60);
    assert!(std::fs::read(stage.path("live/files/large")).expect("large") == content);
    assert!(generations(&stage).is_empty());
    assert!(left(&stage).contents.is_empty());
}

#[test]
fn a_resumed_upload_that_is_cut_again_loses_nothing_either() {
    let mut stage = Stage::new();
    cut(&stage, &[changes(&tree()), changes(&files(0..40))]);
    for step in 1..4 {
        let taken: Vec<Change> = files(0..step * 10).iter().map(leftover).collect();
        let new = files(30 + step * 10..40 + step * 10);
        let told = cut(&stage, &[changes(&tree()), changes(&taken), changes(&new)]);
        assert_eq!(told.contents.len(), (30 + step * 10) as usize);
    }
    let mut all = tree().to_vec();
    all.extend(files(0..70).iter().map(leftover));
    stage.upload(&all, &[]);
    assert_live(&stage, 0..70);
}

#[test]
fn files_of_directories_that_the_base_has_are_left_over_as_well() {
    let mut stage = Stage::new();
    stage.upload(&tree(), &[]);
    cut(&stage, &[changes(&files(0..10))]);
    let taken: Vec<Change> = files(0..10).iter().map(leftover).collect();
    stage.upload(&taken, &[]);
    assert_live(&stage, 0..10);
}

#[test]
fn a_stream_that_had_ended_is_a_content_and_one_that_had_not_a_beginning() {
    let mut stage = Stage::new();
    let content = noise(LARGE);
    // With a hole before its end.
    let mut holey = content.clone();
    holey[1_200_000..2_000_000].fill(0);
    let mut sent = block(7, 0, &content);
    sent.push(end(7, &content));
    sent.extend(block(8, 0, &holey[..1_200_000]));
    sent.extend(block(8, 2_000_000, &holey[2_000_000..2_100_000]));
    cut(&stage, &sent);
    let told = left(&stage);
    assert_eq!(sizes(&told), [LARGE as u64]);
    let beginning = &holey[..2_100_000];
    assert_eq!(told.partials, [(2_100_000, ContentHash::of(beginning))]);
    // Cut again, right after it was resumed under another number.
    let mut more = vec![resume(3, beginning)];
    more.extend(block(3, 2_100_000, &holey[2_100_000..2_500_000]));
    cut(&stage, &more);
    let beginning = &holey[..2_500_000];
    let mut rest = vec![resume(1, beginning)];
    rest.extend(block(1, 2_500_000, &holey[2_500_000..]));
    rest.push(end(1, &holey));
    let mut all = tree().to_vec();
    all.push(large(&holey, 1));
    let Change::Put { entry, .. } = large(&content, 0) else {
        panic!("a put");
    };
    all.push(Change::Put {
        place: place(1, "other"),
        entry,
        content: Content::Leftover,
    });
    stage.upload(&all, &rest);
    let live = |name: &str| std::fs::read(stage.path("live/files").join(name)).expect("live");
    assert!(live("large") == holey && live("other") == content);
    let blocks = std::os::unix::fs::MetadataExt::blocks;
    let allocated = blocks(&std::fs::metadata(stage.path("live/files/large")).expect("stat"));
    assert!(allocated * 512 < LARGE as u64 - 700_000, "{allocated}");
}

#[test]
fn a_receiver_that_dies_leaves_what_its_ledger_tells() {
    let mut stage = Stage::new();
    let content = noise(LARGE);
    let mut sent = vec![changes(&tree())];
    sent.extend(files(0..30).chunks(1).map(changes));
    sent.extend(block(1, 0, &content[..2_900_000]));
    cut(&stage, &sent);
    // As it was before the connection ended: in staging, and nothing told of the end.
    let kept = generations(&stage).remove(0);
    std::fs::remove_dir(stage.path(".understudy/staging")).expect("empty");
    std::fs::rename(&kept, stage.path(".understudy/staging")).expect("rename");
    let ledger = stage.path(".understudy/staging/ledger");
    let length = std::fs::metadata(&ledger).expect("ledger").len();
    let opened = std::fs::File::options().write(true).open(&ledger);
    opened
        .and_then(|file| file.set_len(length - 1))
        .expect("torn");
    let store = Store::open(stage.store.path()).expect("store");
    stage.store = Arc::new(store);
    stage.store.recover().expect("recover");
    let told = left(&stage);
    // Torn is what either of two workers noted last: a file, or where the stream was.
    assert!(told.contents.len() >= 29, "{}", told.contents.len());
    let [(length, hash)] = told.partials[..] else {
        panic!("{:?}", told.partials);
    };
    assert!(length >= 2_900_000 - (1 << 20) - 500_000, "{length}");
    let beginning = &content[..length as usize];
    assert_eq!(hash, ContentHash::of(beginning));
    let mut rest = vec![resume(9, beginning)];
    rest.extend(block(9, beginning.len(), &content[beginning.len()..]));
    rest.push(end(9, &content));
    let mut all = tree().to_vec();
    all.push(large(&content, 9));
    stage.upload(&all, &rest);
    assert!(std::fs::read(stage.path("live/files/large")).expect("large") == content);
}

#[test]
fn a_leftover_that_is_not_there_fails_once_and_is_told_no_more() {
    let mut stage = Stage::new();
    let taken = |number| leftover(&files(number..number + 1)[0]);
    let all = |change: Change| [&tree()[..], &[change]].concat();
    assert_eq!(
        failure(&stage, &all(taken(0)), &[]),
        FailureCode::BadLeftover
    );
    // Each is taken once.
    cut(&stage, &[changes(&tree()), changes(&files(0..2))]);
    let mut twice = all(taken(0));
    let Change::Put { entry, content, .. } = taken(0) else {
        panic!("a put");
    };
    let place = place(2, "again");
    twice.push(Change::Put {
        place,
        entry,
        content,
    });
    assert_eq!(failure(&stage, &twice, &[]), FailureCode::BadLeftover);
    assert!(left(&stage).contents.is_empty(), "a wrong list is dropped");
    // Of a beginning the file was changed.
    let content = noise(LARGE);
    cut(&stage, &block(4, 0, &content[..2_000_000]));
    let file = generations(&stage)[0].join("streams/4");
    let opened = std::fs::File::options().write(true).open(file);
    let opened = opened.expect("the stream");
    std::os::unix::fs::FileExt::write_all_at(&opened, b"x", 77).expect("write");
    let before = [resume(1, &content[..2_000_000])];
    assert_eq!(failure(&stage, &tree(), &before), FailureCode::BadLeftover);
    assert!(left(&stage).partials.is_empty());
    let mut changes = tree().to_vec();
    changes.extend(files(0..3));
    stage.upload(&changes, &[]);
}

#[test]
fn files_that_are_not_as_they_were_left_are_not_told() {
    let stage = Stage::new();
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    let kept = generations(&stage)[0].join("incoming/2");
    std::fs::remove_file(kept.join("f0")).expect("remove");
    std::fs::write(kept.join("f1"), "shorter").expect("write");
    std::fs::hard_link(kept.join("f2"), kept.join("another name")).expect("link");
    assert_eq!(left(&stage).contents.len(), 2);
}

#[test]
fn after_a_restart_of_the_machine_only_what_was_synced_counts_and_it_is_read_again() {
    let mut stage = Stage::new();
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    restart(&stage);
    assert!(left(&stage).contents.is_empty());
    assert!(generations(&stage).is_empty());
    // More than the flusher waits for, then a pause in which it syncs.
    let content = noise(70 << 20);
    let wait_for_sync = |channel: &mut Channel| {
        begin(channel);
        send(channel, &changes(&tree()));
        send(channel, &changes(&files(0..5)));
        block(1, 0, &content)
            .iter()
            .for_each(|message| send(channel, message));
        let ledger = stage.path(".understudy/staging/ledger");
        // The record of a sync is the last variant.
        let is_synced = || {
            let bytes = std::fs::read(&ledger).unwrap_or_default();
            chunks(&bytes).iter().any(|chunk| chunk[0] == 5)
        };
        while !is_synced() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        send(channel, &changes(&files(5..8)));
    };
    stage.talk(wait_for_sync);
    restart(&stage);
    let told = left(&stage);
    assert_eq!(told.contents.len(), 5);
    let [(length, hash)] = told.partials[..] else {
        panic!("{:?}", told.partials);
    };
    assert!(length >= 60 << 20, "{length}");
    assert_eq!(hash, ContentHash::of(&content[..length as usize]));
    // One of them is not what it was, as a disk may leave it.
    let kept = generations(&stage)[0].join("incoming/2/f3");
    std::fs::write(kept, "x".repeat(text(3).len())).expect("write");
    let all = |number: u32| {
        let taken = leftover(&files(number..number + 1)[0]);
        [&tree()[..], &[taken]].concat()
    };
    assert_eq!(failure(&stage, &all(3), &[]), FailureCode::BadLeftover);
    let mut changes = tree().to_vec();
    changes.extend(files(0..8));
    stage.upload(&changes, &[]);
}

#[test]
fn what_was_not_synced_before_the_file_system_was_away_does_not_count() {
    let stage = Stage::new();
    if !are_mounts_told(&stage) {
        return;
    }
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    assert_eq!(left(&stage).contents.len(), 5);
    mount_again(&stage);
    assert!(left(&stage).contents.is_empty());
    assert!(generations(&stage).is_empty());
}

#[test]
fn where_nobody_knows_whether_the_file_system_was_away_everything_is_read_again() {
    let mut stage = Stage::new();
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    forget_mount(&stage);
    assert_eq!(left(&stage).contents.len(), 5);
    let kept = generations(&stage)[0].join("incoming/2/f3");
    std::fs::write(kept, "x".repeat(text(3).len())).expect("write");
    let mut all = tree().to_vec();
    all.extend(files(0..5).iter().map(leftover));
    assert_eq!(failure(&stage, &all, &[]), FailureCode::BadLeftover);
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    forget_mount(&stage);
    stage.upload(&all, &[]);
    assert_live(&stage, 0..5);
}

/// The records of each chunk of a ledger.
fn chunks(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let end = 8 + u32::from_le_bytes(*length) as usize;
        let Some(chunk) = rest.get(8..end) else {
            break;
        };
        chunks.push(chunk);
        bytes = &rest[end..];
    }
    chunks
}

#[test]
fn leftovers_that_are_too_old_are_dropped() {
    let stage = Stage::new();
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    let written = |time: SystemTime| {
        let ledger = generations(&stage)[0].join("ledger");
        let file = std::fs::File::options().write(true).open(ledger);
        file.expect("ledger").set_modified(time).expect("age");
    };
    let hours = |count: u64| Duration::from_secs(count * 3600);
    written(SystemTime::now() - hours(71));
    stage.store.drop_old_leftovers().expect("drop");
    assert_eq!(left(&stage).contents.len(), 5);
    written(SystemTime::now() - hours(73));
    stage.store.drop_old_leftovers().expect("drop");
    assert!(generations(&stage).is_empty());
    assert!(left(&stage).contents.is_empty());
    // The clock was ahead then: a little, or so much that they would stay for ever.
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    written(SystemTime::now() + hours(23));
    stage.store.drop_old_leftovers().expect("drop");
    assert_eq!(left(&stage).contents.len(), 5);
    written(SystemTime::now() + hours(25));
    stage.store.drop_old_leftovers().expect("drop");
    assert!(generations(&stage).is_empty());
}

#[test]
fn what_a_peer_did_wrong_leaves_nothing_and_neither_does_a_confirmation() {
    let mut stage = Stage::new();
    let mut wrong = tree().to_vec();
    wrong.extend(files(0..5));
    wrong.push(files(4..5).remove(0));
    assert_eq!(failure(&stage, &wrong, &[]), FailureCode::Misbehaved);
    assert!(generations(&stage).is_empty());
    stage.upload(&tree(), &[]);
    cut(&stage, &[changes(&files(0..5))]);
    assert_eq!(generations(&stage).len(), 1);
    stage.talk(|channel| {
        begin(channel);
        let confirm = understudy_protocol::message::Confirm {
            position: stage.position.expect("position"),
            elapsed_milliseconds: 0,
        };
        send(channel, &Message::Confirm(confirm));
        stage::hear(channel).expect("confirmed");
        // Whoever stays after that does not hold the dataset up.
        assert!(left(&stage).contents.is_empty());
    });
    assert!(generations(&stage).is_empty());
}

#[test]
fn an_upload_that_fails_with_leftovers_drops_them_all() {
    let mut stage = Stage::new();
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    let mut wrong = tree().to_vec();
    wrong.push(leftover(&files(0..1)[0]));
    wrong.extend(files(6..7));
    wrong.extend(files(6..7));
    assert_eq!(failure(&stage, &wrong, &[]), FailureCode::Misbehaved);
    assert!(left(&stage).contents.is_empty());
    assert!(generations(&stage).is_empty());
    // Leftovers that it made no use of are not what it failed for.
    cut(&stage, &[changes(&tree()), changes(&files(0..5))]);
    wrong.remove(2);
    assert_eq!(failure(&stage, &wrong, &[]), FailureCode::Misbehaved);
    assert_eq!(left(&stage).contents.len(), 5);
    let mut all = tree().to_vec();
    all.extend(files(0..5).iter().map(leftover));
    stage.upload(&all, &[]);
}

#[test]
fn a_session_of_a_former_version_neither_hears_of_leftovers_nor_makes_any() {
    let mut stage = Stage::new();
    stage.version = understudy_protocol::version::RESUME - 1;
    let talk = |channel: &mut Channel| {
        stage::begin_anew(channel);
        send(channel, &changes(&tree()));
        send(channel, &changes(&files(0..5)));
    };
    stage.talk(talk);
    assert!(generations(&stage).is_empty());
}

/// Tears the last chunks off the ledger of the newest generation.
fn tear(stage: &Stage, count: usize) {
    let mut generations = generations(stage);
    generations.sort();
    let ledger = generations.last().expect("a generation").join("ledger");
    let bytes = std::fs::read(&ledger).expect("ledger");
    let chunks = chunks(&bytes);
    let kept = chunks.iter().take(chunks.len() - count);
    let length: usize = kept.map(|chunk| 12 + chunk.len()).sum();
    std::fs::write(ledger, &bytes[..length + 1]).expect("torn");
}

#[test]
fn what_is_large_is_told_before_it_is_taken_again() {
    let stage = Stage::new();
    let content = noise(LARGE);
    let mut sent = block(1, 0, &content);
    sent.push(end(1, &content));
    sent.extend(block(2, 0, &content[..2_000_000]));
    cut(&stage, &sent);
    // As if the receiver had died while it read the beginning again, or before the whole message was done.
    cut(&stage, &[resume(5, &content[..2_000_000])]);
    tear(&stage, 2);
    assert_eq!(left(&stage).partials.len(), 1);
    let mut all = tree().to_vec();
    all.push(leftover(&large(&content, 1)));
    all.extend(files(0..3));
    cut(&stage, &[changes(&all)]);
    tear(&stage, 1);
    let told = left(&stage);
    assert_eq!(sizes(&told), [LARGE as u64]);
    assert_eq!(told.partials.len(), 1);
}
