//! Entries that are allowed and that no file can be exactly: they are kept as they are told, and are no damage.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use understudy_protocol::message::{Change, Content, Verify};
use understudy_protocol::{Message, Node};

use stage::{Stage, directory, entry, hear, place, send};

#[test]
fn the_mode_of_a_symbolic_link_means_nothing() {
    let mut stage = Stage::new();
    let mut link = entry(Node::Symlink {
        target: b"elsewhere"[..].into(),
    });
    link.attributes.mode = 0o600;
    let content = Content::Inline(Vec::new().into());
    let link = Change::Put {
        place: place(1, "link"),
        entry: link,
        content,
    };
    stage.upload(&[directory(place(0, "files"), 1), link], &[]);
    stage.talk(|channel| {
        send(channel, &Message::Verify(Verify { dataset: None }));
        loop {
            match hear(channel).expect("an answer") {
                Message::Finding(finding) => panic!("{finding:?}"),
                Message::VerifyEnd(_) => return,
                _ => {}
            }
        }
    });
}
