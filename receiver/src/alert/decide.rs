//! The decision: facts, limits and a clock in, notices out. Touches nothing.

use std::collections::BTreeMap;

use understudy_protocol::DatasetName;
use understudy_protocol::message::Filling;
use understudy_protocol::shown::size;

use super::record::{Alert, Known, Record};
use super::{Event, Kind, Notice, Policy, seconds, span};

/// What is known of a dataset at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Begin of the capture or confirmation that is the newest.
    pub(super) as_of_seconds: Option<i64>,
    /// When the store began to have the dataset.
    pub(super) made_seconds: i64,
    /// Whether an upload is running.
    pub(super) is_uploading: bool,
    /// Whether it can be used.
    pub(super) soundness: Soundness,
    /// What verifications and scrubs found, where nobody has accepted it.
    pub(super) damage: Option<String>,
    /// Whether this host is the spare.
    pub(super) is_spare: bool,
    /// When the main last came, whatever came of it; `None` if it never did.
    pub(super) heard_seconds: Option<i64>,
    /// What is kept that no main has sent, and nobody has dealt with.
    pub(super) drift: Option<String>,
    /// Why a database cannot be loaded.
    pub(super) standby: Option<String>,
}

/// Whether a dataset can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Soundness {
    /// Yes.
    Sound,
    /// No, for this reason.
    Trouble(String),
    /// The store had it once and has it no longer.
    Gone,
}

/// When the store takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// When.
    pub(super) seconds: i64,
    /// What is used up then.
    pub(super) of: Resource,
    /// How much of it is free.
    pub(super) free: u64,
    /// How much of that uploads leave free.
    pub(super) reserve: u64,
    /// How much more is used each day, if that is known.
    pub(super) each_day: Option<i64>,
}

/// What the store's disk has only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Bytes,
    Inodes,
}

impl Resource {
    fn shown(self, amount: u64) -> String {
        match self {
            Self::Bytes => size(amount),
            Self::Inodes => format!("{amount} inodes"),
        }
    }
}

/// What is foreseen of the store's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It will be full.
    Until(Full),
    /// So little is above the reserve that any upload may use it: neither enough nor too little.
    Scarce,
    /// Nobody knows of an end.
    Enough,
}

impl Room {
    pub(super) fn of(filling: &Filling, of: Resource) -> Self {
        match filling.full_seconds {
            Some(seconds) => Self::Until(Full {
                seconds,
                of,
                free: filling.free,
                reserve: filling.reserve,
                each_day: filling.each_day,
            }),
            None if is_scarce(filling.free, filling.reserve) => Self::Scarce,
            None => Self::Enough,
        }
    }

    /// When it is used up, if anybody knows.
    fn end_seconds(self) -> i64 {
        match self {
            Self::Until(full) => full.seconds,
            Self::Scarce | Self::Enough => i64::MAX,
        }
    }
}

/// Less than a tenth above the reserve: a disk that is kept near it goes below and above again all day.
fn is_scarce(free: u64, reserve: u64) -> bool {
    free < reserve.saturating_add(reserve / 10)
}

/// Whether something is an alert.
enum Condition {
    Holds(String),
    Ends,
    /// Nobody can tell, so what was decided before stands.
    Unknown,
}

/// What all datasets are judged by.
pub(super) struct Bench<'a> {
    pub(super) policy: &'a Policy,
    /// What is foreseen of each resource of the disk, and whether little of it is above the reserve.
    pub(super) rooms: [Room; 2],
    /// What is wrong with how the live trees are served.
    pub(super) served: Option<&'a str>,
    /// The receiver's clock.
    pub(super) now_seconds: i64,
}

/// Brings the record up to date, and returns what is to be told now. Nobody counts as told before
/// [`told`] says so.
pub(super) fn decide(
    bench: &Bench<'_>,
    record: &mut Record,
    facts: &BTreeMap<DatasetName, Facts>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, facts) in facts {
        if facts.soundness == Soundness::Gone && record.datasets.get(name).is_none_or(is_let_go) {
            record.datasets.remove(name);
            continue;
        }
        let known = record.datasets.entry(name.clone()).or_default();
        for kind in Kind::OF_DATASETS {
            let condition = bench.condition(kind, name, known, facts);
            let about = About {
                kind,
                dataset: Some(name),
                lag_seconds: bench.lag_seconds(facts),
                lag_limit_seconds: bench.policy.lag_limit_seconds(name),
            };
            notices.extend(bench.step(&about, known, condition));
        }
    }
    let served = bench.served.map(str::to_owned);
    let of_store = [
        (Kind::Space, bench.space()),
        (
            Kind::Served,
            served.map_or(Condition::Ends, Condition::Holds),
        ),
    ];
    for (kind, condition) in of_store {
        let about = About {
            kind,
            dataset: None,
            lag_seconds: None,
            lag_limit_seconds: seconds(bench.policy.lag),
        };
        notices.extend(bench.step(&about, &mut record.store, condition));
    }
    notices
}

/// Whether a person has acknowledged that the dataset is gone: then it is not missed any more.
fn is_let_go(known: &Known) -> bool {
    let trouble = known.alerts.get(&Kind::Trouble);
    trouble.is_some_and(|alert| alert.acknowledged_seconds.is_some())
}

/// Somebody was told.
pub(super) fn told(record: &mut Record, notice: &Notice, now_seconds: i64) {
    let Some(known) = record.known(notice.dataset.as_ref()) else {
        return;
    };
    if notice.event == Event::Over {
        known.alerts.remove(&notice.kind);
    } else if let Some(alert) = known.alerts.get_mut(&notice.kind) {
        alert.told_seconds = Some(now_seconds);
        alert.reason.clone_from(&notice.reason);
    }
}

/// What may be told.
struct About<'a> {
    kind: Kind,
    dataset: Option<&'a DatasetName>,
    lag_seconds: Option<i64>,
    lag_limit_seconds: i64,
}

impl Bench<'_> {
    /// Lag by the receiver's clock; never negative.
    pub(super) fn lag_seconds(&self, facts: &Facts) -> Option<i64> {
        let as_of = facts.as_of_seconds?;
        Some(self.now_seconds.saturating_sub(as_of).max(0))
    }

    /// Whether the spare is as near to its main as it should be.
    pub(super) fn is_within_limit(&self, name: &DatasetName, facts: &Facts) -> bool {
        self.lag_seconds(facts)
            .is_some_and(|lag| lag <= self.policy.lag_limit_seconds(name))
    }

    fn condition(&self, kind: Kind, name: &DatasetName, known: &Known, facts: &Facts) -> Condition {
        let holds = match kind {
            // Nobody sends anything to a main.
            Kind::Lag | Kind::Failures | Kind::Guard | Kind::Silent | Kind::Standby
                if !facts.is_spare =>
            {
                None
            }
            Kind::Lag if facts.soundness == Soundness::Gone => return Condition::Unknown,
            Kind::Lag => match (&facts.soundness, facts.as_of_seconds) {
                (Soundness::Trouble(_), None) => return Condition::Unknown,
                _ => self.behind(name, facts),
            },
            Kind::Failures => (known.failures >= self.policy.failures).then(|| {
                let last = known.failure.as_deref().unwrap_or("of an unknown reason");
                format!("{} cycles in a row have failed; the last one: {last}", known.failures)
            }),
            Kind::Guard => known
                .refused
                .as_ref()
                .map(|reason| format!("a guard refused a cycle: {reason}")),
            Kind::Trouble => match &facts.soundness {
                Soundness::Sound => None,
                Soundness::Trouble(reason) => Some(reason.clone()),
                Soundness::Gone => Some(
                    "its directory is gone from the store; if that is meant, acknowledge this alert".to_owned(),
                ),
            },
            // Nobody looked.
            Kind::Damage if facts.soundness != Soundness::Sound => return Condition::Unknown,
            Kind::Damage => facts.damage.clone(),
            Kind::Silent => self.silent(name, facts),
            Kind::Drift if facts.soundness != Soundness::Sound => return Condition::Unknown,
            Kind::Drift => facts.drift.clone(),
            Kind::Standby if facts.soundness != Soundness::Sound => return Condition::Unknown,
            Kind::Standby => facts.standby.clone(),
            // Those of the store itself.
            Kind::Space | Kind::Served => None,
        };
        holds.map_or(Condition::Ends, Condition::Holds)
    }

    /// Whether a promotion is to be decided over.
    fn silent(&self, name: &DatasetName, facts: &Facts) -> Option<String> {
        let limit = self.policy.promote_after_seconds(name);
        let silent = self.now_seconds.saturating_sub(facts.heard_seconds?);
        (silent > limit).then(|| {
            format!(
                "nothing was heard of the main for more than {}, which is when a promotion is to be decided over: `understudy promote \
                 --dry-run {name}` on the spare shows what would be lost",
                span(limit)
            )
        })
    }

    fn behind(&self, name: &DatasetName, facts: &Facts) -> Option<String> {
        let limit = self.policy.lag_limit_seconds(name);
        let lag = self.lag_seconds(facts);
        let waited = self.now_seconds.saturating_sub(facts.made_seconds);
        if lag.unwrap_or(waited) <= limit {
            return None;
        }
        let upload = if facts.is_uploading {
            "an upload is running"
        } else {
            "no upload is running"
        };
        let limit = span(limit);
        Some(match lag {
            Some(lag) => format!(
                "the spare is {} behind its main, the limit is {limit}; {upload}",
                span(lag)
            ),
            None => format!(
                "the spare has no snapshot yet, {} after the main's first contact, the limit is {limit}; {upload}",
                span(waited)
            ),
        })
    }

    /// Whether the disk will be full before long. Each resource is judged by itself: one that is far from its end says nothing of
    /// another that wavers.
    fn space(&self) -> Condition {
        let mut rooms = self.rooms;
        rooms.sort_by_key(|room| room.end_seconds());
        let mut worst = Condition::Ends;
        for room in rooms {
            match self.space_of(room) {
                Condition::Holds(reason) => return Condition::Holds(reason),
                Condition::Unknown => worst = Condition::Unknown,
                Condition::Ends => {}
            }
        }
        worst
    }

    fn space_of(&self, room: Room) -> Condition {
        let full = match room {
            Room::Until(full) => full,
            Room::Scarce => return Condition::Unknown,
            Room::Enough => return Condition::Ends,
        };
        let limit = seconds(self.policy.space);
        let left = full.seconds.saturating_sub(self.now_seconds).max(0);
        if left >= limit {
            // Forecasts waver: what was told is over when it is over by half.
            let is_over =
                left >= limit.saturating_add(limit / 2) && !is_scarce(full.free, full.reserve);
            return if is_over {
                Condition::Ends
            } else {
                Condition::Unknown
            };
        }
        let shown = |amount| full.of.shown(amount);
        let (free, reserve) = (shown(full.free), shown(full.reserve));
        let reason = match (left, full.each_day) {
            (1.., Some(each_day)) => format!(
                "the disk takes nothing more in {}, if {} more are used each day as of late; {free} are free, of which {reserve} are kept \
                 in reserve",
                span(left),
                shown(each_day.unsigned_abs())
            ),
            _ => format!("uploads are refused: {free} are free, and {reserve} are kept in reserve"),
        };
        Condition::Holds(reason)
    }

    fn step(&self, about: &About<'_>, known: &mut Known, condition: Condition) -> Option<Notice> {
        let (now, kind) = (self.now_seconds, about.kind);
        if kind == Kind::Drift
            && let Condition::Holds(reason) = &condition
            && known
                .alerts
                .get(&kind)
                .is_some_and(|alert| alert.reason != *reason)
        {
            // Another one: whoever was told of the former knows nothing of it.
            known.alerts.remove(&kind);
        }
        let (event, reason) = match (condition, known.alerts.get(&kind)) {
            (Condition::Unknown, _) | (Condition::Ends, None) => return None,
            (Condition::Ends, Some(alert)) if alert.told_seconds.is_none() => {
                known.alerts.remove(&kind);
                return None;
            }
            (Condition::Ends, Some(alert)) => (Event::Over, alert.reason.clone()),
            (Condition::Holds(_), Some(alert)) if alert.acknowledged_seconds.is_some() => {
                return None;
            }
            (
                Condition::Holds(reason),
                Some(Alert {
                    told_seconds: Some(told),
                    ..
                }),
            ) => {
                if matches!(kind, Kind::Silent | Kind::Drift) {
                    return None;
                }
                // A clock that was set back must not silence anybody.
                let is_due =
                    *told > now || now.saturating_sub(*told) >= seconds(self.policy.repeat);
                (is_due.then_some(Event::Repeated)?, reason)
            }
            (Condition::Holds(reason), _) => (Event::Raised, reason),
        };
        let alert = known.alerts.entry(kind).or_insert_with(|| Alert {
            since_seconds: now,
            reason: reason.clone(),
            told_seconds: None,
            acknowledged_seconds: None,
        });
        Some(Notice {
            dataset: about.dataset.cloned(),
            kind,
            event,
            reason,
            since_seconds: alert.since_seconds,
            time_seconds: now,
            lag_seconds: about.lag_seconds,
            lag_limit_seconds: about.lag_limit_seconds,
            failures: known.failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: i64 = 3600;

    /// One dataset, a clock that is set by hand, and restarts.
    struct Scene {
        policy: Policy,
        record: Record,
        facts: Facts,
        rooms: [Room; 2],
    }

    impl Scene {
        fn new() -> Self {
            Self {
                policy: Policy::default(),
                record: Record::default(),
                facts: Facts {
                    as_of_seconds: Some(0),
                    made_seconds: 0,
                    is_uploading: false,
                    soundness: Soundness::Sound,
                    damage: None,
                    is_spare: true,
                    heard_seconds: None,
                    drift: None,
                    standby: None,
                },
                rooms: [Room::Enough; 2],
            }
        }

        /// What is to be told at `now_seconds`; nobody is told.
        fn judge(&mut self, now_seconds: i64) -> Vec<Notice> {
            let bench = Bench {
                policy: &self.policy,
                rooms: self.rooms,
                served: None,
                now_seconds,
            };
            let facts = BTreeMap::from([(name(), self.facts.clone())]);
            decide(&bench, &mut self.record, &facts)
        }

        /// The same after a restart; everybody is told. Returns kinds and events.
        fn tell(&mut self, now_seconds: i64) -> Vec<(Kind, Event)> {
            let text = serde_json::to_string(&self.record).expect("written");
            self.record = serde_json::from_str(&text).expect("read");
            let notices = self.judge(now_seconds);
            for notice in &notices {
                told(&mut self.record, notice, now_seconds);
            }
            notices
                .iter()
                .map(|notice| (notice.kind, notice.event))
                .collect()
        }

        fn known(&mut self) -> &mut Known {
            self.record.datasets.entry(name()).or_default()
        }

        fn acknowledge(&mut self, kind: Kind, now_seconds: i64) {
            let alert = self.known().alerts.get_mut(&kind).expect("an alert");
            alert.acknowledged_seconds = Some(now_seconds);
        }
    }

    fn name() -> DatasetName {
        DatasetName::fit(b"site")
    }

    #[test]
    fn each_drift_point_is_told_once_until_it_is_dealt_with() {
        let mut scene = Scene::new();
        scene.facts.as_of_seconds = Some(100 * HOUR);
        scene.facts.drift = Some("snapshot 2".to_owned());
        assert_eq!(scene.tell(10), [(Kind::Drift, Event::Raised)]);
        assert_eq!(scene.tell(40 * HOUR), []);
        scene.facts.drift = Some("snapshot 5".to_owned());
        assert_eq!(scene.tell(41 * HOUR), [(Kind::Drift, Event::Raised)]);
        assert_eq!(scene.tell(42 * HOUR), []);
        scene.facts.drift = None;
        assert_eq!(scene.tell(43 * HOUR), [(Kind::Drift, Event::Over)]);
    }

    #[test]
    fn a_silent_main_is_told_once_and_again_until_it_is_over() {
        let mut scene = Scene::new();
        assert_eq!(scene.tell(HOUR), [], "the limit itself is within it");
        assert_eq!(scene.tell(HOUR + 1), [(Kind::Lag, Event::Raised)]);
        assert_eq!(scene.tell(HOUR + 2), []);
        assert_eq!(scene.tell(5 * HOUR), []);
        assert_eq!(scene.tell(5 * HOUR + 1), [(Kind::Lag, Event::Repeated)]);
        assert_eq!(scene.tell(5 * HOUR + 2), []);
        scene.facts.as_of_seconds = Some(6 * HOUR);
        let over = scene.judge(6 * HOUR).remove(0);
        assert_eq!((over.event, over.since_seconds), (Event::Over, HOUR + 1));
        assert!(over.text().contains("behind its main"), "{}", over.text());
        assert_eq!(scene.tell(6 * HOUR), [(Kind::Lag, Event::Over)]);
        assert_eq!(scene.tell(6 * HOUR + 1), []);
        assert!(scene.known().alerts.is_empty());
    }

    #[test]
    fn a_promotion_is_to_be_decided_over_once() {
        let mut scene = Scene::new();
        scene.policy.lag = Duration::from_secs(100_000_000);
        scene.facts.heard_seconds = Some(10);
        assert_eq!(scene.tell(2 * HOUR + 10), []);
        let raised = scene.judge(2 * HOUR + 11).remove(0);
        let command = "`understudy promote --dry-run site`";
        assert!(raised.reason.contains(command), "{}", raised.reason);
        assert_eq!(scene.tell(2 * HOUR + 11), [(Kind::Silent, Event::Raised)]);
        assert_eq!(scene.tell(200 * HOUR), [], "once");
        scene.facts.is_spare = false;
        assert_eq!(scene.tell(201 * HOUR), [(Kind::Silent, Event::Over)]);
        scene.known().failures = 9;
        assert_eq!(
            scene.tell(202 * HOUR),
            [],
            "whoever is refused is no spare's trouble"
        );
        let limit = Duration::from_secs(60);
        scene.policy.promote_after_of.insert(name(), limit);
        (scene.facts.is_spare, scene.facts.heard_seconds) = (true, Some(300 * HOUR));
        scene.known().failures = 0;
        assert_eq!(scene.tell(300 * HOUR + 61), [(Kind::Silent, Event::Raised)]);
    }

    #[test]
    fn what_was_acknowledged_is_silent_until_it_comes_anew() {
        let mut scene = Scene::new();
        scene.tell(2 * HOUR);
        scene.acknowledge(Kind::Lag, 2 * HOUR);
        assert_eq!(scene.tell(20 * HOUR), []);
        scene.known().failures = 3;
        assert_eq!(scene.tell(21 * HOUR), [(Kind::Failures, Event::Raised)]);
        scene.facts.as_of_seconds = Some(22 * HOUR);
        scene.known().failures = 0;
        assert_eq!(
            scene.tell(22 * HOUR),
            [(Kind::Lag, Event::Over), (Kind::Failures, Event::Over)]
        );
        assert_eq!(scene.tell(24 * HOUR), [(Kind::Lag, Event::Raised)]);
    }

    #[test]
    fn what_nobody_could_be_told_comes_again_at_once_and_goes_without_a_word() {
        let mut scene = Scene::new();
        for now in [2 * HOUR, 2 * HOUR + 1] {
            let notices = scene.judge(now);
            assert_eq!(notices[0].event, Event::Raised);
            assert_eq!(notices[0].since_seconds, 2 * HOUR);
        }
        scene.facts.as_of_seconds = Some(3 * HOUR);
        assert_eq!(scene.judge(3 * HOUR), []);
        assert!(scene.known().alerts.is_empty());
    }

    #[test]
    fn a_dataset_without_a_snapshot_counts_from_its_beginning() {
        let mut scene = Scene::new();
        scene.facts.as_of_seconds = None;
        scene.facts.made_seconds = HOUR;
        assert_eq!(scene.tell(2 * HOUR), []);
        let raised = scene.judge(2 * HOUR + 1).remove(0);
        assert!(
            raised.reason.contains("no snapshot yet"),
            "{}",
            raised.reason
        );
        assert_eq!(raised.lag_seconds, None);
    }

    #[test]
    fn limits_of_single_datasets_come_first() {
        let mut scene = Scene::new();
        let limit = Duration::from_secs(60);
        scene.policy.datasets.insert(name(), limit);
        assert_eq!(scene.tell(60), []);
        assert_eq!(scene.tell(61), [(Kind::Lag, Event::Raised)]);
    }

    #[test]
    fn a_refusal_is_told_at_once_and_failures_after_a_few() {
        let mut scene = Scene::new();
        scene.known().failures = 2;
        assert_eq!(scene.tell(1), []);
        scene.known().failures = 3;
        scene.known().failure = Some("no route".to_owned());
        let raised = scene.judge(2).remove(0);
        assert!(raised.reason.contains("no route"), "{}", raised.reason);
        let mut scene = Scene::new();
        scene.known().failures = 1;
        scene.known().refused = Some("it is empty".to_owned());
        assert_eq!(scene.tell(1), [(Kind::Guard, Event::Raised)]);
        scene.known().refused = None;
        assert_eq!(scene.tell(2), [(Kind::Guard, Event::Over)]);
    }

    #[test]
    fn trouble_hides_no_lag_and_invents_none() {
        let mut scene = Scene::new();
        scene.facts.soundness = Soundness::Trouble("malformed".to_owned());
        scene.facts.as_of_seconds = None;
        assert_eq!(scene.tell(9 * HOUR), [(Kind::Trouble, Event::Raised)]);
        scene.facts.as_of_seconds = Some(0);
        assert_eq!(scene.tell(9 * HOUR), [(Kind::Lag, Event::Raised)]);
        scene.facts.as_of_seconds = None;
        assert_eq!(scene.tell(9 * HOUR), [], "the lag is neither over nor new");
    }

    #[test]
    fn a_dataset_that_is_gone_is_missed_until_somebody_lets_it_go() {
        let mut scene = Scene::new();
        assert_eq!(scene.tell(1), []);
        scene.facts.soundness = Soundness::Gone;
        assert_eq!(scene.tell(2), [(Kind::Trouble, Event::Raised)]);
        assert_eq!(scene.tell(2 + 4 * HOUR), [(Kind::Trouble, Event::Repeated)]);
        scene.acknowledge(Kind::Trouble, 3);
        assert_eq!(scene.tell(9 * HOUR), []);
        assert_eq!(scene.tell(10 * HOUR), [], "it is not found missing anew");
        assert!(scene.record.datasets.is_empty());
    }

    #[test]
    fn damage_is_told_until_it_is_over() {
        let mut scene = Scene::new();
        scene.facts.damage = Some("a bit".to_owned());
        assert_eq!(scene.tell(1), [(Kind::Damage, Event::Raised)]);
        scene.facts.damage = None;
        scene.facts.soundness = Soundness::Trouble("malformed".to_owned());
        assert_eq!(scene.tell(2), [(Kind::Trouble, Event::Raised)]);
        scene.facts.soundness = Soundness::Sound;
        let over = [(Kind::Trouble, Event::Over), (Kind::Damage, Event::Over)];
        assert_eq!(scene.tell(3), over);
    }

    #[test]
    fn a_clock_that_was_set_back_silences_nobody() {
        let mut scene = Scene::new();
        scene.facts.soundness = Soundness::Trouble("malformed".to_owned());
        scene.tell(100 * HOUR);
        assert_eq!(
            scene.tell(HOUR).last(),
            Some(&(Kind::Trouble, Event::Repeated))
        );
        assert_eq!(scene.tell(2 * HOUR).len(), 1, "only the lag that is new");
    }
    #[test]
    fn a_disk_that_fills_is_told_once_for_the_store_and_wavering_changes_nothing() {
        const DAY: i64 = 24 * HOUR;
        let mut scene = Scene::new();
        let full = |seconds| {
            Room::Until(Full {
                seconds,
                of: Resource::Bytes,
                free: 500_000,
                reserve: 20_000,
                each_day: Some(70_000),
            })
        };
        scene.rooms[0] = full(8 * DAY);
        assert_eq!(scene.tell(1), []);
        scene.rooms[0] = full(7 * DAY);
        let raised = scene.judge(1).remove(0);
        assert_eq!((raised.dataset.clone(), raised.kind), (None, Kind::Space));
        let text = raised.text();
        assert!(
            text.contains("the store: space:")
                && text.contains("70.0 KB more")
                && text.contains("500 KB are free, of which 20.0 KB are kept"),
            "{text}"
        );
        assert_eq!(scene.tell(1), [(Kind::Space, Event::Raised)]);
        scene.rooms[0] = full(10 * DAY);
        assert_eq!(scene.tell(2), [], "it is neither over nor new");
        scene.rooms[0] = full(11 * DAY);
        assert_eq!(scene.tell(2), [(Kind::Space, Event::Over)]);
        scene.rooms[0] = full(2);
        let raised = scene.judge(2).remove(0);
        assert!(raised.reason.contains("refused"), "{}", raised.reason);
        scene.rooms[0] = Room::Enough;
        assert_eq!(scene.judge(3), []);
    }

    #[test]
    fn a_disk_that_wavers_about_its_reserve_is_told_once() {
        let mut scene = Scene::new();
        let with = |seconds, free| {
            let filling = Filling {
                total: 10_000,
                free,
                reserve: 1000,
                each_day: None,
                full_seconds: seconds,
            };
            Room::of(&filling, Resource::Bytes)
        };
        scene.rooms[0] = with(None, 1050);
        assert_eq!(scene.tell(1), [], "what is scarce raises nothing");
        scene.rooms[0] = with(Some(2), 999);
        assert_eq!(scene.tell(2), [(Kind::Space, Event::Raised)]);
        for (now, free) in [(3, 1000), (4, 1099)] {
            scene.rooms[0] = with(None, free);
            assert_eq!(scene.tell(now), [], "{free} are neither enough nor new");
        }
        scene.rooms[0] = with(Some(1000 * HOUR), 1099);
        assert_eq!(scene.tell(5), [], "however slowly it fills");
        scene.rooms[0] = with(None, 1100);
        assert_eq!(scene.tell(6), [(Kind::Space, Event::Over)]);
    }
    #[test]
    fn a_resource_that_lasts_does_not_end_what_another_one_wavers_about() {
        const DAY: i64 = 24 * HOUR;
        let mut scene = Scene::new();
        let until = |seconds, of| {
            Room::Until(Full {
                seconds,
                of,
                free: 500_000,
                reserve: 20_000,
                each_day: Some(70_000),
            })
        };
        scene.rooms = [until(2, Resource::Bytes), until(11 * DAY, Resource::Inodes)];
        assert_eq!(scene.tell(1), [(Kind::Space, Event::Raised)]);
        for rooms in [
            [Room::Scarce, until(11 * DAY, Resource::Inodes)],
            [until(11 * DAY, Resource::Bytes), Room::Scarce],
            [until(9 * DAY, Resource::Bytes), Room::Enough],
        ] {
            scene.rooms = rooms;
            assert_eq!(scene.tell(2), [], "{rooms:?}");
        }
        // What comes first is told.
        scene.rooms = [until(3 * DAY, Resource::Bytes), until(2, Resource::Inodes)];
        let told = scene.judge(5 * HOUR).pop().expect("a notice");
        assert!(told.reason.contains("inodes"), "{}", told.reason);
        scene.rooms = [until(11 * DAY, Resource::Bytes), Room::Enough];
        assert_eq!(scene.tell(3), [(Kind::Space, Event::Over)]);
    }
}
