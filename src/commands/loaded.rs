//! Which databases are loaded on a spare: for people, and for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use understudy_protocol::message::DatasetStatus;
use understudy_protocol::{DatasetName, escape, shown};
use understudy_receiver::Store;
use understudy_receiver::standby::{Known, Standby as Place};

use super::policies::configuration;
use crate::exit::CommandError;
use crate::receiver_config::{Load, Standby};
use crate::words;

/// A database that is loaded here, or is to be.
#[derive(Debug)]
pub(super) struct One {
    name: String,
    known: Known,
    /// When it is loaded, if the configuration can be read.
    load: Option<Load>,
}

/// The databases of each dataset of a store on this host.
pub(super) fn all(
    store: &Store,
    datasets: &[DatasetStatus],
) -> Result<BTreeMap<DatasetName, Vec<One>>, CommandError> {
    let config = configuration(store, None).unwrap_or_default();
    let standbys = config.map_or_else(Vec::new, |config| config.standbys);
    let mut all = BTreeMap::new();
    for dataset in datasets {
        let place = Place::existing(store, &dataset.name);
        let known = match place.and_then(|place| place.map(|place| place.all()).transpose()) {
            Ok(known) => known.unwrap_or_default(),
            // Its trouble is told elsewhere.
            Err(error) => {
                tracing::debug!("{}: {error}", dataset.name);
                continue;
            }
        };
        let own = of(&dataset.name, &standbys, known);
        if !own.is_empty() {
            all.insert(dataset.name.clone(), own);
        }
    }
    Ok(all)
}

fn of(dataset: &DatasetName, standbys: &[Standby], mut known: BTreeMap<String, Known>) -> Vec<One> {
    let configured: BTreeMap<&str, Load> = standbys
        .iter()
        .filter(|one| one.dataset == *dataset)
        .map(|one| (one.settings.name.as_str(), one.load))
        .collect();
    for name in configured.keys() {
        known.entry((*name).to_owned()).or_default();
    }
    let one = |(name, known): (String, Known)| One {
        load: configured.get(name.as_str()).copied(),
        name,
        known,
    };
    known.into_iter().map(one).collect()
}

impl One {
    /// For people.
    pub(super) fn lines(&self, dataset: &DatasetName, now_seconds: i64) -> Vec<String> {
        let ago = |seconds: i64| words::span(now_seconds.saturating_sub(seconds).max(0));
        let Known {
            loaded,
            begun,
            failure,
            ..
        } = &self.known;
        let what = match (loaded, self.load) {
            (Some(loaded), _) => format!(
                "loaded as snapshot {} of {} has it, {} ago",
                loaded.snapshot,
                words::time(loaded.committed_seconds),
                ago(loaded.ended_seconds)
            ),
            (None, Some(Load::Promote)) => "is loaded when this host is promoted".to_owned(),
            (None, _) => "not loaded".to_owned(),
        };
        let head = format!("{dataset}: database `{}`", self.name);
        let mut lines = vec![format!("{head}: {what}")];
        lines.extend(begun.as_ref().map(|begun| {
            format!(
                "{head}: a load of snapshot {} ({}) was begun {} ago, and has not ended",
                begun.snapshot,
                shown::size(begun.bytes),
                ago(begun.since_seconds)
            )
        }));
        lines.extend(failure.as_ref().map(|failure| {
            format!(
                "{head}: CANNOT BE LOADED since {} ({}): {}",
                ago(failure.since_seconds),
                words::counted(u64::from(failure.times), "try"),
                escape(failure.text.as_bytes())
            )
        }));
        lines
    }

    /// For programs.
    pub(super) fn value(&self) -> Value {
        let known = &self.known;
        json!({
            "name": self.name,
            "loaded": known.loaded.as_ref().map(|loaded| json!({
                "snapshot": loaded.snapshot,
                "committed": words::time(loaded.committed_seconds),
                "at": words::time(loaded.ended_seconds),
            })),
            "loading": known.begun.as_ref().map(|begun| json!({
                "snapshot": begun.snapshot,
                "bytes": begun.bytes,
                "since": words::time(begun.since_seconds),
            })),
            "last_seconds": known.last.map(|last| last.seconds),
            "error": known.failure.as_ref().map(|failure| json!({
                "text": failure.text,
                "since": words::time(failure.since_seconds),
                "times": failure.times,
                "not_now": !failure.is_wrong,
            })),
        })
    }
}
