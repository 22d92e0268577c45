//! Contents that come back: the spare has them in its history.

use super::delta::noise;
use super::*;
use crate::{Again, sync_again};

const LARGE: usize = 3 << 20;

/// Two releases of some files: short, small, large and changed a little, large and longer.
fn release(number: u64) -> Vec<(&'static str, Vec<u8>)> {
    let mut changed = noise(1, LARGE);
    changed[LARGE / 2] = number as u8;
    vec![
        ("d1/short", noise(number * 10 + 1, 100)),
        ("d1/small", noise(number * 10 + 2, 20_000)),
        ("changed", changed),
        ("longer", noise(number * 10 + 3, LARGE + number as usize)),
    ]
}

fn deploy(stage: &Stage, number: u64) -> crate::SyncReport {
    for (name, content) in release(number) {
        stage.write(name, content);
    }
    settle();
    stage.sync_and_compare()
}

/// With the first release superseded by the second.
fn deployed_twice() -> Stage {
    let stage = filled();
    deploy(&stage, 1);
    let report = deploy(&stage, 2);
    assert_eq!((report.recalled, report.deltas), (0, 2));
    stage
}

#[test]
fn what_comes_back_is_named_and_not_sent() {
    let stage = deployed_twice();
    for number in [1, 2, 1] {
        let report = deploy(&stage, number);
        // Before any delta, and not what is shorter than it is worth.
        let expected = ["history", "history", "history", "inline"];
        assert_eq!(contents(&stage.changes_beyond_times()), expected);
        assert_eq!((report.recalled, report.deltas), (3, 0));
        let bytes = 20_000 + LARGE + LARGE + number as usize;
        assert_eq!(report.bytes_recalled, bytes as u64);
        assert!(report.bytes_sent < 2000, "{report:?}");
    }
    // What the next version is compared with is that of the content that came back.
    let mut content = release(1)[2].1.clone();
    content[0] ^= 1;
    stage.write("changed", content);
    settle();
    assert_eq!(stage.sync_and_compare().deltas, 1);
}

#[test]
fn what_was_deleted_by_mistake_is_put_back_without_being_sent() {
    let stage = deployed_twice();
    fs::remove_dir_all(stage.path("d1")).expect("remove");
    fs::remove_file(stage.path("longer")).expect("remove");
    settle();
    stage.sync_and_compare();
    let report = deploy(&stage, 2);
    assert_eq!(report.recalled, 2);
    assert!(report.bytes_sent < 2000, "{report:?}");
}

#[test]
fn what_the_base_has_is_copied_and_what_moves_is_kept() {
    let stage = deployed_twice();
    stage.rename("d1/small", "d2/small");
    settle();
    stage.sync_and_compare();
    stage.write("again", &release(2)[1].1);
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.recalled, 0);
    assert_eq!(contents(&stage.changes_beyond_times()), ["copy"]);
}

#[test]
fn a_spare_that_does_not_have_it_gets_everything_in_the_second_try() {
    let stage = deployed_twice();
    stage.spare().is_forgetful = true;
    for (name, content) in release(1) {
        stage.write(name, content);
    }
    settle();
    let error = stage.try_sync().expect_err("it has forgotten");
    let again = crate::again(&error).expect("worth another try");
    assert_eq!(again, Again::WithoutHistory, "{error}");
    let synced =
        stage.with_channel(|channel| sync_again(channel, &stage.source, &stage.context(), again));
    let report = synced.expect("sync");
    assert_eq!((report.history_refused, report.recalled), (1, 0));
    stage.compare();
    // What left since is known again.
    stage.spare().is_forgetful = false;
    assert_eq!(deploy(&stage, 2).recalled, 3);
}

#[test]
fn neither_a_former_version_of_the_protocol_nor_a_lost_index_refers_to_history() {
    let stage = deployed_twice();
    stage.spare().newest = Some(understudy_protocol::version::HISTORY - 1);
    assert_eq!(deploy(&stage, 1).recalled, 0);
    stage.spare().newest = None;
    fs::remove_dir_all(stage.context().state).expect("remove");
    assert_eq!(deploy(&stage, 2).recalled, 0);
}

#[test]
fn a_spare_that_lost_everything_is_sent_everything() {
    let stage = deployed_twice();
    *stage.spare() = Default::default();
    for number in [2, 1] {
        assert_eq!(deploy(&stage, number).recalled, 0);
    }
}
