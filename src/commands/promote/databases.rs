//! The databases of a promoted snapshot: what was loaded before is looked at, and what is not the same is loaded while this host still is the
//! spare. Afterwards an application writes to them, and nobody loads anything.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use understudy_databases::run;
use understudy_protocol::{DatasetName, shown};
use understudy_receiver::standby::{Databases, Dump, Known, Lock, Standby as Place};
use understudy_receiver::{ReceiverError, Store};

use super::Session;
use crate::receiver_config::Standby;
use crate::standby::{Bring, Brought, Trouble, missing};
use crate::{report, words};

/// How often it is told how long it still takes.
const TELL: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of databases that are not as the snapshot has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They are loaded, or the promotion fails.
    Load,
    /// They stay as they are.
    Leave,
}

/// What came of one database.
#[derive(Debug, Clone)]
pub(super) struct Done {
    name: String,
    /// What it is called by the engine.
    target: String,
    brought: Brought,
}

/// The databases of a dataset.
#[derive(Debug)]
pub(super) struct Site<'a> {
    dataset: &'a DatasetName,
    standbys: Vec<&'a Standby>,
    others: Others,
    session: &'a Session,
    done: Mutex<Vec<Done>>,
    told: Mutex<Option<Instant>>,
}

impl<'a> Site<'a> {
    /// Those that are configured; `None` if there are none.
    pub(super) fn of(
        dataset: &'a DatasetName,
        standbys: &'a [Standby],
        others: Others,
        session: &'a Session,
    ) -> Option<Self> {
        let own = standbys.iter().filter(|one| one.dataset == *dataset);
        let standbys: Vec<&Standby> = own.collect();
        (!standbys.is_empty()).then(|| Self {
            dataset,
            standbys,
            others,
            session,
            done: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// What came of them.
    pub(super) fn done(self) -> Vec<Done> {
        self.done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, text: &str) {
        if report::summarises(self.session.output) {
            report::note_line(&format!("{}: {text}", self.dataset));
        }
    }

    fn check(&self) -> Result<(), ReceiverError> {
        match self.session.cancel.is_cancelled() {
            true => Err(ReceiverError::Stopped),
            false => Ok(()),
        }
    }

    fn bring_one(&self, (place, lock): (&Place, &Lock), one: &Standby) -> Result<Brought, Trouble> {
        let Some(spare) = place.spare()? else {
            return Err(Trouble {
                text: "this host is not the spare any more, and loads nothing".to_owned(),
                is_wrong: true,
            });
        };
        let mut bring = Bring::new((place, lock), one, spare)?;
        let brought = self.bring_up(&mut bring, place, one);
        // What was interrupted has not failed.
        if let (Err(trouble), false) = (&brought, self.session.cancel.is_cancelled()) {
            bring.fail(trouble);
        }
        brought
    }

    fn bring_up(
        &self,
        bring: &mut Bring<'_>,
        place: &Place,
        one: &Standby,
    ) -> Result<Brought, Trouble> {
        let name = &one.settings.name;
        let Some(dump) = place.newest(name)? else {
            return Err(missing(one));
        };
        if let Some(brought) = bring.without_load(&dump)? {
            return Ok(brought);
        }
        let path = place.live_path(&dump)?;
        let expected = bring.known().expected_seconds(dump.bytes);
        self.tell(&format!(
            "loads the database `{name}` of snapshot {} ({}): {}",
            dump.position.number,
            shown::size(dump.bytes),
            expectation(expected)
        ));
        self.telling(name, expected, || bring.load(&dump, &path))
    }

    /// Tells how long it still takes, until it is done. What is to end is ended.
    fn telling<T: Send>(&self, name: &str, expected: Option<f64>, act: impl FnOnce() -> T) -> T {
        let (ended, watch) = sync_channel::<()>(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (since, mut told) = (Instant::now(), Instant::now());
                while watch.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    if self.session.cancel.is_cancelled() {
                        run::stop_all();
                    }
                    if told.elapsed() >= TELL {
                        told = Instant::now();
                        let left = remaining(expected, since.elapsed().as_secs_f64());
                        self.tell(&format!("still loads the database `{name}`: {left}"));
                    }
                }
            });
            let acted = act();
            drop(ended);
            acted
        })
    }

    /// What somebody else is loading just now.
    fn under_way(place: &Place) -> Option<String> {
        let all = place.all().ok()?;
        let (name, known, begun) = all
            .iter()
            .find_map(|(name, known)| Some((name, known, known.begun.as_ref()?)))?;
        let elapsed = words::now_seconds()
            .saturating_sub(begun.since_seconds)
            .max(0);
        let left = remaining(known.expected_seconds(begun.bytes), elapsed as f64);
        Some(format!(
            "waits for the load of the database `{name}` of snapshot {} that the receiver has begun: {left}",
            begun.snapshot
        ))
    }
}

impl Databases for Site<'_> {
    fn wait(&self, place: &Place) -> Result<(), ReceiverError> {
        self.check()?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            *told = Some(Instant::now());
            let text = Self::under_way(place);
            self.tell(
                text.as_deref()
                    .unwrap_or("waits for whoever loads its databases"),
            );
        }
        Ok(())
    }

    fn bring(&self, place: &Place, lock: &Lock) -> Result<(), ReceiverError> {
        if self.others == Others::Leave {
            return Ok(());
        }
        let mut failed = Vec::new();
        for one in &self.standbys {
            self.check()?;
            let (name, target) = (&one.settings.name, one.settings.target());
            match self.bring_one((place, lock), one) {
                Ok(brought) => {
                    let done = Done {
                        name: name.clone(),
                        target: target.to_owned(),
                        brought,
                    };
                    let mut all = self.done.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(done);
                }
                Err(trouble) => failed.push(format!("`{name}`: {}", trouble.text)),
            }
        }
        self.check()?;
        match failed.is_empty() {
            true => Ok(()),
            false => Err(ReceiverError::Database(format!(
                "its databases are not as the snapshot has them, and an application would go on with older rows: {}",
                failed.join("; ")
            ))),
        }
    }
}

impl Done {
    /// For people.
    pub(super) fn line(&self) -> String {
        let Self { name, target, .. } = self;
        match &self.brought {
            Brought::Before(loaded) => format!(
                "the database `{target}` is `{name}` of snapshot {}: it was loaded before, at {}",
                loaded.snapshot,
                words::time(loaded.ended_seconds)
            ),
            Brought::Now(loaded, seconds) => format!(
                "the database `{target}` is `{name}` of snapshot {}: it was loaded now, in {seconds:.1} s",
                loaded.snapshot
            ),
            Brought::Left => format!(
                "the database `{target}` stays as an application has left it while this host was the main: no main has sent another one since"
            ),
        }
    }

    /// For programs.
    pub(super) fn value(&self) -> Value {
        let (loaded, seconds) = match &self.brought {
            Brought::Before(loaded) => (Some(loaded), None),
            Brought::Now(loaded, seconds) => (Some(loaded), Some(seconds)),
            Brought::Left => (None, None),
        };
        json!({
            "name": self.name,
            "database": self.target,
            "snapshot": loaded.map(|loaded| loaded.snapshot),
            "loaded": loaded.map(|loaded| words::time(loaded.ended_seconds)),
            "loaded_now_seconds": seconds,
        })
    }
}

/// What would become of the databases, for whoever decides.
pub(super) fn outlook(store: &Store, dataset: &DatasetName, standbys: &[Standby]) -> Vec<String> {
    let own = standbys.iter().filter(|one| one.dataset == *dataset);
    own.map(|one| match look(store, one) {
        Ok(text) => format!("  {text}"),
        Err(error) => format!("  database `{}`: {error}", one.settings.name),
    })
    .collect()
}

fn look(store: &Store, one: &Standby) -> Result<String, ReceiverError> {
    let name = &one.settings.name;
    let place = Place::open(store, &one.dataset)?;
    let Some(dump) = place.newest(name)? else {
        return Ok(missing(one).text);
    };
    if place
        .spare()?
        .is_some_and(|spare| !spare.has_been_sent(&dump))
    {
        return Ok(format!(
            "database `{name}`: as an application has left it while this host was the main"
        ));
    }
    let known = place.known(name)?;
    Ok(foreseen(name, &known, &dump))
}

fn foreseen(name: &str, known: &Known, dump: &Dump) -> String {
    let number = dump.position.number;
    match &known.loaded {
        Some(loaded) if loaded.hash == dump.hash => format!(
            "database `{name}`: loaded as snapshot {number} has it, at {}",
            words::time(loaded.ended_seconds)
        ),
        loaded => {
            let has = loaded.as_ref().map_or_else(
                || "nothing is loaded".to_owned(),
                |loaded| format!("snapshot {} is loaded", loaded.snapshot),
            );
            format!(
                "database `{name}`: {has}, so that of snapshot {number} is loaded first ({}): {}",
                shown::size(dump.bytes),
                expectation(known.expected_seconds(dump.bytes))
            )
        }
    }
}

fn expectation(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) => format!("about {}, as the last load took", span(seconds)),
        None => "nobody knows how long that takes, for it is the first".to_owned(),
    }
}

fn remaining(expected: Option<f64>, elapsed: f64) -> String {
    match expected {
        Some(expected) if expected > elapsed => format!("about {} left", span(expected - elapsed)),
        Some(expected) => format!(
            "{} by now, where {} were expected",
            span(elapsed),
            span(expected)
        ),
        None => format!("{} by now", span(elapsed)),
    }
}

fn span(seconds: f64) -> String {
    words::span(seconds.ceil() as i64)
}
