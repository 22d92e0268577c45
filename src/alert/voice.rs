//! The receiver's end of the pipe to its messenger.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use understudy_protocol::DatasetName;
use understudy_receiver::alert::Delivery;

use super::document::Document;
use super::messenger::PATIENCE;
use super::wire::{self, Reply, Request, State};
use crate::arguments::{Color, Detail, Output};

/// Requests that wait for the pipe; what comes on top has failed.
const WAITING: usize = 64;
/// How long reading a file may take.
const RELOAD: Duration = Duration::from_secs(10);

/// A messenger that was started, and to which nobody speaks yet: there are no threads.
#[derive(Debug)]
pub(crate) struct Started(Child);

impl Started {
    /// Starts the messenger of the configuration at `file`, with what this process may do now.
    pub(crate) fn start(file: &Path, output: Output) -> io::Result<Self> {
        beside("messenger", file, output).map(Self)
    }
}

/// Starts this program once more, as the command `name` with a configuration, to be spoken to through pipes.
pub(crate) fn beside(name: &str, file: &Path, output: Output) -> io::Result<Child> {
    again(name, file, output)
        // That of the one who starts it.
        .env_remove("NOTIFY_SOCKET")
        // What interrupts a terminal's command ends the one who has started this, and with it this.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// This program once more, as the command `name` with a configuration, telling things as this one does.
pub(crate) fn again(name: &str, file: &Path, output: Output) -> Command {
    let volume: &[&str] = match output.detail {
        Detail::Quiet => &["--quiet"],
        Detail::Normal => &[],
        Detail::Verbose => &["-v"],
        Detail::Debug => &["-vv"],
    };
    let color = match output.color {
        Color::Auto => "auto",
        Color::Always => "always",
        Color::Never => "never",
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("understudy")
        .args([name, "--color", color])
        .args(volume)
        .arg(file);
    command
}

/// Speaks to the messenger, from any thread.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    /// `None`: there is no configuration, and so nothing that could be told.
    messenger: Option<Arc<Pipe>>,
}

#[derive(Debug)]
struct Pipe {
    requests: SyncSender<Request>,
    next: AtomicU64,
    open: Mutex<Open>,
}

/// What was asked for and not answered.
#[derive(Debug, Default)]
struct Open {
    answers: HashMap<u64, SyncSender<bool>>,
    config: Option<SyncSender<Result<String, String>>>,
    /// Nothing is answered any more.
    is_over: bool,
}

/// Something that is being told.
#[derive(Debug)]
pub(super) struct Pending {
    answer: Receiver<bool>,
    until: Instant,
}

impl Pending {
    fn new() -> (SyncSender<bool>, Self) {
        let (sender, answer) = sync_channel(1);
        let until = Instant::now() + PATIENCE;
        (sender, Self { answer, until })
    }

    /// What became of it, once that is known.
    pub(super) fn outcome(&self) -> Option<Delivery> {
        match self.answer.try_recv() {
            Ok(true) => Some(Delivery::Worked),
            Ok(false) | Err(TryRecvError::Disconnected) => Some(Delivery::Failed),
            Err(TryRecvError::Empty) if Instant::now() > self.until => Some(Delivery::Failed),
            Err(TryRecvError::Empty) => None,
        }
    }
}

impl Voice {
    /// Begins to speak to a messenger, with threads of its own.
    pub(crate) fn new(started: Option<Started>) -> Self {
        let Some(Started(mut child)) = started else {
            return Self { messenger: None };
        };
        let (requests, waiting) = sync_channel(WAITING);
        let pipe = Arc::new(Pipe {
            requests,
            next: AtomicU64::new(0),
            open: Mutex::default(),
        });
        if let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) {
            let answered = Arc::downgrade(&pipe);
            std::thread::spawn(move || send(&waiting, to));
            std::thread::spawn(move || {
                let mut from = BufReader::new(from);
                let why = loop {
                    match wire::read(&mut from) {
                        Ok(Some(reply)) => {
                            if let Some(pipe) = answered.upgrade() {
                                pipe.take(reply);
                            }
                        }
                        Ok(None) => break "it has ended".to_owned(),
                        Err(error) => break error.to_string(),
                    }
                };
                if let Some(pipe) = answered.upgrade() {
                    pipe.end(&why);
                }
                let _ = child.wait();
            });
        }
        Self {
            messenger: Some(pipe),
        }
    }

    /// Has people told.
    pub(super) fn tell(&self, document: &Document) -> Pending {
        self.ask(|number| Request::Tell {
            number,
            facts: document.facts().clone(),
        })
    }

    /// Has the receiver's heartbeat fetched.
    pub(super) fn beat(&self) -> Pending {
        self.ask(|number| Request::Beat { number })
    }

    /// Has a dataset's heartbeat fetched, of which nobody waits for the end.
    pub(super) fn fresh(&self, dataset: &DatasetName) {
        self.ping(dataset, State::Fresh);
    }

    /// Has a dataset's heartbeat told of a failure.
    pub(super) fn failed(&self, dataset: &DatasetName) {
        self.ping(dataset, State::Failed);
    }

    fn ping(&self, dataset: &DatasetName, state: State) {
        if let Some(pipe) = &self.messenger {
            let dataset = dataset.as_str().to_owned();
            pipe.send(Request::Ping { dataset, state });
        }
    }

    fn ask(&self, request: impl FnOnce(u64) -> Request) -> Pending {
        let (answer, pending) = Pending::new();
        match &self.messenger {
            Some(pipe) => pipe.ask(request, answer),
            // The log has it, which is enough where nothing is configured.
            None => drop(answer.try_send(true)),
        }
        pending
    }

    /// Has the messenger read its configuration again; the whole text, or why the former one goes on to count.
    pub(crate) fn reload(&self) -> Result<String, String> {
        let gone = || "the process that tells people has ended: restart the receiver".to_owned();
        let pipe = self.messenger.as_ref().ok_or_else(gone)?;
        let (sender, answer) = sync_channel(1);
        pipe.open().config = Some(sender);
        if pipe.open().is_over || !pipe.send(Request::Reload) {
            return Err(gone());
        }
        match answer.recv_timeout(RELOAD) {
            Ok(read) => read,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                Err("the process that tells people does not answer".to_owned())
            }
        }
    }
}

impl Pipe {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        // Each change is one step.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: impl FnOnce(u64) -> Request, answer: SyncSender<bool>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = self.open();
            if open.is_over {
                tracing::error!(
                    "nobody is told: the process that tells people has ended; restart the receiver"
                );
                return;
            }
            open.answers.insert(number, answer);
        }
        if !self.send(request(number)) {
            self.open().answers.remove(&number);
        }
    }

    fn send(&self, request: Request) -> bool {
        let sent = self.requests.try_send(request).is_ok();
        if !sent {
            tracing::error!("nobody is told: too much waits to be told already");
        }
        sent
    }

    fn take(&self, reply: Reply) {
        let mut open = self.open();
        // Whoever has given up waiting misses nothing.
        match reply {
            Reply::Ended { number, worked } => {
                if let Some(answer) = open.answers.remove(&number) {
                    let _ = answer.try_send(worked);
                }
            }
            Reply::Config { text } => {
                if let Some(config) = open.config.take() {
                    let _ = config.try_send(Ok(text));
                }
            }
            Reply::Refused { reason } => {
                if let Some(config) = open.config.take() {
                    let _ = config.try_send(Err(reason));
                }
            }
        }
    }

    fn end(&self, why: &str) {
        let mut open = self.open();
        *open = Open {
            is_over: true,
            ..Open::default()
        };
        tracing::error!(
            "nobody is told of alerts any more, for the process that does it is gone ({why}): restart the receiver"
        );
    }
}

fn send(requests: &Receiver<Request>, mut to: ChildStdin) {
    for request in requests {
        if let Err(error) = wire::write(&mut to, &request) {
            tracing::error!("cannot pass on what people should be told: {error}");
        }
    }
}
