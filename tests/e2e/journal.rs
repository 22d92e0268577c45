//! A daemon looks only at what its journal told, and nothing that the kernel tells of is lost on the way.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, lsetxattr};
use serde_json::Value;

use crate::support::agent::{Agent, Scene, is_by_journal, is_quiet};
use crate::support::busy::while_busy;
use crate::support::command::binary;
use crate::support::disks::Mounted;
use crate::support::facts::facts;
use crate::support::needs::{is_root, needs};
use crate::support::{Kind, Stage, judge};

/// Debian's `nobody`.
const USER: u32 = 65534;

const AS_USER: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// Gives a tree to the ordinary user.
fn own(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}

/// The directories in doubt of a cycle by the journal.
fn directories(cycle: &Value) -> Option<u64> {
    cycle["looked_at"]["journal"]["directories"].as_u64()
}

/// Makes one change of each simple kind.
fn change_simply(scene: &Scene) {
    let at = |path| scene.at(path);
    std::fs::write(at("created"), "created").unwrap();
    std::fs::write(at("d1/f300"), "written anew").unwrap();
    let file = |path| OpenOptions::new().write(true).open(at(path)).unwrap();
    file("d1/f301").set_len(1).unwrap();
    file("d1/f302").write_all_at(b"x", 0).unwrap();
    std::fs::rename(at("d2/f600"), at("d3/renamed")).unwrap();
    std::fs::rename(at("d2/f601"), at("d3/f901")).unwrap();
    std::fs::hard_link(at("d2/f602"), at("d3/linked")).unwrap();
    symlink("nowhere", at("d3/symlink")).unwrap();
    std::fs::set_permissions(at("d4/f1200"), Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(at("d5"), Permissions::from_mode(0o700)).unwrap();
    std::fs::remove_file(at("d6/f1800")).unwrap();
    std::fs::create_dir_all(at("d7/a/b/c/d")).unwrap();
    std::fs::write(at("d7/a/b/c/d/file"), "deep").unwrap();
    std::fs::create_dir(at("d8/short-lived")).unwrap();
    std::fs::write(at("d8/short-lived/file"), "gone soon").unwrap();
}

/// Undoes some of it, and moves a directory.
fn change_back(scene: &Scene) {
    let at = |path| scene.at(path);
    std::fs::remove_dir_all(at("d8/short-lived")).unwrap();
    std::fs::rename(at("d7/a/b"), at("d9/moved")).unwrap();
    let link = OpenOptions::new().append(true).open(at("d3/linked"));
    link.unwrap().write_all(b"by the other name").unwrap();
}

#[test]
fn every_kind_of_change_arrives_by_the_journal() {
    needs!("every_kind_of_change_arrives_by_the_journal": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    let mut agent = scene.watched();
    let cycle = agent.next();
    assert_eq!(directories(&cycle), Some(0), "nothing happened: {cycle}");
    assert_eq!(
        (&cycle["committed"], &cycle["files_read"]),
        (&false.into(), &0.into()),
        "{cycle}"
    );

    change_simply(&scene);
    let value = b"value".as_slice();
    lsetxattr(
        scene.at("d4/f1201"),
        "user.test",
        value,
        XattrFlags::empty(),
    )
    .unwrap();
    lsetxattr(scene.at("d4"), "user.test", value, XattrFlags::empty()).unwrap();
    for path in ["d4/f1202", "d6"] {
        std::os::unix::fs::chown(scene.at(path), Some(4321), Some(1234)).unwrap();
    }
    let cycles = scene.settle(&mut agent);
    assert!(cycles.sum("files_read") < 100, "{cycles:?}");
    change_back(&scene);
    scene.settle(&mut agent);
}

#[test]
fn a_large_directory_moves_without_being_read() {
    needs!("a_large_directory_moves_without_being_read": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::create_dir(scene.at("many")).unwrap();
    for number in 0..10 {
        let name = format!("d{number}");
        std::fs::rename(scene.at(&name), scene.at("many").join(&name)).unwrap();
    }
    let mut agent = scene.watched();
    std::fs::rename(scene.at("many"), scene.at("d20/3000 files")).unwrap();
    let cycles = scene.settle(&mut agent);
    let sums = ["moved", "files_read", "added", "removed"].map(|name| cycles.sum(name));
    assert_eq!(sums, [1, 0, 0, 0], "{cycles:?}");
    assert!(cycles.sum("bytes_sent") < 10_000, "{cycles:?}");

    // Out of the tree, and in again with other content: new here.
    std::fs::rename(scene.at("d20/3000 files"), scene.outside("out")).unwrap();
    let cycles = scene.settle(&mut agent);
    assert_eq!(cycles.sum("files_read"), 0, "{cycles:?}");
    std::fs::write(scene.outside("out/d1/f300"), "changed where nobody looked").unwrap();
    std::fs::rename(scene.outside("out"), scene.at("d21/in")).unwrap();
    scene.settle(&mut agent);
}

#[test]
fn a_source_that_goes_empties_nothing_and_one_that_comes_is_followed() {
    needs!("a_source_that_goes_empties_nothing_and_one_that_comes_is_followed":
        "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    let mut agent = scene.watched();
    let was = facts(&scene.stage.live());
    let failed = |cycle: &Value| cycle["error"].is_object();

    std::fs::rename(&scene.stage.source, scene.outside("former")).unwrap();
    agent.until("a failure, for there is no source", failed);
    agent.until("another", failed);
    std::fs::create_dir(&scene.stage.source).unwrap();
    agent.until("a failure, for it is empty", |cycle| {
        cycle["error"].to_string().contains("empty")
    });
    judge::untouched(&was, &scene.stage.live());

    // Another directory by that name, with nearly the same in it. It comes at once: a part of it would be held.
    let other = scene.outside("other");
    std::fs::create_dir(&other).unwrap();
    for number in 0..40 {
        let name = format!("d{number}");
        if let Ok(()) = std::fs::rename(scene.outside("former").join(&name), other.join(&name)) {
            std::fs::write(other.join(&name).join("new"), "new").unwrap();
        }
    }
    std::fs::rename(&other, &scene.stage.source).unwrap();
    agent.until("everything is well", |cycle| {
        cycle["committed"] == false && is_by_journal(cycle)
    });
    judge::same(&scene.stage.source, &scene.stage.live());
    // And that one is watched.
    std::fs::write(scene.at("d1/f300"), "changed").unwrap();
    scene.settle(&mut agent);
}

#[test]
fn what_is_mounted_over_a_directory_comes_and_goes() {
    needs!("what_is_mounted_over_a_directory_comes_and_goes":
        "root", "rsync", "mkfs.ext4", "mount");
    let scene = Scene::large_apart(Kind::Embedded);
    let mut agent = scene.watched();
    let place = scene.at("d1");
    let mounted = Mounted::new(&["-t", "tmpfs"], Path::new("none"), &place);
    std::fs::write(place.join("on top"), "of another file system").unwrap();
    std::fs::write(scene.at("d2/f600"), "changed meanwhile").unwrap();
    // What is not to be entered is an empty directory.
    agent.until("the change beside it", |_| {
        let is_empty = std::fs::read_dir(scene.live("d1"))
            .unwrap()
            .next()
            .is_none();
        std::fs::read(scene.live("d2/f600")).unwrap() == b"changed meanwhile" && is_empty
    });
    drop(mounted);
    agent.until("rest", |cycle| {
        cycle["committed"] == false && is_by_journal(cycle)
    });
    judge::same(&scene.stage.source, &scene.stage.live());
    std::fs::write(scene.at("d1/f300"), "changed after it went").unwrap();
    scene.settle(&mut agent);
}

#[test]
fn a_file_that_only_grows_is_never_torn() {
    needs!("a_file_that_only_grows_is_never_torn": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::write(scene.at("log"), "").unwrap();
    let mut agent = scene.watched();
    let mut log = OpenOptions::new()
        .append(true)
        .open(scene.at("log"))
        .unwrap();
    let grow = |round: u64| {
        writeln!(log, "line {round}").unwrap();
        std::thread::park_timeout(Duration::from_micros(200));
    };
    while_busy(grow, || {
        for _ in 0..3 {
            let cycle = agent.until("growth", |cycle| cycle["committed"] == true);
            assert_eq!(cycle["fuzzy"].as_array().unwrap().len(), 0, "{cycle}");
            let live = std::fs::read(scene.live("log")).unwrap();
            assert!(std::fs::read(scene.at("log")).unwrap().starts_with(&live));
        }
    });
    scene.settle(&mut agent);
}

#[test]
fn a_file_rewritten_without_pause_arrives_marked_and_later_exactly() {
    needs!("a_file_rewritten_without_pause_arrives_marked_and_later_exactly":
        "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::write(scene.at("busy"), vec![0; 4 << 20]).unwrap();
    let mut agent = scene.watched();
    let busy = OpenOptions::new()
        .write(true)
        .open(scene.at("busy"))
        .unwrap();
    let rewrite = |round: u64| {
        let page = [round.to_le_bytes()[0]; 4096];
        busy.write_all_at(&page, round * 7919 % 1024 * 4096)
            .unwrap();
    };
    while_busy(rewrite, || {
        agent.until("a fuzzy file", |cycle| {
            assert!(is_by_journal(cycle), "{cycle}");
            cycle["fuzzy"].to_string().contains("busy")
        });
    });
    drop(busy);
    let cycles = scene.settle(&mut agent);
    let last = cycles.0.last().unwrap();
    assert_eq!(last["fuzzy"].as_array().unwrap().len(), 0, "{last}");
    let status = scene.stage.ask("status").data();
    let newest = &status["datasets"][0]["fuzzy"];
    assert_eq!(*newest, serde_json::json!([]), "the spare knows: {status}");
}

#[test]
fn two_writes_within_one_tick_of_the_clock_both_count() {
    needs!("two_writes_within_one_tick_of_the_clock_both_count": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    let mut agent = scene.watched();
    // In place, by an open descriptor, the size being the same: time and content are all that differs.
    let files: Vec<File> = (0..20)
        .map(|number| {
            let path = scene.at(&format!("d1/f{}", 300 + number));
            std::fs::write(&path, "abcdefgh").unwrap();
            OpenOptions::new().write(true).open(path).unwrap()
        })
        .collect();
    let write = |round: u64| {
        let file = &files[usize::try_from(round).unwrap() % files.len()];
        for more in 0..2 {
            file.write_all_at(&(round * 2 + more).to_le_bytes(), 0)
                .unwrap();
        }
        std::thread::park_timeout(Duration::from_micros(500));
    };
    while_busy(write, || {
        for _ in 0..4 {
            agent.until("a snapshot", |cycle| cycle["committed"] == true);
        }
    });
    scene.settle(&mut agent);
}

#[test]
fn an_ordinary_user_is_watched_for_by_inotify() {
    needs!("an_ordinary_user_is_watched_for_by_inotify": "rsync", "setpriv");
    let mut scene = Scene::on(Stage::below(Kind::Embedded, &std::env::temp_dir()));
    scene.fill();
    scene.settings += "watch = \"inotify\"\n";
    let program = scene.stage.path().join("understudy");
    std::fs::copy(binary(), &program).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut run = scene.command().program(&program).env("HOME", "/nowhere");
    if is_root() {
        own(scene.stage.path());
        run = run.through(&AS_USER);
    }
    let mut agent = Agent::start(&run, None);
    agent.until("a cycle by the journal", is_quiet);
    for change in [change_simply, change_back] {
        change(&scene);
        if is_root() {
            own(&scene.stage.source);
        }
        scene.settle(&mut agent);
    }
}

#[test]
fn what_is_not_watched_is_compared() {
    needs!("what_is_not_watched_is_compared": "rsync");
    let mut scene = Scene::large(Kind::Tcp);
    scene.settings += "watch = \"never\"\n";
    let mut agent = scene.start();
    agent.until("the first snapshot", |cycle| cycle["committed"] == true);
    change_simply(&scene);
    let cycles = agent.settle();
    for cycle in &cycles.0 {
        let because = cycle["looked_at"]["everything"].as_str().unwrap();
        assert!(because.contains("not watched"), "{cycle}");
    }
    judge::same(&scene.stage.source, &scene.stage.live());
}

#[test]
fn what_is_left_out_causes_no_work() {
    needs!("what_is_left_out_causes_no_work": "root", "rsync", "mkfs.ext4");
    let mut scene = Scene::large_apart(Kind::Embedded);
    scene.dataset = "exclude = [\"/cache/\"]\n".to_owned();
    std::fs::create_dir_all(scene.at("cache/deep")).unwrap();
    let mut agent = scene.watched();
    let cache = scene.at("cache/deep");
    let work = |round: u64| {
        let path = cache.join((round % 50).to_string());
        std::fs::write(&path, round.to_string()).unwrap();
        if round.is_multiple_of(3) {
            std::fs::remove_file(path).unwrap();
        }
    };
    while_busy(work, || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let cycle = agent.next();
            assert_eq!(directories(&cycle), Some(0), "{cycle}");
            assert_eq!(cycle["committed"], false, "{cycle}");
        }
    });
    assert!(!scene.live("cache").exists());
}
