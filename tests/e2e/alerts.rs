//! The spare tells people that its main is silent, held back or failing, and goes on working whatever their programs do.
//!
//! What a guard of the receiver refuses no agent sends by itself, so one test speaks the protocol.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use understudy_agent::identity::Identity;
use understudy_protocol::message::{Begin, Change, Changes, Commit};
use understudy_protocol::transport::tls::{self, Credentials};
use understudy_protocol::{DatasetName, DirectoryId, Message, Name, Place, StateDigest};

use crate::support::listener::{Listener, Manner, TlsServer};
use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Daemon, Kind, Run, Stage};

/// Longer than anything here takes; only failed tests wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A second dataset, of the same source.
const OTHER: &str = "other";

/// A stage whose receiver has a configuration.
struct Scene {
    stage: Stage,
    config: PathBuf,
    told: PathBuf,
}

impl Scene {
    /// Starts the receiver with `alerts` as the part `[alerts]`, the command added.
    fn start(alerts: &str) -> Self {
        Self::start_with(alerts, "")
    }

    /// As `start`, with `script` before the command notes what it is told.
    fn start_with(alerts: &str, script: &str) -> Self {
        let stage = Stage::new(Kind::Embedded);
        let told = stage.path().join("told");
        std::fs::create_dir(&told).unwrap();
        let path = stage.path().join("page");
        let script = format!(
            "#!/bin/sh\n{script}\nf={}/$(date +%s%N)-$$\ncat > $f.new && mv $f.new $f.json\n",
            told.display()
        );
        std::fs::write(&path, script).unwrap();
        let mut scene = Self {
            config: stage.path().join("receiver.toml"),
            told,
            stage,
        };
        scene.configure(alerts);
        std::fs::write(scene.stage.source.join("file"), "content").unwrap();
        scene.listen("127.0.0.1:0");
        scene
    }

    fn configure(&self, alerts: &str) {
        let page = self.stage.path().join("page");
        let text = format!("[alerts]\ncommand = [\"/bin/sh\", {page:?}]\n{alerts}\n");
        std::fs::write(&self.config, text).unwrap();
    }

    fn listen(&mut self, address: &str) {
        let config = &self.config;
        self.stage.daemon = Some(Daemon::start_with(&self.stage.store, address, |run| {
            run.arg("--config").arg(config).env("NO_PROXY", "127.0.0.1")
        }));
    }

    fn restart(&mut self) {
        let mut daemon = self.stage.daemon.take().unwrap();
        daemon.kill();
        let address = daemon.address.clone();
        drop(daemon);
        self.listen(&address);
    }

    fn reported(&self) -> String {
        self.stage.daemon.as_ref().unwrap().reported()
    }

    fn hang_up(&self) {
        let pid = self.stage.daemon.as_ref().unwrap().pid();
        kill_process(pid, Signal::HUP).unwrap();
    }

    /// Syncs the source as the second dataset.
    fn sync_other(&self) {
        Run::new(["sync"])
            .arg(&self.stage.source)
            .args([
                "--dataset",
                OTHER,
                "--spare",
                &self.stage.spare(),
                "--state",
            ])
            .arg(&self.stage.state)
            .ok();
    }

    /// What the command was told, in order.
    fn told(&self) -> Vec<Value> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.told)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .collect();
        paths.sort();
        let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        paths.iter().map(read).collect()
    }

    /// How often it was told this of a dataset.
    fn count(&self, dataset: &str, kind: &str, event: &str) -> usize {
        let told = self.told();
        let is_meant = |told: &&Value| {
            told["dataset"] == dataset && told["kind"] == kind && told["event"] == event
        };
        told.iter().filter(is_meant).count()
    }

    /// Waits until it was told this of a dataset so many times.
    fn await_told(&self, dataset: &str, kind: &str, event: &str, times: usize) {
        let what = format!("{dataset} {kind} {event}");
        await_that(&what, || self.count(dataset, kind, event) >= times);
    }

    fn acknowledge(&self) -> Run {
        Run::new(["acknowledge", DATASET])
            .arg("--store")
            .arg(&self.stage.store)
    }
}

/// Polls until `holds`.
fn await_that(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_silent_main_is_told_of_until_somebody_cares_and_when_it_is_back() {
    let web = Listener::start(Manner::Answers);
    let hook = web.url("/hook");
    let alerts = format!("lag = \"4s\"\nrepeat = \"1s\"\nwebhook = \"{hook}\"");
    let mut scene = Scene::start(&alerts);
    scene.stage.sync().ok();
    scene.sync_other();
    for dataset in [DATASET, OTHER] {
        scene.await_told(dataset, "lag", "raised", 1);
        scene.await_told(dataset, "lag", "repeated", 2);
    }
    let first = scene.told().remove(0);
    assert_eq!(first["schema"], 1, "{first}");
    assert_eq!(first["lag_limit_seconds"], 4, "{first}");
    assert!(first["lag_seconds"].as_i64() > Some(4), "{first}");
    await_that("the webhook", || {
        let requests = web.requests();
        let mut bodies = requests
            .iter()
            .filter(|request| request.line == "POST /hook");
        bodies.any(|request| request.body["dataset"] == DATASET && request.body["kind"] == "lag")
    });

    let said = scene.acknowledge().ok();
    said.mentions(&["acknowledged", DATASET, "lag", "behind its main"]);
    // What was on its way has arrived after one more of the other's; after that there is no more.
    let further = |more| {
        let times = scene.count(OTHER, "lag", "repeated") + more;
        scene.await_told(OTHER, "lag", "repeated", times);
    };
    further(2);
    let before = scene.count(DATASET, "lag", "repeated");
    further(2);
    scene.restart();
    let other = scene.count(OTHER, "lag", "repeated");
    scene.await_told(OTHER, "lag", "repeated", other + 2);
    assert_eq!(
        scene.count(DATASET, "lag", "repeated"),
        before,
        "it was acknowledged"
    );
    assert_eq!(scene.count(DATASET, "lag", "raised"), 1, "it is no new one");

    let begun = Instant::now();
    while scene.count(DATASET, "lag", "over") == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is not over");
        scene.stage.sync().ok();
    }
    scene.await_told(DATASET, "lag", "raised", 2);
    let again = scene.acknowledge().arg("lag").data();
    assert_eq!(again["acknowledged"][0]["kind"], "lag", "{again}");
    assert_eq!(
        again["acknowledged"][0]["acknowledged_before"],
        Value::Null,
        "{again}"
    );
}

#[test]
fn a_guard_that_refuses_is_told_at_once() {
    let mut scene = Scene::start("");
    for name in ["a", "b", "c"] {
        std::fs::write(scene.stage.source.join(name), name).unwrap();
    }
    scene.stage.sync().ok();
    remove_everything(&scene.stage, &["a", "b", "c", "file"]);
    scene.await_told(DATASET, "guard", "raised", 1);
    assert!(scene.stage.daemon.as_mut().unwrap().is_alive());
    scene.stage.sync().ok();
    scene.await_told(DATASET, "guard", "over", 1);
}

/// Sends a change set as a main would that has lost everything.
fn remove_everything(stage: &Stage, names: &[&str]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = stage.spare();
    let identity = Identity::open(&stage.state).unwrap().unwrap();
    let credentials = Credentials::new(identity.secret()).unwrap();
    let key = identity.spare(&address).unwrap().unwrap().key;
    let mut channel = tls::connect(runtime.handle(), &address, &credentials, key).unwrap();
    channel.greet().unwrap();
    let dataset = DatasetName::new(DATASET).unwrap();
    let send = |message| channel.outgoing.send_message(&message).unwrap();
    send(Message::Begin(Begin { dataset }));
    let Message::Ready(ready) = channel.incoming.receive_message().unwrap() else {
        panic!("the receiver is not ready");
    };
    let mut end = channel.incoming.receive_message().unwrap();
    if matches!(end, Message::Stated(_)) {
        end = channel.incoming.receive_message().unwrap();
    }
    assert!(matches!(end, Message::LeftoverEnd(_)), "{end:?}");
    let remove = |name: &&str| Change::Remove {
        place: Place {
            parent: DirectoryId::FILES,
            name: Name::new(*name).unwrap(),
        },
    };
    let records = names.iter().map(remove).collect();
    send(Message::Changes(Changes { records }));
    send(Message::Commit(Commit {
        base: ready.position,
        fingerprint: StateDigest::empty().fingerprint(),
        elapsed_milliseconds: 0,
    }));
    let answer = channel.incoming.receive_message().unwrap_err();
    assert!(answer.to_string().contains("is empty now"), "{answer}");
}

#[test]
fn three_failed_cycles_are_told() {
    let scene = Scene::start("");
    scene.stage.sync().ok();
    std::fs::remove_file(scene.stage.source.join("file")).unwrap();
    for _ in 0..3 {
        // The agent's own guard: its source is empty.
        scene.stage.sync().expect(4);
    }
    scene.await_told(DATASET, "failures", "raised", 1);
}

#[test]
fn commands_and_webhooks_that_hang_stop_nothing() {
    let (web, hanging) = (
        Listener::start(Manner::Answers),
        Listener::start(Manner::Hangs),
    );
    let alerts = format!(
        "lag = \"2s\"\nheartbeat_interval = \"1s\"\nheartbeat = \"{}\"\nwebhook = \"{}\"",
        web.url("/beat"),
        hanging.url("/hook"),
    );
    let scene = Scene::start_with(
        &alerts,
        &format!("[ $UNDERSTUDY_DATASET = {DATASET} ] && exec sleep 40"),
    );
    scene.stage.sync().ok();
    await_that("the first webhook", || {
        let requests = hanging.requests();
        requests
            .iter()
            .any(|request| request.body["dataset"] == DATASET)
    });
    scene.sync_other();
    scene.await_told(OTHER, "lag", "raised", 1);
    let beats = web.count("GET /beat");
    await_that("heartbeats", || web.count("GET /beat") >= beats + 2);
    let reported = scene.reported();
    assert!(
        !reported.contains("was killed"),
        "it was waited for: {reported}"
    );
    std::fs::write(scene.stage.source.join("file"), "changed").unwrap();
    scene.stage.sync_and_judge();
    assert_eq!(
        scene.count(DATASET, "lag", "raised"),
        0,
        "its command hangs"
    );
}

#[test]
fn heartbeats_follow_good_cycles_and_may_tell_of_failures() {
    let web = Listener::start(Manner::Answers);
    let part = format!(
        "[alerts.dataset.{DATASET}]\nheartbeat = \"{}\"",
        web.url("/site")
    );
    let scene = Scene::start(&format!("lag = \"1h\"\n{part}"));
    scene.stage.sync().ok();
    await_that("a heartbeat after a commit", || web.count("GET /site") == 1);
    scene.stage.sync().ok();
    await_that("one after a confirmation", || web.count("GET /site") == 2);
    assert_eq!(web.count("GET /site/fail"), 0);

    // A new limit, by a reload, makes it an alert; a wrong one changes nothing.
    let strict = "lag = \"1s\"\nrepeat = \"1s\"";
    scene.configure(&format!("{strict}\n{part}"));
    scene.hang_up();
    scene.await_told(DATASET, "lag", "repeated", 1);
    assert_eq!(web.count("GET /site/fail"), 0, "nobody asked for it");
    scene.configure(&format!("{strict}\nheartbeat_fail = true\n{part}"));
    scene.hang_up();
    await_that("a failure", || web.count("GET /site/fail") >= 1);
    scene.configure("lag = \"0s\"");
    scene.hang_up();
    await_that("an error", || {
        scene.reported().contains("receiver.toml:3:7")
    });
    let times = scene.count(DATASET, "lag", "repeated");
    scene.await_told(DATASET, "lag", "repeated", times + 2);
    assert_eq!(web.count("GET /site"), 2, "no cycle, no heartbeat");
}

#[test]
fn only_a_server_that_can_prove_itself_is_told() {
    needs!("the test of encrypted heartbeats": "openssl");
    let stage = Stage::new(Kind::Embedded);
    let server = TlsServer::start(stage.path());
    let config = stage.path().join("receiver.toml");
    let text = format!(
        "[alerts]\nheartbeat_interval = \"1s\"\nheartbeat = \"https://localhost:{}/beat/secret\"\n",
        server.port,
    );
    std::fs::write(&config, text).unwrap();
    let receiver = |authority: &str| {
        Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
            run.arg("--config")
                .arg(&config)
                .env("NO_PROXY", "localhost")
                .env("UNDERSTUDY_LOG", "understudy=debug")
                .env("SSL_CERT_FILE", stage.path().join(authority))
        })
    };
    let stranger = receiver("other.pem");
    await_that("a refusal", || {
        stranger.reported().contains("invalid peer certificate")
    });
    assert!(!stranger.reported().contains("told https"));
    assert!(
        !stranger.reported().contains("secret"),
        "{}",
        stranger.reported()
    );
    drop(stranger);
    let known = receiver("authority.pem");
    await_that("a heartbeat", || {
        known
            .reported()
            .contains("heartbeat: told https://localhost")
    });
}

#[test]
fn what_nobody_could_know_is_refused_before_anything_starts() {
    let stage = Stage::new(Kind::Embedded);
    let config = stage.path().join("receiver.toml");
    let refused = |text: &str, words: &[&str]| {
        std::fs::write(&config, text).unwrap();
        let run = Run::new(["receiver", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        run.arg("--store")
            .arg(&stage.store)
            .expect(2)
            .mentions(words);
    };
    refused(
        "[alerts]\nlags = \"1h\"\n",
        &["receiver.toml:2:1", "did you mean `lag`"],
    );
    refused("[alerts]\nrepeat = \"0s\"\n", &["receiver.toml:2:10"]);
    refused(
        "[alerts]\ncommand = [\"page\"]\n",
        &["receiver.toml:2:11", "absolute"],
    );
    refused(
        "[alerts]\nwebhook = \"file:///etc\"\n",
        &["receiver.toml:2:11", "http"],
    );
    assert!(!Path::new(&stage.store).exists());

    let run = Run::new(["acknowledge", DATASET, "--spare", "127.0.0.1:7433"]);
    run.expect(2).mentions(&["on the spare itself"]);
    stage.sync().ok();
    let spare = stage.spare();
    let run = |arguments: &[&str]| Run::new(arguments).args(["--spare", &spare]);
    run(&["acknowledge", DATASET]).ok().mentions(&["no alert"]);
    run(&["acknowledge", DATASET, "noise"])
        .expect(2)
        .mentions(&["lag, failures, guard"]);
    run(&["acknowledge", "nobody"])
        .expect(1)
        .mentions(&["no dataset `nobody`", DATASET]);
}

#[test]
fn what_somebody_writes_into_live_is_told_until_it_is_dealt_with() {
    let scene = Scene::start("");
    let stage = &scene.stage;
    stage.sync().ok();
    std::fs::write(stage.live().join("file"), "by somebody").unwrap();
    std::fs::write(stage.source.join("other"), "by the main").unwrap();
    stage.sync().ok();
    scene.await_told(DATASET, "drift", "raised", 1);
    let told = scene.told();
    let reason = told[0]["reason"].as_str().unwrap();
    assert!(reason.contains("drift show"), "{reason}");
    // The next one is news.
    std::fs::write(stage.live().join("file"), "once more").unwrap();
    stage.sync().ok();
    scene.await_told(DATASET, "drift", "raised", 2);
    for number in ["2", "4"] {
        let unpin = Run::new(["unpin", DATASET, number, "--store"]);
        unpin.arg(&stage.store).ok();
    }
    scene.await_told(DATASET, "drift", "over", 1);
}
