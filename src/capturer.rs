//! The processes that capture databases. An agent may start nothing, so it starts the *capturer* before it confines itself, with the rights
//! that it has then: `keeper` reads what the agent asks for, and has a `worker` do each thing, a process of its own. So one that hangs, dies or
//! grows takes nothing else with it, and nobody has to be started again by somebody who may not.
//!
//! Both read the configuration themselves; the agent only says which database, and by which name its dump goes into the agent's own state.

mod keeper;
mod keeping;
mod note;
mod task;
mod worker;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use understudy_agent::Cancel;
use understudy_agent::config::{Config, Dataset};
use understudy_agent::databases::{Capture, CaptureError, DatabaseSettings, LetGo};
use understudy_databases::{Dump, Probe, run};
use understudy_protocol::DatasetName;

use crate::alert::voice::again;
use crate::alert::wire;
use crate::arguments::{Capturer as Arguments, Output};
use crate::exit::CommandError;
use crate::paths;

/// How often whoever waits for an answer looks whether the agent is to end.
const LOOK: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Comes back in the answer.
    number: u64,
    dataset: DatasetName,
    /// Of which one; empty if it is about the application.
    database: String,
    phase: Phase,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Phase {
    /// Whether it has changed.
    Probe,
    /// Everything, into the directory of this name where the agent keeps dumps of this database.
    Dump(String),
    /// The application is kept still.
    KeepStill,
    /// It goes on.
    LetGo,
    /// A snapshot of the source's file system is made.
    TakeSnapshot,
    /// It is removed.
    DropSnapshot,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    number: u64,
    answer: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    Probe(Probe),
    Dump(Dump),
    Still,
    /// Where the source is in a snapshot of its file system.
    Snapshot(PathBuf),
    LetGo(LetGo),
    Failure(CaptureError),
}

/// Does what the other end of standard input asks for, until that ends.
pub(crate) fn run(
    arguments: &Arguments,
    state: Option<&Path>,
    output: Output,
    runtime: &Handle,
) -> Result<(), CommandError> {
    let state = paths::state(state)?;
    match arguments.one {
        true => worker::run(&arguments.config, &state, runtime),
        false => keeper::run(&arguments.config, &state, output),
    }
}

/// Starts it with what this process may do now, if the configuration names any database or an application that is kept still, or one was and has not
/// been let go.
pub(crate) fn start(
    config: &Config,
    state: &Path,
    output: Output,
) -> Result<Option<Started>, CommandError> {
    let needs_one = |one: &Dataset| {
        !one.databases.is_empty() || one.stillness.is_some() || one.snapshot.is_some()
    };
    if !config.datasets.iter().any(needs_one) && note::all(state).is_empty() {
        return Ok(None);
    }
    // What interrupts a terminal's command ends the one who has started this, and with it this.
    let started = capturer(&config.file, state, output)
        .process_group(0)
        .spawn();
    let started = started.map_err(|error| {
        CommandError::failed(format!(
            "cannot start the process that captures databases: {error}"
        ))
    })?;
    Ok(Some(Started(started)))
}

/// This program once more, with nothing of the environment but what programs of an engine need.
fn capturer(config: &Path, state: &Path, output: Output) -> Command {
    let mut command = again("capturer", config, output);
    let inherited = run::INHERITED
        .iter()
        .filter_map(|key| Some((key, std::env::var_os(key)?)));
    command
        .arg("--state")
        .arg(state)
        .env_clear()
        .envs(inherited)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// What the configuration says of a database now.
fn settings(config: &Path, request: &Request) -> Result<DatabaseSettings, CaptureError> {
    let config = Config::load(config).map_err(|error| CaptureError::failed(error.to_string()))?;
    let sources = config.sources().into_iter().flatten();
    let mut databases = sources
        .filter(|one| one.source.dataset == request.dataset)
        .flat_map(|one| one.source.databases);
    databases
        .find(|settings| settings.name == request.database)
        .ok_or_else(|| {
            let text =
                "the configuration does not have it any more: let the agent read it again (SIGHUP)";
            CaptureError::failed(text)
        })
}

/// The other process, to which nobody speaks yet: there are no threads.
#[derive(Debug)]
pub(crate) struct Started(Child);

impl Started {
    /// Speaks to it, until the agent is to end.
    pub(crate) fn capture(mut self, cancel: &Cancel) -> Arc<dyn Capture> {
        let open = Arc::new(Mutex::new(Open::default()));
        if let Some(output) = self.0.stdout.take() {
            let open = Arc::clone(&open);
            std::thread::spawn(move || listen(BufReader::new(output), &open));
        }
        Arc::new(Capturer {
            to: Mutex::new(self.0.stdin.take()),
            open,
            cancel: cancel.clone(),
            _child: self.0,
        })
    }
}

/// Speaks to the other process, from any thread.
#[derive(Debug)]
struct Capturer {
    /// Closed, it ends.
    to: Mutex<Option<ChildStdin>>,
    open: Arc<Mutex<Open>>,
    cancel: Cancel,
    /// Which the kernel remembers until somebody has asked how it ended.
    _child: Child,
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Until the agent is told to end.
    UnlessTold,
    /// Until it comes.
    ToTheEnd,
}

/// What was asked for and not answered.
#[derive(Debug, Default)]
struct Open {
    last: u64,
    answers: HashMap<u64, SyncSender<Answer>>,
    /// Nothing is answered any more.
    is_over: bool,
}

fn listen(mut from: impl BufRead, open: &Mutex<Open>) {
    let locked = || open.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok(Some(Reply { number, answer })) = wire::read(&mut from) {
        // Nobody waits for one that came after the agent gave it up.
        if let Some(waits) = locked().answers.remove(&number) {
            let _ = waits.try_send(answer);
        }
    }
    let mut open = locked();
    open.is_over = true;
    open.answers.clear();
}

impl Capturer {
    fn ask(
        &self,
        (dataset, database): (&DatasetName, &str),
        phase: Phase,
        patience: Patience,
    ) -> Result<Answer, CaptureError> {
        let gone = || {
            let text = "the process that captures databases has ended: restart the agent, and look at what it logged";
            CaptureError::gone(text)
        };
        let (sender, answer) = sync_channel(1);
        let number = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.is_over {
                return Err(gone());
            }
            open.last += 1;
            let number = open.last;
            open.answers.insert(number, sender);
            number
        };
        let request = Request {
            number,
            dataset: dataset.clone(),
            database: database.to_owned(),
            phase,
        };
        {
            let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
            let to = to.as_mut().ok_or_else(gone)?;
            wire::write(to, &request).map_err(|_| gone())?;
        }
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => {
                    // Whoever watches over the agent sees by this that it does something.
                    let checked = self.cancel.check();
                    if patience == Patience::ToTheEnd {
                        continue;
                    }
                    checked.map_err(|error| CaptureError::failed(error.to_string()))?;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
    }
}

impl Capture for Capturer {
    fn probe(&self, dataset: &DatasetName, database: &str) -> Result<Probe, CaptureError> {
        let database = (dataset, database);
        match self.ask(database, Phase::Probe, Patience::UnlessTold)? {
            Answer::Probe(probe) => Ok(probe),
            answer => Err(failure(answer)),
        }
    }

    fn dump(
        &self,
        dataset: &DatasetName,
        database: &str,
        into: &Path,
    ) -> Result<Dump, CaptureError> {
        let name = into.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let phase = Phase::Dump(name.to_owned());
        match self.ask((dataset, database), phase, Patience::UnlessTold)? {
            Answer::Dump(dump) => Ok(dump),
            answer => Err(failure(answer)),
        }
    }

    fn keep_still(&self, dataset: &DatasetName) -> Result<(), CaptureError> {
        match self.ask((dataset, ""), Phase::KeepStill, Patience::UnlessTold)? {
            Answer::Still => Ok(()),
            answer => Err(failure(answer)),
        }
    }

    fn let_go(&self, dataset: &DatasetName) -> Result<LetGo, CaptureError> {
        match self.ask((dataset, ""), Phase::LetGo, Patience::ToTheEnd)? {
            Answer::LetGo(ended) => Ok(ended),
            answer => Err(failure(answer)),
        }
    }

    fn take_snapshot(&self, dataset: &DatasetName) -> Result<PathBuf, CaptureError> {
        let phase = Phase::TakeSnapshot;
        match self.ask((dataset, ""), phase, Patience::UnlessTold)? {
            Answer::Snapshot(path) => Ok(path),
            answer => Err(failure(answer)),
        }
    }

    fn drop_snapshot(&self, dataset: &DatasetName) -> Result<LetGo, CaptureError> {
        match self.ask((dataset, ""), Phase::DropSnapshot, Patience::ToTheEnd)? {
            Answer::LetGo(ended) => Ok(ended),
            answer => Err(failure(answer)),
        }
    }
}

fn failure(answer: Answer) -> CaptureError {
    match answer {
        Answer::Failure(error) => error,
        Answer::Probe(_)
        | Answer::Dump(_)
        | Answer::Still
        | Answer::Snapshot(_)
        | Answer::LetGo(_) => {
            CaptureError::failed("the process that captures databases answered something else")
        }
    }
}
