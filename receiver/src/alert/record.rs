//! The file `understudy.alerts` of a store: which alerts there are, who was told, what was acknowledged. Two
//! processes change it, the receiver and `acknowledge`, each under the lock.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use understudy_protocol::{DatasetName, Name};
use understudy_tree::TreeError;
use understudy_tree::durable::{self, Durability};

use super::Kind;
use crate::access::existing;
use crate::dataset::now_seconds;
use crate::error::ReceiverError;
use crate::names;
use crate::store::Store;

/// The layout this build writes.
const FORMAT: i64 = 1;

/// More than tens of thousands of datasets with all alerts and the longest reasons.
const LIMIT_BYTES: u64 = 256 * 1024 * 1024;

/// All that has to survive a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: i64,
    /// Every dataset that the store ever had, so that one that vanishes is missed.
    pub(super) datasets: BTreeMap<DatasetName, Known>,
    /// The store itself.
    #[serde(default)]
    pub(super) store: Known,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            format: FORMAT,
            datasets: BTreeMap::new(),
            store: Known::default(),
        }
    }
}

/// One dataset, or the store itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Failed cycles since the last good one.
    pub(super) failures: u32,
    /// Why the last of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
    /// Why a guard refused one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) alerts: BTreeMap<Kind, Alert>,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alert {
    /// When it was raised.
    pub(super) since_seconds: i64,
    /// Why, as it was told last.
    pub(super) reason: String,
    /// When somebody was told last; `None` until that has worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) told_seconds: Option<i64>,
    /// When it was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged_seconds: Option<i64>,
}

impl Record {
    /// Takes over what was acknowledged in `other`: this very alert, and no later one of its kind.
    pub(super) fn acknowledge_as(&mut self, other: &Self) {
        self.store.acknowledge_as(&other.store);
        for (name, known) in &mut self.datasets {
            if let Some(other) = other.datasets.get(name) {
                known.acknowledge_as(other);
            }
        }
    }

    /// What is known of a dataset, or of the store itself.
    pub(super) fn known(&mut self, dataset: Option<&DatasetName>) -> Option<&mut Known> {
        match dataset {
            Some(name) => self.datasets.get_mut(name),
            None => Some(&mut self.store),
        }
    }

    /// All alerts.
    pub(super) fn alerts(&self) -> impl Iterator<Item = &Alert> {
        let known = self.datasets.values().chain([&self.store]);
        known.flat_map(|known| known.alerts.values())
    }
}

impl Known {
    fn acknowledge_as(&mut self, other: &Self) {
        for (kind, alert) in &mut self.alerts {
            let same = other.alerts.get(kind);
            if let Some(same) = same.filter(|same| same.since_seconds == alert.since_seconds) {
                alert.acknowledged_seconds =
                    alert.acknowledged_seconds.or(same.acknowledged_seconds);
            }
        }
    }
}

/// The right to change the file; ends when dropped.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    store: &'a Store,
    _file: File,
}

impl<'a> Locked<'a> {
    /// Takes it, or returns `None` if another process has it just now.
    pub(super) fn take_if_free(store: &'a Store) -> Result<Option<Self>, ReceiverError> {
        let file = lock_file(store)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { store, _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(not_locked(error)),
        }
    }

    /// Waits for it: others have it for moments only.
    pub(super) fn take(store: &'a Store) -> Result<Self, ReceiverError> {
        let file = lock_file(store)?;
        file.lock().map_err(not_locked)?;
        Ok(Self { store, _file: file })
    }

    /// What the file says; an empty record if there is none.
    ///
    /// One that cannot be understood counts as empty: then what is wrong is told once more, which is better than
    /// a receiver that does not start.
    pub(super) fn load(&self) -> Result<Record, ReceiverError> {
        let store = self.store;
        let content = durable::read(store.directory(), &names::ALERTS, LIMIT_BYTES)?;
        let Some(content) = content else {
            return Ok(Record::default());
        };
        match serde_json::from_slice::<Record>(&content) {
            Ok(record) if record.format > FORMAT => Err(ReceiverError::Newer {
                path: store.path().join(names::ALERTS.as_os_str()),
                found: record.format,
                known: FORMAT,
            }),
            Ok(record) => Ok(record),
            Err(error) => {
                tracing::error!(
                    "`{}` cannot be understood ({error}): alerts that were told or acknowledged may be told again",
                    store.path().join(names::ALERTS.as_os_str()).display()
                );
                Ok(Record::default())
            }
        }
    }

    /// Replaces the file; durable when it returns.
    pub(super) fn save(&self, record: &Record) -> Result<(), ReceiverError> {
        let text = serde_json::to_vec(record)
            .map_err(|error| not_written(std::io::Error::other(error)))?;
        durable::replace(
            self.store.directory(),
            &names::ALERTS,
            &text,
            Durability::Now,
        )?;
        give_to_owner(self.store, &names::ALERTS)
    }
}

fn lock_file(store: &Store) -> Result<File, ReceiverError> {
    let directory = store.directory();
    match directory.open_file(&names::ALERTS_LOCK) {
        Err(error) if error.is_gone() => match directory.create_file(&names::ALERTS_LOCK) {
            // Another process made it at the same moment.
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                Ok(directory.open_file(&names::ALERTS_LOCK)?)
            }
            created => {
                let file = created?;
                give_to_owner(store, &names::ALERTS_LOCK)?;
                Ok(file)
            }
        },
        opened => Ok(opened?),
    }
}

/// Gives a file to the store's owner: what root acknowledges must not be root's alone where the receiver is not root.
fn give_to_owner(store: &Store, name: &Name) -> Result<(), ReceiverError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = store.directory().stat_self()?;
    let file = store.directory().open_file(name)?;
    let (user, group) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(&file, Some(user), Some(group))
        .map_err(|error| TreeError::new("set the owner of", name.as_bytes(), error).into())
}

fn not_locked(error: std::io::Error) -> ReceiverError {
    TreeError::new("lock", names::ALERTS_LOCK.as_bytes(), error).into()
}

fn not_written(error: std::io::Error) -> ReceiverError {
    TreeError::new("write", names::ALERTS.as_bytes(), error).into()
}

/// An alert that `acknowledge` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// What is wrong.
    pub kind: Kind,
    /// When it was raised, seconds since 1970.
    pub since_seconds: i64,
    /// Why.
    pub reason: String,
    /// When somebody acknowledged it before; `None` if it is acknowledged only now.
    pub before_seconds: Option<i64>,
}

/// Acknowledges the present alerts of a dataset, or of the store itself, or the one of this kind: they are not repeated. Returns them; durable
/// when it returns. Alerts that are raised later are told as ever.
pub fn acknowledge(
    store: &Store,
    dataset: Option<&DatasetName>,
    kind: Option<Kind>,
) -> Result<Vec<Acknowledged>, ReceiverError> {
    let locked = Locked::take(store)?;
    let mut record = locked.load()?;
    let Some(known) = record.known(dataset) else {
        let there = dataset.map(|name| existing(store, name)).transpose();
        return there.map(|_| Vec::new());
    };
    let now = now_seconds();
    let meant = |found: &Kind| kind.is_none_or(|kind| kind == *found);
    let mut found = Vec::new();
    for (kind, alert) in known.alerts.iter_mut().filter(|(kind, _)| meant(kind)) {
        found.push(Acknowledged {
            kind: *kind,
            since_seconds: alert.since_seconds,
            reason: alert.reason.clone(),
            before_seconds: alert.acknowledged_seconds,
        });
        alert.acknowledged_seconds = alert.acknowledged_seconds.or(Some(now));
    }
    locked.save(&record)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with one alert, raised and acknowledged at these times.
    fn record(since_seconds: i64, acknowledged_seconds: Option<i64>) -> Record {
        let alert = Alert {
            since_seconds,
            reason: "why".to_owned(),
            told_seconds: None,
            acknowledged_seconds,
        };
        let known = Known {
            alerts: BTreeMap::from([(Kind::Lag, alert)]),
            ..Known::default()
        };
        Record {
            datasets: BTreeMap::from([(DatasetName::fit(b"site"), known)]),
            ..Record::default()
        }
    }

    #[test]
    fn what_was_acknowledged_before_an_alert_came_anew_does_not_silence_it() {
        let mut present = record(7, None);
        present.acknowledge_as(&record(5, Some(6)));
        assert_eq!(present, record(7, None));
        present.acknowledge_as(&record(7, Some(8)));
        assert_eq!(present, record(7, Some(8)));
        present.acknowledge_as(&record(7, None));
        assert_eq!(present, record(7, Some(8)), "it is not taken back");
    }
}
