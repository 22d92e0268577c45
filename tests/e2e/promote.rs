//! Promotion: the spare becomes the main, whatever is going on, and what was promoted can be restored whatever an application does.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::spare::Daemon;
use crate::support::stage::DATASET;
use crate::support::trees::{generation_now, set_generation};
use crate::support::{Kind, Run, Stage, judge};

const FILES: usize = 40;
const FENCED: i32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// With so many snapshots behind the newest one that the trees differ.
fn with_snapshots(kind: Kind) -> Stage {
    let stage = Stage::new(kind);
    for generation in 0..3 {
        set_generation(&stage.source, generation, FILES);
        fs::write(stage.source.join("log"), "the beginning\n").unwrap();
        fs::write(stage.source.join("page"), "0123456789").unwrap();
        let link = stage.source.join("page.link");
        if !link.exists() {
            fs::hard_link(stage.source.join("page"), link).unwrap();
        }
        stage.sync().ok();
    }
    stage
}

fn on_spare(stage: &Stage, arguments: &[&str]) -> Run {
    Run::new(arguments).arg("--store").arg(&stage.store)
}

fn promote(stage: &Stage) -> Run {
    on_spare(stage, &["promote", DATASET, "--yes"])
}

fn facts(stage: &Stage) -> Value {
    on_spare(stage, &["promote", DATASET, "--dry-run"]).data()["datasets"][0].clone()
}

/// Waits until the receiver has copied apart all that it can.
fn wait_until_preserved(stage: &Stage) -> Value {
    let begun = Instant::now();
    loop {
        let preserved = facts(stage)["preserved"].clone();
        if preserved["done"] == true {
            return preserved;
        }
        assert!(begun.elapsed() < PATIENCE, "{preserved}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Overwrites the first bytes of each file where it is.
fn scribble(directory: &Path) {
    for path in files(directory) {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"X", 0).unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn assert_restores(stage: &Stage, when: &str) {
    let target = stage.path().join(format!("restored {when}"));
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);
    fs::remove_dir_all(target).unwrap();
}

fn assert_refused(stage: &Stage) {
    let live = files(&stage.live()).len();
    stage.sync().expect(FENCED).mentions(&["epoch 2", "demote"]);
    assert_eq!(files(&stage.live()).len(), live);
}

#[test]
fn what_was_promoted_is_restored_whatever_the_application_does() {
    let stage = with_snapshots(Kind::Tcp);
    let told = facts(&stage);
    assert_eq!(
        (&told["role"], &told["epoch"]),
        (&"spare".into(), &1.into())
    );
    assert_eq!(told["threshold_passed"], false);
    promote(&stage).arg("--json").ok();
    let preserved = wait_until_preserved(&stage);
    assert_eq!(preserved["lost"]["files"], 0, "{preserved}");
    assert_restores(&stage, "untouched");
    scribble(&stage.live());
    for path in files(&stage.live()).iter().step_by(3) {
        fs::remove_file(path).unwrap();
    }
    let moved = stage.live().join("moved");
    fs::rename(stage.live().join("d1"), moved).unwrap();
    fs::write(stage.live().join("new"), "of the application").unwrap();
    fs::remove_file(stage.dataset().join("live/SNAPSHOT")).unwrap();
    let before: Vec<_> = files(&stage.live());
    assert_restores(&stage, "changed");
    stage.ask("verify").ok();
    stage.ask("status").ok();
    stage.ask("ls").arg(DATASET).ok();
    on_spare(&stage, &["prune", "--now"]).ok();
    assert_refused(&stage);
    assert_eq!(files(&stage.live()), before);
    let mut stage = stage;
    stage.restart(None);
    assert_restores(&stage, "restarted");
    assert_eq!(files(&stage.live()), before);
}

#[test]
fn what_was_changed_in_place_before_it_was_kept_is_told_and_not_restored() {
    let mut stage = with_snapshots(Kind::Embedded);
    promote(&stage).ok();
    let live = stage.live();
    let page = fs::File::options()
        .write(true)
        .open(live.join("page"))
        .unwrap();
    page.write_all_at(b"X", 3).unwrap();
    let log = fs::File::options()
        .append(true)
        .open(live.join("log"))
        .unwrap();
    std::io::Write::write_all(&mut &log, b"more\n").unwrap();
    stage.daemon = Some(Daemon::start(&stage.store));
    let preserved = wait_until_preserved(&stage);
    stage.daemon = None;
    // One file with two names; what only grew is not lost.
    assert_eq!(preserved["lost"]["files"], 1, "{preserved}");
    assert!(
        preserved["first"][0].to_string().contains("page"),
        "{preserved}"
    );
    let target = stage.path().join("target");
    let refused = stage.restore(&target).outcome();
    assert_ne!(refused.code, Some(0));
    refused.mentions(&["page", "changed it in place after the promotion"]);
    stage
        .ask("status")
        .outcome()
        .mentions(&["page", "in place"]);
    let log = stage.path().join("log");
    stage.restore(&log).args(["--path", "log"]).ok();
    assert_eq!(
        fs::read_to_string(log.join("log")).unwrap(),
        "the beginning\n"
    );
}

#[test]
fn it_can_be_preserved_before() {
    let stage = with_snapshots(Kind::Embedded);
    promote(&stage).args(["--preserve", "before"]).ok();
    scribble(&stage.live());
    assert_restores(&stage, "at once");
}

#[test]
fn it_is_safe_to_repeat_after_a_kill_at_any_step() {
    let points = [
        "promote.fenced",
        "promote.recovered",
        "receiver.caught-up",
        "promote.caught-up",
        "preserve.synced",
        "preserve.replaced",
        "promote.preserved",
        "promote.noted",
        "promote.synced",
        "promote.standing",
        "promote.hooks",
        "promote.hooked",
    ];
    let stage = with_snapshots(Kind::Embedded);
    let ran = stage.path().join("ran");
    let config = stage.path().join("receiver.toml");
    let text = format!(
        "store = \"{}\"\non_promote = [[\"/bin/sh\", \"-c\", \"echo $UNDERSTUDY_DATASET $UNDERSTUDY_EPOCH $UNDERSTUDY_SNAPSHOT $UNDERSTUDY_PATH >> {}; echo moved\"]]\n",
        stage.store.display(),
        ran.display()
    );
    fs::write(&config, text).unwrap();
    let copy = stage.path().join("copy");
    for point in points {
        copy_store(&stage.store, &copy);
        let promote = |store: &Path| {
            let run = Run::new(["promote", DATASET, "--yes", "--preserve", "before"]);
            run.arg("--config").arg(&config).arg("--store").arg(store)
        };
        let killed = promote(&copy).failing(&format!("{point}=return")).outcome();
        assert!(killed.was_killed(), "{point}: {killed}");
        let live = copy.join(DATASET).join("live/files");
        generation_now(&live, FILES).unwrap();
        fs::remove_file(&ran).ok();
        promote(&copy).ok();
        let line = format!("site 2 3 {}\n", live.display());
        let expected = match point {
            "promote.hooked" => vec![line.clone()],
            _ => vec![line],
        };
        assert_eq!(
            fs::read_to_string(&ran).unwrap(),
            expected.concat(),
            "{point}"
        );
        let role = fs::read_to_string(copy.join(DATASET).join(".understudy/role")).unwrap();
        assert!(
            role.starts_with("role: main\nepoch: 2\n"),
            "{point}: {role}"
        );
        scribble(&live);
        let target = stage.path().join("target");
        let restore = Run::new(["restore", DATASET])
            .arg(&target)
            .arg("--spare")
            .arg(&copy);
        restore.ok();
        judge::same(&stage.source, &target);
        fs::remove_dir_all(target).unwrap();
        fs::remove_file(&ran).unwrap();
        promote(&copy).ok().mentions(&["main already"]);
        assert!(!ran.exists(), "{point}: hooks ran again");
        let log = fs::read_to_string(copy.join(DATASET).join(".understudy/hooks.log")).unwrap();
        assert!(log.contains("\nmoved\n"), "{log}");
        fs::remove_dir_all(&copy).unwrap();
    }
}

fn copy_store(from: &Path, to: &Path) {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    crate::support::command::tool("cp", ["-a", from, to]);
}

#[test]
fn an_upload_that_hangs_ends_and_one_past_its_intent_is_finished() {
    let stage = with_snapshots(Kind::Tcp);
    set_generation(&stage.source, 3, FILES);
    let hanging = stage.sync().failing("agent.sent=pause");
    let mut agent = hanging.spawn(Stdio::null(), Stdio::null());
    let begun = Instant::now();
    while facts(&stage)["busy"] != true {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let begun = Instant::now();
    let data = promote(&stage).data();
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(data["datasets"][0]["snapshot"], 3, "{data}");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(generation_now(&stage.live(), FILES).unwrap(), 2);
    assert_refused(&stage);

    let mut stage = with_snapshots(Kind::Tcp);
    stage.restart(Some("receiver.sealed=sleep(1500)"));
    set_generation(&stage.source, 3, FILES);
    let mut agent = stage.sync().spawn(Stdio::null(), Stdio::null());
    let catalog = stage.dataset().join(".understudy/applying");
    let begun = Instant::now();
    // The intent is written before the shadow is changed.
    while !catalog.exists() && agent.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let data = promote(&stage).data();
    let snapshot = data["datasets"][0]["snapshot"].as_u64().unwrap();
    let code = agent.wait().unwrap().code();
    // What is acknowledged is promoted, and what is not is refused.
    assert_eq!(code, Some(if snapshot == 4 { 0 } else { FENCED }));
    let generation = generation_now(&stage.live(), FILES).unwrap();
    assert_eq!(generation, snapshot - 1);
    assert_refused(&stage);
}

#[test]
fn a_held_cycle_must_be_decided_over() {
    let stage = with_snapshots(Kind::Embedded);
    let kept = stage.path().join("kept");
    copy_store(&stage.source, &kept);
    for number in 0..7 {
        fs::remove_dir_all(stage.source.join(format!("d{number}"))).unwrap();
    }
    stage.sync().expect(4);
    promote(&stage)
        .expect(4)
        .mentions(&["understudy release site", "--without-held"]);
    assert_eq!(facts(&stage)["role"], "spare");
    promote(&stage).arg("--without-held").ok();
    let target = stage.path().join("target");
    stage.restore(&target).ok();
    judge::same(&kept, &target);
    assert!(
        on_spare(&stage, &["held"]).data()["held"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn datasets_are_promoted_apart_and_hooks_that_fail_run_again() {
    let stage = with_snapshots(Kind::Embedded);
    for name in ["other", "wrong"] {
        stage.sync().args(["--dataset", name]).outcome();
    }
    let sync = |name: &str| {
        let run = Run::new(["sync"])
            .arg(&stage.source)
            .args(["--dataset", name]);
        run.arg("--spare")
            .arg(&stage.store)
            .arg("--state")
            .arg(&stage.state)
    };
    sync("other").ok();
    sync("wrong").ok();
    let role = stage.store.join("wrong/.understudy/role");
    fs::write(&role, "role: nobody knows\n").unwrap();
    let config = stage.path().join("receiver.toml");
    let write = |hook: &str| {
        let text = format!(
            "store = \"{}\"\npromote_after = \"1s\"\n[dataset.site]\non_promote = [[\"/bin/sh\", \"-c\", \"{hook}\"]]\n",
            stage.store.display()
        );
        fs::write(&config, text).unwrap();
    };
    write("echo it broke; exit 3");
    let promote = |arguments: &[&str]| {
        Run::new(["promote"])
            .args(arguments)
            .arg("--config")
            .arg(&config)
    };
    promote(&["--all"]).expect(2).mentions(&["--yes"]);
    promote(&[]).expect(2);
    let outcome = promote(&["--all", "--yes", "--json"]).outcome();
    assert_ne!(outcome.code, Some(0), "{outcome}");
    let told = outcome.json();
    let datasets = told["data"]["datasets"].as_array().unwrap().clone();
    let promoted: Vec<_> = datasets.iter().map(|one| one["promoted"] == true).collect();
    assert_eq!(promoted, [true, true, false], "{told}");
    let site = &datasets[1];
    assert_eq!(
        (&site["hooks"][0]["code"], &site["hooks_succeeded"]),
        (&3.into(), &false.into())
    );
    assert!(site["hooks"][0]["output"].to_string().contains("it broke"));
    sync("other").expect(FENCED);
    promote(&["site", "--yes"])
        .expect(1)
        .mentions(&["main already", "--hooks-only"]);
    write("echo works");
    promote(&["site", "--hooks-only"])
        .ok()
        .mentions(&["1 hook succeeded"]);
    promote(&["other", "--yes"])
        .ok()
        .mentions(&["main already"]);
    promote(&["wrong", "--hooks-only"]).outcome();
    assert_eq!(fs::read_to_string(role).unwrap(), "role: nobody knows\n");
}
