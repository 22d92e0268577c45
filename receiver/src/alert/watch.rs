//! The watch: gathers the facts, has them judged, keeps the record. Made to be looked at every second: catalogs are
//! opened only now and then, because sessions tell what they have done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use understudy_protocol::{DatasetName, escape};

use super::cycles::News;
use super::decide::{self, Bench, Facts, Resource, Room, Soundness};
use super::record::{Locked, Record};
use super::{Kind, Notice, Policy};
use crate::dataset::now_seconds;
use crate::drift;
use crate::error::ReceiverError;
use crate::promote::heard;
use crate::space::Reserve;
use crate::store::Store;
use crate::{filling, health, names, served, standby};

/// How often all catalogs are opened: for trouble, and for what other processes did.
const POLL: Duration = Duration::from_secs(15);

/// How long after an attempt to tell people that has failed they are told again.
const RETRY: Duration = Duration::from_secs(60);

/// The watch over one store; a receiver has one.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    reserve: Reserve,
    record: Record,
    /// The record as it was last written.
    saved: Record,
    is_write_broken: bool,
    facts: BTreeMap<DatasetName, Facts>,
    polled: Option<Instant>,
    /// Why the store could not be read at the last poll.
    unreadable: Option<String>,
    /// What is foreseen of the disk, as of the last poll.
    rooms: [Room; 2],
    /// What is wrong with how the live trees are served, as of the last poll.
    served: Option<String>,
    held: HashMap<(Option<DatasetName>, Kind), Hold>,
}

/// Why an alert is not told just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It is being told.
    Telling,
    /// That has failed, and is tried again after this.
    Until(Instant),
}

/// Whether people were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// In at least one way.
    Worked,
    /// In none.
    Failed,
}

/// What the watch sees at one moment.
#[derive(Debug)]
pub struct Look {
    /// What people are to be told. Comes again at every look until [`Watch::begin`] and [`Watch::end`] say that
    /// it is being told and was.
    pub notices: Vec<Notice>,
    /// Datasets that got a snapshot or a confirmation since the last look, and whose lag is within its limit.
    pub fresh: Vec<DatasetName>,
    /// Numbers for a line of status.
    pub summary: Summary,
    /// Why the store cannot be read, if it cannot.
    pub unreadable: Option<String>,
}

/// All datasets in a few numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Datasets in the store.
    pub datasets: usize,
    /// The one that is furthest behind, and by how many seconds.
    pub worst: Option<(DatasetName, i64)>,
    /// Alerts, acknowledged ones included.
    pub alerts: usize,
    /// Those that somebody acknowledged.
    pub acknowledged: usize,
}

impl Watch {
    /// Begins to watch, with what was told and acknowledged before.
    pub fn open(store: Arc<Store>) -> Result<Self, ReceiverError> {
        let record = Locked::take(&store)?.load()?;
        Ok(Self {
            store,
            reserve: Reserve::default(),
            saved: record.clone(),
            record,
            is_write_broken: false,
            facts: BTreeMap::new(),
            polled: None,
            unreadable: None,
            rooms: [Room::Scarce; 2],
            served: None,
            held: HashMap::new(),
        })
    }

    /// Watches a store of which uploads leave this free.
    #[must_use]
    pub fn reserving(mut self, reserve: Reserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Looks at everything; cheap enough for every second.
    pub fn look(&mut self, policy: &Policy) -> Look {
        let mut fresh = self.hear();
        if self.polled.is_none_or(|polled| polled.elapsed() >= POLL) {
            let polled = self.poll(&mut fresh);
            self.unreadable = polled.err().map(|error| error.to_string());
            self.rooms = self.foresee();
            self.served = self.look_at_served(policy);
            self.polled = Some(Instant::now());
        }
        let running = self.store.cycles.running();
        for (name, facts) in &mut self.facts {
            facts.is_uploading = running.contains(name);
        }
        self.take_over_acknowledgements();
        let served = self.served.clone();
        let bench = Bench {
            policy,
            rooms: self.rooms,
            served: served.as_deref(),
            now_seconds: now_seconds(),
        };
        let mut notices = decide::decide(&bench, &mut self.record, &self.facts);
        self.save();
        self.held
            .retain(|_, hold| !matches!(hold, Hold::Until(end) if *end <= Instant::now()));
        notices.retain(|notice| !self.held.contains_key(&key(notice)));
        fresh.retain(|name| {
            let facts = self.facts.get(name);
            facts.is_some_and(|facts| bench.is_within_limit(name, facts))
        });
        Look {
            notices,
            fresh: fresh.into_iter().collect(),
            summary: self.summary(&bench),
            unreadable: self.unreadable.clone(),
        }
    }

    /// A notice is being told.
    pub fn begin(&mut self, notice: &Notice) {
        self.held.insert(key(notice), Hold::Telling);
    }

    /// Telling it has ended.
    pub fn end(&mut self, notice: &Notice, delivery: Delivery) {
        match delivery {
            Delivery::Worked => {
                self.held.remove(&key(notice));
                decide::told(&mut self.record, notice, now_seconds());
                self.save();
            }
            Delivery::Failed => {
                let again = Hold::Until(Instant::now() + RETRY);
                self.held.insert(key(notice), again);
            }
        }
    }

    /// Takes over what sessions told; returns the datasets with a good cycle.
    fn hear(&mut self) -> BTreeSet<DatasetName> {
        let mut good = BTreeSet::new();
        for (name, news) in self.store.cycles.take() {
            let is_known = self
                .facts
                .get(&name)
                .is_some_and(|facts| facts.soundness != Soundness::Gone);
            if !is_known {
                self.observe(&name);
            }
            // A dataset that could not even be made is told to its agent alone.
            let Some(facts) = self.facts.get_mut(&name) else {
                continue;
            };
            if news.as_of_seconds.is_some() {
                facts.as_of_seconds = facts.as_of_seconds.max(news.as_of_seconds);
                good.insert(name.clone());
            }
            let known = self.record.datasets.entry(name).or_default();
            let mut counted = News {
                as_of_seconds: None,
                failures: known.failures,
                failure: known.failure.take(),
                refused: known.refused.take(),
            };
            counted.and_then(news);
            known.failures = counted.failures;
            known.failure = counted.failure;
            known.refused = counted.refused;
        }
        good
    }

    /// Opens every catalog.
    fn poll(&mut self, fresh: &mut BTreeSet<DatasetName>) -> Result<(), ReceiverError> {
        let mut names: BTreeSet<DatasetName> = self.store.dataset_names()?.into_iter().collect();
        names.extend(self.record.datasets.keys().cloned());
        for name in &names {
            let before = self.facts.get(name).and_then(|facts| facts.as_of_seconds);
            self.observe(name);
            let after = self.facts.get(name).and_then(|facts| facts.as_of_seconds);
            if before.is_some() && after > before {
                fresh.insert(name.clone());
            }
        }
        self.facts.retain(|name, _| names.contains(name));
        Ok(())
    }

    /// Notes how full the disk is, and tells what is foreseen of its bytes and inodes. Where nobody can tell, nothing is decided anew.
    fn foresee(&self) -> [Room; 2] {
        if let Err(error) = filling::note(&self.store) {
            tracing::debug!("cannot note how full the disk is: {error}");
        }
        match filling::filling(&self.store, self.reserve) {
            Ok((bytes, inodes, _)) => [
                Room::of(&bytes, Resource::Bytes),
                Room::of(&inodes, Resource::Inodes),
            ],
            Err(_) => [Room::Scarce; 2],
        }
    }

    /// What is wrong with how the live trees are served. What nobody can look at stays as it was told.
    fn look_at_served(&self, policy: &Policy) -> Option<String> {
        match served::trouble(&self.store, policy.served.as_deref()?) {
            Ok(trouble) => trouble.map(|text| escape(text.as_bytes())),
            Err(error) => {
                tracing::debug!("cannot look at what is served: {error}");
                self.served.clone()
            }
        }
    }

    /// Opens one catalog.
    fn observe(&mut self, name: &DatasetName) {
        let before = self.facts.get(name);
        let as_of_seconds = before.and_then(|facts| facts.as_of_seconds);
        let made_seconds = before.map_or_else(now_seconds, |facts| facts.made_seconds);
        let unsound = |soundness| Facts {
            as_of_seconds,
            made_seconds,
            is_uploading: false,
            soundness,
            damage: None,
            is_spare: before.is_none_or(|facts| facts.is_spare),
            heard_seconds: before.and_then(|facts| facts.heard_seconds),
            drift: before.and_then(|facts| facts.drift.clone()),
            standby: before.and_then(|facts| facts.standby.clone()),
        };
        let facts = match read(&self.store, name) {
            Ok(Some(facts)) => facts,
            Ok(None) if self.record.datasets.contains_key(name) => unsound(Soundness::Gone),
            // Some directory that is no dataset.
            Ok(None) => return,
            Err(error) => unsound(Soundness::Trouble(escape(error.to_string().as_bytes()))),
        };
        self.facts.insert(name.clone(), facts);
    }

    /// Reads what `acknowledge` wrote, if there is something that it may have been about.
    fn take_over_acknowledgements(&mut self) {
        let is_open = |record: &Record| {
            let mut alerts = record.alerts();
            alerts.any(|alert| alert.acknowledged_seconds.is_none())
        };
        if !is_open(&self.saved) {
            return;
        }
        match Locked::take_if_free(&self.store)
            .and_then(|locked| locked.map(|locked| locked.load()).transpose())
        {
            Ok(Some(disk)) => {
                self.record.acknowledge_as(&disk);
                self.saved = disk;
            }
            // Whoever has it writes it: at the next look then.
            Ok(None) => {}
            Err(error) => tracing::debug!("cannot read what was acknowledged: {error}"),
        }
    }

    /// Writes the record, if it has changed. Alerts are told all the same where that fails: on a full disk they are
    /// needed most.
    fn save(&mut self) {
        if self.record == self.saved {
            return;
        }
        let saved = Locked::take_if_free(&self.store).and_then(|locked| {
            let Some(locked) = locked else {
                return Ok(false);
            };
            self.record.acknowledge_as(&locked.load()?);
            locked.save(&self.record).map(|()| true)
        });
        match saved {
            Ok(true) => {
                self.saved = self.record.clone();
                self.is_write_broken = false;
            }
            // At the next look.
            Ok(false) => {}
            Err(error) if self.is_write_broken => tracing::debug!("{error}"),
            Err(error) => {
                self.is_write_broken = true;
                tracing::error!(
                    "cannot record which alerts were told, so a restart will repeat them: {error}"
                );
            }
        }
    }

    fn summary(&self, bench: &Bench<'_>) -> Summary {
        let there = || {
            let facts = self.facts.iter();
            facts.filter(|(_, facts)| facts.soundness != Soundness::Gone)
        };
        let behind = there().filter_map(|(name, facts)| Some((name, bench.lag_seconds(facts)?)));
        let alerts: Vec<_> = self.record.alerts().collect();
        let acknowledged = alerts
            .iter()
            .filter(|alert| alert.acknowledged_seconds.is_some());
        Summary {
            datasets: there().count(),
            worst: behind
                .max_by_key(|(_, lag)| *lag)
                .map(|(name, lag)| (name.clone(), lag)),
            acknowledged: acknowledged.count(),
            alerts: alerts.len(),
        }
    }
}

fn key(notice: &Notice) -> (Option<DatasetName>, Kind) {
    (notice.dataset.clone(), notice.kind)
}

/// Where a dataset stands by its catalog; `None` if the store does not have it.
fn read(store: &Store, name: &DatasetName) -> Result<Option<Facts>, ReceiverError> {
    let Some(dataset) = store.dataset(name)? else {
        return Ok(None);
    };
    // Made with the dataset, and never written.
    let made = dataset.control.stat(&names::LOCK)?.modified;
    let (as_of_seconds, drift) = match dataset.read_catalog()? {
        None => (None, None),
        Some(catalog) => {
            let committed = catalog.head()?.map(|head| head.as_of_seconds);
            let as_of = committed.max(catalog.confirmed_seconds()?);
            (as_of, drift::untouched(&dataset, &catalog)?)
        }
    };
    let heard_seconds = match as_of_seconds {
        Some(_) => heard::seconds(&dataset)?.max(as_of_seconds),
        None => None,
    };
    Ok(Some(Facts {
        heard_seconds,
        drift: drift.map(|text| escape(text.as_bytes())),
        standby: standby::trouble(&dataset)?.map(|text| escape(text.as_bytes())),
        is_spare: dataset.is_spare()?,
        as_of_seconds,
        made_seconds: made.seconds,
        is_uploading: false,
        soundness: Soundness::Sound,
        damage: health::trouble(&dataset)?.map(|text| escape(text.as_bytes())),
    }))
}
