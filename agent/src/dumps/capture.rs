//! Taking the dumps of a dataset before its files are looked at.

use std::collections::HashMap;
use std::sync::Arc;

use understudy_databases::Probe;
use understudy_protocol::{DatasetName, Name, Timestamp};

use super::keeper::{Difference, FilesFirst, Keeper, Note, Shelf};
use super::{Captive, Captured, Dump, Staying};
use crate::clock;
use crate::databases::{Capture, CaptureError, CaptureFailure, DatabaseSettings, OnFailure};
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

    /// Where the application is kept still, whether the files go first.
    pub(crate) fn files_first(&self) -> Result<FilesFirst, AgentError> {
        self.keeper.files_first()
    }

    /// Where the application is kept still, whether the files go first the next time.
    pub(crate) fn note_files_first(&self, noted: FilesFirst) -> Result<(), AgentError> {
        self.keeper.note_files_first(noted)
    }
}

/// Opens the dumps of a dataset. `None` if it has no databases, as far as anybody says.
pub(crate) fn begin<'a>(
    source: &'a Source,
    context: &'a Context,
) -> Result<Option<Taking<'a>>, AgentError> {
    let Some(engines) = &context.databases else {
        return Ok(None);
    };
    Ok(Some(Taking {
        source,
        dataset: &source.dataset,
        engines,
        keeper: Keeper::open(&context.state, &source.dataset)?,
        cancel: &context.cancel,
        asked: HashMap::new(),
        ahead: Vec::new(),
    }))
}

/// Taking the databases of a dataset.
#[derive(Debug)]
pub(crate) struct Taking<'a> {
    source: &'a Source,
    dataset: &'a DatasetName,
    engines: &'a Arc<dyn Capture>,
    keeper: Keeper,
    cancel: &'a Cancel,
    /// What databases said that were asked already, and when.
    asked: HashMap<String, (Result<Probe, CaptureError>, Timestamp)>,
    ahead: Vec<String>,
}

impl Taking<'_> {
    /// Whether one of them may have changed, and all can be asked. One that cannot says so when it is taken.
    pub(crate) fn will_dump(&mut self) -> Result<bool, AgentError> {
        self.is_any(|which| which.is_none())
    }

    /// The same, and of one that was taken already whether the spare has it.
    pub(crate) fn will_ship(&mut self) -> Result<bool, AgentError> {
        self.is_any(|which| !matches!(which, Some(Which::Shipped)))
    }

    fn is_any(&mut self, holds: impl Fn(Option<Which>) -> bool) -> Result<bool, AgentError> {
        let mut is_any = false;
        for settings in &self.source.databases {
            match self.which(settings) {
                Ok(which) => is_any |= holds(which),
                Err(AgentError::Database { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(is_any)
    }

    /// Dumps those once, for nothing, that could not be dumped the last time: as long as that fails, no files are shipped before them.
    pub(crate) fn rehearse(&mut self) -> Result<(), AgentError> {
        for settings in &self.source.databases {
            let shelf = self.keeper.shelf(&settings.name)?;
            if shelf.failures()? == 0 || self.which(settings)?.is_some() {
                continue;
            }
            let into = shelf.prepare()?;
            let dumped = self.engines.dump(self.dataset, &settings.name, &into);
            self.cancel.check()?;
            shelf.give_up()?;
            dumped.map_err(|error| self.failed(settings, &error))?;
        }
        Ok(())
    }

    /// What the files are shipped with before anything is dumped. A file that comes and goes while a dump is taken, and of which a row speaks, must
    /// have reached the spare before; and until the dump is there, nothing goes of which a row of the one before may speak.
    pub(crate) fn files_first(&mut self) -> Result<Captured, AgentError> {
        self.ask_again();
        let leave = |settings| {
            let name = self.name(settings)?;
            Ok(Captive { name, dump: None })
        };
        let databases = self.source.databases.iter().map(leave);
        Ok(Captured {
            staying: Staying::Everything,
            databases: databases.collect::<Result<_, AgentError>>()?,
        })
    }

    /// Where the application is kept still, whether the files go first.
    pub(crate) fn are_files_first(&self) -> Result<FilesFirst, AgentError> {
        self.keeper.files_first()
    }

    /// The files have gone first.
    pub(crate) fn note_files_went(&self) -> Result<(), AgentError> {
        self.keeper.note_files_first(FilesFirst::Done)
    }

    /// What databases have said until now counts no more.
    pub(crate) fn ask_again(&mut self) {
        self.asked.clear();
    }

    /// Takes a dump of each database that may have changed.
    pub(crate) fn take_all(mut self) -> Result<Taken, AgentError> {
        let now = clock::now();
        let asked = self.asked.values().map(|(_, asked)| *asked).min();
        let mut databases = Vec::new();
        for settings in &self.source.databases {
            self.cancel.check()?;
            databases.push(self.take_or_leave(settings)?);
        }
        Ok(Taken {
            captured: Captured {
                staying: Staying::Since(asked.map_or(now, |asked| asked.min(now))),
                databases,
            },
            keeper: self.keeper,
            ahead: self.ahead,
        })
    }

    /// Takes a database, or leaves the one that the spare has, where that is allowed by now.
    fn take_or_leave(&mut self, settings: &DatabaseSettings) -> Result<Captive, AgentError> {
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
        match self.source.on_database_failure {
            OnFailure::ShipFiles { after } if failures >= after && !is_not_now(&error) => {}
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
        if let Some(which) = self.which(settings)? {
            return self.captive(settings, &shelf, which);
        }
        let shipped = shelf.shipped()?;
        let (probe, asked) = self.ask(settings)?;
        self.dump(settings, &shelf, (probe, asked.seconds), shipped)?;
        self.captive(settings, &shelf, Which::Next)
    }

    /// The dump that is as the database is now; `None` if there is none.
    fn which(&mut self, settings: &DatabaseSettings) -> Result<Option<Which>, AgentError> {
        let (probe, asked) = self.ask(settings)?;
        let shelf = self.keeper.shelf(&settings.name)?;
        let proves = |note: &Note| note.proves(&probe, asked.seconds, settings.force_dump);
        // What was taken and never reached the spare is as good, if it is as new.
        if shelf.taken()?.as_ref().is_some_and(proves) {
            return Ok(Some(Which::Next));
        }
        let is_shipped = shelf.shipped()?.as_ref().is_some_and(proves);
        Ok(is_shipped.then_some(Which::Shipped))
    }

    /// Asks a database whether it has changed, once.
    fn ask(&mut self, settings: &DatabaseSettings) -> Result<(Probe, Timestamp), AgentError> {
        let (probe, asked) = match self.asked.get(&settings.name) {
            Some(asked) => asked.clone(),
            None => {
                let now = clock::now();
                let probe = self.engines.probe(self.dataset, &settings.name);
                self.cancel.check()?;
                let asked = (probe, now);
                self.asked.insert(settings.name.clone(), asked.clone());
                asked
            }
        };
        match probe {
            Ok(probe) => Ok((probe, asked)),
            Err(error) => Err(self.failed(settings, &error)),
        }
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
        name.map_err(|error| self.refused(settings, error.to_string(), CaptureFailure::Failed))
    }

    fn failed(&self, settings: &DatabaseSettings, error: &CaptureError) -> AgentError {
        self.refused(settings, error.text.clone(), error.kind)
    }

    fn refused(
        &self,
        settings: &DatabaseSettings,
        reason: String,
        kind: CaptureFailure,
    ) -> AgentError {
        AgentError::Database {
            dataset: self.dataset.clone(),
            database: settings.name.clone(),
            reason,
            kind,
        }
    }
}

/// Whether nothing is wrong with a database: the next cycle takes it, or finds what is.
fn is_not_now(error: &AgentError) -> bool {
    let not_now = CaptureFailure::NotNow;
    matches!(error, AgentError::Database { kind, .. } if *kind == not_now)
}

/// A dump of a database.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// The one that was taken last.
    Next,
    /// The one that the spare has.
    Shipped,
}
