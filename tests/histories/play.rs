//! Random histories: edit, sync, prune, pin, unpin, hold, release, reject, restore, and a death in the middle of any of them.

use std::collections::BTreeSet;

use understudy_protocol::FailureCode;
use understudy_receiver::Store;
use understudy_receiver::guard;
use understudy_receiver::retention::{Mode, pin, unpin};

use crate::acts::{Act, End, Rules, START, can_trace, prune};
use crate::edits::{edit, make_large};
use crate::facts::{Facts, facts};
use crate::model::{Model, findings, told};
use crate::place::{Place, name, once_in, scratch, seeds};
use crate::random::Random;

/// One history, as far as it was played.
struct Play {
    place: Place,
    rules: Rules,
    model: Model,
    random: Random,
    now: i64,
    count: Count,
}

/// What was seen, so that it shows if something is never played.
#[derive(Debug, Default)]
struct Count {
    snapshots: u64,
    pruned: u64,
    held: u64,
    released: u64,
    rejected: u64,
    restored: u64,
    /// Processes that were killed.
    deaths: u64,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.snapshots += other.snapshots;
        self.pruned += other.pruned;
        self.held += other.held;
        self.released += other.released;
        self.rejected += other.rejected;
        self.restored += other.restored;
        self.deaths += other.deaths;
    }
}

impl Play {
    fn new(root: &std::path::Path, seed: u64) -> Self {
        let place = Place::at(root);
        place.prepare();
        let mut play = Self {
            place,
            rules: Rules::of(seed),
            model: Model::default(),
            random: Random::new(seed),
            now: START,
            count: Count::default(),
        };
        if once_in(&mut play.random, 4) {
            make_large(&play.place.source(), &mut play.random);
        }
        play
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..8 => self.sync(),
            8..11 => {
                let hours = *self.random.pick(&[1, 5, 30, 100, 900, 3000]);
                self.now += self.random.below(hours) as i64 * 3600 + 1;
            }
            11..14 => self.prune(),
            14 => self.pin(),
            15 => self.unpin(),
            16..18 if self.model.held.is_some() => self.decide(),
            16..18 => self.sync(),
            _ => self.restore(),
        }
    }

    /// Does something, or dies in the middle of it and comes up again; whether it died.
    fn act(&mut self, act: &Act) -> Result<bool, crate::acts::Trouble> {
        // A restore can only be killed at a system call.
        let can_die = !matches!(act, Act::Restore { .. }) || can_trace();
        if !once_in(&mut self.random, 3) || !can_die {
            return act.perform(&self.place, &self.rules).map(|()| false);
        }
        let end = End::random(act, &mut self.random);
        if !act.perform_and_die(&self.place, &self.rules, &end) {
            return Ok(true);
        }
        self.count.deaths += 1;
        println!("  died at {end:?} of {act:?}");
        if once_in(&mut self.random, 4) {
            self.restart_machine();
        }
        let has_dataset = self.place.control("catalog.db").exists();
        if has_dataset && once_in(&mut self.random, 2) {
            // The past is there before anything is put right.
            let numbers: Vec<u64> = self
                .model
                .copies
                .keys()
                .copied()
                .filter(|&number| number != self.model.head)
                .collect();
            let is_pruned = matches!(act, Act::Prune { .. });
            if !is_pruned && !numbers.is_empty() {
                self.model
                    .check_restore(&self.place, *self.random.pick(&numbers));
            }
        }
        while once_in(&mut self.random, 3) {
            let end = End::random(&Act::Recover, &mut self.random);
            self.count.deaths +=
                u64::from(Act::Recover.perform_and_die(&self.place, &self.rules, &end));
        }
        Act::Recover
            .perform(&self.place, &self.rules)
            .expect("recovery");
        if has_dataset && self.model.head > 0 && once_in(&mut self.random, 3) {
            assert_eq!(findings(&self.place), Vec::<String>::new());
        }
        Ok(true)
    }

    /// What a restart changes: the boot in which something began is another one.
    fn restart_machine(&self) {
        let applying = self.place.control("applying");
        if let Ok(text) = std::fs::read_to_string(&applying) {
            let boot = text
                .lines()
                .find(|line| line.starts_with("boot: "))
                .expect("boot");
            std::fs::write(&applying, text.replace(boot, "boot: another")).unwrap();
        }
    }

    fn sync(&mut self) {
        for _ in 0..self.random.below(7) {
            edit(&self.place.source(), &mut self.random);
        }
        let tree = facts(&self.place.source());
        let done = self.act(&Act::Sync);
        println!("  sync: {done:?}");
        if let Err(trouble) = &done {
            assert_eq!(trouble.code, FailureCode::Refused, "{}", trouble.text);
        }
        self.settle(&tree, done.is_ok_and(|died| !died));
    }

    /// Finds out what became of a cycle that led to `tree`, and whether that may be. One that was `accepted` neither died nor was
    /// refused.
    fn settle(&mut self, tree: &Facts, accepted: bool) {
        let found = told(&self.place);
        let before = self.model.held.take();
        if let Some(digest) = found.held {
            assert!(self.model.head > 0 && !accepted);
            self.model.held = match before {
                Some((former, what)) if former == digest => Some((former, what)),
                _ => {
                    self.count.held += 1;
                    Some((digest, tree.clone()))
                }
            };
        } else if found.numbers.contains(&(self.model.head + 1)) {
            self.count.snapshots += 1;
            assert!(
                before.is_none_or(|(_, what)| what != *tree),
                "nothing slips past what is held"
            );
            self.model.commit(&self.place, tree.clone(), self.now);
        } else if accepted {
            assert_eq!(
                tree, &self.model.copies[&self.model.head],
                "nothing was sent"
            );
        }
        self.model.check(&self.place);
    }

    fn prune(&mut self) {
        if self.model.head == 0 {
            return;
        }
        let store = Store::open(&self.place.store()).unwrap();
        if once_in(&mut self.random, 2) {
            // What is flagged now goes in what follows.
            let flagged = prune(&store, &self.rules.policy, self.now, Mode::Act).unwrap();
            assert_eq!(flagged.obstacle, None);
            for one in flagged.removed {
                assert!(!self.model.pins.contains(&one.number) && one.number != self.model.head);
                self.model.copies.remove(&one.number).expect("was there");
                self.count.pruned += 1;
            }
            self.now += self.rules.policy.grace.as_secs() as i64 + 1;
        }
        let foretold = prune(&store, &self.rules.policy, self.now, Mode::Look).unwrap();
        assert_eq!(foretold.obstacle, None);
        drop(store);
        let died = self.act(&Act::Prune { now: self.now }).unwrap();
        let may_go: BTreeSet<u64> = foretold.removed.iter().map(|one| one.number).collect();
        println!("  prune of {may_go:?}, died: {died}");
        assert!(!may_go.contains(&self.model.head) && may_go.is_disjoint(&self.model.pins));
        let left = told(&self.place).numbers;
        let before = self.model.copies.len();
        self.model
            .copies
            .retain(|number, _| left.contains(number) || !may_go.contains(number));
        self.count.pruned += (before - self.model.copies.len()) as u64;
        if !died {
            assert!(left.is_disjoint(&may_go));
        }
        self.model.check(&self.place);
        if once_in(&mut self.random, 3) {
            self.model.check_all(&self.place);
        }
    }

    fn pin(&mut self) {
        let numbers: Vec<u64> = self.model.copies.keys().copied().collect();
        if !numbers.is_empty() {
            let number = *self.random.pick(&numbers);
            pin(
                &Store::open(&self.place.store()).unwrap(),
                &name(),
                number,
                "why",
            )
            .unwrap();
            self.model.pins.insert(number);
        }
    }

    fn unpin(&mut self) {
        let numbers: Vec<u64> = self.model.pins.iter().copied().collect();
        if !numbers.is_empty() {
            let number = *self.random.pick(&numbers);
            unpin(&Store::open(&self.place.store()).unwrap(), &name(), number).unwrap();
            self.model.pins.remove(&number);
        }
    }

    /// Releases or rejects what is held.
    fn decide(&mut self) {
        let Some((digest, tree)) = self.model.held.take() else {
            return;
        };
        let store = Store::open(&self.place.store()).unwrap();
        guard::release(&store, &name(), &"0".repeat(64), self.rules.reserve)
            .expect_err("it is another one");
        drop(store);
        let is_release = self.random.below(2) == 0;
        let act = if is_release {
            Act::Release {
                digest: digest.clone(),
            }
        } else {
            Act::Reject {
                digest: digest.clone(),
            }
        };
        let died = self.act(&act).unwrap();
        println!("  {act:?}, died: {died}");
        let found = told(&self.place);
        if let Some(still) = found.held {
            assert!(died && still == digest);
            self.model.held = Some((digest, tree));
        } else if found.numbers.contains(&(self.model.head + 1)) {
            assert!(is_release);
            self.count.released += 1;
            self.model.commit(&self.place, tree, self.now);
        } else {
            self.count.rejected += 1;
            // A release that the machine went down in drops what was held: the main sends it again.
            assert!(!is_release || died);
        }
        self.model.check(&self.place);
    }

    fn restore(&mut self) {
        let numbers: Vec<u64> = self.model.copies.keys().copied().collect();
        if numbers.is_empty() {
            return;
        }
        let number = *self.random.pick(&numbers);
        let act = Act::Restore {
            number,
            target: "target".into(),
        };
        self.act(&act).unwrap();
        let target = self.place.root().join("target");
        if !target.exists() {
            act.perform(&self.place, &self.rules).unwrap();
        }
        self.count.restored += 1;
        self.model.check_restored(&self.place, number, "target");
    }
}

/// Plays a history.
fn play(seed: u64) -> Count {
    println!("history {seed}");
    let scratch = scratch();
    let mut play = Play::new(scratch.path(), seed);
    for _ in 0..play.random.below(25) + 8 {
        play.step();
    }
    // What is held at the end stays held.
    play.sync();
    if play.model.head > 0 {
        play.model.check_all(&play.place);
        play.model.check_end(&play.place, &play.rules, play.now);
    }
    play.count
}

#[test]
fn every_kept_snapshot_stays_whole_whatever_is_done_and_wherever_it_dies() {
    let seeds = seeds(0..12);
    let histories = seeds.end - seeds.start;
    let mut count = Count::default();
    for seed in seeds {
        count.add(&play(seed));
    }
    println!("{histories} histories: {count:?}");
    assert!(
        histories < 10 || (count.deaths > 0 && count.held > 0 && count.pruned > 0),
        "{count:?}"
    );
}
