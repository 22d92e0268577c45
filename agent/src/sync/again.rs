//! Which failed cycles are worth another try, and what the second one needs.

use understudy_protocol::transport::Channel;
use understudy_protocol::{FailureCode, ProtocolError};

use super::{Reliance, SyncReport, cycle};
use crate::error::AgentError;
use crate::{Context, Source};

/// As [`cycle`], once more if the spare could make nothing of a delta.
pub(crate) fn cycle_in_two_tries(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    source: &Source,
    context: &Context,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let mut run = || cycle(connect()?, source, context, reliance);
    match run() {
        Err(error) if is_bad_delta(&error) => {
            let mut report = run()?;
            report.deltas_refused = 1;
            Ok(report)
        }
        result => result,
    }
}

/// Whether a cycle failed in a way in which the next one does not.
pub fn is_bad_delta(error: &AgentError) -> bool {
    matches!(error, AgentError::Spare(ProtocolError::Failed(failure)) if failure.code == FailureCode::BadDelta)
}

/// Whether the two sides believe different things.
pub(super) fn is_out_of_step(error: &AgentError) -> bool {
    match error {
        AgentError::OutOfStep { .. } => true,
        AgentError::Spare(ProtocolError::Failed(failure)) => failure.code == FailureCode::OutOfStep,
        _ => false,
    }
}
