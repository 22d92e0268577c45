#![expect(clippy::disallowed_methods, reason = "changes trees")]

mod busy;
mod databases;
mod delta;
mod history;
mod marks;
mod resume;
mod short;
mod sqlite;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use understudy_protocol::message::{Change, Content};
use understudy_protocol::{Failure, FailureCode};

use crate::AgentError;
use crate::testing::{Stage, settle};

/// Which contents a list of changes has, sorted.
fn contents(changes: &[Change]) -> Vec<&'static str> {
    let mut words: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Remove { .. } => "remove",
            Change::Touch { .. } => "touch",
            Change::Put { content, .. } => match content {
                Content::Directory => "directory",
                Content::Inline(_) => "inline",
                Content::Stream(_) => "stream",
                Content::Keep(_) => "keep",
                Content::Copy(_) => "copy",
                Content::Sibling(_) => "sibling",
                Content::Delta(..) => "delta",
                Content::Leftover => "leftover",
                Content::History => "history",
            },
        })
        .collect();
    words.sort_unstable();
    words
}

fn filled() -> Stage {
    let stage = Stage::new();
    for number in 0..20 {
        stage.write(
            &format!("d{}/f{number}", number % 4),
            format!("content {number}"),
        );
    }
    stage.write("d1/deep/er/file", "deep");
    stage.write("large", vec![7; 300_000]);
    symlink("large", stage.path("link")).expect("symlink");
    settle();
    stage.sync_and_compare();
    stage
}

#[test]
fn unchanged_trees_send_nothing_and_read_nothing() {
    let stage = filled();
    let report = stage.sync_and_compare();
    assert!(!report.committed);
    assert_eq!((report.files_read, report.entries), (0, 30));
    let spare = stage.spare();
    assert_eq!((spare.uploads.len(), spare.confirmations), (1, 1));
}

#[test]
fn a_rewrite_with_the_same_size_and_time_is_found() {
    let stage = filled();
    let path = stage.path("d1/f1");
    let time = fs::metadata(&path)
        .expect("metadata")
        .modified()
        .expect("time");
    fs::write(&path, "CONTENT 1").expect("write");
    File::options()
        .write(true)
        .open(&path)
        .expect("open")
        .set_modified(time)
        .expect("time");
    let report = stage.sync_and_compare();
    assert_eq!((report.added, report.changed, report.removed), (0, 1, 0));
    assert_eq!(contents(&stage.changes()), ["inline"]);
}

#[test]
fn a_touched_file_sends_no_content() {
    let stage = filled();
    let file = File::options()
        .write(true)
        .open(stage.path("large"))
        .expect("open");
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
        .expect("times");
    fs::set_permissions(stage.path("d1/f1"), PermissionsExt::from_mode(0o600)).expect("mode");
    stage.sync_and_compare();
    assert_eq!(contents(&stage.changes()), ["keep", "keep"]);
}

#[test]
fn a_renamed_directory_is_one_put() {
    let stage = filled();
    stage.rename("d1", "d2/moved");
    let report = stage.sync_and_compare();
    assert_eq!(contents(&stage.changes_beyond_times()), ["directory"]);
    assert_eq!(
        (
            report.moved,
            report.added,
            report.removed,
            report.files_read
        ),
        (1, 0, 0, 0)
    );
}

#[test]
fn renamed_files_keep_their_content() {
    let stage = filled();
    stage.rename("large", "d1/large");
    stage.rename("d1/f1", "d1/g1");
    stage.rename("link", "d3/link");
    let report = stage.sync_and_compare();
    let expected = ["keep", "keep", "keep", "remove", "remove", "remove"];
    assert_eq!(contents(&stage.changes_beyond_times()), expected);
    assert_eq!((report.moved, report.added, report.removed), (3, 0, 0));
}

#[test]
fn swaps_and_chains_keep_their_contents() {
    let stage = filled();
    for (from, to) in [
        ("d0/f0", "t"),
        ("d0/f4", "d0/f0"),
        ("t", "d0/f4"),
        ("d0/f12", "d0/f16"),
        ("d0/f8", "d0/f12"),
    ] {
        stage.rename(from, to);
    }
    stage.write("d0/f8", "something new");
    stage.rename("d2", "t");
    stage.rename("d3", "d2");
    stage.rename("t", "d3");
    stage.sync_and_compare();
    let changes = stage.changes_beyond_times();
    assert_eq!(
        contents(&changes),
        [
            "directory",
            "directory",
            "inline",
            "keep",
            "keep",
            "keep",
            "keep"
        ]
    );
}

#[test]
fn swapped_files_with_the_same_content_are_one_file_each() {
    let stage = Stage::new();
    stage.write("a", "same");
    stage.write("b", "same");
    let time = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    for name in ["a", "b"] {
        File::options()
            .write(true)
            .open(stage.path(name))
            .expect("open")
            .set_times(time)
            .expect("times");
    }
    stage.sync_and_compare();
    stage.rename("a", "c");
    stage.rename("b", "a");
    stage.rename("c", "b");
    stage.sync_and_compare();
    stage.rename("a", "c");
    fs::copy(stage.path("c"), stage.path("a")).expect("copy");
    File::options()
        .write(true)
        .open(stage.path("a"))
        .expect("open")
        .set_times(time)
        .expect("times");
    stage.sync_and_compare();
}

#[test]
fn copies_are_references() {
    let stage = filled();
    fs::copy(stage.path("large"), stage.path("d1/copy")).expect("copy");
    stage.sync_and_compare();
    assert_eq!(contents(&stage.changes_beyond_times()), ["copy"]);
}

#[test]
fn hard_links_are_one_file() {
    let stage = filled();
    let link =
        |from: &str, to: &str| fs::hard_link(stage.path(from), stage.path(to)).expect("link");
    link("large", "d1/second");
    link("d1/f1", "d2/second");
    stage.write("new", "new");
    link("new", "d3/new");
    link("new", "d0/new");
    stage.sync_and_compare();
    let expected = [
        "inline", "keep", "keep", "keep", "keep", "sibling", "sibling",
    ];
    assert_eq!(contents(&stage.changes_beyond_times()), expected);

    settle();
    assert!(!stage.sync_and_compare().committed);
    fs::write(stage.path("d3/new"), "rewritten through one of its names").expect("write");
    fs::remove_file(stage.path("large")).expect("remove");
    link("d2/second", "d1/deep/third");
    stage.sync_and_compare();
    fs::remove_file(stage.path("d1/deep/third")).expect("remove");
    stage.rename("d0/new", "d0/newer");
    stage.sync_and_compare();
    assert!(!contents(&stage.changes()).contains(&"inline"));
}

#[test]
fn kinds_change_into_one_another() {
    let stage = filled();
    fs::remove_file(stage.path("d0/f0")).expect("remove");
    stage.write("d0/f0/now/a/directory", "x");
    fs::remove_dir_all(stage.path("d1/deep")).expect("remove");
    stage.write("d1/deep", "now a file");
    fs::remove_file(stage.path("link")).expect("remove");
    stage.write("link", "now a file");
    stage.sync_and_compare();
    stage.rename("d0/f0/now", "d0/now");
    fs::remove_dir(stage.path("d0/f0")).expect("remove");
    stage.rename("d1/f1", "d0/f0");
    stage.sync_and_compare();
}

#[test]
fn a_directory_made_anew_with_the_same_content_sends_none() {
    let stage = filled();
    stage.rename("d1", "old");
    fs::create_dir(stage.path("d1")).expect("directory");
    for entry in fs::read_dir(stage.path("old")).expect("list") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("type").is_file() {
            fs::copy(entry.path(), stage.path("d1").join(entry.file_name())).expect("copy");
        }
    }
    fs::remove_dir_all(stage.path("old")).expect("remove");
    stage.sync_and_compare();
    assert!(!contents(&stage.changes()).contains(&"inline"));
}

#[test]
fn a_removed_directory_takes_one_message_and_leaves_what_moved_out() {
    let stage = filled();
    stage.rename("d1/deep/er", "kept");
    stage.rename("d1/f5", "d2/kept");
    fs::remove_dir_all(stage.path("d1")).expect("remove");
    let report = stage.sync_and_compare();
    assert_eq!(
        contents(&stage.changes_beyond_times()),
        ["directory", "keep", "remove"]
    );
    assert_eq!((report.moved, report.removed, report.added), (2, 6, 0));
}

#[test]
fn excluded_names_are_not_in_the_tree() {
    let mut stage = filled();
    stage.write("d1/x.tmp", "x");
    stage.write("cache/y", "y");
    stage.sync_and_compare();
    stage.source.excludes = understudy_tree::Excludes::new(&["*.tmp", "/cache"]).expect("patterns");
    let report = stage.sync();
    assert_eq!(report.removed, 3);
    let tree = stage.spare().tree();
    assert!(!tree.contains_key(&b"d1/x.tmp"[..]) && !tree.contains_key(&b"cache"[..]));
    assert!(tree.contains_key(&b"d1/f1"[..]));
}

#[test]
fn an_emptied_source_is_refused() {
    let mut stage = filled();
    stage.source.excludes = understudy_tree::Excludes::new(&["*"]).expect("patterns");
    assert!(matches!(
        stage.try_sync(),
        Err(AgentError::BecameEmpty { .. })
    ));
    stage.source.excludes = understudy_tree::Excludes::none();
    fs::rename(&stage.source.path, stage.beside("away")).expect("rename");
    assert!(matches!(
        stage.try_sync(),
        Err(AgentError::SourceMissing { .. })
    ));
    fs::create_dir(&stage.source.path).expect("directory");
    assert!(matches!(
        stage.try_sync(),
        Err(AgentError::BecameEmpty { .. })
    ));
    assert_eq!(stage.spare().uploads.len(), 1, "something was committed");
    fs::remove_dir(&stage.source.path).expect("remove");
    fs::write(&stage.source.path, "").expect("write");
    assert!(matches!(
        stage.try_sync(),
        Err(AgentError::SourceNotDirectory { .. })
    ));
}

#[test]
fn a_source_that_vanishes_meanwhile_deletes_nothing() {
    let stage = filled();
    let (path, away) = (stage.source.path.clone(), stage.beside("away"));
    stage.at("visiting .", move || {
        fs::rename(&path, &away).expect("rename");
        fs::create_dir(&path).expect("directory");
    });
    assert!(matches!(
        stage.try_sync(),
        Err(AgentError::SourceVanished { .. })
    ));
    assert_eq!(stage.spare().uploads.len(), 1);
}

#[test]
fn what_moves_behind_the_walkers_back_is_not_deleted() {
    let stage = filled();
    let (from, to) = (stage.path("d1/deep/er/file"), stage.path("d0/f"));
    stage.at("visiting d1/deep/er", move || {
        fs::rename(from, to).expect("rename");
    });
    stage.sync();
    let tree = stage.spare().tree();
    assert!(
        tree.contains_key(&b"d0/f"[..]) || tree.contains_key(&b"d1/deep/er/file"[..]),
        "the file is gone"
    );
    let (from, to) = (stage.path("d3"), stage.path("d0/d3"));
    stage.at("walked", move || fs::rename(from, to).expect("rename"));
    stage.write("trigger", "x");
    fs::remove_file(stage.path("d2/f2")).expect("remove");
    stage.sync();
    let tree = stage.spare().tree();
    assert!(
        tree.contains_key(&b"d0/d3/f3"[..]) || tree.contains_key(&b"d3/f3"[..]),
        "the directory is gone"
    );
    settle();
    stage.sync_and_compare();
}

#[test]
fn changes_during_the_scan_arrive_in_the_next_cycle() {
    let stage = filled();
    let source = stage.source.path.clone();
    stage.at("walked", move || {
        fs::write(source.join("d0/f0"), "changed").expect("write");
        fs::write(source.join("d0/new"), "new").expect("write");
        fs::remove_file(source.join("d2/f6")).expect("remove");
        fs::rename(source.join("d1/f1"), source.join("d1/g1")).expect("rename");
        fs::hard_link(source.join("d1/f5"), source.join("d2/f5")).expect("link");
        fs::remove_dir_all(source.join("d1/deep")).expect("remove");
    });
    fs::remove_file(stage.path("d2/f2")).expect("remove");
    fs::hard_link(stage.path("d1/f9"), stage.path("d2/f9")).expect("link");
    stage.sync();
    stage.sync();
    stage.compare();
}

#[test]
fn a_lost_index_is_adopted_without_sending() {
    let stage = filled();
    fs::hard_link(stage.path("d1/f1"), stage.path("d2/second")).expect("link");
    settle();
    stage.sync_and_compare();
    fs::remove_dir_all(stage.beside("state")).expect("remove");
    let report = stage.sync_and_compare();
    assert!(!report.committed);
    assert_eq!(stage.spare().manifests, 1);
    assert_eq!(stage.spare().uploads.len(), 2);
    assert_eq!(report.files_read, 22, "each content once");
    settle();
    assert_eq!(stage.sync_and_compare().files_read, 0);

    fs::remove_dir_all(stage.beside("state")).expect("remove");
    stage.rename("d1", "moved");
    stage.write("d2/f2", "changed");
    fs::remove_file(stage.path("d3/f3")).expect("remove");
    stage.sync_and_compare();
    let changes = stage.changes();
    let inline = contents(&changes)
        .iter()
        .filter(|&&word| word == "inline")
        .count();
    assert_eq!(inline, 1, "{changes:?}");
}

#[test]
fn an_old_index_is_brought_up_to_the_spare() {
    let stage = filled();
    let old = stage.beside("old");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        fs::create_dir_all(to).expect("directory");
        for entry in fs::read_dir(from).expect("list") {
            let entry = entry.expect("entry");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
        }
    };
    copy(&stage.beside("state"), &old);
    stage.write("d1/f1", "changed");
    stage.rename("d2", "d3/d2");
    stage.sync_and_compare();
    fs::remove_dir_all(stage.beside("state")).expect("remove");
    copy(&old, &stage.beside("state"));
    settle();
    let report = stage.sync_and_compare();
    assert!(!report.committed);
    assert!(
        report.files_read < 5,
        "what the old index knew is not read again"
    );
}

#[test]
fn a_spare_that_lost_everything_gets_everything() {
    let stage = filled();
    *stage.spare() = Default::default();
    let report = stage.sync_and_compare();
    assert!(report.committed && report.added == 30);
}

#[test]
fn a_refused_commit_leaves_the_index_as_it_was() {
    let stage = filled();
    stage.write("d1/f1", "changed");
    stage.rename("d2", "d3/d2");
    for code in [FailureCode::NoSpace, FailureCode::OutOfStep] {
        stage.spare().refuse = Some(Failure::new(code, "not now"));
        let error = stage.try_sync().expect_err("refused");
        assert!(error.to_string().contains("not now"), "{error}");
    }
    stage.sync_and_compare();
    assert_eq!(
        stage.spare().manifests,
        1,
        "compared once, after the states differed"
    );
}

#[test]
fn what_was_held_and_is_released_is_neither_asked_for_nor_read_again() {
    let stage = filled();
    let manifests = stage.spare().manifests;
    stage.write("d1/f1", "changed");
    stage.write("new/large", vec![b'x'; 200_000]);
    stage.rename("d2", "d3/d2");
    fs::remove_file(stage.path("d3/f3")).expect("remove");
    settle();
    let failure = || Some(Failure::new(FailureCode::Refused, "held"));
    // Held, and held once more: the index is that of the base.
    stage.spare().refuse = failure();
    stage.try_sync().expect_err("held");
    stage.spare().refuse_and_commit = failure();
    stage.try_sync().expect_err("held");
    let report = stage.sync_and_compare();
    assert!(!report.committed);
    assert_eq!((report.files_read, stage.spare().manifests), (0, manifests));
    // What changes after that is told against it, and a delta starts from what was held.
    let mut large = vec![b'x'; 200_000];
    large[100_000] = b'y';
    stage.write("new/large", large);
    let report = stage.sync_and_compare();
    assert_eq!((report.deltas, report.changed), (1, 1), "{report:?}");
    assert_eq!(stage.spare().manifests, manifests);

    // What was held and dropped is of no use.
    stage.write("d1/f1", "changed again");
    stage.spare().refuse = failure();
    stage.try_sync().expect_err("held");
    stage.write("d1/f1", "as it is");
    assert!(stage.sync_and_compare().committed);
    assert_eq!(stage.spare().manifests, manifests);
}

#[test]
fn sockets_are_counted_and_fifos_travel() {
    let stage = filled();
    let _socket = std::os::unix::net::UnixListener::bind(stage.path("socket")).expect("socket");
    let directory =
        understudy_tree::Directory::open(&stage.source.path, Default::default()).expect("open");
    let name = understudy_protocol::Name::new("fifo").expect("name");
    directory
        .create_special(&name, understudy_tree::Kind::Fifo, (0, 0))
        .expect("fifo");
    let report = stage.sync_and_compare();
    assert_eq!((report.sockets_skipped, report.added), (1, 1));
}

#[test]
fn holes_are_not_sent() {
    let stage = filled();
    let file = File::create_new(stage.path("holey")).expect("create");
    file.set_len(1 << 30).expect("size");
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 1 << 29).expect("write");
    drop(file);
    stage.write("small", "x");
    fs::File::options()
        .write(true)
        .open(stage.path("small"))
        .expect("open")
        .set_len(50_000)
        .expect("size");
    let before = std::time::Instant::now();
    let report = stage.sync();
    assert!(report.bytes_sent < 1 << 20, "{report:?}");
    assert!(before.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_cannot_be_read_stays_on_the_spare() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let stage = filled();
    fs::set_permissions(stage.path("d1/f1"), PermissionsExt::from_mode(0o000)).expect("mode");
    fs::set_permissions(stage.path("d2"), PermissionsExt::from_mode(0o000)).expect("mode");
    let report = stage.sync();
    let paths: Vec<_> = report
        .unreadable
        .iter()
        .map(|problem| problem.path.to_string())
        .collect();
    assert_eq!(paths, ["d1/f1", "d2"]);
    let tree = stage.spare().tree();
    assert!(tree.contains_key(&b"d1/f1"[..]) && tree.contains_key(&b"d2/f2"[..]));
    fs::set_permissions(stage.path("d2"), PermissionsExt::from_mode(0o755)).expect("mode");
}

#[test]
fn a_second_run_is_refused_and_a_damaged_index_named() {
    let stage = filled();
    let state = fs::read_dir(stage.beside("state"))
        .expect("list")
        .map(|entry| entry.expect("entry").path());
    let files: Vec<_> = state.collect();
    let find = |suffix: &str| {
        files
            .iter()
            .find(|path| path.extension().is_some_and(|e| e == suffix))
            .expect("file")
    };
    let lock = File::open(find("lock")).expect("open");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    assert!(matches!(
        stage.try_sync(),
        Err(AgentError::IndexLocked { .. })
    ));
    drop(lock);
    fs::write(
        find("db"),
        "this is no database, and has not been one for a while",
    )
    .expect("write");
    let message = stage.try_sync().expect_err("damaged").to_string();
    assert!(
        message.contains(".db") && message.contains("safe to delete"),
        "{message}"
    );
}

/// Seeds to try: `SEEDS=FROM..TO` in the environment asks for others than the usual few.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("SEEDS").ok();
    let asked = asked.as_deref().and_then(|text| text.split_once(".."));
    asked.map_or(0..usual, |(from, to)| {
        from.parse().expect("a number")..to.parse().expect("a number")
    })
}

/// Tells the seed of a test that fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with seed {}", self.0);
        }
    }
}

/// A small generator, so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn pick<'a>(&mut self, list: &'a [std::path::PathBuf]) -> Option<&'a std::path::PathBuf> {
        if list.is_empty() {
            None
        } else {
            Some(&list[self.below(list.len())])
        }
    }
}

/// All directories below `root`, itself first, and everything else.
fn listed(root: &std::path::Path) -> (Vec<std::path::PathBuf>, Vec<std::path::PathBuf>) {
    let (mut directories, mut others, mut next) = (vec![root.to_owned()], Vec::new(), 0);
    while next < directories.len() {
        for entry in fs::read_dir(&directories[next]).expect("list") {
            let entry = entry.expect("entry");
            let is_directory = entry.file_type().expect("type").is_dir();
            if is_directory {
                &mut directories
            } else {
                &mut others
            }
            .push(entry.path());
        }
        next += 1;
    }
    directories.sort();
    others.sort();
    (directories, others)
}

/// One edit; whatever the file system refuses (a directory into itself) is no edit.
fn edit(random: &mut Random, root: &std::path::Path) {
    let (directories, others) = listed(root);
    let name = format!("n{}", random.below(6));
    let into = random.pick(&directories).expect("the root").join(name);
    let (directory, file) = (random.pick(&directories[1..]), random.pick(&others));
    match (random.below(11), directory, file) {
        (0, ..) => drop(fs::write(&into, format!("content {}", random.below(5)))),
        (1, ..) => drop(fs::write(&into, vec![random.below(3) as u8; 70_000])),
        (2, ..) => drop(fs::create_dir(&into)),
        (3, _, Some(file)) => drop(fs::rename(file, &into)),
        (4, Some(directory), _) => drop(fs::rename(directory, &into)),
        (5, _, Some(file)) => drop(fs::hard_link(file, &into)),
        (6, _, Some(file)) => drop(fs::remove_file(file)),
        (7, Some(directory), _) if random.below(3) == 0 => drop(fs::remove_dir_all(directory)),
        (8, _, Some(file)) if file.is_file() => drop(fs::set_permissions(
            file,
            PermissionsExt::from_mode(0o600 + random.below(8) as u32),
        )),
        (9, Some(one), Some(other)) | (10, Some(other), Some(one)) => {
            // Whatever the two are, they change places.
            let parking = root.join("parking");
            if fs::rename(one, &parking).is_ok() {
                drop(fs::rename(other, one));
                drop(fs::rename(
                    &parking,
                    if one.symlink_metadata().is_ok() {
                        other
                    } else {
                        one
                    },
                ));
                if parking.exists() {
                    drop(fs::rename(&parking, root.join("parked")));
                }
            }
        }
        _ => drop(symlink(format!("target {}", random.below(3)), &into)),
    }
}

/// An empty source would be refused.
fn never_empty(stage: &Stage) {
    if fs::read_dir(&stage.source.path)
        .expect("list")
        .next()
        .is_none()
    {
        stage.write("always", "here");
    }
}

#[test]
fn random_edits_always_arrive() {
    for seed in seeds(12) {
        let _named = Named(seed);
        let stage = Stage::new();
        let mut random = Random(seed);
        for round in 0..12 {
            for _ in 0..=random.below(25) {
                edit(&mut random, &stage.source.path);
            }
            match random.below(12) {
                0 => drop(fs::remove_dir_all(stage.beside("state"))),
                1 => drop(
                    stage
                        .spare()
                        .refuse
                        .replace(Failure::new(FailureCode::OutOfStep, "test")),
                ),
                _ => {}
            }
            never_empty(&stage);
            let result = stage.try_sync();
            if let Err(error) = result {
                assert!(
                    error.to_string().contains("test"),
                    "seed {seed}, round {round}: {error}"
                );
                stage.sync();
            }
            stage.compare();
        }
    }
}

#[test]
fn edits_during_the_scan_break_no_rule_and_arrive_later() {
    for seed in seeds(12) {
        let _named = Named(seed);
        let stage = Stage::new();
        let mut random = Random(seed);
        for _ in 0..8 {
            (0..20).for_each(|_| edit(&mut random, &stage.source.path));
            let (directories, _) = listed(&stage.source.path);
            let visited = random.pick(&directories).expect("the root");
            let path = visited
                .strip_prefix(&stage.source.path)
                .expect("below")
                .display()
                .to_string();
            for moment in [
                format!("visiting {}", if path.is_empty() { "." } else { &path }),
                "walked".to_owned(),
                "judging".to_owned(),
            ] {
                let (source, mut random) = (stage.source.path.clone(), Random(random.0 ^ 77));
                stage.at(&moment, move || {
                    (0..8).for_each(|_| edit(&mut random, &source));
                });
            }
            never_empty(&stage);
            stage.sync();
        }
        never_empty(&stage);
        settle();
        stage.sync();
        stage.sync_and_compare();
    }
}
