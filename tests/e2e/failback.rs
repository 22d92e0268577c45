//! Trees that are there already become datasets: the copy of another program, and what an old main has.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::tool;
use crate::support::disks::Mounted;
use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage, judge};

const STEPS: [&str; 4] = [
    "adopt.prepared",
    "adopt.taken",
    "adopt.absorbed",
    "adopt.whole",
];

fn adopt(directory: &Path, store: &Path) -> Run {
    Run::new(["adopt"])
        .arg(directory)
        .args(["--dataset", DATASET, "--yes", "--store"])
        .arg(store)
}

/// A main with some files, and a copy of them by another program beside its empty store.
fn with_copy() -> (Stage, PathBuf) {
    let stage = Stage::new(Kind::Embedded);
    for number in 0..40 {
        let directory = stage.source.join(format!("d{}", number % 4));
        fs::create_dir_all(&directory).unwrap();
        let content = format!("file {number}\n").repeat(2000 + number);
        fs::write(directory.join(format!("f{number}")), content).unwrap();
    }
    fs::hard_link(stage.source.join("d0/f0"), stage.source.join("d1/same")).unwrap();
    let copy = stage.path().join("mirror");
    let (from, to) = (stage.source.join(""), copy.join(""));
    tool(
        "rsync",
        ["-aHAX", from.to_str().unwrap(), to.to_str().unwrap()],
    );
    (stage, copy)
}

/// The main's next cycle sends what differs, and no more.
fn assert_continued(stage: &Stage) {
    fs::write(stage.source.join("d2/new"), "new\n").unwrap();
    fs::remove_file(stage.source.join("d3/f3")).unwrap();
    let synced = stage.sync().data();
    let sent = synced["bytes_sent"].as_u64().unwrap();
    assert!(sent < 20_000, "{synced}");
    assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
    stage.sync().ok();
    Run::new(["verify", "--spare"]).arg(&stage.store).ok();
}

#[test]
fn a_copy_of_another_program_is_adopted_and_only_what_differs_travels() {
    let (stage, copy) = with_copy();
    let looked = adopt(&copy, &stage.store).arg("--dry-run");
    looked.expect(2).mentions(&["cannot be used as a store"]);
    let adopted = adopt(&copy, &stage.store).data();
    assert_eq!(adopted["snapshot"]["number"], 1, "{adopted}");
    assert!(!copy.exists());
    assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
    // Once more, and nothing happens.
    adopt(&copy, &stage.store).ok().mentions(&["before"]);
    assert_continued(&stage);
}

#[test]
fn an_adoption_can_be_killed_at_any_step() {
    for point in STEPS
        .into_iter()
        .chain(["absorb.sealed", "absorb.marked", "absorb.recorded"])
    {
        let (stage, copy) = with_copy();
        let killed = adopt(&copy, &stage.store)
            .failing(&format!("{point}=1*return"))
            .outcome();
        assert!(killed.was_killed(), "{point}");
        if copy.exists() {
            assert_eq!(judge::rsync(&stage.source, &copy, &[]), "", "{point}");
        }
        adopt(&copy, &stage.store).ok();
        assert_eq!(
            judge::rsync(&stage.source, &stage.live(), &[]),
            "",
            "{point}"
        );
        assert_continued(&stage);
    }
}

#[test]
fn what_cannot_be_adopted_stays_where_it_is() {
    let (stage, copy) = with_copy();
    let refused = |directory: &Path, words: &[&str]| {
        adopt(directory, &stage.store).expect(1).mentions(words);
    };
    refused(&stage.path().join("nothing"), &["not there"]);
    let empty = stage.path().join("empty");
    fs::create_dir(&empty).unwrap();
    refused(&empty, &["empty"]);
    let link = stage.path().join("link");
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    refused(&link, &["link"]);
    refused(&stage.store, &["one another"]);
    adopt(&copy, &stage.store).ok();
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("f"), "x").unwrap();
    refused(&copy, &["already", "sync"]);
    assert_eq!(fs::read_to_string(copy.join("f")).unwrap(), "x");
}

#[test]
fn a_tree_of_another_file_system_is_not_adopted() {
    needs!("a_tree_of_another_file_system_is_not_adopted": "root", "mount");
    let (stage, _) = with_copy();
    let disk = stage.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let _mounted = Mounted::new(&["-t", "tmpfs"], Path::new("none"), &disk);
    fs::create_dir(disk.join("tree")).unwrap();
    for directory in [disk.clone(), disk.join("tree")] {
        fs::write(directory.join("f"), "x").unwrap();
    }
    adopt(&disk, &stage.store)
        .expect(1)
        .mentions(&["mounted there", "sync"]);
    let elsewhere = adopt(&disk.join("tree"), &stage.store).expect(1);
    elsewhere.mentions(&["another file system", "sync"]);
    assert_eq!(fs::read_to_string(disk.join("tree/f")).unwrap(), "x");
}

/// A main whose spare was promoted, with what it wrote after its last cycle; the configuration of its agent.
struct Switched {
    stage: Stage,
    config: PathBuf,
    /// The store of the old main.
    store: PathBuf,
    /// A copy of what the old main had.
    had: PathBuf,
}

impl Switched {
    fn new() -> Self {
        let (stage, copy) = with_copy();
        fs::remove_dir_all(&copy).unwrap();
        stage.sync().ok();
        stage.sync().ok();
        let config = stage.path().join("agent.toml");
        let text = format!(
            "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
            stage.store, stage.state, stage.source
        );
        fs::write(&config, text).unwrap();
        // What is never shipped.
        fs::write(stage.source.join("d0/f4"), "in place, on the old main\n").unwrap();
        fs::write(stage.source.join("d1/unshipped"), "on the old main\n").unwrap();
        fs::remove_file(stage.source.join("d2/f2")).unwrap();
        let promote = Run::new(["promote", DATASET, "--yes", "--store"]);
        promote.arg(&stage.store).ok();
        stage.sync().expect(5);
        let live = stage.live();
        fs::write(live.join("d0/f0"), "in place, on the new main\n").unwrap();
        fs::write(live.join("d3/new"), "on the new main\n").unwrap();
        fs::remove_file(live.join("d1/f1")).unwrap();
        let had = stage.path().join("had");
        let (from, to) = (stage.source.join(""), had.join(""));
        tool(
            "rsync",
            ["-aHAX", from.to_str().unwrap(), to.to_str().unwrap()],
        );
        let store = stage.path().join("old-main");
        Self {
            stage,
            config,
            store,
            had,
        }
    }

    fn failback(&self) -> Run {
        Run::new(["failback", DATASET, "--yes", "--config"])
            .arg(&self.config)
            .arg("--store")
            .arg(&self.store)
    }

    /// A cycle of the agent of the new main, whose spare the old one is.
    fn ship(&self) -> Run {
        Run::new(["sync"])
            .arg(self.stage.live())
            .args(["--dataset", DATASET, "--state"])
            .arg(self.stage.path().join("new-state"))
            .arg("--spare")
            .arg(&self.store)
    }

    fn files(&self) -> PathBuf {
        self.store.join(DATASET).join("live/files")
    }

    fn snapshots(&self) -> Vec<Value> {
        let listed = Run::new(["snapshots", DATASET, "--spare"])
            .arg(&self.store)
            .data();
        listed["datasets"][0]["snapshots"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// The old main is the spare, follows, and has kept what it never shipped.
    fn assert_failed_back(&self) {
        let stage = &self.stage;
        assert_eq!(fs::read_link(&stage.source).unwrap(), self.files());
        assert_eq!(judge::rsync(&self.had, &self.files(), &[]), "");
        // Whoever starts the old agent again does no harm.
        let agent = Run::new(["agent", "--once", "--config"]).arg(&self.config);
        agent.expect(5).mentions(&["spare", DATASET]);
        let shipped = self.ship().data();
        assert!(
            shipped["bytes_sent"].as_u64().unwrap() < 40_000,
            "{shipped}"
        );
        assert_eq!(judge::rsync(&stage.live(), &self.files(), &[]), "");
        let snapshots = self.snapshots();
        let [kept, followed] = snapshots.as_slice() else {
            panic!("{snapshots:?}");
        };
        assert_eq!((&kept["epoch"], &followed["epoch"]), (&1.into(), &2.into()));
        assert_eq!(
            (&kept["number"], &followed["number"]),
            (&2.into(), &3.into())
        );
        let pin = kept["pin"]["reason"].as_str().unwrap();
        assert!(pin.contains("never shipped"), "{pin}");
        let diff = Run::new(["diff", DATASET, "2", "3", "--spare"]).arg(&self.store);
        diff.ok()
            .mentions(&["d1/unshipped", "d0/f4", "d2/f2", "d3/new", "d0/f0", "d1/f1"]);
        let target = stage.path().join("restored");
        let restore = Run::new(["restore", DATASET])
            .arg(&target)
            .args(["--unverified", "--snapshot", "2", "--spare"])
            .arg(&self.store)
            .arg("--state")
            .arg(stage.path().join("other-state"));
        restore.ok();
        assert_eq!(judge::rsync(&self.had, &target, &[]), "");
        self.ship().ok();
        Run::new(["verify", "--spare"]).arg(&self.store).ok();
        self.failback().ok().mentions(&["already"]);
    }
}

#[test]
fn an_old_main_becomes_the_spare_and_keeps_what_it_never_shipped() {
    let switched = Switched::new();
    let looked = switched.failback().arg("--dry-run").ok();
    looked.mentions(&["epoch 2", "nothing was changed"]);
    assert!(!switched.store.exists());
    switched
        .failback()
        .ok()
        .mentions(&["pair --new", "snapshot 2 of epoch 1"]);
    switched.assert_failed_back();
}

#[test]
fn a_failback_can_be_killed_at_any_step() {
    for point in STEPS
        .into_iter()
        .chain(["absorb.marked", "failback.adopted"])
    {
        let switched = Switched::new();
        let killed = switched.failback().failing(&format!("{point}=1*return"));
        assert!(killed.outcome().was_killed(), "{point}");
        switched.failback().ok();
        switched.assert_failed_back();
    }
}

#[test]
fn a_failback_in_the_wrong_direction_is_refused() {
    let (stage, copy) = with_copy();
    fs::remove_dir_all(&copy).unwrap();
    stage.sync().ok();
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.store, stage.state, stage.source
    );
    fs::write(&config, text).unwrap();
    let failback = || {
        Run::new(["failback", DATASET, "--yes", "--config"])
            .arg(&config)
            .arg("--store")
            .arg(stage.path().join("own"))
    };
    // The other host is the spare still.
    failback().expect(5).mentions(&["promote", "resume"]);
    assert!(stage.source.join("d0/f0").exists());
    // And on the promoted host itself.
    let promote = Run::new(["promote", DATASET, "--yes", "--store"]);
    promote.arg(&stage.store).ok();
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.path().join("own"),
        stage.path().join("new-state"),
        stage.live()
    );
    fs::write(&config, text).unwrap();
    failback().expect(5).mentions(&["`main`", "demote"]);
    assert!(stage.live().join("d0/f0").exists());
}

fn salvage(stage: &Stage, directory: &Path) -> Run {
    Run::new(["salvage"])
        .arg(directory)
        .args(["--dataset", DATASET, "--store"])
        .arg(&stage.store)
}

#[test]
fn what_the_disks_of_a_broken_main_have_is_not_lost() {
    let (stage, disk) = with_copy();
    stage.sync().ok();
    // The main dies, and its disk has what came after the last cycle.
    fs::write(disk.join("d0/f4"), "after the last cycle\n").unwrap();
    fs::write(disk.join("d1/late"), "after the last cycle\n").unwrap();
    salvage(&stage, &disk)
        .arg("--dry-run")
        .ok()
        .mentions(&["newest snapshot"]);
    let salvaged = salvage(&stage, &disk).data();
    assert_eq!(salvaged["snapshot"]["epoch"], 1, "{salvaged}");
    assert!(
        salvaged["bytes_sent"].as_u64().unwrap() < 5000,
        "{salvaged}"
    );
    assert_eq!(judge::rsync(&disk, &stage.live(), &[]), "");
    let promote = Run::new([
        "promote",
        DATASET,
        "--yes",
        "--preserve",
        "before",
        "--store",
    ]);
    promote.arg(&stage.store).ok();
    // More is found after the promotion: the live tree is the application's.
    fs::write(stage.live().join("d0/f4"), "by the application\n").unwrap();
    fs::write(disk.join("d2/f2"), "on another disk\n").unwrap();
    salvage(&stage, &disk)
        .ok()
        .mentions(&["site-salvaged", "pinned"]);
    assert_eq!(
        fs::read_to_string(stage.live().join("d0/f4")).unwrap(),
        "by the application\n"
    );
    let beside = stage.store.join("site-salvaged/live/files");
    assert_eq!(judge::rsync(&disk, &beside, &[]), "");
}

#[test]
fn a_disk_that_is_half_there_does_not_become_the_truth() {
    let (stage, disk) = with_copy();
    stage.sync().ok();
    fs::remove_dir_all(disk.join("d0")).unwrap();
    fs::remove_dir_all(disk.join("d1")).unwrap();
    let held = salvage(&stage, &disk).expect(4);
    held.mentions(&["mounted whole", "held"]);
    assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
    for directory in ["d2", "d3"] {
        fs::remove_dir_all(disk.join(directory)).unwrap();
    }
    salvage(&stage, &disk).expect(4);
    salvage(&stage, &stage.path().join("nothing")).expect(1);
    assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
}
