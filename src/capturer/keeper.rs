//! The process that an agent speaks to. It has a worker do each thing that is asked for: for one dataset one after another, for several at the
//! same time. It ends them and everything they have started when they take too long, and when the agent has ended.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use understudy_agent::databases::{CaptureError, DatabaseSettings};
use understudy_protocol::DatasetName;

use super::{Answer, Phase, Reply, Request, capturer, settings};
use crate::alert::wire;
use crate::arguments::Output;
use crate::exit::CommandError;
use crate::worker::{Silence, Worker};

/// Requests of one dataset that wait for another one.
const WAITING: usize = 16;

/// Does what the agent asks for, until that ends.
pub(super) fn run(config: &Path, state: &Path, output: Output) -> Result<(), CommandError> {
    let keeper = Arc::new(Keeper {
        config: config.to_owned(),
        state: state.to_owned(),
        output,
        running: Mutex::default(),
    });
    let mut lanes = HashMap::new();
    let mut requests = BufReader::new(io::stdin().lock());
    let ended = loop {
        match wire::read::<Request>(&mut requests) {
            Ok(Some(request)) => keeper.pass(&mut lanes, request),
            Ok(None) => break Ok(()),
            Err(error) => {
                let message = format!("the agent asked for what is not done here: {error}");
                break Err(CommandError::failed(message));
            }
        }
    };
    keeper.end();
    for (_, Lane { requests, thread }) in lanes {
        drop(requests);
        let _ = thread.join();
    }
    ended
}

struct Keeper {
    config: PathBuf,
    state: PathBuf,
    output: Output,
    running: Mutex<Running>,
}

/// Workers that have not ended.
#[derive(Default)]
struct Running {
    /// Each ends when this is closed.
    pipes: BTreeMap<u64, ChildStdin>,
    is_over: bool,
}

/// Where a dataset's requests are done one after another.
struct Lane {
    requests: SyncSender<Request>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Lets a request be done, if the configuration has its database.
    fn pass(self: &Arc<Self>, lanes: &mut HashMap<DatasetName, Lane>, request: Request) {
        if let Err(error) = settings(&self.config, &request) {
            return tell(request.number, Answer::Failure(error));
        }
        let lane = lanes.entry(request.dataset.clone()).or_insert_with(|| {
            let (requests, waiting) = sync_channel(WAITING);
            let keeper = Arc::clone(self);
            let thread = std::thread::spawn(move || keeper.work(&waiting));
            Lane { requests, thread }
        });
        let refused = match lane.requests.try_send(request) {
            Ok(()) => return,
            Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => request,
        };
        let text = "too much is asked for at once; the next cycle tries again";
        tell(refused.number, Answer::Failure(CaptureError::failed(text)));
    }

    fn work(&self, requests: &Receiver<Request>) {
        for request in requests {
            let answer = self.answer(&request).unwrap_or_else(Answer::Failure);
            tell(request.number, answer);
        }
    }

    fn answer(&self, request: &Request) -> Result<Answer, CaptureError> {
        let settings = settings(&self.config, request)?;
        let (limit, key) = limit(&settings, &request.phase);
        let mut worker = self.start(request)?;
        let heard = worker
            .answer(limit)
            .and_then(|reply| match reply.number == request.number {
                true => Ok(reply.answer),
                false => Err(Silence::Gone),
            });
        self.running().pipes.remove(&request.number);
        let ended = worker.end();
        match heard {
            Ok(answer) => Ok(answer),
            Err(Silence::Long) => Err(CaptureError::failed(format!(
                "the process that takes it was not done after {} s, which is more than twice `{key}`, and was ended: look what it waits for (a server that does not answer, a program that is stopped), or set `{key}` higher",
                limit.as_secs()
            ))),
            Err(Silence::Gone) => {
                let how = ended.map_or("and cannot be ended".to_owned(), |status| {
                    status.to_string()
                });
                Err(CaptureError::failed(format!(
                    "the process that takes it has gone before it was done ({how}): somebody has ended it, or there was no memory left (`dmesg` tells), or it is a defect, of which the log has more"
                )))
            }
        }
    }

    fn start(&self, request: &Request) -> Result<Worker<Reply>, CaptureError> {
        let cannot = |error: io::Error| {
            CaptureError::failed(format!(
                "the process that takes it cannot be started: {error}"
            ))
        };
        let mut running = self.running();
        if running.is_over {
            return Err(CaptureError::failed("the agent has ended"));
        }
        let mut command = capturer(&self.config, &self.state, self.output);
        let (worker, to) = Worker::start(command.arg("--one"), request).map_err(cannot)?;
        running.pipes.insert(request.number, to);
        Ok(worker)
    }

    /// Lets every worker end, and starts no more.
    fn end(&self) {
        let mut running = self.running();
        running.is_over = true;
        running.pipes.clear();
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After so long a worker is ended, which should have ended its programs after their own limit. Also which key of the configuration says so.
fn limit(settings: &DatabaseSettings, phase: &Phase) -> (Duration, &'static str) {
    let (limit, key) = match phase {
        Phase::Probe => (settings.limits.probe, "max_probe"),
        Phase::Dump(_) => (settings.limits.dump, "max_dump"),
    };
    (limit * 2 + Duration::from_secs(5), key)
}

fn tell(number: u64, answer: Answer) {
    // If it cannot be written, the agent has ended, which the end of standard input tells as well.
    let _ = wire::write(&mut io::stdout().lock(), &Reply { number, answer });
}
