//! Small files that change, and attributes that do: what is sent of them.

use understudy_protocol::message::{Piece, Touch};

use super::*;

/// Text of which no stretch comes twice.
fn text(lines: std::ops::Range<u32>) -> Vec<u8> {
    lines
        .flat_map(|line| format!("{}\n", line.wrapping_mul(2_654_435_761)).into_bytes())
        .collect()
}

fn with_a_small_file() -> (Stage, Vec<u8>) {
    let stage = filled();
    let content = text(0..3000);
    stage.write("d1/small", &content);
    settle();
    stage.sync_and_compare();
    (stage, content)
}

/// Writes the file anew and syncs; returns the bytes that were sent as they are.
fn sent_of(stage: &Stage, content: &[u8]) -> usize {
    stage.write("d1/small", content);
    settle();
    let report = stage.sync_and_compare();
    let changes = stage.changes_beyond_times();
    let [Change::Put { content: sent, .. }] = &changes[..] else {
        unreachable!("{changes:?}")
    };
    let Content::Delta(_, pieces) = sent else {
        unreachable!("{sent:?}")
    };
    let data = pieces.iter().map(|piece| match piece {
        Piece::Copy { .. } => 0,
        Piece::Data(data) => data.len(),
    });
    let data = data.sum();
    assert_eq!(report.deltas, 1);
    assert_eq!(report.bytes_kept, (content.len() - data) as u64);
    data
}

#[test]
fn of_a_small_file_the_differences_are_sent() {
    let (stage, mut content) = with_a_small_file();
    content.splice(10_000..10_000, *b"something in between");
    assert!(sent_of(&stage, &content) < 1000);
    // The new version is what the next one is compared with.
    content.extend(b"at the end");
    assert!(sent_of(&stage, &content) < 1000);
    content.drain(..5000);
    assert!(sent_of(&stage, &content) < 1000);
}

#[test]
fn a_small_file_with_nothing_in_common_is_sent_whole() {
    let (stage, _) = with_a_small_file();
    stage.write("d1/small", text(5000..8000));
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 0);
}

#[test]
fn of_attributes_that_change_nothing_else_is_told() {
    let (stage, content) = with_a_small_file();
    let touched = |stage: &Stage| -> Vec<Touch> {
        settle();
        stage.sync_and_compare();
        let touches = stage.spare().told.clone().into_iter();
        let touches = touches.filter_map(|change| match change {
            Change::Touch { touch, .. } => Some(touch),
            _ => None,
        });
        touches.collect()
    };
    fs::set_permissions(stage.path("d1/small"), PermissionsExt::from_mode(0o600)).expect("mode");
    assert_eq!(touched(&stage), [Touch::Kept]);
    stage.write("new", &content);
    stage.rename("new", "d1/small");
    assert_eq!(touched(&stage), [Touch::Copied]);
}

#[test]
fn an_older_spare_is_told_in_full() {
    let (stage, mut content) = with_a_small_file();
    stage.spare().newest = Some(3);
    fs::set_permissions(stage.path("d1/small"), PermissionsExt::from_mode(0o600)).expect("mode");
    settle();
    stage.sync_and_compare();
    content.extend(b"more");
    stage.write("d1/small", &content);
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 0);
}
