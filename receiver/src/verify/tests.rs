//! A commit in the very midst of a step.

#![expect(clippy::panic, reason = "a test that meets something else ends there")]

use std::cell::RefCell;

use understudy_protocol::message::Change;

use super::reading::{Position, Reading};
use stage::{Stage, dataset, directory, file, place};

#[path = "../../tests/stage/mod.rs"]
#[allow(dead_code, reason = "the stage has more than this test needs")]
mod stage;

fn name(number: u64) -> String {
    format!("f{number:02}")
}

#[test]
fn what_a_commit_changes_under_a_step_is_no_damage() {
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.extend((0..40).map(|number| file(place(2, &name(number)), &name(number))));
    stage.upload(&changes, &[]);
    let store = std::sync::Arc::clone(&stage.store);
    let stage = RefCell::new(stage);
    let mut reads = 0_u64;
    let mut pace = |_| {
        reads += 1;
        // Two commits: what was live is changed in its turn.
        if reads == 5 {
            for round in 0..2 {
                let changed = file(place(2, &name(20 + round)), "changed");
                let removed = Change::Remove {
                    place: place(2, &name(30 + round)),
                };
                let added = file(place(2, &format!("f2{round}-added")), "added");
                stage.borrow_mut().upload(&[changed, removed, added], &[]);
            }
        }
        Ok(())
    };
    let opened = store.dataset(&dataset()).expect("open").expect("there");
    let mut reading = Reading::new(&opened, &mut pace);
    let mut position = Position::Begin;
    while position != Position::End {
        let (next, found) = reading.step(position).expect("step");
        assert!(found.is_empty(), "{found:?}");
        position = next;
    }
    assert!(reads > 40, "{reads}");
}
