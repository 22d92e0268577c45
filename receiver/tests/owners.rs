//! What owners are called is told with the snapshots that it was told for.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(
    clippy::disallowed_methods,
    reason = "makes a catalog what it was before"
)]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::message::{Owners, ReadManifest, Verify};
use understudy_protocol::{Bytes, MainName, Message};
use understudy_receiver::Peer;
use understudy_receiver::quota::{Quota, Quotas};
use understudy_receiver::retention::{Grace, Mode, Moment, Policy, Request, Trust, prune};

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

/// Keeps the two newest snapshots.
fn keep_two(stage: &Stage) {
    let none = Duration::ZERO;
    let policy = Policy {
        all: none,
        hourly: none,
        daily: none,
        monthly: none,
        minimum_age: none,
        newest: NonZeroU32::new(2).expect("a number"),
        grace: none,
        ..Policy::default()
    };
    let request = Request {
        policy: &policy,
        moment: &Moment::now(),
        mode: Mode::Act,
        grace: Grace::Skip,
        trust: Trust::Given,
    };
    let pruned = prune(&stage.store, &dataset(), &request).expect("prune");
    assert_eq!(pruned.obstacle, None);
    assert!(!pruned.removed.is_empty());
}

#[test]
fn what_no_snapshot_has_goes_and_is_counted_no_more() {
    let mut stage = Stage::new();
    let main = MainName::new("alpha").expect("name");
    stage.options.peer = Peer::Main(main);
    stage.options.quotas = Arc::new(Quotas {
        common: Quota {
            bytes: NonZeroU64::new(1 << 40),
            files: None,
        },
        ..Quotas::default()
    });
    stage.upload(&[directory(place(0, "files"), 1)], &[]);
    for number in 2..=8 {
        let called = format!("w{number}");
        let names = owners(&[(0, "root"), (33, &called)], &[]);
        let content = "x".repeat(1000 + number);
        let change = [file(place(1, "file"), &content)];
        stage.upload(&change, &[Message::Owners(names)]);
    }
    let catalog = rusqlite::Connection::open(stage.path(".understudy/catalog.db")).expect("open");
    let age = "UPDATE snapshot SET committed_seconds = committed_seconds - (10 - number) * 86400";
    catalog.execute_batch(age).expect("age");
    let one = |sql: &str| -> i64 { catalog.query_row(sql, [], |row| row.get(0)).expect("one") };
    assert_eq!(one("SELECT count(*) FROM owner"), 8);
    let before = one("SELECT bytes FROM taken");
    let (seventh, eighth) = (told(&stage, 7), told(&stage, 8));
    keep_two(&stage);
    assert_eq!((told(&stage, 7), told(&stage, 8)), (seventh, eighth));
    // That of number 0 was told once, and counts for both.
    assert_eq!(one("SELECT count(*) FROM owner"), 3);
    assert_eq!(one("SELECT changed FROM taken"), 0, "it was counted");
    assert!(one("SELECT bytes FROM taken") < before - 5000);
}

#[test]
fn verification_finds_what_is_not_as_it_was_told() {
    let mut stage = Stage::new();
    let names = owners(&[(0, "root"), (33, "www")], &[(4, "adm")]);
    let root = [directory(place(0, "files"), 1)];
    stage.upload(&root, &[Message::Owners(names)]);
    let findings = || {
        stage.talk(|channel| {
            let dataset = Some(dataset());
            send(channel, &Message::Verify(Verify { dataset }));
            let mut found = Vec::new();
            loop {
                match hear(channel).expect("answer") {
                    Message::Finding(finding) => found.push(finding.what),
                    Message::VerifyEnd(_) => return found,
                    _ => {}
                }
            }
        })
    };
    assert!(findings().is_empty());
    let catalog = rusqlite::Connection::open(stage.path(".understudy/catalog.db")).expect("open");
    for (damage, mended, whose) in [
        (
            "name = CAST('wwv' AS BLOB)",
            "name = CAST('www' AS BLOB)",
            "user 33",
        ),
        ("id = 32", "id = 33", "user 32"),
        ("name = 'www'", "name = CAST('www' AS BLOB)", "user 33"),
    ] {
        let change = |what: &str| {
            let sql = format!("UPDATE owner SET {what} WHERE kind = 0 AND id > 30");
            catalog.execute_batch(&sql).expect("change");
        };
        change(damage);
        let found = findings();
        assert!(found.len() == 1 && found[0].contains(whose), "{found:?}");
        change(mended);
        assert!(findings().is_empty());
    }
}
