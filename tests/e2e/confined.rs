//! What a process that was taken over could still do: its capabilities, and what the kernel keeps it from. Which calls that are is
//! tested in `understudy_tree::confine`.
//!
//! A link in the place of a database stands for a defect: SQLite opens its files by their paths and follows it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::agent::{Agent, Scene};
use crate::support::command::binary;
use crate::support::disks::Mounted;
use crate::support::needs::{is_root, needs};
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

/// Asserts that calls of all threads are filtered, and stay so in what they start.
fn is_filtered(pid: rustix::process::Pid) {
    for field in ["NoNewPrivs", "Seccomp"] {
        let wanted = if field == "Seccomp" { "2" } else { "1" };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        let mut threads = 0;
        for task in tasks {
            let status = task.unwrap().path().join("status");
            // Some threads end.
            let Ok(text) = std::fs::read_to_string(status) else {
                continue;
            };
            let is = format!("\n{field}:\t{wanted}\n");
            assert!(text.contains(&is), "{text}");
            threads += 1;
        }
        assert!(threads > 1, "the threads are not there yet");
    }
}

#[test]
fn no_thread_of_a_daemon_makes_calls_that_are_never_needed() {
    let stage = Stage::new(Kind::Tcp);
    is_filtered(stage.daemon.as_ref().unwrap().pid());
    let scene = Scene::on(Stage::new(Kind::Embedded));
    scene.configure();
    let agent = Agent::start(&scene.command(), None);
    is_filtered(agent.pid());
}

#[test]
fn a_receiver_behind_a_pipe_makes_no_calls_that_are_never_needed() {
    let stage = Stage::new(Kind::Embedded);
    let run = Run::new(["receiver", "--stdio", "--store"]).arg(&stage.store);
    let pipes = [Stdio::piped(), Stdio::piped(), Stdio::null()];
    let mut child = run.spawn_with(pipes);
    let pid = rustix::process::Pid::from_child(&child);
    let begun = Instant::now();
    while status(pid, "Seccomp") != "2" {
        assert!(begun.elapsed() < Duration::from_secs(30), "not confined");
        std::thread::yield_now();
    }
    // It ends when nobody is there any more.
    drop((child.stdin.take(), child.stdout.take()));
    child.wait().unwrap();
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

/// What a command that is led out of a store says, and does not do.
fn stopped(stage: &Stage, run: &Run) {
    let catalog = stage.store.join(DATASET).join(".understudy/catalog.db");
    let target = lead_outside(stage, &catalog);
    let before = std::fs::read(&target).unwrap();
    let outcome = run.outcome();
    assert_ne!(outcome.code, Some(0), "{outcome}");
    assert!(is_untouched(&target, &before), "{outcome}");
}

#[test]
fn a_restore_of_everything_writes_below_its_target_only() {
    let stage = Stage::new(Kind::Embedded);
    std::fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    // What is outside stands beside the target.
    let target = stage.path().join("restored");
    std::fs::create_dir(&target).unwrap();
    let restore = stage.ask("restore").arg("--all").arg(&target);
    let restore = restore.arg("--state").arg(&stage.state);
    restore.ok();
    assert!(target.join(DATASET).join("file").exists());
    stopped(&stage, &restore.arg("--replace"));
}

#[test]
fn a_drill_writes_below_its_scratch_directory_only() {
    let stage = Stage::new(Kind::Embedded);
    std::fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    let scratch = stage.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let drill = stage.ask("drill").arg(DATASET).arg("--state");
    let drill = drill.arg(&stage.state).arg("--scratch").arg(&scratch);
    drill.ok();
    stopped(&stage, &drill);
}

#[test]
fn what_is_restored_directly_below_the_root_is_restored() {
    needs!("what_is_restored_directly_below_the_root_is_restored": "root", "chroot", "mount");
    let stage = Stage::new(Kind::Embedded);
    std::fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    let root = stage.path();
    std::fs::copy(binary(), root.join("understudy")).unwrap();
    let mounted = ["usr", "proc", "dev"].map(|name| {
        std::fs::create_dir(root.join(name)).unwrap();
        Mounted::new(&["--bind"], &Path::new("/").join(name), &root.join(name))
    });
    for name in ["lib", "lib64"] {
        std::os::unix::fs::symlink(Path::new("usr").join(name), root.join(name)).unwrap();
    }
    // Where links lead is the same place inside.
    let same = root.join(root.strip_prefix("/").unwrap());
    std::fs::create_dir_all(same.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/", same).unwrap();
    let there = |arguments: &[&str]| {
        let run = Run::new(arguments.iter().copied());
        let run = run.args(["--spare", "/store", "--state", "/state"]);
        run.program(Path::new("/understudy"))
            .through(&["chroot", root.to_str().unwrap()])
    };
    // A target that is missing, and one that is there.
    for _ in 0..2 {
        there(&["restore", "--all", "/srv", "--replace"]).ok();
        let restored = std::fs::read(root.join("srv").join(DATASET).join("file"));
        assert_eq!(restored.unwrap(), b"one");
        there(&["restore", DATASET, "/back", "--replace"]).ok();
        assert_eq!(std::fs::read(root.join("back/file")).unwrap(), b"one");
        std::fs::write(root.join("back/file"), "changed").unwrap();
    }
    there(&["restore", DATASET, "/live", "--in-place-progressive"]).ok();
    assert_eq!(std::fs::read(root.join("live/file")).unwrap(), b"one");
    stopped(&stage, &there(&["restore", "--all", "/srv", "--replace"]));
    drop(mounted);
}

#[test]
fn status_tells_what_a_store_stands_on() {
    needs!("status_tells_what_a_store_stands_on": "root", "mount");
    for (options, wanted) in [
        ("rw,suid,dev", Some("`nosuid,nodev`")),
        ("rw,nosuid,dev", Some("`nodev`")),
        ("rw,nosuid,nodev", None),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", options];
        let _mounted = Mounted::new(&options, Path::new("none"), scratch.path());
        let stage = Stage::with_store_at(Kind::Embedded, scratch.path());
        stage.sync().ok();
        let store = &stage.ask("status").data()["store"];
        assert_eq!(store["nosuid"], options[3].contains("nosuid"), "{store}");
        assert_eq!(store["nodev"], options[3].contains("nodev"), "{store}");
        assert_eq!(store["not_confined"], serde_json::Value::Null, "{store}");
        let said = Run::new(["status", "--spare"])
            .arg(&stage.store)
            .ok()
            .said();
        assert_eq!(
            said.contains("mount the file system"),
            wanted.is_some(),
            "{said}"
        );
        assert!(wanted.is_none_or(|wanted| said.contains(wanted)), "{said}");
        assert!(!said.contains("less confined"), "{said}");
    }
}
