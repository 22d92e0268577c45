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

use super::keeping::Keeping;
use super::note::What;
use super::task::Task;
use super::{Answer, Phase, Reply, Request, capturer, note, settings};
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
    for (what, dataset) in note::all(state) {
        // Nobody waits for this answer, but whatever the agent wants of the dataset comes after it.
        keeper.pass(&mut lanes, Request::undo(what, dataset));
    }
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

pub(super) struct Keeper {
    pub(super) config: PathBuf,
    state: PathBuf,
    output: Output,
    running: Mutex<Running>,
}

/// Workers that have not ended.
#[derive(Default)]
struct Running {
    /// Each ends when this is closed.
    pipes: BTreeMap<u64, ChildStdin>,
    /// Of those that keep something until it is undone, which each does when this is closed.
    keeping: HashMap<(What, DatasetName), ChildStdin>,
    is_over: bool,
}

/// Where a dataset's requests are done one after another.
struct Lane {
    requests: SyncSender<Request>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Lets a request be done, if the configuration has what it is about.
    fn pass(self: &Arc<Self>, lanes: &mut HashMap<DatasetName, Lane>, request: Request) {
        let known = match &request.phase {
            Phase::Probe | Phase::Dump(_) => settings(&self.config, &request).map(drop),
            Phase::KeepStill => {
                Task::of(&self.config, (What::Stillness, &request.dataset)).map(drop)
            }
            Phase::TakeSnapshot => {
                Task::of(&self.config, (What::Snapshot, &request.dataset)).map(drop)
            }
            // At once: it may be about to begin at this moment.
            Phase::LetGo => {
                self.let_go(&(What::Stillness, request.dataset.clone()));
                Ok(())
            }
            Phase::DropSnapshot => {
                self.let_go(&(What::Snapshot, request.dataset.clone()));
                Ok(())
            }
        };
        if let Err(error) = known {
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

    fn work(self: &Arc<Self>, requests: &Receiver<Request>) {
        let mut stillness = Keeping::of(What::Stillness);
        let mut snapshot = Keeping::of(What::Snapshot);
        for request in requests {
            let answer = match request.phase {
                Phase::Probe | Phase::Dump(_) => self.answer(&request),
                Phase::KeepStill => stillness.begin(self, &request),
                Phase::LetGo => Ok(stillness.end(self, &request.dataset)),
                Phase::TakeSnapshot => snapshot.begin(self, &request),
                Phase::DropSnapshot => Ok(snapshot.end(self, &request.dataset)),
            };
            tell(request.number, answer.unwrap_or_else(Answer::Failure));
        }
        stillness.await_end();
        snapshot.await_end();
    }

    fn answer(&self, request: &Request) -> Result<Answer, CaptureError> {
        let settings = settings(&self.config, request)?;
        let (limit, key) = limit(&settings, &request.phase);
        let mut worker = self.start(request, Kind::Capture)?;
        let heard = worker.reply(request.number, limit);
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

    /// Starts a process that does one thing.
    pub(super) fn start(
        &self,
        request: &Request,
        kind: Kind,
    ) -> Result<Worker<Reply>, CaptureError> {
        let cannot = |error: io::Error| {
            CaptureError::failed(format!(
                "the process that takes it cannot be started: {error}"
            ))
        };
        let mut running = self.running();
        if running.is_over && kind != Kind::Undoing {
            return Err(CaptureError::failed("the agent has ended"));
        }
        let mut command = capturer(&self.config, &self.state, self.output);
        let (worker, to) = Worker::start(command.arg("--one"), request).map_err(cannot)?;
        match kind {
            Kind::Capture => drop(running.pipes.insert(request.number, to)),
            Kind::Keeping(what) => {
                drop(running.keeping.insert((what, request.dataset.clone()), to));
            }
            // It does not end by that.
            Kind::Undoing => drop(to),
        }
        Ok(worker)
    }

    /// Lets every worker end, and starts no more.
    fn end(&self) {
        let mut running = self.running();
        running.is_over = true;
        running.pipes.clear();
        running.keeping.clear();
    }

    /// Lets the process undo what it keeps, and end.
    pub(super) fn let_go(&self, id: &(What, DatasetName)) {
        self.running().keeping.remove(id);
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After so long a worker is ended, which should have ended its programs after their own limit. Also which key of the configuration says so.
fn limit(settings: &DatabaseSettings, phase: &Phase) -> (Duration, &'static str) {
    let (limit, key) = match phase {
        Phase::Dump(_) => (settings.limits.dump, "max_dump"),
        _ => (settings.limits.probe, "max_probe"),
    };
    (limit * 2 + Duration::from_secs(5), key)
}

fn tell(number: u64, answer: Answer) {
    // If it cannot be written, the agent has ended, which the end of standard input tells as well.
    let _ = wire::write(&mut io::stdout().lock(), &Reply { number, answer });
}

/// What a process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A database; it ends with the agent.
    Capture,
    /// Something is kept until it is undone, which happens when the agent ends.
    Keeping(What),
    /// Something is undone, also when the agent has ended.
    Undoing,
}

impl Worker<Reply> {
    /// The next answer to a request of this number, if it comes within the limit.
    pub(super) fn reply(&mut self, number: u64, limit: Duration) -> Result<Answer, Silence> {
        self.answer(limit)
            .and_then(|reply| match reply.number == number {
                true => Ok(reply.answer),
                false => Err(Silence::Gone),
            })
    }
}
