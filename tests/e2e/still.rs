//! Applications that are kept still while they are captured, by real programs: what is captured, and that they go on whatever ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::agent::{Agent, Scene};
use crate::support::{Kind, Run, Stage};

/// A scene whose application is kept still by `before`, and goes on by `after`: both have `$place` for their notes, where they note themselves, and
/// where `still` is there in between.
fn scene(before: &str, after: &str, settings: &str) -> Scene {
    scene_on(Stage::new(Kind::Embedded), before, after, settings)
}

fn scene_on(stage: Stage, before: &str, after: &str, settings: &str) -> Scene {
    let mut scene = Scene::on(stage);
    fs::write(scene.at("page"), "first").unwrap();
    fs::create_dir(scene.stage.path().join("notes")).unwrap();
    let before = program(&scene, "before", &format!("touch $place/still\n{before}"));
    let after = program(&scene, "after", &format!("{after}\nrm -f $place/still"));
    scene.dataset = format!(
        "before_capture = [[{before:?}, \"on\"]]\nafter_capture = [[{after:?}]]\n{settings}"
    );
    scene
}

/// A database that notes when it is dumped and whether the application was still then.
fn with_database(mut scene: Scene) -> Scene {
    let program = program(
        &scene,
        "engine",
        "[ $UNDERSTUDY_PHASE = dump ] || { cat $place/token; exit; }\n\
         [ -e $place/still ] && cat $place/token || echo 'not still'",
    );
    fs::write(note(&scene, "token"), "first").unwrap();
    scene.dataset += &format!(
        "[[dataset.database]]\nengine = \"command\"\nname = \"shop\"\ncommand = [{program:?}]\n"
    );
    scene
}

fn program(scene: &Scene, name: &str, script: &str) -> PathBuf {
    let program = scene.stage.path().join(name);
    let place = scene.stage.path().join("notes");
    let text = format!(
        "#!/bin/sh\nset -eu\nplace={}\necho {name} $UNDERSTUDY_DATASET ${{UNDERSTUDY_PATH-}} $@ >> $place/log\n{script}\n",
        place.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn note(scene: &Scene, name: &str) -> PathBuf {
    scene.stage.path().join("notes").join(name)
}

fn once(scene: &Scene) -> Run {
    Run::new(["agent", "--once", "--config"]).arg(scene.configure())
}

/// What has run, in its order; forgets it.
fn ran(scene: &Scene) -> Vec<String> {
    let text = fs::read_to_string(note(scene, "log")).unwrap_or_default();
    fs::remove_file(note(scene, "log")).ok();
    let first = |line: &str| line.split(' ').next().unwrap().to_owned();
    text.lines()
        .map(first)
        .filter(|one| one != "engine")
        .collect()
}

fn is_still(scene: &Scene) -> bool {
    note(scene, "still").exists()
}

fn is_noted(scene: &Scene) -> bool {
    scene.stage.state.join("still/site").exists()
}

fn dumped(scene: &Scene) -> String {
    let path = scene.stage.dataset().join("live/databases/shop/output");
    fs::read_to_string(path).unwrap()
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The processes that capture, of an agent.
fn capturers(agent: &Agent) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut parents = vec![agent.pid().as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let of = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let stat = String::from_utf8_lossy(&of("stat")).into_owned();
            let is_child = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok())
                == Some(parent);
            if is_child && String::from_utf8_lossy(&of("cmdline")).contains("capturer") {
                found.push(Pid::from_raw(number).unwrap());
                parents.push(number);
            }
        }
    }
    found
}

#[test]
fn databases_and_files_are_captured_while_the_application_is_still_and_only_then() {
    let scene = with_database(scene("", "", ""));
    once(&scene).ok();
    let log = fs::read_to_string(note(&scene, "log")).unwrap();
    let path = scene.stage.source.display();
    assert!(log.contains(&format!("before site {path} on\n")), "{log}");
    assert!(log.contains(&format!("after site {path}")), "{log}");
    assert_eq!(ran(&scene), ["before", "after"]);
    assert!(!is_still(&scene) && !is_noted(&scene));
    assert_eq!(dumped(&scene), "first");
    fs::write(scene.at("other"), "other").unwrap();
    // Files alone are no reason to keep anybody from working.
    fs::write(scene.at("page"), "second").unwrap();
    once(&scene).ok();
    assert_eq!(ran(&scene), [""; 0]);
    assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "second");
    // Once the files have gone first they need not any more, and what is gone goes at once.
    fs::write(note(&scene, "token"), "second").unwrap();
    fs::remove_file(scene.at("page")).unwrap();
    let data = once(&scene).data();
    assert_eq!(data["datasets"][0]["removed"], 1, "{data}");
    assert_eq!(data["datasets"][0]["snapshot"]["number"], 4, "{data}");
    assert_eq!(ran(&scene), ["before", "after"]);
    assert_eq!(dumped(&scene), "second");
    assert!(!scene.live("page").exists());
}

#[test]
fn what_a_program_changes_while_it_makes_the_application_still_is_in_the_snapshot() {
    let scene = scene(
        "printf $1 > $UNDERSTUDY_PATH/mode",
        "printf off > $UNDERSTUDY_PATH/mode",
        "",
    );
    once(&scene).ok();
    assert_eq!(fs::read_to_string(scene.live("mode")).unwrap(), "on");
    assert_eq!(fs::read_to_string(scene.at("mode")).unwrap(), "off");
}

#[test]
fn without_a_database_an_idle_cycle_keeps_nobody_from_working() {
    let scene = scene("", "", "");
    let mut agent = scene.start();
    agent.until("a snapshot", |cycle| cycle["committed"] == true);
    agent.until("rest", |cycle| cycle["committed"] == false);
    agent.next();
    ran(&scene);
    agent.next();
    agent.next();
    assert_eq!(ran(&scene), [""; 0]);
    fs::write(scene.at("page"), "second").unwrap();
    agent.until("the change", |cycle| cycle["committed"] == true);
    assert_eq!(ran(&scene)[..2], ["before", "after"]);
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}

#[test]
fn a_program_that_fails_ends_the_cycle_and_the_application_goes_on() {
    let scene = with_database(scene(
        "[ ! -e $place/fails ] || { echo 'no such job queue' >&2; exit 3; }",
        "",
        "",
    ));
    once(&scene).ok();
    ran(&scene);
    fs::write(note(&scene, "fails"), "").unwrap();
    fs::write(note(&scene, "token"), "second").unwrap();
    fs::write(scene.at("page"), "second").unwrap();
    for _ in 0..2 {
        once(&scene).expect(1).mentions(&[
            "no such job queue",
            "before on",
            "exit status: 3",
            "`after_capture` was run",
        ]);
        assert_eq!(ran(&scene), ["before", "after"]);
        assert!(!is_still(&scene) && !is_noted(&scene));
        // Files do not run ahead of rows.
        assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "first");
    }
    fs::remove_file(note(&scene, "fails")).unwrap();
    once(&scene).ok();
    assert_eq!(dumped(&scene), "second");
    assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "second");
}

#[test]
fn a_database_that_fails_lets_the_application_go_on() {
    let scene = with_database(scene("", "", ""));
    program(
        &scene,
        "engine",
        "[ $UNDERSTUDY_PHASE = dump ] || exit 0\necho 'no dump today' >&2; exit 1",
    );
    for round in 0..2 {
        once(&scene).expect(1).mentions(&["no dump today"]);
        assert_eq!(ran(&scene), ["before", "after"], "round {round}");
        assert!(!is_still(&scene) && !is_noted(&scene));
    }
}

#[test]
fn an_application_that_cannot_go_on_is_told_of_in_every_cycle_until_it_does() {
    let scene = with_database(scene(
        "",
        "[ ! -e $place/fails ] || { echo 'cannot start' >&2; exit 1; }",
        "",
    ));
    fs::write(note(&scene, "fails"), "").unwrap();
    once(&scene)
        .expect(1)
        .mentions(&["MAY STILL BE KEPT FROM WORKING", "cannot start", "by hand"]);
    // What was captured is of use all the same.
    assert_eq!(dumped(&scene), "first");
    assert_eq!(ran(&scene), ["before", "after", "after"]);
    assert!(is_still(&scene) && is_noted(&scene));
    once(&scene)
        .expect(1)
        .mentions(&["MAY STILL BE KEPT FROM WORKING", "cannot start"]);
    assert!(ran(&scene).iter().all(|one| one == "after"));
    fs::remove_file(note(&scene, "fails")).unwrap();
    once(&scene).ok();
    assert!(!is_still(&scene) && !is_noted(&scene));
    ran(&scene);
    once(&scene).ok();
    assert_eq!(ran(&scene), [""; 0]);
}

#[test]
fn an_application_is_kept_from_working_no_longer_than_it_may_be() {
    let scene = with_database(scene("", "", "max_capture = \"2s\"\n"));
    let engine = "[ $UNDERSTUDY_PHASE = dump ] || { cat $place/token; exit; }\n\
                  [ ! -e $place/slow ] || { until [ ! -e $place/still ]; do sleep 0.1; done; sleep 1; }\ncat $place/token";
    program(&scene, "engine", engine);
    once(&scene).ok();
    ran(&scene);
    fs::write(note(&scene, "slow"), "").unwrap();
    fs::write(note(&scene, "token"), "second").unwrap();
    fs::write(scene.at("page"), "second").unwrap();
    once(&scene).expect(1).mentions(&["`max_capture`", "2 s"]);
    assert_eq!(ran(&scene), ["before", "after"]);
    assert_eq!(dumped(&scene), "first");
    assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "first");
    // The next time the files go first, but not once more: they would run ahead of the rows.
    for token in ["third", "fourth"] {
        fs::write(note(&scene, "token"), token).unwrap();
        once(&scene).expect(1).mentions(&["`max_capture`"]);
        assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "second");
        fs::write(scene.at("page"), "third").unwrap();
    }
    // What was dumped already is captured while the application is still, like any other.
    ran(&scene);
    let data = once(&scene).data();
    assert_eq!(data["datasets"][0]["snapshot"]["number"], 4, "{data}");
    assert_eq!(dumped(&scene), "fourth");
    assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "third");
    assert_eq!(ran(&scene), ["before", "after"]);
    fs::remove_file(note(&scene, "slow")).unwrap();
    ran(&scene);
    // A program that waits for ever is ended as well.
    program(&scene, "before", "touch $place/still; sleep 1000");
    fs::write(note(&scene, "token"), "last").unwrap();
    ran(&scene);
    once(&scene)
        .expect(1)
        .mentions(&["`max_capture`", "was killed"]);
    assert_eq!(ran(&scene), ["before", "after"]);
    assert!(!is_still(&scene) && !is_noted(&scene));
}

/// Its dump waits until the test says so.
fn waiting() -> Scene {
    let scene = with_database(scene("", "", ""));
    program(
        &scene,
        "engine",
        "[ $UNDERSTUDY_PHASE = dump ] || { cat $place/token; exit; }\n\
         [ ! -e $place/slow ] || { touch $place/dumping; until [ ! -e $place/slow ]; do sleep 0.01; done; }\n\
         cat $place/token",
    );
    fs::write(note(&scene, "slow"), "").unwrap();
    scene
}

fn await_still(scene: &Scene) {
    await_that("being dumped", || note(scene, "dumping").exists());
    assert!(is_still(scene) && is_noted(scene));
}

#[test]
fn an_application_goes_on_when_the_agent_ends_or_is_killed() {
    for signal in [Signal::TERM, Signal::KILL] {
        let scene = waiting();
        let mut agent = scene.start();
        await_still(&scene);
        let (code, _) = agent.end(signal);
        assert_eq!(code.unwrap_or_default(), 0);
        await_that("going on", || !is_still(&scene) && !is_noted(&scene));
        assert_eq!(ran(&scene), ["before", "after"]);
    }
}

#[test]
fn an_application_goes_on_when_a_service_is_stopped() {
    // As systemd does: everybody is told to end.
    let scene = waiting();
    let mut agent = scene.start();
    await_still(&scene);
    for one in capturers(&agent) {
        kill_process(one, Signal::TERM).unwrap();
    }
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
    await_that("going on", || !is_still(&scene) && !is_noted(&scene));
    assert_eq!(ran(&scene), ["before", "after"]);
}

#[test]
fn an_application_goes_on_when_one_of_those_is_killed_who_keep_it_still() {
    for which in 0..2 {
        let scene = waiting();
        let mut agent = scene.start();
        await_still(&scene);
        let all = capturers(&agent);
        assert!(
            all.len() >= 3,
            "the keeper, who keeps it still, and who dumps"
        );
        kill_process(all[which], Signal::KILL).unwrap();
        await_that("going on", || !is_still(&scene) && !is_noted(&scene));
        fs::remove_file(note(&scene, "slow")).unwrap();
        let cycle = agent.next();
        let message = cycle["error"]["message"].as_str().unwrap();
        match which {
            0 => assert!(
                message.contains("the process that lets it go on has gone"),
                "{message}"
            ),
            _ => assert!(message.contains("has gone (signal: 9"), "{message}"),
        }
        assert_eq!(ran(&scene)[..2], ["before", "after"]);
        if which == 0 {
            // Whoever starts services that failed starts it again.
            await_that("ended", || !agent.is_alive());
        } else {
            agent.until("a snapshot", |cycle| cycle["committed"] == true);
            assert_eq!(agent.end(Signal::TERM).0, Some(0));
        }
    }
}

#[test]
fn an_application_goes_on_at_the_next_start_when_all_were_killed() {
    let scene = waiting();
    let mut agent = scene.start();
    await_still(&scene);
    let all = capturers(&agent);
    // The one that keeps it still would let it go on before it is killed as well.
    for one in &all {
        kill_process(*one, Signal::STOP).unwrap();
    }
    agent.end(Signal::KILL);
    for one in &all {
        kill_process(*one, Signal::KILL).unwrap();
    }
    await_that("ended", || {
        all.iter()
            .all(|one| !Path::new(&format!("/proc/{}/fd/0", one.as_raw_nonzero())).exists())
    });
    assert!(is_still(&scene) && is_noted(&scene));
    assert_eq!(ran(&scene), ["before"]);
    fs::remove_file(note(&scene, "slow")).unwrap();
    let mut agent = scene.start();
    await_that("going on", || {
        fs::read_to_string(note(&scene, "log")).is_ok_and(|log| log.starts_with("after"))
    });
    agent.until("a snapshot", |cycle| cycle["committed"] == true);
    assert_eq!(ran(&scene)[..3], ["after", "before", "after"]);
    assert!(!is_still(&scene) && !is_noted(&scene));
    assert!(
        agent.reported().contains("was kept still"),
        "{}",
        agent.reported()
    );
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}

#[test]
fn a_note_that_nobody_can_act_upon_is_told_of() {
    let mut scene = scene("", "", "");
    once(&scene).ok();
    fs::write(scene.stage.state.join("still/site"), "since yesterday\n").unwrap();
    scene.dataset = String::new();
    let outcome = once(&scene).ok();
    assert!(
        outcome.stderr.contains("no `after_capture`"),
        "{}",
        outcome.stderr
    );
    assert!(is_noted(&scene));
}

#[test]
fn a_handover_leaves_an_application_alone_that_is_stopped() {
    let mut scene = with_database(scene("", "", ""));
    scene.settings = "on_stop = [[\"/bin/true\"]]\n".to_owned();
    once(&scene).ok();
    ran(&scene);
    fs::write(note(&scene, "token"), "second").unwrap();
    Run::new(["handover", "site", "--yes", "--config"])
        .arg(scene.configure())
        .ok();
    assert_eq!(ran(&scene), [""; 0]);
}

#[test]
fn nobody_is_kept_from_working_for_a_spare_that_is_not_there() {
    let mut scene = with_database(scene_on(Stage::new(Kind::Tcp), "", "", ""));
    once(&scene).ok();
    assert_eq!(ran(&scene), ["before", "after"]);
    fs::write(note(&scene, "token"), "second").unwrap();
    scene.stage.daemon.as_mut().unwrap().kill();
    once(&scene).expect(6);
    assert_eq!(ran(&scene), [""; 0]);
    scene.stage.restart(None);
    once(&scene).ok();
    assert_eq!(dumped(&scene), "second");
    assert_eq!(ran(&scene), ["before", "after"]);
}
