//! The scrub: a receiver that has time reads everything that it keeps, again and again, evenly over weeks.
//!
//! One thread for the whole store. Each turn is a step of the dataset that is most behind; where that ended is durable every
//! few seconds, and the next process goes on there. Must not know how people are told.

mod begin;
mod even;
mod state;
mod tell;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use understudy_protocol::DatasetName;
use understudy_tree::{IoPriority, set_io_priority};

use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::findings::{self, Wish};
use crate::names;
use crate::pace::Throttle;
use crate::store::Store;
use crate::verify::{Doubtful, Mending, Position, Reading, Settled, look_again, news, settle};

use begin::begin;
use even::{bytes_per_second, due_seconds};
pub(crate) use state::State;
use state::{Ended, Running};
pub(crate) use tell::told;

/// How far a pass got is written down so often.
const SAVE: Duration = Duration::from_secs(10);
/// How often it is looked whether something is due.
const LOOK: Duration = Duration::from_secs(60);
/// How soon it is looked whether a commit is over.
const PAUSE: Duration = Duration::from_millis(20);
/// After an error a dataset is left alone for so long.
const REST: Duration = Duration::from_secs(10 * 60);
/// The niceness of the thread: the highest.
const NICE: i32 = 19;

/// How often everything is read, and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// A pass begins so long after the one before began; zero for no scrub at all.
    pub every: Duration,
    /// It never reads slower than this, in bytes per second: a small store is read in minutes.
    pub least_bytes: u64,
    /// Nor faster than this; all datasets together.
    pub most_bytes: u64,
    /// What is done about damage.
    pub repair: Repair,
}

/// What is done about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// It is recorded.
    #[default]
    Never,
    /// It is mended with what the spare has, and the main is asked for the rest.
    Always,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30 * 24 * 60 * 60),
            least_bytes: 1_000_000,
            most_bytes: 50_000_000,
            repair: Repair::Never,
        }
    }
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A step was made.
    Worked,
    /// Nothing is due.
    Idle,
}

/// The scrub of one store.
#[derive(Debug)]
pub struct Scrub {
    store: Arc<Store>,
    plan: Plan,
    states: BTreeMap<DatasetName, Known>,
    listed: Option<Instant>,
    throttle: Throttle,
    started: Instant,
}

#[derive(Debug)]
struct Known {
    state: State,
    made_seconds: i64,
    /// By this process.
    saved: Option<Instant>,
    /// After an error.
    rests_until: Option<Instant>,
}

/// Scrubs the store on the calling thread, at the lowest priority, as long as the process lives.
pub fn forever(store: Arc<Store>, plan: Plan) {
    if plan.every.is_zero() {
        return;
    }
    // On Linux this is a property of the thread, and no process means the calling one.
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::warn!(
            "cannot set the niceness of the scrub to {NICE}: {error}; carrying on without"
        );
    }
    if let Err(error) = set_io_priority(IoPriority::Idle) {
        tracing::warn!("{error}; the scrub carries on without");
    }
    let pause = LOOK.min(plan.every);
    let mut scrub = Scrub::new(store, plan);
    loop {
        if scrub.turn() == Turn::Idle {
            std::thread::park_timeout(pause);
        }
    }
}

impl Scrub {
    /// Goes on where the last process was.
    pub fn new(store: Arc<Store>, plan: Plan) -> Self {
        Self {
            store,
            plan,
            states: BTreeMap::new(),
            listed: None,
            throttle: Throttle::default(),
            started: Instant::now(),
        }
    }

    /// Makes one step of whatever is due. Trouble in one dataset is its own, and logged.
    pub fn turn(&mut self) -> Turn {
        let listed = self.list();
        if let Err(error) = listed {
            tracing::warn!("the scrub cannot list the datasets: {error}");
            return Turn::Idle;
        }
        let now = now_seconds();
        let Some(name) = self.next(now) else {
            return Turn::Idle;
        };
        if let Err(error) = self.step(&name, now) {
            tracing::warn!(dataset = %name, "the scrub cannot go on, and tries again later: {error}");
            if let Some(known) = self.states.get_mut(&name) {
                known.rests_until = Some(Instant::now() + REST);
            }
        }
        Turn::Worked
    }

    /// Looks now and then which datasets there are.
    fn list(&mut self) -> Result<(), ReceiverError> {
        if self
            .listed
            .is_some_and(|listed| listed.elapsed() < LOOK.min(self.plan.every))
        {
            return Ok(());
        }
        let names = self.store.dataset_names()?;
        self.states.retain(|name, _| names.contains(name));
        for name in names {
            if self.states.contains_key(&name) {
                continue;
            }
            match self.known(&name) {
                Ok(known) => self.states.extend(known.map(|known| (name, known))),
                Err(error) => {
                    tracing::warn!(dataset = %name, "the scrub passes over it for now: {error}");
                }
            }
        }
        self.listed = Some(Instant::now());
        Ok(())
    }

    /// What is known of a dataset that was not there before; `None` if it is none.
    fn known(&self, name: &DatasetName) -> Result<Option<Known>, ReceiverError> {
        let Some(dataset) = self.store.dataset(name)? else {
            return Ok(None);
        };
        Ok(Some(Known {
            state: State::read(&dataset)?,
            // Made with the dataset, and never written.
            made_seconds: dataset.control.stat(&names::LOCK)?.modified.seconds,
            saved: None,
            rests_until: None,
        }))
    }

    /// Whose turn it is: of those that are due, whoever is most behind.
    fn next(&self, now_seconds: i64) -> Option<DatasetName> {
        let awake = self.states.iter().filter(|(_, known)| {
            known
                .rests_until
                .is_none_or(|until| until <= Instant::now())
        });
        let behind = awake.filter_map(|(name, known)| {
            let behind = match &known.state.running {
                Some(running) => running.run().behind(&self.plan, now_seconds),
                None => {
                    let due = due_seconds(&self.plan, known.state.times(known.made_seconds));
                    (due <= now_seconds).then_some(i64::MAX)?
                }
            };
            Some((behind, name))
        });
        behind
            .max_by_key(|(behind, _)| *behind)
            .map(|(_, name)| name.clone())
    }

    fn step(&mut self, name: &DatasetName, now_seconds: i64) -> Result<(), ReceiverError> {
        let store = Arc::clone(&self.store);
        let Some(dataset) = store.dataset(name)? else {
            self.states.remove(name);
            return Ok(());
        };
        let runs: Vec<_> = self
            .states
            .values()
            .filter_map(|known| known.state.running.as_ref().map(Running::run))
            .collect();
        let Some(known) = self.states.get_mut(name) else {
            return Ok(());
        };
        if dataset.is_full() {
            // Reading the catalog as it stands would keep out whoever makes room.
            tracing::info!(dataset = %name, "the scrub rests: the disk is full");
            known.rests_until = Some(Instant::now() + REST);
            return Ok(());
        }
        let Some(running) = &mut known.state.running else {
            known.state.running = Some(begin(&dataset, now_seconds)?);
            return known.state.write(&dataset);
        };
        let rate = bytes_per_second(&self.plan, &runs, now_seconds);
        let (plan, throttle, started) = (&self.plan, &mut self.throttle, self.started);
        let mut pace = |bytes| {
            give_way(&store);
            let is_busy = !store.cycles.running().is_empty();
            let rate = if is_busy {
                rate.min(plan.least_bytes)
            } else {
                rate
            };
            park(throttle.wait(bytes, rate, started.elapsed()));
            Ok(())
        };
        let mut reading = Reading::new(&dataset, &mut pace);
        let (next, found) = reading.step(running.position.clone())?;
        let tally = reading.take_tally();
        let mending = match self.plan.repair {
            Repair::Never => Mending::None,
            Repair::Always => Mending::Damage,
        };
        let has_news = !found.is_empty();
        let settled = settle(
            &store,
            &dataset,
            (mending, Some(running.pass)),
            Wish::Ask,
            found,
        )?;
        // Not before what was found is recorded: else this step is made again.
        running.position = next;
        running.done.add(tally);
        running.findings += settled.left.len() as u64;
        log(name, &settled);
        if running.position == Position::End {
            look_at_open(&store, &dataset, mending, running)?;
        }
        if matches!(running.position, Position::End | Position::Broken) {
            return end(&dataset, &mut known.state);
        }
        if has_news || known.saved.is_none_or(|saved| saved.elapsed() >= SAVE) {
            known.state.write(&dataset)?;
            known.saved = Some(Instant::now());
        }
        Ok(())
    }
}

/// Ends the pass of findings: what is still open is read before it counts as right.
fn look_at_open(
    store: &Store,
    dataset: &Dataset,
    mending: Mending,
    running: &mut Running,
) -> Result<(), ReceiverError> {
    let Doubtful { found, mut unread } = look_again(dataset, running.pass)?;
    let mut settled = settle(
        store,
        dataset,
        (mending, Some(running.pass)),
        Wish::Ask,
        found,
    )?;
    unread.append(&mut settled.moved);
    findings::end_pass(dataset, running.pass, &unread)?;
    settled.left.extend(news(dataset, unread)?);
    running.findings += settled.left.len() as u64;
    log(&dataset.name, &settled);
    Ok(())
}

fn end(dataset: &Dataset, state: &mut State) -> Result<(), ReceiverError> {
    let Some(running) = &state.running else {
        return Ok(());
    };
    if running.position == Position::Broken {
        state.failed_seconds = Some(running.since_seconds);
        tracing::warn!(dataset = %dataset.name, "the scrub could not read everything");
    } else {
        let ended = Ended {
            since_seconds: running.since_seconds,
            seconds: now_seconds(),
            read: running.done,
            findings: running.findings,
        };
        tracing::info!(dataset = %dataset.name, bytes = ended.read.bytes(), findings = ended.findings, "a scrub has read everything");
        state.last = Some(ended);
        state.failed_seconds = None;
    }
    state.running = None;
    state.write(dataset)
}

fn log(name: &DatasetName, settled: &Settled) {
    for damage in &settled.repaired {
        tracing::warn!(dataset = %name, "repaired: `{}`: {}", damage.path, damage.what);
    }
    for damage in &settled.left {
        tracing::error!(dataset = %name, "not as the main sent it: `{}`: {}", damage.path, damage.what);
    }
}

/// Waits until no commit is being applied.
fn give_way(store: &Store) {
    while store.committing.is_on() {
        std::thread::park_timeout(PAUSE);
    }
}

fn park(wait: Duration) {
    let end = Instant::now() + wait;
    // Somebody else's wake-up is no reason to go on.
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if left.is_zero() {
            break;
        }
        std::thread::park_timeout(left);
    }
}
