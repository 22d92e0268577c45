//! The process that looks at the store and has databases loaded: one thread for each database, and a few loads at the same time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use understudy_protocol::Position;
use understudy_receiver::standby::Standby as Place;
use understudy_receiver::{ReceiverError, Store};

use super::{Answer, Request, command, note_failure};
use crate::arguments::Output;
use crate::exit::CommandError;
use crate::receiver_config::{Load, ReceiverConfig, Standby};
use crate::words;
use crate::worker::{Silence, Worker};

/// How often it is looked for a new snapshot.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether a load goes on for nothing.
const WATCH: Duration = Duration::from_millis(200);
/// After so long a load that has failed is tried again, and a database is asked whether it still is the one that was loaded.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// So long the tree may show another snapshot than the catalog has before that is taken for what it is.
const BETWEEN: Duration = Duration::from_secs(30);
const HOUR_SECONDS: i64 = 60 * 60;
/// What a load may take beside what the engine may: for the copy of the dump.
const COPYING: Duration = Duration::from_secs(60 * 60);
/// Loads at the same time.
const AT_ONCE: usize = 2;

/// Loads what is configured until standard input ends.
pub(super) fn run(file: &Path, store: &Path, output: Output) -> Result<(), CommandError> {
    let config = ReceiverConfig::load(file)?;
    let keeper = Arc::new(Keeper {
        file: file.to_owned(),
        path: store.to_owned(),
        store: OnceLock::new(),
        output,
        is_over: AtomicBool::new(false),
        turns: Mutex::new(AT_ONCE),
        turn_ended: Condvar::new(),
    });
    let waits = config
        .standbys
        .into_iter()
        .filter(|one| one.load != Load::Promote);
    let threads: Vec<_> = waits
        .map(|one| {
            let keeper = Arc::clone(&keeper);
            std::thread::spawn(move || keeper.keep(&one))
        })
        .collect();
    let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
    keeper.is_over.store(true, Ordering::Relaxed);
    keeper.turn_ended.notify_all();
    for thread in threads {
        thread.thread().unpark();
        let _ = thread.join();
    }
    ended.map_err(|error| CommandError::failed(error.to_string()))?;
    Ok(())
}

struct Keeper {
    file: PathBuf,
    path: PathBuf,
    store: OnceLock<Store>,
    output: Output,
    is_over: AtomicBool,
    /// How many more may load.
    turns: Mutex<usize>,
    turn_ended: Condvar,
}

/// When it was last seen to a database, and at which snapshot.
struct Seen {
    shown: Option<Position>,
    at: Instant,
}

/// Whether a database was seen to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was, and what came of that is written down.
    Seen,
    /// Whoever loads just now has to end first.
    Busy,
}

impl Keeper {
    /// Sees to one database.
    fn keep(&self, one: &Standby) {
        let (mut seen, mut between) = (None, None);
        while !self.is_over() {
            match self.due(one, seen.as_ref(), &mut between) {
                Ok(Some(shown)) if self.take_turn() => {
                    let outcome = self.load(one);
                    self.end_turn();
                    let at = Instant::now();
                    seen = (outcome == Outcome::Seen).then_some(Seen { shown, at });
                }
                Ok(_) => {}
                // There is no such dataset yet, mostly.
                Err(error) => tracing::debug!("{}: {error}", one.dataset),
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// The store, which the receiver may be making just now.
    fn store(&self) -> Result<&Store, ReceiverError> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let store = Store::open_existing(&self.path)?;
        Ok(self.store.get_or_init(|| store))
    }

    fn place(&self, one: &Standby) -> Result<Place, ReceiverError> {
        Place::open(self.store()?, &one.dataset)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The snapshot that the live tree shows, if it is to be seen to.
    fn due(
        &self,
        one: &Standby,
        seen: Option<&Seen>,
        between: &mut Option<Instant>,
    ) -> Result<Option<Option<Position>>, ReceiverError> {
        let place = self.place(one)?;
        let shown = place.shown()?;
        let is_spare = place.spare()?.is_some() && !place.is_being_promoted();
        if shown.is_none() || !is_spare {
            return Ok(None);
        }
        let is_due = seen.is_none_or(|seen| seen.shown != shown || seen.at.elapsed() >= AGAIN);
        if !is_due {
            return Ok(None);
        }
        if place.head()? == shown.map(|position| position.number) {
            *between = None;
        } else if between.get_or_insert_with(Instant::now).elapsed() < BETWEEN {
            // A commit is just ending: the tree shows another snapshot than the catalog has.
            return Ok(None);
        }
        if one.load == Load::Hourly {
            let loaded = place.known(&one.settings.name)?.loaded;
            let is_young = loaded.is_some_and(|loaded| {
                words::now_seconds().saturating_sub(loaded.ended_seconds) < HOUR_SECONDS
            });
            if is_young {
                return Ok(None);
            }
        }
        Ok(Some(shown))
    }

    fn take_turn(&self) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        while *turns == 0 && !self.is_over() {
            let waited = self.turn_ended.wait_timeout(turns, LOOK);
            turns = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let may = !self.is_over();
        if may {
            *turns -= 1;
        }
        may
    }

    fn end_turn(&self) {
        *self.turns.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.turn_ended.notify_one();
    }

    fn load(&self, one: &Standby) -> Outcome {
        let (dataset, database) = (&one.dataset, &one.settings.name);
        match self.have_loaded(one) {
            Ok(Answer::Current) => {
                tracing::debug!(%dataset, database, "it is as the newest snapshot has it");
            }
            Ok(Answer::Busy) => return Outcome::Busy,
            Ok(Answer::Loaded { snapshot, seconds }) => {
                tracing::info!(%dataset, database, snapshot, seconds, "loaded");
            }
            Ok(Answer::Idle(why)) => tracing::info!(%dataset, database, "not loaded now: {why}"),
            Ok(Answer::Failed(why)) => {
                tracing::error!(%dataset, database, "cannot be loaded, and the one before stays: {why}");
            }
            Err(why) => {
                tracing::error!(%dataset, database, "cannot be loaded: {why}");
                let noted = self
                    .store()
                    .and_then(|store| note_failure(store, one, &why));
                if let Err(error) = noted {
                    tracing::error!(%dataset, database, "{error}");
                }
            }
        }
        Outcome::Seen
    }

    /// Has a worker do it.
    fn have_loaded(&self, one: &Standby) -> Result<Answer, String> {
        let request = Request {
            dataset: one.dataset.clone(),
            database: one.settings.name.clone(),
        };
        let mut command = command(&self.file, &self.path, self.output);
        let started = Worker::<Answer>::start(command.arg("--one"), &request);
        let (mut worker, pipe) = started
            .map_err(|error| format!("the process that loads it cannot be started: {error}"))?;
        let limit = one.settings.limits.load * 2 + COPYING;
        let since = Instant::now();
        let heard = loop {
            match worker.answer(WATCH) {
                Err(Silence::Long) if since.elapsed() > limit => break Err(Silence::Long),
                Err(Silence::Long) if self.is_over() => {
                    break Ok(Answer::Idle("the receiver has ended".to_owned()));
                }
                Err(Silence::Long) if self.is_in_vain(one) => {
                    let why =
                        "a promotion waits, and has another snapshot than what was being loaded";
                    break Ok(Answer::Idle(why.to_owned()));
                }
                Err(Silence::Long) => {}
                heard => break heard,
            }
        };
        drop(pipe);
        let ended = worker.end();
        heard.map_err(|silence| told(silence, limit, ended))
    }

    /// Whether a promotion waits for a load of what is not the newest any more.
    fn is_in_vain(&self, one: &Standby) -> bool {
        let database = &one.settings.name;
        let look = || -> Result<bool, ReceiverError> {
            let place = self.place(one)?;
            if !place.is_being_promoted() {
                return Ok(false);
            }
            let begun = place.known(database)?.begun;
            let newest = place.newest(database)?.map(|dump| dump.hash);
            Ok(begun.is_some_and(|begun| Some(begun.hash) != newest))
        };
        look().unwrap_or(false)
    }
}

fn told(silence: Silence, limit: Duration, ended: Option<ExitStatus>) -> String {
    match silence {
        Silence::Long => format!(
            "the process that loads it was not done after {} s, which is more than twice `max_load`, and was ended: look what it waits for \
             (a server that does not answer, a disk that is too slow), or set `max_load` higher",
            limit.as_secs()
        ),
        Silence::Gone => {
            let how = ended.map_or("and cannot be ended".to_owned(), |status| {
                status.to_string()
            });
            format!(
                "the process that loads it has gone before it was done ({how}): somebody has ended it, or there was no memory left (`dmesg` \
                 tells), or it is a defect, of which the log has more"
            )
        }
    }
}
