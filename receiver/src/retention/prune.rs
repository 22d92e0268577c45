//! One pass of retention over a dataset: look, check, and hand what is to go to the removal.

use understudy_protocol::DatasetName;

use std::time::Instant;

use super::intent::{Intent, State};
use super::removal::Removal;
use super::{Grace, Mode, Moment, Policies, Pruned, Request, Trust, ballast, check, sweep};
use crate::access::existing;
use crate::catalog::{Catalog, RetentionChange, Swept};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::store::Store;

/// Flags and removes what the policy does not keep of a dataset, or tells what that would be.
pub fn prune(
    store: &Store,
    name: &DatasetName,
    request: &Request<'_>,
) -> Result<Pruned, ReceiverError> {
    let dataset = existing(store, name)?;
    let started = Instant::now();
    let read = match read(&dataset) {
        // On a disk that is full, reading a catalog needs room as well.
        Err(error) if request.mode == Mode::Act && ballast::may_help(store, &error) => {
            dataset.drop_ballast()?;
            read(&dataset)?
        }
        read => read?,
    };
    let Some((catalog, state)) = read else {
        return Ok(Pruned::nothing(name));
    };
    if let Some(obstacle) = state.clock_obstacle(request) {
        return Ok(Pruned::stopped(name, obstacle));
    }
    let intent = Intent::new(&dataset, &state, request);
    let is_idle = intent.change == RetentionChange::default() && state.swept == Swept::Clean;
    if !is_idle && let Some(obstacle) = check::obstacle(&dataset, &catalog)? {
        return Ok(Pruned::stopped(name, obstacle));
    }
    match request.mode {
        Mode::Look => look(&dataset, &catalog, &state, intent),
        Mode::Act => {
            drop(catalog);
            // The check may have taken minutes, in which snapshots were committed.
            let moment = request.moment.after(started.elapsed());
            let request = Request {
                moment: &moment,
                ..*request
            };
            Removal::new(store, &dataset, &request).run()
        }
    }
}

fn read(dataset: &Dataset) -> Result<Option<(Catalog, State)>, ReceiverError> {
    let Some(catalog) = dataset.read_catalog()? else {
        return Ok(None);
    };
    let state = State::read(dataset, &catalog)?;
    Ok(Some((catalog, state)))
}

/// What would be done.
fn look(
    dataset: &Dataset,
    catalog: &Catalog,
    state: &State,
    intent: Intent,
) -> Result<Pruned, ReceiverError> {
    let mut pruned = intent.pruned;
    if intent.change.remove.is_empty() && state.swept == Swept::Clean {
        return Ok(pruned);
    }
    match sweep::plan(dataset, catalog, &intent.needed)? {
        Ok(sweep) => sweep
            .garbage
            .iter()
            .for_each(|one| pruned.freed.add(one.freed)),
        Err(obstacle) => return Ok(Pruned::stopped(&dataset.name, obstacle)),
    }
    Ok(pruned)
}

/// The datasets of a store.
pub fn datasets(store: &Store) -> Result<Vec<DatasetName>, ReceiverError> {
    let mut found = Vec::new();
    for name in store.dataset_names()? {
        // A directory that only has the name of a dataset is none.
        if store.dataset(&name)?.is_some() {
            found.push(name);
        }
    }
    Ok(found)
}

/// Prunes every dataset of the store and calls `tell` with what came of it. Trouble in one is its own.
pub fn prune_all(
    store: &Store,
    policies: &Policies,
    mut tell: impl FnMut(&DatasetName, Result<Pruned, ReceiverError>),
) -> Result<(), ReceiverError> {
    for name in datasets(store)? {
        let request = Request {
            policy: policies.of(&name),
            moment: &Moment::now(),
            mode: Mode::Act,
            grace: Grace::Wait,
            trust: Trust::Check,
        };
        tell(&name, prune(store, &name, &request));
    }
    Ok(())
}
