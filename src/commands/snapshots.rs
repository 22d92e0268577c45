//! `understudy snapshots`: what can be brought back.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use understudy_agent::{FuzzyOf, RetentionOf, Survey};
use understudy_protocol::message::{DatasetStatus, Retained, Summary};
use understudy_protocol::{DatasetName, Snapshot, escape};

use super::{Session, diff, health};
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
    let sound = listed
        .datasets
        .iter()
        .filter(|dataset| dataset.trouble.is_none());
    let sound: Vec<DatasetName> = sound.map(|dataset| dataset.name.clone()).collect();
    let spare = session.existing_spare()?;
    let retention = spare.talk(|channel| understudy_agent::retention(channel, &sound))?;
    let known = Known {
        survey: &survey,
        retention: retention.as_ref(),
        changes,
    };
    let datasets = listed.datasets.iter();
    let datasets: Vec<Value> = datasets.map(|dataset| known.value(dataset)).collect();
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
        lines.extend(known.table(dataset));
        lines.extend(known.verified(dataset));
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
    let listed = dataset.snapshots.iter();
    let listed: HashSet<u64> = listed.map(|snapshot| snapshot.position.number).collect();
    session.look(&dataset.name, |past| {
        past.summarise(|summary| {
            // Only what was listed is shown, whatever is told.
            if listed.contains(&summary.number) {
                changes.insert(summary.number, *summary);
            }
            Ok(())
        })
    })?;
    Ok(changes)
}

/// Everything that the spare has told.
struct Known<'a> {
    survey: &'a Survey,
    /// `None` if the spare is too old to tell.
    retention: Option<&'a HashMap<DatasetName, RetentionOf>>,
    /// Of the datasets that were asked for it.
    changes: Changes,
}

impl Known<'_> {
    fn retention_of(&self, dataset: &DatasetStatus) -> Option<&RetentionOf> {
        self.retention?.get(&dataset.name)
    }

    fn retained(&self, dataset: &DatasetStatus, number: u64) -> Option<&Retained> {
        self.retention_of(dataset)?.snapshots.get(&number)
    }

    fn value(&self, dataset: &DatasetStatus) -> Value {
        let changes = self.changes.get(&dataset.name);
        let told = |snapshot: &Snapshot| {
            let number = snapshot.position.number;
            let fuzzy = self.survey.fuzzy_in(&dataset.name, number);
            let mut value = words::snapshot(snapshot);
            value["fuzzy"] = fuzzy.map(words::paths).into();
            if let Some(changes) = changes {
                value["changes"] = changes.get(&number).map(diff::totals_value).into();
            }
            let retained = self.retained(dataset, number);
            let pin = retained.and_then(|one| one.pin.as_ref());
            value["pin"] = pin.map_or(
                Value::Null,
                |pin| json!({ "reason": pin.reason, "since": words::time(pin.since_seconds) }),
            );
            let flag = retained.and_then(|one| one.flag);
            let known = self.retention_of(dataset);
            value["damaged"] = known.map(|known| known.damaged.contains(&number)).into();
            value["flagged"] = flag.map_or(Value::Null, |flag| {
                let (since, goes) = (flag.since_seconds, flag.due_seconds);
                json!({ "since": words::time(since), "goes": words::time(goes) })
            });
            value
        };
        let snapshots: Vec<Value> = dataset.snapshots.iter().map(told).collect();
        let verified = self.retention_of(dataset).and_then(|known| known.verified);
        let verified = verified
            .map(|last| json!({ "time": words::time(last.seconds), "findings": last.findings }));
        json!({ "name": dataset.name.as_str(), "snapshots": snapshots, "verified": verified })
    }

    fn table(&self, dataset: &DatasetStatus) -> Vec<String> {
        if dataset.snapshots.is_empty() {
            return Vec::new();
        }
        let rows: Vec<Vec<String>> = dataset
            .snapshots
            .iter()
            .map(|snapshot| self.row(dataset, snapshot))
            .collect();
        let mut headings = vec![
            "SNAPSHOT", "EPOCH", "TIME", "ENTRIES", "SIZE", "FUZZY", "HEALTH", "DIGEST", "GOES",
            "PIN",
        ];
        headings.extend(self.changes.get(&dataset.name).map(|_| "CHANGES"));
        words::table(&headings, &[0, 1, 3, 4, 5], &rows)
    }

    fn row(&self, dataset: &DatasetStatus, snapshot: &Snapshot) -> Vec<String> {
        let position = snapshot.position;
        let digest = position.fingerprint.to_string();
        let fuzzy = self.survey.fuzzy_in(&dataset.name, position.number);
        let retained = self.retained(dataset, position.number);
        let flag = retained.and_then(|one| one.flag);
        let pin = retained.and_then(|one| one.pin.as_ref());
        let none = || "-".to_owned();
        let mut row = vec![
            position.number.to_string(),
            position.epoch.to_string(),
            words::time(snapshot.committed_seconds),
            words::count(snapshot.entries),
            words::size(snapshot.bytes),
            fuzzy.map_or_else(none, |files| words::count(files.len() as u64)),
            self.retention_of(dataset).map_or_else(none, |known| {
                let is_damaged = known.damaged.contains(&position.number);
                if is_damaged { "DAMAGED" } else { "ok" }.to_owned()
            }),
            digest[..DIGITS.min(digest.len())].to_owned(),
            flag.map_or_else(none, |flag| words::time(flag.due_seconds)),
            pin.map_or_else(none, |pin| escape(pin.reason.as_bytes())),
        ];
        row.extend(self.changes.get(&dataset.name).map(|changes| {
            let summary = changes.get(&position.number);
            summary.map_or_else(none, diff::totals)
        }));
        row
    }

    /// How the last verification ended.
    fn verified(&self, dataset: &DatasetStatus) -> Option<String> {
        let known = self.retention_of(dataset)?;
        Some(match known.verified {
            None => "never verified".to_owned(),
            Some(last) if last.findings == 0 => {
                let verdict = health::verdict(known.accepted);
                format!("verified {}: {verdict}", words::time(last.seconds))
            }
            Some(last) => format!(
                "verified {}: {}, nothing is pruned",
                words::time(last.seconds),
                words::counted(last.findings, "difference")
            ),
        })
    }
}
