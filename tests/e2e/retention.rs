//! Snapshots that expire: what a dry run says is what happens, pins hold, and whatever comes in between leaves each listed
//! snapshot whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command::tool;
use crate::support::disks::Disk;
use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::trees::set_generation;
use crate::support::{Kind, Outcome, Random, Run, Stage, judge};

/// Everything but the newest snapshot expires after a second, and goes a second after it was flagged.
const SECONDS: &str = "[retention]\nall = \"1s\"\nhourly = \"off\"\ndaily = \"off\"\nmonthly = \"off\"\n\
                       minimum_age = \"1s\"\nnewest = 1\ngrace = \"1s\"\n";

/// A spare with four snapshots, and a copy of the source as it was at each.
struct History {
    stage: Stage,
    config: PathBuf,
}

impl History {
    fn new(stage: Stage) -> Self {
        let config = stage.path().join("receiver.toml");
        let text = format!("store = {:?}\n{SECONDS}", stage.store);
        std::fs::write(&config, text).unwrap();
        for number in 1..=4 {
            set_generation(&stage.source, number, 40);
            let noise = Random::new(number).noise(30_000);
            std::fs::write(stage.source.join("noise"), noise).unwrap();
            stage.sync().ok();
            let copy = stage.path().join(format!("copy-{number}"));
            tool("cp", [Path::new("-a"), &stage.source, &copy]);
        }
        let history = Self { stage, config };
        history.pass();
        history
    }

    /// What was young is not any more. It may take longer, which changes nothing.
    fn pass(&self) {
        std::thread::sleep(Duration::from_millis(2100));
    }

    fn on_spare(&self, command: &str) -> Run {
        Run::new([command, "--config"]).arg(&self.config)
    }

    fn prune(&self) -> Run {
        self.on_spare("prune")
    }

    /// What pruning says of the dataset.
    fn pruned(&self, run: Run) -> Value {
        run.data()["datasets"][0].clone()
    }

    fn pin(&self, number: u64, reason: &str) {
        let pin = self.on_spare("pin").arg(DATASET).arg(number.to_string());
        pin.arg("--reason").arg(reason).ok();
    }

    fn snapshots(&self) -> Vec<Value> {
        let data = self.stage.ask("snapshots").arg(DATASET).data();
        data["datasets"][0]["snapshots"].as_array().unwrap().clone()
    }

    fn numbers(&self) -> Vec<u64> {
        self.snapshots()
            .iter()
            .map(|one| one["number"].as_u64().unwrap())
            .collect()
    }

    /// A snapshot comes back as it was.
    fn check(&self, number: u64) {
        let target = self.stage.path().join("target");
        self.stage
            .restore(&target)
            .arg("--snapshot")
            .arg(number.to_string())
            .ok();
        judge::same(&self.stage.path().join(format!("copy-{number}")), &target);
        std::fs::remove_dir_all(&target).unwrap();
    }

    /// Number and length of all that is in history.
    fn objects(&self) -> (u64, u64) {
        let shelves = std::fs::read_dir(self.stage.dataset().join(".understudy/objects")).unwrap();
        let files = shelves.flat_map(|shelf| std::fs::read_dir(shelf.unwrap().path()).unwrap());
        files.fold((0, 0), |(files, bytes), file| {
            (files + 1, bytes + file.unwrap().metadata().unwrap().len())
        })
    }
}

fn numbers(all: &Value) -> Vec<u64> {
    all.as_array()
        .unwrap()
        .iter()
        .map(|one| one["number"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_dry_run_says_what_pruning_does_and_what_is_pinned_comes_back() {
    needs!("a_dry_run_says_what_pruning_does_and_what_is_pinned_comes_back": "rsync");
    for kind in Kind::BOTH {
        let history = History::new(Stage::new(kind));
        history.pin(1, "audit until June");

        let foretold = history.pruned(history.prune().arg("--dry-run"));
        assert_eq!(numbers(&foretold["flagged"]), [2, 3], "{foretold}");
        assert!(
            history
                .snapshots()
                .iter()
                .all(|one| one["flagged"].is_null())
        );
        let flagged = history.pruned(history.prune());
        assert_eq!(numbers(&flagged["flagged"]), [2, 3], "{flagged}");
        assert_eq!(numbers(&flagged["removed"]), [] as [u64; 0], "{flagged}");
        let told = history.snapshots();
        assert_eq!(told[0]["pin"]["reason"], "audit until June");
        assert!(told[0]["flagged"].is_null() && told[1]["pin"].is_null());
        assert!(told[1]["flagged"]["goes"].is_string(), "{told:?}");
        history.stage.ask("snapshots").ok().mentions(&[
            "GOES",
            "PIN",
            "audit until June",
            "never verified",
        ]);

        history.pass();
        let before = history.objects();
        let foretold = history.pruned(history.prune().arg("--dry-run"));
        assert_eq!(history.objects(), before);
        let done = history.pruned(history.prune());
        assert_eq!(done, foretold);
        assert_eq!(numbers(&done["removed"]), [2, 3], "{done}");
        let after = history.objects();
        assert!(after.0 < before.0 && after.1 < before.1);
        let gone = json!([before.0 - after.0, before.1 - after.1]);
        assert_eq!(
            json!([done["freed"]["objects"], done["freed"]["bytes"]]),
            gone
        );
        assert_eq!(history.numbers(), [1, 4]);
        history.check(1);
        history.check(4);
        let refused = history
            .stage
            .restore(&history.stage.path().join("no"))
            .arg("--snapshot")
            .arg("2")
            .outcome();
        assert_eq!(refused.code, Some(1), "{refused}");
        history.stage.ask("verify").ok();
        history
            .stage
            .ask("snapshots")
            .ok()
            .mentions(&["all as it should be"]);

        // The twins go on, and what was pinned is like any other again.
        set_generation(&history.stage.source, 5, 40);
        history.stage.sync_and_judge();
        history.on_spare("unpin").arg(DATASET).arg("1").ok();
        history.pass();
        let done = history.pruned(history.prune().arg("--now"));
        assert_eq!(numbers(&done["removed"]), [1, 4], "{done}");
        history.stage.ask("verify").ok();
        set_generation(&history.stage.source, 6, 40);
        history.stage.sync_and_judge();
        history.prune().ok();
        history.stage.ask("verify").ok();
    }
}

#[test]
fn killed_at_every_step_of_a_removal() {
    needs!("killed_at_every_step_of_a_removal": "rsync");
    for point in [
        "prune.recorded=return",
        "prune.object=return",
        "prune.object=7*off->return",
        "prune.rows=return",
    ] {
        let history = History::new(Stage::new(Kind::Embedded));
        history.pin(2, "why");
        let killed = history.prune().arg("--now").failing(point).outcome();
        assert!(killed.was_killed(), "{point}: {killed}");
        // Each that is listed is whole, and nothing is missing that anybody knows of.
        assert_eq!(history.numbers(), [2, 4], "{point}");
        history.stage.ask("verify").ok();
        history.check(2);
        history.pruned(history.prune());
        history.stage.ask("verify").ok();
        history.check(2);
        let again = history.pruned(history.prune().arg("--dry-run"));
        assert_eq!(again["freed"]["objects"], 0, "{point}: {again}");
        set_generation(&history.stage.source, 7, 40);
        history.stage.sync_and_judge();
    }
}

#[test]
fn what_stops_pruning_is_told() {
    let history = History::new(Stage::new(Kind::Embedded));
    let live = history.stage.live().join("noise");
    std::fs::write(&live, "somebody wrote this").unwrap();
    history.stage.ask("verify").expect(9);
    let foretold = history.pruned(history.prune().arg("--dry-run"));
    assert_eq!(foretold["stopped"]["kind"], "findings", "{foretold}");
    let stopped = |run: Run| -> Outcome { run.expect(1) };
    stopped(history.prune()).mentions(&["verification", "hint"]);
    stopped(history.prune().arg("--now"));
    assert_eq!(history.numbers(), [1, 2, 3, 4]);
    // A main is told where to do it.
    let remote = Run::new(["prune", "--spare", "127.0.0.1:7433"]).expect(2);
    remote.mentions(&["on the spare itself"]);
    history
        .on_spare("pin")
        .arg(DATASET)
        .arg("77")
        .arg("--reason")
        .arg("x")
        .expect(1);
    history
        .on_spare("pin")
        .arg(DATASET)
        .arg("1")
        .arg("--reason")
        .arg(" ")
        .expect(2);
}

#[test]
fn a_cycle_that_is_held_meanwhile_is_released_whole() {
    needs!("a_cycle_that_is_held_meanwhile_is_released_whole": "rsync");
    let history = History::new(Stage::new(Kind::Embedded));
    let source = &history.stage.source;
    std::fs::rename(source.join("noise"), source.join("only")).unwrap();
    for directory in std::fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if directory.is_dir() {
            std::fs::remove_dir_all(directory).unwrap();
        }
    }
    history.stage.sync().expect(4);
    let done = history.pruned(history.prune().arg("--now"));
    assert_eq!(numbers(&done["removed"]), [1, 2, 3], "{done}");
    history.check(4);
    let held = history.on_spare("held").data()["held"][0].clone();
    let digest = held["digest"].as_str().unwrap();
    history.on_spare("release").arg(DATASET).arg(digest).ok();
    judge::same(source, &history.stage.live());
    assert_eq!(history.numbers(), [4, 5]);
    history.stage.ask("verify").ok();
    history.check(4);
    set_generation(source, 8, 40);
    history.stage.sync_and_judge();
}

/// Fills a disk to the last byte.
fn fill(place: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(place).unwrap();
    for size in [1 << 20, 4096, 512, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    file.sync_all().ok();
}

#[test]
fn pruning_frees_a_disk_that_is_full() {
    needs!("pruning_frees_a_disk_that_is_full": "root", "mkfs.ext4");
    for disk in [Disk::ext4(48), Disk::tmpfs(48)] {
        let history = History::new(Stage::with_store_at(Kind::Embedded, &disk.root));
        // The first pass leaves room for those on a full disk.
        history.pruned(history.prune());
        fill(&disk.root.join("full"));
        assert!(disk.free_bytes() < 4096, "{}", disk.free_bytes());
        let done = history.pruned(history.prune().arg("--now"));
        assert_eq!(numbers(&done["removed"]), [1, 2, 3], "{done}");
        assert!(disk.free_bytes() > 100_000, "{}", disk.free_bytes());
        assert_eq!(history.numbers(), [4]);
        history.stage.ask("verify").ok();
    }
}
