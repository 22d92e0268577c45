//! `understudy snapshots`: what can be brought back.

use std::collections::HashMap;

use serde_json::{Value, json};
use understudy_agent::{FuzzyOf, Survey};
use understudy_protocol::message::{DatasetStatus, Summary};
use understudy_protocol::{DatasetName, Snapshot};

use super::{Session, diff};
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
    let mut changes = Changes::new();
    if arguments.changes {
        // One that is in trouble must not hide the others.
        let sound = listed.datasets.iter().filter(|one| one.trouble.is_none());
        for dataset in sound.filter(|one| !one.snapshots.is_empty()) {
            changes.insert(dataset.name.clone(), changes_of(dataset, session)?);
        }
    }
    let datasets = listed.datasets.iter();
    let datasets: Vec<Value> = datasets
        .map(|dataset| value(dataset, &survey, &changes))
        .collect();
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
        lines.extend(table(dataset, &survey, changes.get(&dataset.name)));
    }
    if listed.datasets.is_empty() {
        lines.push("the spare has no datasets yet".to_owned());
    }
    Ok(Report::done(json!({ "datasets": datasets }), lines))
}

/// How much changed with each snapshot, by its number.
type Changes = HashMap<DatasetName, HashMap<u64, Summary>>;

fn changes_of(
    dataset: &DatasetStatus,
    session: &Session,
) -> Result<HashMap<u64, Summary>, CommandError> {
    let mut changes = HashMap::new();
    session.look(&dataset.name, |past| {
        past.summarise(|summary| {
            // Only what was listed is shown, whatever is told.
            let numbers = dataset.snapshots.iter();
            let mut numbers = numbers.map(|snapshot| snapshot.position.number);
            if numbers.any(|number| number == summary.number) {
                changes.insert(summary.number, *summary);
            }
            Ok(())
        })
    })?;
    Ok(changes)
}

fn value(dataset: &DatasetStatus, survey: &Survey, changes: &Changes) -> Value {
    let changes = changes.get(&dataset.name);
    let told = |snapshot: &Snapshot| {
        let fuzzy = survey.fuzzy_in(&dataset.name, snapshot.position.number);
        let mut value = words::snapshot(snapshot);
        value["fuzzy"] = fuzzy.map(words::paths).into();
        if let Some(changes) = changes {
            let summary = changes.get(&snapshot.position.number);
            value["changes"] = summary.map(diff::totals_value).into();
        }
        value
    };
    let snapshots: Vec<Value> = dataset.snapshots.iter().map(told).collect();
    json!({ "name": dataset.name.as_str(), "snapshots": snapshots })
}

fn table(
    dataset: &DatasetStatus,
    survey: &Survey,
    changes: Option<&HashMap<u64, Summary>>,
) -> Vec<String> {
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
            let mut row = vec![
                position.number.to_string(),
                position.epoch.to_string(),
                words::time(snapshot.committed_seconds),
                words::count(snapshot.entries),
                words::size(snapshot.bytes),
                fuzzy.map_or_else(|| "-".to_owned(), |files| words::count(files.len() as u64)),
                digest[..DIGITS.min(digest.len())].to_owned(),
            ];
            row.extend(changes.map(|changes| {
                let summary = changes.get(&position.number);
                summary.map_or_else(|| "-".to_owned(), diff::totals)
            }));
            row
        })
        .collect();
    let mut headings = vec![
        "SNAPSHOT", "EPOCH", "TIME", "ENTRIES", "SIZE", "FUZZY", "DIGEST",
    ];
    headings.extend(changes.map(|_| "CHANGES"));
    words::table(&headings, &[0, 1, 3, 4, 5], &rows)
}
