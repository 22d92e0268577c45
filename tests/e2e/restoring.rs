//! Restores of a part, of a moment, interrupted, in an order, into a place that is in use, of everything.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::support::needs::needs;
use crate::support::proxy::Proxy;
use crate::support::stage::DATASET;
use crate::support::{Kind, Random, Run, Stage, facts, judge, trees};

/// Paths of everything below `root`, directories with a `/`.
fn listed(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let is_directory = path.symlink_metadata().unwrap().is_dir();
            let text = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            found.push(if is_directory {
                format!("{text}/")
            } else {
                text
            });
            pending.extend(is_directory.then_some(path));
        }
    }
    found.sort();
    found
}

#[test]
fn the_snapshot_of_a_moment_comes_back() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        std::fs::write(stage.source.join("file"), "first").unwrap();
        let first = stage.sync().data();
        std::fs::write(stage.source.join("file"), "second").unwrap();
        // Snapshots are told apart by seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        stage.sync().ok();
        let time = first["snapshot"]["time"].as_str().unwrap();
        let target = stage.path().join("restored");
        let outcome = stage.restore(&target).args(["--at", time]).ok();
        outcome.mentions(&["snapshot 1", time]);
        assert_eq!(std::fs::read(target.join("file")).unwrap(), b"first");
        let newest = stage.path().join("newest");
        let data = stage.restore(&newest).args(["--at", "0s"]).data();
        assert_eq!(data["snapshot"]["number"], 2, "{data}");
        let never = stage.path().join("never");
        let outcome = stage.restore(&never).args(["--at", "1 day"]).expect(1);
        outcome.mentions(&["no snapshot", time, "understudy snapshots"]);
        stage.restore(&never).args(["--at", "noon"]).expect(2);
        assert!(!never.exists());
    }
}

#[test]
fn of_a_large_file_that_stands_there_only_what_differs_is_fetched() {
    needs!("of_a_large_file_that_stands_there_only_what_differs_is_fetched": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        let mut content = Random::new(5).noise(8 << 20);
        std::fs::write(stage.source.join("large"), &content).unwrap();
        stage.sync().ok();
        let target = stage.path().join("restored");
        std::fs::create_dir(&target).unwrap();
        for at in [7, 4_000_000, 8_000_000] {
            content[at] ^= 1;
        }
        std::fs::write(target.join("large"), &content).unwrap();
        let data = stage.restore(&target).arg("--replace").data();
        assert_eq!(data["bytes_fetched"], 3 * 4096, "{data}");
        judge::same(&stage.source, &target);
        let kept = data["kept"].as_str().unwrap();
        assert!(std::fs::read(Path::new(kept).join("large")).unwrap() == content);
    }
}

#[test]
fn a_part_comes_back_with_the_directories_above_it() {
    needs!("a_part_comes_back_with_the_directories_above_it": "rsync");
    let stage = Stage::new(Kind::Tcp);
    trees::mixed(&mut Random::new(61), &stage.source, 60);
    let deep = stage.source.join("albums/2019");
    std::fs::create_dir_all(&deep).unwrap();
    for name in ["one.jpg", "one.xmp", "two.jpg"] {
        std::fs::write(deep.join(name), name).unwrap();
    }
    stage.sync().ok();
    let target = stage.path().join("restored");
    let restore = stage.restore(&target);
    restore
        .args(["--path", "albums", "--path", "albums/2019/*.jpg"])
        .ok();
    judge::same(&stage.source.join("albums"), &target.join("albums"));
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1);
    std::fs::remove_dir_all(&target).unwrap();
    stage.restore(&target).args(["--path", "**/*.xmp"]).ok();
    assert_eq!(
        listed(&target),
        ["albums/", "albums/2019/", "albums/2019/one.xmp"]
    );
    std::fs::remove_dir_all(&target).unwrap();
    let outcome = stage.restore(&target).args(["--path", "2019"]).expect(2);
    outcome.mentions(&["matches", "root"]);
    assert!(!target.exists());
}

/// What a block of a large file holds at most.
const BLOCK_BYTES: u64 = 512 << 10;

/// A stage whose spare is reached through a proxy, with some thousand small files and a large one on it.
struct Play {
    stage: Stage,
    proxy: Proxy,
    total: u64,
}

impl Play {
    fn new() -> Self {
        let stage = Stage::new(Kind::Tcp);
        let mut random = Random::new(171);
        let large = 30 << 20;
        let mut total = large;
        for number in 0..2000 {
            let directory = stage.source.join(format!("d{}", number % 40));
            std::fs::create_dir_all(&directory).unwrap();
            let length = random.index(20_000);
            std::fs::write(directory.join(format!("f{number}")), random.noise(length)).unwrap();
            total += length;
        }
        std::fs::write(stage.source.join("large"), random.noise(large)).unwrap();
        stage.sync().ok();
        let mut play = Self {
            proxy: Proxy::to(&stage.spare()),
            stage,
            total: total as u64,
        };
        let daemon = play.stage.daemon.as_mut().unwrap();
        daemon.address.clone_from(&play.proxy.address);
        play
    }

    fn target(&self) -> PathBuf {
        self.stage.path().join("place/target")
    }

    fn restore(&self, options: &[&str]) -> Run {
        std::fs::create_dir_all(self.target().parent().unwrap()).unwrap();
        self.stage.restore(&self.target()).args(options)
    }

    /// Kills a restore when this part of everything has come, and no more comes; says how much is written.
    fn kill_at(&self, part: f64, options: &[&str]) -> u64 {
        let until = (self.total as f64 * part) as u64;
        self.proxy.cut_after(u64::MAX, until);
        let mut child = self.restore(options).spawn(Stdio::null(), Stdio::null());
        let place = self.target();
        let place = place.parent().unwrap();
        let (mut written, mut looks) = (0, 0);
        // It tries to connect again meanwhile, for minutes. A disk that is busy may stand still for a while.
        while !self.proxy.is_cut() || looks < 30 {
            assert!(is_alive(&mut child), "it ended before it could be killed");
            let now = bytes_below(place);
            looks = if now == written { looks + 1 } else { 0 };
            written = now;
            std::thread::park_timeout(Duration::from_millis(100));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        self.proxy.cut_after(u64::MAX, u64::MAX);
        bytes_below(place)
    }

    /// What stands in the directory of the target.
    fn beside(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.target().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn is_alive(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// Bytes of all files below `root`, which may change meanwhile.
fn bytes_below(root: &Path) -> u64 {
    let (mut bytes, mut pending) = (0, vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[test]
fn killed_at_half_the_second_run_fetches_the_rest() {
    needs!("killed_at_half_the_second_run_fetches_the_rest": "rsync");
    // In the midst of the small files, and within the large one.
    for options in [&["--order", "smallest"][..], &["--first", "large"]] {
        let play = Play::new();
        let written = play.kill_at(0.5, options);
        assert_eq!(play.beside(), ["target.understudy-restore"]);
        assert!(written < play.total * 9 / 10, "{written} of {}", play.total);
        let data = play.restore(options).data();
        judge::same(&play.stage.source, &play.target());
        let fetched = data["bytes_fetched"].as_u64().unwrap();
        assert!(
            fetched <= play.total - written + BLOCK_BYTES,
            "{written}: {data}"
        );
        assert!(fetched <= play.total * 51 / 100 + BLOCK_BYTES, "{data}");
        let came = play.proxy.passed().1;
        assert!(came < fetched + (4 << 20), "{came}: {data}");
        assert_eq!(play.beside(), ["target"]);
    }
}

#[test]
fn a_cut_connection_is_made_again_without_being_asked() {
    needs!("a_cut_connection_is_made_again_without_being_asked": "rsync");
    let play = Play::new();
    play.proxy.cut_after(u64::MAX, play.total / 2);
    let run = play.restore(&["--json"]);
    let (target, proxy) = (play.target(), &play.proxy);
    let outcome = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| run.outcome());
        // Once half of it has come, the next connection is let through.
        while !proxy.is_cut() && !restoring.is_finished() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        proxy.cut_after(u64::MAX, u64::MAX);
        restoring.join().unwrap()
    });
    assert_eq!(outcome.code, Some(0), "{outcome}");
    outcome.mentions(&["connecting again"]);
    judge::same(&play.stage.source, &target);
    let data = outcome.data();
    let fetched = data["bytes_fetched"].as_u64().unwrap();
    assert!(fetched < play.total * 13 / 10, "{data}");
    assert_eq!(data["files_fetched"], 2001, "{data}");
}

#[test]
fn a_spare_that_stays_away_is_told() {
    let mut stage = Stage::new(Kind::Tcp);
    std::fs::write(stage.source.join("file"), "file").unwrap();
    stage.sync().ok();
    stage.daemon.as_mut().unwrap().kill();
    let begun = Instant::now();
    let outcome = stage.restore(&stage.path().join("target")).expect(6);
    // Where there was no connection none is made again.
    assert!(begun.elapsed() < Duration::from_secs(20), "{outcome}");
}

#[test]
fn programs_are_told_how_far_it_is() {
    let stage = Stage::new(Kind::Tcp);
    trees::mixed(&mut Random::new(62), &stage.source, 30);
    stage.sync().ok();
    let receiver = stage.daemon.as_ref().unwrap().pid();
    kill_process(receiver, Signal::STOP).unwrap();
    let run = stage.restore(&stage.path().join("target")).arg("--json");
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| run.outcome());
        std::thread::park_timeout(Duration::from_millis(2500));
        kill_process(receiver, Signal::CONT).unwrap();
        restoring.join().unwrap()
    });
    let seconds = begun.elapsed().as_secs();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let lines: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, before) = lines.split_last().unwrap();
    assert_eq!(last["ok"], true, "{outcome}");
    assert!(
        (1..=seconds + 1).contains(&(before.len() as u64)),
        "{outcome}"
    );
    for line in before {
        assert_eq!(line["schema"], 1, "{outcome}");
        for key in ["files_done", "files_total", "bytes_found", "bytes_total"] {
            assert!(line["progress"][key].is_u64(), "{key}: {outcome}");
        }
    }
}

#[test]
fn a_target_fills_while_it_is_served() {
    needs!("a_target_fills_while_it_is_served": "rsync");
    let play = Play::new();
    let options = [
        "--in-place-progressive",
        "--first",
        "d7/f7",
        "--first",
        "d3",
    ];
    play.kill_at(0.4, &options);
    // What was asked for first is there, and of everything that is there nothing is half.
    let there: Vec<String> = listed(&play.target());
    let files = there.iter().filter(|path| !path.ends_with('/'));
    for file in files {
        let read = |root: &Path| std::fs::read(root.join(file)).unwrap();
        assert_eq!(read(&play.stage.source), read(&play.target()), "{file}");
    }
    let of_first = listed(&play.stage.source.join("d3"));
    assert_eq!(listed(&play.target().join("d3")), of_first);
    assert!(there.contains(&"d7/f7".to_owned()));
    assert!(there.len() < 2000, "it was killed too late");

    let refused = play.restore(&[]).expect(2);
    refused.mentions(&["--replace"]);
    let data = play.restore(&options).data();
    judge::same(&play.stage.source, &play.target());
    assert!(
        data["bytes_fetched"].as_u64().unwrap() < play.total * 7 / 10,
        "{data}"
    );
    assert_eq!(data["kept"], Value::Null);
    assert_eq!(play.beside(), ["target"]);
}

#[test]
fn nothing_outside_a_target_that_is_in_use_is_touched() {
    needs!("nothing_outside_a_target_that_is_in_use_is_touched": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(63), &stage.source, 80);
        std::fs::create_dir_all(stage.source.join("site/deep")).unwrap();
        std::fs::write(stage.source.join("site/deep/page"), "page").unwrap();
        std::fs::write(stage.source.join("site/index"), "index").unwrap();
        stage.sync().ok();
        let place = stage.path().join("place");
        let (target, outside) = (place.join("target"), place.join("outside"));
        std::fs::create_dir_all(outside.join("deep")).unwrap();
        std::fs::write(outside.join("index"), "precious").unwrap();
        std::fs::write(outside.join("deep/page"), "precious").unwrap();
        let was = facts::facts(&outside);
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("site")).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("stranger")).unwrap();
        std::fs::write(target.join("mine"), "mine").unwrap();
        let restore = |options: &[&str]| stage.restore(&target).args(options);
        restore(&["--in-place-progressive"]).expect(2);
        let data = restore(&["--in-place-progressive", "--replace"]).data();
        judge::same(&stage.source, &target);
        judge::untouched(&was, &outside);
        let kept = PathBuf::from(data["kept"].as_str().unwrap());
        assert!(kept.join("site").is_symlink() && kept.join("stranger").is_symlink());
        assert_eq!(std::fs::read(kept.join("mine")).unwrap(), b"mine");
        // Nothing is left to do.
        let data = restore(&["--in-place-progressive", "--replace"]).data();
        assert_eq!(
            (&data["files_fetched"], &data["kept"]),
            (&0.into(), &Value::Null)
        );
        judge::same(&stage.source, &target);
    }
}

#[test]
fn everything_comes_back() {
    needs!("everything_comes_back": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(64), &stage.source, 40);
        stage.sync().ok();
        let other = stage.path().join("other source");
        std::fs::create_dir(&other).unwrap();
        trees::mixed(&mut Random::new(65), &other, 40);
        let sync = Run::new(["sync", "--dataset", "other", "--spare"]).arg(stage.spare());
        sync.arg("--state").arg(&stage.state).arg(&other).ok();

        let target = stage.path().join("all");
        let restore =
            |options: &[&str]| stage.ask("restore").arg("--all").arg(&target).args(options);
        let rehearsed = restore(&["--dry-run"]).ok();
        rehearsed.mentions(&["2 datasets", "about", DATASET, "other"]);
        assert!(!target.exists());
        let unknown = restore(&["--dataset-order", "nothing"]).expect(2);
        unknown.mentions(&["nothing"]);
        let data = restore(&["--dataset-order", DATASET]).data();
        let names: Vec<&str> = data["datasets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dataset| dataset["dataset"].as_str().unwrap())
            .collect();
        assert_eq!(names, [DATASET, "other"]);
        judge::same(&stage.source, &target.join(DATASET));
        judge::same(&other, &target.join("other"));
        // One that cannot be restored does not hold up the other.
        std::fs::remove_dir_all(target.join("other")).unwrap();
        let outcome = restore(&[]).expect(2);
        outcome.mentions(&["site", "--replace"]);
        judge::same(&other, &target.join("other"));
        stage.ask("restore").arg(&target).expect(2);
    }
}
