//! A receiver that has time reads everything it keeps: damage is found while it runs, and comes back from the main.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::command::tool;
use crate::support::stage::DATASET;
use crate::support::{Daemon, Kind, Run, Stage, judge};

/// Longer than anything here takes; only failed tests wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that scrubs again and again, and a dataset with three snapshots.
fn stage() -> Stage {
    let mut stage = Stage::new(Kind::Embedded);
    let config = stage.path().join("receiver.toml");
    let text = "[scrub]\nevery = \"1s\"\nleast = \"1GB\"\nmost = \"1GB\"\nrepair = true\n";
    std::fs::write(&config, text).unwrap();
    stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        run.arg("--config").arg(&config)
    }));
    std::fs::create_dir(stage.source.join("below")).unwrap();
    std::fs::write(stage.source.join("below/other"), "y".repeat(600_000)).unwrap();
    for content in ["first", "second", "third"] {
        std::fs::write(stage.source.join("file"), content.repeat(2_000)).unwrap();
        stage.sync().ok();
    }
    stage
}

fn flip_a_byte(path: &Path) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    let file = file.unwrap();
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    file.set_modified(modified).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o644))
        .unwrap();
}

/// Asks for the status until it is as it should be.
fn status_with(stage: &Stage, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let data = stage.ask("status").data();
        let dataset = data["datasets"][0].clone();
        if holds(&dataset) {
            return dataset;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {dataset}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The states of the findings at a path.
fn states(dataset: &Value, path: &str) -> Vec<String> {
    let findings = dataset["findings"].as_array().unwrap().iter();
    let there = findings.filter(|finding| finding["path"].as_str().unwrap().starts_with(path));
    there
        .map(|finding| finding["state"].as_str().unwrap().to_owned())
        .collect()
}

fn object(stage: &Stage) -> PathBuf {
    let objects = stage.dataset().join(".understudy/objects");
    let found = tool(
        "find",
        [objects.as_os_str(), "-type".as_ref(), "f".as_ref()],
    );
    PathBuf::from(found.lines().next().expect("an object"))
}

#[test]
fn damage_is_found_while_the_receiver_runs_and_what_the_main_has_comes_back() {
    let stage = stage();
    let whole = status_with(&stage, "a whole pass", |dataset| {
        dataset["scrub"]["last"]["ended"].is_string()
    });
    assert_eq!(whole["findings"], serde_json::json!([]), "{whole}");
    flip_a_byte(&stage.live().join("below/other"));
    status_with(&stage, "the live file", |dataset| {
        states(dataset, "below/other") == ["wanted"]
    });
    stage
        .ask("status")
        .ok()
        .mentions(&["DAMAGED: below/other", "last read"]);
    stage.sync().ok();
    judge::same(&stage.source, &stage.live());
    status_with(&stage, "all well", |dataset| {
        dataset["findings"] == serde_json::json!([])
    });
    // The other tree gets what the live one has.
    let twin = stage.dataset().join(".understudy/shadow/files/file");
    let copy = stage.path().join("copy");
    tool("cp", ["-a".as_ref(), twin.as_os_str(), copy.as_os_str()]);
    flip_a_byte(&copy);
    tool("mv", [&copy, &twin]);
    let live = std::fs::read(stage.live().join("file")).unwrap();
    let begun = Instant::now();
    while std::fs::read(&twin).unwrap() != live {
        assert!(begun.elapsed() < PATIENCE, "the twin stays as it is");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Nobody has this any more.
    flip_a_byte(&object(&stage));
    status_with(&stage, "the object", |dataset| {
        states(dataset, "objects/") == ["wanted"]
    });
    stage.sync().ok();
    let lost = status_with(&stage, "what is lost", |dataset| {
        states(dataset, "objects/") == ["lost"]
    });
    assert_ne!(lost["damaged_snapshots"], serde_json::json!([]), "{lost}");
    stage.ask("verify").args(["--pace", "1GB"]).expect(9);
    let accept = || {
        Run::new(["accept", DATASET])
            .arg("--store")
            .arg(&stage.store)
    };
    accept().ok().mentions(&["accepted as lost", "objects/"]);
    let but_for = ["as it should be but for 1 accepted as lost"];
    stage.ask("verify").ok().mentions(&but_for);
    stage.ask("snapshots").ok().mentions(&but_for);
    let snapshots = stage.ask("snapshots").data();
    let snapshots = snapshots["datasets"][0]["snapshots"]
        .as_array()
        .unwrap()
        .clone();
    assert!(
        snapshots.iter().any(|one| one["damaged"] == true),
        "{snapshots:?}"
    );
    // What is lost is named, and how to get the rest.
    let damaged = snapshots.iter().find(|one| one["damaged"] == true).unwrap();
    let number = damaged["number"].to_string();
    let restored = stage.restore(&stage.path().join("back"));
    restored
        .arg("--snapshot")
        .arg(&number)
        .expect(1)
        .mentions(&[
            &format!("`file` of snapshot {number} cannot be given"),
            "understudy status",
            "--skip-lost",
        ]);
    let target = stage.path().join("rest");
    let rest = stage.restore(&target).args(["--snapshot", &number]);
    rest.arg("--skip-lost")
        .expect(3)
        .mentions(&["left out", "  file"]);
    assert!(!target.join("file").exists() && target.join("below/other").exists());
    let newest = snapshots.last().unwrap();
    assert_eq!(newest["damaged"], false, "{snapshots:?}");
}
