//! The naive model: a full copy of every snapshot that is kept, and the questions whether the spare agrees with it.

use std::collections::{BTreeMap, BTreeSet};

use understudy_agent::{Verification, verify};
use understudy_protocol::message::{Finding, Repairing};
use understudy_receiver::Store;
use understudy_receiver::guard;
use understudy_receiver::retention::Mode;

use crate::acts::{Rules, ask, prune, restore_once};
use crate::facts::{Facts, differences, facts};
use crate::place::{Place, name};

/// What the spare should have.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Each snapshot that is kept, whole.
    pub(crate) copies: BTreeMap<u64, Facts>,
    /// The newest one; 0 before the first.
    pub(crate) head: u64,
    /// The cycle that is held: its digest, and the tree that it leads to.
    pub(crate) held: Option<(String, Facts)>,
    pub(crate) pins: BTreeSet<u64>,
}

/// What the spare says that it has.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) numbers: BTreeSet<u64>,
    pub(crate) held: Option<String>,
}

/// Asks the receiver.
pub(crate) fn told(place: &Place) -> Told {
    let nothing = Told {
        numbers: BTreeSet::new(),
        held: None,
    };
    // It may not have been made yet.
    if !place.store().join("understudy.store").exists() {
        return nothing;
    }
    let store = Store::open_existing(&place.store()).unwrap();
    if !store.dataset_names().unwrap().contains(&name()) || !place.control("catalog.db").exists() {
        return nothing;
    }
    let held = guard::held(&store, &name());
    let held = held.unwrap().map(|held| held.digest.to_string());
    let survey = ask(place, |channel| {
        understudy_agent::survey(channel, Some(name()), understudy_agent::FuzzyOf::Newest)
    });
    let survey = survey.unwrap().unwrap();
    let datasets = &survey.listed.datasets;
    let numbers = datasets.iter().flat_map(|dataset| &dataset.snapshots);
    Told {
        numbers: numbers.map(|snapshot| snapshot.position.number).collect(),
        held,
    }
}

/// Every fact of two trees is the same.
pub(crate) fn assert_same(found: &Facts, wanted: &Facts, what: &str) {
    let differences = differences(found, wanted);
    assert!(differences.is_empty(), "{what}: {}", differences.join("\n"));
}

impl Model {
    /// A new snapshot is the newest one.
    pub(crate) fn commit(&mut self, place: &Place, tree: Facts, now: i64) {
        self.head += 1;
        self.copies.insert(self.head, tree);
        let sql = "UPDATE snapshot SET committed_seconds = ?1 WHERE number = ?2";
        let changed = place
            .catalog()
            .execute(sql, (now, self.head.cast_signed()))
            .unwrap();
        assert_eq!(changed, 1);
    }

    /// The spare has what it should have, and the live tree is the newest snapshot.
    pub(crate) fn check(&self, place: &Place) {
        let told = told(place);
        assert!(
            told.numbers.iter().eq(self.copies.keys()),
            "{:?}, wanted {:?}",
            told.numbers,
            self.copies.keys()
        );
        assert_eq!(
            told.held.as_ref(),
            self.held.as_ref().map(|(digest, _)| digest)
        );
        if self.head > 0 {
            assert_same(
                &facts(&place.live()),
                &self.copies[&self.head],
                "the live tree",
            );
        }
    }

    /// A snapshot comes back as it was.
    pub(crate) fn check_restore(&self, place: &Place, number: u64) {
        let target = "restored";
        restore_once(place, Some(number), target)
            .unwrap_or_else(|trouble| panic!("snapshot {number}: {trouble:?}"));
        self.check_restored(place, number, target);
    }

    /// What was restored is the snapshot; it is removed then.
    pub(crate) fn check_restored(&self, place: &Place, number: u64, target: &str) {
        let path = place.root().join(target);
        assert_same(
            &facts(&path),
            &self.copies[&number],
            &format!("snapshot {number}, restored"),
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    /// Every snapshot comes back as it was, and verification finds nothing.
    pub(crate) fn check_all(&self, place: &Place) {
        self.check(place);
        for &number in self.copies.keys() {
            self.check_restore(place, number);
        }
        assert_eq!(findings(place), Vec::<String>::new());
    }

    /// Prunes until nothing is left to go, long after the last snapshot.
    pub(crate) fn check_end(&mut self, place: &Place, rules: &Rules, now: i64) {
        for pass in 1..=2 {
            let store = Store::open(&place.store()).unwrap();
            let pruned = prune(
                &store,
                &rules.policy,
                now + pass * 4_000 * 86_400,
                Mode::Act,
            );
            // The second one is as long after the first, which is no jump of a clock that was on meanwhile.
            let pruned = pruned.unwrap();
            assert_eq!(pruned.obstacle, None);
            for one in &pruned.removed {
                assert!(!self.pins.contains(&one.number) && one.number != self.head);
                self.copies.remove(&one.number).expect("was there");
            }
        }
        self.check_all(place);
        let most = self.pins.len() + 1 + rules.policy.newest.get() as usize;
        assert!(
            self.copies.len() <= most,
            "{:?} are left",
            self.copies.keys()
        );
        let store = Store::open(&place.store()).unwrap();
        let again = prune(&store, &rules.policy, now + 8_001 * 86_400, Mode::Look).unwrap();
        assert_eq!(
            (again.removed.len(), again.freed.objects),
            (0, 0),
            "{again:?}"
        );
    }
}

/// Everything is read at once, and nothing repaired.
const MANNER: Verification = Verification {
    repair: Repairing::Never,
    bytes_per_second: None,
};

/// What verification finds.
pub(crate) fn findings(place: &Place) -> Vec<String> {
    let mut findings = Vec::new();
    let verified = ask(place, |channel| {
        let found =
            |finding: &Finding| findings.push(format!("{}: {}", finding.path, finding.what));
        verify(channel, Some(name()), MANNER, found, |_| {})
    });
    match verified
        .map_err(|trouble| trouble.text)
        .map(|result| result.map_err(|error| error.to_string()))
    {
        Ok(Ok(_)) => {}
        Ok(Err(text)) | Err(text) => findings.push(text),
    }
    findings
}
