//! The ways through the command that a user goes: several datasets from a configuration,
//! questions to the spare, lost state on either side, and bringing data back.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Kind, Random, Run, Stage, facts, judge, trees};

/// A configuration with the dataset `docs` and one dataset for each directory in `sites`.
fn configure(stage: &Stage) -> PathBuf {
    for (name, files) in [
        ("documents", 30),
        ("sites/alpha", 20),
        ("sites/beta.org", 10),
    ] {
        let path = stage.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        trees::mixed(
            &mut Random::new(files),
            &path,
            usize::try_from(files).unwrap(),
        );
    }
    std::fs::write(stage.path().join("sites/not a directory"), "left alone").unwrap();
    let text = format!(
        "spare = {spare:?}\nstate = {state:?}\ninterval = \"15m\"\n[pace]\npressure = \"off\"\n\
         [[dataset]]\nname = \"docs\"\npath = \"{root}/documents\"\nexclude = [\"*.tmp\"]\n\
         [[dataset]]\npath = \"{root}/sites/*\"\n",
        spare = stage.spare(),
        state = stage.state,
        root = stage.path().display(),
    );
    let file = stage.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn agent(configuration: &Path) -> Run {
    Run::new(["agent", "--once", "--config"]).arg(configuration)
}

#[test]
fn an_agent_keeps_several_datasets() {
    needs!("an_agent_keeps_several_datasets": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        let configuration = configure(&stage);
        std::fs::write(stage.path().join("documents/left.tmp"), "left out").unwrap();
        agent(&configuration).ok();
        let live = |name: &str| stage.store.join(name).join("live/files");
        judge::same_except(&stage.path().join("sites/alpha"), &live("alpha"), &[]);
        judge::same_except(&stage.path().join("sites/beta.org"), &live("beta.org"), &[]);
        assert!(!live("docs").join("left.tmp").exists());

        // Only the dataset that is named.
        for name in ["sites/alpha", "sites/beta.org"] {
            std::fs::write(stage.path().join(name).join("new"), name).unwrap();
        }
        agent(&configuration).arg("alpha").ok();
        assert!(live("alpha").join("new").exists());
        assert!(!live("beta.org").join("new").exists());

        // One dataset that fails keeps no other from its cycle.
        std::fs::rename(stage.path().join("documents"), stage.path().join("away")).unwrap();
        let outcome = agent(&configuration).outcome();
        assert_ne!(outcome.code, Some(0), "{outcome}");
        outcome.mentions(&["documents"]);
        assert!(live("beta.org").join("new").exists(), "{outcome}");
        assert!(
            live("docs").read_dir().unwrap().next().is_some(),
            "{outcome}"
        );
    }
}

#[test]
fn an_agent_that_is_told_to_end_does() {
    let stage = Stage::new(Kind::Tcp);
    let configuration = configure(&stage);
    for signal in [Signal::INT, Signal::TERM] {
        let run = Run::new(["agent", "--config"]).arg(&configuration);
        let outcome = run
            .signalled(std::time::Duration::from_secs(2), signal)
            .outcome();
        assert!(matches!(outcome.code, Some(0 | 130)), "{outcome}");
    }
    assert!(stage.store.join("docs/live/files").is_dir());
}

#[test]
fn a_receiver_that_is_told_to_end_does() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut stage = Stage::new(Kind::Tcp);
        std::fs::write(stage.source.join("file"), "file").unwrap();
        stage.sync().ok();
        assert_eq!(
            stage.daemon.take().unwrap().stop(signal),
            Some(0),
            "{signal:?}"
        );
    }
}

#[test]
fn the_spare_answers_questions() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        for number in 1..=3 {
            std::fs::write(stage.source.join("file"), "x".repeat(number * 100)).unwrap();
            stage.sync().ok();
        }
        let data = stage.ask("snapshots").arg(DATASET).data();
        let snapshots = data["datasets"][0]["snapshots"].as_array().unwrap().clone();
        let numbers: Vec<_> = snapshots
            .iter()
            .map(|s| s["number"].as_u64().unwrap())
            .collect();
        assert!(numbers == [1, 2, 3] || numbers == [3, 2, 1], "{data}");
        let newest = snapshots.iter().find(|s| s["number"] == 3).unwrap();
        assert_eq!(newest["bytes"], 300, "{data}");
        assert_eq!(newest["epoch"], 1, "{data}");
        let all = stage.ask("snapshots").data();
        assert_eq!(all["datasets"][0]["name"], DATASET, "{all}");
        let status = stage.ask("status").data();
        assert!(
            status.to_string().contains(&format!("\"{DATASET}\"")),
            "{status}"
        );
        assert_eq!(status["restores"], serde_json::json!([]), "{status}");
        assert!(
            status["disk"]["bytes"]["total"].as_u64() > Some(0),
            "{status}"
        );
        assert!(!stage.ask("status").ok().stdout.is_empty());

        let marker = std::fs::read_to_string(stage.dataset().join("live/SNAPSHOT")).unwrap();
        let lines: Vec<_> = marker.lines().take(4).collect();
        assert_eq!(lines[..2], ["epoch: 1", "number: 3"], "{marker}");
        assert!(
            lines[2].starts_with("time: ") && lines[3].starts_with("digest: "),
            "{marker}"
        );
        assert_eq!(
            lines[3],
            format!("digest: {}", newest["digest"].as_str().unwrap())
        );
    }
}

#[test]
fn the_dataset_is_named_after_the_directory() {
    let stage = Stage::new(Kind::Embedded);
    let source = stage.path().join("My Photos");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "file").unwrap();
    let run = Run::new(["sync"]).arg(&source);
    let run = run
        .env("UNDERSTUDY_SPARE", &stage.store)
        .env("UNDERSTUDY_STATE_DIR", &stage.state);
    let data = run.data();
    let name = data["dataset"].as_str().unwrap();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    assert!(name.starts_with("my") && name.chars().all(fits), "{name:?}");
    judge::same(&source, &stage.store.join(name).join("live/files"));
}

#[test]
fn a_lost_index_is_rebuilt_without_sending_content() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(3), &stage.source, 200);
        let first = stage.sync().data();
        std::fs::remove_dir_all(&stage.state).unwrap();
        let again = stage.sync().data();
        // With the state went the key that had signed it, where there was one: the same tree is signed by another.
        assert_eq!(again["committed"], kind == Kind::Tcp, "{again}");
        let [first, again] = [first, again].map(|data| data["bytes_sent"].as_u64().unwrap());
        assert!(
            again < first / 10,
            "sent {again} bytes, the first time {first}"
        );

        // And the index that was rebuilt is a whole one.
        std::fs::write(stage.source.join("new"), "new").unwrap();
        let data = stage.sync_and_judge();
        assert_eq!(
            (&data["added"], &data["removed"]),
            (&1.into(), &0.into()),
            "{data}"
        );
    }
}

#[test]
fn a_lost_index_does_not_hide_changes() {
    let stage = Stage::new(Kind::Embedded);
    trees::mixed(&mut Random::new(3), &stage.source, 100);
    stage.sync().ok();
    std::fs::remove_dir_all(&stage.state).unwrap();
    crate::support::edits::random(&mut Random::new(4), &stage.source, 30);
    stage.sync_and_judge();
}

#[test]
fn a_lost_store_gets_everything_again() {
    for kind in Kind::BOTH {
        let mut stage = Stage::new(kind);
        trees::mixed(&mut Random::new(3), &stage.source, 100);
        let first = stage.sync().data();
        if kind == Kind::Tcp {
            stage.daemon.as_mut().unwrap().kill();
        }
        std::fs::remove_dir_all(&stage.store).unwrap();
        if kind == Kind::Tcp {
            stage.restart(None);
        }
        let again = stage.sync_and_judge();
        assert_eq!(again["committed"], true, "{again}");
        assert_eq!(again["files_read"], first["files_read"], "{again}");
    }
}

#[test]
fn a_spare_that_is_another_one_gets_everything() {
    let mut stage = Stage::new(Kind::Embedded);
    trees::mixed(&mut Random::new(3), &stage.source, 50);
    stage.sync_and_judge();
    stage.store = stage.path().join("another store");
    stage.sync_and_judge();
}

#[test]
fn a_rehearsed_restore_writes_nothing() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(3), &stage.source, 30);
        stage.sync().ok();
        let target = stage.path().join("restored");
        let outcome = stage.restore(&target).arg("--dry-run").ok();
        assert!(!outcome.stdout.is_empty(), "{outcome}");
        assert!(!target.exists());
    }
}

#[test]
fn a_former_snapshot_comes_back() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(3), &stage.source, 200);
        let mut former = Vec::new();
        for round in 0..4 {
            stage.sync().ok();
            judge::untouched(&facts::facts(&stage.source), &stage.live());
            former.push(facts::facts(&stage.source));
            crate::support::edits::random(&mut Random::new(round), &stage.source, 12);
        }
        for (index, was) in former.iter().enumerate() {
            let number = (index + 1).to_string();
            let target = stage.path().join(format!("restored {number}"));
            stage.restore(&target).arg("--snapshot").arg(&number).ok();
            judge::untouched(was, &target);
        }
        let target = stage.path().join("no such snapshot");
        let outcome = stage.restore(&target).arg("--snapshot").arg("99").outcome();
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
        outcome.mentions(&["99"]);
        assert!(!target.exists());
    }
}

#[test]
fn what_stands_at_the_target_is_kept() {
    needs!("what_stands_at_the_target_is_kept": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(3), &stage.source, 30);
        stage.sync().ok();
        let place = stage.path().join("place");
        let target = place.join("target");
        std::fs::create_dir_all(&target).unwrap();
        std::fs::write(target.join("precious"), "precious").unwrap();
        let was = facts::facts(&target);

        let refused = stage.restore(&target).outcome();
        assert!(matches!(refused.code, Some(1 | 2)), "{refused}");
        refused.mentions(&["target", "--replace"]);
        judge::untouched(&was, &target);

        stage.restore(&target).arg("--replace").ok();
        judge::same(&stage.source, &target);
        let beside: Vec<_> = std::fs::read_dir(&place)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        let kept = beside.iter().find(|path| **path != target);
        judge::untouched(
            &was,
            kept.unwrap_or_else(|| panic!("nothing beside: {beside:?}")),
        );
        assert_eq!(beside.len(), 2, "{beside:?}");
    }
}

#[test]
fn an_empty_target_is_filled() {
    let stage = Stage::new(Kind::Embedded);
    trees::mixed(&mut Random::new(3), &stage.source, 30);
    stage.sync().ok();
    let target = stage.path().join("target");
    std::fs::create_dir(&target).unwrap();
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);
}

#[test]
fn help_teaches_and_versions_are_told() {
    for arguments in [&["--help"][..], &["sync", "--help"], &["restore", "--help"]] {
        let outcome = Run::new(arguments).ok();
        assert!(outcome.stdout.len() > 300, "{outcome}");
    }
    Run::new(["--version"])
        .ok()
        .mentions(&[env!("CARGO_PKG_VERSION")]);
}
