//! Large files that change: what is sent of them.

use super::*;
use crate::SyncReport;

const SIZE: usize = 3 << 20;

/// Bytes that nothing compresses, and of which no stretch comes twice.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// With a large file that the spare has.
fn with_a_large_file() -> (Stage, Vec<u8>) {
    let stage = filled();
    let content = noise(1, SIZE);
    stage.write("d1/large", &content);
    settle();
    stage.sync_and_compare();
    (stage, content)
}

/// Writes the file anew and syncs; as one delta that takes at most `most` bytes.
fn sync_as_delta(stage: &Stage, content: &[u8], most: u64) -> SyncReport {
    stage.write("d1/large", content);
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 1, "{report:?}");
    assert!(report.bytes_sent <= most, "{report:?}");
    report
}

#[test]
fn pages_that_change_are_sent_and_nothing_else() {
    let (stage, mut content) = with_a_large_file();
    for at in [0, 4096 * 17 + 5, 4096 * 18, SIZE - 1] {
        content[at] ^= 1;
    }
    let report = sync_as_delta(&stage, &content, 5 * 4096);
    // Blocks of half a page are looked for in what differs.
    assert_eq!(report.bytes_kept, (SIZE - 4 * 2048) as u64);
    // The new version is what the next one is compared with.
    for _ in 0..2 {
        content[9] = content[9].wrapping_add(1);
        sync_as_delta(&stage, &content, 2 * 4096);
    }
}

#[test]
fn what_moves_within_a_file_is_found_again() {
    let (stage, content) = with_a_large_file();
    let inserted = [&noise(2, 1000), &content[..]].concat();
    sync_as_delta(&stage, &inserted, 40_000);
    let halves = [&inserted[SIZE / 2..], &inserted[..SIZE / 2]].concat();
    sync_as_delta(&stage, &halves, 60_000);
    let without = [&halves[..SIZE / 3], &halves[SIZE / 3 + 500..]].concat();
    sync_as_delta(&stage, &without, 40_000);
}

#[test]
fn growing_and_shrinking_cost_the_end() {
    let (stage, mut content) = with_a_large_file();
    content.extend(noise(3, 10_000));
    sync_as_delta(&stage, &content, 16_000);
    content.truncate(SIZE / 2 + 7);
    sync_as_delta(&stage, &content, 6_000);
    content.truncate(SIZE / 4);
    let report = sync_as_delta(&stage, &content, 1_000);
    assert_eq!(report.bytes_kept, (SIZE / 4) as u64);
}

#[test]
fn a_file_that_is_written_over_by_another_inode_is_a_delta() {
    let (stage, mut content) = with_a_large_file();
    content[70_000] ^= 1;
    stage.write("new", &content);
    stage.rename("new", "d1/large");
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 1);
    assert!(report.bytes_sent < 10_000, "{report:?}");
}

#[test]
fn a_file_with_several_names_is_one_delta() {
    let (stage, mut content) = with_a_large_file();
    fs::hard_link(stage.path("d1/large"), stage.path("d2/second")).expect("link");
    settle();
    stage.sync_and_compare();
    content[80_000] ^= 1;
    let report = sync_as_delta(&stage, &content, 10_000);
    assert_eq!(report.changed, 2);
    content[90_000] ^= 1;
    sync_as_delta(&stage, &content, 10_000);
    // Moved, and changed only then.
    stage.rename("d1/large", "d3/moved");
    settle();
    stage.sync_and_compare();
    stage.rename("d3/moved", "d1/large");
    fs::remove_file(stage.path("d2/second")).expect("remove");
    settle();
    stage.sync_and_compare();
    content[100_000] ^= 1;
    sync_as_delta(&stage, &content, 10_000);
}

#[test]
fn holes_stay_holes() {
    let (stage, content) = with_a_large_file();
    let path = stage.path("d1/large");
    let file = File::options().write(true).open(path).expect("open");
    // A stretch becomes a hole, and the file a much larger one with data at its end.
    file.set_len(1 << 20).expect("shorten");
    file.set_len(64 << 20).expect("lengthen");
    file.write_all_at(&content[..5000], (64 << 20) - 5000)
        .expect("write");
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 1);
    assert!(report.bytes_sent < 20_000, "{report:?}");
}

#[test]
fn a_rewritten_file_is_sent_whole() {
    let (stage, _) = with_a_large_file();
    let report = sync_as_delta(&stage, &noise(9, SIZE), SIZE as u64 + 20_000);
    assert_eq!(report.bytes_kept, 0);
}

#[test]
fn what_moved_is_found_after_much_that_is_new() {
    let stage = filled();
    let content = noise(1, SIZE);
    stage.write("d1/large", &content);
    settle();
    stage.sync_and_compare();
    let moved = [&noise(2, 80 << 20)[..], &content].concat();
    let report = sync_as_delta(&stage, &moved, (80 << 20) + SIZE as u64);
    // It is met within some samples.
    assert!(report.bytes_kept > 0, "{report:?}");
}

#[test]
fn what_the_spare_can_make_nothing_of_is_sent_whole_in_a_second_try() {
    let (stage, mut content) = with_a_large_file();
    let damaged = {
        let spare = stage.spare();
        spare.tree()[&b"d1/large"[..]].1
    };
    stage.spare().contents.get_mut(&damaged).expect("content")[SIZE / 2] ^= 1;
    content[0] ^= 1;
    stage.write("d1/large", &content);
    settle();
    let error = stage.try_sync().expect_err("refused");
    assert_eq!(
        crate::again(&error),
        Some(crate::Again::WithoutDeltas),
        "{error}"
    );
    let report = stage.sync_and_compare();
    assert_eq!((report.deltas, report.changed), (0, 1));
    assert!(report.bytes_sent > SIZE as u64);
    content[1] ^= 1;
    sync_as_delta(&stage, &content, 10_000);
}

#[test]
fn a_spare_of_an_older_version_gets_whole_files() {
    let (stage, mut content) = with_a_large_file();
    stage.spare().newest = Some(2);
    content[0] ^= 1;
    stage.write("d1/large", &content);
    settle();
    let report = stage.sync_and_compare();
    assert_eq!((report.deltas, report.changed), (0, 1));
}

#[test]
fn without_a_signature_a_file_is_sent_whole_and_has_one_then() {
    let (stage, mut content) = with_a_large_file();
    fs::remove_dir_all(stage.beside("state")).expect("remove");
    stage.sync_and_compare();
    // It was read to compare it: that is enough.
    content[0] ^= 1;
    sync_as_delta(&stage, &content, 10_000);
}

#[test]
fn random_edits_of_large_files_arrive() {
    let (stage, mut content) = with_a_large_file();
    let mut dice = 0x1234_5678_9abc_def1_u64;
    let mut roll = |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % below.max(1) as u64) as usize
    };
    for round in 0..60 {
        for _ in 0..=roll(3) {
            let most = 1 << (4 + roll(17));
            let (start, length) = (roll(content.len()), roll(most));
            let end = (start + length).min(content.len());
            match roll(6) {
                0 => drop(content.drain(start..end)),
                1 => drop(content.splice(start..start, noise(round, length))),
                2 => content[start..end].fill(0),
                3 => content[start..end].iter_mut().for_each(|byte| *byte ^= 1),
                4 => {
                    let moved: Vec<u8> = content.drain(start..end).collect();
                    let to = roll(content.len());
                    drop(content.splice(to..to, moved));
                }
                _ => content.extend(noise(round, length)),
            }
        }
        stage.write("d1/large", &content);
        settle();
        stage.sync_and_compare();
    }
}

#[test]
fn a_new_file_is_compared_with_the_largest_of_its_kind_beside_it() {
    let (stage, content) = with_a_large_file();
    stage.write("d1/pack-1.pack", &content);
    stage.write("d1/pack-2.pack", noise(7, SIZE / 2));
    stage.write("d1/larger.idx", noise(8, SIZE * 2));
    settle();
    stage.sync_and_compare();
    // Packed anew, in another order, as another name; the former ones go.
    let packed = [&content[SIZE / 2..], &noise(9, 5000), &content[..SIZE / 2]].concat();
    stage.write("d1/pack-3.pack", &packed);
    fs::remove_file(stage.path("d1/pack-1.pack")).expect("remove");
    fs::remove_file(stage.path("d1/pack-2.pack")).expect("remove");
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 1, "{report:?}");
    assert!(report.bytes_sent < 20_000, "{report:?}");
}

#[test]
fn what_moved_and_grew_is_compared_while_it_is_read() {
    let (stage, content) = with_a_large_file();
    // With a hole where there was data, and data beyond what two threads share.
    let mut other = [&noise(10, 3000), &content[..]].concat();
    other.extend(noise(11, 40 << 20));
    stage.write("d1/large", &other);
    fs::File::options()
        .write(true)
        .open(stage.path("d1/large"))
        .and_then(|file| file.set_len((50 << 20) + 7))
        .expect("hole");
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 1);
    assert_eq!(report.bytes_read, (50 << 20) + 7, "once");
    let literal = (40 << 20) + 3000;
    assert!(report.bytes_sent < literal + 80_000, "{report:?}");
    // What two threads made is what the next one is compared with.
    other.splice(1000..1000, noise(12, 100));
    stage.write("d1/large", &other);
    settle();
    let report = stage.sync_and_compare();
    assert!(report.bytes_sent < 80_000, "{report:?}");
}

#[test]
fn a_file_that_is_none_any_more_is_no_kin() {
    let (stage, content) = with_a_large_file();
    for name in ["linked.pack", "emptied.pack", "directory.pack"] {
        stage.write(&format!("d2/{name}"), &content);
    }
    settle();
    stage.sync_and_compare();
    fs::remove_file(stage.path("d2/linked.pack")).expect("remove");
    symlink("elsewhere", stage.path("d2/linked.pack")).expect("symlink");
    stage.write("d2/emptied.pack", "");
    fs::remove_file(stage.path("d2/directory.pack")).expect("remove");
    fs::create_dir(stage.path("d2/directory.pack")).expect("directory");
    settle();
    stage.sync_and_compare();
    stage.write("d2/new.pack", [&b"changed"[..], &content].concat());
    settle();
    assert_eq!(stage.sync_and_compare().deltas, 0);
}
