//! One cycle of each dataset, without watching: beside a daemon or without one.

use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, ProtocolError};

use super::{Outcome, nowhere, outcome};
use crate::Context;
use crate::config::{Config, Scheduled};
use crate::error::AgentError;
use crate::scan::Trust;
use crate::sync::{Carrying, Making, Patience, Reliance, Telling, cycle_in_two_tries};

/// Runs one cycle for all datasets of `config`, or for those named in `only`; waits for a daemon that is just
/// running one of its own.
///
/// `connect` opens a new connection for each cycle. An error of one dataset keeps no other from its cycle and is
/// not an error of this function. `trust` says what proves that a file did not change.
pub fn once(
    config: &Config,
    only: &[DatasetName],
    trust: Trust,
    context: &Context,
    mut connect: impl FnMut() -> Result<Channel, ProtocolError>,
    mut ended: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, AgentError> {
    let reliance = Reliance {
        journal: None,
        sweep: None,
        trust,
        patience: Patience::Wait,
        telling: Telling::Nobody,
        carrying: Carrying::On,
        making: Making::UnlessPromoted,
        captured: None,
        turn: crate::scan::Turn::Whichever,
        freeze: None,
        still: None,
    };
    let mut outcomes = Vec::new();
    for scheduled in wanted(config, only)? {
        context.cancel.check()?;
        let outcome = match scheduled {
            Err(error) => nowhere(error),
            Ok(Scheduled { source, .. }) => {
                context.pace.begin_cycle();
                let result = cycle_in_two_tries(&mut connect, &source, context, reliance);
                outcome(source, result)
            }
        };
        if matches!(outcome.result, Err(AgentError::Interrupted)) {
            return Err(AgentError::Interrupted);
        }
        ended(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The datasets of `only`, or all if it names none; what leads to none is among all.
pub(super) fn wanted(
    config: &Config,
    only: &[DatasetName],
) -> Result<Vec<Result<Scheduled, AgentError>>, AgentError> {
    let mut sources = config.sources();
    if only.is_empty() {
        return Ok(sources);
    }
    let has = |name: &DatasetName| {
        sources
            .iter()
            .flatten()
            .any(|one| one.source.dataset == *name)
    };
    if let Some(unknown) = only.iter().find(|name| !has(name)) {
        let file = config.file.display();
        return Err(AgentError::Configuration(format!(
            "{file}: there is no dataset `{unknown}`"
        )));
    }
    sources.retain(|one| {
        one.as_ref()
            .is_ok_and(|one| only.contains(&one.source.dataset))
    });
    Ok(sources)
}
