//! What was damaged on the spare is found and named.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::support::stage::DATASET;
use crate::support::{Kind, Outcome, Stage};

/// A spare with two snapshots: `file` was rewritten, so its former content is an object.
fn stage(kind: Kind) -> Stage {
    let stage = Stage::new(kind);
    std::fs::create_dir(stage.source.join("below")).unwrap();
    std::fs::write(stage.source.join("file"), "x".repeat(10_000)).unwrap();
    std::fs::write(stage.source.join("below/other"), "y".repeat(5_000)).unwrap();
    std::fs::write(stage.source.join("below/third"), "z").unwrap();
    stage.sync().ok();
    // Two more snapshots: displaced content reaches the objects when the twin catches up.
    for content in ["second", "third"] {
        std::fs::write(stage.source.join("file"), content.repeat(2_000)).unwrap();
        stage.sync().ok();
    }
    stage
}

fn flip_a_byte(path: &Path) {
    let mode = path.metadata().unwrap().permissions();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    let modified = path.metadata().unwrap().modified().unwrap();
    std::fs::set_permissions(path, mode).unwrap();
    file.set_modified(modified).unwrap();
}

/// Verify must find damage; returns the paths it names.
fn findings(stage: &Stage) -> (Vec<String>, Outcome) {
    let outcome = stage.ask("verify").arg("--json").expect(9);
    let value = outcome.json();
    let value = if value["data"].is_null() {
        &value["error"]
    } else {
        &value["data"]
    };
    let datasets = value["datasets"]
        .as_array()
        .unwrap_or_else(|| panic!("{outcome}"));
    let paths = datasets
        .iter()
        .flat_map(|dataset| dataset["findings"].as_array().unwrap())
        .map(|finding| finding["path"].as_str().unwrap().to_owned())
        .collect();
    (paths, outcome)
}

fn assert_found(stage: &Stage, path: &str) {
    let (found, outcome) = findings(stage);
    let named = found.iter().any(|finding| finding.ends_with(path));
    assert!(named, "{path} is not among {found:?}\n{outcome}");
    let plain = stage.ask("verify").arg(DATASET).expect(9);
    plain.mentions(&[path]);
}

#[test]
fn a_sound_store_has_no_findings() {
    for kind in Kind::BOTH {
        let stage = stage(kind);
        let data = stage.ask("verify").data();
        let dataset = &data["datasets"][0];
        assert_eq!(dataset["name"], DATASET, "{data}");
        assert_eq!(dataset["findings"], serde_json::json!([]), "{data}");
        assert_eq!(dataset["files"], 3, "{data}");
        assert_eq!(dataset["bytes"], 10_000 + 5_000 + 1, "{data}");
        assert!(dataset["objects"].as_u64() > Some(0), "{data}");
    }
}

#[test]
fn a_flipped_bit_in_a_live_file_is_found() {
    for kind in Kind::BOTH {
        let stage = stage(kind);
        flip_a_byte(&stage.live().join("below/other"));
        assert_found(&stage, "below/other");
    }
}

#[test]
fn a_flipped_bit_in_an_object_is_found() {
    let stage = stage(Kind::Embedded);
    let objects = files_below(&stage.dataset().join(".understudy/objects"));
    let object = objects
        .first()
        .expect("former contents are kept as objects");
    flip_a_byte(object);
    let (found, outcome) = findings(&stage);
    assert_eq!(found.len(), 1, "{outcome}");
    assert!(found[0].contains("objects"), "{outcome}");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn a_live_file_that_is_gone_is_found() {
    let stage = stage(Kind::Embedded);
    std::fs::remove_file(stage.live().join("below/third")).unwrap();
    assert_found(&stage, "below/third");
}

#[test]
fn a_file_that_was_added_is_found() {
    let stage = stage(Kind::Embedded);
    std::fs::write(stage.live().join("below/added"), "added").unwrap();
    assert_found(&stage, "below/added");
}

#[test]
fn a_mode_that_was_changed_is_found() {
    let stage = stage(Kind::Embedded);
    std::fs::set_permissions(stage.live().join("file"), PermissionsExt::from_mode(0o604)).unwrap();
    assert_found(&stage, "file");
}

#[test]
fn what_the_spare_has_elsewhere_is_repaired_and_the_rest_is_named() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        let twice = "twice".repeat(1_000);
        for (name, content) in [
            ("one", &twice),
            ("two", &twice),
            ("alone", &"alone".repeat(50)),
        ] {
            std::fs::write(stage.source.join(name), content).unwrap();
        }
        stage.sync().ok();
        flip_a_byte(&stage.live().join("one"));
        flip_a_byte(&stage.live().join("alone"));
        let told = stage
            .ask("verify")
            .args(["--repair", "--json"])
            .expect(9)
            .json();
        let told = &told["data"]["datasets"][0];
        assert_eq!(told["repaired"][0]["path"], "one", "{told}");
        let findings = told["findings"].as_array().unwrap();
        assert!(
            findings.iter().all(|finding| finding["path"] == "alone"),
            "{told}"
        );
        stage
            .ask("verify")
            .arg("--repair")
            .expect(9)
            .mentions(&["alone", "no other copy"]);
        // Once changed on the main it is whole in both trees; what it was is damaged in history.
        for content in ["changed", "once more"] {
            std::fs::write(stage.source.join("alone"), content).unwrap();
            stage.sync().ok();
            assert_eq!(
                std::fs::read(stage.live().join("one")).unwrap(),
                twice.as_bytes()
            );
            let told = stage
                .ask("verify")
                .args(["--repair", "--json"])
                .expect(9)
                .json();
            let told = &told["data"]["datasets"][0];
            assert_eq!(told["repaired"], serde_json::json!([]), "{told}");
            let findings = told["findings"].as_array().unwrap();
            assert_eq!(findings.len(), 1, "{told}");
            let what = findings[0]["what"].as_str().unwrap();
            assert!(what.contains("`alone` in snapshots 1 to 1"), "{told}");
        }
    }
}

#[test]
fn a_repair_that_was_killed_between_the_twins_is_done_by_the_next() {
    for point in ["return", "1*off->return"] {
        let stage = stage(Kind::Embedded);
        let twin = stage.source.join("twin");
        std::fs::copy(stage.source.join("file"), &twin).unwrap();
        stage.sync().ok();
        flip_a_byte(&stage.live().join("file"));
        let killed = stage
            .ask("verify")
            .arg("--repair")
            .failing(&format!("receiver.repaired-twin={point}"))
            .outcome();
        assert!(killed.was_killed(), "{killed}");
        stage.ask("verify").arg("--repair").ok();
        for content in ["one", "two"] {
            std::fs::write(&twin, content).unwrap();
            stage.sync_and_judge();
            stage.ask("verify").ok();
        }
    }
}

#[test]
fn a_dataset_that_is_not_there_cannot_be_verified() {
    let stage = stage(Kind::Embedded);
    let outcome = stage.ask("verify").arg("no-such-dataset").outcome();
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
    outcome.mentions(&["no-such-dataset"]);
}
