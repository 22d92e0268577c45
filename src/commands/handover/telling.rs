//! What is told of a handover, before and after.

use std::time::Duration;

use serde_json::{Value, json};
use understudy_agent::config::Scheduled;
use understudy_protocol::Role;

use super::super::roles;
use super::{Done, Facts};
use crate::exit::CommandError;
use crate::hooks::Ran;
use crate::report::Report;
use crate::words;

/// What would be done, for people.
pub(super) fn shown(scheduled: &Scheduled, facts: &Result<Facts, CommandError>) -> Vec<String> {
    let dataset = &scheduled.source.dataset;
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => return vec![format!("{dataset}: {}", error.message)],
    };
    let epoch = facts.own.epoch;
    if facts.own.role == Role::HandedOver {
        return vec![format!("{dataset}: was handed over, in epoch {epoch}")];
    }
    let newest = match &facts.newest {
        Some(newest) => format!(
            "its newest snapshot is {} of {}",
            newest.position.number,
            words::time(newest.committed_seconds)
        ),
        None => "it has no snapshot yet".to_owned(),
    };
    let mut lines = vec![format!(
        "{dataset}: this host is the main, in epoch {epoch}, and would hand over to its spare; {newest}"
    )];
    let stops = scheduled.on_stop.iter();
    lines.extend(stops.map(|hook| format!("  first runs: {}", hook.join(" "))));
    if scheduled.on_stop.is_empty() {
        lines.push("  no `on_stop` is configured: stop the application before".to_owned());
    }
    lines
}

/// What would be done.
pub(super) fn dry(
    chosen: &[Scheduled],
    told: Vec<Result<Facts, CommandError>>,
    mut lines: Vec<String>,
) -> Report {
    let value = |(scheduled, facts): (&Scheduled, &Result<Facts, CommandError>)| {
        let facts = facts.as_ref();
        json!({
            "name": scheduled.source.dataset.as_str(),
            "standing": facts.ok().map(|facts| roles::value(&facts.own)),
            "newest": facts.ok().and_then(|facts| facts.newest.as_ref().map(words::snapshot)),
            "error": facts.err().map(|error| error.message.clone()),
            "on_stop": scheduled.on_stop,
        })
    };
    let values: Vec<Value> = chosen.iter().zip(&told).map(value).collect();
    lines.push("nothing was changed".to_owned());
    let mut report = Report::done(json!({ "dry_run": true, "datasets": values }), lines);
    if let Some(error) = told.into_iter().find_map(Result::err) {
        report.code = error.code;
        report.error = Some(error);
    }
    report
}

fn line(done: &Done) -> String {
    let dataset = &done.dataset;
    match &done.result {
        Err(error) => format!("{dataset}: not handed over: {}", error.message),
        Ok(handed) => {
            let steps = handed.steps.iter();
            let all: Duration = steps.clone().map(|(_, took)| *took).sum();
            let steps: Vec<String> = steps
                .map(|(step, took)| format!("{step} {:.1} s", took.as_secs_f64()))
                .collect();
            format!(
                "{dataset}: handed over with snapshot {} of epoch {}, which is all that this host had, in {:.1} s ({})",
                handed.position.number,
                handed.position.epoch,
                all.as_secs_f64(),
                steps.join(", ")
            )
        }
    }
}

/// What is to be typed next, if it was handed over.
fn next_line(done: &Done, scheduled: &Scheduled) -> Option<String> {
    let dataset = &done.dataset;
    let handed = done.result.as_ref().ok()?;
    let after = match understudy_agent::store_of(&scheduled.source.path) {
        Some(_) => {
            let next = handed.standing.epoch.saturating_add(1);
            format!("understudy demote {dataset} --epoch {next}")
        }
        None => format!("understudy failback {dataset}"),
    };
    Some(format!(
        "next, on the other host: understudy promote {dataset}; then, here: {after}; or, instead of both, here: understudy resume {dataset}"
    ))
}

/// What was done, and what comes next.
pub(super) fn finish(done: &[Done], chosen: &[Scheduled]) -> Report {
    let value = |one: &Done| {
        let handed = one.result.as_ref().ok();
        let steps = handed.map(|handed| {
            let steps = handed.steps.iter();
            steps
                .map(|(step, took)| json!({ "step": step, "seconds": took.as_secs_f64() }))
                .collect::<Vec<_>>()
        });
        json!({
            "name": one.dataset.as_str(),
            "handed_over": handed.is_some(),
            "standing": handed.map(|handed| roles::value(&handed.standing)),
            "steps": steps,
            "hooks": one.ran.iter().map(Ran::value).collect::<Vec<_>>(),
            "error": one.result.as_ref().err().map(|error| error.message.clone()),
        })
    };
    let values: Vec<Value> = done.iter().map(value).collect();
    let mut lines: Vec<String> = done.iter().map(line).collect();
    let next = done.iter().zip(chosen);
    lines.extend(next.filter_map(|(one, scheduled)| next_line(one, scheduled)));
    let mut report = Report::done(json!({ "dry_run": false, "datasets": values }), lines);
    for one in done {
        for ran in &one.ran {
            ran.note_failure(&one.dataset, &mut report);
        }
    }
    if let Some(error) = done.iter().find_map(|one| one.result.as_ref().err()) {
        report.code = error.code;
        report.error = Some(CommandError::new(
            error.code,
            error.message.clone(),
            error.hint.clone(),
        ));
    }
    report
}
