//! What was captured of databases, and what a snapshot keeps for its sake.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use understudy_protocol::{ContentHash, Name, Node};
use understudy_tree::{Directory, Mounts};

use super::{contents, filled, settle};
use crate::clock;
use crate::dumps::{Captive, Captured, Dump, Staying};
use crate::scan::Trust;
use crate::sync::{Carrying, Making, Patience, Reliance, SyncReport, Telling, cycle};
use crate::testing::Stage;
use crate::testing::observer::Observer;

fn opened(path: &Path) -> Directory {
    Directory::open(path, Mounts::Stay).expect("open")
}

/// What is captured now: the files of `dump`, where `former` was before.
fn captured(stage: &Stage, dump: &str, former: Option<&str>) -> Captured {
    settle();
    let captured = Captured {
        staying: Staying::Since(clock::now()),
        databases: vec![Captive {
            name: Name::new("shop").expect("name"),
            dump: Some(Dump {
                files: opened(&stage.beside(dump)),
                former: former.map(|former| opened(&stage.beside(former))),
            }),
        }],
    };
    settle();
    captured
}

fn write(stage: &Stage, dump: &str, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = stage.beside(dump).join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directories");
        fs::write(path, text).expect("write");
    }
}

fn sync(stage: &Stage, captured: &Captured, observer: Option<&Arc<Observer>>) -> SyncReport {
    let reliance = Reliance {
        journal: observer.map(|observer| observer.journal()),
        sweep: None,
        trust: Trust::Times,
        patience: Patience::None,
        telling: Telling::Nobody,
        carrying: Carrying::On,
        making: Making::Always,
        captured: Some(captured),
        turn: crate::scan::Turn::Whichever,
        freeze: None,
        still: None,
    };
    stage
        .with_channel(|channel| cycle(channel, &stage.source, &stage.context(), reliance))
        .expect("cycle")
}

/// Hashes of the dumps that the spare has, by path.
fn dumps(stage: &Stage) -> BTreeMap<String, ContentHash> {
    let tree = stage.spare().databases();
    let files = tree.into_iter().filter_map(|(path, (entry, _))| {
        let (_, hash) = entry.content()?;
        Some((String::from_utf8(path).expect("text"), hash))
    });
    files.collect()
}

/// Paths of the files that the spare has.
fn names(stage: &Stage) -> Vec<String> {
    let tree = stage.spare().tree();
    let files = tree
        .iter()
        .filter(|(_, (entry, _))| !matches!(entry.node, Node::Directory { .. }));
    files
        .map(|(path, _)| String::from_utf8(path.clone()).expect("text"))
        .collect()
}

fn rows(count: u32) -> String {
    (0..count)
        .map(|number| {
            format!(
                "({number},'picture {:x}'),\n",
                number.wrapping_mul(2_654_435_761)
            )
        })
        .collect()
}

#[test]
fn dumps_are_shipped_and_what_did_not_change_is_not() {
    let stage = filled();
    let large = rows(20_000);
    write(
        &stage,
        "one",
        &[("head", "h"), ("tables/a", &large), ("tables/b", "small")],
    );
    let report = sync(&stage, &captured(&stage, "one", None), None);
    assert!(report.committed);
    let has = dumps(&stage);
    let wanted = [
        ("shop/head", "h"),
        ("shop/tables/a", &large),
        ("shop/tables/b", "small"),
    ];
    let wanted: BTreeMap<String, ContentHash> = wanted
        .into_iter()
        .map(|(path, text)| (path.to_owned(), ContentHash::of(text.as_bytes())))
        .collect();
    assert_eq!(has, wanted);
    stage.compare();

    let report = sync(&stage, &captured(&stage, "one", Some("one")), None);
    assert!(!report.committed);
    assert_eq!(report.files_read, 0);

    let other = large.replace("(777,", "(778,");
    write(
        &stage,
        "two",
        &[("head", "h"), ("tables/a", &other), ("tables/c", "new")],
    );
    let report = sync(&stage, &captured(&stage, "two", Some("one")), None);
    assert_eq!(report.deltas, 1);
    assert!(report.bytes_sent < 2000, "{}", report.bytes_sent);
    assert_eq!(
        dumps(&stage).keys().collect::<Vec<_>>(),
        ["shop/head", "shop/tables/a", "shop/tables/c"]
    );
    assert_eq!(
        dumps(&stage)["shop/tables/a"],
        ContentHash::of(other.as_bytes())
    );

    // What was before is lost, or something else: it is sent whole.
    write(&stage, "three", &[("tables/a", &large)]);
    let report = sync(&stage, &captured(&stage, "three", Some("one")), None);
    assert_eq!((report.deltas, dumps(&stage).len()), (0, 1));
    // A database that could not be captured stays as it was; one that is configured no more goes.
    let mut none = captured(&stage, "three", None);
    none.databases[0].dump = None;
    assert!(!sync(&stage, &none, None).committed);
    none.databases.clear();
    assert!(sync(&stage, &none, None).committed);
    assert!(stage.spare().databases().is_empty());
    stage.compare();
}

#[test]
fn what_vanishes_after_the_capture_stays_for_one_snapshot() {
    for watched in [false, true] {
        let stage = filled();
        write(&stage, "one", &[("head", "h")]);
        sync(&stage, &captured(&stage, "one", None), None);
        let state = stage.beside("journal");
        let observer = watched.then(|| Observer::new(&stage.source.path, &state));
        // Before the capture: rows speak of it no more.
        fs::remove_file(stage.path("d0/f0")).expect("remove");
        stage.rename("d0/f4", "d0/moved-before");
        let now = captured(&stage, "one", Some("one"));
        fs::remove_file(stage.path("d1/f1")).expect("remove");
        stage.rename("d2/f2", "d2/moved");
        stage.rename("d3", "d2/d3");
        stage.write("d1/f5", "changed in place");
        let report = sync(&stage, &now, observer.as_ref());
        assert!(report.committed);
        let has = names(&stage);
        let is_there = |name: &str| has.iter().any(|one| one == name);
        for kept in [
            "d1/f1",
            "d2/f2",
            "d2/moved",
            "d3/f3",
            "d3/f19",
            "d2/d3/f3",
            "d0/moved-before",
        ] {
            assert!(is_there(kept), "{kept} of {has:?}");
        }
        for gone in ["d0/f0", "d0/f4"] {
            assert!(!is_there(gone), "{gone} of {has:?}");
        }
        // Again something is removed there, so that its time says nothing of the others.
        let now = captured(&stage, "one", Some("one"));
        fs::remove_file(stage.path("d1/f9")).expect("remove");
        assert!(sync(&stage, &now, observer.as_ref()).committed);
        let has = names(&stage);
        let is_there = |name: &str| has.iter().any(|one| one == name);
        assert!(is_there("d1/f9"));
        for gone in ["d1/f1", "d2/f2", "d3/f3"] {
            assert!(!is_there(gone), "{gone} of {has:?}");
        }
        let now = captured(&stage, "one", Some("one"));
        assert!(sync(&stage, &now, observer.as_ref()).committed);
        stage.compare();
        let now = captured(&stage, "one", Some("one"));
        assert!(!sync(&stage, &now, observer.as_ref()).committed);
    }
}

#[test]
fn what_is_kept_is_not_sent() {
    let stage = filled();
    write(&stage, "one", &[("head", "h")]);
    sync(&stage, &captured(&stage, "one", None), None);
    let now = captured(&stage, "one", Some("one"));
    fs::remove_file(stage.path("large")).expect("remove");
    sync(&stage, &now, None);
    assert!(names(&stage).iter().any(|name| name == "large"));
    let now = captured(&stage, "one", Some("one"));
    stage.rename("d1", "d2/d1");
    sync(&stage, &now, None);
    assert!(!names(&stage).iter().any(|name| name == "large"));
    let sent = contents(&stage.changes());
    assert!(sent.contains(&"copy"), "{sent:?}");
    assert!(
        !sent.contains(&"inline") && !sent.contains(&"stream"),
        "{sent:?}"
    );
}

/// Many rows that change by a few bytes each; what an older spare knows takes more.
#[test]
fn scattered_changes_take_little_more_than_their_bytes() {
    let mut sent = Vec::new();
    for newest in [None, Some(5)] {
        let stage = filled();
        stage.spare().newest = newest;
        let large = rows(50_000);
        write(&stage, "one", &[("tables/a", &large)]);
        sync(&stage, &captured(&stage, "one", None), None);
        let mut other = large.clone();
        for number in 0..300 {
            let row = format!("({},'picture", number * 150);
            other = other.replacen(&row, &row.replace("picture", "another"), 1);
        }
        write(&stage, "two", &[("tables/a", &other)]);
        let report = sync(&stage, &captured(&stage, "two", Some("one")), None);
        let wanted = ContentHash::of(other.as_bytes());
        assert_eq!(dumps(&stage).get("shop/tables/a"), Some(&wanted));
        sent.push(report.bytes_sent);
    }
    assert!(sent[0] < 300 * 20 + 1000, "{sent:?}");
    assert!(sent[1] > 2 * sent[0], "{sent:?}");
}
