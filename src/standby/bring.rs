//! Having one database be as a snapshot has it: only if it is another one, and never claiming more than is there.
//!
//! That a load is begun is written down before the first statement of it, and what was loaded after the last one. What is written down counts
//! only as long as the engine says that the database is the one that was loaded, and as long as this host has not been the main since.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use understudy_agent::databases::Engine;
use understudy_databases::{Database, DatabaseError};
use understudy_receiver::ReceiverError;
use understudy_receiver::standby::{
    Begun, Dump, Known, Loaded, Lock, Spare, Standby as Place, Took,
};

use crate::receiver_config::Standby;
use crate::words;

/// A database that is to be as a snapshot has it.
pub(crate) struct Bring<'a> {
    place: &'a Place,
    lock: &'a Lock,
    one: &'a Standby,
    spare: Spare,
    database: Box<dyn Database>,
    known: Known,
}

/// Why it is not.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// What happened, and what to do.
    pub(crate) text: String,
    /// Whether anything is wrong; else this is not the moment.
    pub(crate) is_wrong: bool,
}

/// How it came to be so.
#[derive(Debug, Clone)]
pub(crate) enum Brought {
    /// It was.
    Before(Loaded),
    /// It was loaded, in so many seconds.
    Now(Loaded, f64),
    /// An application has written to it while this host was the main, and nothing came from another main since: it stays.
    Left,
}

impl From<ReceiverError> for Trouble {
    fn from(error: ReceiverError) -> Self {
        Self {
            text: error.to_string(),
            is_wrong: true,
        }
    }
}

impl From<DatabaseError> for Trouble {
    fn from(error: DatabaseError) -> Self {
        Self {
            text: error.to_string(),
            is_wrong: !matches!(error, DatabaseError::NotNow(_)),
        }
    }
}

impl<'a> Bring<'a> {
    /// Begins with what is known.
    pub(crate) fn new(
        (place, lock): (&'a Place, &'a Lock),
        one: &'a Standby,
        spare: Spare,
    ) -> Result<Self, ReceiverError> {
        Ok(Self {
            place,
            lock,
            one,
            spare,
            database: one.settings.open(&one.dataset),
            known: place.known(&one.settings.name)?,
        })
    }

    /// What is known of it.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// How it is as it should be, if it is without a load. Nothing that a load before has begun goes on when this returns.
    pub(crate) fn without_load(&mut self, dump: &Dump) -> Result<Option<Brought>, Trouble> {
        if !self.spare.has_been_sent(dump) {
            return Ok(Some(Brought::Left));
        }
        Ok(self.current(dump)?.map(Brought::Before))
    }

    fn current(&mut self, dump: &Dump) -> Result<Option<Loaded>, Trouble> {
        let target = self.one.settings.target();
        self.database.settle(target)?;
        let Some(loaded) = self.known.loaded.clone() else {
            return Ok(None);
        };
        let identity = self.database.identity(target)?;
        let is_there =
            loaded.epoch == self.spare.epoch && identity.as_ref() == Some(&loaded.identity);
        if !is_there {
            self.known.loaded = None;
            self.note()?;
            return Ok(None);
        }
        if loaded.hash != dump.hash {
            return Ok(None);
        }
        let loaded = Loaded {
            snapshot: dump.position.number,
            committed_seconds: dump.committed_seconds,
            ..loaded
        };
        let known = Known {
            loaded: Some(loaded.clone()),
            begun: None,
            failure: None,
            ..self.known.clone()
        };
        if known != self.known {
            self.known = known;
            self.note()?;
        }
        Ok(Some(loaded))
    }

    /// Loads the dump, whose files are below `from`. What was there before stays until everything is loaded, as far as the engine can do that.
    pub(crate) fn load(&mut self, dump: &Dump, from: &Path) -> Result<Brought, Trouble> {
        let target = self.one.settings.target();
        if let Engine::Command(_) = self.one.settings.engine {
            // A program may load over what is there, and what it counts may be the same.
            self.known.loaded = None;
        }
        self.must_be_ours()?;
        self.known.is_ours = true;
        self.known.begun = Some(Begun {
            snapshot: dump.position.number,
            hash: dump.hash.clone(),
            bytes: dump.bytes,
            since_seconds: words::now_seconds(),
        });
        self.note()?;
        let started = Instant::now();
        self.database.load(from, target)?;
        let seconds = started.elapsed().as_secs_f64();
        await_next_second();
        let identity = self.database.identity(target)?.ok_or_else(|| Trouble {
            text: format!("the database `{target}` is not there although it was loaded: somebody has removed it"),
            is_wrong: true,
        })?;
        let loaded = Loaded {
            epoch: self.spare.epoch,
            snapshot: dump.position.number,
            committed_seconds: dump.committed_seconds,
            hash: dump.hash.clone(),
            identity,
            ended_seconds: words::now_seconds(),
        };
        let bytes = dump.bytes;
        self.known = Known {
            loaded: Some(loaded.clone()),
            begun: None,
            failure: None,
            last: Some(Took { seconds, bytes }),
            is_ours: true,
        };
        self.note()?;
        Ok(Brought::Now(loaded, seconds))
    }

    /// Refuses to replace what was there before anything was loaded: a wrong name must not cost anybody a database.
    fn must_be_ours(&self) -> Result<(), Trouble> {
        let target = self.one.settings.target();
        if self.known.is_ours || self.database.identity(target)?.is_none() {
            return Ok(());
        }
        let counted = self.database.count(target)?;
        if counted.is_empty() {
            return Ok(());
        }
        let tables = words::counted(counted.len() as u64, "table");
        Err(Trouble {
            text: format!(
                "there is a database `{target}` here already, with {tables}, that understudy has not loaded, and it is not replaced: if nobody needs \
                 it, remove it; else rename it, or give the [[standby]] another `database`"
            ),
            is_wrong: true,
        })
    }

    /// Writes down why it is not as it should be; what was loaded before stays known as long as it is there.
    pub(crate) fn fail(&mut self, trouble: &Trouble) {
        let target = self.one.settings.target();
        if let Some(loaded) = &self.known.loaded {
            // Where nobody answers, it may well be there: whoever relies on it asks again.
            let identity = self.database.identity(target);
            if identity.is_ok_and(|identity| identity.as_ref() != Some(&loaded.identity)) {
                self.known.loaded = None;
            }
        }
        let now = words::now_seconds();
        self.known.fail(&trouble.text, trouble.is_wrong, now);
        if let Err(error) = self.note() {
            tracing::error!("{}: {}", self.one.dataset, error.text);
        }
    }

    fn note(&self) -> Result<(), Trouble> {
        let name = &self.one.settings.name;
        Ok(self.place.note(name, &self.known, self.lock)?)
    }
}

/// What is told by the seconds in which things were made must not be told of what is made next.
fn await_next_second() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.map_or(0, |now| now.subsec_nanos());
    let rest = Duration::from_nanos(u64::from(1_000_000_000_u32.saturating_sub(since)));
    let until = Instant::now() + rest;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
        if left.is_zero() {
            return;
        }
    }
}
