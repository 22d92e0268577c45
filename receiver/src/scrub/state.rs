//! The file `scrub` of a dataset: how far the present pass is, and how the last whole one ended.

use serde::{Deserialize, Serialize};

use super::even::{Run, Times};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::verify::{Position, Tally};
use crate::{names, sealed};

/// The layout this build writes.
const FORMAT: u32 = 1;
const LIMIT_BYTES: u64 = 1 << 20;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    pub(crate) running: Option<Running>,
    pub(crate) last: Option<Ended>,
    /// When a pass began that could not end.
    pub(super) failed_seconds: Option<i64>,
}

/// A pass that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Its number among all passes.
    pub(super) pass: u64,
    pub(crate) since_seconds: i64,
    pub(super) position: Position,
    pub(crate) done: Tally,
    /// What there was to read when it began, and at least what was read.
    pub(super) expected_bytes: u64,
    pub(crate) findings: u64,
}

/// A pass that has read everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) since_seconds: i64,
    pub(crate) seconds: i64,
    pub(crate) read: Tally,
    pub(crate) findings: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            format: FORMAT,
            running: None,
            last: None,
            failed_seconds: None,
        }
    }
}

impl Running {
    pub(crate) fn run(&self) -> Run {
        let done_bytes = self.done.cost_bytes();
        Run {
            since_seconds: self.since_seconds,
            done_bytes,
            total_bytes: self.expected_bytes.max(done_bytes),
        }
    }
}

impl State {
    /// What is known. A file that cannot be understood says nothing: everything is read again.
    pub(crate) fn read(dataset: &Dataset) -> Result<Self, ReceiverError> {
        let read = sealed::read::<Self>(&dataset.control, &names::SCRUB, LIMIT_BYTES);
        match read {
            Ok(state) => Ok(state
                .filter(|state| state.format == FORMAT)
                .unwrap_or_default()),
            Err(ReceiverError::Damaged(what)) => {
                tracing::warn!(dataset = %dataset.name, "{what}: the scrub begins anew");
                Ok(Self::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Durable when it returns.
    pub(super) fn write(&self, dataset: &Dataset) -> Result<(), ReceiverError> {
        sealed::write(&dataset.control, &names::SCRUB, self)
    }

    pub(super) fn times(&self, made_seconds: i64) -> Times {
        Times {
            made_seconds,
            last_seconds: self.last.map(|last| last.since_seconds),
            failed_seconds: self.failed_seconds,
        }
    }
}
