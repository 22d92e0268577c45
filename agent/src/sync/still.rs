//! Cycles in which the application is kept still while its files and databases are captured.
//!
//! Nobody writes meanwhile, so whatever a row speaks of is there when the files are looked at: the files need not go before, and nothing that is
//! gone stays. They go before all the same, while the application works, when nothing was captured yet and after a capture that took too long:
//! what is large is on the spare then.

use std::sync::{Arc, Mutex, PoisonError};

use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, ProtocolError};

use super::again::{again, going_on, rehearsed, ship_files_first, tell};
use super::freeze::Freeze;
use super::{Reliance, SyncReport};
use crate::conversation::Conversation;
use crate::databases::{Capture, CaptureError, CaptureFailure, LetGo, is_noted};
use crate::dumps::{FilesFirst, Staying, Taken, Taking, begin};
use crate::error::AgentError;
use crate::scan::{Trust, Turn};
use crate::{Context, Source};

/// A cycle of a dataset whose application can be kept still: where a database changed, or, of a dataset without any, where something may have.
pub(super) fn cycle(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    place: (&Source, &Context),
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let (source, context) = place;
    let dataset = &source.dataset;
    let (Some(engines), Some(mut taking)) = (&context.databases, begin(source, context)?) else {
        return Err(AgentError::NotStill {
            dataset: dataset.clone(),
            reason: "there is no process that runs `before_capture`, for the configuration had none when the agent was started: restart it".to_owned(),
        });
    };
    // Of one that was interrupted, or could not be ended.
    let mut stuck = None;
    if is_noted(&context.state, dataset) {
        let ended = engines.let_go(dataset);
        stuck = ended.map_err(|error| failed(dataset, &error))?.stuck;
    }
    let is_news = match source.databases.is_empty() {
        true => !is_idle(reliance),
        false => taking.will_ship()?,
    };
    let report = match is_news {
        false => going_on(connect, place, Some(taking), reliance)?,
        true => {
            stuck = None;
            in_two_tries(connect, place, taking, reliance)?
        }
    };
    match stuck {
        None => Ok(report),
        Some(reason) => {
            let dataset = dataset.clone();
            let error = AgentError::Stuck { dataset, reason };
            tell(connect, place, reliance, &error);
            Err(error)
        }
    }
}

/// Whether the journal proves that nothing has changed.
fn is_idle(reliance: Reliance<'_>) -> bool {
    let is_silent = reliance.journal.is_some_and(|journal| {
        let taken = journal.take_since(0);
        taken.gap.is_none() && taken.marked.is_empty()
    });
    is_silent && reliance.trust == Trust::Times
}

/// A capture, and another one if the spare could make nothing of what was sent.
fn in_two_tries(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    place: (&Source, &Context),
    mut taking: Taking<'_>,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let (source, context) = place;
    let mut before = None;
    // With a snapshot of the file system it takes moments in any case.
    let is_long = source.snapshot.is_none() && taking.are_files_first()? == FilesFirst::Due;
    if is_long && rehearsed(&mut taking)? {
        before = Some(ship_files_first(connect, place, &mut taking, reliance)?);
        taking.note_files_went()?;
    }
    let went = match before {
        Some(_) => FilesFirst::InVain,
        None => FilesFirst::Due,
    };
    let result = capture(connect, place, (taking, went), reliance);
    let mut report = match result.as_ref().err().and_then(again) {
        None => result?,
        Some(again) => {
            let Some(taking) = begin(source, context)? else {
                return result;
            };
            let carrying = again.carrying();
            let reliance = Reliance {
                carrying,
                ..reliance
            };
            let mut report = capture(connect, place, (taking, went), reliance)?;
            again.note(&mut report);
            report
        }
    };
    if let Some(before) = before {
        report.add(&before);
    }
    Ok(report)
}

/// Databases and files of one moment; `late` says what the files do the next time if it takes too long.
fn capture(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    place: (&Source, &Context),
    (mut taking, late): (Taking<'_>, FilesFirst),
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let (source, context) = place;
    // Nobody is kept waiting for a spare that is not there.
    drop(Conversation::open(connect()?, &context.cancel)?);
    taking.ask_again();
    let begun = Still::begin(source, context).and_then(|still| match taking.take_all() {
        Ok(taken) => Ok((still, taken)),
        Err(error) => Err(still.give_up(error)),
    });
    let (still, mut taken) = begun.inspect_err(|error| tell(connect, place, reliance, error))?;
    taken.captured.staying = Staying::Nothing;
    let frozen = freeze(place, &still, reliance)
        .map_err(|error| still.give_up(error))
        .inspect_err(|error| tell(connect, place, reliance, error));
    let report = frozen.and_then(|freeze| {
        let reliance = Reliance {
            captured: Some(&taken.captured),
            turn: Turn::Still,
            freeze: freeze.as_ref(),
            still: Some(&still),
            ..reliance
        };
        super::cycle(connect()?, source, context, reliance)
    });
    let report = report.map_err(|error| still.give_up(error));
    note_how_long(&report, &still, &taken, late)?;
    let report = report?;
    taken.acknowledge()?;
    still
        .end()
        .inspect_err(|error| tell(connect, place, reliance, error))?;
    Ok(report)
}

/// Makes a snapshot of the file system, if the dataset has programs for that; then the application goes on.
fn freeze<'a>(
    (source, context): (&'a Source, &'a Context),
    still: &Still<'_>,
    reliance: Reliance<'_>,
) -> Result<Option<Freeze<'a>>, AgentError> {
    if source.snapshot.is_none() {
        return Ok(None);
    }
    let freeze = Freeze::make(source, context, reliance)?;
    still.let_go()?;
    Ok(Some(freeze))
}

/// Notes whether the files go first the next time. If that did not help they do not until a capture is done: they would run ahead of the rows.
fn note_how_long(
    report: &Result<SyncReport, AgentError>,
    still: &Still<'_>,
    taken: &Taken,
    late: FilesFirst,
) -> Result<(), AgentError> {
    let noted = taken.files_first()?;
    let is_in_vain = noted == FilesFirst::InVain;
    match report {
        Ok(_) if is_in_vain => taken.note_files_first(FilesFirst::Done),
        Err(_) if !is_in_vain && still.went_on_early() => taken.note_files_first(late),
        _ => Ok(()),
    }
}

fn failed(dataset: &DatasetName, error: &CaptureError) -> AgentError {
    let dataset = dataset.clone();
    match error.kind {
        CaptureFailure::Gone => AgentError::Deserted { dataset },
        CaptureFailure::Failed | CaptureFailure::NotNow => AgentError::NotStill {
            dataset,
            reason: error.text.clone(),
        },
    }
}

/// An application that is kept still until it is let go, or this is dropped.
#[derive(Debug)]
pub(crate) struct Still<'a> {
    dataset: &'a DatasetName,
    engines: &'a Arc<dyn Capture>,
    /// How it was let go, once it was.
    ended: Mutex<Option<Result<LetGo, CaptureError>>>,
}

impl<'a> Still<'a> {
    fn begin(source: &'a Source, context: &'a Context) -> Result<Self, AgentError> {
        let dataset = &source.dataset;
        let Some(engines) = &context.databases else {
            return Err(failed(dataset, &CaptureError::gone("")));
        };
        let still = Self {
            dataset,
            engines,
            ended: Mutex::new(None),
        };
        let begun = engines
            .keep_still(dataset)
            .map_err(|error| failed(dataset, &error));
        let begun = begun.and_then(|()| context.cancel.check());
        match begun {
            Ok(()) => Ok(still),
            Err(error) => Err(still.give_up(error)),
        }
    }

    /// Lets it go on; fails if it may have done so before. However often this is called, it is done once.
    pub(super) fn let_go(&self) -> Result<(), AgentError> {
        let LetGo { early, .. } = self.ended().map_err(|error| failed(self.dataset, &error))?;
        match early {
            None => Ok(()),
            Some(reason) => Err(AgentError::NotStill {
                dataset: self.dataset.clone(),
                reason,
            }),
        }
    }

    /// Lets it go on, for the cycle has failed; returns why, which is worse if nobody can let it go on.
    fn give_up(&self, error: AgentError) -> AgentError {
        match self.let_go() {
            Err(worse @ AgentError::Deserted { .. }) => worse,
            _ => error,
        }
    }

    /// Fails if it may still not go on.
    fn end(&self) -> Result<(), AgentError> {
        let LetGo { stuck, .. } = self.ended().map_err(|error| failed(self.dataset, &error))?;
        match stuck {
            None => Ok(()),
            Some(reason) => Err(AgentError::Stuck {
                dataset: self.dataset.clone(),
                reason,
            }),
        }
    }

    fn went_on_early(&self) -> bool {
        self.ended().is_ok_and(|ended| ended.early.is_some())
    }

    fn ended(&self) -> Result<LetGo, CaptureError> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended
            .get_or_insert_with(|| self.engines.let_go(self.dataset))
            .clone()
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.ended() {
            tracing::error!(dataset = %self.dataset, "the application may still be kept from working: {error}");
        }
    }
}
