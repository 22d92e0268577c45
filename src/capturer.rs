//! The process that captures databases: started by the agent before that confines itself, for an agent may start nothing, and the programs of an
//! engine need the rights of whoever has started the agent. It reads the configuration itself; the agent only says which database, and where its
//! dump goes.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_agent::Cancel;
use understudy_agent::config::Config;
use understudy_agent::databases::{Capture, CaptureError, DatabaseSettings};
use understudy_databases::{Database, Dump, Probe, run};
use understudy_protocol::DatasetName;

use crate::alert::voice::beside;
use crate::alert::wire;
use crate::arguments::Output;
use crate::exit::CommandError;

/// How often whoever waits for an answer looks whether the agent is to end.
const LOOK: Duration = Duration::from_millis(200);

/// What the agent asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Comes back in the answer.
    number: u64,
    dataset: DatasetName,
    database: String,
    phase: Phase,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Phase {
    /// Whether it has changed.
    Probe,
    /// Everything, into this directory.
    Dump(PathBuf),
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
    Failure(String),
}

/// Does what the agent at the other end of standard input asks for, one thing after another, until that ends. What runs then is ended as well.
pub(crate) fn serve(config: &Path) -> Result<(), CommandError> {
    let (requests, asked) = sync_channel::<Request>(16);
    let file = config.to_owned();
    std::thread::spawn(move || work(&file, &asked));
    let mut input = BufReader::new(io::stdin().lock());
    loop {
        match wire::read::<Request>(&mut input) {
            Ok(Some(request)) => {
                if requests.send(request).is_err() {
                    return Err(CommandError::failed("nobody captures databases any more"));
                }
            }
            Ok(None) => {
                run::stop_all();
                return Ok(());
            }
            Err(error) => {
                run::stop_all();
                let message = format!("the agent asked for what is not done here: {error}");
                return Err(CommandError::failed(message));
            }
        }
    }
}

fn work(config: &Path, asked: &Receiver<Request>) {
    let mut engines = Engines::default();
    for request in asked {
        let number = request.number;
        let answer = engines.answer(config, &request);
        let mut output = io::stdout();
        let written = wire::write(&mut output, &Reply { number, answer });
        if written.and_then(|()| output.flush()).is_err() {
            // The agent has ended.
            return;
        }
    }
}

/// Databases that were asked for before: what they know of their programs stays known.
#[derive(Default)]
struct Engines(HashMap<(DatasetName, String), (DatabaseSettings, Box<dyn Database>)>);

impl Engines {
    fn answer(&mut self, config: &Path, request: &Request) -> Answer {
        let database = match self.find(config, request) {
            Ok(database) => database,
            Err(error) => return Answer::Failure(error),
        };
        let answered = match &request.phase {
            Phase::Probe => database.probe().map(Answer::Probe),
            Phase::Dump(into) => database.dump(into).map(Answer::Dump),
        };
        answered.unwrap_or_else(|error| Answer::Failure(error.to_string()))
    }

    fn find(&mut self, config: &Path, request: &Request) -> Result<&dyn Database, String> {
        let config = Config::load(config).map_err(|error| error.to_string())?;
        let sources = config.sources().into_iter().flatten();
        let settings = sources
            .filter(|one| one.source.dataset == request.dataset)
            .flat_map(|one| one.source.databases)
            .find(|settings| settings.name == request.database);
        let Some(settings) = settings else {
            return Err("the configuration does not have it any more".to_owned());
        };
        let key = (request.dataset.clone(), request.database.clone());
        let (known, database) = self
            .0
            .entry(key)
            .or_insert_with(|| (settings.clone(), settings.open(&request.dataset)));
        if *known != settings {
            (*known, *database) = (settings.clone(), settings.open(&request.dataset));
        }
        Ok(&**database)
    }
}

/// The other process, to which nobody speaks yet: there are no threads.
#[derive(Debug)]
pub(crate) struct Started(Child);

impl Started {
    /// Starts it with what this process may do now, if the configuration names any database.
    pub(crate) fn start(config: &Config, output: Output) -> io::Result<Option<Self>> {
        let has_any = config.datasets.iter().any(|one| !one.databases.is_empty());
        match has_any {
            true => beside("capturer", &config.file, output).map(|child| Some(Self(child))),
            false => Ok(None),
        }
    }

    /// Speaks to it, until the agent is to end.
    pub(crate) fn capture(mut self, cancel: &Cancel) -> Arc<dyn Capture> {
        let (replies, heard) = sync_channel(16);
        if let Some(output) = self.0.stdout.take() {
            std::thread::spawn(move || listen(BufReader::new(output), &replies));
        }
        Arc::new(Capturer {
            pipe: Mutex::new(Pipe {
                to: self.0.stdin.take(),
                heard,
                next: 0,
                _child: self.0,
            }),
            cancel: cancel.clone(),
        })
    }
}

fn listen(mut from: impl io::BufRead, replies: &SyncSender<Reply>) {
    while let Ok(Some(reply)) = wire::read::<Reply>(&mut from) {
        if replies.send(reply).is_err() {
            return;
        }
    }
}

#[derive(Debug)]
struct Capturer {
    pipe: Mutex<Pipe>,
    cancel: Cancel,
}

#[derive(Debug)]
struct Pipe {
    /// Closed, it ends.
    to: Option<ChildStdin>,
    heard: Receiver<Reply>,
    next: u64,
    /// Which the kernel remembers until somebody has asked how it ended.
    _child: Child,
}

impl Capturer {
    fn ask(
        &self,
        dataset: &DatasetName,
        database: &str,
        phase: Phase,
    ) -> Result<Answer, CaptureError> {
        let gone = || {
            CaptureError {
            text: "the process that captures databases has ended: restart the agent, and look at what it logged".to_owned(),
        }
        };
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.next += 1;
        let number = pipe.next;
        let request = Request {
            number,
            dataset: dataset.clone(),
            database: database.to_owned(),
            phase,
        };
        let to = pipe.to.as_mut().ok_or_else(gone)?;
        wire::write(to, &request).map_err(|_| gone())?;
        loop {
            match pipe.heard.recv_timeout(LOOK) {
                // One that came after the agent gave up on it is nobody's.
                Ok(reply) if reply.number == number => return Ok(reply.answer),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.cancel.check().map_err(|error| CaptureError {
                        text: error.to_string(),
                    })?;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
    }
}

impl Capture for Capturer {
    fn probe(&self, dataset: &DatasetName, database: &str) -> Result<Probe, CaptureError> {
        match self.ask(dataset, database, Phase::Probe)? {
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
        match self.ask(dataset, database, Phase::Dump(into.to_owned()))? {
            Answer::Dump(dump) => Ok(dump),
            answer => Err(failure(answer)),
        }
    }
}

fn failure(answer: Answer) -> CaptureError {
    let text = match answer {
        Answer::Failure(text) => text,
        Answer::Probe(_) | Answer::Dump(_) => {
            "the process that captures databases answered something else".to_owned()
        }
    };
    CaptureError::failed(text)
}
