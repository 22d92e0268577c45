//! What was dumped of databases, beside the files.

use understudy_protocol::{DirectoryId, Name, Place as Where};

use super::*;

const TABLE: &[u8] = b"one,two\n";

/// Two databases, one with a file that comes as a stream.
fn with_databases() -> Stage {
    let stage = filled();
    let large: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut spare = stage.spare();
    spare.dump("blog", &[("contents.json", b"{}"), ("posts.csv", &large)]);
    spare.dump("shop", &[("contents.json", b"{}"), ("orders.csv", TABLE)]);
    drop(spare);
    stage
}

fn both(stage: &Stage) -> RestoreRequest {
    RestoreRequest {
        databases: Some(stage.beside("dumps")),
        ..request(stage, &stage.beside("target"))
    }
}

fn assert_dumps(stage: &Stage) {
    let read = |path: &str| fs::read(stage.beside("dumps").join(path)).expect(path);
    assert_eq!(read("shop/orders.csv"), TABLE);
    assert_eq!(read("blog/posts.csv").len(), 800_000);
    assert_eq!(tree_of(&stage.beside("dumps")).len(), 6);
}

#[test]
fn files_come_back_without_databases_which_are_counted() {
    let stage = with_databases();
    let target = stage.beside("target");
    let report = try_restore(&stage, &request(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files, report.files_fetched), (15, 14));
    let dumped = report.dumped;
    let all = (dumped.databases, dumped.entries, dumped.bytes);
    assert_eq!(all, (2, 7, 800_012));
    assert!(report.databases.is_none());
    assert_eq!(beside(&stage), ["target"]);
}

#[test]
fn both_come_back_in_one_run() {
    for manner in [Manner::Switch, Manner::Progressive] {
        let stage = with_databases();
        let request = RestoreRequest {
            manner,
            // Patterns are of files.
            first: vec![Glob::new("d1").expect("glob")],
            ..both(&stage)
        };
        let context = stage.context();
        let report = stage.with_channel(|channel| restore(channel, &request, &context, None));
        let report = report.expect("restore");
        assert_restored(&stage, &stage.beside("target"));
        assert_dumps(&stage);
        assert_eq!(beside(&stage), ["dumps", "target"]);
        assert_eq!((report.files, report.dumped.databases), (15, 2));
        let databases = report.databases.as_ref().expect("databases");
        assert_eq!((databases.files, databases.files_fetched), (4, 4));
        assert_eq!(
            databases.target,
            stage.beside("dumps").canonicalize().expect("path")
        );
        assert_eq!(report.amount().0, 19);
        let progress = &context.progress;
        assert_eq!((progress.files_total(), progress.files_done()), (18, 18));
        assert_eq!(progress.bytes_done(), progress.bytes_total());
    }
}

#[test]
fn a_rehearsal_tells_of_both_and_a_part_is_one_of_the_files() {
    let stage = with_databases();
    let rehearsal = RestoreRequest {
        action: Action::DryRun,
        ..both(&stage)
    };
    let report = try_restore(&stage, &rehearsal).expect("rehearse");
    assert_eq!(report.amount().0, 19);
    assert!(beside(&stage).is_empty());
    let part = RestoreRequest {
        part: Part::Matching(vec![Glob::new("d0").expect("glob")]),
        ..both(&stage)
    };
    let report = try_restore(&stage, &part).expect("restore");
    assert_eq!((report.files, report.amount().0), (4, 8));
    assert_dumps(&stage);
    // What is only in databases is no part of the files.
    let none = RestoreRequest {
        target: stage.beside("none"),
        part: Part::Matching(vec![Glob::new("**/orders.csv").expect("glob")]),
        ..request(&stage, &stage.beside("none"))
    };
    assert!(matches!(
        try_restore(&stage, &none),
        Err(AgentError::NothingMatches { .. })
    ));
}

#[test]
fn an_interrupted_restore_of_both_is_carried_on_with() {
    let stage = with_databases();
    let request = both(&stage);
    let mut messages = 20;
    let report = loop {
        let channel = stage.channel_cut_after(messages);
        match restore(channel, &request, &stage.context(), None) {
            Ok(report) => break report,
            Err(_) => {
                let stands = ["target", "dumps"].map(|name| stage.beside(name).exists());
                assert_eq!(stands, [false, false], "after {messages}");
            }
        }
        messages += 10;
        assert!(messages < 1000, "it does not end");
    };
    assert!(messages > 30, "nothing was interrupted");
    assert_restored(&stage, &stage.beside("target"));
    assert_dumps(&stage);
    assert!(report.files_reused > 0, "{report:?}");
}

#[test]
fn databases_go_where_nothing_is_and_apart_from_the_files() {
    let stage = with_databases();
    fs::create_dir(stage.beside("dumps")).expect("directory");
    fs::write(stage.beside("dumps/precious"), "precious").expect("write");
    let request = RestoreRequest {
        existing: Existing::Replace,
        ..both(&stage)
    };
    let error = try_restore(&stage, &request).expect_err("taken");
    assert!(matches!(error, AgentError::TargetExists { .. }), "{error}");
    assert!(!stage.beside("target").exists());
    fs::create_dir(stage.beside("target")).expect("directory");
    let inside = RestoreRequest {
        databases: Some(stage.beside("target/dumps")),
        ..both(&stage)
    };
    let error = try_restore(&stage, &inside).expect_err("inside");
    assert!(error.to_string().contains("beside"), "{error}");
    // One without databases leaves the directory alone.
    let stage = filled();
    let report = try_restore(&stage, &both(&stage)).expect("restore");
    assert_eq!(report.dumped, Dumped::default());
    assert_eq!(beside(&stage), ["target"]);
}

#[test]
fn what_is_wrong_with_a_dump_is_told_by_its_path() {
    let stage = with_databases();
    let orders = {
        let spare = stage.spare();
        let mut places = spare.entries.keys();
        let orders = places.find(|place| place.name.as_bytes() == b"orders.csv");
        orders.expect("place").clone()
    };
    stage.spare().fuzzy.insert(orders.clone());
    let report = try_restore(&stage, &both(&stage)).expect("restore");
    let databases = report.databases.expect("databases");
    let fuzzy: Vec<String> = databases.fuzzy.iter().map(ToString::to_string).collect();
    assert_eq!(fuzzy, ["databases/shop/orders.csv"]);
    assert!(report.fuzzy.is_empty());
    // Where they are not wanted it is not looked for.
    let again = request(&stage, &stage.beside("again"));
    assert!(
        try_restore(&stage, &again)
            .expect("restore")
            .fuzzy
            .is_empty()
    );

    let trees = ["target", "dumps"]
        .map(|name| Directory::open(&stage.beside(name), Mounts::Cross).expect("open"));
    let compared = || {
        let which = (&stage.source.dataset, 1, u64::MAX);
        let trees = (&trees[0], Some(&trees[1]));
        let wrong =
            stage.with_channel(|channel| compare(channel, which, trees, &stage.context(), None));
        let wrong = wrong.expect("compare");
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(compared(), [""; 0]);
    fs::write(stage.beside("dumps/shop/orders.csv"), "one,six\n").expect("write");
    assert_eq!(compared(), ["databases/shop/orders.csv"]);

    let file = stage.spare().entries[&orders].1;
    stage.spare().contents.get_mut(&file).expect("content")[0] ^= 1;
    for name in ["target", "dumps"] {
        fs::remove_dir_all(stage.beside(name)).expect("remove");
    }
    let error = try_restore(&stage, &both(&stage)).expect_err("damaged");
    let text = error.to_string();
    assert!(text.contains("databases/shop/orders.csv"), "{text}");
    assert!(!stage.beside("target").exists(), "half of it came");
}

/// Whatever the spare says to have of them.
#[test]
fn databases_that_this_host_does_not_have_are_in_none_of_its_snapshots() {
    let stage = with_databases();
    fs::remove_dir_all(stage.beside("state")).expect("remove");
    stage.write("d0/new", "new");
    stage.sync_and_compare();
    let root = Where::new(DirectoryId::TOP, Name::new("databases").expect("name"));
    assert!(!stage.spare().entries.contains_key(&root));
    // And again with what is in the index now.
    stage.write("d0/newer", "newer");
    stage.sync_and_compare();
    assert!(!stage.spare().entries.contains_key(&root));
}
