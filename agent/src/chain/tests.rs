#![expect(clippy::disallowed_methods, reason = "changes trees")]

use std::fs;

use understudy_protocol::{Failure, FailureCode};

use super::*;
use crate::testing::Stage;

fn key(seed: u8) -> Arc<SecretKey> {
    Arc::new(SecretKey::from_seed(&[seed; 32]).expect("key"))
}

fn signing() -> Stage {
    let mut stage = Stage::new();
    stage.signer = Some(key(1));
    stage.write("file", "one");
    stage
}

/// The statement of a snapshot, as the spare has it.
fn said(stage: &Stage, number: u64) -> SignedStatement {
    let stated = stage.spare().stated[&number].clone();
    SignedStatement::from_bytes(&stated).expect("a statement")
}

fn known(stage: &Stage) -> Option<Known> {
    newest_known(&stage.beside("state"), "fake", &stage.source.dataset).expect("memory")
}

#[test]
fn each_snapshot_is_signed_and_names_the_one_before() {
    let stage = signing();
    stage.sync();
    stage.write("file", "two");
    stage.sync();
    let (first, second) = (said(&stage, 1), said(&stage, 2));
    assert_eq!(first.key(), key(1).public());
    assert_eq!(
        (first.statement().counter, second.statement().counter),
        (1, 2)
    );
    assert_eq!(second.statement().previous, first.hash());
    assert_eq!(second.statement().number, 2);
    let position = stage.spare().position.expect("position");
    assert_eq!(second.statement().fingerprint, position.fingerprint);
    let known = known(&stage).expect("known");
    assert_eq!((known.counter, known.hash), (2, second.hash()));
    // A cycle without a change says nothing.
    stage.sync();
    assert_eq!(stage.spare().stated.len(), 2);
}

#[test]
fn without_a_key_nothing_is_signed_or_remembered() {
    let stage = Stage::new();
    stage.write("file", "one");
    stage.sync();
    assert!(stage.spare().stated.is_empty());
    assert_eq!(known(&stage), None);
    assert!(!stage.beside("state").join("statements").exists());
}

#[test]
fn what_was_refused_is_no_link_of_the_chain() {
    let stage = signing();
    stage.sync();
    stage.write("file", "two");
    stage.spare().refuse = Some(Failure::new(FailureCode::Refused, "held"));
    stage.try_sync().expect_err("refused");
    assert_eq!(known(&stage).expect("known").counter, 1);
    stage.write("file", "three");
    stage.sync();
    let second = said(&stage, 2);
    assert_eq!(second.statement().counter, 2);
    assert_eq!(second.statement().previous, said(&stage, 1).hash());
}

#[test]
fn what_was_committed_and_not_heard_of_is_known_after_the_next_cycle() {
    for lost in ["nothing", "index", "state", "memory"] {
        let stage = signing();
        stage.sync();
        stage.write("file", "two");
        stage.spare().refuse_and_commit = Some(Failure::new(FailureCode::Refused, "held"));
        stage.try_sync().expect_err("refused");
        match lost {
            "state" => fs::remove_dir_all(stage.beside("state")).expect("remove"),
            "memory" => {
                for file in fs::read_dir(stage.beside("state/statements")).expect("list") {
                    fs::write(file.expect("file").path(), b"x").expect("damage");
                }
            }
            "index" => {
                for file in fs::read_dir(stage.beside("state")).expect("list") {
                    let path = file.expect("file").path();
                    if path.is_file() {
                        fs::remove_file(path).expect("remove");
                    }
                }
            }
            _ => {}
        }
        stage.sync();
        assert_eq!(
            known(&stage).expect("known").hash,
            said(&stage, 2).hash(),
            "{lost}"
        );
        stage.write("file", "three");
        stage.sync();
        let third = said(&stage, 3);
        assert_eq!(third.statement().counter, 3, "{lost}");
        assert_eq!(third.statement().previous, said(&stage, 2).hash(), "{lost}");
        // What was forgotten is asked for, and what the last statement says of it counts.
        let told = owners_digest(&stage.spare().owners);
        assert_eq!(third.statement().owners, Some(told), "{lost}");
    }
}

#[test]
fn owners_are_covered_as_the_spare_tells_them() {
    let stage = signing();
    stage.sync();
    let told = stage.spare().owners.clone();
    assert_ne!(told, Owners::default(), "this host has no names");
    assert_eq!(
        said(&stage, 1).statement().owners,
        Some(owners_digest(&told))
    );
}

#[test]
fn a_statement_of_another_key_is_no_link_of_the_chain() {
    let mut stage = signing();
    stage.sync();
    stage.signer = Some(key(2));
    stage.write("file", "two");
    stage.sync();
    let second = said(&stage, 2);
    assert_eq!(second.key(), key(2).public());
    // What this agent remembers of the spare is what it goes on from.
    assert_eq!(second.statement().counter, 2);
    let told = owners_digest(&stage.spare().owners);
    assert_eq!(second.statement().owners, Some(told));
}

/// Names that nobody has vouched for are signed as they are here.
#[test]
fn names_that_were_not_signed_are_put_right_and_signed_without_a_change() {
    let mut stage = Stage::new();
    stage.write("file", "one");
    stage.sync();
    let honest = stage.spare().owners.clone();
    let owner = |number: u32, name: &str| (number, Bytes::from(name.as_bytes()));
    stage.spare().owners.users = vec![owner(0, "nobody"), owner(4_000_000, "forged")];
    stage.signer = Some(key(1));
    assert!(stage.sync().committed);
    let told = stage.spare().owners.clone();
    assert_eq!(told.users, [owner(0, "root"), owner(4_000_000, "")]);
    assert_eq!(told.groups, honest.groups);
    let stated = said(&stage, 2).statement().owners;
    assert_eq!(stated, Some(owners_digest(&told)));
    // It is asked once.
    let manifests = stage.spare().manifests;
    assert!(!stage.sync().committed);
    stage.write("file", "two");
    stage.sync();
    assert_eq!(stage.spare().manifests, manifests);
    let stated = said(&stage, 3).statement().owners;
    assert_eq!(stated, Some(owners_digest(&told)));
}

#[test]
fn names_of_more_owners_than_can_be_told_at_once_are_signed_as_they_are_told() {
    let mut stage = Stage::new();
    stage.write("file", "one");
    stage.sync();
    let many = (0..limits::RECORDS as u32).map(|number| (number, Bytes::from(&b"root"[..])));
    stage.spare().owners.users = many.collect();
    stage.signer = Some(key(1));
    assert!(stage.sync().committed);
    let told = stage.spare().owners.clone();
    let stated = said(&stage, 2).statement().owners;
    assert_eq!(stated, Some(owners_digest(&told)));
    assert!(!stage.sync().committed);
}

#[test]
fn a_tree_that_somebody_else_has_signed_or_nobody_is_signed_without_a_change() {
    let mut stage = Stage::new();
    stage.write("file", "one");
    stage.sync();
    for (seed, number) in [(1, 2), (2, 3)] {
        stage.signer = Some(key(seed));
        assert!(stage.sync().committed);
        assert_eq!(said(&stage, number).key(), key(seed).public());
        assert!(!stage.sync().committed);
    }
}

#[test]
fn numbers_that_nothing_can_follow_are_refused() {
    let end = Position {
        epoch: 1,
        number: u64::MAX,
        fingerprint: understudy_protocol::Fingerprint([0; 32]),
    };
    assert!(next_number(Some(end)).is_err());
    assert_eq!(next_number(None).expect("first"), 1);
}
