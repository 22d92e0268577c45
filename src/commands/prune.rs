//! `understudy prune`: flags and removes the snapshots that the retention policy does not keep.

use serde_json::{Value, json};
use understudy_protocol::DatasetName;
use understudy_receiver::retention::{
    self, Expired, Freed, Grace, Mode, Moment, Policies, Pruned, Reason, Request, Trust,
};
use understudy_receiver::{ReceiverError, Store};

use super::Session;
use super::policies::policies;
use crate::arguments::Prune;
use crate::exit::{Code, CommandError};
use crate::report::Report;
use crate::words;

/// Prunes on the store itself, beside a receiver that may be running.
pub(crate) fn run(arguments: &Prune, session: &Session) -> Result<Report, CommandError> {
    let store = session.store_on_this_host(arguments.on_spare.clone())?;
    let policies = policies(&store, arguments.on_spare.config.as_deref())?;
    let mut all = Vec::new();
    for name in names(&store, arguments)? {
        all.push(prune(&store, &name, &policies, arguments)?);
    }
    let mode = mode(arguments);
    let values: Vec<Value> = all.iter().map(value).collect();
    let data = json!({ "dry_run": arguments.dry_run, "datasets": values });
    let lines = all.iter().flat_map(|pruned| lines(pruned, mode)).collect();
    let mut report = Report::done(data, lines);
    if all.is_empty() {
        report
            .lines
            .push("the spare has no datasets yet".to_owned());
    }
    let stopped = all.iter().find(|pruned| pruned.obstacle.is_some());
    if let Some(error) = stopped.filter(|_| mode == Mode::Act).and_then(stop) {
        report.code = error.code;
        report.error = Some(error);
    }
    Ok(report)
}

fn mode(arguments: &Prune) -> Mode {
    if arguments.dry_run {
        Mode::Look
    } else {
        Mode::Act
    }
}

fn names(store: &Store, arguments: &Prune) -> Result<Vec<DatasetName>, ReceiverError> {
    match &arguments.dataset {
        Some(name) => Ok(vec![name.clone()]),
        None => retention::datasets(store),
    }
}

fn prune(
    store: &Store,
    name: &DatasetName,
    policies: &Policies,
    arguments: &Prune,
) -> Result<Pruned, ReceiverError> {
    let request = Request {
        policy: policies.of(name),
        moment: &Moment::now(),
        mode: mode(arguments),
        grace: if arguments.now {
            Grace::Skip
        } else {
            Grace::Wait
        },
        trust: if arguments.trust_clock {
            Trust::Given
        } else {
            Trust::Check
        },
    };
    retention::prune(store, name, &request)
}

fn stop(pruned: &Pruned) -> Option<CommandError> {
    let obstacle = pruned.obstacle.as_ref()?;
    let hint = match obstacle.kind {
        retention::ObstacleKind::Clock => {
            "look at the clock of this host; if it is right now, run it once with --trust-clock"
        }
        retention::ObstacleKind::Catalog => {
            "run `understudy verify`; nothing is removed from a dataset whose catalog is in doubt"
        }
        retention::ObstacleKind::Findings => {
            "what is damaged may be needed from older snapshots; once `understudy verify` finds nothing, run this again"
        }
        retention::ObstacleKind::Busy | retention::ObstacleKind::Reader => {
            "run it again later; a receiver that runs does so every hour"
        }
    };
    let message = format!("{}: {}", pruned.dataset, obstacle.reason);
    Some(CommandError::new(Code::Failed, message, hint))
}

fn value(pruned: &Pruned) -> Value {
    let kept = |(number, reason): &(u64, Reason)| json!({ "number": number, "reason": reason });
    let expired = |all: &[Expired]| -> Vec<Value> {
        let value = |one: &Expired| {
            json!({
                "number": one.number,
                "time": words::time(one.committed_seconds),
                "goes": words::time(one.due_seconds),
            })
        };
        all.iter().map(value).collect()
    };
    let Freed {
        objects,
        bytes,
        allocated_bytes,
    } = pruned.freed;
    json!({
        "name": pruned.dataset.as_str(),
        "kept": pruned.kept.iter().map(kept).collect::<Vec<_>>(),
        "flagged": expired(&pruned.flagged),
        "waiting": expired(&pruned.waiting),
        "removed": expired(&pruned.removed),
        "freed": { "objects": objects, "bytes": bytes, "disk_bytes": allocated_bytes },
        "stopped": pruned.obstacle.as_ref().map(|obstacle| json!({
            "kind": obstacle.kind.as_str(),
            "reason": obstacle.reason,
        })),
    })
}

fn lines(pruned: &Pruned, mode: Mode) -> Vec<String> {
    let (flagged, removed, freed) = match mode {
        Mode::Look => ("would be flagged", "would be removed", "would be freed"),
        Mode::Act => ("flagged", "removed", "freed"),
    };
    if let Some(obstacle) = pruned.obstacle.as_ref().filter(|_| pruned.kept.is_empty()) {
        // Nothing was looked at: numbers would say that nothing is kept.
        return vec![format!("{}: stopped: {}", pruned.dataset, obstacle.reason)];
    }
    let mut lines = vec![format!(
        "{}: {} kept, {} {flagged}, {} waiting, {} {removed}",
        pruned.dataset,
        pruned.kept.len(),
        pruned.flagged.len(),
        pruned.waiting.len(),
        pruned.removed.len(),
    )];
    let show = |what: &str, all: &[Expired]| -> Vec<String> {
        let line = |one: &Expired| {
            let (number, time) = (one.number, words::time(one.committed_seconds));
            format!("  snapshot {number} of {time}: {what}")
        };
        all.iter().map(line).collect()
    };
    let goes = |one: &Expired| format!(", goes after {}", words::time(one.due_seconds));
    let flags = pruned.flagged.iter().zip(show(flagged, &pruned.flagged));
    lines.extend(flags.map(|(one, line)| line + &goes(one)));
    let waiting = pruned
        .waiting
        .iter()
        .zip(show("flagged before", &pruned.waiting));
    lines.extend(waiting.map(|(one, line)| line + &goes(one)));
    lines.extend(show(removed, &pruned.removed));
    if pruned.freed != Freed::default() {
        lines.push(format!(
            "  {}, {} ({} on disk) {freed}",
            words::counted(pruned.freed.objects, "kept content"),
            words::size(pruned.freed.bytes),
            words::size(pruned.freed.allocated_bytes),
        ));
    }
    if let Some(obstacle) = &pruned.obstacle {
        lines.push(format!("  stopped: {}", obstacle.reason));
    }
    lines
}

#[cfg(test)]
mod tests {
    use understudy_receiver::retention::{Obstacle, ObstacleKind};

    use super::*;

    #[test]
    fn what_stopped_before_it_counted_tells_no_numbers() {
        let mut pruned = Pruned {
            dataset: DatasetName::fit(b"photos"),
            kept: vec![],
            flagged: vec![],
            waiting: vec![],
            removed: vec![],
            freed: Freed::default(),
            obstacle: Some(Obstacle {
                kind: ObstacleKind::Clock,
                reason: "the clock".to_owned(),
            }),
        };
        assert_eq!(lines(&pruned, Mode::Look), ["photos: stopped: the clock"]);
        pruned.obstacle = None;
        assert!(lines(&pruned, Mode::Look)[0].contains("0 kept"));
    }
}
