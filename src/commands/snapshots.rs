//! `understudy snapshots`: what can be brought back.

use serde_json::{Value, json};
use understudy_agent::{FuzzyOf, Survey};
use understudy_protocol::Snapshot;
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
    let survey = session.survey(arguments.dataset.as_ref(), FuzzyOf::All)?;
    let listed = &survey.listed;
    let datasets = listed.datasets.iter();
    let datasets: Vec<Value> = datasets.map(|dataset| value(dataset, &survey)).collect();
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
        lines.extend(table(dataset, &survey));
    }
    if listed.datasets.is_empty() {
        lines.push("the spare has no datasets yet".to_owned());
    }
    Ok(Report::done(json!({ "datasets": datasets }), lines))
}

fn value(dataset: &DatasetStatus, survey: &Survey) -> Value {
    let told = |snapshot: &Snapshot| {
        let fuzzy = survey.fuzzy_in(&dataset.name, snapshot.position.number);
        let mut value = words::snapshot(snapshot);
        value["fuzzy"] = fuzzy.map(words::paths).into();
        value
    };
    let snapshots: Vec<Value> = dataset.snapshots.iter().map(told).collect();
    json!({ "name": dataset.name.as_str(), "snapshots": snapshots })
}

fn table(dataset: &DatasetStatus, survey: &Survey) -> Vec<String> {
    if dataset.snapshots.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = dataset
        .snapshots
        .iter()
        .map(|snapshot| {
            let position = snapshot.position;
            let digest = position.fingerprint.to_string();
            let fuzzy = survey.fuzzy_in(&dataset.name, position.number);
            vec![
                position.number.to_string(),
                position.epoch.to_string(),
                words::time(snapshot.committed_seconds),
                words::count(snapshot.entries),
                words::size(snapshot.bytes),
                fuzzy.map_or_else(|| "-".to_owned(), |files| words::count(files.len() as u64)),
                digest[..DIGITS.min(digest.len())].to_owned(),
            ]
        })
        .collect();
    words::table(
        &[
            "SNAPSHOT", "EPOCH", "TIME", "ENTRIES", "SIZE", "FUZZY", "DIGEST",
        ],
        &[0, 1, 3, 4, 5],
        &rows,
    )
}
