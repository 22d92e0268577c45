//! The processes that capture databases: what they run, what they end, and what they have of whoever starts them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::agent::Scene;
use crate::support::{Kind, Run, Stage};

/// A scene with a file, and a database that `script` takes, which has `$place` for its notes.
fn scene(script: &str, settings: &str) -> Scene {
    let mut scene = Scene::on(Stage::new(Kind::Embedded));
    fs::write(scene.at("page"), "first").unwrap();
    let program = scene.stage.path().join("engine");
    let place = scene.stage.path().join("notes");
    fs::create_dir(&place).unwrap();
    let text = format!("#!/bin/sh\nset -eu\nplace={}\n{script}\n", place.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    scene.dataset = database(&program, settings);
    scene
}

fn database(program: &std::path::Path, settings: &str) -> String {
    format!(
        "[[dataset.database]]\nengine = \"command\"\nname = \"shop\"\ncommand = [{program:?}]\n{settings}"
    )
}

fn note(scene: &Scene, name: &str) -> PathBuf {
    scene.stage.path().join("notes").join(name)
}

fn once(scene: &Scene) -> Run {
    Run::new(["agent", "--once", "--config"]).arg(scene.configure())
}

/// What of a dump the spare has.
fn dumped(scene: &Scene, file: &str) -> String {
    let path = scene.stage.dataset().join("live/databases/shop").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The processes whose numbers a script has noted.
fn noted(scene: &Scene) -> Vec<u32> {
    let text = fs::read_to_string(note(scene, "processes")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn is_running(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn await_that(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Notes itself, its parent, which is the process that runs it, and one that it leaves behind; then does something with the parent and waits.
const LEAVE_BEHIND: &str = "sleep 1000 & printf '%s\\n' $$ $PPID $! > $place/processes\n";

#[test]
fn a_program_has_little_of_the_environment_and_may_say_not_now() {
    let scene = scene(
        "case $UNDERSTUDY_PHASE in\n\
         probe) if [ -e $place/not-now ]; then echo 'the nightly import runs' >&2; exit 75; fi; date +%s%N;;\n\
         dump) env > \"$UNDERSTUDY_OUT/environment\"; echo content;;\nesac",
        "",
    );
    let cycle = || once(&scene).env("UNDERSTUDY_TEST_SECRET", "secret");
    cycle().ok();
    assert_eq!(dumped(&scene, "output"), "content\n");
    let environment = dumped(&scene, "environment");
    let known = [
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "PWD", "SHLVL", "_",
    ];
    for line in environment.lines() {
        let key = line.split('=').next().unwrap();
        assert!(
            known.contains(&key) || key.starts_with("UNDERSTUDY_"),
            "{line}"
        );
    }
    assert!(!environment.contains("secret"), "{environment}");

    fs::write(note(&scene, "not-now"), "").unwrap();
    fs::write(scene.at("page"), "second").unwrap();
    cycle()
        .expect(1)
        .mentions(&["not now", "the nightly import runs", "shop", "site"]);
    assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "first");
    fs::remove_file(note(&scene, "not-now")).unwrap();
    cycle().ok();
    assert_eq!(fs::read_to_string(scene.live("page")).unwrap(), "second");
}

#[test]
fn a_capture_that_does_not_end_is_ended_with_all_that_it_started_and_the_next_one_works() {
    let script = format!(
        "[ $UNDERSTUDY_PHASE = dump ] && echo content && exit\n\
         [ -e $place/processes ] && exit\n{LEAVE_BEHIND}kill -STOP $PPID; sleep 1000"
    );
    let scene = scene(&script, "max_probe = \"1s\"\n");
    let mut agent = scene.start();
    let cycle = agent.next();
    let message = cycle["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("was ended") && message.contains("`max_probe`"),
        "{message}"
    );
    let processes = noted(&scene);
    assert_eq!(processes.len(), 3);
    await_that("ended", || !processes.iter().any(|one| is_running(*one)));
    agent.until("a snapshot", |cycle| cycle["committed"] == true);
    assert_eq!(dumped(&scene, "output"), "content\n");
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}

#[test]
fn a_capture_that_dies_is_told_and_leaves_nothing_behind_and_the_next_one_works() {
    let script = format!(
        "[ $UNDERSTUDY_PHASE = probe ] && exit\n\
         [ -e $place/processes ] && echo content && exit\n{LEAVE_BEHIND}kill -KILL $PPID; sleep 1000"
    );
    let scene = scene(&script, "");
    let mut agent = scene.start();
    let cycle = agent.next();
    let message = cycle["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("has gone") && message.contains("signal: 9"),
        "{message}"
    );
    let processes = noted(&scene);
    assert_eq!(processes.len(), 3);
    await_that("ended", || !processes.iter().any(|one| is_running(*one)));
    agent.until("a snapshot", |cycle| cycle["committed"] == true);
    assert_eq!(dumped(&scene, "output"), "content\n");
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}

#[test]
fn programs_end_with_the_agent_however_that_ends() {
    let script = format!("[ $UNDERSTUDY_PHASE = probe ] && exit\n{LEAVE_BEHIND}wait");
    for signal in [Signal::TERM, Signal::KILL] {
        let scene = scene(&script, "");
        let mut agent = scene.start();
        await_that("begun", || noted(&scene).len() == 3);
        let processes = noted(&scene);
        let (code, took) = agent.end(signal);
        assert_eq!(code.unwrap_or_default(), 0);
        assert!(took < Duration::from_secs(10), "it took {took:?}");
        await_that("ended", || !processes.iter().any(|one| is_running(*one)));
        let databases = scene.stage.live().with_file_name("databases");
        assert!(!databases.exists(), "half a dump");
    }
}

/// The process that an agent speaks to.
struct Capturer {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<std::process::ChildStdout>,
}

impl Capturer {
    fn start(scene: &Scene) -> Self {
        let run = Run::new(["capturer", "--state"])
            .arg(&scene.stage.state)
            .arg(scene.configure());
        let mut child = run.spawn_with([Stdio::piped(), Stdio::piped(), Stdio::inherit()]);
        Self {
            to: child.stdin.take(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, number: u64, dataset: &str, phase: &Value) {
        let request = json!({
            "number": number, "dataset": dataset, "database": "shop", "phase": phase,
        });
        writeln!(self.to.as_ref().unwrap(), "{request}").unwrap();
    }

    fn reply(&mut self) -> (u64, Value) {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let reply: Value = serde_json::from_str(&line).unwrap();
        (reply["number"].as_u64().unwrap(), reply["answer"].clone())
    }
}

impl Drop for Capturer {
    fn drop(&mut self) {
        self.to = None;
        self.child.wait().ok();
    }
}

/// Makes a place for a dump, as an agent does.
fn prepare(scene: &Scene, dataset: &str, name: &str) -> PathBuf {
    let place = scene
        .stage
        .state
        .join("databases")
        .join(dataset)
        .join("shop");
    fs::create_dir_all(place.join(name)).unwrap();
    place.join(name)
}

#[test]
fn two_datasets_are_captured_at_the_same_time_and_one_in_turn() {
    // Each waits until another one runs, of which there must be none of the same dataset.
    let mut scene = scene(
        "[ $UNDERSTUDY_PHASE = dump ] || { echo token; exit; }\n\
         mkdir $place/$UNDERSTUDY_DATASET\n\
         until [ -e $place/site ] && [ -e $place/other ]; do sleep 0.01; done\n\
         touch $place/$UNDERSTUDY_DATASET.met\n\
         until [ -e $place/site.met ] && [ -e $place/other.met ]; do sleep 0.01; done\n\
         echo $UNDERSTUDY_DATASET; rmdir $place/$UNDERSTUDY_DATASET",
        "",
    );
    let source = scene.outside("other source");
    fs::create_dir(&source).unwrap();
    let program = scene.stage.path().join("engine");
    scene.others = format!(
        "[[dataset]]\npath = {source:?}\nname = \"other\"\n{}",
        database(&program, "")
    );
    let into = prepare(&scene, "site", "taking-1");
    prepare(&scene, "other", "taking-1");
    let mut capturer = Capturer::start(&scene);
    capturer.ask(1, "site", &json!({ "dump": "taking-1" }));
    capturer.ask(2, "site", &json!("probe"));
    capturer.ask(3, "other", &json!({ "dump": "taking-1" }));
    capturer.ask(4, "nobody", &json!("probe"));
    let mut replies: Vec<_> = (0..4).map(|_| capturer.reply()).collect();
    let place = |number| replies.iter().position(|one| one.0 == number).unwrap();
    assert!(place(1) < place(2), "{replies:?}");
    replies.sort_by_key(|reply| reply.0);
    assert!(replies[0].1["dump"].is_object(), "{replies:?}");
    assert_eq!(replies[1].1["probe"]["token"], "token", "{replies:?}");
    assert!(replies[2].1["dump"].is_object(), "{replies:?}");
    assert_eq!(replies[3].1["failure"]["kind"], "failed", "{replies:?}");
    assert_eq!(fs::read_to_string(into.join("output")).unwrap(), "site\n");
}

#[test]
fn a_dump_goes_nowhere_but_into_the_agents_own_state() {
    let scene = scene("echo content", "");
    let place = prepare(&scene, "site", "taking-1");
    let elsewhere = scene.stage.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, place.with_file_name("taking-2")).unwrap();
    let mut capturer = Capturer::start(&scene);
    for (number, name) in [
        "taking-2",
        "..",
        "../../../elsewhere",
        elsewhere.to_str().unwrap(),
        "",
        "absent",
    ]
    .into_iter()
    .enumerate()
    {
        capturer.ask(number as u64, "site", &json!({ "dump": name }));
        let (_, answer) = capturer.reply();
        let text = answer["failure"]["text"].as_str();
        assert!(
            text.is_some_and(|text| text.contains("no place for its dump")),
            "{name}: {answer}"
        );
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    capturer.ask(9, "site", &json!({ "dump": "taking-1" }));
    let (_, answer) = capturer.reply();
    assert!(answer["dump"].is_object(), "{answer}");
    assert_eq!(
        fs::read_to_string(place.join("output")).unwrap(),
        "content\n"
    );
}

#[test]
fn checking_databases_says_what_is_to_be_done() {
    let mut scene = scene(
        "[ $UNDERSTUDY_PHASE = check ] || exit 64\n\
         [ ! -e $place/fails ] || { echo 'cannot log in' >&2; exit 1; }\n\
         cat $place/problems || exit 0",
        "",
    );
    fs::write(note(&scene, "problems"), "").unwrap();
    let source = scene.outside("other source");
    fs::create_dir(&source).unwrap();
    let absent = scene.stage.path().join("absent");
    let other = format!(
        "[[dataset]]\npath = {source:?}\nname = \"other\"\n{}",
        database(&absent, "")
    );
    let check = |scene: &Scene| Run::new(["check", "databases", "--agent"]).arg(scene.configure());
    assert_eq!(check(&scene).ok().stdout, "ok: site/shop\n");

    scene.others = other;
    let outcome = check(&scene).expect(1);
    assert_eq!(outcome.stdout, "ok: site/shop\n");
    outcome.mentions(&[
        "other/shop",
        "absent",
        "Correct `command`",
        "1 of 2 databases",
    ]);
    assert_eq!(check(&scene).arg("site").ok().stdout, "ok: site/shop\n");
    check(&scene)
        .arg("nobody")
        .expect(2)
        .mentions(&["no dataset `nobody`"]);

    let lines = "views cannot be read: GRANT SHOW VIEW\nroutines neither\n";
    fs::write(note(&scene, "problems"), lines).unwrap();
    let outcome = check(&scene).arg("--json").expect(1);
    let data = &outcome.json()["data"];
    let problems = &data["databases"][0]["problems"];
    assert_eq!(problems.as_array().map(Vec::len), Some(2), "{data}");
    check(&scene)
        .expect(1)
        .mentions(&["site/shop: views cannot be read", "site/shop: routines"]);
    fs::write(note(&scene, "fails"), "").unwrap();
    check(&scene)
        .arg("site")
        .expect(1)
        .mentions(&["site/shop", "cannot log in"]);
    for wrong in [["--expect", "main"], ["--store", "/srv/spare"]] {
        Run::new(["check", "databases"]).args(wrong).expect(2);
    }
    Run::new(["check", "role"])
        .expect(2)
        .mentions(&["--expect"]);
}

/// Its content is in a file beside it.
const OF_A_FILE: &str = "[ $UNDERSTUDY_PHASE = check ] || cat $place/content";

#[test]
fn a_handover_ships_what_the_database_has_once_the_application_is_stopped() {
    let mut scene = scene(OF_A_FILE, "");
    fs::write(note(&scene, "content"), "first").unwrap();
    let stop = "printf last > $1";
    scene.settings = format!(
        "on_stop = [[\"/bin/sh\", \"-c\", {stop:?}, \"stop\", {:?}]]\n",
        note(&scene, "content")
    );
    once(&scene).ok();
    assert_eq!(dumped(&scene, "output"), "first");
    let hand_over = Run::new(["handover", "site", "--yes", "--config"]).arg(scene.configure());
    hand_over.ok();
    assert_eq!(dumped(&scene, "output"), "last");
}

#[test]
fn a_first_database_while_the_agent_runs_is_not_left_out_in_silence() {
    let mut scene = scene(OF_A_FILE, "");
    fs::write(note(&scene, "content"), "first").unwrap();
    let with_database = std::mem::take(&mut scene.dataset);
    let mut agent = scene.start();
    agent.until("a snapshot", |cycle| cycle["committed"] == true);
    scene.dataset = with_database;
    scene.configure();
    agent.signal(Signal::HUP);
    let cycle = agent.until("what is to be done", |cycle| cycle["error"].is_object());
    let message = cycle["error"]["message"].as_str().unwrap();
    assert!(message.contains("restart it"), "{message}");
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
    let mut agent = scene.start();
    agent.until("another one", |cycle| cycle["committed"] == true);
    assert_eq!(dumped(&scene, "output"), "first");
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}
