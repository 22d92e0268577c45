//! Restores into a target that is in use.

use std::os::unix::fs::MetadataExt;

use super::*;

fn progressive(stage: &Stage, target: &Path, existing: Existing) -> RestoreRequest {
    RestoreRequest {
        existing,
        manner: Manner::Progressive,
        ..request(stage, target)
    }
}

#[test]
fn a_tree_grows_where_nothing_was() {
    let stage = filled();
    let target = stage.beside("target");
    let request = progressive(&stage, &target, Existing::Refuse);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files_fetched, report.files_reused), (14, 0));
    assert_eq!(
        (report.kept, beside(&stage)),
        (None, vec!["target".to_owned()])
    );
    assert!(matches!(
        try_restore(&stage, &request),
        Err(AgentError::TargetExists { .. })
    ));
}

#[test]
fn what_is_right_stays_and_what_is_not_is_kept() {
    let stage = filled();
    let target = stage.beside("target");
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    let inode = |path: &str| fs::metadata(target.join(path)).expect("metadata").ino();
    let (right, large) = (inode("d0/f3"), inode("second"));
    fs::set_permissions(target.join("d0/f3"), PermissionsExt::from_mode(0o666)).expect("mode");
    fs::write(target.join("d1/f1"), "changed").expect("write");
    fs::remove_file(target.join("d2/f2")).expect("remove");
    fs::create_dir_all(target.join("d2/f2/in/the/way")).expect("directory");
    fs::write(target.join("d2/f2/in/precious"), "precious").expect("write");
    fs::write(target.join("d0/stranger"), "stranger").expect("write");
    fs::remove_file(target.join("link")).expect("remove");
    symlink("elsewhere", target.join("link")).expect("symlink");
    let replace = progressive(&stage, &target, Existing::Replace);
    let report = try_restore(&stage, &replace).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files_fetched, report.files_reused), (2, 12));
    assert_eq!((inode("d0/f3"), inode("second")), (right, large));
    let kept = report.kept.expect("kept");
    let read = |path: &str| fs::read(kept.join(path)).expect("read");
    assert_eq!(read("d1/f1"), b"changed");
    assert_eq!(read("d2/f2/in/precious"), b"precious");
    assert_eq!(read("d0/stranger"), b"stranger");
    assert_eq!(
        fs::read_link(kept.join("link")).expect("link"),
        Path::new("elsewhere")
    );
    assert_eq!(beside(&stage).len(), 2);
    // Nothing is left to do.
    let report = try_restore(&stage, &replace).expect("restore");
    assert_eq!((report.files_fetched, report.kept), (0, None));
    assert_restored(&stage, &target);
}

#[test]
fn names_outside_keep_their_attributes() {
    let stage = filled();
    let (target, outside) = (stage.beside("target"), stage.beside("outside"));
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    fs::set_permissions(target.join("d0/f3"), PermissionsExt::from_mode(0o640)).expect("mode");
    fs::hard_link(target.join("d0/f3"), &outside).expect("link");
    let replace = progressive(&stage, &target, Existing::Replace);
    let report = try_restore(&stage, &replace).expect("restore");
    assert_eq!(report.files_fetched, 0);
    assert_restored(&stage, &target);
    let mode = fs::metadata(&outside)
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn links_in_the_target_lead_nowhere() {
    let stage = filled();
    let (target, outside) = (stage.beside("target"), stage.beside("outside"));
    fs::create_dir_all(outside.join("deep")).expect("directory");
    fs::write(outside.join("f1"), "outside").expect("write");
    fs::write(outside.join("deep/precious"), "outside").expect("write");
    let was = comparable(&outside);
    fs::create_dir_all(target.join("d0")).expect("directory");
    symlink(&outside, target.join("d1")).expect("symlink");
    symlink(outside.join("f1"), target.join("d0/f0")).expect("symlink");
    symlink(outside.join("new"), target.join("d0/f3")).expect("symlink");
    symlink(&outside, target.join("stranger")).expect("symlink");
    symlink(outside.join("deep"), target.join("second")).expect("symlink");
    let replace = progressive(&stage, &target, Existing::Replace);
    let report = try_restore(&stage, &replace).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(comparable(&outside), was);
    let kept = report.kept.expect("kept");
    for path in ["d1", "d0/f0", "d0/f3", "stranger", "second"] {
        assert!(kept.join(path).is_symlink(), "{path}");
    }
}

#[test]
fn an_interrupted_run_is_carried_on_in_place() {
    let stage = filled();
    let target = stage.beside("target");
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    // As a run leaves it that was killed, with something that an application has written meanwhile.
    fs::create_dir(stage.beside("target.understudy-progressive")).expect("directory");
    fs::write(stage.beside("target.understudy-progressive/new-3"), "half").expect("write");
    fs::remove_file(target.join("d2/f2")).expect("remove");
    fs::remove_file(target.join("d1/deep/er/large")).expect("remove");
    fs::write(target.join("d0/of the application"), "new").expect("write");
    let request = progressive(&stage, &target, Existing::Refuse);
    let report = try_restore(&stage, &request).expect("restore");
    assert_eq!((report.files_fetched, report.files_reused), (1, 13));
    assert_eq!(report.kept, None);
    assert_eq!(
        fs::read(target.join("d0/of the application")).expect("read"),
        b"new"
    );
    fs::remove_file(target.join("d0/of the application")).expect("remove");
    let mut found = comparable(&target);
    let mut wanted = comparable(&stage.source.path);
    // Its directory was changed after the restore.
    found.remove(&b"d0"[..]);
    wanted.remove(&b"d0"[..]);
    assert_eq!(found, wanted);
    assert_eq!(beside(&stage), ["target"]);
}

#[test]
fn what_is_wrong_never_appears() {
    let stage = filled();
    let mut spare = stage.spare();
    let large = |entry: &understudy_protocol::Entry| entry.size_bytes() == 1_200_000;
    let (_, file) = spare
        .entries
        .values()
        .find(|(entry, _)| large(entry))
        .expect("large")
        .clone();
    spare.contents.get_mut(&file).expect("content")[7] ^= 1;
    drop(spare);
    let target = stage.beside("target");
    let request = progressive(&stage, &target, Existing::Refuse);
    let error = try_restore(&stage, &request)
        .expect_err("damaged")
        .to_string();
    assert!(error.contains("hash"), "{error}");
    assert!(!target.join("d1/deep/er/large").exists());
}
