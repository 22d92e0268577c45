//! Which part a host plays, as each of both hosts tells it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::command::tool;
use crate::support::disks::Mounted;
use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage, judge};

#[test]
fn a_monitor_hears_from_both_hosts_what_they_are() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("page"), "1").unwrap();
    stage.sync().ok();
    let status = Run::new(["status", "--spare"]).arg(&stage.store).data();
    let standing = &status["datasets"][0]["standing"];
    assert_eq!(standing["role"], "spare", "{status}");
    assert_eq!(standing["epoch"], 1, "{status}");
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.store, stage.state, stage.source
    );
    fs::write(&config, text).unwrap();
    let check = |expected: &str| Run::new(["check", "role", "--expect", expected]);
    let on_spare = |expected: &str| check(expected).arg("--store").arg(&stage.store);
    let on_main = |expected: &str| check(expected).arg("--agent").arg(&config);
    on_spare("spare").ok();
    on_main("main").ok();
    on_spare("main").expect(5).mentions(&[DATASET, "spare"]);
    on_main("spare").expect(5).mentions(&[DATASET, "main"]);
    on_spare("spare")
        .arg("other")
        .expect(1)
        .mentions(&["other"]);
    let gone = on_spare("spare").args(["--served", "/nowhere"]).expect(5);
    gone.mentions(&["/nowhere", "nothing"]);
    fs::remove_dir_all(&stage.source).unwrap();
    on_main("main").expect(5).mentions(&["not there"]);
}

#[test]
fn what_is_served_read_only_follows_the_main_and_nobody_writes_there() {
    needs!("what_is_served_read_only_follows_the_main_and_nobody_writes_there": "root", "mount");
    let (stage, _) = with_main();
    let served = stage.path().join("served");
    let place = served.join(DATASET);
    fs::create_dir_all(&place).unwrap();
    let check = |expected: &str| {
        let run = on_spare(&stage, &["check", "role", "--expect", expected]);
        run.arg("--served").arg(&served)
    };
    check("spare").expect(5).mentions(&["not a mount"]);
    let _mounted = Mounted::new(&["--bind"], &stage.dataset(), &place);
    check("spare").expect(5).mentions(&["can be written to"]);
    tool("mount", ["-o", "remount,bind,ro", place.to_str().unwrap()]);
    check("spare").ok();
    let page = place.join("live/files/page");
    assert!(fs::write(&page, "by mistake").is_err());
    // The exchange of the trees is seen through it.
    fs::write(stage.source.join("page"), "newer\n").unwrap();
    stage.sync().ok();
    assert_eq!(fs::read_to_string(&page).unwrap(), "newer\n");
    on_spare(&stage, &["promote", DATASET, "--yes"]).ok();
    check("main").expect(5).mentions(&["read-only"]);
    tool("mount", ["-o", "remount,bind,rw", place.to_str().unwrap()]);
    check("main").ok();
    fs::write(&page, "by the application\n").unwrap();
}

#[test]
fn the_live_tree_of_a_spare_is_nobodys_source() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("page"), "1").unwrap();
    stage.sync().ok();
    let sync = Run::new(["sync"])
        .arg(stage.store.join(DATASET).join("live/files"))
        .args(["--dataset", DATASET, "--state"])
        .arg(&stage.state)
        .arg("--spare")
        .arg(stage.path().join("other"));
    let refused = sync.expect(5);
    refused.mentions(&["spare", DATASET, "status"]);
}

/// A store with two snapshots of a main that lives, and the configuration of that main's agent.
fn with_main() -> (Stage, PathBuf) {
    let stage = Stage::new(Kind::Embedded);
    for name in ["page", "other", "gone"] {
        fs::write(stage.source.join(name), format!("{name} of the main\n")).unwrap();
    }
    stage.sync().ok();
    stage.sync().ok();
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.store, stage.state, stage.source
    );
    fs::write(&config, text).unwrap();
    (stage, config)
}

fn on_spare(stage: &Stage, words: &[&str]) -> Run {
    Run::new(words).arg("--store").arg(&stage.store)
}

/// What an application does that takes the spare for the main; returns a copy of what it left.
fn write_by_application(stage: &Stage) -> PathBuf {
    let live = stage.live();
    fs::write(live.join("page"), "in place, by the application\n").unwrap();
    fs::write(live.join("new"), "by the application\n").unwrap();
    fs::remove_file(live.join("gone")).unwrap();
    let copy = stage.path().join("application");
    let (from, to) = (live.to_str().unwrap(), copy.to_str().unwrap());
    tool("cp", ["-a", from, to]);
    copy
}

/// Restores a snapshot, or the newest one.
fn restore(stage: &Stage, number: Option<u64>) -> PathBuf {
    let name = number.map_or("newest".to_owned(), |number| number.to_string());
    let target = stage.path().join(format!("restored-{name}"));
    let run = Run::new(["restore", DATASET])
        .arg(&target)
        .args(["--unverified", "--spare"])
        .arg(&stage.store)
        .arg("--state")
        .arg(stage.path().join("other-state"));
    match number {
        Some(number) => run.args(["--snapshot", &number.to_string()]),
        None => run,
    }
    .ok();
    target
}

/// Has the spare demoted and the main go on; what the application left must be a snapshot, and the spare like the main again.
fn assert_undone(stage: &Stage, config: &Path, application: &Path) {
    on_spare(stage, &["demote", DATASET, "--yes"]).ok();
    // Told once, it does not go on by itself.
    stage.sync().expect(5);
    Run::new(["resume", DATASET, "--config"]).arg(config).ok();
    stage.sync().ok();
    assert_eq!(judge::rsync(&stage.source, &stage.live(), &[]), "");
    let listed = Run::new(["snapshots", DATASET, "--spare"])
        .arg(&stage.store)
        .data();
    let snapshots = listed["datasets"][0]["snapshots"].as_array().unwrap();
    let is_written = |one: &&Value| {
        let pin = one["pin"]["reason"].as_str();
        pin.is_some_and(|pin| pin.starts_with("written"))
    };
    let written: Vec<_> = snapshots.iter().filter(is_written).collect();
    assert_eq!(written.len(), 1, "{listed}");
    assert_eq!(snapshots.last().unwrap()["epoch"], 2, "{listed}");
    let restored = restore(stage, written[0]["number"].as_u64());
    assert_eq!(judge::rsync(application, &restored, &[]), "");
    on_spare(stage, &["check", "role", "--expect", "spare"]).ok();
    // What the application changed in place before it was kept the main has given back.
    stage.sync().ok();
    Run::new(["verify", "--spare"]).arg(&stage.store).ok();
}

#[test]
fn a_promotion_by_mistake_is_undone_without_losing_what_was_written() {
    let (stage, config) = with_main();
    on_spare(&stage, &["promote", DATASET, "--yes"]).ok();
    let application = write_by_application(&stage);
    // The main is refused, however often it comes, and nothing of what was written is touched.
    for _ in 0..2 {
        stage.sync().expect(5).mentions(&[DATASET, "epoch 2"]);
    }
    assert_eq!(judge::rsync(&application, &stage.live(), &[]), "");
    let resume = Run::new(["resume", DATASET, "--config"]).arg(&config);
    resume.expect(5).mentions(&["demote", DATASET]);
    let asked = on_spare(&stage, &["demote", DATASET]).expect(2);
    asked.mentions(&["--yes"]);
    for epoch in ["1", "99999999999999"] {
        let told = on_spare(&stage, &["demote", DATASET, "--yes", "--epoch", epoch]).expect(5);
        told.mentions(&["epoch 2", "status"]);
    }
    assert_undone(&stage, &config, &application);
}

#[test]
fn undoing_a_promotion_can_be_killed_at_any_step() {
    for point in [
        "absorb.sealed",
        "absorb.marked",
        "absorb.synced",
        "absorb.recorded",
        "demote.absorbed",
        "demote.standing",
    ] {
        let (stage, config) = with_main();
        on_spare(&stage, &["promote", DATASET, "--yes"]).ok();
        let application = write_by_application(&stage);
        stage.sync().expect(5);
        let killed = on_spare(&stage, &["demote", DATASET, "--yes"])
            .failing(&format!("{point}=1*return"))
            .outcome();
        assert!(killed.was_killed(), "{point}");
        assert_eq!(judge::rsync(&application, &stage.live(), &[]), "");
        if ["absorb.recorded", "demote.absorbed", "demote.standing"].contains(&point) {
            let newest = restore(&stage, None);
            assert_eq!(judge::rsync(&application, &newest, &[]), "", "{point}");
        }
        assert_undone(&stage, &config, &application);
    }
}

/// What `on_fence` has run so far, one line for each time.
fn fenced(stage: &Stage) -> Vec<String> {
    let told = fs::read_to_string(stage.path().join("fenced")).unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

#[test]
fn a_main_that_is_fenced_runs_its_hooks_once_for_each_fencing() {
    let (stage, config) = with_main();
    let hook = stage.path().join("hook");
    let script = format!(
        "#!/bin/sh\necho it stops $UNDERSTUDY_DATASET; echo \"$UNDERSTUDY_DATASET $UNDERSTUDY_PATH $UNDERSTUDY_EPOCH\" >> {:?}\n",
        stage.path().join("fenced")
    );
    fs::write(&hook, script).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let hooks =
        format!("on_fence = [[\"/bin/sh\", {hook:?}], [\"/bin/false\"]]\ninterval = \"1s\"\n");
    let text = text.replace("[[dataset]]", "[pace]\npressure = \"off\"\n[[dataset]]");
    fs::write(&config, format!("{hooks}{text}")).unwrap();
    let once = || Run::new(["agent", "--once", "--config"]).arg(&config);
    once().ok();
    assert!(fenced(&stage).is_empty());

    on_spare(&stage, &["promote", DATASET, "--yes"]).ok();
    let first = once().expect(5);
    first.mentions(&[
        "promoted",
        "on_fence",
        "it stops site",
        "/bin/false",
        "FAILED",
    ]);
    let line = |epoch: u64| format!("{DATASET} {} {epoch}", stage.source.display());
    assert_eq!(fenced(&stage), [line(1)]);
    once().expect(5);
    assert_eq!(fenced(&stage), [line(1)], "once for each fencing");
    let mut notes = fs::read_dir(stage.state.join("fenced")).unwrap();
    let note = fs::read_to_string(notes.next().unwrap().unwrap().path()).unwrap();
    assert!(
        note.contains("it stops site") && note.contains("/bin/false"),
        "{note}"
    );

    // The way back, and another promotion: by the daemon this time, which is no main that goes on by itself.
    on_spare(&stage, &["demote", DATASET, "--yes"]).ok();
    Run::new(["resume", DATASET, "--config"]).arg(&config).ok();
    once().ok();
    on_spare(&stage, &["promote", DATASET, "--yes"]).ok();
    let run = Run::new(["agent", "--json", "--config"]).arg(&config);
    let mut agent = Agent::start(&run, None);
    agent.until("a refusal", |cycle| cycle["error"].is_object());
    let begun = Instant::now();
    while fenced(&stage).len() < 2 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{}",
            agent.reported()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.until("another refusal", |cycle| cycle["error"].is_object());
    assert_eq!(fenced(&stage), [line(1), line(2)]);
}

#[test]
fn a_promoted_host_that_another_one_took_over_is_fenced_and_a_spare_is_not() {
    let (stage, _) = with_main();
    let hook = format!("echo x >> {:?}", stage.path().join("fenced"));
    let config = stage.path().join("other.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\non_fence = [[\"/bin/sh\", \"-c\", {hook:?}]]\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.path().join("other-store"),
        stage.path().join("other-state"),
        stage.live(),
    );
    fs::write(&config, text).unwrap();
    let once = || Run::new(["agent", "--once", "--config"]).arg(&config);
    once().expect(5);
    assert!(fenced(&stage).is_empty(), "a spare is nobody's main");
    on_spare(&stage, &["promote", DATASET, "--yes"]).ok();
    let other = stage.path().join("other-store");
    Run::new(["sync"])
        .arg(stage.live())
        .args(["--dataset", DATASET, "--state"])
        .arg(stage.path().join("other-state"))
        .arg("--spare")
        .arg(&other)
        .ok();
    once().ok();
    Run::new(["promote", DATASET, "--yes", "--store"])
        .arg(&other)
        .ok();
    once().expect(5);
    assert_eq!(fenced(&stage), ["x"]);
    once().expect(5);
    assert_eq!(fenced(&stage), ["x"]);
}
