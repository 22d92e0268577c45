//! The agent's daemon as a process, and the cycles that it tells of.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::disks::Disk;
use super::judge;
use super::stage::{DATASET, directory_for_tests};
use super::{Kind, Run, Stage};

/// Longer than any cycle here takes; only failed tests wait for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than the entries up to which an agent compares everything in every cycle.
const ENTRIES: usize = 14_100;
/// Entries in each directory of a large source.
const IN_EACH: usize = 300;
/// How many events the kernel keeps for a watcher that is not told how many.
const QUEUE: &str = "/proc/sys/fs/fanotify/max_queued_events";

/// A stage and the configuration of its agent.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    /// Lines of the configuration that hold for all datasets.
    pub(crate) settings: String,
    /// Lines of the dataset's own.
    pub(crate) dataset: String,
    /// What follows the dataset.
    pub(crate) others: String,
    /// The source's own file system. Goes last, for everything else may be in it.
    disk: Option<Disk>,
}

impl Scene {
    /// A source of more entries than an agent compares as a whole each time.
    pub(crate) fn large(kind: Kind) -> Self {
        let scene = Self::on(Stage::new(kind));
        scene.fill();
        scene
    }

    /// As `large`, the source being on a file system of its own, which takes root: what else happens on the
    /// machine is not told to its watchers.
    pub(crate) fn large_apart(kind: Kind) -> Self {
        let mut scene = Self::on(Stage::new(kind));
        let disk = Disk::ext4(400);
        scene.stage.source = disk.root.join("source");
        scene.disk = Some(disk);
        std::fs::create_dir(&scene.stage.source).unwrap();
        scene.fill();
        scene
    }

    /// With the source of `stage`.
    pub(crate) fn on(stage: Stage) -> Self {
        Self {
            stage,
            settings: "interval = \"1s\"\nsweep = \"1h\"\n".to_owned(),
            dataset: String::new(),
            others: String::new(),
            disk: None,
        }
    }

    /// Makes many small files in some directories: `d0/f0`, `d1/f300` and so on.
    pub(crate) fn fill(&self) {
        for number in 0..ENTRIES {
            let directory = self.at(&format!("d{}", number / IN_EACH));
            if number % IN_EACH == 0 {
                std::fs::create_dir(&directory).unwrap();
            }
            std::fs::write(directory.join(format!("f{number}")), format!("{number}\n")).unwrap();
        }
    }

    /// Where something in the source is.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.stage.source.join(path)
    }

    /// A place beside the source, on its file system.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.stage.source.with_file_name(name)
    }

    /// Where something of the live tree is.
    pub(crate) fn live(&self, path: &str) -> PathBuf {
        self.stage.live().join(path)
    }

    /// Writes the configuration and says where.
    pub(crate) fn configure(&self) -> PathBuf {
        let Self {
            stage,
            settings,
            dataset,
            others,
            ..
        } = self;
        let (pace, rest) = settings.split_once("[pace]").unwrap_or((settings, ""));
        let text = format!(
            "spare = {:?}\nstate = {:?}\n{pace}\n[pace]\npressure = \"off\"\nio = \"best-effort\"\n{rest}\n\
             [[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n{dataset}\n{others}\n",
            stage.spare(),
            stage.state,
            stage.source,
        );
        let path = stage.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The daemon's command.
    pub(crate) fn command(&self) -> Run {
        Run::new(["agent", "--json", "--config"]).arg(self.configure())
    }

    /// Starts the daemon.
    pub(crate) fn start(&self) -> Agent {
        Agent::start(&self.command(), None)
    }

    /// Starts the daemon and waits until everything is on the spare and it looks at its journal only.
    pub(crate) fn watched(&self) -> Agent {
        let mut agent = self.start();
        agent.until("a cycle by the journal", is_quiet);
        agent
    }

    /// Waits for the daemon to have nothing to do, which must have taken nothing but its journal, and judges.
    pub(crate) fn settle(&self, agent: &mut Agent) -> Cycles {
        let cycles = agent.settle();
        cycles.assert_by_journal();
        judge::same(&self.stage.source, &self.stage.live());
        cycles
    }
}

/// Whether a cycle looked at the journal only and found nothing to do.
pub(crate) fn is_quiet(cycle: &Value) -> bool {
    cycle["committed"] == false && is_by_journal(cycle)
}

/// Whether a cycle looked at the journal only.
pub(crate) fn is_by_journal(cycle: &Value) -> bool {
    cycle["looked_at"]["journal"].is_object()
}

/// Some cycles of one dataset.
#[derive(Debug)]
pub(crate) struct Cycles(pub(crate) Vec<Value>);

impl Cycles {
    /// What they add up to in the field `name`.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let values = self.0.iter().map(|cycle| cycle[name].as_u64());
        values
            .map(|value| value.unwrap_or_else(|| panic!("no {name} in {self:?}")))
            .sum()
    }

    /// Panics unless all of them looked at the journal only.
    pub(crate) fn assert_by_journal(&self) {
        for cycle in &self.0 {
            assert!(is_by_journal(cycle), "not by the journal: {cycle}");
        }
    }
}

/// An agent's daemon, killed when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    lines: Receiver<Value>,
    stderr: File,
    /// The last line it printed.
    last: Option<Value>,
}

impl Agent {
    /// Starts `run`, a daemon with `--json`; the kernel keeps at most `queue` events for it, if given, which
    /// takes root. The limit counts when a watcher is made: until then nobody else may change it.
    pub(crate) fn start(run: &Run, queue: Option<u64>) -> Self {
        let lock = File::create(directory_for_tests().join("fanotify-queue.lock")).unwrap();
        match queue {
            None => lock.lock_shared().unwrap(),
            Some(_) => lock.lock().unwrap(),
        }
        let _limited = queue.map(Limited::start);
        let stderr = tempfile::tempfile().unwrap();
        let mut child = run.spawn(Stdio::piped(), stderr.try_clone().unwrap().into());
        let stdout = child.stdout.take().unwrap();
        let (told, lines) = sync_channel(10_000);
        std::thread::spawn(move || read(stdout, &told));
        let mut agent = Self {
            child,
            lines,
            stderr,
            last: None,
        };
        agent.await_watcher();
        agent
    }

    /// Waits until it has a watcher, or is well without one.
    fn await_watcher(&mut self) {
        let begun = Instant::now();
        let descriptors = format!("/proc/{}/fd", self.child.id());
        let watches = || {
            let entries = std::fs::read_dir(&descriptors).into_iter().flatten();
            let mut links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            links.any(|link| link.to_string_lossy().contains("notify]"))
        };
        let is_over = |agent: &mut Self| agent.child.try_wait().unwrap().is_some();
        while !watches() && !is_over(self) && begun.elapsed() < Duration::from_secs(2) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The next cycle that ends.
    pub(crate) fn next(&mut self) -> Value {
        self.next_within(PATIENCE)
            .unwrap_or_else(|| panic!("no cycle in time; the last was {:?}", self.last))
    }

    /// The next cycle, if one ends in time.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Value> {
        let line = self.lines.recv_timeout(time).ok()?;
        self.last = Some(line.clone());
        Some(line)
    }

    /// The next cycle of which `holds` is true.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let cycle = self.next();
            if holds(&cycle) {
                return cycle;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain for {what}; the last cycle was {cycle}"
            );
        }
    }

    /// Waits for a cycle that began after this call and had nothing to do; returns all since the last that was
    /// heard of.
    pub(crate) fn settle(&mut self) -> Cycles {
        let mut cycles: Vec<Value> = self.lines.try_iter().collect();
        let (begun, mut heard) = (Instant::now(), 0);
        loop {
            let cycle = self.next();
            // The first may have begun before.
            heard += 1;
            let is_over = heard > 1 && cycle["committed"] == false;
            cycles.push(cycle);
            if is_over {
                return Cycles(cycles);
            }
            assert!(begun.elapsed() < PATIENCE, "never at rest: {cycles:?}");
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Sends a signal and waits for the end; returns the exit code and how long it took.
    pub(crate) fn end(&mut self, signal: Signal) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal(signal);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(
                    status.code().is_some() || status.signal() == Some(signal.as_raw()),
                    "ended by another signal: {status}"
                );
                return (status.code(), begun.elapsed());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has reported so far.
    pub(crate) fn reported(&self) -> String {
        let length = self.stderr.metadata().unwrap().len();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.stderr.read_exact_at(&mut bytes, 0).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!(
                "--- the last cycle\n{:?}\n--- the agent's stderr\n{}",
                self.last,
                self.reported()
            );
        }
    }
}

/// Tells the data of each line.
fn read(stdout: ChildStdout, told: &SyncSender<Value>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if told.send(line["data"].clone()).is_err() {
            return;
        }
    }
}

/// The limit of the queue is another one until this is dropped.
struct Limited {
    before: String,
}

impl Limited {
    fn start(events: u64) -> Self {
        let before = std::fs::read_to_string(QUEUE).unwrap();
        std::fs::write(QUEUE, events.to_string()).unwrap();
        Self { before }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(QUEUE, self.before.trim()) {
            eprintln!("cannot restore {QUEUE} to {}: {error}", self.before.trim());
        }
    }
}
