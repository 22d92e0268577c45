//! Contents that come back: they are taken from history, wherever that has them, and never on trust.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(clippy::disallowed_methods, reason = "damages files")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use understudy_protocol::message::{
    Change, Content, StreamBase, StreamBlock, StreamCopy, StreamEnd, Verify,
};
use understudy_protocol::{
    ContentHash, DirectoryId, FailureCode, Message, Node, Place, ProtocolError,
};

use stage::{Stage, directory, entry, file, hear, place, send};

/// So large that a change of little is kept as a patch.
const SIZE: usize = 6 << 20;

fn filled() -> Stage {
    let mut stage = Stage::new();
    let changes = [
        directory(place(0, "files"), 1),
        file(place(1, "small"), "first"),
        file(place(1, "other"), "other"),
    ];
    stage.upload(&changes, &[]);
    stage.upload(&[file(place(1, "small"), "second")], &[]);
    stage
}

fn put(place: Place, data: &[u8], content: Content) -> Change {
    let (size, hash) = (data.len() as u64, ContentHash::of(data));
    Change::Put {
        place,
        entry: entry(Node::File { size, hash }),
        content,
    }
}

fn back(place: Place, data: &[u8]) -> Change {
    put(place, data, Content::History)
}

fn object(stage: &Stage, data: &[u8]) -> PathBuf {
    let name = ContentHash::of(data).to_string();
    let path = format!(".understudy/objects/{}/{}", &name[..2], &name[2..]);
    stage.path(&path)
}

fn live(stage: &Stage, name: &str) -> Vec<u8> {
    std::fs::read(stage.path("live/files").join(name)).expect("live")
}

fn refused(stage: &Stage, change: Change) -> FailureCode {
    match stage.try_upload(&[change], &[]) {
        Err(ProtocolError::Failed(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

fn findings(stage: &Stage) -> Vec<String> {
    stage.talk(|channel| {
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

/// Stream 1: a new version of `large` in which one byte is another.
fn changed(base: &[u8], at: usize) -> (Vec<u8>, Vec<Message>) {
    let mut content = base.to_vec();
    content[at] ^= 1;
    let stream = 1;
    let copy = |start: usize, end: usize| {
        Message::StreamCopy(StreamCopy {
            stream,
            offset: start as u64,
            from: start as u64,
            length: (end - start) as u64,
        })
    };
    let messages = vec![
        Message::StreamBase(StreamBase {
            stream,
            place: place(1, "large"),
        }),
        copy(0, at),
        Message::StreamBlock(StreamBlock {
            stream,
            offset: at as u64,
            data: content[at..=at].into(),
        }),
        copy(at + 1, SIZE),
        end(&content),
    ];
    (content, messages)
}

fn end(content: &[u8]) -> Message {
    Message::StreamEnd(StreamEnd {
        stream: 1,
        size: content.len() as u64,
        hash: ContentHash::of(content),
    })
}

#[test]
fn what_was_superseded_comes_back_as_a_file_of_its_own() {
    let mut stage = filled();
    // The last commit superseded it: it is still in the retired twin.
    assert!(!object(&stage, b"first").exists());
    for content in ["first", "second", "first"] {
        stage.upload(&[back(place(1, "small"), content.as_bytes())], &[]);
        assert_eq!(live(&stage, "small"), content.as_bytes());
        let inode = |path: PathBuf| std::fs::metadata(path).expect("stat").ino();
        let kept = inode(object(&stage, content.as_bytes()));
        assert_ne!(inode(stage.path("live/files/small")), kept);
    }
    // What was removed, at another place, two times, and in a new directory.
    stage.upload(
        &[Change::Remove {
            place: place(1, "other"),
        }],
        &[],
    );
    let changes = [
        directory(place(1, "new"), 2),
        back(place(2, "inside"), b"other"),
        back(place(1, "other"), b"other"),
    ];
    stage.upload(&changes, &[]);
    assert_eq!(live(&stage, "new/inside"), b"other");
    assert_eq!(live(&stage, "other"), b"other");
    assert_eq!(findings(&stage), Vec::<String>::new());
}

fn large() -> Place {
    place(1, "large")
}

/// Uploads the first version of `large`, and others that differ in one byte from the one before.
fn versions(stage: &mut Stage, changes: &[usize]) -> Vec<Vec<u8>> {
    let first: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
    let blocks = first.chunks(512 * 1024).enumerate();
    let blocks = blocks.map(|(number, data)| {
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: (number * 512 * 1024) as u64,
            data: data.into(),
        })
    });
    let messages: Vec<_> = blocks.chain([end(&first)]).collect();
    stage.upload(&[put(large(), &first, Content::Stream(1))], &messages);
    let mut versions = vec![first];
    for at in changes {
        let (content, messages) = changed(&versions[versions.len() - 1], *at);
        stage.upload(&[put(large(), &content, Content::Stream(1))], &messages);
        versions.push(content);
    }
    versions
}

#[test]
fn what_history_has_as_patches_comes_back() {
    let mut stage = filled();
    let changes = [1_000_000, 2_000_000, 3_000_000, 4_000_000];
    let versions = versions(&mut stage, &changes);
    let name = object(&stage, &versions[1]);
    let has_patch = name.with_extension("patch").exists();
    assert!(
        has_patch
            || stage
                .path("live/files/large")
                .metadata()
                .expect("stat")
                .nlink()
                > 1,
        "no patch is kept where files share blocks, and only there"
    );
    for number in [1, 4, 0, 3, 0, 4] {
        stage.upload(&[back(large(), &versions[number])], &[]);
        assert!(live(&stage, "large") == versions[number], "{number}");
    }
    let (content, messages) = changed(&versions[4], 5_000_000);
    stage.upload(&[put(large(), &content, Content::Stream(1))], &messages);
    for version in &versions {
        stage.upload(&[back(large(), version)], &[]);
        assert!(live(&stage, "large") == *version);
    }
    assert_eq!(findings(&stage), Vec::<String>::new());
}

#[test]
fn what_is_damaged_or_gone_does_not_come_live() {
    let mut stage = filled();
    stage.upload(&[file(place(1, "small"), "third")], &[]);
    let path = object(&stage, b"first");
    let damage: [Option<&[u8]>; 5] = [
        Some(b"fIrst"),
        Some(b"fir"),
        Some(b""),
        Some(b"first and more"),
        None,
    ];
    for damaged in damage {
        match damaged {
            Some(damaged) => std::fs::write(&path, damaged).expect("damage"),
            None => std::fs::remove_file(&path).expect("remove"),
        }
        let code = refused(&stage, back(place(1, "small"), b"first"));
        assert_eq!(code, FailureCode::NotInHistory, "{damaged:?}");
        assert_eq!(live(&stage, "small"), b"third");
    }
    let code = refused(&stage, back(place(1, "small"), b"never there"));
    assert_eq!(code, FailureCode::NotInHistory);
    stage.upload(&[file(place(1, "small"), "first")], &[]);
    assert_eq!(live(&stage, "small"), b"first");
}

#[test]
fn what_a_damaged_patch_leads_to_does_not_come_live() {
    let mut stage = filled();
    let versions = versions(&mut stage, &[1_000_000, 2_000_000, 3_000_000]);
    let whole = object(&stage, &versions[1]);
    let patch = whole.with_extension("patch");
    // Where files share blocks there are no patches.
    let path = if patch.exists() { patch } else { whole };
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[2_000_000] ^= 1;
    std::fs::write(&path, bytes).expect("damage");
    let code = refused(&stage, back(large(), &versions[1]));
    assert_eq!(code, FailureCode::NotInHistory);
    assert!(live(&stage, "large") == versions[3]);
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let mut stage = filled();
    let mut change = back(place(1, "small"), b"");
    if let Change::Put { entry, .. } = &mut change {
        entry.node = Node::Directory { id: DirectoryId(9) };
    }
    assert_eq!(refused(&stage, change), FailureCode::Misbehaved);
    stage.version = understudy_protocol::version::HISTORY - 1;
    let change = back(place(1, "small"), b"first");
    assert_eq!(refused(&stage, change), FailureCode::Misbehaved);
    let empty = Stage::new();
    let change = back(place(1, "small"), b"first");
    assert_eq!(refused(&empty, change), FailureCode::Misbehaved);
}
