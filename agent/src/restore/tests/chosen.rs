//! Parts of a snapshot, and their order.

use super::gathered::Dumps;
use super::*;
use crate::conversation::Conversation;

fn globs(patterns: &[&str]) -> Vec<Glob> {
    let globs = patterns.iter().map(|pattern| Glob::new(pattern));
    globs.collect::<Result<_, _>>().expect("globs")
}

fn names(root: &Path) -> Vec<String> {
    let tree = tree_of(root);
    let text = |path: &Vec<u8>| String::from_utf8(path.clone()).expect("text");
    tree.keys().map(text).collect()
}

#[test]
fn only_what_matches_comes_with_its_parents() {
    let stage = filled();
    let target = stage.beside("target");
    let with = |patterns: &[&str]| RestoreRequest {
        part: Part::Matching(globs(patterns)),
        ..request(&stage, &target)
    };
    let report = try_restore(&stage, &with(&["d1/deep", "d0/f?", "second"])).expect("restore");
    let expected = [
        "d0",
        "d0/f0",
        "d0/f3",
        "d0/f6",
        "d0/f9",
        "d1",
        "d1/deep",
        "d1/deep/er",
        "d1/deep/er/large",
        "second",
    ];
    assert_eq!(names(&target), expected);
    assert_eq!((report.files, report.files_fetched), (6, 5));
    let mode = |path: &str| {
        fs::metadata(target.join(path))
            .expect("metadata")
            .permissions()
    };
    assert_eq!(mode("d1/deep").mode() & 0o777, 0o555);

    // The other name of the file is outside.
    fs::remove_dir_all(&target).expect("remove");
    try_restore(&stage, &with(&["**/large"])).expect("restore");
    assert_eq!(
        names(&target),
        ["d1", "d1/deep", "d1/deep/er", "d1/deep/er/large"]
    );
    let was = fs::read(stage.path("second")).expect("read");
    assert_eq!(
        fs::read(target.join("d1/deep/er/large")).expect("read"),
        was
    );

    // Carried on with, but of other files.
    fs::rename(&target, stage.beside("target.understudy-restore")).expect("rename");
    try_restore(&stage, &with(&["d2/"])).expect("restore");
    assert_eq!(names(&target), ["d2", "d2/f11", "d2/f2", "d2/f5", "d2/f8"]);

    fs::remove_dir_all(&target).expect("remove");
    let error = try_restore(&stage, &with(&["d9", "holey/"])).expect_err("nothing");
    assert!(
        matches!(error, AgentError::NothingMatches { .. }),
        "{error}"
    );
    assert!(beside(&stage).is_empty());
}

#[test]
fn some_of_many_small_files_come_before_the_large_one() {
    let stage = filled();
    for number in 0..100 {
        stage.write(&format!("many/f{number:02}"), "small");
    }
    stage.sync_and_compare();
    let plan = stage.with_channel(|channel| {
        let conversation = Conversation::open(channel, &crate::Cancel::default())?;
        Plans::read(
            &conversation,
            &stage.source.dataset,
            None,
            (Dumps::Count, u64::MAX),
        )
        .map(|plans| plans.files)
    });
    let plan = plan.expect("plan");
    let mut files: Vec<usize> = (0..plan.leaves.len()).collect();
    let all = files.clone();
    pick::arrange(&plan, &mut files, &[], Order::Listed);
    let is_large = |&number: &usize| plan.leaves[number].entry.size_bytes() > 65_536;
    let large = files.iter().position(is_large).expect("large");
    assert_eq!(large, 5, "a twentieth of the small ones comes before it");
    let spread = files[large - 1] - files[0];
    assert!(spread > all.len() / 2, "{files:?}");
    files.sort_unstable();
    assert_eq!(files, all);
}

#[test]
fn fuzzy_files_that_are_left_out_are_not_told() {
    let stage = filled();
    let places: Vec<_> = stage.spare().entries.keys().cloned().collect();
    let named = |name: &[u8]| {
        places
            .iter()
            .find(|place| place.name.as_bytes() == name)
            .cloned()
    };
    stage
        .spare()
        .fuzzy
        .extend([named(b"f0").expect("f0"), named(b"f1").expect("f1")]);
    let request = RestoreRequest {
        part: Part::Matching(globs(&["d0"])),
        ..request(&stage, &stage.beside("target"))
    };
    let report = try_restore(&stage, &request).expect("restore");
    assert_eq!(report.fuzzy.len(), 1, "{:?}", report.fuzzy);
}

#[test]
fn files_come_in_the_order_that_was_asked_for() {
    let stage = filled();
    for number in 0..12_u64 {
        let path = stage.path(&format!("d{}/f{number}", number % 3));
        let file = fs::OpenOptions::new().write(true).open(path).expect("open");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 - number);
        file.set_modified(time).expect("time");
    }
    stage.sync_and_compare();
    let ordered = |first: &[&str], order: Order| {
        let mut plan = stage
            .with_channel(|channel| {
                let conversation = Conversation::open(channel, &crate::Cancel::default())?;
                Plans::read(
                    &conversation,
                    &stage.source.dataset,
                    None,
                    (Dumps::Count, u64::MAX),
                )
                .map(|plans| plans.files)
            })
            .expect("plan");
        pick::restrict(
            &mut plan,
            &Part::Matching(globs(&["d*/f*", "second", "d1/deep"])),
        )
        .expect("restrict");
        let mut files: Vec<usize> = (0..plan.leaves.len()).collect();
        pick::arrange(&plan, &mut files, &globs(first), order);
        let paths = files
            .iter()
            .map(|&number| plan.path(&plan.leaves[number]).to_string());
        paths.collect::<Vec<String>>()
    };
    let listed = ordered(&[], Order::Listed);
    // Too few small files to learn from; the large one is the first in any case.
    assert_eq!(listed, ordered(&["**"], Order::Listed));
    let newest = ordered(&[], Order::Newest);
    let position =
        |list: &[String], path: &str| list.iter().position(|one| one == path).expect("path");
    assert!(position(&newest, "d0/f0") < position(&newest, "d1/f1"));
    assert!(position(&newest, "d1/f1") < position(&newest, "d2/f2"));
    let smallest = ordered(&[], Order::Smallest);
    assert_eq!(smallest[..2], ["d0/f0", "d0/f3"]);
    let first = ordered(&["d2/f11", "d1", "d2"], Order::Listed);
    // Both names of the large file come early, for one of them is in `d1`.
    assert_eq!(first[0], "d2/f11");
    assert_eq!(first[6], "d1/deep/er/large", "{first:?}");
    let second = position(&first, "second");
    assert!(second < position(&first, "d2/f2"), "{first:?}");
    assert!(position(&first, "d2/f8") < position(&first, "d0/f0"));
}
