//! How far the scrub of a dataset is, as others are told.

use understudy_protocol::message::{ScrubEnd, ScrubRun, ScrubState};

use super::state::State;
use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// `None` if there never was one.
pub(crate) fn told(dataset: &Dataset) -> Result<Option<ScrubState>, ReceiverError> {
    let State { running, last, .. } = State::read(dataset)?;
    let last = last.map(|last| ScrubEnd {
        since_seconds: last.since_seconds,
        seconds: last.seconds,
        bytes: last.read.bytes(),
        findings: last.findings,
    });
    let running = running.map(|running| {
        let run = running.run();
        ScrubRun {
            since_seconds: running.since_seconds,
            done_bytes: run.done_bytes,
            total_bytes: run.total_bytes,
            findings: running.findings,
        }
    });
    let is_known = last.is_some() || running.is_some();
    Ok(is_known.then_some(ScrubState { last, running }))
}
