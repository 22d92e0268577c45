//! Catalogs that say something else than what was committed, in a way that contradicts nothing else in them.

use std::fs;

use understudy_protocol::FailureCode;
use understudy_receiver::Store;
use understudy_receiver::retention::{Mode, ObstacleKind};

use crate::acts::{Act, Rules, START, prune};
use crate::facts::facts;
use crate::model::{Model, assert_same, findings, told};
use crate::place::{Place, scratch};

/// A spare with three snapshots of a few files, of which the first one has one of its own.
fn spare() -> (tempfile::TempDir, Place, Model) {
    let scratch = scratch();
    let place = Place::at(scratch.path());
    place.prepare();
    let mut model = Model::default();
    for number in 1..=3 {
        for name in 0..5 {
            let content = format!("{name} in {number}").repeat(30);
            fs::write(place.source().join(format!("file {name}")), content).unwrap();
        }
        let only = place.source().join("only once");
        if number == 1 {
            fs::write(only, "once").unwrap();
        } else if number == 2 {
            fs::remove_file(only).unwrap();
        }
        Act::Sync.perform(&place, &Rules::of(1)).unwrap();
        model.commit(&place, facts(&place.source()), START + number);
    }
    (scratch, place, model)
}

fn alter(place: &Place, from: &str, to: &str) {
    let sql = "UPDATE entry SET name = CAST(?2 AS BLOB) WHERE name = CAST(?1 AS BLOB) AND until IS NOT NULL";
    assert!(place.catalog().execute(sql, (from, to)).unwrap() > 0);
}

#[test]
fn a_former_snapshot_that_is_not_what_it_was_is_found_and_neither_restored_nor_pruned() {
    let (_scratch, place, model) = spare();
    alter(&place, "only once", "only Once");
    let restored = Act::Restore {
        number: 1,
        target: "target".into(),
    }
    .perform(&place, &Rules::of(1));
    let trouble = restored.expect_err("it has another name");
    assert_eq!(trouble.code, FailureCode::Damaged);
    assert!(
        trouble.text.contains("snapshot 1") && trouble.text.contains("verify"),
        "{trouble:?}"
    );
    assert!(!place.root().join("target").exists());
    model.check_restore(&place, 2);
    // Before anybody verified.
    assert!(is_stopped(&place));
    let found = findings(&place);
    assert!(
        found.len() == 1 && found[0].contains("snapshot 1"),
        "{found:?}"
    );
    alter(&place, "only Once", "only once");
    model.check_all(&place);
}

/// Whether nothing is pruned of it for what its catalog says.
fn is_stopped(place: &Place) -> bool {
    let mut policy = Rules::of(1).policy;
    policy.newest = std::num::NonZeroU32::MIN;
    let store = Store::open(&place.store()).unwrap();
    let pruned = prune(&store, &policy, START + 4_000 * 86_400, Mode::Act).unwrap();
    let obstacle = pruned.obstacle;
    obstacle.is_some_and(|obstacle| obstacle.kind == ObstacleKind::Catalog)
}

/// A cycle that is held, which removes files.
fn held() -> (tempfile::TempDir, Place, Model) {
    let (scratch, place, mut model) = spare();
    for name in 0..4 {
        fs::remove_file(place.source().join(format!("file {name}"))).unwrap();
    }
    fs::write(place.source().join("new"), "new").unwrap();
    let refused = Act::Sync
        .perform(&place, &Rules::of(2))
        .expect_err("is held");
    assert_eq!(refused.code, FailureCode::Refused);
    model.held = Some((told(&place).held.unwrap(), facts(&place.source())));
    (scratch, place, model)
}

#[test]
fn what_is_held_and_not_what_was_inspected_is_dropped_when_it_is_released() {
    let (_scratch, place, mut model) = held();
    let sql = "UPDATE entry SET name = CAST('New' AS BLOB) WHERE name = CAST('new' AS BLOB)";
    assert_eq!(place.catalog().execute(sql, ()).unwrap(), 1);
    let (digest, _) = model.held.take().unwrap();
    let released = Act::Release { digest }.perform(&place, &Rules::of(1));
    assert_eq!(
        released.expect_err("it is another one").code,
        FailureCode::Damaged
    );
    assert_same(&facts(&place.live()), &model.copies[&3], "the live tree");
    // The main sends it again.
    Act::Sync.perform(&place, &Rules::of(1)).unwrap();
    model.commit(&place, facts(&place.source()), START);
    model.check_all(&place);
}

#[test]
fn a_file_that_holds_another_cycle_holds_this_one_too() {
    let (_scratch, place, model) = held();
    let file = place.control("held");
    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, sound.replace("\"number\": 4", "\"number\": 5")).unwrap();
    for act in [Act::Sync, Act::Recover] {
        let refused = act
            .perform(&place, &Rules::of(1))
            .map_err(|trouble| trouble.text);
        // Whoever starts goes on with the other datasets.
        assert!(refused.is_ok() == (act == Act::Recover), "{refused:?}");
        assert_same(&facts(&place.live()), &model.copies[&3], "the live tree");
    }
    fs::write(&file, sound).unwrap();
    model.check_all(&place);
}

#[test]
fn a_content_that_has_rotted_in_the_retired_twin_is_found() {
    let (_scratch, place, model) = spare();
    // It was superseded by the newest snapshot, and has not moved into history.
    let path = place.control("shadow/files/file 1");
    let content = fs::read(&path).unwrap();
    let modified = path.metadata().unwrap().modified().unwrap();
    let write = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
    };
    let mut rotten = content.clone();
    rotten[7] ^= 4;
    write(&rotten);
    let found = findings(&place);
    assert!(found.len() == 1 && found[0].contains("file 1"), "{found:?}");
    write(&content);
    model.check_all(&place);
}

#[test]
fn an_index_that_lacks_a_row_is_found_and_nothing_is_pruned() {
    let (_scratch, place, _model) = spare();
    let index = "type = 'index' AND name = 'entry_place'";
    // Where a row stands is changed while nobody knows of the index.
    let batch = format!(
        "PRAGMA writable_schema = ON; CREATE TABLE aside AS SELECT * FROM sqlite_schema WHERE {index}; \
         DELETE FROM sqlite_schema WHERE {index};"
    );
    place.catalog().execute_batch(&batch).unwrap();
    let moved = "UPDATE entry SET id = id + 1000000 WHERE name = CAST('only once' AS BLOB)";
    assert_eq!(place.catalog().execute(moved, ()).unwrap(), 1);
    let batch = "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM aside; DROP TABLE aside;";
    place.catalog().execute_batch(batch).unwrap();
    assert!(is_stopped(&place));
    let found = findings(&place);
    assert!(found.iter().any(|what| what.contains("index")), "{found:?}");
}

#[test]
fn an_entry_that_is_found_by_what_it_is_not_is_told() {
    let (_scratch, place, _model) = spare();
    let altered = "UPDATE entry SET hash_key = hash_key + 1 WHERE name = CAST('only once' AS BLOB)";
    assert_eq!(place.catalog().execute(altered, ()).unwrap(), 1);
    assert!(is_stopped(&place));
    let found = findings(&place);
    assert!(found.len() == 1 && found[0].contains("beside"), "{found:?}");
}
