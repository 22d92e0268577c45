//! Four processes change a tree in every way they can while daemon cycles run, the kernel's queue of events
//! overflows, and the agent is killed again and again: in the end the spare has exactly what is there.
//!
//! - `UNDERSTUDY_TEST_FULL=1` lets it run for 10 minutes.
//! - `UNDERSTUDY_TEST_SEED` is the seed that a run before has printed.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{XattrFlags, lsetxattr};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::agent::{Agent, Scene, is_quiet};
use crate::support::facts::{differences, facts};
use crate::support::needs::needs;
use crate::support::{Kind, Random, full, judge};

/// Processes that change the tree.
const OPERATORS: u64 = 4;
/// Events that the kernel keeps for the agent before it says that some were lost.
const QUEUE: u64 = 512;
/// The directory that an operator of this process is to change; one per process.
const ROOT: &str = "UNDERSTUDY_SOAK_ROOT";
/// Its seed.
const SEED: &str = "UNDERSTUDY_SOAK_SEED";
/// The file whose appearance ends it, and beside which it writes how much it did.
const STOP: &str = "UNDERSTUDY_SOAK_STOP";

/// What came of it all.
#[derive(Debug, Default)]
struct Figures {
    operations: u64,
    by_journal: u64,
    by_everything: u64,
    sweeps: u64,
    /// Why else everything was looked at.
    gaps: Vec<String>,
    starts: u64,
    kills: u64,
    missed: u64,
    fuzzy: usize,
    failures: Vec<String>,
    missed_paths: Vec<String>,
    /// What the last cycle said it had missed.
    unsure: Vec<String>,
    /// Of that, what is explained by a queue that overflowed while everything was looked at.
    misjudged: usize,
}

impl Figures {
    fn hear(&mut self, cycle: &Value) {
        eprintln!("{}", brief(cycle));
        if let Some(error) = cycle.get("error") {
            self.failures.push(error.to_string());
            return;
        }
        let because = cycle["looked_at"]["everything"].as_str();
        let unsure = std::mem::take(&mut self.unsure);
        if because.is_some_and(is_overflow) {
            self.misjudged += unsure.len();
        } else {
            self.missed_paths.extend(unsure);
        }
        match because {
            None => self.by_journal += 1,
            Some(because) => {
                self.by_everything += 1;
                if because.contains("it is time") {
                    self.sweeps += 1;
                } else if because.contains("not running") || because.contains("the index") {
                    self.starts += 1;
                } else {
                    self.gaps.push(because.to_owned());
                }
            }
        }
        self.missed += cycle["missed"].as_u64().unwrap();
        let paths = cycle["missed_paths"].as_array().unwrap();
        let paths = paths.iter().filter_map(Value::as_str);
        self.unsure = paths.map(str::to_owned).collect();
        self.fuzzy += cycle["fuzzy"].as_array().unwrap().len();
    }

    /// Hears of what `agent` does for a while.
    fn listen(&mut self, agent: &mut Agent, time: Duration) {
        let until = Instant::now() + time;
        while let Some(rest) = until.checked_duration_since(Instant::now()) {
            match agent.next_within(rest) {
                Some(cycle) => self.hear(&cycle),
                None => assert!(agent.is_alive(), "the agent ended: {}", agent.reported()),
            }
        }
    }

    /// Waits for a cycle by the journal that had nothing to do.
    fn await_rest(&mut self, agent: &mut Agent) {
        let begun = Instant::now();
        loop {
            let cycle = agent.next();
            self.hear(&cycle);
            if is_quiet(&cycle) {
                return;
            }
            let time = begun.elapsed();
            assert!(time < Duration::from_secs(60), "never at rest: {self:#?}");
        }
    }
}

#[test]
fn whatever_happens_the_spare_follows() {
    needs!("whatever_happens_the_spare_follows": "root", "rsync", "mkfs.ext4");
    let mut scene = Scene::large_apart(Kind::Tcp);
    scene.settings = "interval = \"1s\"\nsweep = \"3s\"\n".to_owned();
    let seed = seed();
    eprintln!("UNDERSTUDY_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut figures, stop) = (Figures::default(), scene.stage.path().join("stop"));
    std::fs::create_dir(scene.outside("outside")).unwrap();

    let mut agent = Agent::start(&scene.command(), Some(QUEUE));
    agent.until("the first snapshot", |cycle| cycle["committed"] == true);
    let mut operators = Operators::start(&scene.stage.source, &stop, seed);
    let begun = Instant::now();
    let length = Duration::from_secs(if full() { 600 } else { 9 });
    while begun.elapsed() < length {
        let rest = random.below(if full() { 20_000 } else { 4_000 });
        figures.listen(&mut agent, Duration::from_millis(rest));
        if random.below(2) == 0 {
            // It hears nothing for a while, and the queue is full.
            agent.signal(Signal::STOP);
            figures.listen(&mut agent, Duration::from_secs(1));
            agent.signal(Signal::CONT);
            figures.listen(&mut agent, Duration::from_secs(2));
        }
        agent.end(Signal::KILL);
        figures.kills += 1;
        figures.unsure.clear();
        agent = Agent::start(&scene.command(), Some(QUEUE));
    }
    // A restart looks at everything: what comes after it only the journal tells.
    figures.listen(&mut agent, Duration::from_secs(4));
    figures.operations = operators.end(&stop);
    figures.await_rest(&mut agent);
    eprintln!("{figures:#?}");
    let found = differences(&facts(&scene.stage.source), &facts(&scene.stage.live()));
    assert!(found.is_empty(), "not told by the journal: {found:?}");
    agent.end(Signal::KILL);
    let mut agent = scene.start();
    let cycle = agent.next();
    assert!(cycle["looked_at"]["everything"].is_string(), "{cycle}");
    assert_eq!(cycle["committed"], false, "overlooked: {cycle}");
    judge::same(&scene.stage.source, &scene.stage.live());
    assert!(figures.missed_paths.is_empty(), "{figures:#?}");
    assert!(figures.failures.is_empty(), "{figures:#?}");
    assert!(figures.operations > 1_000, "{figures:#?}");
    assert!(figures.kills > 0 && figures.by_journal > 0, "{figures:#?}");
    let overflows = figures.gaps.iter().filter(|because| is_overflow(because));
    assert!(!full() || overflows.count() > 10, "{figures:#?}");
}

/// Whether a gap is one that the kernel made.
fn is_overflow(because: &str) -> bool {
    because.contains("queue")
}

/// A cycle in a line.
fn brief(cycle: &Value) -> String {
    let fields = ["looked_at", "committed", "missed", "seconds", "error"];
    let fields = fields.map(|name| format!("{name}: {}", cycle[name]));
    fields.join(", ")
}

fn seed() -> u64 {
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let given = std::env::var("UNDERSTUDY_TEST_SEED").ok();
    given.map_or_else(
        || u64::try_from(now()).unwrap(),
        |seed| seed.parse().unwrap(),
    )
}

/// The processes that change the tree, killed when dropped.
struct Operators(Vec<Child>);

impl Operators {
    fn start(root: &Path, stop: &Path, seed: u64) -> Self {
        let start = |number: u64| {
            let test = "soak::an_operator_of_the_soak_test";
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(ROOT, root)
                .env(STOP, stop)
                .env(SEED, (seed ^ (number << 50)).to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self((0..OPERATORS).map(start).collect())
    }

    /// Ends them and says how much they did.
    fn end(&mut self, stop: &Path) -> u64 {
        File::create(stop).unwrap();
        let count = |child: &mut Child| {
            assert!(child.wait().unwrap().success());
            let told = std::fs::read_to_string(stop.with_extension(child.id().to_string()));
            told.unwrap().parse::<u64>().unwrap()
        };
        self.0.iter_mut().map(count).sum()
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Does nothing unless it is started by the test above, in a process of its own.
#[test]
fn an_operator_of_the_soak_test() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    let stop = PathBuf::from(std::env::var_os(STOP).unwrap());
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let mut operator = Operator {
        random: Random::new(seed),
        outside: root.with_file_name("outside"),
        root,
    };
    let parent = std::os::unix::process::parent_id();
    let mut done = 0u64;
    while !stop.exists() && std::os::unix::process::parent_id() == parent {
        // In bursts, so that the queue overflows now and then, and cycles find something at rest.
        for _ in 0..operator.random.below(300) {
            done += u64::from(operator.operate().is_ok());
        }
        let pause = Duration::from_millis(operator.random.below(400));
        std::thread::park_timeout(pause);
    }
    let told = stop.with_extension(std::process::id().to_string());
    std::fs::write(told, done.to_string()).unwrap();
}

/// Makes random changes; others may have made them impossible.
struct Operator {
    random: Random,
    root: PathBuf,
    outside: PathBuf,
}

impl Operator {
    /// One of a few directories, up to three deep, which all operators share; mostly there.
    fn directory(&mut self) -> PathBuf {
        let mut path = self.root.clone();
        for _ in 0..=self.random.below(3) {
            path.push(format!("n{}", self.random.below(5)));
        }
        path
    }

    /// One of a few names in one of them.
    fn name(&mut self) -> PathBuf {
        let name = format!("f{}", self.random.below(12));
        self.directory().join(name)
    }

    /// Such a name, or one of the many files that are there from the start and never go.
    fn file(&mut self) -> PathBuf {
        if self.random.below(6) > 0 {
            return self.name();
        }
        let number = self.random.below(10_200);
        self.root.join(format!("d{}/f{number}", number / 300))
    }

    /// One of those of the many files that get more names.
    fn linked(&mut self) -> PathBuf {
        let number = 100 + self.random.below(1_000) * 10;
        self.root.join(format!("d{}/f{number}", number / 300))
    }

    /// One of the names that they get.
    fn link(&mut self) -> PathBuf {
        let name = format!("l{}", self.random.below(12));
        self.directory().join(name)
    }

    fn operate(&mut self) -> std::io::Result<()> {
        match self.random.below(20) {
            0..=2 => {
                let path = self.file();
                std::fs::create_dir_all(path.parent().unwrap())?;
                let size = self.random.size(30_000);
                std::fs::write(path, self.random.content(size))
            }
            3 | 18 => self.write_at_random(),
            4 => {
                let length = self.random.below(20_000);
                self.open()?.set_len(length)
            }
            5 => {
                let (path, aside) = (self.file(), self.name());
                std::fs::write(&aside, self.random.next().to_string())?;
                std::fs::rename(aside, path)
            }
            6 => std::fs::hard_link(self.linked(), self.link()),
            7 => {
                let mode = 0o600 | u32::try_from(self.random.below(0o200)).unwrap();
                std::fs::set_permissions(self.file(), Permissions::from_mode(mode))
            }
            8 => {
                let value = self.random.next().to_le_bytes();
                Ok(lsetxattr(
                    self.file(),
                    "user.soak",
                    &value,
                    XattrFlags::empty(),
                )?)
            }
            9 | 10 => std::fs::remove_file(self.name()),
            11 => std::fs::remove_dir(self.directory()),
            12 => std::fs::rename(self.directory(), self.directory()),
            13 => self.in_and_out(),
            14 => {
                let path = self.directory();
                std::fs::remove_dir_all(&path)?;
                std::fs::create_dir(&path)?;
                std::fs::write(path.join("f1"), self.random.next().to_string())
            }
            15 => symlink(self.file(), self.file()),
            16 => {
                let owner = u32::try_from(self.random.below(60_000)).unwrap();
                std::os::unix::fs::lchown(self.file(), Some(owner), None)
            }
            17 => std::fs::remove_file(self.link()),
            _ => std::fs::create_dir_all(self.directory()),
        }
    }

    fn open(&mut self) -> std::io::Result<File> {
        let path = match self.random.below(4) {
            0 => self.link(),
            1 => self.linked(),
            _ => self.file(),
        };
        OpenOptions::new().write(true).open(path)
    }

    /// Changes some bytes; the modification time may be set back.
    fn write_at_random(&mut self) -> std::io::Result<()> {
        let file = self.open()?;
        let before = file.metadata()?;
        let (offset, bytes) = (self.random.below(before.len() + 1), self.random.next());
        file.write_all_at(&bytes.to_le_bytes(), offset)?;
        if self.random.below(3) == 0 {
            file.set_modified(before.modified()?)?;
        }
        Ok(())
    }

    /// Moves a whole directory out of the tree, or one of those outside into it.
    fn in_and_out(&mut self) -> std::io::Result<()> {
        let place = self.outside.join(format!("o{}", self.random.below(6)));
        if place.exists() {
            std::fs::rename(place, self.directory())
        } else {
            std::fs::rename(self.directory(), place)
        }
    }
}
