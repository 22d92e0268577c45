//! Large files that change: what they cost on the wire, and that the spare has them exactly.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::disks::Disk;
use crate::support::needs::needs;
use crate::support::{Kind, Random, Stage, judge};

const SIZE: usize = 8 << 20;

fn file(stage: &Stage) -> PathBuf {
    stage.source.join("large")
}

/// Syncs one change of one file, as a delta of at most `most` bytes on the wire.
fn sync_at_most(stage: &Stage, most: u64) -> Value {
    let synced = stage.sync_and_judge();
    assert_eq!(synced["deltas"], 1, "{synced}");
    assert!(synced["bytes_sent"].as_u64().unwrap() <= most, "{synced}");
    synced
}

/// Changes a large file in every way, and checks what each costs and becomes.
fn change_a_large_file(stage: &Stage) {
    let mut random = Random::new(11);
    let mut content = random.noise(SIZE);
    std::fs::write(file(stage), &content).unwrap();
    stage.sync_and_judge();

    let pages = OpenOptions::new().write(true).open(file(stage)).unwrap();
    for _ in 0..20 {
        let page = random.below(SIZE as u64 / 4096);
        pages
            .write_all_at(&random.noise(4096), page * 4096)
            .unwrap();
    }
    sync_at_most(stage, 100_000);

    content = std::fs::read(file(stage)).unwrap();
    let inserted = [&random.noise(1000)[..], &content].concat();
    std::fs::write(file(stage), &inserted).unwrap();
    sync_at_most(stage, 64_000);

    let grown = [&inserted[..], &random.noise(5000)].concat();
    std::fs::write(file(stage), &grown).unwrap();
    sync_at_most(stage, 12_000);

    // As editors do it: another file takes the place.
    let halves = [&grown[SIZE / 2..], &grown[..SIZE / 2]].concat();
    std::fs::write(stage.source.join("new"), &halves).unwrap();
    std::fs::rename(stage.source.join("new"), file(stage)).unwrap();
    sync_at_most(stage, 64_000);

    let holed = OpenOptions::new().write(true).open(file(stage)).unwrap();
    holed.set_len(SIZE as u64 / 2).unwrap();
    holed.set_len(2 * SIZE as u64).unwrap();
    sync_at_most(stage, 12_000);

    let target = stage.path().join("second");
    stage.restore(&target).args(["--snapshot", "3"]).ok();
    assert!(std::fs::read(target.join("large")).unwrap() == inserted);
    stage.ask("verify").ok();
}

#[test]
fn a_large_file_costs_its_changes() {
    needs!("a_large_file_costs_its_changes": "rsync");
    for kind in Kind::BOTH {
        change_a_large_file(&Stage::new(kind));
    }
}

#[test]
fn a_large_file_costs_its_changes_on_a_store_that_shares_blocks() {
    needs!("a_large_file_costs_its_changes_on_a_store_that_shares_blocks":
        "root", "rsync", "mkfs.btrfs");
    let disk = Disk::btrfs(512);
    change_a_large_file(&Stage::with_store_at(Kind::Tcp, &disk.root));
}

#[test]
fn a_damaged_base_is_replaced_by_the_whole_file() {
    needs!("a_damaged_base_is_replaced_by_the_whole_file": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        let mut content = Random::new(12).noise(SIZE);
        std::fs::write(file(&stage), &content).unwrap();
        stage.sync_and_judge();
        // The second one finds the live tree sound.
        stage.sync_and_judge();
        let live = stage.live().join("large");
        let damaged = OpenOptions::new().write(true).open(live).unwrap();
        let modified = damaged.metadata().unwrap().modified().unwrap();
        damaged.write_all_at(b"damage", 5_000_000).unwrap();
        // As a disk does it: with another time it would be drift.
        damaged.set_modified(modified).unwrap();
        content[0] ^= 1;
        std::fs::write(file(&stage), &content).unwrap();
        let synced = stage.sync().data();
        assert_eq!(
            (&synced["deltas"], &synced["deltas_refused"]),
            (&0.into(), &1.into())
        );
        assert!(synced["bytes_sent"].as_u64().unwrap() > SIZE as u64 / 2);
        judge::same(&stage.source, &stage.live());
        content[1] ^= 1;
        std::fs::write(file(&stage), &content).unwrap();
        sync_at_most(&stage, 12_000);
    }
}
