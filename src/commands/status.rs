//! `understudy status`: how far behind is the spare?

use serde_json::{Value, json};
use understudy_protocol::escape;
use understudy_protocol::message::{DatasetStatus, Datasets};

use super::Session;
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Tells where each dataset stands.
pub(crate) fn run(session: &Session) -> Result<Report, CommandError> {
    let listed = session.list(None)?;
    let datasets: Vec<Value> = listed
        .datasets
        .iter()
        .map(|dataset| value(dataset, listed.now_seconds))
        .collect();
    let data = json!({
        "datasets": datasets,
        "free_bytes": listed.free_bytes,
        "now": words::time(listed.now_seconds),
    });
    Ok(Report::done(data, lines(&listed)))
}

/// By the receiver's clock alone, so that two clocks never mix.
fn lag_seconds(dataset: &DatasetStatus, now_seconds: i64) -> Option<i64> {
    dataset
        .as_of_seconds
        .map(|as_of| now_seconds.saturating_sub(as_of).max(0))
}

fn value(dataset: &DatasetStatus, now_seconds: i64) -> Value {
    json!({
        "name": dataset.name.as_str(),
        "snapshot": dataset.snapshots.last().map(words::snapshot),
        "snapshots": dataset.snapshots.len(),
        "as_of": dataset.as_of_seconds.map(words::time),
        "lag_seconds": lag_seconds(dataset, now_seconds),
        "uploading": dataset.uploading,
        "trouble": dataset.trouble,
    })
}

fn lines(listed: &Datasets) -> Vec<String> {
    let mut lines = if listed.datasets.is_empty() {
        vec!["the spare has no datasets yet".to_owned()]
    } else {
        let rows: Vec<Vec<String>> = listed
            .datasets
            .iter()
            .map(|dataset| row(dataset, listed.now_seconds))
            .collect();
        words::table(
            &[
                "DATASET", "BEHIND", "AS OF", "SNAPSHOT", "ENTRIES", "SIZE", "STATE",
            ],
            &[1, 3, 4, 5],
            &rows,
        )
    };
    for dataset in &listed.datasets {
        if let Some(trouble) = &dataset.trouble {
            lines.push(format!("{}: {}", dataset.name, escape(trouble.as_bytes())));
        }
    }
    lines.push(format!(
        "{} free on the spare",
        words::size(listed.free_bytes)
    ));
    lines
}

fn row(dataset: &DatasetStatus, now_seconds: i64) -> Vec<String> {
    let newest = dataset.snapshots.last();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = match (&dataset.trouble, dataset.uploading) {
        (Some(_), _) => "TROUBLE",
        (None, true) => "uploading",
        (None, false) if newest.is_none() => "no snapshot yet",
        (None, false) => "ok",
    };
    vec![
        dataset.name.to_string(),
        or_dash(lag_seconds(dataset, now_seconds).map(words::span)),
        or_dash(dataset.as_of_seconds.map(words::time)),
        or_dash(newest.map(|snapshot| snapshot.position.number.to_string())),
        or_dash(newest.map(|snapshot| words::count(snapshot.entries))),
        or_dash(newest.map(|snapshot| words::size(snapshot.bytes))),
        state.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use understudy_protocol::DatasetName;

    use super::*;

    #[test]
    fn lag_is_never_negative_and_unknown_without_a_snapshot() {
        let mut dataset = DatasetStatus {
            name: DatasetName::fit(b"site"),
            snapshots: vec![],
            as_of_seconds: None,
            uploading: false,
            trouble: None,
        };
        assert_eq!(value(&dataset, 100)["lag_seconds"], Value::Null);
        dataset.as_of_seconds = Some(40);
        assert_eq!(value(&dataset, 100)["lag_seconds"], 60);
        assert_eq!(value(&dataset, 30)["lag_seconds"], 0);
    }
}
