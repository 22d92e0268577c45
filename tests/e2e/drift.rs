//! What somebody writes into the live tree of a spare: kept as a snapshot, then undone by the next cycle of the main.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::tool;
use crate::support::stage::DATASET;
use crate::support::{Daemon, Kind, Random, Run, Stage, full, judge};

fn snapshots(stage: &Stage) -> Vec<Value> {
    let listed = Run::new(["snapshots", DATASET, "--spare"])
        .arg(&stage.store)
        .data();
    listed["datasets"][0]["snapshots"]
        .as_array()
        .unwrap()
        .clone()
}

fn newest(stage: &Stage) -> u64 {
    snapshots(stage).last().unwrap()["number"].as_u64().unwrap()
}

fn restore(stage: &Stage, number: u64) -> PathBuf {
    let target = stage.path().join(format!("restored-{number}"));
    Run::new(["restore", DATASET])
        .arg(&target)
        .args(["--snapshot", &number.to_string(), "--unverified", "--spare"])
        .arg(&stage.store)
        .arg("--state")
        .arg(stage.path().join("other-state"))
        .ok();
    target
}

/// Writes somewhere in a tree; returns what it did.
fn deed(random: &mut Random, live: &Path, number: usize) -> String {
    let file = |number: usize| live.join(format!("d{}/f{number}", number % 5));
    let of = file(random.index(40));
    let text = format!("written by somebody: {number}\n");
    match random.below(6) {
        0 if of.exists() => fs::write(&of, text).unwrap(),
        1 => {
            let beside = live.join("beside");
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &of).unwrap();
        }
        2 => fs::write(live.join(format!("d{}/new{number}", number % 5)), text).unwrap(),
        3 if of.exists() => fs::remove_file(&of).unwrap(),
        4 if of.exists() => {
            let mode = 0o600 + u32::try_from(number % 8).unwrap();
            fs::set_permissions(&of, fs::Permissions::from_mode(mode)).unwrap();
        }
        5 if of.exists() => {
            fs::OpenOptions::new()
                .append(true)
                .open(&of)
                .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
                .unwrap();
        }
        _ => return String::new(),
    }
    of.display().to_string()
}

/// `UNDERSTUDY_TEST_FULL=1`: 1,000 writes.
#[test]
fn whatever_is_written_into_live_is_kept_and_undone() {
    let stage = Stage::new(Kind::Embedded);
    for number in 0..40 {
        let directory = stage.source.join(format!("d{}", number % 5));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("f{number}")),
            format!("page {number}\n"),
        )
        .unwrap();
    }
    stage.sync().ok();
    stage.sync().ok();
    let mut random = Random::new(7);
    let (mut done, wanted) = (0, if full() { 1000 } else { 60 });
    while done < wanted {
        if random.below(3) == 0 {
            let page = stage.source.join(format!("d{}/f{}", done % 5, done % 40));
            fs::create_dir_all(page.parent().unwrap()).unwrap();
            fs::write(page, format!("changed on the main {done}\n")).unwrap();
            stage.sync().ok();
        }
        for _ in 0..=random.below(8) {
            done += usize::from(!deed(&mut random, &stage.live(), done).is_empty());
        }
        let drifted = stage.path().join("as-it-was");
        tool(
            "rsync",
            [
                "-aHAXc",
                "--delete",
                &format!("{}/", stage.live().display()),
                drifted.to_str().unwrap(),
            ],
        );
        let before = newest(&stage);
        stage.sync().ok();
        assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
        let listed = snapshots(&stage);
        let after = newest(&stage);
        assert!(after >= before, "{before} {after}");
        if after > before {
            let point = listed
                .iter()
                .find(|one| one["number"] == before + 1)
                .unwrap();
            let pin = point["pin"]["reason"].as_str().unwrap_or_default();
            assert!(pin.starts_with("drift"), "{point}");
            let kept = restore(&stage, before + 1);
            assert_eq!(judge::rsync(&drifted, &kept, &[]), "", "{pin}");
            fs::remove_dir_all(kept).unwrap();
        }
        Run::new(["verify", "--spare"]).arg(&stage.store).ok();
    }
}

/// A receiver dies while it builds a snapshot, and somebody writes before anybody has put that right.
#[test]
fn what_is_written_after_a_receiver_died_is_kept() {
    let stage = Stage::new(Kind::Embedded);
    for number in 0..40 {
        let path = stage.source.join(format!("d{}/f{number}", number % 5));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("page {number}\n")).unwrap();
    }
    stage.sync().ok();
    let mut random = Random::new(3);
    let mut died = 0;
    for number in 0..if full() { 120 } else { 24 } {
        for page in [number % 40, (number + 5) % 40] {
            let page = stage.source.join(format!("d{}/f{page}", page % 5));
            fs::write(page, format!("page {number}\n")).unwrap();
        }
        // So that everything has two names, and nothing is lost by being removed.
        stage.sync().ok();
        fs::write(stage.source.join("d1/each"), format!("{number}\n")).unwrap();
        fs::rename(stage.source.join("d4"), stage.source.join("d1/d4")).unwrap();
        let point = format!("apply.step={}*off->return", number % 12);
        died += usize::from(stage.sync().failing(&point).outcome().was_killed());
        let mut did = Vec::new();
        for _ in 0..3 {
            did.push(deed(&mut random, &stage.live(), number));
        }
        let drifted = stage.path().join("as-it-was");
        tool(
            "rsync",
            [
                "-aHAXc",
                "--delete",
                &format!("{}/", stage.live().display()),
                drifted.to_str().unwrap(),
            ],
        );
        let before = newest(&stage);
        stage.sync().ok();
        assert_eq!(
            judge::rsync(&stage.source, &stage.live(), &[]),
            "",
            "{did:?}"
        );
        if did.iter().any(|deed| !deed.is_empty()) {
            let kept = restore(&stage, before + 1);
            assert_eq!(judge::rsync(&drifted, &kept, &[]), "", "{did:?}");
            fs::remove_dir_all(kept).unwrap();
        }
        fs::rename(stage.source.join("d1/d4"), stage.source.join("d4")).unwrap();
        stage.sync().ok();
    }
    assert!(died > 10, "{died}");
}

fn drift(stage: &Stage, words: &[&str]) -> Run {
    Run::new(["drift"])
        .args(words)
        .arg("--store")
        .arg(&stage.store)
}

#[test]
fn drift_points_are_listed_shown_and_restored() {
    let stage = Stage::new(Kind::Embedded);
    for name in ["page", "other", "gone", "mode"] {
        fs::write(stage.source.join(name), format!("{name} of the main\n")).unwrap();
    }
    stage.sync().ok();
    stage.sync().ok();
    let looked = drift(&stage, &["list"]).ok();
    looked.mentions(&["no drift points"]);
    let live = stage.live();
    fs::write(live.join("page"), "in place, by somebody\n").unwrap();
    fs::create_dir(live.join("[new]")).unwrap();
    fs::write(live.join("[new]/file*"), "by somebody\n").unwrap();
    fs::remove_file(live.join("gone")).unwrap();
    stage.sync().ok();
    let listed = drift(&stage, &["list", DATASET]).data();
    let points = listed["points"].as_array().unwrap();
    let [point] = points.as_slice() else {
        panic!("{listed}");
    };
    let number = point["snapshot"]["number"].to_string();
    assert_eq!(point["before"].as_u64(), Some(1), "{point}");
    assert_eq!(point["after"].as_u64(), Some(3), "{point}");
    drift(&stage, &["list"])
        .ok()
        .mentions(&[DATASET, "drift: "]);
    let shown = drift(&stage, &["show", DATASET, &number]).ok();
    shown.mentions(&["page", "[new]/file*", "removed     gone", "of user"]);
    let target = stage.path().join("brought-back");
    let to = target.to_str().unwrap();
    drift(&stage, &["restore", DATASET, &number, to]).ok();
    let found = |name: &str| fs::read_to_string(target.join(name)).ok();
    assert_eq!(found("page").as_deref(), Some("in place, by somebody\n"));
    assert_eq!(found("[new]/file*").as_deref(), Some("by somebody\n"));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2, "nothing else");
    // Again into the same place, and what is no drift point.
    drift(&stage, &["restore", DATASET, &number, to]).expect(2);
    let wrong = drift(&stage, &["show", DATASET, "1"]).expect(1);
    wrong.mentions(&["no drift point", "drift list"]);
    // What is only removed cannot be brought back.
    fs::remove_file(live.join("other")).unwrap();
    stage.sync().ok();
    let removed = drift(&stage, &["restore", DATASET, "4", "nowhere"]).expect(1);
    removed.mentions(&["nothing was added or changed"]);
}

/// A tree of which not everything is compared in each cycle.
#[test]
fn what_is_added_to_a_large_tree_is_found_before_the_next_upload() {
    let stage = Stage::new(Kind::Embedded);
    for number in 0..10_200 {
        let directory = stage.source.join(format!("d{}", number / 300));
        if number % 300 == 0 {
            fs::create_dir(&directory).unwrap();
        }
        fs::write(directory.join(number.to_string()), "x").unwrap();
    }
    stage.sync().ok();
    fs::write(stage.source.join("d0/first"), "1").unwrap();
    stage.sync().ok();
    // Everything was compared just now.
    fs::write(stage.source.join("d0/second"), "2").unwrap();
    stage.sync().ok();
    let before = newest(&stage);
    std::thread::sleep(std::time::Duration::from_millis(50));
    fs::write(stage.live().join("d7/by-somebody"), "3").unwrap();
    fs::write(stage.source.join("d0/third"), "4").unwrap();
    stage.sync().ok();
    let point = (before + 1).to_string();
    let shown = drift(&stage, &["show", DATASET, &point]).ok();
    shown.mentions(&["added       d7/by-somebody"]);
    assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
    // And nobody is suspected for what the commits did.
    for number in 0..3 {
        fs::write(stage.source.join("d1/more"), number.to_string()).unwrap();
        stage.sync().ok();
    }
    let listed = drift(&stage, &["list"]).data();
    assert_eq!(listed["points"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn a_dataset_that_drift_halts_takes_nothing_until_a_person_accepts_it() {
    let mut stage = Stage::new(Kind::Embedded);
    let config = stage.path().join("receiver.toml");
    fs::write(
        &config,
        "drift = \"halt\"\n[dataset.other]\ndrift = \"keep-and-heal\"\n",
    )
    .unwrap();
    stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        run.arg("--config").arg(&config)
    }));
    fs::write(stage.source.join("page"), "of the main\n").unwrap();
    stage.sync().ok();
    stage.sync().ok();
    let page = stage.live().join("page");
    fs::write(&page, "by somebody\n").unwrap();
    fs::write(stage.source.join("page"), "newer, of the main\n").unwrap();
    let accept = format!("drift accept {DATASET} 2");
    for _ in 0..2 {
        stage
            .sync()
            .expect(4)
            .mentions(&["halted", "snapshot 2", &accept]);
        assert_eq!(fs::read_to_string(&page).unwrap(), "by somebody\n");
        assert_eq!(newest(&stage), 2, "one drift point");
    }
    let status = Run::new(["status", "--spare"]).arg(&stage.store).ok();
    status.mentions(&["TROUBLE", "halted", &accept]);
    // Whoever takes uploads next does not undo it either.
    let beside = Run::new(["sync"])
        .arg(&stage.source)
        .args(["--dataset", DATASET, "--state"])
        .arg(stage.path().join("beside"))
        .arg("--spare")
        .arg(&stage.store);
    beside.expect(4).mentions(&["halted"]);
    let wrong = drift(&stage, &["accept", DATASET, "1"]).expect(1);
    wrong.mentions(&["drift point 2", "drift list"]);
    drift(&stage, &["accept", DATASET, "2"])
        .ok()
        .mentions(&["snapshot 2"]);
    stage.sync().ok();
    assert_eq!(fs::read_to_string(&page).unwrap(), "newer, of the main\n");
    drift(&stage, &["accept", DATASET, "2"])
        .expect(1)
        .mentions(&["no drift point"]);
    // The next one halts anew.
    fs::write(&page, "by somebody again\n").unwrap();
    stage.sync().expect(4).mentions(&["snapshot 4"]);
    // What is found where somebody wrote is kept while a person thinks about it.
    let target = stage.path().join("looked-at");
    drift(&stage, &["restore", DATASET, "4", target.to_str().unwrap()]).ok();
    let found = fs::read_to_string(target.join("page")).unwrap();
    assert_eq!(found, "by somebody again\n");
}
