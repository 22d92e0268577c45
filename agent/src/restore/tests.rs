#![expect(clippy::disallowed_methods, reason = "changes trees")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use understudy_protocol::Node;
use understudy_tree::{Directory, Mounts};

use super::*;
use crate::testing::{Stage, Tree, tree_of};

mod changed;
mod chosen;
mod databases;
mod owners;
mod progressive;
mod resumed;

fn filled() -> Stage {
    let stage = Stage::new();
    for number in 0..12 {
        stage.write(
            &format!("d{}/f{number}", number % 3),
            format!("content {number}"),
        );
    }
    stage.write(
        "d1/deep/er/large",
        (0..300_000_u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    );
    fs::hard_link(stage.path("d1/deep/er/large"), stage.path("second")).expect("link");
    symlink("nowhere", stage.path("link")).expect("symlink");
    let holey = fs::File::create_new(stage.path("holey")).expect("create");
    holey.set_len(1 << 20).expect("size");
    fs::set_permissions(stage.path("d0/f0"), PermissionsExt::from_mode(0o400)).expect("mode");
    fs::set_permissions(stage.path("d1/deep"), PermissionsExt::from_mode(0o555)).expect("mode");
    stage.sync_and_compare();
    stage
}

fn request(stage: &Stage, target: &Path) -> RestoreRequest {
    RestoreRequest {
        dataset: stage.source.dataset.clone(),
        target: target.to_owned(),
        which: Which::Newest,
        databases: None,
        part: Part::Whole,
        first: Vec::new(),
        order: Order::Listed,
        existing: Existing::Refuse,
        manner: Manner::Switch,
        owners: OwnedBy::Number,
        lost: Lost::Ask,
        announced: (0, 0),
        trust: None,
        room_bytes: RestoreRequest::ROOM_BYTES,
        action: Action::Write,
    }
}

fn try_restore(stage: &Stage, request: &RestoreRequest) -> Result<RestoreReport, AgentError> {
    stage.with_channel(|channel| restore(channel, request, &stage.context(), None))
}

/// What is on disk with the numbers of groups made comparable: inodes differ, who shares one does not.
fn comparable(root: &Path) -> Tree {
    let mut tree = tree_of(root);
    let mut first = std::collections::HashMap::new();
    for (number, (entry, inode)) in tree.values_mut().enumerate() {
        *inode = *first.entry(*inode).or_insert(number as u64);
        entry.group = u64::from(entry.group != 0);
    }
    tree
}

fn assert_restored(stage: &Stage, target: &Path) {
    assert_eq!(comparable(target), comparable(&stage.source.path));
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode();
    assert_eq!(mode(target), mode(&stage.source.path));
}

/// What stands beside the source and the state.
fn beside(stage: &Stage) -> Vec<String> {
    let list = fs::read_dir(stage.beside("")).expect("list");
    let names = list.map(|entry| {
        entry
            .expect("entry")
            .file_name()
            .into_string()
            .expect("text")
    });
    let mut names: Vec<_> = names
        .filter(|name| name != "source" && name != "state")
        .collect();
    names.sort();
    names
}

#[test]
fn a_tree_comes_back_where_nothing_was() {
    let stage = filled();
    let target = stage.beside("target");
    let report = try_restore(&stage, &request(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(
        (report.files, report.files_fetched, report.files_reused),
        (15, 14, 0)
    );
    assert_eq!(report.kept, None);
    assert_eq!(beside(&stage), ["target"]);
}

#[test]
fn what_is_not_on_the_disk_any_more_as_it_was_restored_is_found() {
    let stage = filled();
    let target = stage.beside("target");
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    let compared = || {
        let tree = Directory::open(&target, Mounts::Cross).expect("open");
        let which = (&stage.source.dataset, 1, u64::MAX);
        let wrong = stage
            .with_channel(|channel| compare(channel, which, (&tree, None), &stage.context(), None));
        let wrong = wrong.expect("compare");
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(compared(), [""; 0]);
    let large = fs::File::options()
        .write(true)
        .open(target.join("second"))
        .expect("open");
    std::os::unix::fs::FileExt::write_all_at(&large, b"x", 1_000_000).expect("write");
    fs::write(target.join("d1/f1"), "another content").expect("write");
    fs::write(target.join("d2/f2"), "content 3").expect("write");
    fs::remove_file(target.join("d0/f3")).expect("remove");
    let expected = ["second", "d0/f3", "d1/f1", "d2/f2", "d1/deep/er/large"];
    let mut found = compared();
    found.sort();
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn holes_do_not_count_as_fetched() {
    let stage = filled();
    let context = stage.context();
    let request = request(&stage, &stage.beside("target"));
    let report = stage
        .with_channel(|channel| restore(channel, &request, &context, None))
        .expect("restore");
    assert_eq!(report.bytes_fetched, report.bytes - (1 << 20));
    let progress = &context.progress;
    assert_eq!(progress.bytes_found(), 1 << 20);
    assert_eq!(progress.bytes_done(), progress.bytes_total());
}

#[test]
fn files_that_may_be_torn_are_told() {
    let stage = filled();
    let find = |name: &[u8]| {
        let spare = stage.spare();
        let mut places = spare.entries.keys();
        let place = places.find(|place| place.name.as_bytes() == name);
        place.expect("place").clone()
    };
    let (large, first) = (find(b"large"), find(b"f0"));
    stage.spare().fuzzy.extend([large, first]);
    let target = stage.beside("target");
    for action in [Action::DryRun, Action::Write] {
        let request = RestoreRequest {
            action,
            ..request(&stage, &target)
        };
        let report = try_restore(&stage, &request).expect("restore");
        let fuzzy: Vec<String> = report.fuzzy.iter().map(ToString::to_string).collect();
        assert_eq!(fuzzy, ["d0/f0", "d1/deep/er/large"]);
    }
    assert_restored(&stage, &target);
    // What is no file cannot be.
    let directory = find(b"d1");
    stage.spare().fuzzy.insert(directory);
    let again = request(&stage, &stage.beside("again"));
    let error = try_restore(&stage, &again).expect_err("malformed");
    assert!(error.to_string().contains("fuzzy"), "{error}");
}

#[test]
fn a_rehearsal_writes_nothing() {
    let stage = filled();
    let request = RestoreRequest {
        action: Action::DryRun,
        ..request(&stage, &stage.beside("target"))
    };
    let report = try_restore(&stage, &request).expect("rehearse");
    assert_eq!((report.files, report.files_fetched), (15, 0));
    assert!(report.bytes > 2_000_000, "{report:?}");
    assert!(beside(&stage).is_empty());
}

#[test]
fn what_stands_there_is_refused_or_exchanged_and_kept() {
    let stage = filled();
    let target = stage.beside("target");
    fs::create_dir_all(&target).expect("directory");
    fs::write(target.join("precious"), "precious").expect("write");
    fs::copy(stage.path("second"), target.join("second")).expect("copy");
    let was = comparable(&target);
    assert!(matches!(
        try_restore(&stage, &request(&stage, &target)),
        Err(AgentError::TargetExists { .. })
    ));
    assert_eq!(comparable(&target), was);

    let replace = RestoreRequest {
        existing: Existing::Replace,
        ..request(&stage, &target)
    };
    let report = try_restore(&stage, &replace).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files_reused, report.files_fetched), (1, 13));
    let kept = report.kept.expect("kept");
    assert!(
        kept.to_str()
            .expect("text")
            .contains("target.before-restore-2"),
        "{kept:?}"
    );
    assert_eq!(comparable(&kept), was);
    assert_eq!(beside(&stage).len(), 2);

    let empty = stage.beside("empty");
    fs::create_dir(&empty).expect("directory");
    try_restore(&stage, &request(&stage, &empty)).expect("restore");
    assert_restored(&stage, &empty);
    let file = stage.beside("file");
    fs::write(&file, "").expect("write");
    assert!(matches!(
        try_restore(&stage, &request(&stage, &file)),
        Err(AgentError::Target { .. })
    ));
    let nowhere = stage.beside("not/there");
    assert!(matches!(
        try_restore(&stage, &request(&stage, &nowhere)),
        Err(AgentError::Target { .. })
    ));
}

#[test]
fn what_is_kept_gets_a_name_of_its_own_also_within_a_second() {
    let stage = filled();
    let target = stage.beside("target");
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    let now = jiff::Timestamp::now();
    for seconds in 0..300 {
        let then = now + jiff::SignedDuration::from_secs(seconds);
        let stamp = then.strftime("%Y%m%dT%H%M%SZ");
        let taken = format!("target.before-restore-{stamp}");
        fs::create_dir(stage.beside(&taken)).expect("directory");
    }
    let replace = RestoreRequest {
        existing: Existing::Replace,
        ..request(&stage, &target)
    };
    let report = try_restore(&stage, &replace).expect("restore");
    assert_restored(&stage, &target);
    let kept = report.kept.expect("kept");
    assert!(kept.to_str().expect("text").ends_with("Z-2"), "{kept:?}");
    assert_restored(&stage, &kept);
}

#[test]
fn an_interrupted_restore_is_carried_on() {
    let stage = filled();
    let (target, work) = (
        stage.beside("target"),
        stage.beside("target.understudy-restore"),
    );
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    fs::rename(&target, &work).expect("rename");
    fs::set_permissions(work.join("d1/deep"), PermissionsExt::from_mode(0o755)).expect("mode");
    fs::write(work.join("d1/f1"), "torn").expect("write");
    fs::remove_file(work.join("d2/f2")).expect("remove");
    fs::remove_file(work.join("second")).expect("remove");
    fs::create_dir_all(work.join("d2/f2/in/the/way")).expect("directory");
    fs::create_dir_all(work.join("not/of/this/snapshot")).expect("directory");
    fs::remove_dir_all(work.join("d0")).expect("remove");
    fs::write(work.join("d0"), "a file in the way").expect("write");
    let report = try_restore(&stage, &request(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files_fetched, report.files_reused), (7, 7));
    assert_eq!(beside(&stage), ["target"]);
}

#[test]
fn a_second_restore_into_the_same_target_is_refused() {
    let stage = filled();
    for (manner, name) in [
        (Manner::Switch, "target.understudy-restore"),
        (Manner::Progressive, "target.understudy-progressive"),
    ] {
        let target = stage.beside("target");
        let request = RestoreRequest {
            manner,
            ..request(&stage, &target)
        };
        fs::create_dir(stage.beside(name)).expect("directory");
        let other = fs::File::open(stage.beside(name)).expect("open");
        other.try_lock().expect("lock");
        let refused = try_restore(&stage, &request).expect_err("refused");
        assert!(refused.to_string().contains("another restore"), "{refused}");
        drop(other);
        try_restore(&stage, &request).expect("restore");
        assert_restored(&stage, &target);
        fs::remove_dir_all(&target).expect("remove");
    }
}

#[test]
fn content_without_its_hash_never_becomes_the_target() {
    for large in [false, true] {
        let stage = filled();
        let mut spare = stage.spare();
        let is_it = |entry: &understudy_protocol::Entry| matches!(entry.node, Node::File { size, .. } if (size > 70_000) == large);
        let (_, file) = spare
            .entries
            .values()
            .find(|(entry, _)| is_it(entry))
            .expect("a file")
            .clone();
        spare.contents.get_mut(&file).expect("content")[0] ^= 1;
        drop(spare);
        let target = stage.beside("target");
        let error = try_restore(&stage, &request(&stage, &target))
            .expect_err("damaged")
            .to_string();
        assert!(error.contains("hash"), "{error}");
        assert!(!target.exists());
    }
}

#[test]
fn a_content_that_goes_on_beyond_its_size_is_refused_at_once() {
    for existing in [Existing::Refuse, Existing::Replace] {
        let stage = Stage::new();
        stage.write("large", vec![7; 512 << 10]);
        stage.sync();
        let target = stage.beside("target");
        if existing == Existing::Replace {
            fs::create_dir(&target).expect("directory");
            fs::write(target.join("large"), vec![7; (512 << 10) + 1]).expect("write");
        }
        let mut spare = stage.spare();
        spare.is_boasting = true;
        let mut contents = spare.contents.values_mut();
        let content = contents.find(|content| content.len() == 512 << 10);
        content.expect("content").extend([7; 256 << 10]);
        drop(spare);
        let request = RestoreRequest {
            existing,
            ..request(&stage, &target)
        };
        let error = try_restore(&stage, &request).expect_err("refused");
        assert!(error.to_string().contains("beyond"), "{error}");
    }
}
