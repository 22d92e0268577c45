//! What a process that was taken over could still do: its capabilities, and what the kernel keeps it from.
//!
//! A link in the place of a database stands for a defect: SQLite opens its files by their paths and follows it.

use std::path::{Path, PathBuf};

use crate::support::needs::is_root;
use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage};

/// Capabilities by their numbers.
const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const DAC_READ_SEARCH: u32 = 2;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const SYS_ADMIN: u32 = 21;
const MKNOD: u32 = 27;
const LEASE: u32 = 28;
const SETFCAP: u32 = 31;

fn status(pid: rustix::process::Pid, field: &str) -> String {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn a_receiver_keeps_only_the_powers_that_it_uses() {
    let stage = Stage::new(Kind::Tcp);
    let pid = stage.daemon.as_ref().unwrap().pid();
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    let kept = [
        CHOWN,
        DAC_OVERRIDE,
        FOWNER,
        FSETID,
        SYS_ADMIN,
        MKNOD,
        LEASE,
        SETFCAP,
    ];
    let kept = kept.iter().fold(0_u64, |set, bit| set | 1 << bit);
    let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"];
    for set in sets.iter().chain(is_root().then_some(&"CapBnd")) {
        let has = u64::from_str_radix(&status(pid, set), 16).unwrap();
        assert_eq!(has & !kept, 0, "{set} is {has:x}");
        assert_eq!(has & (1 << DAC_READ_SEARCH), 0, "{set} is {has:x}");
    }
}

/// Puts a link to a file outside in the place of a file, whose content is there then.
fn lead_outside(stage: &Stage, file: &Path) -> PathBuf {
    let outside = stage.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = outside.join(file.file_name().unwrap());
    std::fs::rename(file, &target).unwrap();
    std::os::unix::fs::symlink(&target, file).unwrap();
    target
}

/// Whether something was made or changed beside `target`.
fn is_untouched(target: &Path, before: &[u8]) -> bool {
    let beside = std::fs::read_dir(target.parent().unwrap()).unwrap();
    beside.count() == 1 && std::fs::read(target).unwrap() == before
}

#[test]
fn a_receiver_that_is_led_out_of_its_store_is_stopped_by_the_kernel() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        std::fs::write(stage.source.join("file"), "one").unwrap();
        stage.sync().ok();
        let catalog = stage.store.join(DATASET).join(".understudy/catalog.db");
        let target = lead_outside(&stage, &catalog);
        let before = std::fs::read(&target).unwrap();
        std::fs::write(stage.source.join("file"), "two").unwrap();
        let outcome = stage.sync().outcome();
        assert_ne!(outcome.code, Some(0), "{kind:?}: {outcome}");
        assert!(is_untouched(&target, &before), "{kind:?}: {outcome}");
    }
}

#[test]
fn an_agent_that_is_led_out_of_its_state_is_stopped_by_the_kernel() {
    let stage = Stage::new(Kind::Tcp);
    std::fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    let mut files = Vec::new();
    let mut directories = vec![stage.state.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "db") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty());
    let target = lead_outside(&stage, &files[0]);
    let before = std::fs::read(&target).unwrap();
    std::fs::write(stage.source.join("file"), "two").unwrap();
    let outcome = stage.sync().outcome();
    assert!(is_untouched(&target, &before), "{outcome}");
}

#[test]
fn a_restore_that_is_led_outside_is_stopped_by_the_kernel() {
    let stage = Stage::new(Kind::Embedded);
    std::fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    let places = stage.path().join("restored");
    std::fs::create_dir(&places).unwrap();
    let catalog = stage.store.join(DATASET).join(".understudy/catalog.db");
    let target = lead_outside(&stage, &catalog);
    let before = std::fs::read(&target).unwrap();
    let outcome = Run::new(["restore", DATASET])
        .arg(places.join("site"))
        .arg("--spare")
        .arg(&stage.store)
        .outcome();
    // Who reads a catalog makes files beside it.
    assert_ne!(outcome.code, Some(0), "{outcome}");
    assert!(is_untouched(&target, &before), "{outcome}");
}
