//! What the last practice of a promotion showed, for whoever may have to do it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use understudy_protocol::DatasetName;
use understudy_protocol::message::DatasetStatus;
use understudy_receiver::Store;
use understudy_receiver::rehearsal::{self, Rehearsed};

use crate::exit::CommandError;
use crate::words;

/// That of each dataset, where the store is on this host.
pub(super) fn all(
    store: Option<&Store>,
    datasets: &[DatasetStatus],
) -> Result<BTreeMap<DatasetName, Rehearsed>, CommandError> {
    let mut all = BTreeMap::new();
    for dataset in datasets {
        let known = store.map(|store| rehearsal::last(store, &dataset.name));
        let known = known.transpose()?.flatten();
        all.extend(known.map(|known| (dataset.name.clone(), known)));
    }
    Ok(all)
}

/// For people.
pub(super) fn words(known: &Rehearsed, now_seconds: i64) -> String {
    let age = now_seconds.saturating_sub(known.ended_seconds).max(0);
    let hooks = Duration::from_millis(known.hooks_milliseconds);
    let left_out = match known.left_out {
        0 => String::new(),
        several => format!(", without {several} that cannot be rehearsed"),
    };
    format!(
        "a promotion was practised {} ago, with snapshot {}: {} ms, and {:.1} s for {}{left_out}",
        words::span(age),
        known.position.number,
        known.promotion_milliseconds,
        hooks.as_secs_f64(),
        words::counted(known.ran, "hook"),
    )
}

/// For programs.
pub(super) fn value(known: &Rehearsed) -> Value {
    json!({
        "ended": words::time(known.ended_seconds),
        "epoch": known.position.epoch,
        "number": known.position.number,
        "promotion_milliseconds": known.promotion_milliseconds,
        "hooks_milliseconds": known.hooks_milliseconds,
        "hooks_run": known.ran,
        "hooks_left_out": known.left_out,
    })
}
