//! Cycles that look only at what the journal told.

use super::*;
use crate::journal::Doubt;
use crate::sync::LookedAt;
use crate::testing::observer::Observer;

/// A filled stage whose journal has no gap.
fn watched() -> (Stage, std::sync::Arc<Observer>) {
    let stage = filled();
    let observer = Observer::new(&stage.source.path, &stage.beside("state"));
    let report = stage.try_cycle(observer.journal()).expect("cycle");
    assert!(matches!(report.looked_at, LookedAt::Everything { .. }));
    (stage, observer)
}

fn cycle(stage: &Stage, observer: &Observer) -> crate::SyncReport {
    let report = stage.try_cycle(observer.journal()).expect("cycle");
    assert!(
        matches!(report.looked_at, LookedAt::Journal { .. }),
        "{:?}",
        report.looked_at
    );
    stage.compare();
    report
}

#[test]
fn a_cycle_without_events_looks_at_nothing() {
    let (stage, observer) = watched();
    let report = cycle(&stage, &observer);
    assert_eq!(report.looked_at, LookedAt::Journal { directories: 0 });
    assert!(!report.committed);
    assert_eq!(stage.spare().confirmations, 2);
}

#[test]
fn what_is_told_is_found_and_nothing_else_is_looked_at() {
    let (stage, observer) = watched();
    stage.write("d1/f1", "another content");
    stage.write("d2/new/er/file", "new");
    fs::remove_file(stage.path("d3/f3")).expect("remove");
    stage.rename("d0/f0", "d1/f0");
    let report = cycle(&stage, &observer);
    assert_eq!((report.added, report.removed, report.moved), (3, 1, 1));
    assert!(report.files_read <= 3, "{report:?}");
    settle();
    cycle(&stage, &observer);
    let report = cycle(&stage, &observer);
    assert_eq!(report.looked_at, LookedAt::Journal { directories: 0 });
}

#[test]
fn a_renamed_directory_is_one_put_whatever_is_below() {
    let (stage, observer) = watched();
    stage.rename("d1", "d2/moved");
    stage.write("d2/moved/deep/er/file", "changed after the move");
    let report = cycle(&stage, &observer);
    assert_eq!((report.moved, report.changed), (1, 3), "{report:?}");
    assert_eq!(report.files_read, 1);
    assert_eq!(
        contents(&stage.changes_beyond_times()),
        ["directory", "inline"]
    );
}

#[test]
fn a_close_after_writing_is_believed_against_the_times() {
    let (stage, observer) = watched();
    let report = cycle(&stage, &observer);
    assert_eq!(report.files_read, 0);
    let directory = understudy_tree::Directory::open(&stage.path("d1"), Default::default());
    let identity = directory.and_then(|directory| directory.stat_self());
    let name = understudy_protocol::Name::new("f1").expect("name");
    observer.journal().note(
        identity.expect("stat").identity,
        Some((name, Doubt::Content)),
    );
    let report = cycle(&stage, &observer);
    assert_eq!((report.files_read, report.committed), (1, false));
}

#[test]
fn a_move_told_only_while_the_scan_runs_deletes_nothing() {
    let (stage, observer) = watched();
    // The first drain tells of the touched file, the second where it went meanwhile.
    let mode = PermissionsExt::from_mode(0o600);
    fs::set_permissions(stage.path("d1/f5"), mode).expect("mode");
    let source = stage.source.path.clone();
    stage.at("doubting d1", move || {
        fs::rename(source.join("d1/deep"), source.join("d2/deep")).expect("rename");
        fs::rename(source.join("d1/f5"), source.join("d2/f5")).expect("rename");
    });
    let report = stage.try_cycle(observer.journal()).expect("cycle");
    assert!(report.moved > 0 && report.removed == 0, "{report:?}");
    assert!(!contents(&stage.changes_beyond_times()).contains(&"inline"));
    settle();
    cycle(&stage, &observer);
}

#[test]
fn a_busy_file_and_an_unreadable_one_are_looked_at_in_every_cycle() {
    let (stage, observer) = watched();
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root reads everything");
        return;
    }
    fs::set_permissions(stage.path("d1"), PermissionsExt::from_mode(0)).expect("mode");
    let report = stage.try_cycle(observer.journal()).expect("cycle");
    assert_eq!(report.unreadable.len(), 1);
    fs::set_permissions(stage.path("d1"), PermissionsExt::from_mode(0o755)).expect("mode");
    cycle(&stage, &observer);
}

#[test]
fn a_sweep_names_what_nobody_told_and_it_is_looked_at_from_then_on() {
    let (stage, observer) = watched();
    stage.write("d1/f1", "never told");
    stage.write("d2/f2", "told");
    let silent = observer.journal();
    // The observer's events are dropped, as those of a write that the kernel does not tell of.
    let taken = silent.take_since(0);
    silent.acknowledge(taken.up_to, crate::journal::Covered::Marks);
    stage.write("d2/f2", "told again");
    let reliance = crate::sync::Reliance {
        journal: Some(silent),
        sweep: Some("it is time"),
        trust: crate::scan::Trust::Times,
        patience: crate::sync::Patience::None,
        telling: crate::sync::Telling::Nobody,
    };
    let report = stage
        .with_channel(|channel| {
            crate::sync::cycle(channel, &stage.source, &stage.context(), reliance)
        })
        .expect("cycle");
    stage.compare();
    let paths: Vec<String> = report
        .missed_paths
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!((report.missed, paths), (1, vec!["d1/f1".to_owned()]));
    settle();
    stage.write("d1/f1", "never told a second time");
    let taken = silent.take_since(0);
    silent.acknowledge(taken.up_to, crate::journal::Covered::Marks);
    let report = cycle(&stage, &observer);
    assert_eq!(report.changed, 1);
}

#[test]
fn a_source_that_was_emptied_is_refused_by_the_journal_too() {
    let (stage, observer) = watched();
    for entry in fs::read_dir(&stage.source.path).expect("list") {
        let path = entry.expect("entry").path();
        if path.symlink_metadata().expect("stat").is_dir() {
            fs::remove_dir_all(path).expect("remove");
        } else {
            fs::remove_file(path).expect("remove");
        }
    }
    let refused = stage.try_cycle(observer.journal()).expect_err("empty");
    assert!(
        matches!(refused, AgentError::BecameEmpty { .. }),
        "{refused}"
    );
}

#[test]
fn random_edits_always_arrive_by_the_journal() {
    for seed in seeds(25) {
        let stage = Stage::new();
        stage.write("always", "here");
        let mut random = Random(seed);
        (0..30).for_each(|_| edit(&mut random, &stage.source.path));
        let observer = Observer::new(&stage.source.path, &stage.beside("state"));
        stage.try_cycle(observer.journal()).expect("first");
        for round in 0..12 {
            for _ in 0..=random.below(25) {
                edit(&mut random, &stage.source.path);
            }
            never_empty(&stage);
            let report = stage.try_cycle(observer.journal());
            let report =
                report.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
            assert!(
                matches!(report.looked_at, LookedAt::Journal { .. }),
                "seed {seed}, round {round}: {:?}",
                report.looked_at
            );
            eprintln!("seed {seed}, round {round}");
            stage.compare();
        }
    }
}

#[test]
fn edits_during_a_look_at_marks_break_no_rule_and_arrive_later() {
    for seed in seeds(25) {
        let stage = Stage::new();
        stage.write("always", "here");
        let mut random = Random(seed);
        let observer = Observer::new(&stage.source.path, &stage.beside("state"));
        stage.try_cycle(observer.journal()).expect("first");
        for _ in 0..8 {
            (0..20).for_each(|_| edit(&mut random, &stage.source.path));
            let (directories, _) = listed(&stage.source.path);
            let visited = random.pick(&directories).expect("the root");
            let path = visited.strip_prefix(&stage.source.path).expect("below");
            let path = if path.as_os_str().is_empty() {
                ".".to_owned()
            } else {
                path.display().to_string()
            };
            for moment in [format!("doubting {path}"), "judging".to_owned()] {
                let (source, mut random) = (stage.source.path.clone(), Random(random.0 ^ 77));
                stage.at(&moment, move || {
                    (0..8).for_each(|_| edit(&mut random, &source));
                });
            }
            never_empty(&stage);
            eprintln!("seed {seed}");
            stage.try_cycle(observer.journal()).expect("cycle");
        }
        stage.forget_hooks();
        never_empty(&stage);
        // What was in doubt is settled by the first, what was not by the second.
        for _ in 0..2 {
            settle();
            let r = stage.try_cycle(observer.journal()).expect("cycle");
            eprintln!("{seed} {:?}", r.looked_at);
        }
        if std::env::var("AGAIN").is_ok() {
            for _ in 0..3 {
                settle();
                let r = stage.try_cycle(observer.journal()).expect("cycle");
                eprintln!("{seed} {:?} {}", r.looked_at, r.committed);
            }
        }
        stage.compare();
    }
}
