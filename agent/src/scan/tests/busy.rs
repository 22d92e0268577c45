//! Files that never stand still: what is sent, and what the spare is told of it.

use std::collections::BTreeSet;

use understudy_protocol::{DirectoryId, Place, RelPath};

use super::*;
use crate::SyncReport;

const BUSY_BYTES: usize = 64 << 20;

/// Does something while `d1/f1` is rewritten all the time.
fn while_busy<T>(stage: &Stage, meanwhile: impl FnOnce() -> T) -> T {
    // Large enough that the clock that stamps files goes on while it is read.
    fs::write(stage.path("d1/f1"), vec![1; BUSY_BYTES]).expect("write");
    let path = stage.path("d1/f1");
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
    let writer = std::thread::spawn(move || {
        let file = File::options().write(true).open(&path).expect("open");
        let mut number = 0_u8;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            number = number.wrapping_add(1);
            file.write_all_at(&[number], 0).expect("write");
        }
    });
    let result = meanwhile();
    drop(stop);
    writer.join().expect("writer");
    settle();
    result
}

/// Syncs while `d1/f1` is rewritten all the time.
fn sync_a_busy_file(stage: &Stage) -> SyncReport {
    while_busy(stage, || stage.sync())
}

/// Paths of what the spare believes to be fuzzy.
fn fuzzy(stage: &Stage) -> Vec<String> {
    let spare = stage.spare();
    let mut paths = BTreeSet::new();
    let mut pending = vec![(DirectoryId::FILES, RelPath::root())];
    while let Some((id, path)) = pending.pop() {
        for (place, (entry, _)) in &spare.entries {
            if place.parent == id {
                let path = path.join(&place.name);
                if spare.fuzzy.contains(place) {
                    paths.insert(path.to_string());
                }
                pending.extend(entry.directory_id().map(|id| (id, path)));
            }
        }
    }
    assert_eq!(paths.len(), spare.fuzzy.len(), "all stand somewhere");
    paths.into_iter().collect()
}

/// Writes into the source what the spare has of `d1/f1`, times included.
fn write_what_was_sent(stage: &Stage) {
    let spare = stage.spare();
    let (entry, file) = &spare.tree()[&b"d1/f1"[..]];
    fs::write(stage.path("d1/f1"), &spare.contents[file]).expect("write");
    let modified = entry.attributes.modified;
    let modified = SystemTime::UNIX_EPOCH
        + Duration::new(modified.seconds.cast_unsigned(), modified.nanoseconds);
    let file = File::options().write(true).open(stage.path("d1/f1"));
    file.expect("open").set_modified(modified).expect("time");
    settle();
}

#[test]
fn a_file_that_never_stands_still_is_sent_and_marked() {
    let stage = filled();
    let report = sync_a_busy_file(&stage);
    assert!(report.unsettled.is_empty());
    let [problem] = &report.fuzzy[..] else {
        unreachable!("one: {report:?}")
    };
    assert_eq!(problem.path.to_string(), "d1/f1");
    let sent = stage.spare().tree()[&b"d1/f1"[..]].0.size_bytes();
    assert_eq!(sent, BUSY_BYTES as u64, "nothing busy stays stale");
    assert_eq!(fuzzy(&stage), ["d1/f1"]);
    assert!(report.troubled_since_seconds.is_some());
    fs::write(stage.path("d1/f1"), "at rest").expect("write");
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(
        (report.fuzzy.len(), report.troubled_since_seconds),
        (0, None)
    );
    assert!(fuzzy(&stage).is_empty());
}

#[test]
fn what_never_stands_still_is_a_delta_too() {
    let stage = filled();
    stage.write("d1/f1", vec![1; BUSY_BYTES]);
    settle();
    stage.sync();
    let report = sync_a_busy_file(&stage);
    assert_eq!((report.fuzzy.len(), report.deltas), (1, 1));
    assert!(report.bytes_sent < 100_000, "{report:?}");
}

#[test]
fn a_file_found_whole_as_it_was_sent_is_told_to_be_whole() {
    let stage = filled();
    sync_a_busy_file(&stage);
    write_what_was_sent(&stage);
    let report = stage.sync_and_compare();
    assert!(report.committed, "the mark alone is news");
    assert_eq!(report.changed, 0);
    assert!(fuzzy(&stage).is_empty());
    let report = stage.sync_and_compare();
    assert!(!report.committed, "and only once");
}

#[test]
fn what_was_not_read_again_stays_fuzzy_even_if_the_index_is_lost() {
    let mut stage = filled();
    sync_a_busy_file(&stage);
    stage.source.unsettled = crate::Unsettled::Keep;
    for is_lost in [false, true] {
        if is_lost {
            fs::remove_dir_all(stage.beside("state")).expect("remove");
        }
        stage.write("d2/f2", format!("makes a snapshot, {is_lost}"));
        let report = sync_a_busy_file(&stage);
        assert!(report.committed);
        assert_eq!((report.unsettled.len(), report.fuzzy.len()), (1, 0));
        assert_eq!(fuzzy(&stage), ["d1/f1"]);
    }
    stage.sync_and_compare();
    assert!(fuzzy(&stage).is_empty());
}

#[test]
fn an_adopted_fuzzy_file_is_read_again_whatever_the_index_has_seen() {
    let stage = filled();
    let place = {
        let mut spare = stage.spare();
        let found = |place: &&Place| place.name.as_bytes() == b"f1";
        let place = spare.entries.keys().find(found).expect("f1").clone();
        // As after a crash of the agent between the spare's commit and its own.
        let position = spare.position.as_mut().expect("position");
        position.number += 1;
        spare.fuzzy.insert(place.clone());
        place
    };
    let report = stage.sync_and_compare();
    assert_eq!((report.files_read, report.committed), (1, true));
    assert!(!stage.spare().fuzzy.contains(&place));
}

#[test]
fn all_names_of_a_file_are_fuzzy_wherever_they_are_moved() {
    let stage = filled();
    fs::hard_link(stage.path("d1/f1"), stage.path("d2/second")).expect("link");
    while_busy(&stage, || {
        stage.sync();
        assert_eq!(fuzzy(&stage), ["d1/f1", "d2/second"]);
        stage.rename("d1/f1", "d3/moved");
        stage.rename("d2", "renamed");
        settle();
        stage.sync();
        assert_eq!(fuzzy(&stage), ["d3/moved", "renamed/second"]);
        fs::remove_file(stage.path("d3/moved")).expect("remove");
        settle();
        stage.sync();
        assert_eq!(fuzzy(&stage), ["renamed/second"]);
    });
    // Gone, with all that it was in.
    fs::remove_dir_all(stage.path("renamed")).expect("remove");
    settle();
    stage.sync_and_compare();
    assert!(fuzzy(&stage).is_empty());
}

#[test]
fn a_spare_of_an_older_version_is_told_nothing_of_it() {
    let stage = filled();
    stage.spare().newest = Some(1);
    let report = sync_a_busy_file(&stage);
    assert_eq!(report.fuzzy.len(), 1);
    assert!(fuzzy(&stage).is_empty());
    write_what_was_sent(&stage);
    assert!(!stage.sync_and_compare().committed);
}

#[test]
fn a_file_that_never_stands_still_may_keep_what_the_spare_has() {
    let mut stage = filled();
    stage.source.unsettled = crate::Unsettled::Keep;
    let report = sync_a_busy_file(&stage);
    let [problem] = &report.unsettled[..] else {
        unreachable!("one: {report:?}")
    };
    assert_eq!(problem.path.to_string(), "d1/f1");
    let sent = stage.spare().tree()[&b"d1/f1"[..]].0.size_bytes();
    assert_eq!(sent, 9, "the spare's own version");
    assert!(fuzzy(&stage).is_empty());
    stage.sync_and_compare();
}
