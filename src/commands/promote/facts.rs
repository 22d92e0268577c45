//! What whoever decides over a promotion is shown.

use serde_json::{Value, json};
use understudy_protocol::{DatasetName, Role, shown};
use understudy_receiver::alert::Policy;
use understudy_receiver::promote::preserve::{self, Preserved, State};
use understudy_receiver::promote::{Facts, Hooks};
use understudy_receiver::{ReceiverError, Store};

use super::super::rehearsal;
use super::{Rules, When, databases};
use crate::words;

/// What copying apart is guessed to reach, where no blocks can be shared.
const FILES_PER_SECOND: u64 = 2000;
const BYTES_PER_SECOND: u64 = 100_000_000;

type Told = Result<Facts, (DatasetName, ReceiverError)>;

/// Whether this host would become the main by a promotion.
pub(super) fn is_to_rise(facts: &Facts) -> bool {
    facts.standing.role == Role::Spare
}

/// Whether the agreed threshold has passed.
fn has_passed(facts: &Facts, policy: &Policy) -> bool {
    let limit = policy.promote_after_seconds(&facts.dataset);
    facts.silent_seconds().is_none_or(|silent| silent > limit)
}

/// For people.
pub(super) fn lines(told: &Told, rules: &Rules, preserve: When, store: &Store) -> Vec<String> {
    let facts = match told {
        Ok(facts) => facts,
        Err((name, error)) => return vec![format!("{name}: nothing is known: {error}")],
    };
    let name = &facts.dataset;
    let standing = &facts.standing;
    let epoch = standing.epoch;
    if !is_to_rise(facts) {
        let since = words::time(standing.since_seconds);
        let mut lines = vec![format!(
            "{name}: this host is `{}` since {since}, in epoch {epoch}",
            standing.role
        )];
        lines.extend(hooks(facts));
        lines.extend(facts.preserved.iter().flat_map(kept));
        return lines;
    }
    let mut lines = vec![format!(
        "{name}: this host is the spare, in epoch {epoch}, and would be the main in epoch {}",
        epoch + 1
    )];
    lines.extend(snapshot(facts));
    if facts.handed.is_none() {
        lines.push(threshold(facts, &rules.policy));
    }
    if facts.is_busy {
        lines.push("  somebody is working on it just now, mostly an upload: it is finished, or ended and dropped".to_owned());
    }
    if let Some(held) = &facts.held {
        lines.push(format!(
            "  a guard holds a cycle since {}: {}",
            words::time(held.since_seconds),
            held.reason
        ));
        lines.push(format!(
            "    apply it first: understudy release {name} {}; or drop it: understudy promote {name} --without-held",
            held.short_digest()
        ));
    }
    if let Some(damage) = &facts.damage {
        lines.push(format!("  {damage}"));
    }
    if preserve == When::Before {
        lines.push(needed(store, name));
    }
    lines.extend(databases::outlook(store, name, &rules.standbys));
    let practised = facts.rehearsed.as_ref();
    lines
        .extend(practised.map(|known| format!("  {}", rehearsal::words(known, facts.now_seconds))));
    let hooks = rules.promotions.hooks(name);
    lines.extend(
        hooks
            .iter()
            .map(|hook| format!("  then runs: {}", hook.command.join(" "))),
    );
    lines
}

fn snapshot(facts: &Facts) -> Vec<String> {
    let Some(newest) = &facts.newest else {
        return vec!["  it has no snapshot yet: there is nothing to promote".to_owned()];
    };
    let mut lines = vec![format!(
        "  newest snapshot: {} of {}, {}, {}",
        newest.position.number,
        words::time(newest.committed_seconds),
        words::counted(newest.entries, "entry"),
        shown::size(newest.bytes)
    )];
    if let Some(handed) = &facts.handed {
        lines.push(format!(
            "  nothing is lost: the main has handed over with this snapshot, {} ago",
            words::span(
                facts
                    .now_seconds
                    .saturating_sub(handed.since_seconds)
                    .max(0)
            )
        ));
    } else if let (Some(lost), Some(as_of)) = (facts.lost_seconds(), facts.as_of_seconds) {
        lines.push(format!(
            "  may be lost: what was written on the main in the last {} (since {})",
            words::span(lost),
            words::time(as_of)
        ));
    }
    lines
}

fn threshold(facts: &Facts, policy: &Policy) -> String {
    let limit = words::span(policy.promote_after_seconds(&facts.dataset));
    let passed = match has_passed(facts, policy) {
        true => format!("the threshold of {limit} has passed"),
        false => format!("the threshold of {limit} has NOT passed"),
    };
    let heard = match (facts.silent_seconds(), facts.heard_seconds) {
        (Some(silent), Some(at)) => {
            format!("{} ago ({})", words::span(silent), words::time(at))
        }
        _ => "never".to_owned(),
    };
    format!("  main last heard of: {heard}; {passed}")
}

fn needed(store: &Store, name: &DatasetName) -> String {
    match preserve::needed(store, name) {
        Ok((files, bytes)) => {
            let seconds = (files / FILES_PER_SECOND).max(bytes / BYTES_PER_SECOND) + 1;
            format!(
                "  preserving before: {}, up to {} and about {}; next to nothing where the file system shares blocks",
                words::counted(files, "file"),
                shown::size(bytes),
                words::span(i64::try_from(seconds).unwrap_or(i64::MAX))
            )
        }
        Err(error) => format!("  preserving before: {error}"),
    }
}

fn hooks(facts: &Facts) -> Option<String> {
    let name = &facts.dataset;
    match facts.hooks? {
        Hooks::Done => None,
        Hooks::Due | Hooks::Failed => Some(format!(
            "  its hooks have not succeeded: understudy promote {name} --hooks-only"
        )),
    }
}

fn kept(preserved: &Preserved) -> Vec<String> {
    let amount = |(files, bytes): (u64, u64)| {
        format!("{} ({})", words::counted(files, "file"), shown::size(bytes))
    };
    let mut lines = Vec::new();
    match preserved.state {
        State::Done => {}
        State::Working => lines.push(format!(
            "  the promoted snapshot is being kept apart: {} to go",
            amount(preserved.left)
        )),
        State::Short => lines.push(format!(
            "  the promoted snapshot is not all kept apart, for the disk has no room beside the reserve: {} to go",
            amount(preserved.left)
        )),
    }
    if preserved.lost.0 > 0 {
        lines.push(format!(
            "  changed in place before it was kept, so lost to history: {}",
            amount(preserved.lost)
        ));
        let first = preserved.first.iter().take(10);
        lines.extend(first.map(|path| format!("    {path}")));
    }
    lines
}

/// For programs.
pub(super) fn value(told: &Told, policy: &Policy) -> Value {
    let facts = match told {
        Ok(facts) => facts,
        Err((name, error)) => return json!({ "name": name.as_str(), "error": error.to_string() }),
    };
    let count = |(files, bytes): (u64, u64)| json!({ "files": files, "bytes": bytes });
    json!({
        "name": facts.dataset.as_str(),
        "role": facts.standing.role.word(),
        "epoch": facts.standing.epoch,
        "newest": facts.newest.as_ref().map(words::snapshot),
        "as_of": facts.as_of_seconds.map(words::time),
        "lost_seconds": facts.lost_seconds(),
        "heard": facts.heard_seconds.map(words::time),
        "silent_seconds": facts.silent_seconds(),
        "promote_after_seconds": policy.promote_after_seconds(&facts.dataset),
        "threshold_passed": has_passed(facts, policy),
        "handed_over": facts.handed.map(|handed| words::time(handed.since_seconds)),
        "held": facts.held.as_ref().map(|held| held.digest.to_string()),
        "findings": facts.findings,
        "damage": facts.damage,
        "busy": facts.is_busy,
        "rehearsed": facts.rehearsed.as_ref().map(rehearsal::value),
        "hooks_succeeded": facts.hooks.map(|hooks| hooks == Hooks::Done),
        "preserved": facts.preserved.as_ref().map(|preserved| json!({
            "done": preserved.state == State::Done,
            "short_of_space": preserved.state == State::Short,
            "kept": count(preserved.kept),
            "left": count(preserved.left),
            "lost": count(preserved.lost),
            "first": words::paths(&preserved.first),
        })),
    })
}
