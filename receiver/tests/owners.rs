//! What owners are called is told with the snapshots that it was told for.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(
    clippy::disallowed_methods,
    reason = "makes a catalog what it was before"
)]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use understudy_protocol::message::{Owners, ReadManifest};
use understudy_protocol::{Bytes, Message};

use stage::{Stage, dataset, directory, file, hear, place, send};

fn owners(users: &[(u32, &str)], groups: &[(u32, &str)]) -> Owners {
    let named = |all: &[(u32, &str)]| {
        let named = all.iter();
        named
            .map(|(number, name)| (*number, Bytes::from(name.as_bytes())))
            .collect()
    };
    Owners {
        users: named(users),
        groups: named(groups),
    }
}

/// What is told with a manifest; `None` if nothing is.
fn told(stage: &Stage, number: u64) -> Option<Owners> {
    stage.talk(|channel| {
        send(
            channel,
            &Message::ReadManifest(ReadManifest {
                dataset: dataset(),
                number: Some(number),
            }),
        );
        let mut found = None;
        loop {
            match hear(channel).expect("manifest") {
                Message::Owners(owners) => found = Some(owners),
                Message::ManifestEnd(_) => return found,
                _ => {}
            }
        }
    })
}

#[test]
fn names_count_from_the_snapshot_on_with_which_they_were_told() {
    let mut stage = Stage::new();
    let root = [directory(place(0, "files"), 1)];
    stage.upload(&root, &[]);
    let first = owners(&[(0, "root"), (33, "www")], &[(4, "adm")]);
    let change = |text: &str| [file(place(1, "file"), text)];
    stage.upload(&change("a"), &[Message::Owners(first.clone())]);
    let second = owners(&[(33, "web")], &[(5, "tty")]);
    stage.upload(&change("b"), &[Message::Owners(second)]);
    stage.upload(
        &change("c"),
        &[Message::Owners(owners(&[(33, "web")], &[]))],
    );
    // One that is not committed leaves nothing.
    let never = [Message::Owners(owners(&[(0, "toor")], &[]))];
    stage
        .try_upload(&[file(place(7, "nowhere"), "x")], &never)
        .expect_err("no such directory");
    assert_eq!(told(&stage, 1), None);
    assert_eq!(told(&stage, 2), Some(first));
    let both = owners(&[(0, "root"), (33, "web")], &[(4, "adm"), (5, "tty")]);
    assert_eq!(told(&stage, 3), Some(both.clone()));
    assert_eq!(told(&stage, 4), Some(both));
    // Who has no name any more has an empty one.
    let gone = [Message::Owners(owners(&[(33, "")], &[]))];
    stage.upload(&change("d"), &gone);
    let without = owners(&[(0, "root"), (33, "")], &[(4, "adm"), (5, "tty")]);
    assert_eq!(told(&stage, 5), Some(without));
    stage.version = 4;
    assert_eq!(told(&stage, 4), None, "an older agent does not know it");
}

#[test]
fn a_catalog_without_names_goes_on() {
    let mut stage = Stage::new();
    stage.upload(&[directory(place(0, "files"), 1)], &[]);
    let catalog = rusqlite::Connection::open(stage.path(".understudy/catalog.db")).expect("open");
    catalog.execute_batch("DROP TABLE owner").expect("drop");
    drop(catalog);
    assert_eq!(told(&stage, 1), None);
    let names = owners(&[(0, "root")], &[]);
    let change = [file(place(1, "file"), "a")];
    stage.upload(&change, &[Message::Owners(names.clone())]);
    assert_eq!(told(&stage, 2), Some(names));
}
