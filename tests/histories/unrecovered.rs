//! What can be had of a spare whose process died, before anything has put it right.

use std::os::unix::fs::FileExt;

use crate::acts::{Act, End, Rules};
use crate::edits::make_large;
use crate::facts::facts;
use crate::model::{Model, assert_same, told};
use crate::place::{Place, scratch};
use crate::random::Random;

#[test]
fn every_snapshot_is_there_though_the_live_tree_is_newer_than_the_catalog() {
    for point in [
        "receiver.switched",
        "receiver.switch-synced",
        "receiver.metadata-set",
    ] {
        let scratch = scratch();
        let place = Place::at(scratch.path());
        place.prepare();
        // Odd: nothing is held.
        let rules = Rules::of(1);
        let mut model = Model::default();
        for content in ["first", "second", "third"] {
            std::fs::write(place.source().join("file"), content).unwrap();
            Act::Sync.perform(&place, &rules).unwrap();
            model.commit(&place, facts(&place.source()), 0);
        }
        std::fs::write(place.source().join("file"), "fourth").unwrap();
        let end = End::Point(format!("{point}=return"));
        assert!(Act::Sync.perform_and_die(&place, &rules, &end));
        let fourth = facts(&place.source());
        assert_same(&facts(&place.live()), &fourth, point);
        assert!(told(&place).numbers.iter().eq([1, 2, 3].iter()));
        for number in 1..=3 {
            model.check_restore(&place, number);
        }
        Act::Recover.perform(&place, &rules).unwrap();
        model.commit(&place, fourth, 0);
        model.check_all(&place);
    }
}

#[test]
fn a_store_that_was_being_made_is_made() {
    let scratch = scratch();
    let place = Place::at(scratch.path());
    place.prepare();
    std::fs::create_dir(place.store()).unwrap();
    std::fs::write(place.store().join("understudy.store.new"), "This dir").unwrap();
    Act::Sync.perform(&place, &Rules::of(1)).unwrap();
    std::fs::rename(
        place.store().join("understudy.store"),
        place.root().join("away"),
    )
    .unwrap();
    Act::Sync
        .perform(&place, &Rules::of(1))
        .expect_err("a store whose file is gone is none");
}

#[test]
fn what_has_not_moved_into_history_yet_is_there() {
    for point in [
        "apply.step",
        "apply.step=3*off->",
        "patch.kept",
        "patch.step=5*off->",
        "apply.marked",
    ] {
        let scratch = scratch();
        let place = Place::at(scratch.path());
        place.prepare();
        make_large(&place.source(), &mut Random::new(1));
        let rules = Rules::of(1);
        let mut model = Model::default();
        for number in 1..=4_u8 {
            for name in 0..6 {
                std::fs::write(place.source().join(format!("file {name}")), [number; 3000])
                    .unwrap();
            }
            let large = std::fs::File::options()
                .write(true)
                .open(place.source().join("large"));
            for page in 0..9 {
                large
                    .as_ref()
                    .unwrap()
                    .write_all_at(&[number; 100], page * 100_000)
                    .unwrap();
            }
            if number < 4 {
                Act::Sync.perform(&place, &rules).unwrap();
                model.commit(&place, facts(&place.source()), 0);
            }
        }
        let end = End::Point(
            point
                .split_once('=')
                .map_or(format!("{point}=return"), |_| format!("{point}return")),
        );
        assert!(Act::Sync.perform_and_die(&place, &rules, &end), "{point}");
        for number in 1..=3 {
            model.check_restore(&place, number);
        }
        // Without the main nothing carries on with it.
        Act::Recover.perform(&place, &rules).unwrap();
        model.check_all(&place);
    }
}
