//! Disks of the spare that are full, read-only, or of a kind that cannot hold a store.

use super::{FILES, refused};
use crate::support::disks::Disk;
use crate::support::facts::facts;
use crate::support::needs::needs;
use crate::support::trees::set_generation;
use crate::support::{Kind, Random, Stage, judge};

#[test]
fn a_disk_that_is_full() {
    needs!("a_disk_that_is_full": "root", "mkfs.ext4");
    let disks: [fn() -> Disk; 2] = [|| Disk::ext4(48), || Disk::tmpfs(48)];
    for (disk, kind) in disks
        .iter()
        .flat_map(|disk| Kind::BOTH.map(|kind| (disk(), kind)))
    {
        let stage = Stage::with_store_at(kind, &disk.root);
        set_generation(&stage.source, 1, FILES);
        stage.sync().ok();
        set_generation(&stage.source, 2, FILES);
        stage.sync().ok();
        let was = facts(&stage.live());
        let free = disk.free_bytes();
        let large = stage.source.join("large");
        let mut random = Random::new(8);
        std::fs::write(&large, random.noise(80_000_000)).unwrap();
        set_generation(&stage.source, 3, FILES);
        for _ in 0..2 {
            refused(|| stage.sync(), 8, &["space"]);
            judge::untouched(&was, &stage.live());
            let lost = free.saturating_sub(disk.free_bytes());
            assert!(lost < 2 << 20, "{lost} bytes are not given back");
        }
        stage.ask("verify").ok();
        std::fs::remove_file(&large).unwrap();
        stage.sync_and_judge();
    }
}

#[test]
fn a_disk_that_may_not_be_written() {
    needs!("a_disk_that_may_not_be_written": "root", "mkfs.ext4");
    let disk = Disk::ext4(16);
    let stage = Stage::with_store_at(Kind::Embedded, &disk.root);
    set_generation(&stage.source, 1, FILES);
    stage.sync().ok();
    let was = facts(&stage.live());
    disk.remount("ro");
    set_generation(&stage.source, 2, FILES);
    refused(|| stage.sync(), 2, &["store", "read-only"]);
    judge::untouched(&was, &stage.live());
    disk.remount("rw");
    stage.sync_and_judge();
}

#[test]
fn a_file_system_without_attributes() {
    needs!("a_file_system_without_attributes": "root");
    let disk = Disk::ramfs();
    let stage = Stage::with_store_at(Kind::Embedded, &disk.root);
    set_generation(&stage.source, 1, FILES);
    refused(|| stage.sync(), 2, &["extended attributes"]);
}
