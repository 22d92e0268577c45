//! `understudy verify`: is what the spare holds what the main had?

use std::collections::HashMap;

use serde_json::{Value, json};
use understudy_agent::Verification;
use understudy_protocol::message::{Finding, Repaired, Repairing, Verified};
use understudy_protocol::{DatasetName, escape};

use super::{Session, health};
use crate::arguments::Verify;
use crate::exit::{Code, CommandError};
use crate::report::Report;
use crate::spare::Spare;
use crate::words;

/// Has everything read again and tells every difference.
pub(crate) fn run(arguments: &Verify, session: &Session) -> Result<Report, CommandError> {
    let spare = session.existing_spare()?;
    let mut findings: Vec<Finding> = Vec::new();
    let mut repaired: Vec<Repaired> = Vec::new();
    let verified = spare.talk(|channel| {
        let manner = Verification {
            repair: if arguments.repair {
                Repairing::Always
            } else {
                Repairing::Never
            },
            bytes_per_second: arguments.pace,
        };
        let on_finding = |finding: &Finding| findings.push(finding.clone());
        let on_repaired = |one: &Repaired| repaired.push(one.clone());
        let dataset = arguments.dataset.clone();
        understudy_agent::verify(channel, dataset, manner, on_finding, on_repaired)
    })?;
    let lost = accepted(&spare, &verified);
    let lost_of = |dataset: &Verified| lost.get(&dataset.dataset).copied().unwrap_or(0);
    let told = verified
        .iter()
        .map(|one| value(one, lost_of(one), &findings, &repaired));
    let datasets: Vec<Value> = told.collect();
    let lines = verified.iter().map(|one| line(one, lost_of(one))).collect();
    let mut report = Report::done(json!({ "datasets": datasets }), lines);
    if verified.is_empty() {
        report
            .lines
            .push("the spare has no datasets yet".to_owned());
    }
    let mended = repaired.iter().map(|one| {
        let what = escape(one.what.as_bytes());
        format!("{}: {}: {what}", one.dataset, one.path)
    });
    report.note_all("repaired:", mended);
    let shown = findings.iter().map(|finding| {
        format!(
            "{}: {}: {}",
            finding.dataset,
            finding.path,
            escape(finding.what.as_bytes())
        )
    });
    report.note_all("not as the main sent it:", shown);
    if !findings.is_empty() {
        report.code = Code::Damage;
        report.error = Some(CommandError::new(
            Code::Damage,
            format!(
                "verification found {}",
                words::counted(findings.len() as u64, "difference")
            ),
            "if nobody wrote into the store, suspect its disk; `understudy verify --repair` mends what the spare or the main \
             still has, and `understudy accept DATASET`, on the spare, lets pruning go on without the rest",
        ));
    }
    Ok(report)
}

/// How many losses of each dataset without differences somebody has accepted.
fn accepted(spare: &Spare, verified: &[Verified]) -> HashMap<DatasetName, u64> {
    let sound = verified.iter().filter(|dataset| dataset.findings == 0);
    let sound: Vec<DatasetName> = sound.map(|dataset| dataset.dataset.clone()).collect();
    let asked = spare.talk(|channel| understudy_agent::retention(channel, &sound));
    // What was read for hours is told whether this can be asked or not.
    let known = asked.unwrap_or_default().unwrap_or_default();
    known
        .into_iter()
        .map(|(name, known)| (name, known.accepted))
        .collect()
}

fn value(dataset: &Verified, accepted: u64, findings: &[Finding], repaired: &[Repaired]) -> Value {
    let mended = repaired.iter().filter(|one| one.dataset == dataset.dataset);
    let mended: Vec<Value> = mended
        .map(|one| words::path_with(&one.path, "what", &one.what))
        .collect();
    let own = findings
        .iter()
        .filter(|finding| finding.dataset == dataset.dataset);
    let findings: Vec<Value> = own
        .map(|finding| words::path_with(&finding.path, "what", &finding.what))
        .collect();
    json!({
        "name": dataset.dataset.as_str(),
        "snapshot": dataset.snapshot.as_ref().map(words::snapshot),
        "entries": dataset.entries,
        "files": dataset.files,
        "bytes": dataset.bytes,
        "objects": dataset.objects,
        "object_bytes": dataset.object_bytes,
        "findings": findings,
        "repaired": mended,
        "accepted": accepted,
    })
}

fn line(dataset: &Verified, accepted: u64) -> String {
    let what = match &dataset.snapshot {
        Some(snapshot) => format!("snapshot {}", snapshot.position.number),
        None if dataset.findings == 0 => "no snapshot yet".to_owned(),
        None => "no snapshot".to_owned(),
    };
    let verdict = if dataset.findings == 0 {
        health::verdict(accepted)
    } else {
        words::counted(dataset.findings, "difference")
    };
    format!(
        "{}: {what}: {} and {} compared, {} read: {verdict}",
        dataset.dataset,
        words::counted(dataset.entries, "entry"),
        words::counted(dataset.objects, "kept content"),
        words::size(dataset.bytes.saturating_add(dataset.object_bytes)),
    )
}
