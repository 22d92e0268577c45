//! Which failed cycles are worth another try, and what the second one needs.

use understudy_protocol::transport::Channel;
use understudy_protocol::{FailureCode, ProtocolError};

use super::{Carrying, Making, Patience, Reliance, SyncReport, Telling, Trust, cycle, still};
use crate::dumps::{Taking, begin};
use crate::error::AgentError;
use crate::scan::Turn;
use crate::{Context, Source, ask};

/// How often the files are shipped before a dump, at most, and how short the last time is to be.
const ROUNDS: u32 = 3;
const QUICK_SECONDS: f64 = 2.0;

/// How the next cycle does without what the last one failed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The spare could make nothing of a delta: large files are sent whole.
    WithoutDeltas,
    /// The spare did not have what it had told to be left over of an interrupted upload: everything is sent.
    WithoutLeftovers,
    /// The spare did not have what was taken to be in its history: everything is sent.
    WithoutHistory,
    /// The spare has another snapshot than it had when the cycle began, or than this host believes: both compare everything anew.
    Compared,
}

impl Again {
    /// What the second cycle carries on with.
    pub(super) fn carrying(self) -> Carrying {
        match self {
            Self::WithoutDeltas | Self::WithoutHistory | Self::Compared => Carrying::On,
            Self::WithoutLeftovers => Carrying::Nothing,
        }
    }

    /// Notes why there were two.
    pub(super) fn note(self, report: &mut SyncReport) {
        match self {
            Self::WithoutDeltas => report.deltas_refused = 1,
            Self::WithoutLeftovers => report.leftovers_refused = 1,
            Self::WithoutHistory => report.history_refused = 1,
            Self::Compared => {}
        }
    }
}

/// A cycle of the files, if a database changed, then the databases, then a cycle with both; each as [`cycle`], once more if the spare could make nothing
/// of a delta, a leftover or a reference to its history, or has another snapshot than the agent believes.
pub(crate) fn cycle_in_two_tries(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    source: &Source,
    context: &Context,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    match &source.stillness {
        Some(_) => still::cycle(connect, (source, context), reliance),
        None => {
            let taking = begin(source, context)?;
            going_on(connect, (source, context), taking, reliance)
        }
    }
}

/// The same, while the application goes on.
pub(super) fn going_on(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    place: (&Source, &Context),
    taking: Option<Taking<'_>>,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let (source, context) = place;
    let mut before = None;
    let mut taken = None;
    if let Some(mut taking) = taking {
        if taking.will_dump()? && rehearsed(&mut taking)? {
            before = Some(ship_files_first(connect, place, &mut taking, reliance)?);
        }
        let all = taking.take_all();
        taken = Some(all.inspect_err(|error| tell(connect, place, reliance, error))?);
    }
    let reliance = Reliance {
        captured: taken.as_ref().map(|taken| &taken.captured),
        turn: match before {
            Some(_) => Turn::Databases,
            // All that is read is of one moment.
            None if source.snapshot.is_some() => Turn::Still,
            None => Turn::Whichever,
        },
        ..reliance
    };
    let mut report = with_tries(connect, source, context, reliance)?;
    let is_turn = report.is_turn_of_databases && reliance.turn == Turn::Whichever;
    if before.is_none() && is_turn {
        before = Some(match is_slow(&report) {
            true => {
                let turn = Turn::Files;
                let files = Reliance { turn, ..reliance };
                let mut more = ship_files(connect, place, files, ROUNDS - 1)?;
                more.add(&report);
                more
            }
            false => report,
        });
        let turn = Turn::Databases;
        report = with_tries(connect, source, context, Reliance { turn, ..reliance })?;
    }
    if let Some(taken) = taken {
        taken.acknowledge()?;
    }
    if let Some(before) = before {
        report.add(&before);
    }
    Ok(report)
}

/// Tells the spare why nothing comes, or what is wrong here.
pub(super) fn tell(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    (source, context): (&Source, &Context),
    reliance: Reliance<'_>,
    error: &AgentError,
) {
    let is_ours = matches!(
        error,
        AgentError::Database { .. }
            | AgentError::NotStill { .. }
            | AgentError::Freeze { .. }
            | AgentError::Stuck { .. }
            | AgentError::Deserted { .. }
    );
    if reliance.telling == Telling::Spare
        && is_ours
        && let Ok(channel) = connect()
    {
        ask::tell_trouble(channel, &source.dataset, error, &context.cancel);
    }
}

/// Ships files before everything else, while the application goes on.
pub(super) fn ship_files_first(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    place: (&Source, &Context),
    taking: &mut Taking<'_>,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let captured = taking.files_first()?;
    let files = Reliance {
        captured: Some(&captured),
        turn: Turn::Files,
        ..reliance
    };
    ship_files(connect, place, files, ROUNDS)
}

/// Ships files, again if that took long, so often at most.
fn ship_files(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    (source, context): (&Source, &Context),
    reliance: Reliance<'_>,
    rounds: u32,
) -> Result<SyncReport, AgentError> {
    let mut report = with_tries(connect, source, context, reliance)?;
    for _ in 1..rounds {
        if !is_slow(&report) {
            break;
        }
        let mut next = with_tries(connect, source, context, reliance)?;
        let is_over = !is_slow(&next);
        next.add(&report);
        report = next;
        if is_over {
            break;
        }
    }
    Ok(report)
}

/// Whether a cycle may have looked at the first directories long ago.
fn is_slow(report: &SyncReport) -> bool {
    report.committed && report.seconds > QUICK_SECONDS
}

/// Whether what could not be dumped the last time can be now. If not, it is told when it is taken.
pub(super) fn rehearsed(taking: &mut Taking<'_>) -> Result<bool, AgentError> {
    match taking.rehearse() {
        Ok(()) => Ok(true),
        Err(AgentError::Database { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn with_tries(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    source: &Source,
    context: &Context,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let result = cycle(connect()?, source, context, reliance);
    let Some(again) = result.as_ref().err().and_then(again) else {
        return result;
    };
    let reliance = Reliance {
        carrying: again.carrying(),
        ..reliance
    };
    let mut report = cycle(connect()?, source, context, reliance)?;
    again.note(&mut report);
    Ok(report)
}

/// As [`sync`](super::sync()), after one that failed.
pub fn sync_again(
    channel: Channel,
    source: &Source,
    context: &Context,
    again: Again,
) -> Result<SyncReport, AgentError> {
    let reliance = by_itself(again.carrying());
    let mut report = cycle(channel, source, context, reliance)?;
    again.note(&mut report);
    Ok(report)
}

/// What a cycle that nobody watched for relies on.
pub(crate) fn by_itself(carrying: Carrying) -> Reliance<'static> {
    Reliance {
        journal: None,
        sweep: None,
        trust: Trust::Times,
        patience: Patience::None,
        telling: Telling::Nobody,
        carrying,
        making: Making::Always,
        captured: None,
        turn: Turn::Whichever,
        freeze: None,
        still: None,
    }
}

/// How a cycle that failed can be tried again at once; `None` if the next one would fail too.
pub fn again(error: &AgentError) -> Option<Again> {
    match error {
        AgentError::Spare(ProtocolError::Failed(failure)) => match failure.code {
            FailureCode::BadDelta => Some(Again::WithoutDeltas),
            FailureCode::BadLeftover => Some(Again::WithoutLeftovers),
            FailureCode::NotInHistory => Some(Again::WithoutHistory),
            FailureCode::OutOfStep => Some(Again::Compared),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the two sides believe different things.
pub(super) fn is_out_of_step(error: &AgentError) -> bool {
    match error {
        AgentError::OutOfStep { .. } => true,
        AgentError::Spare(ProtocolError::Failed(failure)) => failure.code == FailureCode::OutOfStep,
        _ => false,
    }
}

/// Whether the spare takes nothing from this host any more.
pub(crate) fn is_fenced(error: &AgentError) -> bool {
    match error {
        AgentError::Spare(ProtocolError::Failed(failure)) => failure.code == FailureCode::Fenced,
        _ => false,
    }
}

/// Whether a guard of the spare has spoken.
pub(super) fn is_refused(error: &AgentError) -> bool {
    match error {
        AgentError::Spare(ProtocolError::Failed(failure)) => failure.code == FailureCode::Refused,
        _ => false,
    }
}
