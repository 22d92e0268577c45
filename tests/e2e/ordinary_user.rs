//! The whole walk-through without root: what an ordinary user may read is synced, rolled
//! forward, verified and restored, read-only directories and files included.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::needs::{is_root, needs};
use crate::support::{Daemon, Kind, Random, Run, Stage, edits, judge, trees};

/// Debian's `nobody`.
const USER: u32 = 65534;

const AS_USER: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// A stage whose directory, and a copy of the command in it, the ordinary user can reach.
fn stage() -> (Stage, PathBuf) {
    let stage = Stage::below(Kind::Embedded, &std::env::temp_dir());
    let program = stage.path().join("understudy");
    std::fs::copy(crate::support::command::binary(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    (stage, program)
}

/// Gives everything but the command itself to the ordinary user.
fn hand_over(stage: &Stage) {
    if is_root() {
        own(stage.path());
    }
}

fn own(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}

fn as_user(run: Run, program: &Path) -> Run {
    let run = run.program(program).env("HOME", "/nowhere");
    if is_root() {
        run.through(&AS_USER)
    } else {
        run
    }
}

fn fill(source: &Path) {
    std::fs::create_dir(source.join("open")).unwrap();
    trees::mixed(&mut Random::new(5), &source.join("open"), 80);
    let locked = source.join("read-only");
    std::fs::create_dir_all(locked.join("below")).unwrap();
    for (name, mode) in [
        ("file", 0o444),
        ("below/file", 0o400),
        ("below/program", 0o555),
    ] {
        std::fs::write(locked.join(name), name).unwrap();
        let flags = rustix::fs::XattrFlags::CREATE;
        rustix::fs::lsetxattr(locked.join(name), "user.kept", b"value", flags).unwrap();
        std::fs::set_permissions(locked.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    lock(source, 0o555);
}

fn lock(source: &Path, mode: u32) {
    for name in ["read-only/below", "read-only"] {
        std::fs::set_permissions(source.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
}

fn edit(source: &Path) {
    lock(source, 0o755);
    std::fs::write(source.join("read-only/new"), "new").unwrap();
    std::fs::remove_file(source.join("read-only/below/file")).unwrap();
    std::fs::rename(
        source.join("read-only/below"),
        source.join("read-only/moved"),
    )
    .unwrap();
    std::fs::create_dir(source.join("read-only/below")).unwrap();
    lock(source, 0o555);
    edits::random(&mut Random::new(6), &source.join("open"), 15);
}

#[test]
fn the_whole_way_without_root() {
    needs!("the_whole_way_without_root": "rsync", "setpriv");
    let (stage, program) = stage();
    fill(&stage.source);
    hand_over(&stage);
    as_user(stage.sync(), &program).ok();
    judge::same(&stage.source, &stage.live());

    edit(&stage.source);
    hand_over(&stage);
    let data = as_user(stage.sync(), &program).data();
    assert_eq!(data["snapshot"]["number"], 2, "{data}");
    judge::same(&stage.source, &stage.live());

    as_user(stage.ask("verify"), &program).ok();
    as_user(stage.ask("status"), &program).ok();
    let target = stage.path().join("restored");
    as_user(stage.restore(&target), &program).ok();
    judge::same(&stage.source, &target);

    // The read-only directories can be displaced, too.
    lock(&stage.source, 0o755);
    std::fs::remove_dir_all(stage.source.join("read-only")).unwrap();
    for _ in 0..2 {
        std::fs::write(
            stage.source.join("last"),
            format!("{:?}", std::time::Instant::now()),
        )
        .unwrap();
        hand_over(&stage);
        as_user(stage.sync(), &program).ok();
        judge::same(&stage.source, &stage.live());
    }
}

#[test]
fn a_receiver_without_root() {
    needs!("a_receiver_without_root": "rsync", "setpriv");
    let (mut stage, program) = stage();
    fill(&stage.source);
    hand_over(&stage);
    stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        as_user(run, &program)
    }));
    // What they know of each other is then the user's, too.
    stage.spare();
    hand_over(&stage);
    as_user(stage.sync(), &program).ok();
    judge::same(&stage.source, &stage.live());
    edit(&stage.source);
    hand_over(&stage);
    as_user(stage.sync(), &program).ok();
    judge::same(&stage.source, &stage.live());
    let target = stage.path().join("restored");
    as_user(stage.restore(&target), &program).ok();
    judge::same(&stage.source, &target);
    assert_eq!(stage.daemon.take().unwrap().stop(Signal::TERM), Some(0));
}

#[test]
fn owners_that_may_not_be_set_come_back_where_they_may() {
    needs!("owners_that_may_not_be_set_come_back_where_they_may": "root", "setpriv", "rsync");
    let (mut stage, program) = stage();
    for (name, owner) in [("somebody", 1234), ("else", 4321)] {
        let path = stage.source.join(name);
        std::fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner + 1)).unwrap();
    }
    // The store is the ordinary user's; agent and restore run as root.
    std::fs::create_dir(&stage.store).unwrap();
    own(&stage.store);
    std::fs::set_permissions(stage.path(), PermissionsExt::from_mode(0o755)).unwrap();
    stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        as_user(run, &program)
    }));
    let outcome = stage.sync().outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let target = stage.path().join("restored");
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);
    let again = stage.sync().data();
    assert_eq!(again["committed"], false, "{again}");
}

#[test]
fn what_may_not_be_read_is_listed_and_the_rest_arrives() {
    needs!("what_may_not_be_read_is_listed_and_the_rest_arrives": "setpriv");
    let (stage, program) = stage();
    std::fs::write(stage.source.join("readable"), "readable").unwrap();
    std::fs::write(stage.source.join("secret"), "secret").unwrap();
    std::fs::create_dir(stage.source.join("closed")).unwrap();
    std::fs::write(stage.source.join("closed/inner"), "inner").unwrap();
    hand_over(&stage);
    // Once everything was readable: what then becomes unreadable must not be deleted.
    as_user(stage.sync(), &program).ok();
    for name in ["secret", "closed"] {
        std::fs::set_permissions(stage.source.join(name), PermissionsExt::from_mode(0o000))
            .unwrap();
    }
    std::fs::write(stage.source.join("readable"), "changed").unwrap();
    hand_over(&stage);
    let outcome = as_user(stage.sync(), &program).arg("--json").expect(3);
    let data = outcome.data();
    let listed: Vec<_> = data["unreadable"]
        .as_array()
        .unwrap()
        .iter()
        .map(|u| &u["path"])
        .collect();
    assert_eq!(listed, ["closed", "secret"], "{data}");
    assert_eq!(
        std::fs::read(stage.live().join("readable")).unwrap(),
        b"changed"
    );
    assert_eq!(
        std::fs::read(stage.live().join("secret")).unwrap(),
        b"secret"
    );
    assert_eq!(
        std::fs::read(stage.live().join("closed/inner")).unwrap(),
        b"inner"
    );
    std::fs::set_permissions(
        stage.source.join("closed"),
        PermissionsExt::from_mode(0o700),
    )
    .unwrap();
}

#[test]
fn an_unreadable_source_is_refused() {
    needs!("an_unreadable_source_is_refused": "setpriv");
    let (stage, program) = stage();
    std::fs::write(stage.source.join("file"), "file").unwrap();
    hand_over(&stage);
    as_user(stage.sync(), &program).ok();
    std::fs::set_permissions(&stage.source, PermissionsExt::from_mode(0o000)).unwrap();
    let outcome = as_user(stage.sync(), &program).expect(1);
    outcome.mentions(&["source", "ermission denied"]);
    assert_eq!(std::fs::read(stage.live().join("file")).unwrap(), b"file");
}

#[test]
fn a_spare_that_may_not_be_written_is_refused() {
    needs!("a_spare_that_may_not_be_written_is_refused": "setpriv");
    let (stage, program) = stage();
    std::fs::write(stage.source.join("file"), "file").unwrap();
    std::fs::create_dir(&stage.store).unwrap();
    hand_over(&stage);
    std::fs::set_permissions(&stage.store, PermissionsExt::from_mode(0o555)).unwrap();
    let outcome = as_user(stage.sync(), &program).expect(2);
    outcome.mentions(&["store", "ermission denied"]);
}
