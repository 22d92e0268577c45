//! A main that is asked for what the spare has lost, and gives something else.
#![expect(clippy::disallowed_methods, reason = "damages a file, and looks at it")]

use std::path::PathBuf;

use understudy_protocol::message::{
    Confirm, Repair, Returned, StreamAbort, StreamBlock, StreamEnd, WantedContent,
};
use understudy_protocol::{ContentHash, DatasetName, FailureCode, Message, Position, limits};
use understudy_receiver::Peer;

use crate::victim::{Outcome, Victim, begin};

const CONTENT: &[u8] = b"first";

/// A dataset of the attacker of which one file has rotted on the spare, for it is the attacker's own loss, and what is asked for.
fn rotten() -> (Victim, Position, PathBuf, WantedContent) {
    let (victim, base) = Victim::new();
    let evil = victim.path().join("store/evil");
    let mut found = Vec::new();
    find(&evil, &mut found);
    for path in &found {
        std::fs::write(path, b"FIRST").expect("damage");
    }
    let repair = Message::Repair(Repair {
        dataset: Some(DatasetName::fit(b"evil")),
    });
    victim.tell(&Peer::Operator, &[repair]);
    let wanted = asked(&victim.attack(&[begin()]));
    let [one] = wanted.as_slice() else {
        panic!("{wanted:?}");
    };
    assert_eq!(one.hash, ContentHash::of(CONTENT));
    let one = one.clone();
    (victim, base, evil.join("live/files/a"), one)
}

/// Every file that is called `a`.
fn find(directory: &std::path::Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("list") {
        let path = entry.expect("entry").path();
        let about = std::fs::symlink_metadata(&path).expect("metadata");
        if about.is_dir() {
            find(&path, found);
        } else if about.is_file() && path.ends_with("files/a") {
            found.push(path);
        }
    }
}

fn asked(outcome: &Outcome) -> Vec<WantedContent> {
    let wanted = outcome.heard.iter().filter_map(|message| match message {
        Message::Wanted(wanted) => Some(wanted.contents.clone()),
        _ => None,
    });
    wanted.flatten().collect()
}

fn returned(hash: ContentHash, stream: Option<u64>) -> Message {
    Message::Returned(Returned { hash, stream })
}

fn block(stream: u64, offset: u64, data: &[u8]) -> Message {
    Message::StreamBlock(StreamBlock {
        stream,
        offset,
        data: data.into(),
    })
}

fn end(size: u64, hash: ContentHash) -> Message {
    Message::StreamEnd(StreamEnd {
        stream: 1,
        size,
        hash,
    })
}

#[test]
fn contents_that_are_not_what_was_lost_are_refused_and_change_nothing() {
    let (victim, base, path, one) = rotten();
    let hash = one.hash;
    let given = || returned(hash, Some(1));
    let last = Message::Confirm(Confirm {
        position: base,
        elapsed_milliseconds: 0,
    });
    let wrong: Vec<Vec<Message>> = vec![
        // Another content under the right hash, one that is shorter, and one that is longer.
        vec![given(), block(1, 0, b"FIRST"), end(5, hash)],
        vec![given(), block(1, 0, b"firs"), end(5, hash)],
        vec![given(), block(1, 0, b"firs"), end(4, hash)],
        vec![given(), block(1, 0, b"first!"), end(6, hash)],
        vec![given(), end(5, hash)],
        vec![given(), end(limits::FILE_BYTES, hash)],
        // True in itself, and not what was lost.
        vec![
            given(),
            block(1, 0, b"FIRST"),
            end(5, ContentHash::of(b"FIRST")),
        ],
        // Beyond the file, backwards, and the same again.
        vec![given(), block(1, 5, b"!"), end(5, hash)],
        vec![
            given(),
            block(1, limits::FILE_BYTES - 1, b"!"),
            end(5, hash),
        ],
        vec![
            given(),
            block(1, 2, b"rst"),
            block(1, 0, b"fi"),
            end(5, hash),
        ],
        vec![
            given(),
            block(1, 0, b"first"),
            block(1, 0, b"FIRST"),
            end(5, hash),
        ],
        // Another stream, two at once, and nothing that belongs there.
        vec![given(), block(2, 0, CONTENT), end(5, hash)],
        vec![given(), given(), block(1, 0, CONTENT), end(5, hash)],
        vec![given(), begin()],
        vec![given(), last.clone()],
        // Nobody asked for that.
        vec![returned(ContentHash::of(b"FIRST"), Some(1))],
        vec![returned(ContentHash::of(b"third"), None)],
    ];
    for lie in wrong {
        let messages = [&[begin()], lie.as_slice(), std::slice::from_ref(&last)].concat();
        let failure = victim.attack(&messages).failure;
        let failure = failure.unwrap_or_else(|| panic!("{lie:?}"));
        assert_eq!(
            failure.code,
            FailureCode::Misbehaved,
            "{lie:?}: {failure:?}"
        );
        assert_eq!(std::fs::read(&path).expect("read"), b"FIRST", "{lie:?}");
        victim.check();
    }
    // It is asked for as before, also after one that was given up.
    let abort = Message::StreamAbort(StreamAbort { stream: 1 });
    let abort = [begin(), given(), block(1, 0, b"fir"), abort, last.clone()];
    assert!(victim.attack(&abort).failure.is_none());
    assert_eq!(asked(&victim.attack(&[begin()])), [one]);
    let honest = [begin(), given(), block(1, 0, CONTENT), end(5, hash), last];
    assert!(victim.attack(&honest).failure.is_none());
    assert_eq!(std::fs::read(&path).expect("read"), CONTENT);
    victim.check();
}
