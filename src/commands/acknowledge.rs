//! `understudy acknowledge`: alerts that somebody looks after are not repeated.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use understudy_protocol::DatasetName;
use understudy_receiver::Store;
use understudy_receiver::alert::{self, Acknowledged, Kind};

use super::Session;
use crate::address::Address;
use crate::arguments::Acknowledge;
use crate::exit::CommandError;
use crate::receiver_config::{self, ReceiverConfig};
use crate::report::Report;
use crate::words;

/// Acknowledges on the store itself, beside a receiver that may be running.
pub(crate) fn run(arguments: Acknowledge, session: &Session) -> Result<Report, CommandError> {
    let Acknowledge {
        dataset,
        kind,
        store,
        config,
    } = arguments;
    let path = store_path(store, config.as_deref(), session)?;
    let store = Store::open_existing(&path)?;
    let found = alert::acknowledge(&store, &dataset, kind)?;
    let values: Vec<Value> = found.iter().map(value).collect();
    let data = json!({ "dataset": dataset.as_str(), "acknowledged": values });
    Ok(Report::done(data, lines(&dataset, kind, &found)))
}

/// The store, which must be on this host: no main may silence its spare.
fn store_path(
    given: Option<PathBuf>,
    config: Option<&Path>,
    session: &Session,
) -> Result<PathBuf, CommandError> {
    if let Some(store) = given {
        return Ok(store);
    }
    let spare = session.places.spare.as_deref().map(OsStr::new);
    match spare.filter(|_| config.is_none()) {
        Some(spare) => match Address::parse(spare)? {
            Address::Directory(store) => Ok(store),
            Address::Host(host) => Err(CommandError::usage(
                format!(
                    "alerts are acknowledged on the spare itself, but {host} is reached as a main does"
                ),
                "run it on the spare, with --store DIR or --config FILE, which come before UNDERSTUDY_SPARE",
            )),
        },
        None => receiver_config::chosen(config, None)
            .map(|path| ReceiverConfig::load(&path))
            .transpose()?
            .and_then(|config| config.store)
            .ok_or_else(receiver_config::no_store),
    }
}

fn value(alert: &Acknowledged) -> Value {
    json!({
        "kind": alert.kind.as_str(),
        "since": words::time(alert.since_seconds),
        "reason": alert.reason,
        "acknowledged_before": alert.before_seconds.map(words::time),
    })
}

fn lines(dataset: &DatasetName, kind: Option<Kind>, found: &[Acknowledged]) -> Vec<String> {
    if found.is_empty() {
        let kind = kind.map_or(String::new(), |kind| format!(" of the kind `{kind}`"));
        return vec![format!(
            "dataset {dataset} has no alert{kind}: nothing to acknowledge"
        )];
    }
    let line = |alert: &Acknowledged| {
        let Acknowledged {
            kind,
            reason,
            since_seconds,
            before_seconds,
        } = alert;
        let done = match before_seconds {
            None => "acknowledged".to_owned(),
            Some(before) => format!("acknowledged before, {}", words::time(*before)),
        };
        format!(
            "{done}: {dataset}: {kind} since {}: {reason}",
            words::time(*since_seconds)
        )
    };
    found.iter().map(line).collect()
}
