//! A spare behind ssh: a real server and a real client, on loopback.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::needs::needs;
use crate::support::pairing;
use crate::support::pipes::stand_in;
use crate::support::proxy::Proxy;
use crate::support::sshd::{Sshd, spare_at};
use crate::support::stage::DATASET;
use crate::support::trees::set_generation;
use crate::support::{Kind, Outcome, Random, Run, Stage, judge};

const FILES: usize = 50;

/// A stage whose store is reached through a server of ssh.
struct Remote {
    sshd: Sshd,
    stage: Stage,
}

impl Remote {
    fn new() -> Self {
        let stage = Stage::new(Kind::Embedded);
        let sshd = Sshd::start(stage.path());
        Self { sshd, stage }
    }

    /// `run` with the spare and the key `name`.
    fn with_key(&self, run: Run, name: &str) -> Run {
        self.at(run, name, &self.sshd.spare(&self.stage.store))
    }

    fn at(&self, run: Run, name: &str, spare: &str) -> Run {
        run.args(["--spare", spare, "--ssh"])
            .arg(self.sshd.client_line(name))
    }

    fn sync(&self) -> Run {
        self.with_key(self.sync_to_nowhere(), "key")
    }

    fn sync_to_nowhere(&self) -> Run {
        let run = Run::new(["sync", "--dataset", DATASET, "--state"]);
        run.arg(&self.stage.state).arg(&self.stage.source)
    }

    fn ask(&self, command: &str) -> Run {
        self.with_key(Run::new([command]), "key")
    }

    fn judge(&self) {
        judge::same(&self.stage.source, &self.stage.live());
    }
}

/// Panics unless what failed is told with `words` and a hint that names `hint`.
fn explained(outcome: &Outcome, words: &[&str], hint: &str) {
    let value = outcome.json();
    let text = |key: &str| value["error"][key].as_str().unwrap().to_owned();
    for word in words {
        assert!(text("message").contains(word), "no {word:?}: {outcome}");
    }
    assert!(text("hint").contains(hint), "no {hint:?}: {outcome}");
}

#[test]
fn everything_works_through_ssh() {
    needs!("everything_works_through_ssh": "sshd", "ssh", "rsync");
    let remote = Remote::new();
    for generation in 1..4 {
        set_generation(&remote.stage.source, generation, FILES);
        let data = remote.sync().data();
        assert_eq!(data["snapshot"]["number"], generation, "{data}");
        remote.judge();
    }
    assert_eq!(remote.sync().data()["committed"], false);
    let status = remote.ask("status").data();
    assert_eq!(status["datasets"][0]["name"], DATASET, "{status}");
    let snapshots = remote.ask("snapshots").data();
    assert!(snapshots.to_string().contains(DATASET), "{snapshots}");
    remote.ask("verify").ok();
    remote.ask("ls").args([DATASET, "-R"]).ok();
    let target = remote.stage.path().join("restored");
    let restore = remote.ask("restore").arg(DATASET).arg(&target);
    restore.ok();
    judge::same(&remote.stage.source, &target);
    // What is decided on the spare is decided there.
    let prune = remote.ask("prune").expect(2);
    prune.mentions(&["on the spare", "--store"]);
}

#[test]
fn it_works_beside_a_receiver_that_listens() {
    needs!("it_works_beside_a_receiver_that_listens": "rsync");
    let stage = Stage::new(Kind::Tcp);
    let ssh = stand_in(stage.path(), "");
    let spare = format!("ssh://spare{}", stage.store.display());
    let through_pipes = || {
        let run = Run::new(["sync", "--dataset", DATASET, "--state"]);
        let run = run
            .arg(stage.path().join("another state"))
            .arg(&stage.source);
        run.args(["--spare", &spare, "--ssh"]).arg(&ssh)
    };
    for generation in 1..6 {
        set_generation(&stage.source, generation, FILES);
        // The receiver that listens may still be filling its second tree.
        let begun = Instant::now();
        loop {
            // The first makes it the dataset of the main that has come through the network.
            let outcome = if generation % 2 == 1 {
                stage.sync().outcome()
            } else {
                through_pipes().outcome()
            };
            if outcome.code == Some(0) {
                break;
            }
            outcome.mentions(&["another upload"]);
            assert!(begun.elapsed() < Duration::from_secs(20), "{outcome}");
        }
        judge::same(&stage.source, &stage.live());
        if generation == 1 {
            // Whoever could open the store has made it: it is no main's yet.
            let grant = Run::new(["pair", "--grant", pairing::MAIN, DATASET, "--store"]);
            grant.arg(&stage.store).ok();
        }
    }
    stage.ask("verify").ok();
}

#[test]
fn a_daemon_uses_a_new_ssh_for_each_connection() {
    needs!("a_daemon_uses_a_new_ssh_for_each_connection": "sshd", "ssh", "rsync");
    let mut remote = Remote::new();
    set_generation(&remote.stage.source, 1, FILES);
    let proxy = Proxy::to(&remote.sshd.address());
    let config = remote.stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nssh = {:?}\nstate = {:?}\ninterval = \"1s\"\n[pace]\npressure = \"off\"\n\
         [[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        spare_at(&proxy.address, &remote.stage.store),
        remote.sshd.client("key"),
        remote.stage.state,
        remote.stage.source,
    );
    std::fs::write(&config, text).unwrap();
    let mut agent = Agent::start(
        &Run::new(["agent", "--json", "--config"]).arg(&config),
        None,
    );
    let committed = |cycle: &Value| cycle["committed"] == true;
    agent.until("the first snapshot", committed);
    for generation in 2..4 {
        set_generation(&remote.stage.source, generation, FILES);
        agent.until("the next snapshot", committed);
        agent.settle();
        remote.judge();
    }
    // No bytes pass any more.
    proxy.cut_after(0, 0);
    set_generation(&remote.stage.source, 4, FILES);
    let failed = agent.until("a cycle that fails", |cycle| !cycle["error"].is_null());
    assert_eq!(failed["error"]["code"], 6, "{failed}");
    proxy.cut_after(u64::MAX, u64::MAX);
    agent.until("the spare's return", committed);
    agent.settle();
    remote.judge();
    // A key that is not known any more is another kind of failure.
    remote.sshd.authorize("");
    let failed = agent.until("a cycle that fails", |cycle| !cycle["error"].is_null());
    assert_eq!(failed["error"]["code"], 7, "{failed}");
    remote.sshd.kill();
    let gone = |cycle: &Value| cycle["error"]["code"] == 6;
    agent.until("a cycle without a server", gone);
    assert_eq!(agent.end(rustix::process::Signal::TERM).0, Some(0));
}

#[test]
fn a_restore_carries_on_through_another_ssh() {
    needs!("a_restore_carries_on_through_another_ssh": "sshd", "ssh", "rsync");
    let remote = Remote::new();
    let mut random = Random::new(611);
    for number in 0..300 {
        let content = random.noise(40_000);
        std::fs::write(remote.stage.source.join(format!("f{number}")), content).unwrap();
    }
    std::fs::write(remote.stage.source.join("large"), random.noise(12 << 20)).unwrap();
    remote.sync().ok();
    let proxy = Proxy::to(&remote.sshd.address());
    proxy.cut_after(u64::MAX, 12 << 20);
    let target = remote.stage.path().join("restored");
    let spare = spare_at(&proxy.address, &remote.stage.store);
    let run = Run::new(["restore", "--json", DATASET]).arg(&target);
    let run = remote.at(run, "key", &spare);
    let outcome = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| run.outcome());
        while !proxy.is_cut() && !restoring.is_finished() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        proxy.cut_after(u64::MAX, u64::MAX);
        restoring.join().unwrap()
    });
    assert_eq!(outcome.code, Some(0), "{outcome}");
    outcome.mentions(&["connecting again"]);
    judge::same(&remote.stage.source, &target);
    let (_, down) = proxy.passed();
    assert!(
        down < 16 << 20,
        "{down} bytes came after the cut: {outcome}"
    );
}

#[test]
fn a_session_that_is_killed_ends_both_sides() {
    needs!("a_session_that_is_killed_ends_both_sides": "sshd", "ssh", "rsync");
    let remote = Remote::new();
    set_generation(&remote.stage.source, 1, FILES);
    remote.sync().ok();
    let mut random = Random::new(612);
    std::fs::write(remote.stage.source.join("new"), random.noise(1 << 20)).unwrap();
    let run = remote
        .sync()
        .arg("--json")
        .failing("agent.scanned=sleep(3000)");
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let syncing = scope.spawn(|| run.outcome());
        std::thread::park_timeout(Duration::from_millis(1500));
        remote.sshd.kill_sessions();
        syncing.join().unwrap()
    });
    assert_eq!(outcome.code, Some(6), "{outcome}");
    explained(&outcome, &["ssh://", "lost"], "carries on");
    assert!(begun.elapsed() < Duration::from_secs(60), "{outcome}");
    // Nobody holds the dataset any more.
    let begun = Instant::now();
    while remote.sync().outcome().code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(20), "still locked");
    }
    remote.judge();
}

#[test]
fn what_keeps_ssh_out_is_explained() {
    needs!("what_keeps_ssh_out_is_explained": "sshd", "ssh");
    let mut remote = Remote::new();
    set_generation(&remote.stage.source, 1, FILES);
    let sync = |remote: &Remote, key| remote.with_key(remote.sync_to_nowhere(), key).arg("--json");
    let outcome = sync(&remote, "other").expect(7);
    explained(
        &outcome,
        &["does not let ssh in", "ssh://"],
        "authorized_keys",
    );
    outcome.mentions(&["Permission denied"]);
    // A host that is not known, and one that is another than it was.
    let known = std::fs::read_to_string(remote.sshd.at("known_hosts")).unwrap();
    std::fs::write(remote.sshd.at("known_hosts"), "").unwrap();
    let outcome = sync(&remote, "key").expect(7);
    explained(&outcome, &["does not know the host key"], "fingerprint");
    let other = std::fs::read_to_string(remote.sshd.at("other.pub")).unwrap();
    std::fs::write(remote.sshd.at("known_hosts"), format!("spare {other}")).unwrap();
    let outcome = sync(&remote, "key").expect(7);
    explained(&outcome, &["not the one that ssh knows"], "ssh-keygen -R");
    std::fs::write(remote.sshd.at("known_hosts"), known).unwrap();
    // A server that is gone.
    remote.sshd.kill();
    let outcome = sync(&remote, "key").expect(6);
    explained(&outcome, &["Connection refused"], "true`");
    assert!(!remote.stage.store.exists());
    // A program that is none.
    let outcome = Run::new(["status", "--json", "--ssh", "/no/such/ssh", "--spare"]);
    let outcome = outcome
        .arg(remote.sshd.spare(&remote.stage.store))
        .expect(6);
    explained(&outcome, &["/no/such/ssh"], "OpenSSH");
}

#[test]
fn a_spare_without_store_or_program_is_explained() {
    needs!("a_spare_without_store_or_program_is_explained": "sshd", "ssh");
    let remote = Remote::new();
    let outcome = remote.ask("status").arg("--json").expect(1);
    explained(&outcome, &["no store", "check the address"], "");
    assert!(!remote.stage.store.exists());
    let nowhere = remote.sshd.spare(Path::new("/no/such/directory/store"));
    let outcome = remote.at(remote.sync_to_nowhere(), "key", &nowhere);
    let outcome = outcome.arg("--json").expect(1);
    explained(&outcome, &["/no/such/directory/store"], "");

    let apart = Stage::new(Kind::Embedded);
    let sshd = Sshd::start_where(apart.path(), "/usr/bin:/bin");
    let status = Run::new(["status", "--json", "--spare"]).arg(sshd.spare(&apart.store));
    let outcome = status.arg("--ssh").arg(sshd.client_line("key")).expect(6);
    explained(&outcome, &["no `understudy`"], "install it");
    // A login that talks.
    let key = std::fs::read_to_string(sshd.at("key.pub")).unwrap();
    sshd.authorize(&format!("command=\"echo Welcome; cat\" {key}"));
    let status = Run::new(["status", "--json", "--spare"]).arg(sshd.spare(&apart.store));
    let outcome = status.arg("--ssh").arg(sshd.client_line("key")).expect(6);
    explained(&outcome, &["Welcome"], ".bashrc");
}

#[test]
fn nothing_in_an_address_is_taken_for_an_option() {
    let stage = Stage::new(Kind::Embedded);
    let proof = stage.path().join("proof");
    let touch = format!("touch${{IFS}}{}", proof.display());
    for spare in [
        format!("ssh://-oProxyCommand={touch}/srv"),
        format!("ssh://-oProxyCommand={touch}@host/srv"),
        format!("ssh://host@-oProxyCommand={touch}/srv"),
        format!("ssh://[-oProxyCommand={touch}]/srv"),
        "ssh://;id/srv".to_owned(),
    ] {
        let outcome = Run::new(["status", "--spare", &spare]).expect(2);
        outcome.mentions(&["ssh://[USER@]HOST[:PORT]/STORE"]);
    }
    // What a shell would do something with is one word for the shell at the other end.
    let store = stage.path().join(format!(
        "a store; touch {} $(id) '",
        proof.display().to_string().replace('/', "_")
    ));
    set_generation(&stage.source, 1, FILES);
    let run = Run::new(["sync", "--dataset", DATASET, "--state"]).arg(&stage.state);
    let run = run
        .arg(&stage.source)
        .arg("--ssh")
        .arg(stand_in(stage.path(), ""));
    run.arg("--spare")
        .arg(format!("ssh://spare{}", store.display()))
        .ok();
    judge::same_facts(&stage.source, &store.join(DATASET).join("live/files"));
    assert!(!proof.exists());
    let wrong = Run::new(["status", "--spare", "ssh://spare/srv", "--ssh", "ssh; id"]);
    wrong.expect(2).mentions(&["`;`", "no shell"]);
}

#[test]
fn two_mains_behind_one_login_know_nothing_of_each_other() {
    needs!("two_mains_behind_one_login_know_nothing_of_each_other": "sshd", "ssh", "rsync");
    let remote = Remote::new();
    set_generation(&remote.stage.source, 1, FILES);
    let line = |main, key| remote.sshd.line_for(main, key, &remote.stage.store, &[]);
    let lines = [line("web1", "key"), line("web2", "other")].concat();
    remote.sshd.authorize(&lines);
    remote.sync().ok();
    remote.judge();
    let other = |run: Run| remote.with_key(run, "other").arg("--json");
    let names = |run: Run| {
        let status = run.ok().data();
        let datasets = status["datasets"].as_array().unwrap().clone();
        let names = datasets
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert!(names(other(Run::new(["status"]))).is_empty());
    let target = remote.stage.path().join("restored");
    other(Run::new(["restore", DATASET]).arg(&target)).expect(1);
    assert!(!target.exists());
    let state = remote.stage.path().join("the other's state");
    let sync = |name| {
        let run = Run::new(["sync", "--dataset", name, "--state"]).arg(&state);
        other(run.arg(&remote.stage.source))
    };
    explained(&sync(DATASET).expect(7), &["taken"], "");
    sync("own").ok();
    assert_eq!(names(other(Run::new(["status"]))), ["own"]);
    assert_eq!(names(remote.ask("status").arg("--json")), [DATASET]);
    remote.judge();
    // Whoever may open the store sees all of it.
    let all = Run::new(["status", "--json", "--spare"]).arg(&remote.stage.store);
    assert_eq!(names(all), ["own", DATASET]);
}

#[test]
fn ssh_inherits_no_privileges() {
    needs!("ssh_inherits_no_privileges": "root", "setpriv");
    let stage = Stage::below(Kind::Embedded, &std::env::temp_dir());
    let program = stage.path().join("understudy");
    std::fs::copy(crate::support::command::binary(), &program).unwrap();
    let ssh = stand_in(stage.path(), "grep -E '^Cap(Eff|Amb)' /proc/self/status; ");
    for path in [stage.path(), &program, &ssh] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let run = Run::new(["status", "--json", "--spare", "ssh://spare/srv", "--ssh"]).arg(&ssh);
    let privileged = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let privileges = [
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ];
    let run = run
        .program(&program)
        .through(&[&privileged[..], &privileges].concat());
    // What it prints is no frame, and so is shown.
    let outcome = run.expect(6);
    explained(&outcome, &["CapEff:\\u{9}0000000000000000"], "");
}

#[test]
fn a_forced_command_confines_a_key() {
    needs!("a_forced_command_confines_a_key": "sshd", "ssh", "rsync");
    let remote = Remote::new();
    set_generation(&remote.stage.source, 1, FILES);
    let store = &remote.stage.store;
    let line = remote.sshd.line_for("web1", "key", store, &[]);
    assert!(line.starts_with("restrict,command=\""), "{line}");
    remote.sshd.authorize(&line);
    remote.sync().ok();
    remote.judge();
    // Its guards are those that the line names.
    let config = remote.stage.path().join("receiver.toml");
    std::fs::write(&config, "[guard]\nfiles_percent = 1\nfiles_least = 1\n").unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    remote
        .sshd
        .authorize(&remote.sshd.line_for("web1", "key", store, &arguments));
    for name in std::fs::read_dir(&remote.stage.source).unwrap().take(3) {
        let path = name.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    remote.sync().expect(4);
    remote.sshd.authorize(&line);
    remote.sync().ok();
    remote.judge();
    // Another store is not what the address says it is.
    let elsewhere = remote.stage.path().join("elsewhere");
    let spare = remote.sshd.spare(&elsewhere);
    let outcome = remote.at(remote.sync_to_nowhere(), "key", &spare);
    let outcome = outcome.arg("--json").expect(7);
    explained(&outcome, &["this key is for the store", "elsewhere"], "");
    assert!(!elsewhere.exists());
    // Nor is there a shell.
    let mut ssh = remote.sshd.client("key");
    let port = remote.sshd.address().rsplit_once(':').unwrap().1.to_owned();
    ssh.extend([
        "-p".to_owned(),
        port,
        "127.0.0.1".to_owned(),
        format!("touch {}", elsewhere.display()),
    ]);
    let mut shell = Command::new(&ssh[0])
        .args(&ssh[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(b"touch elsewhere\n")
        .unwrap();
    let mut said = Vec::new();
    shell.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    shell.wait().unwrap();
    assert_eq!(said.first(), Some(&0), "no frame: {}", said.escape_ascii());
    assert!(!elsewhere.exists());
}
