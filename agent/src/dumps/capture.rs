//! Taking the dumps of a dataset before its files are looked at.

use std::sync::Arc;

use understudy_databases::Probe;
use understudy_protocol::{DatasetName, Name};

use super::keeper::{Difference, Keeper, Note, Shelf};
use super::{Captive, Captured, Dump};
use crate::clock;
use crate::databases::{Capture, CaptureError, DatabaseSettings, OnFailure};
use crate::error::AgentError;
use crate::{Cancel, Context, Source};

/// What was taken, and must be told what became of it.
#[derive(Debug)]
pub(crate) struct Taken {
    keeper: Keeper,
    pub(crate) captured: Captured,
    /// Databases whose last dump is not the one that the spare has.
    ahead: Vec<String>,
}

impl Taken {
    /// The spare has acknowledged a snapshot with it.
    pub(crate) fn acknowledge(&self) -> Result<(), AgentError> {
        for database in &self.ahead {
            self.keeper.shelf(database)?.acknowledge()?;
        }
        Ok(())
    }
}

/// Takes a dump of each database that may have changed. `None` if the dataset has none, and nobody says that it had.
pub(crate) fn capture(source: &Source, context: &Context) -> Result<Option<Taken>, AgentError> {
    let Some(engines) = &context.databases else {
        return Ok(None);
    };
    let keeper = Keeper::open(&context.state, &source.dataset)?;
    let mut taking = Taking {
        dataset: &source.dataset,
        engines,
        keeper: &keeper,
        cancel: &context.cancel,
        ahead: Vec::new(),
    };
    let since = clock::now();
    let mut databases = Vec::new();
    for settings in &source.databases {
        context.cancel.check()?;
        databases.push(taking.take_or_leave(settings, source.on_database_failure)?);
    }
    let ahead = taking.ahead;
    Ok(Some(Taken {
        captured: Captured { since, databases },
        keeper,
        ahead,
    }))
}

struct Taking<'a> {
    dataset: &'a DatasetName,
    engines: &'a Arc<dyn Capture>,
    keeper: &'a Keeper,
    cancel: &'a Cancel,
    ahead: Vec<String>,
}

impl Taking<'_> {
    /// Takes a database, or leaves the one that the spare has, where that is allowed by now.
    fn take_or_leave(
        &mut self,
        settings: &DatabaseSettings,
        on_failure: OnFailure,
    ) -> Result<Captive, AgentError> {
        let shelf = self.keeper.shelf(&settings.name)?;
        let error = match self.take(settings) {
            Ok(captive) => {
                shelf.end_failures()?;
                return Ok(captive);
            }
            Err(error @ AgentError::Database { .. }) => error,
            Err(error) => return Err(error),
        };
        let failures = shelf.count_failure()?;
        match on_failure {
            OnFailure::ShipFiles { after } if failures >= after => {}
            _ => return Err(error),
        }
        let dataset = self.dataset;
        tracing::error!(%dataset, database = settings.name, failures, "the files are sent without it, beside the dump that the spare has: {error}");
        Ok(Captive {
            name: self.name(settings)?,
            dump: None,
        })
    }

    fn take(&mut self, settings: &DatabaseSettings) -> Result<Captive, AgentError> {
        let shelf = self.keeper.shelf(&settings.name)?;
        let probe = self.engines.probe(self.dataset, &settings.name);
        self.cancel.check()?;
        let probe = probe.map_err(|error| self.failed(settings, &error))?;
        let now = clock::now().seconds;
        let shipped = shelf.shipped()?;
        let proves = |note: &Note| note.proves(&probe, now, settings.force_dump);
        // What was taken and never reached the spare is as good, if it is as new.
        if shelf.taken()?.as_ref().is_some_and(proves) {
            return self.captive(settings, &shelf, Which::Next);
        }
        if shipped.as_ref().is_some_and(proves) {
            return self.captive(settings, &shelf, Which::Shipped);
        }
        self.dump(settings, &shelf, (probe, now), shipped)?;
        self.captive(settings, &shelf, Which::Next)
    }

    fn dump(
        &self,
        settings: &DatabaseSettings,
        shelf: &Shelf,
        (probe, now): (Probe, i64),
        shipped: Option<Note>,
    ) -> Result<(), AgentError> {
        let database = &settings.name;
        let into = shelf.prepare()?;
        let dumped = self.engines.dump(self.dataset, database, &into);
        let dump = match dumped {
            Ok(dump) => dump,
            Err(error) => {
                self.cancel.check()?;
                shelf.give_up()?;
                return Err(self.failed(settings, &error));
            }
        };
        shelf.is_whole(&into)?;
        let misses = shipped.as_ref().map_or(0, |note| note.misses);
        let mut note = Note::new(probe, now, dump, misses);
        let difference = shelf.keep(&note)?;
        let was_unchanged = shipped.is_some_and(|shipped| shipped.says_unchanged(&note.probe));
        if was_unchanged && difference == Difference::Some {
            note.misses += 1;
            tracing::error!(dataset = %self.dataset, database, "the database said that nothing had changed, and its dump is another one than before: a change was missed until now");
            shelf.keep(&note)?;
        }
        for text in &note.dump.notes {
            tracing::info!(dataset = %self.dataset, database, "{text}");
        }
        Ok(())
    }

    fn captive(
        &mut self,
        settings: &DatabaseSettings,
        shelf: &Shelf,
        which: Which,
    ) -> Result<Captive, AgentError> {
        let former = shelf.dump()?;
        let files = match which {
            Which::Next => {
                self.ahead.push(settings.name.clone());
                shelf.next()?
            }
            Which::Shipped => shelf.dump()?,
        };
        Ok(Captive {
            name: self.name(settings)?,
            dump: files.map(|files| Dump { files, former }),
        })
    }

    fn name(&self, settings: &DatabaseSettings) -> Result<Name, AgentError> {
        let name = Name::new(settings.name.as_str());
        name.map_err(|error| self.refused(settings, error.to_string()))
    }

    fn failed(&self, settings: &DatabaseSettings, error: &CaptureError) -> AgentError {
        self.refused(settings, error.text.clone())
    }

    fn refused(&self, settings: &DatabaseSettings, reason: String) -> AgentError {
        AgentError::Database {
            dataset: self.dataset.clone(),
            database: settings.name.clone(),
            reason,
        }
    }
}

/// A dump of a database.
enum Which {
    /// The one that was taken last.
    Next,
    /// The one that the spare has.
    Shipped,
}
