//! Disks that fill up, with a little less room each time, so that it ends at every step: the live tree stays whole, what is there can
//! be restored, pruning makes room, and everything goes on once there is some.

use std::os::unix::fs::FileExt;

use understudy_protocol::FailureCode;
use understudy_receiver::retention::{Mode, Moment, Policies, compress_all};
use understudy_receiver::{Reserve, Store};

use crate::acts::{Act, Rules, START, Trouble, prune, restore_once};
use crate::disk::Disk;
use crate::edits::make_large;
use crate::facts::{differences, facts};
use crate::model::{Model, assert_same, findings, told};
use crate::place::{Place, scratch};
use crate::random::Random;

/// How much room there is less each time.
fn step() -> u64 {
    let is_full = std::env::var_os("UNDERSTUDY_TEST_FULL").is_some_and(|value| value == "1");
    if is_full { 4096 } else { 64 << 10 }
}

/// Nothing is kept free, nothing is held, and everything but the newest snapshot expires.
fn rules() -> Rules {
    let mut rules = Rules::of(1);
    rules.reserve = Reserve {
        percent: 0,
        enough_bytes: 0,
    };
    rules.policy.newest = std::num::NonZeroU32::MIN;
    rules.policy.all = std::time::Duration::ZERO;
    rules.policy.hourly = std::time::Duration::ZERO;
    rules.policy.daily = std::time::Duration::ZERO;
    rules.policy.monthly = std::time::Duration::ZERO;
    rules.policy.minimum_age = std::time::Duration::from_secs(1);
    rules.policy.grace = std::time::Duration::from_secs(1);
    rules
}

/// A source beside a small disk that has the store.
struct Cramped {
    place: Place,
    model: Model,
    disk: Disk,
    now: i64,
    _scratch: tempfile::TempDir,
}

impl Cramped {
    fn new() -> Option<Self> {
        let disk = Disk::new(40)?;
        let scratch = scratch();
        let place = Place::at(scratch.path());
        place.prepare();
        std::fs::create_dir(disk.root.join("store")).unwrap();
        std::os::unix::fs::symlink(disk.root.join("store"), place.store()).unwrap();
        make_large(&place.source(), &mut Random::new(5));
        let mut cramped = Self {
            place,
            model: Model::default(),
            disk,
            now: START,
            _scratch: scratch,
        };
        for _ in 0..3 {
            cramped.edit();
            Act::Sync.perform(&cramped.place, &rules()).unwrap();
            cramped.commit();
        }
        cramped.prune().unwrap();
        Some(cramped)
    }

    /// Small files come, change and go, and a page of a large one changes.
    fn edit(&mut self) {
        let number = self.now as u64;
        let source = self.place.source();
        let mut random = Random::new(number);
        for name in 0..12 {
            std::fs::write(source.join(format!("file {name}")), random.noise(9_000)).unwrap();
        }
        let _ = std::fs::remove_dir_all(source.join(format!("directory {}", number - 86_400)));
        let directory = source.join(format!("directory {number}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("new"), random.noise(30_000)).unwrap();
        let large = std::fs::File::options()
            .write(true)
            .open(source.join("large"))
            .unwrap();
        for _ in 0..10 {
            let at = random.below(4 << 20);
            large.write_all_at(&random.noise(100), at).unwrap();
        }
    }

    fn commit(&mut self) {
        self.model
            .commit(&self.place, facts(&self.place.source()), self.now);
        self.now += 86_400;
    }

    /// Flags what has expired, and removes it; returns how many snapshots went.
    fn prune(&mut self) -> Result<usize, Trouble> {
        let store = Store::open_existing(&self.place.store())?;
        prune(&store, &rules().policy, self.now, Mode::Act)?;
        let pruned = prune(&store, &rules().policy, self.now + 2, Mode::Act)?;
        assert_eq!(pruned.obstacle, None);
        let left = told(&self.place).numbers;
        let before = self.model.copies.len();
        self.model.copies.retain(|number, _| left.contains(number));
        Ok(before - self.model.copies.len())
    }

    fn is_live(&self) {
        assert_same(
            &facts(&self.place.live()),
            &self.model.copies[&self.model.head],
            "the live tree",
        );
    }
}

fn is_no_space(trouble: &Trouble, when: &str) {
    assert_eq!(trouble.code, FailureCode::NoSpace, "{when}: {trouble:?}");
    assert!(trouble.text.contains("space"), "{when}: {trouble:?}");
}

#[test]
fn a_sync_that_fills_the_disk_at_any_step_leaves_the_spare_as_it_was() {
    let Some(mut cramped) = Cramped::new() else {
        return;
    };
    let (mut room, mut passed, mut failed) = (0, 0, 0);
    while passed < 3 {
        cramped.edit();
        cramped.disk.fill(room);
        let when = format!("with {room} bytes left");
        let tree = facts(&cramped.place.source());
        let synced = Act::Sync.perform(&cramped.place, &rules());
        let is_new = differences(&facts(&cramped.place.live()), &tree).is_empty();
        if let Err(trouble) = &synced {
            is_no_space(trouble, &when);
            failed += 1;
            assert_eq!(
                told(&cramped.place).numbers.last(),
                Some(&cramped.model.head),
                "{when}"
            );
            if !is_new {
                cramped.is_live();
            }
        } else {
            assert!(is_new, "{when}");
            passed += 1;
            cramped.commit();
        }
        // What is there can be had although the disk is full.
        for number in cramped.model.copies.keys() {
            restore_once(&cramped.place, Some(*number), "target")
                .unwrap_or_else(|trouble| panic!("{when}: {trouble:?}"));
            cramped
                .model
                .check_restored(&cramped.place, *number, "target");
        }
        let free = cramped.disk.free_bytes();
        let expired = cramped.model.copies.len() > 1;
        let pruned = cramped
            .prune()
            .unwrap_or_else(|trouble| panic!("{when}: pruning: {trouble:?}"));
        assert!(pruned > 0 || !expired, "{when}: nothing was pruned");
        println!(
            "{when}: {:?}; pruned {pruned}, {free} free before, {} after",
            synced.is_ok(),
            cramped.disk.free_bytes()
        );
        cramped.disk.empty();
        Act::Recover.perform(&cramped.place, &rules()).unwrap();
        // It was live, and only to be recorded.
        if synced.is_err() && is_new {
            cramped.commit();
        }
        // As every hour; it keeps room for the next time that the disk is full.
        cramped.prune().unwrap();
        if !is_new {
            Act::Sync
                .perform(&cramped.place, &rules())
                .unwrap_or_else(|trouble| panic!("{when}: {trouble:?}"));
            cramped.commit();
        }
        cramped.model.check_all(&cramped.place);
        room += step();
    }
    assert!(failed > 1);
}

#[test]
fn pruning_frees_a_disk_however_full_it_is() {
    let Some(mut cramped) = Cramped::new() else {
        return;
    };
    for round in 0..(8 * (64 << 10) / step()).min(60) {
        for _ in 0..3 {
            cramped.edit();
            Act::Sync.perform(&cramped.place, &rules()).unwrap();
            cramped.commit();
        }
        cramped.disk.fill(round * step());
        let free = cramped.disk.free_bytes();
        let pruned = cramped
            .prune()
            .unwrap_or_else(|trouble| panic!("with {free} bytes left: {trouble:?}"));
        assert!(pruned >= 2, "{pruned} with {free} bytes left");
        assert!(
            cramped.disk.free_bytes() > free + 100_000,
            "{} of {free}",
            cramped.disk.free_bytes()
        );
        cramped.is_live();
        cramped.disk.empty();
        // As every hour; it keeps room for the next time that the disk is full.
        cramped.prune().unwrap();
        assert_eq!(findings(&cramped.place), Vec::<String>::new());
    }
    cramped.model.check_all(&cramped.place);
}

#[test]
fn who_only_looks_leaves_the_room_that_pruning_needs() {
    let Some(mut cramped) = Cramped::new() else {
        return;
    };
    for _ in 0..3 {
        cramped.edit();
        Act::Sync.perform(&cramped.place, &rules()).unwrap();
        cramped.commit();
    }
    cramped.disk.fill(0);
    let ballast = cramped.place.control("ballast");
    assert_eq!(
        told(&cramped.place).numbers.last(),
        Some(&cramped.model.head)
    );
    let store = Store::open_existing(&cramped.place.store()).unwrap();
    prune(&store, &rules().policy, cramped.now, Mode::Look).unwrap();
    restore_once(&cramped.place, None, "target").unwrap();
    assert!(ballast.exists());
    assert!(cramped.prune().unwrap() >= 2);
}

#[test]
fn a_restore_that_fills_the_disk_says_so_and_carries_on() {
    let Some(disk) = Disk::new(24) else {
        return;
    };
    let scratch = scratch();
    let place = Place::at(scratch.path());
    place.prepare();
    std::os::unix::fs::symlink(&disk.root, scratch.path().join("small")).unwrap();
    let mut random = Random::new(3);
    make_large(&place.source(), &mut random);
    for number in 0..300 {
        std::fs::create_dir_all(place.source().join(format!("d{}", number % 20))).unwrap();
        let path = place.source().join(format!("d{}/f{number}", number % 20));
        std::fs::write(path, random.noise(9_000)).unwrap();
    }
    let mut model = Model::default();
    Act::Sync.perform(&place, &rules()).unwrap();
    model.commit(&place, facts(&place.source()), START);
    let (mut room, mut failed) = (0, 0);
    loop {
        disk.fill(room);
        let restored = restore_once(&place, None, "small/target");
        let target = disk.root.join("target");
        disk.empty();
        let Err(trouble) = restored else {
            model.check_restored(&place, 1, "small/target");
            break;
        };
        failed += 1;
        let lower = trouble.text.to_lowercase();
        assert!(
            lower.contains("space"),
            "with {room} bytes left: {trouble:?}"
        );
        assert!(!target.exists(), "it appears whole or not at all");
        restore_once(&place, None, "small/target")
            .unwrap_or_else(|trouble| panic!("with {room} bytes left: {trouble:?}"));
        model.check_restored(&place, 1, "small/target");
        room += step() * 8;
    }
    assert!(failed > 3, "{failed}");
}

/// Compresses everything in history.
fn compress(place: &Place) -> u64 {
    let policies = Policies {
        common: rules().policy,
        ..Policies::default()
    };
    let mut moment = Moment::now();
    moment.seconds += 8 * 86_400;
    let store = Store::open_existing(&place.store()).unwrap();
    let mut objects = 0;
    let rules = (&policies, Reserve::default());
    compress_all(&store, rules, &moment, |_, done| {
        objects += done.unwrap().objects;
    })
    .unwrap();
    objects
}

#[test]
fn what_is_compressed_is_given_and_verified_on_a_disk_that_is_too_full_for_it() {
    let Some(disk) = Disk::new(40) else {
        return;
    };
    let scratch = scratch();
    let place = Place::at(scratch.path());
    place.prepare();
    std::fs::create_dir(disk.root.join("store")).unwrap();
    std::os::unix::fs::symlink(disk.root.join("store"), place.store()).unwrap();
    let mut model = Model::default();
    let lines: String = (0..400_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let small = &lines[..20_000];
    for (large, small) in [(lines.as_str(), small), ("", ""), ("x", "y")] {
        std::fs::write(place.source().join("large"), large).unwrap();
        std::fs::write(place.source().join("small"), small).unwrap();
        Act::Sync.perform(&place, &rules()).unwrap();
        model.commit(&place, facts(&place.source()), START);
    }
    assert_eq!(compress(&place), 2);
    // Less than either has.
    disk.fill(8192);
    model.check_all(&place);
}
