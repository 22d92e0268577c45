//! What keeps retention from removing anything: whatever may mean that the catalog is not right, or that something is missing
//! already. A check that cannot be made counts as failed.

use std::collections::BTreeMap;

use super::verified;
use super::{Obstacle, ObstacleKind};
use crate::catalog::Catalog;
use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// The first thing that is wrong, if anything is.
pub(super) fn obstacle(
    dataset: &Dataset,
    catalog: &Catalog,
) -> Result<Option<Obstacle>, ReceiverError> {
    if let Some(obstacle) = findings(dataset)? {
        return Ok(Some(obstacle));
    }
    let found = match catalog_is_wrong(catalog) {
        Err(error @ (ReceiverError::Damaged(_) | ReceiverError::Catalog { .. })) => {
            Some(error.to_string())
        }
        found => found?,
    };
    Ok(found.map(|what| Obstacle::new(ObstacleKind::Catalog, what)))
}

/// Whether the last verification found anything.
pub(super) fn findings(dataset: &Dataset) -> Result<Option<Obstacle>, ReceiverError> {
    let last = verified::read(&dataset.control)?;
    Ok(last.filter(|last| last.findings > 0).map(|last| {
        let reason = format!(
            "the last verification had findings ({}): `understudy verify {}` tells which, and clears this when all is well; \
             `understudy accept {}` lets it go on without what is lost",
            last.findings, dataset.name, dataset.name
        );
        Obstacle::new(ObstacleKind::Findings, reason)
    }))
}

/// What contradicts itself in the catalog.
fn catalog_is_wrong(catalog: &Catalog) -> Result<Option<String>, ReceiverError> {
    if let Some(line) = catalog.check()?.into_iter().next() {
        return Ok(Some(format!("the catalog fails its check: {line}")));
    }
    // Everything of one moment, whatever is committed meanwhile.
    let all = catalog.at_one_moment(|| {
        let mut counts = BTreeMap::<u64, i64>::new();
        let mut inverted = 0_u64;
        catalog.ranges(|since, until| {
            *counts.entry(since).or_default() += 1;
            if let Some(until) = until {
                *counts.entry(until).or_default() -= 1;
                inverted += u64::from(until <= since);
            }
        })?;
        let wrong = catalog.wrong_digests()?;
        Ok((
            catalog.snapshots()?,
            catalog.pins()?,
            counts,
            inverted,
            wrong,
        ))
    })?;
    let (snapshots, pins, counts, inverted, wrong) = all;
    if inverted > 0 {
        return Ok(Some(format!(
            "{inverted} entries of the catalog end before they begin"
        )));
    }
    let is_there = |number: u64| {
        snapshots
            .iter()
            .any(|one| one.snapshot.position.number == number)
    };
    if let Some(pin) = pins.iter().find(|pin| !is_there(pin.snapshot)) {
        return Ok(Some(format!(
            "snapshot {} is pinned and not there",
            pin.snapshot
        )));
    }
    let mut changes = counts.into_iter().peekable();
    let mut entries = 0_i64;
    for recorded in &snapshots {
        let number = recorded.snapshot.position.number;
        while let Some((_, change)) = changes.next_if(|(at, _)| *at <= number) {
            entries += change;
        }
        if u64::try_from(entries) != Ok(recorded.snapshot.entries) {
            return Ok(Some(format!(
                "the catalog has {entries} entries of snapshot {number}, which had {}",
                recorded.snapshot.entries
            )));
        }
    }
    Ok(wrong
        .first()
        .map(|number| format!("the catalog's entries of snapshot {number} do not have its digest")))
}
