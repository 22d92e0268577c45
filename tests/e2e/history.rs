//! Contents that come back: what a rollback costs on the wire, and what becomes of it where history is not sound.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::needs::needs;
use crate::support::{Kind, Random, Stage};

const LARGE: usize = 8 << 20;

/// The contents of a release by name. Of the large file little is different, so that history has a patch.
fn release(number: u64) -> Vec<(String, Vec<u8>)> {
    let mut random = Random::new(number);
    let mut files: Vec<_> = (0..30)
        .map(|file| (format!("app/file{file}"), random.noise(10_000 + file)))
        .collect();
    let mut large = Random::new(100).noise(LARGE);
    large[LARGE / 2] = number as u8;
    files.push(("large".to_owned(), large));
    files
}

fn deploy(stage: &Stage, number: u64) -> Value {
    std::fs::create_dir_all(stage.source.join("app")).unwrap();
    for (name, content) in release(number) {
        std::fs::write(stage.source.join(name), content).unwrap();
    }
    stage.sync_and_judge()
}

/// Deploys a release that the spare had before.
fn roll_back(stage: &Stage, number: u64) {
    let synced = deploy(stage, number);
    assert_eq!(synced["recalled"], 31, "{synced}");
    let bytes: usize = release(number).iter().map(|(_, data)| data.len()).sum();
    assert_eq!(synced["bytes_recalled"], bytes, "{synced}");
    assert_eq!(synced["history_refused"], 0, "{synced}");
    assert!(synced["bytes_sent"].as_u64().unwrap() < 4000, "{synced}");
}

/// The objects of history that have one of these contents, whole.
fn objects(stage: &Stage, contents: &[Vec<u8>]) -> Vec<PathBuf> {
    let list = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let shelves = list(&stage.dataset().join(".understudy/objects"));
    let all = shelves.iter().flat_map(|shelf| list(shelf));
    all.filter(|object| contents.contains(&std::fs::read(object).unwrap()))
        .collect()
}

#[test]
fn a_rollback_costs_next_to_nothing() {
    needs!("a_rollback_costs_next_to_nothing": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        // So much else that a release may go.
        for number in 0..150 {
            std::fs::write(stage.source.join(format!("other{number}")), "other").unwrap();
        }
        deploy(&stage, 1);
        let synced = deploy(&stage, 2);
        assert_eq!(synced["recalled"], 0, "{synced}");
        // Back, forth, back again, and after others.
        for number in [1, 2, 1] {
            roll_back(&stage, number);
        }
        deploy(&stage, 3);
        roll_back(&stage, 2);
        std::fs::remove_dir_all(stage.source.join("app")).unwrap();
        stage.sync_and_judge();
        let synced = deploy(&stage, 2);
        assert_eq!(synced["recalled"], 30, "{synced}");
        for (snapshot, release_number) in [("1", 1), ("2", 2), ("6", 3)] {
            let target = stage.path().join(format!("restored{snapshot}"));
            stage.restore(&target).args(["--snapshot", snapshot]).ok();
            for (name, content) in release(release_number) {
                assert!(
                    std::fs::read(target.join(&name)).unwrap() == content,
                    "{name}"
                );
            }
        }
        stage.ask("verify").ok();
        for (name, content) in release(1) {
            std::fs::write(stage.source.join(name), content).unwrap();
        }
        let outcome = stage.sync().ok();
        outcome.mentions(&["took", "from the spare's history"]);
    }
}

#[test]
fn what_history_lacks_is_sent_in_the_second_try() {
    needs!("what_history_lacks_is_sent_in_the_second_try": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        for number in [1, 2, 3] {
            deploy(&stage, number);
        }
        let (_, first) = &release(1)[0];
        let [object] = &objects(&stage, std::slice::from_ref(first))[..] else {
            panic!("the first release is history")
        };
        std::fs::remove_file(object).unwrap();
        let synced = deploy(&stage, 1);
        assert_eq!(synced["history_refused"], 1, "{synced}");
        assert_eq!(synced["recalled"], 0, "{synced}");
        // What left since is known again.
        roll_back(&stage, 3);
        roll_back(&stage, 1);
        stage.ask("verify").ok();
    }
}

#[test]
fn damaged_history_does_not_come_live() {
    needs!("damaged_history_does_not_come_live": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        for number in [1, 2, 3] {
            deploy(&stage, number);
        }
        let (_, first) = &release(1)[0];
        let [object] = &objects(&stage, std::slice::from_ref(first))[..] else {
            panic!("the first release is history")
        };
        let mut damaged = first.clone();
        damaged[5000] ^= 1;
        std::fs::write(object, damaged).unwrap();
        let synced = deploy(&stage, 1);
        assert_eq!(synced["history_refused"], 1, "{synced}");
    }
}
