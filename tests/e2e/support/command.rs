//! Running a command with a time limit and its output captured.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No single run of the command may take longer, however slow the machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The command under test.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_understudy"))
}

/// One run of the command, about to start.
#[derive(Debug)]
pub(crate) struct Run {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    prefix: Vec<OsString>,
    signal_after: Option<(Duration, Signal)>,
}

/// What a run left: how it ended and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code, unless a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// What it printed, bytes that are not UTF-8 replaced.
    pub(crate) stdout: String,
    /// What it reported, bytes that are not UTF-8 replaced.
    pub(crate) stderr: String,
}

impl Run {
    /// `understudy ARGUMENTS...`, without the environment's own settings for it.
    pub(crate) fn new<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: binary(),
            arguments: arguments
                .into_iter()
                .map(|a| a.as_ref().to_owned())
                .collect(),
            environment: Vec::new(),
            prefix: Vec::new(),
            signal_after: None,
        }
    }

    /// One more argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub(crate) fn args(self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// One more environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Kills itself at the kill point that `point` names, as in `agent.sent=return`.
    pub(crate) fn failing(self, point: &str) -> Self {
        self.env("FAILPOINTS", point)
    }

    /// Runs `program` instead of the command under test: a copy of it, say.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Runs through another command, `setpriv --reuid=...` for instance.
    pub(crate) fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(Into::into).collect();
        self
    }

    /// Sends `signal` after `delay`, if the run has not ended by then.
    pub(crate) fn signalled(mut self, delay: Duration, signal: Signal) -> Self {
        self.signal_after = Some((delay, signal));
        self
    }

    /// The process, started, with the given handles for its output.
    pub(crate) fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Child {
        self.spawn_with([Stdio::null(), stdout, stderr])
    }

    /// Runs to the end with `input` on its standard input.
    pub(crate) fn given(&self, input: &[u8]) -> Outcome {
        let mut child = self.spawn_with([Stdio::piped(), Stdio::piped(), Stdio::piped()]);
        let mut stdin = child.stdin.take().unwrap();
        let (outcome, late) = std::thread::scope(|scope| {
            // It need not want all of it.
            scope.spawn(move || stdin.write_all(input).ok());
            watched(child, None)
        });
        assert!(
            !late,
            "still running after {LIMIT:?}: {self:?}\n{outcome:?}"
        );
        outcome
    }

    /// The process, started, with the given handles for stdin, stdout and stderr.
    pub(crate) fn spawn_with(&self, [stdin, stdout, stderr]: [Stdio; 3]) -> Child {
        let mut words: Vec<&OsStr> = self.prefix.iter().map(OsString::as_os_str).collect();
        words.push(self.program.as_os_str());
        words.extend(self.arguments.iter().map(OsString::as_os_str));
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env_remove("FAILPOINTS")
            .env_remove("UNDERSTUDY_SPARE")
            .env_remove("UNDERSTUDY_STATE_DIR")
            .env_remove("UNDERSTUDY_SSH")
            .env_remove("SSH_ORIGINAL_COMMAND")
            .env_remove("RUST_LOG")
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"))
    }

    /// Runs to the end and says how it ended.
    ///
    /// # Panics
    /// If it is still running after the time limit: it is killed first.
    pub(crate) fn outcome(&self) -> Outcome {
        let child = self.spawn(Stdio::piped(), Stdio::piped());
        let (outcome, late) = watched(child, self.signal_after);
        assert!(
            !late,
            "still running after {LIMIT:?}: {self:?}\n{outcome:?}"
        );
        outcome
    }

    /// Runs to the end, which must be exit code `code`.
    pub(crate) fn expect(&self, code: i32) -> Outcome {
        let outcome = self.outcome();
        assert_eq!(outcome.code, Some(code), "of {self:?}\n{outcome}");
        outcome
    }

    /// Runs to the end, which must be exit code 0.
    pub(crate) fn ok(&self) -> Outcome {
        self.expect(0)
    }

    /// Runs with `--json` to the end, which must be exit code 0; returns `data`.
    pub(crate) fn data(self) -> Value {
        self.arg("--json").ok().data()
    }
}

/// Waits for `child` with its output, signals it after a delay if asked, and kills it at the
/// time limit; says whether that was necessary.
fn watched(child: Child, signal_after: Option<(Duration, Signal)>) -> (Outcome, bool) {
    let pid = Pid::from_child(&child);
    let (ended, watch) = sync_channel::<()>(0);
    let watcher = std::thread::spawn(move || {
        if let Some((delay, signal)) = signal_after {
            if watch.recv_timeout(delay) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            kill_process(pid, signal).ok();
        }
        if watch.recv_timeout(LIMIT) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        kill_process(pid, Signal::KILL).ok();
        true
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    let outcome = Outcome {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (outcome, watcher.join().unwrap())
}

impl Outcome {
    /// Whether `kill -9` ended it.
    pub(crate) fn was_killed(&self) -> bool {
        self.signal == Some(Signal::KILL.as_raw())
    }

    /// The last line that `--json` prints; those before it may only tell of progress.
    pub(crate) fn json(&self) -> Value {
        let (before, last) = self
            .stdout
            .trim_end()
            .rsplit_once('\n')
            .unwrap_or(("", self.stdout.trim_end()));
        for line in before.lines() {
            assert!(
                line.contains("\"progress\""),
                "not one line of JSON: {self}"
            );
        }
        let value: Value = serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("not one line of JSON: {error}\n{self}"));
        assert_eq!(value["schema"], 1, "{self}");
        value
    }

    /// The data of a successful `--json` run.
    pub(crate) fn data(&self) -> Value {
        let value = self.json();
        assert_eq!(value["ok"], true, "{self}");
        value["data"].clone()
    }

    /// Everything it said, for looking for words in it.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Panics unless it said each of `words`, whatever the case.
    pub(crate) fn mentions(&self, words: &[&str]) {
        let said = self.said().to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "does not mention {word:?}:\n{self}"
            );
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}, signal {:?}", self.code, self.signal)?;
        writeln!(f, "--- stdout\n{}", self.stdout)?;
        write!(f, "--- stderr\n{}", self.stderr)
    }
}

/// Runs another program, which must succeed; returns what it printed.
pub(crate) fn tool<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let program = super::needs::program(name).unwrap_or_else(|| name.into());
    let output = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{name} failed: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    stdout
}
