//! Who talks to whom: keys that are wrong, swapped, taken away or not had; codes that are wrong, old or used; and what an
//! outsider sees who has neither.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use understudy_agent::identity::Identity;
use understudy_protocol::ProtocolError;
use understudy_protocol::transport::Channel;
use understudy_protocol::transport::tls::{self, Credentials};

use crate::support::needs::needs;
use crate::support::pairing::{self, MAIN};
use crate::support::proxy::Proxy;
use crate::support::{Daemon, Kind, Run, Stage, facts, judge};

/// A connection is ended about a second after its key was taken away; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stage with a snapshot.
fn stage() -> Stage {
    let stage = Stage::new(Kind::Tcp);
    std::fs::write(stage.source.join("file"), "file").unwrap();
    stage.sync().ok();
    stage
}

fn on_spare(stage: &Stage, arguments: &[&str]) -> Run {
    let run = Run::new(["pair"]).args(arguments).arg("--store");
    run.arg(&stage.store)
}

fn on_main(stage: &Stage, arguments: &[&str]) -> Run {
    let run = Run::new(["pair"]).args(arguments).arg("--state");
    run.arg(&stage.state)
}

/// What the receiver has logged, once it holds `word`.
fn logged(stage: &Stage, word: &str) -> String {
    let begun = Instant::now();
    loop {
        let reported = stage.daemon.as_ref().unwrap().reported();
        if reported.contains(word) {
            return reported;
        }
        assert!(begun.elapsed() < PATIENCE, "no {word:?} in {reported}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What somebody hears who says `bytes`.
fn hear(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    heard
}

/// A connection as the stage's agent makes one.
fn connect(stage: &Stage, runtime: &tokio::runtime::Runtime) -> Channel {
    let address = stage.spare();
    let identity = Identity::open(&stage.state).unwrap().unwrap();
    let credentials = Credentials::new(identity.secret()).unwrap();
    let key = identity.spare(&address).unwrap().unwrap().key;
    let mut channel = tls::connect(runtime.handle(), &address, &credentials, key).unwrap();
    channel.greet().unwrap();
    channel
}

#[test]
fn codes_that_bind_nobody_each_say_why() {
    let stage = Stage::new(Kind::Tcp);
    let address = stage.spare();
    let state = stage.path().join("stranger");
    let refused = |code: &str, exit: i32, words: &[&str]| {
        let run = Run::new(["pair", &address, code, "--state"]).arg(&state);
        run.expect(exit).mentions(words);
    };
    refused("abcd-1234", 2, &["`1`", "understudy pair --new"]);
    refused("abcd-efgh", 2, &["8 letters"]);
    let other = Stage::new(Kind::Tcp);
    let foreign = pairing::code(&other.store, "web");
    refused(&foreign, 7, &["the code is not of the spare at", &address]);
    // The half that names the key is right.
    let earlier = pairing::code(&stage.store, "web");
    let code = pairing::code(&stage.store, "web");
    refused(&earlier, 7, &["no such code", "understudy pair --new"]);
    let codes = stage.store.join("understudy.trust/codes.toml");
    let text = std::fs::read_to_string(&codes).unwrap();
    let line = text
        .lines()
        .rfind(|line| line.starts_with("until"))
        .unwrap();
    let hour_ago = jiff::Timestamp::now() - Duration::from_secs(3600);
    std::fs::write(
        &codes,
        text.replace(line, &format!("until = \"{hour_ago}\"")),
    )
    .unwrap();
    refused(&code, 7, &["its time is over", "understudy pair --new"]);
    std::fs::write(&codes, text).unwrap();

    // Capitals and dashes do not matter, and the parts may be apart.
    let typed = code.to_uppercase().replace('-', " ");
    let words: Vec<&str> = typed.split(' ').collect();
    let run = Run::new(["pair", &address]).args(&words).arg("--state");
    let data = run.arg(&state).data();
    assert_eq!(data["main"], "web", "{data}");
    let second = stage.path().join("second");
    let run = Run::new(["pair", &address, &code, "--state"]).arg(&second);
    run.expect(7).mentions(&["used already"]);
    logged(&stage, "not paired (Used)");
    // One that comes through stdin is seen by nobody else.
    let (third, fourth) = (pairing::code(&stage.store, "in"), stage.path().join("in"));
    let run = Run::new(["pair", &address, "-", "--state"]).arg(&fourth);
    let paired = run.given(format!("{third}\n").as_bytes());
    assert_eq!(paired.code, Some(0), "{paired}");
    let run = Run::new(["pair", &address, "--state"]).arg(&fourth);
    run.expect(2).mentions(&["the code is missing", "`-`"]);
    asked_for(&address, &stage);
    // One key has one name.
    let third = pairing::code(&stage.store, "third");
    refused(
        &third,
        7,
        &["as main web already", "understudy pair --revoke web"],
    );
}

/// A terminal asks.
fn asked_for(address: &str, stage: &Stage) {
    needs!("codes_that_bind_nobody_each_say_why": "script");
    let code = pairing::code(&stage.store, "asked");
    let state = stage.path().join("asked");
    let program = crate::support::command::binary();
    let line = format!(
        "{} pair {address} --state {}",
        program.display(),
        state.display()
    );
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = terminal.stdin.take().unwrap();
    writeln!(stdin, "{code}").unwrap();
    let output = terminal.wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("The code that the spare has printed: "));
    assert!(seen.contains("as asked now"), "{seen}");
}

#[test]
fn a_main_whose_key_is_taken_away_is_cut_off() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mains = |stage: &Stage| stage.store.join("understudy.trust/mains.toml");
    let by_command = |stage: &Stage| {
        on_spare(stage, &["--revoke", MAIN]).ok().mentions(&[MAIN]);
    };
    let by_hand = |stage: &Stage| std::fs::write(mains(stage), "").unwrap();
    for take_away in [&by_command as &dyn Fn(&Stage), &by_hand] {
        let stage = stage();
        let was = facts::facts(&stage.live());
        let address = stage.spare();
        let mut channel = connect(&stage, &runtime);
        take_away(&stage);
        let begun = Instant::now();
        let ended = channel.incoming.receive().unwrap_err();
        assert!(matches!(ended, ProtocolError::Cut), "{ended:?}");
        assert!(begun.elapsed() < PATIENCE);
        logged(&stage, "cut off");
        let sync = Run::new(["sync", "--dataset", "site", "--spare", &address, "--state"]);
        let sync = sync.arg(&stage.state).arg(&stage.source);
        sync.expect(7).mentions(&[
            "does not know this host",
            &address,
            "understudy pair --new NAME",
        ]);
        let key = Identity::open(&stage.state).unwrap().unwrap().public();
        logged(&stage, &key.to_string());
        judge::untouched(&was, &stage.live());
        // And may come again, where somebody says so.
        pairing::pair(&stage.state, &stage.store, &address);
        sync.ok();
    }
}

#[test]
fn a_main_that_is_given_another_key_loses_the_first() {
    let stage = stage();
    let address = stage.spare();
    let other = stage.path().join("other");
    let printed = on_spare(&stage, &["--new", MAIN]).ok();
    printed.mentions(&["takes the place of its key", "understudy pair"]);
    let code = pairing::code(&stage.store, MAIN);
    let run = Run::new(["pair", &address, &code, "--state"]).arg(&other);
    run.ok().mentions(&["has taken the place"]);
    let sync = |state| {
        let run = Run::new(["sync", "--dataset", "site", "--spare", &address, "--state"]);
        run.arg(state).arg(&stage.source)
    };
    sync(&stage.state).expect(7);
    sync(&other).ok();
}

#[test]
fn a_spare_with_another_key_than_before_is_not_talked_to() {
    let (stage, other) = (stage(), Stage::new(Kind::Tcp));
    let (address, elsewhere) = (stage.spare(), other.spare());
    // As if the address led to another host now.
    on_main(&stage, &["--address", &elsewhere, &address]).ok();
    let sync = Run::new([
        "sync",
        "--dataset",
        "site",
        "--spare",
        &elsewhere,
        "--state",
    ]);
    let outcome = sync.arg(&stage.state).arg(&stage.source).expect(7);
    let keys = [&stage, &other].map(|stage| {
        let data = on_spare(stage, &["--list"]).data();
        data["spare"]["key"].as_str().unwrap().to_owned()
    });
    outcome.mentions(&[&elsewhere, &keys[0], &keys[1], "somebody else"]);
    logged(&other, "it has expected another key");
    assert!(!other.store.join("site").exists());
}

#[test]
fn knowing_a_spare_is_not_being_known() {
    let stage = stage();
    let address = stage.spare();
    // Everything that the main knows, but not its key.
    let thief = stage.path().join("thief");
    pairing::share(&stage.state, &thief);
    std::fs::remove_file(thief.join("identity/key")).unwrap();
    let sync = Run::new(["sync", "--dataset", "site", "--spare", &address, "--state"]);
    let sync = sync.arg(&thief).arg(&stage.source);
    sync.expect(7).mentions(&["not paired"]);
    Identity::open_or_create(&thief).unwrap();
    sync.expect(7).mentions(&["does not know this host"]);
    assert!(logged(&stage, "no main has the key").contains("pair --new"));
}

#[test]
fn a_recorded_connection_is_worth_nothing_when_it_is_played_again() {
    let mut stage = stage();
    let proxy = Proxy::to(&stage.spare());
    let receiver = std::mem::replace(
        &mut stage.daemon.as_mut().unwrap().address,
        proxy.address.clone(),
    );
    proxy.cut_after(u64::MAX, u64::MAX);
    std::fs::write(stage.source.join("file"), "another").unwrap();
    stage.sync().ok();
    let recorded = proxy.recorded();
    // What it says is nothing that anybody else can read.
    for word in [&b"site"[..], b"another", b"file"] {
        assert!(!recorded.windows(word.len()).any(|window| window == word));
    }
    stage.daemon.as_mut().unwrap().address = receiver.clone();
    std::fs::write(stage.source.join("file"), "third").unwrap();
    stage.sync().ok();
    let was = facts::facts(&stage.live());
    for _ in 0..3 {
        hear(&receiver, &recorded);
    }
    logged(&stage, "refused");
    judge::untouched(&was, &stage.live());
    let data = stage.ask("snapshots").data();
    let snapshots = data["datasets"][0]["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 3, "{data}");
}

#[test]
fn an_outsider_sees_tls_1_3_and_nothing_else() {
    needs!("an_outsider_sees_tls_1_3_and_nothing_else": "openssl");
    let stage = stage();
    let address = stage.spare();
    let was = facts::facts(&stage.live());
    let client = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &address])
            .args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    };
    for version in ["-tls1", "-tls1_1", "-tls1_2"] {
        let seen = client(&[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(seen.contains("Cipher is (NONE)"), "{version}: {seen}");
    }
    logged(&stage, "does not speak TLS 1.3");
    for arguments in [&[][..], &["-tls1_3"], &["-alpn", "understudy"]] {
        let seen = client(arguments);
        assert!(seen.contains("TLSv1.3"), "{arguments:?}: {seen}");
        assert!(!seen.contains("Early data was accepted"), "{seen}");
        assert!(!seen.contains("New Session Ticket"), "{seen}");
    }
    logged(&stage, "it has shown no key");
    let other = client(&["-alpn", "h2"]);
    assert!(other.contains("alert"), "{other}");
    for plain in [
        &b"GET / HTTP/1.1\r\nHost: spare\r\n\r\n"[..],
        b"@RSYNCD: 31.0\n",
        &[0; 100_000],
    ] {
        let heard = hear(&address, plain);
        assert!(heard.len() < 100, "{}", heard.escape_ascii());
    }
    logged(&stage, "does not speak TLS:");
    judge::untouched(&was, &stage.live());
    stage.sync().ok();
}

#[test]
fn strangers_keep_no_main_out() {
    let stage = stage();
    let address = stage.spare();
    let strangers: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    stage.sync().ok();
    logged(&stage, "ended the oldest");
    drop(strangers);
}

#[test]
fn who_is_known_is_listed_and_forgotten() {
    let stage = stage();
    let address = stage.spare();
    pairing::code(&stage.store, "web");
    let spare = on_spare(&stage, &["--list"]).data()["spare"].clone();
    assert_eq!(spare["mains"][0]["name"], MAIN, "{spare}");
    assert_eq!(spare["codes"][0]["name"], "web", "{spare}");
    let main = on_main(&stage, &["--list"]).data()["main"].clone();
    assert_eq!(main["spares"][0]["address"], address.as_str(), "{main}");
    assert_eq!(main["spares"][0]["key"], spare["key"], "{main}");
    assert_eq!(main["key"], spare["mains"][0]["key"], "{main}");
    let told = on_spare(&stage, &["--list"]).ok();
    told.mentions(&[MAIN, "since", "a code for web"]);

    on_main(&stage, &["--forget", "nowhere:1"])
        .expect(1)
        .mentions(&["nowhere:1", &address]);
    on_main(&stage, &["--forget", &address])
        .ok()
        .mentions(&["--revoke main"]);
    let sync = Run::new(["sync", "--dataset", "site", "--spare", &address, "--state"]);
    let sync = sync.arg(&stage.state).arg(&stage.source);
    sync.expect(7)
        .mentions(&["not paired", "understudy pair --new NAME"]);
    on_spare(&stage, &["--revoke", "nobody"])
        .expect(1)
        .mentions(&["`nobody`", MAIN]);
    for wrong in [&["--new", "Web 1"][..], &["--list", "--revoke", "web"], &[]] {
        on_spare(&stage, wrong).expect(2);
    }
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let mut stage = stage();
    let open_to_all = |path: &std::path::Path| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    };
    open_to_all(&stage.state.join("identity/key"));
    stage.sync().expect(7).mentions(&["identity/key", "others"]);
    open_to_all(&stage.store.join("understudy.trust/key"));
    stage.daemon.as_mut().unwrap().kill();
    let run = Run::new(["receiver", "--listen", "127.0.0.1:0", "--store"]);
    run.arg(&stage.store)
        .expect(1)
        .mentions(&["understudy.trust/key", "others"]);
}

#[test]
fn a_dataset_is_used_by_no_main_before_it_is_given_to_it() {
    let stage = Stage::new(Kind::Tcp);
    std::fs::write(stage.source.join("file"), "file").unwrap();
    // Made on the spare itself, as by a version that knew no mains.
    let sync = Run::new(["sync", "--dataset", "site", "--spare"]).arg(&stage.store);
    let sync = sync.arg("--state").arg(stage.path().join("operator"));
    sync.arg(&stage.source).ok();
    pairing::ensure(&stage.state, &stage.store, &stage.spare());

    let refused = stage.sync().expect(7);
    refused.mentions(&["`site` is taken", "understudy pair --grant main site"]);
    let absent = stage.ask("snapshots").arg("site").outcome();
    assert!(
        absent.said().contains("no dataset `site`"),
        "{}",
        absent.said()
    );
    on_spare(&stage, &["--list"])
        .ok()
        .mentions(&["site of nobody", "understudy pair --grant NAME site"]);

    on_spare(&stage, &["--grant", "main", "nothing"]).expect(1);
    on_spare(&stage, &["--grant", "Main", "site"]).expect(2);
    on_spare(&stage, &["--grant", "main"]).expect(2);
    on_spare(&stage, &["--grant", "other", "site"])
        .ok()
        .mentions(&["site belongs to other", "No main other is paired"]);
    stage.sync().expect(7);
    let given = on_spare(&stage, &["--grant", "main", "site"]).data();
    assert_eq!(given["former"], "other", "{given}");
    stage.sync().ok();
    let listed = on_spare(&stage, &["--list"]).data();
    assert_eq!(listed["datasets"]["site"], "main", "{listed}");
}

#[test]
fn a_main_that_has_used_up_its_quota_is_told_so() {
    let mut stage = Stage::new(Kind::Embedded);
    let config = stage.path().join("receiver.toml");
    std::fs::write(&config, "[quota.main.main]\nbytes = \"10kB\"\n").unwrap();
    stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        run.arg("--config").arg(&config)
    }));
    std::fs::write(stage.source.join("file"), "x".repeat(8000)).unwrap();
    stage.sync().ok();
    std::fs::write(stage.source.join("other"), "y".repeat(2000)).unwrap();
    let refused = stage.sync().expect(8);
    refused.mentions(&["quota", "10.0 KB", "2.", "[quota.main.main]"]);
    std::fs::write(stage.source.join("other"), "y".repeat(100)).unwrap();
    stage.sync().ok();
}
