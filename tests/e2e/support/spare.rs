//! Spares to test against: a directory, or a receiver over loopback.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::command::Run;

/// How long a receiver may take to say that it listens, and to end when told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which way the two sides meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Both sides in one process.
    Embedded,
    /// A receiver process, over TCP on loopback.
    Tcp,
}

impl Kind {
    /// Both ways.
    pub(crate) const BOTH: [Self; 2] = [Self::Embedded, Self::Tcp];
}

/// A receiver process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    /// Held open, for a receiver that printed into a closed pipe would fail.
    _stdout: BufReader<ChildStdout>,
    stderr: std::fs::File,
    /// Where it listens, `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Daemon {
    /// Starts a receiver on any free port and waits until it listens.
    pub(crate) fn start(store: &Path) -> Self {
        Self::start_with(store, "127.0.0.1:0", |run| run)
    }

    /// Starts a receiver on `listen`, its command adjusted, and waits until it listens.
    pub(crate) fn start_with(store: &Path, listen: &str, adjust: impl FnOnce(Run) -> Run) -> Self {
        let run = Run::new(["receiver", "--listen", listen]).arg("--store");
        Self::launch(&adjust(run.arg(store)))
    }

    /// Starts a receiver by this command, and waits until it listens.
    ///
    /// # Panics
    /// If it ends, or says anything but where it listens.
    pub(crate) fn launch(run: &Run) -> Self {
        let stderr = tempfile::tempfile().unwrap();
        let mut child = run.spawn(Stdio::piped(), stderr.try_clone().unwrap().into());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let line = first_line(&child, &mut stdout);
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            child.kill().ok();
            child.wait().unwrap();
            panic!("the receiver said {line:?} and reported {}", text(&stderr));
        };
        Self {
            address: address.to_owned(),
            child,
            _stdout: stdout,
            stderr,
        }
    }

    /// Waits for its end, which somebody else has caused; returns code and signal.
    pub(crate) fn wait(&mut self) -> (Option<i32>, Option<i32>) {
        let pid = self.pid();
        let (ended, watch) = sync_channel::<()>(0);
        let watcher = std::thread::spawn(move || {
            let late = watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if late {
                kill_process(pid, Signal::KILL).ok();
            }
            late
        });
        let status = self.child.wait().unwrap();
        drop(ended);
        assert!(
            !watcher.join().unwrap(),
            "the receiver did not end\n{}",
            self.reported()
        );
        (status.code(), status.signal())
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end and waits for that; returns its exit code.
    pub(crate) fn stop(mut self, signal: Signal) -> Option<i32> {
        kill_process(self.pid(), signal).unwrap();
        self.wait().0
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has reported so far.
    pub(crate) fn reported(&self) -> String {
        text(&self.stderr)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- the receiver's stderr\n{}", text(&self.stderr));
        }
    }
}

/// The first line that `child` prints; empty if it ends or takes too long.
fn first_line(child: &Child, stdout: &mut BufReader<ChildStdout>) -> String {
    let pid = Pid::from_child(child);
    let (ended, watch) = sync_channel::<()>(0);
    std::thread::spawn(move || {
        if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::KILL).ok();
        }
    });
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    drop(ended);
    line
}

/// The whole of a file that another process still writes, whose position stays as it is.
fn text(file: &std::fs::File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}
