//! Owners by name.

use std::os::unix::fs::MetadataExt;

use understudy_protocol::Bytes;
use understudy_protocol::message::Owners;

use super::*;
use crate::owners::{Names, Numbers};

fn by_name(stage: &Stage, target: &Path) -> RestoreRequest {
    RestoreRequest {
        owners: OwnedBy::Name,
        ..request(stage, target)
    }
}

/// The numbers of whoever runs this, which own all that is made.
fn own() -> Numbers {
    let privileges = Privileges::current();
    Numbers {
        users: [privileges.uid].into(),
        groups: [privileges.gid].into(),
    }
}

#[test]
fn the_spare_is_told_what_the_owners_of_what_is_sent_are_called() {
    let stage = filled();
    let called = Names::of_this_host().called(&own());
    assert_eq!(stage.spare().owners, called);
    stage.spare().owners = Owners::default();
    stage.sync();
    assert_eq!(stage.spare().owners, Owners::default(), "nothing was sent");
    stage.write("new", "content");
    stage.sync();
    assert_eq!(stage.spare().owners, called);
    stage.spare().newest = Some(4);
    stage.write("new", "other");
    stage.sync_and_compare();
}

#[test]
fn files_become_those_of_the_same_names() {
    let stage = filled();
    let target = stage.beside("target");
    let called = Names::of_this_host().called(&own());
    stage.spare().owners = called.clone();
    let report = try_restore(&stage, &by_name(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    let Numbers { users, groups } = own();
    let mut unknown: Vec<String> = Vec::new();
    if called.groups.is_empty() {
        unknown.extend(groups.iter().map(|number| format!("group number {number}")));
    }
    if called.users.is_empty() {
        unknown.extend(users.iter().map(|number| format!("user number {number}")));
    }
    assert_eq!(report.unknown_owners, unknown);
    let nobody = Names::of_this_host().number_of_user(b"nobody");
    if let Some(nobody) = nobody.filter(|_| Privileges::current().override_permissions) {
        let name = |number: &u32| (*number, Bytes::from(&b"nobody"[..]));
        stage.spare().owners.users = users.iter().map(name).collect();
        let target = stage.beside("other");
        try_restore(&stage, &by_name(&stage, &target)).expect("restore");
        for path in ["", "d0/f0", "link", "d1/deep"] {
            let found = fs::symlink_metadata(target.join(path)).expect("there");
            assert_eq!(found.uid(), nobody, "{path}");
        }
    }
}

#[test]
fn names_that_nobody_has_here_are_told_and_without_any_it_fails() {
    let stage = filled();
    let target = stage.beside("target");
    let strange = Bytes::from(&b"no one of\x1bthis name"[..]);
    let named = |numbers: std::collections::BTreeSet<u32>| {
        let numbers = numbers.into_iter();
        numbers.map(|number| (number, strange.clone())).collect()
    };
    let Numbers { users, groups } = own();
    stage.spare().owners = Owners {
        users: named(users),
        groups: named(groups),
    };
    let report = try_restore(&stage, &by_name(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    let [group, user] = report.unknown_owners.as_slice() else {
        unreachable!("{report:?}");
    };
    assert!(group.starts_with("group no one") && user.starts_with("user no one"));
    assert!(!user.contains('\x1b'), "{user}");
    stage.spare().owners = Owners::default();
    let error = try_restore(&stage, &by_name(&stage, &stage.beside("other"))).expect_err("none");
    assert!(matches!(error, AgentError::NoOwners), "{error}");
    assert_eq!(beside(&stage), ["target"]);
}
