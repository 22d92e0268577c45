//! `understudy snapshots`: what can be brought back.

use serde_json::{Value, json};
use understudy_protocol::message::DatasetStatus;

use super::Session;
use crate::arguments::Snapshots;
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Digits of a digest that people need to tell two apart.
const DIGITS: usize = 12;

/// Lists snapshots, oldest first.
pub(crate) fn run(arguments: &Snapshots, session: &Session) -> Result<Report, CommandError> {
    let listed = session.list(arguments.dataset.as_ref())?;
    let datasets: Vec<Value> = listed.datasets.iter().map(value).collect();
    let mut lines = Vec::new();
    for dataset in &listed.datasets {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(format!(
            "{}: {}",
            dataset.name,
            words::counted(dataset.snapshots.len() as u64, "snapshot")
        ));
        lines.extend(table(dataset));
    }
    if listed.datasets.is_empty() {
        lines.push("the spare has no datasets yet".to_owned());
    }
    Ok(Report::done(json!({ "datasets": datasets }), lines))
}

fn value(dataset: &DatasetStatus) -> Value {
    let snapshots: Vec<Value> = dataset.snapshots.iter().map(words::snapshot).collect();
    json!({ "name": dataset.name.as_str(), "snapshots": snapshots })
}

fn table(dataset: &DatasetStatus) -> Vec<String> {
    if dataset.snapshots.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = dataset
        .snapshots
        .iter()
        .map(|snapshot| {
            let position = snapshot.position;
            let digest = position.fingerprint.to_string();
            vec![
                position.number.to_string(),
                position.epoch.to_string(),
                words::time(snapshot.committed_seconds),
                words::count(snapshot.entries),
                words::size(snapshot.bytes),
                digest[..DIGITS.min(digest.len())].to_owned(),
            ]
        })
        .collect();
    words::table(
        &["SNAPSHOT", "EPOCH", "TIME", "ENTRIES", "SIZE", "DIGEST"],
        &[0, 1, 3, 4],
        &rows,
    )
}
