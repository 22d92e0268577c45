//! The process that runs the programs of `on_fence`: started by the agent before that confines itself, for an agent may start nothing. It reads
//! the configuration itself; the agent only says which dataset another host took over.

use std::collections::HashSet;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use understudy_agent::config::{Config, Scheduled};
use understudy_agent::daemon::Outcome;
use understudy_agent::{Context, Fencing};
use understudy_protocol::{DatasetName, Role};

use crate::alert::voice::beside;
use crate::alert::wire;
use crate::arguments::Output;
use crate::exit::CommandError;
use crate::hooks;
use crate::spare::Spare;

/// How long a program may run.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// What the agent says: another host took this dataset over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    dataset: DatasetName,
    /// In which this host was the main.
    epoch: u64,
}

/// What became of the programs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    /// How many ran.
    ran: usize,
    /// What they printed, and how they ended.
    log: String,
    /// Why the last of them failed, or why none could be run.
    failure: Option<String>,
}

/// Runs what is configured for each dataset that the agent at the other end of standard input names, until that ends.
pub(crate) fn serve(config: &Path, runtime: &Handle) -> Result<(), CommandError> {
    let mut requests = BufReader::new(io::stdin().lock());
    loop {
        let request = wire::read::<Request>(&mut requests).map_err(|error| {
            let message = format!("the agent asked for what is not done here: {error}");
            CommandError::failed(message)
        })?;
        let Some(request) = request else {
            return Ok(());
        };
        let reply = run(config, runtime, &request);
        if wire::write(&mut io::stdout(), &reply).is_err() {
            // The agent has ended; the next one asks again.
            return Ok(());
        }
    }
}

fn run(config: &Path, runtime: &Handle, request: &Request) -> Reply {
    let scheduled = match scheduled(config, &request.dataset) {
        Ok(scheduled) => scheduled,
        Err(failure) => {
            return Reply {
                ran: 0,
                log: String::new(),
                failure: Some(failure),
            };
        }
    };
    let path = scheduled.source.path.to_string_lossy().into_owned();
    let variables = [
        ("UNDERSTUDY_DATASET", request.dataset.to_string()),
        ("UNDERSTUDY_PATH", path),
        ("UNDERSTUDY_EPOCH", request.epoch.to_string()),
    ];
    let ran = hooks::run_all(runtime, &scheduled.on_fence, &variables, LIMIT);
    let failed = ran.iter().find_map(|one| {
        let failure = one.failure.as_ref()?;
        Some(format!("`{}`: {failure}", one.command.join(" ")))
    });
    Reply {
        ran: ran.len(),
        log: String::from_utf8_lossy(&hooks::log(&ran)).into_owned(),
        failure: failed,
    }
}

fn scheduled(config: &Path, dataset: &DatasetName) -> Result<Scheduled, String> {
    let config = Config::load(config).map_err(|error| error.to_string())?;
    let mut all = config.sources().into_iter().flatten();
    let found = all.find(|one| one.source.dataset == *dataset);
    found.ok_or_else(|| format!("the configuration has no dataset `{dataset}`"))
}

/// The other process, to which nobody speaks yet: there are no threads.
#[derive(Debug)]
pub(crate) struct Started(Child);

impl Started {
    /// Starts it with what this process may do now, if the configuration names anything to run.
    pub(crate) fn start(config: &Config, output: Output) -> io::Result<Option<Self>> {
        let has_any = config.datasets.iter().any(|one| !one.on_fence.is_empty());
        match has_any {
            true => beside("fencer", &config.file, output).map(|child| Some(Self(child))),
            false => Ok(None),
        }
    }
}

/// Looks at how cycles end, and has the programs run once for each fencing.
#[derive(Debug)]
pub(crate) struct Fences<'a> {
    pipe: Option<Arc<Mutex<Pipe>>>,
    spare: &'a Spare,
    context: Context,
    /// What runs now, or has run in this process.
    begun: HashSet<DatasetName>,
}

#[derive(Debug)]
struct Pipe {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Which the kernel remembers until somebody has asked how it ended.
    _child: Child,
}

impl<'a> Fences<'a> {
    /// Speaks to the process that was started, if there is one.
    pub(crate) fn new(started: Option<Started>, spare: &'a Spare, context: &Context) -> Self {
        let pipe = started.and_then(|Started(mut child)| {
            Some(Pipe {
                to: child.stdin.take()?,
                from: BufReader::new(child.stdout.take()?),
                _child: child,
            })
        });
        Self {
            pipe: pipe.map(|pipe| Arc::new(Mutex::new(pipe))),
            spare,
            context: context.clone(),
            begun: HashSet::new(),
        }
    }

    /// Has the programs run if a cycle has ended so, on a thread of their own: other datasets do not wait.
    pub(crate) fn ended(&mut self, outcome: &Outcome) {
        let Some((fencing, pipe)) = self.look(outcome) else {
            return;
        };
        if self.begun.insert(fencing.dataset.clone()) {
            std::thread::spawn(move || {
                let _ = act(&fencing, &pipe);
            });
        }
    }

    /// The same, and waits; returns what is to be told.
    pub(crate) fn ended_and_wait(&mut self, outcome: &Outcome) -> Vec<String> {
        match self.look(outcome) {
            Some((fencing, pipe)) => act(&fencing, &pipe),
            None => Vec::new(),
        }
    }

    fn look(&mut self, outcome: &Outcome) -> Option<(Fencing, Arc<Mutex<Pipe>>)> {
        let pipe = self.pipe.clone()?;
        let (dataset, path) = (outcome.dataset.as_ref()?, outcome.path.as_deref()?);
        let Err(error) = &outcome.result else {
            // It is the main again: whatever comes is another fencing.
            self.begun.remove(dataset);
            return None;
        };
        let found = Fencing::of(dataset, path, error, &self.context);
        let fencing = found
            .unwrap_or_else(|error| {
                tracing::error!("{dataset}: whether `on_fence` is to run is not known: {error}");
                None
            })
            .filter(|fencing| !self.begun.contains(&fencing.dataset))?;
        (fencing.standing.role == Role::Fenced || self.is_taken_over(&fencing))
            .then_some((fencing, pipe))
    }

    /// Whether the other host is in a later epoch than this one, which is the main by what it knows itself.
    fn is_taken_over(&self, fencing: &Fencing) -> bool {
        let ask = |channel| understudy_agent::roles(channel, Some(fencing.dataset.clone()));
        let told = self.spare.talk(ask).ok().flatten().unwrap_or_default();
        let mut standings = told.into_iter().filter_map(|role| role.standing);
        standings.any(|other| other.epoch > fencing.standing.epoch)
    }
}

/// Has the programs run, and notes that they did.
fn act(fencing: &Fencing, pipe: &Mutex<Pipe>) -> Vec<String> {
    let (dataset, epoch) = (&fencing.dataset, fencing.standing.epoch);
    let request = Request {
        dataset: dataset.clone(),
        epoch,
    };
    let reply = match ask(pipe, &request) {
        Ok(reply) => reply,
        Err(error) => {
            let text = format!(
                "{dataset}: nobody can run `on_fence` any more: {error}; restart the agent"
            );
            tracing::error!("{text}");
            return vec![text];
        }
    };
    let mut told = Vec::new();
    let mut tell = |text: String| {
        tracing::error!("{text}");
        told.push(text);
    };
    match &reply.failure {
        None => tell(format!(
            "{dataset}: another host took over from epoch {epoch}: `on_fence` has run {}",
            crate::words::counted(reply.ran as u64, "program")
        )),
        Some(failure) => tell(format!(
            "{dataset}: another host took over from epoch {epoch}, and `on_fence` has FAILED: {failure}; look whether the application still \
             runs here"
        )),
    }
    for line in reply.log.lines() {
        tell(format!("{dataset}: {line}"));
    }
    if let Err(error) = fencing.note(&reply.log) {
        tell(format!(
            "{dataset}: `on_fence` will run again, for it cannot be noted that it has: {error}"
        ));
    }
    told
}

fn ask(pipe: &Mutex<Pipe>, request: &Request) -> io::Result<Reply> {
    // What was left half said is refused by the other side.
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    wire::write(&mut pipe.to, request)?;
    let gone = || io::Error::other("the process that does it has ended");
    wire::read(&mut pipe.from)?.ok_or_else(gone)
}
