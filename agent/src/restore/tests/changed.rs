//! Large files of which the tree that is replaced has another version.

use std::os::unix::fs::FileExt;

use understudy_protocol::ProtocolError;
use understudy_protocol::transport::Channel;

use super::*;

const SIZE: usize = 4 << 20;

fn noise() -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    (0..SIZE).map(|_| next()).collect()
}

/// A stage with a large file, and a target where some bytes of it are others.
fn changed() -> (Stage, std::path::PathBuf, Vec<u8>) {
    let stage = Stage::new();
    stage.write("d/large", noise());
    stage.write("d/small", "content");
    stage.sync();
    let target = stage.beside("target");
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    let file = fs::File::options()
        .write(true)
        .open(target.join("d/large"))
        .expect("open");
    for offset in [0, 1_000_000, 3_000_000] {
        file.write_all_at(b"something else", offset).expect("write");
    }
    let before = fs::read(target.join("d/large")).expect("read");
    (stage, target, before)
}

fn replacing(stage: &Stage, target: &Path, manner: Manner) -> RestoreRequest {
    RestoreRequest {
        existing: Existing::Replace,
        manner,
        ..request(stage, target)
    }
}

#[test]
fn only_what_differs_comes_and_the_other_version_is_kept() {
    for manner in [Manner::Switch, Manner::Progressive] {
        let (stage, target, before) = changed();
        let context = stage.context();
        let request = replacing(&stage, &target, manner);
        let report = stage
            .with_channel(|channel| restore(channel, &request, &context, None))
            .expect("restore");
        assert_restored(&stage, &target);
        assert_eq!((report.files_fetched, report.bytes_fetched), (1, 3 * 4096));
        let progress = &context.progress;
        assert_eq!(progress.bytes_done(), progress.bytes_total());
        assert_eq!(progress.files_done(), progress.files_total());
        assert!(progress.bytes_found() > SIZE as u64 - 5 * 4096);
        let kept = report.kept.expect("kept");
        assert_eq!(fs::read(kept.join("d/large")).expect("read"), before);
    }
}

#[test]
fn what_was_wrongly_taken_for_the_same_comes_whole() {
    let (stage, target, _) = changed();
    stage.spare().is_boasting = true;
    let request = replacing(&stage, &target, Manner::Switch);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.bytes_fetched, SIZE as u64);
}

#[test]
fn a_version_of_another_length_and_one_that_is_no_file_are_no_obstacle() {
    for length in [300_000, SIZE + 12_345] {
        let (stage, target, mut before) = changed();
        before.resize(length, 9);
        fs::write(target.join("d/large"), &before).expect("write");
        let request = replacing(&stage, &target, Manner::Switch);
        let report = try_restore(&stage, &request).expect("restore");
        assert_restored(&stage, &target);
        assert!(report.bytes_fetched < SIZE as u64, "{report:?}");
    }
    let (stage, target, _) = changed();
    fs::remove_file(target.join("d/large")).expect("remove");
    symlink("/etc/passwd", target.join("d/large")).expect("symlink");
    let request = replacing(&stage, &target, Manner::Switch);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.bytes_fetched, SIZE as u64);
}

#[test]
fn an_older_spare_gives_it_whole() {
    let (stage, target, _) = changed();
    stage.spare().newest = Some(4);
    let request = replacing(&stage, &target, Manner::Switch);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.bytes_fetched, SIZE as u64);
}

#[test]
fn an_interrupted_one_goes_on_with_what_differs() {
    let (stage, target, _) = changed();
    let request = replacing(&stage, &target, Manner::Switch);
    // The greeting, the manifest, and much of the file: each group comes by itself.
    let cut = stage.channel_cut_after(600);
    restore(cut, &request, &stage.context(), None).expect_err("cut");
    let beginning = fs::metadata(stage.beside("target.understudy-restore/d/large"));
    assert!(beginning.expect("a beginning").len() > 1_500_000);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.bytes_fetched, 4096);
}

/// A stage with three large files, and a target where 4 KiB of each are others.
fn three_changed() -> (Stage, std::path::PathBuf) {
    let stage = Stage::new();
    for number in 0..3_u8 {
        let mut content = noise();
        content.rotate_left(usize::from(number) * 100_000);
        stage.write(&format!("large{number}"), content);
    }
    stage.sync();
    let target = stage.beside("target");
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    for number in 0..3 {
        let name = format!("large{number}");
        let file = fs::File::options().write(true).open(target.join(name));
        let file = file.expect("open");
        file.write_all_at(&[9; 4096], 2 << 20).expect("write");
    }
    (stage, target)
}

#[test]
fn as_long_as_it_pays_everything_is_compared() {
    let (stage, target) = three_changed();
    let request = replacing(&stage, &target, Manner::Switch);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files_fetched, report.bytes_fetched), (3, 3 * 4096));
}

#[test]
fn after_a_cut_the_rest_is_compared_too() {
    let (stage, target) = three_changed();
    let mut connections = 0;
    let mut connect = || -> Result<Channel, ProtocolError> {
        connections += 1;
        // Each group comes by itself. The first is cut soon, the others well inside a file.
        let after = [20, 700, 700].get(connections - 1);
        Ok(stage.channel_cut_after(after.copied().unwrap_or(usize::MAX)))
    };
    let first = connect().expect("channel");
    let request = replacing(&stage, &target, Manner::Switch);
    let report = restore(first, &request, &stage.context(), Some(&mut connect)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((connections, report.files_fetched), (4, 3));
    // What is in flight when it is cut may come again.
    assert!(report.bytes_fetched <= 6 * 4096, "{report:?}");
}

#[test]
fn once_nothing_was_the_same_files_come_whole() {
    let (stage, target) = three_changed();
    for number in 0..3 {
        fs::write(target.join(format!("large{number}")), vec![9; SIZE]).expect("write");
    }
    let request = replacing(&stage, &target, Manner::Switch);
    let report = try_restore(&stage, &request).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.bytes_fetched, 3 * SIZE as u64);
    // The next large one is not read while the first is on its way, and then it is known.
    assert_eq!(stage.spare().compared, 1);
}
