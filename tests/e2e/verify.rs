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

/// A tree with something of each kind, in both twins.
fn furnished(kind: Kind) -> Stage {
    let stage = stage(kind);
    let source = &stage.source;
    std::fs::create_dir_all(source.join("deep/down")).unwrap();
    for index in 0..20 {
        let name = format!("deep/down/file-{index}");
        std::fs::write(source.join(name), format!("content {index}")).unwrap();
    }
    std::os::unix::fs::symlink("../file", source.join("deep/link")).unwrap();
    std::fs::hard_link(source.join("file"), source.join("deep/name")).unwrap();
    std::fs::set_permissions(source.join("deep/down"), PermissionsExt::from_mode(0o750)).unwrap();
    // The next snapshot makes the twin that it goes into the same first.
    for content in ["a", "b"] {
        std::fs::write(source.join("turn"), content).unwrap();
        stage.sync_and_judge();
    }
    stage
}

/// What somebody does to one of the twins, each to something else.
fn meddle(twin: &Path) {
    std::fs::remove_file(twin.join("below/third")).unwrap();
    std::fs::remove_dir_all(twin.join("deep")).unwrap();
    std::fs::set_permissions(twin.join("file"), PermissionsExt::from_mode(0o604)).unwrap();
    let other = twin.join("below/other");
    let modified = other.metadata().unwrap().modified().unwrap();
    let content = vec![b'w'; 5_000];
    std::fs::remove_file(&other).unwrap();
    std::fs::write(&other, content).unwrap();
    let file = std::fs::File::options().write(true).open(&other).unwrap();
    file.set_modified(modified).unwrap();
}

/// That both twins are what the source is, now and when they have changed places.
fn assert_mended(stage: &Stage) {
    crate::support::judge::same(&stage.source, &stage.live());
    stage.ask("verify").ok();
    for content in ["one", "two"] {
        std::fs::write(stage.source.join("turn"), content).unwrap();
        stage.sync_and_judge();
        stage.ask("verify").ok();
    }
}

#[test]
fn what_somebody_has_taken_from_a_tree_or_replaced_is_put_back() {
    for kind in Kind::BOTH {
        for twin in ["live", ".understudy/shadow"] {
            let stage = furnished(kind);
            meddle(&stage.dataset().join(twin).join("files"));
            findings(&stage);
            stage.ask("verify").arg("--repair").ok();
            assert_mended(&stage);
        }
    }
}

#[test]
fn a_repair_that_was_killed_at_any_step_is_done_by_the_next() {
    for twin in ["live", ".understudy/shadow"] {
        let points = [
            "receiver.repaired-name=3*off->return",
            "receiver.repaired-name=12*off->return",
            "receiver.repaired-name=20*off->return",
            "receiver.names-built=return",
            "receiver.switched=return",
            "receiver.switch-synced=return",
            "receiver.repaired-twin=return",
        ];
        for point in points {
            let stage = furnished(Kind::Embedded);
            meddle(&stage.dataset().join(twin).join("files"));
            let killed = stage.ask("verify").arg("--repair").failing(point).outcome();
            let never_switches = twin != "live" && point.contains("switch");
            assert_eq!(killed.was_killed(), !never_switches, "{point}: {killed}");
            stage.ask("verify").arg("--repair").ok();
            assert_mended(&stage);
        }
    }
}

#[test]
fn readers_see_all_that_is_put_back_at_once() {
    let stage = furnished(Kind::Embedded);
    std::fs::remove_dir_all(stage.live().join("deep")).unwrap();
    let (store, point) = (stage.live(), "receiver.names-built=return");
    let killed = stage.ask("verify").arg("--repair").failing(point).outcome();
    assert!(killed.was_killed(), "{killed}");
    assert!(!store.join("deep").exists(), "nothing is put back yet");
    let point = "receiver.switched=return";
    let killed = stage.ask("verify").arg("--repair").failing(point).outcome();
    assert!(killed.was_killed(), "{killed}");
    crate::support::judge::same(&stage.source, &store);
}

#[test]
fn a_cycle_goes_on_where_somebody_has_taken_a_directory_from_a_tree() {
    for twin in ["live", ".understudy/shadow"] {
        let stage = furnished(Kind::Embedded);
        // The other tree does not have it yet.
        std::fs::write(stage.source.join("deep/down/new"), "new").unwrap();
        stage.sync_and_judge();
        let files = stage.dataset().join(twin).join("files");
        std::fs::remove_dir_all(files.join("deep")).unwrap();
        std::fs::write(stage.source.join("turn"), "c").unwrap();
        stage.sync().ok();
        stage.ask("verify").arg("--repair").ok();
        assert_mended(&stage);
    }
}

#[test]
fn what_somebody_has_put_into_the_live_tree_is_moved_away_and_kept() {
    for kind in Kind::BOTH {
        let stage = furnished(kind);
        let live = stage.live();
        std::fs::write(live.join("below/added"), "added").unwrap();
        std::fs::create_dir(live.join("upload")).unwrap();
        std::fs::write(live.join("upload/photo"), "a photo").unwrap();
        // Written, and not rotten.
        std::fs::write(live.join("below/newer"), "newer").unwrap();
        std::fs::rename(live.join("below/newer"), live.join("below/other")).unwrap();
        // Something of another kind.
        std::fs::remove_file(live.join("deep/link")).unwrap();
        std::fs::create_dir(live.join("deep/link")).unwrap();
        std::fs::write(live.join("deep/link/within"), "within").unwrap();
        let told = stage.ask("verify").args(["--repair", "--json"]).ok().data();
        let repaired = told["datasets"][0]["repaired"].as_array().unwrap();
        let added = repaired.iter().find(|one| one["path"] == "below/added");
        let what = added.unwrap()["what"].as_str().unwrap();
        let kept = what.split('`').nth(1).unwrap();
        let kept = stage.dataset().join(kept);
        assert_eq!(std::fs::read(kept).unwrap(), b"added", "{told}");
        let all = files_below(&stage.dataset().join(".understudy/kept"));
        let contents: Vec<_> = all
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        for content in ["added", "a photo", "newer", "within"] {
            assert!(contents.iter().any(|kept| kept == content), "{contents:?}");
        }
        assert_mended(&stage);
    }
}

/// A furnished spare whose newest snapshot moves a file, gives one other attributes and another a content. Its other tree shows that
/// snapshot, too, or the one before.
fn about_to_be_emptied(kind: Kind, newest: Newest) -> Stage {
    let stage = furnished(kind);
    let source = &stage.source;
    std::fs::rename(source.join("deep/down/file-3"), source.join("moved")).unwrap();
    std::fs::rename(source.join("below"), source.join("deep/below")).unwrap();
    std::fs::set_permissions(
        source.join("deep/down/file-4"),
        PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    std::fs::write(source.join("turn"), "only in the live tree").unwrap();
    stage.sync_and_judge();
    if newest == Newest::Both {
        let file = stage.live().join("deep/down/file-5");
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o604)).unwrap();
        stage.ask("verify").arg("--repair").ok();
    }
    stage
}

/// Which trees of a spare have the newest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newest {
    Live,
    Both,
}

/// `rm -rf live/*`.
fn empty_live(stage: &Stage) {
    let live = stage.dataset().join("live");
    for entry in std::fs::read_dir(&live).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path).unwrap(),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
}

/// Repairs a spare of which nothing is lost but what only the live tree had, which the main has.
fn assert_reinstated(stage: &Stage, newest: Newest) {
    let repaired = stage.ask("verify").args(["--repair", "--json"]).outcome();
    let value = repaired.json();
    let told = match value["data"].is_null() {
        true => &value["error"]["datasets"][0],
        false => &value["data"]["datasets"][0],
    };
    let found = told["findings"].as_array().unwrap();
    assert_eq!(found.is_empty(), newest == Newest::Both, "{repaired}");
    assert!(found.iter().all(|one| one["path"] == "turn"), "{repaired}");
    // What is lost, the main gives back.
    std::fs::write(stage.source.join("another"), "another").unwrap();
    stage.sync().ok();
    stage.ask("verify").arg("--repair").ok();
    assert_mended(stage);
}

#[test]
fn a_live_tree_that_somebody_emptied_comes_back_from_the_other_one() {
    for kind in Kind::BOTH {
        for newest in [Newest::Both, Newest::Live] {
            for whole in [true, false] {
                let stage = about_to_be_emptied(kind, newest);
                match whole {
                    true => std::fs::remove_dir_all(stage.dataset().join("live")).unwrap(),
                    false => empty_live(&stage),
                }
                std::fs::write(stage.source.join("unsent"), "unsent").unwrap();
                let refused = stage.sync().outcome();
                assert_ne!(refused.code, Some(0), "{refused}");
                refused.mentions(&["live tree", "understudy verify --repair"]);
                assert_reinstated(&stage, newest);
                assert!(!stage.dataset().join(".understudy/kept").exists());
            }
        }
    }
}

#[test]
fn what_still_stands_in_an_emptied_live_tree_is_kept() {
    let stage = about_to_be_emptied(Kind::Embedded, Newest::Live);
    let live = stage.dataset().join("live");
    std::fs::remove_dir_all(live.join("files/deep")).unwrap();
    std::fs::remove_file(live.join("SNAPSHOT")).unwrap();
    std::fs::write(live.join("files/note"), "a note").unwrap();
    let told = stage.ask("verify").args(["--repair", "--json"]).ok().data();
    let what = told["datasets"][0]["repaired"][0]["what"].as_str().unwrap();
    let kept = stage.dataset().join(what.split('`').nth(1).unwrap());
    let note = std::fs::read_to_string(kept.join("files/note")).unwrap();
    assert_eq!(note, "a note", "{told}");
    assert_mended(&stage);
}

#[test]
fn putting_an_emptied_live_tree_back_can_be_killed_at_any_step() {
    let points = [
        "apply.step=return",
        "apply.step=5*off->return",
        "apply.marked=return",
        "receiver.reinstating=return",
        "receiver.live-kept=return",
        "receiver.switched=return",
    ];
    for point in points {
        let stage = about_to_be_emptied(Kind::Embedded, Newest::Live);
        empty_live(&stage);
        let killed = stage.ask("verify").arg("--repair").failing(point).outcome();
        assert!(killed.was_killed(), "{point}: {killed}");
        assert_reinstated(&stage, Newest::Live);
    }
}

#[test]
fn a_dataset_that_is_not_there_cannot_be_verified() {
    let stage = stage(Kind::Embedded);
    let outcome = stage.ask("verify").arg("no-such-dataset").outcome();
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
    outcome.mentions(&["no-such-dataset"]);
}
