//! What the spare knows of damage, and how far its scrub is: for `status` and `snapshots`.

use std::collections::HashMap;

use serde_json::{Value, json};
use understudy_agent::RetentionOf;
use understudy_protocol::message::{
    DatasetStatus, FindingState, KnownFinding, ScrubEnd, ScrubRun, ScrubState,
};
use understudy_protocol::{DatasetName, escape};

use super::Session;
use crate::exit::CommandError;
use crate::words;

/// Findings that people are shown of a dataset.
const SHOWN: usize = 5;

/// What the spare knows of these datasets; nothing of one that is in trouble, and `None` if it is too old.
pub(super) fn ask(
    datasets: &[DatasetStatus],
    session: &Session,
) -> Result<Option<HashMap<DatasetName, RetentionOf>>, CommandError> {
    let sound: Vec<DatasetName> = datasets
        .iter()
        .filter(|dataset| dataset.trouble.is_none())
        .map(|dataset| dataset.name.clone())
        .collect();
    session
        .existing_spare()?
        .talk(|channel| understudy_agent::retention(channel, &sound))
}

/// For programs.
pub(super) fn add_to(value: &mut Value, known: Option<&RetentionOf>) {
    let verified = known.and_then(|known| known.verified);
    value["verified"] = verified.map_or(
        Value::Null,
        |last| json!({ "time": words::time(last.seconds), "findings": last.findings }),
    );
    let findings = known.map(|known| known.findings.iter().map(finding).collect::<Vec<_>>());
    value["findings"] = findings.into();
    value["findings_open"] = known.map(|known| known.open).into();
    value["findings_accepted"] = known.map(|known| known.accepted).into();
    let damaged = known.map(|known| known.damaged.iter().copied().collect::<Vec<_>>());
    value["damaged_snapshots"] = damaged.into();
    value["scrub"] = known
        .and_then(|known| known.scrub)
        .map_or(Value::Null, scrub);
}

fn finding(finding: &KnownFinding) -> Value {
    let mut value = words::path_with(&finding.path, "what", &finding.what);
    value["state"] = state(finding.state).into();
    value["found"] = words::time(finding.found_seconds).into();
    value
}

fn state(state: FindingState) -> &'static str {
    match state {
        FindingState::Open => "open",
        FindingState::Wanted => "wanted",
        FindingState::Lost => "lost",
        FindingState::Accepted => "accepted",
    }
}

fn scrub(state: ScrubState) -> Value {
    let last = state.last.map(|last| {
        json!({
            "began": words::time(last.since_seconds),
            "ended": words::time(last.seconds),
            "bytes": last.bytes,
            "findings": last.findings,
        })
    });
    let running = state.running.map(|running| {
        json!({
            "began": words::time(running.since_seconds),
            "percent": percent(&running),
            "findings": running.findings,
        })
    });
    json!({ "last": last, "running": running })
}

fn percent(running: &ScrubRun) -> u64 {
    let part = u128::from(running.done_bytes) * 100 / u128::from(running.total_bytes.max(1));
    // What is being read is not all of it.
    u64::try_from(part).unwrap_or(99).min(99)
}

/// What a verification without findings says, for people.
pub(super) fn verdict(accepted: u64) -> String {
    match accepted {
        0 => "all as it should be".to_owned(),
        lost => format!(
            "as it should be but for {} accepted as lost",
            words::count(lost)
        ),
    }
}

/// For people.
pub(super) fn lines(dataset: &DatasetName, known: &RetentionOf, now_seconds: i64) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in known.findings.iter().take(SHOWN) {
        let what = escape(finding.what.as_bytes());
        let done = match finding.state {
            FindingState::Open => "",
            FindingState::Wanted => " (the main is asked for it at its next cycle)",
            FindingState::Lost => " (the main does not have it any more: it cannot be repaired)",
            FindingState::Accepted => " (accepted as lost)",
        };
        lines.push(format!(
            "{dataset}: DAMAGED: {}: {what}{done}",
            finding.path
        ));
    }
    let more = (known.open + known.accepted).saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!(
            "{dataset}: and {} more that are damaged (--json lists the first)",
            words::count(more)
        ));
    }
    if let Some(ScrubState { last, running }) = known.scrub {
        let last = last.map_or("never read whole".to_owned(), |last| {
            ended(&last, now_seconds)
        });
        let running = running.map_or_else(String::new, |running| {
            let found = words::counted(running.findings, "finding");
            format!("; the present scrub is at {} %, {found}", percent(&running))
        });
        lines.push(format!("{dataset}: {last}{running}"));
    }
    lines
}

fn ended(last: &ScrubEnd, now_seconds: i64) -> String {
    let ago = words::span(now_seconds.saturating_sub(last.seconds).max(0));
    let found = words::counted(last.findings, "finding");
    format!(
        "all of it last read {ago} ago ({}, {found})",
        words::size(last.bytes)
    )
}
