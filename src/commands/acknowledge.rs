//! `understudy acknowledge`: alerts that somebody looks after are not repeated.

use serde_json::{Value, json};
use understudy_protocol::DatasetName;
use understudy_receiver::alert::{self, Acknowledged, Kind};

use super::Session;
use crate::arguments::Acknowledge;
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Acknowledges on the store itself, beside a receiver that may be running.
pub(crate) fn run(arguments: Acknowledge, session: &Session) -> Result<Report, CommandError> {
    let Acknowledge {
        dataset,
        kind,
        disk: _,
        on_spare,
    } = arguments;
    let store = session.store_on_this_host(on_spare)?;
    let found = alert::acknowledge(&store, dataset.as_ref(), kind)?;
    let values: Vec<Value> = found.iter().map(value).collect();
    let data =
        json!({ "dataset": dataset.as_ref().map(DatasetName::as_str), "acknowledged": values });
    Ok(Report::done(data, lines(dataset.as_ref(), kind, &found)))
}

fn value(alert: &Acknowledged) -> Value {
    json!({
        "kind": alert.kind.as_str(),
        "since": words::time(alert.since_seconds),
        "reason": alert.reason,
        "acknowledged_before": alert.before_seconds.map(words::time),
    })
}

fn lines(dataset: Option<&DatasetName>, kind: Option<Kind>, found: &[Acknowledged]) -> Vec<String> {
    let whose = dataset.map_or_else(|| "the store".to_owned(), |name| format!("dataset {name}"));
    if found.is_empty() {
        let kind = kind.map_or(String::new(), |kind| format!(" of the kind `{kind}`"));
        return vec![format!(
            "{whose} has no alert{kind}: nothing to acknowledge"
        )];
    }
    let name = dataset.map_or("the store", DatasetName::as_str);
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
            "{done}: {name}: {kind} since {}: {reason}",
            words::time(*since_seconds)
        )
    };
    found.iter().map(line).collect()
}
