//! A receiver and an agent's daemon, and what they tell of each cycle.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A process that is killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Both sides, running.
pub(crate) struct Pair {
    _receiver: Process,
    agent: Option<(Process, BufReader<ChildStdout>)>,
    binary: PathBuf,
    source: PathBuf,
    work: PathBuf,
    address: String,
}

/// What one cycle told.
pub(crate) struct Cycle {
    pub(crate) seconds: f64,
    is_by_journal: bool,
    is_committed: bool,
}

impl Pair {
    pub(crate) fn start(binary: &Path, source: &Path, store: &Path, work: &Path) -> Self {
        let mut receiver = Command::new(binary)
            .args(["receiver", "--listen", "127.0.0.1:0", "--store"])
            .arg(store.join("store"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(receiver.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        let mut pair = Self {
            _receiver: Process(receiver),
            agent: None,
            binary: binary.to_owned(),
            source: source.to_owned(),
            work: work.to_owned(),
            address,
        };
        pair.introduce(&store.join("store"));
        pair.restart();
        pair
    }

    /// Has the two sides know each other.
    fn introduce(&self, store: &Path) {
        let mut command = Command::new(&self.binary);
        command.args(["pair", "--new", "bench", "--json", "--store"]);
        let printed = command.arg(store).output().unwrap().stdout;
        let printed: Value = serde_json::from_slice(&printed).unwrap();
        let code = printed["data"]["code"].as_str().unwrap();
        let mut command = Command::new(&self.binary);
        command.args(["pair", &self.address, code, "--state"]);
        let command = command.arg(self.work.join("agent-state"));
        let status = command.stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Ends the agent and starts it again.
    pub(crate) fn restart(&mut self) {
        self.start_agent("10h");
    }

    /// As [`Self::restart`], with a look at everything in every cycle.
    pub(crate) fn restart_with_sweeps(&mut self) {
        self.start_agent("1s");
    }

    fn start_agent(&mut self, sweep: &str) {
        self.agent = None;
        let file = self.work.join("agent.toml");
        let text = format!(
            "spare = {:?}\nstate = {:?}\ninterval = \"1s\"\nsweep = {sweep:?}\n[pace]\npressure = \"off\"\n\
             [[dataset]]\nname = \"bench\"\npath = {:?}\n",
            self.address,
            self.work.join("agent-state"),
            self.source
        );
        std::fs::write(&file, text).unwrap();
        let mut agent = Command::new(&self.binary)
            .args(["agent", "--json", "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(agent.stdout.take().unwrap());
        self.agent = Some((Process(agent), output));
    }

    /// The next cycle.
    pub(crate) fn next(&mut self) -> Cycle {
        let (_, output) = self.agent.as_mut().unwrap();
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the agent ended");
        let told: Value = serde_json::from_str(&line).unwrap();
        let data = &told["data"];
        assert!(data["error"].is_null(), "{line}");
        Cycle {
            seconds: data["seconds"].as_f64().unwrap(),
            is_by_journal: !data["looked_at"]["journal"].is_null(),
            is_committed: data["committed"].as_bool().unwrap(),
        }
    }

    fn next_that(&mut self, is_wanted: impl Fn(&Cycle) -> bool) -> Cycle {
        loop {
            let cycle = self.next();
            if is_wanted(&cycle) {
                return cycle;
            }
        }
    }

    /// The next cycle that looked only at what the journal told, and found no change.
    pub(crate) fn next_by_journal(&mut self) -> Cycle {
        self.next_that(|cycle| cycle.is_by_journal && !cycle.is_committed)
    }

    /// The next cycle that changed something.
    pub(crate) fn next_committed(&mut self) -> Cycle {
        self.next_that(|cycle| cycle.is_committed)
    }

    /// The next cycle that looked at everything.
    pub(crate) fn next_sweep(&mut self) -> Cycle {
        self.next_that(|cycle| !cycle.is_by_journal)
    }

    /// The agent's resident memory in MB, and its share of one processor while nothing is due, in percent.
    pub(crate) fn at_rest(&mut self, time: Duration) -> (f64, f64) {
        // An interval of an hour: what is measured is the waiting.
        self.start_agent("10h");
        self.next();
        let pid = self.agent.as_ref().unwrap().0.0.id();
        let file = self.work.join("agent.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            text.replace("interval = \"1s\"", "interval = \"1h\""),
        )
        .unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
            rustix::process::Signal::HUP,
        )
        .unwrap();
        std::thread::sleep(Duration::from_secs(5));
        let (before, begun) = (cpu_seconds(pid), Instant::now());
        std::thread::sleep(time);
        let percent = (cpu_seconds(pid) - before) / begun.elapsed().as_secs_f64() * 100.0;
        (resident_mb(pid), percent)
    }
}

fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: f64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kilobytes / 1000.0
}

/// To the nanosecond, of all threads.
fn cpu_seconds(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}
