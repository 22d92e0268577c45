//! `understudy held`, `release` and `reject`: cycles that a guard holds, and what becomes of them.

use std::path::PathBuf;

use serde_json::{Value, json};
use understudy_protocol::DatasetName;
use understudy_receiver::ReceiverError;
use understudy_receiver::guard::{self, Held};

use super::Session;
use super::policies::reserve;
use crate::arguments::{self, OnSpare};
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Shows what is held, of one dataset or of all.
pub(crate) fn run(arguments: arguments::Held, session: &Session) -> Result<Report, CommandError> {
    let place = place(&arguments.on_spare, session);
    let store = session.store_on_this_host(arguments.on_spare)?;
    let names = match arguments.dataset {
        Some(name) => vec![name],
        None => store.dataset_names()?,
    };
    let mut found = Vec::new();
    for name in names {
        if let Some(held) = guard::held(&store, &name)? {
            found.push((name, held));
        }
    }
    let values: Vec<Value> = found.iter().map(|(name, held)| value(name, held)).collect();
    let lines = if found.is_empty() {
        vec!["nothing is held".to_owned()]
    } else {
        found
            .iter()
            .flat_map(|(name, held)| shown(name, held, &place))
            .collect()
    };
    Ok(Report::done(json!({ "held": values }), lines))
}

/// Applies what is held.
pub(crate) fn release(
    arguments: arguments::Decide,
    session: &Session,
) -> Result<Report, CommandError> {
    let arguments::Decide {
        dataset,
        digest,
        on_spare,
    } = arguments;
    let place = place(&on_spare, session);
    let store = session.store_on_this_host(on_spare.clone())?;
    let reserve = reserve(&store, on_spare.config.as_deref())?;
    let held = guard::release(&store, &dataset, &digest, reserve)
        .map_err(|error| undecided(error, &place))?;
    Ok(decided(&dataset, &held, "released", "is live now"))
}

/// Drops what is held.
pub(crate) fn reject(
    arguments: arguments::Decide,
    session: &Session,
) -> Result<Report, CommandError> {
    let place = place(&arguments.on_spare, session);
    let store = session.store_on_this_host(arguments.on_spare)?;
    let held = guard::reject(&store, &arguments.dataset, &arguments.digest)
        .map_err(|error| undecided(error, &place))?;
    let what = "is dropped; the live tree is as before";
    Ok(match held {
        Some(held) => decided(&arguments.dataset, &held, "rejected", what),
        None => {
            let dataset = &arguments.dataset;
            let data = json!({ "rejected": { "dataset": dataset.as_str() } });
            let line = format!("rejected: what was held of dataset {dataset} {what}");
            Report::done(data, vec![line])
        }
    })
}

/// What a command on the spare is given so that it finds the same store as this one.
fn place(on_spare: &OnSpare, session: &Session) -> String {
    let OnSpare { store, config } = on_spare;
    let spare = session.places.spare.as_ref().map(PathBuf::from);
    let (option, path) = match (store, config, spare) {
        (Some(store), ..) => ("--store", store.clone()),
        (None, Some(config), _) => ("--config", config.clone()),
        (None, None, Some(spare)) => ("--store", spare),
        (None, None, None) => return String::new(),
    };
    format!(" {option} {}", words::typed(&path.to_string_lossy()))
}

/// Nothing was decided: what could be is told by `held`, not by what tells of snapshots.
fn undecided(error: ReceiverError, place: &str) -> CommandError {
    let is_not_there = matches!(error, ReceiverError::NotFound(_));
    let mut error = CommandError::from(error);
    if is_not_there {
        error.hint = format!("`understudy held{place}` shows what is held, with its digest");
    }
    error
}

fn decided(dataset: &DatasetName, held: &Held, key: &str, what: &str) -> Report {
    let data = json!({ key: value(dataset, held) });
    let line = format!(
        "{key}: snapshot {} of dataset {dataset} ({}) {what}",
        held.number,
        held.short_digest()
    );
    Report::done(data, vec![line])
}

fn value(dataset: &DatasetName, held: &Held) -> Value {
    let count = |(files, bytes): (u64, u64)| json!({ "files": files, "bytes": bytes });
    json!({
        "dataset": dataset.as_str(),
        "digest": held.digest.to_string(),
        "snapshot": held.number,
        "since": words::time(held.since_seconds),
        "renewed": held.renewed_seconds.map(words::time),
        "reason": held.reason,
        "removed": count(held.removed),
        "emptied": count(held.emptied),
        "noise": count(held.noise),
        "total": count(held.total),
        "paths": held.paths,
    })
}

fn shown(dataset: &DatasetName, held: &Held, place: &str) -> Vec<String> {
    let digest = held.short_digest();
    let count = |what: &str, (files, bytes): (u64, u64)| {
        (files > 0).then(|| {
            format!(
                "  {what}: {}, {}",
                words::counted(files, "file"),
                words::size(bytes)
            )
        })
    };
    let mut lines = vec![format!(
        "{dataset}: held since {}: {}",
        words::time(held.since_seconds),
        held.reason
    )];
    lines.extend(
        held.renewed_seconds
            .map(|at| format!("  as it is since {}", words::time(at))),
    );
    lines.extend(count("removed", held.removed));
    lines.extend(count("emptied", held.emptied));
    lines.extend(count("turned into noise", held.noise));
    lines.extend(count("all that count", held.total));
    let known = held.removed.0 + held.emptied.0 + held.noise.0;
    lines.extend(held.paths.iter().map(|path| format!("    {path}")));
    let more = known.saturating_sub(held.paths.len() as u64);
    if more > 0 {
        lines.push(format!("    and {} more", words::count(more)));
    }
    lines.push(format!(
        "  apply it: understudy release {dataset} {digest}{place}"
    ));
    lines.push(format!(
        "  drop it:  understudy reject {dataset} {digest}{place}"
    ));
    lines
}
