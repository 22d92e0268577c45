//! The begin of a pass: how much there is to read.

use super::state::Running;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings;
use crate::history::{Form, Objects, is_unproved};
use crate::verify::{Position, cost_bytes};

/// Begins a pass.
pub(super) fn begin(dataset: &Dataset, now_seconds: i64) -> Result<Running, ReceiverError> {
    let mut expected_bytes = 0;
    if let Some(head) = dataset
        .read_catalog()?
        .map(|catalog| catalog.head())
        .transpose()?
        .flatten()
    {
        expected_bytes = cost_bytes(head.snapshot.entries, head.snapshot.bytes);
    }
    let (mut objects, mut object_bytes) = (0, 0_u64);
    let counted = Objects::open(&dataset.control)?.each(|promised, shelf, name| {
        let stat = shelf.stat_if_present(name)?;
        objects += 1;
        object_bytes += stat.map_or(0, |stat| match promised {
            // What it leads to is read once.
            Some((_, Form::Patch)) if is_unproved(&stat) => {
                stat.size.saturating_add(stat.allocated)
            }
            // Of a patch only what is no hole is read.
            _ => stat.size.min(stat.allocated),
        });
        Ok(())
    });
    match counted {
        // The pass finds it.
        Err(ReceiverError::Tree(error)) => tracing::warn!(dataset = %dataset.name, "{error}"),
        counted => counted?,
    }
    tracing::info!(dataset = %dataset.name, "a scrub begins");
    Ok(Running {
        pass: findings::begin_pass(dataset)?,
        since_seconds: now_seconds,
        position: Position::Begin,
        done: Default::default(),
        expected_bytes: expected_bytes.saturating_add(cost_bytes(objects, object_bytes)),
        findings: 0,
    })
}
