//! Cycles that look only at what the journal told.

use understudy_protocol::Name;
use understudy_tree::{Directory, Identity, Mounts};

use super::*;
use crate::journal::Doubt;
use crate::sync::LookedAt;
use crate::testing::observer::Observer;
use crate::testing::user::as_ordinary_user;

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
    let name = Name::new("f1").expect("name");
    let told = Some((name, Doubt::Content));
    observer.journal().note(identity(&stage, "d1"), told);
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
fn what_could_not_be_read_is_looked_at_wherever_it_is_later() {
    as_ordinary_user(|| {
        let (stage, observer) = watched();
        let mode = |mode| fs::set_permissions(stage.path("d1"), PermissionsExt::from_mode(mode));
        stage.write("d1/f1", "told while nobody could read it");
        stage.write("d1/deep/er/file", "told while nobody could read it");
        observer.journal().take_since(0);
        mode(0o000).expect("mode");
        for _ in 0..4 {
            let report = stage.try_cycle(observer.journal()).expect("cycle");
            assert!(matches!(report.looked_at, LookedAt::Journal { .. }));
            let paths: Vec<_> = report
                .unreadable
                .iter()
                .map(|problem| problem.path.to_string())
                .collect();
            assert!(paths[0] == "d1" && paths.len() <= 3, "{paths:?}");
        }
        assert_eq!(
            stage.spare().tree()[&b"d1/f1"[..]].0.size_bytes(),
            9,
            "the spare's own version"
        );
        mode(0o755).expect("mode");
        stage.rename("d1", "d2/moved");
        cycle(&stage, &observer);
    });
}

/// Makes the journal forget what the observer told, but for these names.
fn tell_only(stage: &Stage, observer: &Observer, names: &[(Identity, &str)]) {
    let journal = observer.journal();
    let taken = journal.take_since(0);
    journal.acknowledge(taken.up_to, crate::journal::Covered::Marks);
    for (directory, name) in names {
        let name = Name::new(*name).expect("name");
        journal.note(*directory, Some((name, Doubt::Entry)));
    }
    assert_eq!(stage.spare().manifests, 0);
}

fn identity(stage: &Stage, directory: &str) -> Identity {
    let opened = Directory::open(&stage.path(directory), Mounts::Stay);
    let stat = opened.and_then(|directory| directory.stat_self());
    stat.expect("stat").identity
}

#[test]
fn names_of_one_file_are_judged_together_whichever_was_told() {
    let (stage, observer) = watched();
    let [root, there] = ["", "d2"].map(|directory| identity(&stage, directory));
    fs::hard_link(stage.path("large"), stage.path("d2/second")).expect("link");
    tell_only(&stage, &observer, &[(there, "second")]);
    cycle(&stage, &observer);
    fs::write(stage.path("d2/second"), "rewritten by one name").expect("write");
    tell_only(&stage, &observer, &[(there, "second")]);
    cycle(&stage, &observer);
    fs::remove_file(stage.path("d2/second")).expect("remove");
    tell_only(&stage, &observer, &[(there, "second")]);
    stage.try_cycle(observer.journal()).expect("cycle");
    cycle(&stage, &observer);

    fs::create_dir(stage.path("d2/below")).expect("directory");
    fs::hard_link(stage.path("large"), stage.path("d2/below/second")).expect("link");
    tell_only(&stage, &observer, &[(there, "below")]);
    cycle(&stage, &observer);
    let below = identity(&stage, "d2/below");
    fs::remove_dir_all(stage.path("d2/below")).expect("remove");
    tell_only(&stage, &observer, &[(below, "second"), (there, "below")]);
    stage.try_cycle(observer.journal()).expect("cycle");
    cycle(&stage, &observer);
    fs::remove_file(stage.path("large")).expect("remove");
    tell_only(&stage, &observer, &[(root, "large")]);
    cycle(&stage, &observer);
}

#[test]
fn kinds_that_change_into_one_another_are_told() {
    let (stage, observer) = watched();
    fs::remove_file(stage.path("d0/f0")).expect("remove");
    stage.write("d0/f0/now/a/directory", "x");
    fs::remove_dir_all(stage.path("d1/deep")).expect("remove");
    stage.write("d1/deep", "now a file");
    cycle(&stage, &observer);
    stage.rename("d0/f0/now", "d0/now");
    fs::remove_dir(stage.path("d0/f0")).expect("remove");
    stage.rename("d1/f1", "d0/f0");
    cycle(&stage, &observer);
    assert!(!contents(&stage.changes()).contains(&"inline"));

    stage.rename("d0/now/a", "d3/kept");
    stage.rename("d0/f4", "d3/f4");
    fs::remove_dir_all(stage.path("d0")).expect("remove");
    stage.write("d0", "a file where a directory was");
    cycle(&stage, &observer);
    let changes = stage.changes_beyond_times();
    assert_eq!(contents(&changes), ["directory", "inline", "keep"]);
}

#[test]
fn a_directory_whose_way_moved_while_it_was_looked_at_keeps_its_own_doubt() {
    let (stage, observer) = watched();
    stage.write("d1/deep/new", "changes the times of its directory");
    settle();
    tell_only(&stage, &observer, &[(identity(&stage, "d1/deep"), "new")]);
    let source = stage.source.path.clone();
    stage.at("looked", move || {
        fs::rename(source.join("d1"), source.join("d2/d1")).expect("rename");
    });
    let report = stage.try_cycle(observer.journal()).expect("cycle");
    assert_eq!(report.removed, 0);
    cycle(&stage, &observer);
}

#[test]
fn a_directory_that_comes_back_during_a_sweep_is_looked_at_by_the_next() {
    let (stage, observer) = watched();
    let (source, away) = (stage.source.path.clone(), stage.beside("away"));
    fs::rename(source.join("d1"), &away).expect("rename");
    fs::write(away.join("f1"), "changed while it was away").expect("write");
    stage.rename("large", "d1");
    observer.journal().gap("for this test");
    stage.at("judging", move || {
        fs::rename(source.join("d1"), source.join("larger")).expect("rename");
        fs::rename(&away, source.join("d1")).expect("rename");
    });
    stage.try_cycle(observer.journal()).expect("cycle");
    tell_only(&stage, &observer, &[]);
    let report = stage.try_cycle(observer.journal()).expect("cycle");
    assert!(matches!(report.looked_at, LookedAt::Everything { .. }));
    stage.compare();
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
        carrying: crate::sync::Carrying::On,
        making: crate::sync::Making::Always,
        captured: None,
        turn: crate::scan::Turn::Whichever,
        freeze: None,
        still: None,
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
        let _named = Named(seed);
        let stage = Stage::new();
        stage.write("always", "here");
        let mut random = Random(seed);
        (0..30).for_each(|_| edit(&mut random, &stage.source.path));
        let observer = Observer::new(&stage.source.path, &stage.beside("state"));
        if seed % 2 == 1 {
            observer.doubt_below();
        }
        stage.try_cycle(observer.journal()).expect("first");
        for round in 0..12 {
            for _ in 0..=random.below(25) {
                edit(&mut random, &stage.source.path);
            }
            never_empty(&stage);
            let report = stage.try_cycle(observer.journal()).expect("cycle");
            assert!(
                matches!(report.looked_at, LookedAt::Journal { .. }),
                "round {round}: {:?}",
                report.looked_at
            );
            stage.compare();
        }
    }
}

#[test]
fn edits_during_a_look_at_marks_break_no_rule_and_arrive_later() {
    let (mut cycles, mut sweeps) = (0, 0);
    for seed in seeds(25) {
        let _named = Named(seed);
        let mut stage = Stage::new();
        // Whatever is there when a moment comes may go, even all of it.
        stage.source.emptied = crate::Emptied::Accept;
        stage.write("always", "here");
        let mut random = Random(seed);
        let observer = Observer::new(&stage.source.path, &stage.beside("state"));
        if seed % 2 == 1 {
            observer.doubt_below();
        }
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
            let report = stage.try_cycle(observer.journal()).expect("cycle");
            cycles += 1;
            sweeps += u32::from(matches!(report.looked_at, LookedAt::Everything { .. }));
        }
        stage.forget_hooks();
        never_empty(&stage);
        for _ in 0..4 {
            settle();
            let report = stage.try_cycle(observer.journal()).expect("cycle");
            if report.looked_at == (LookedAt::Journal { directories: 0 }) {
                break;
            }
        }
        stage.compare();
    }
    eprintln!("{sweeps} of {cycles} cycles looked at everything");
}
