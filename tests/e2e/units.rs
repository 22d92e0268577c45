//! The units for systemd are such as systemd takes them, and both daemons tell it what they expect.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::support::agent::{Agent, Scene};
use crate::support::command::{binary, tool};
use crate::support::needs::needs;
use crate::support::{Daemon, Kind, Stage};

#[test]
fn systemd_takes_the_units() {
    needs!("the check of the units": "systemd-analyze");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let directory = tempfile::tempdir().unwrap();
    for name in [
        "understudy-receiver.service",
        "understudy-agent.service",
        "understudy-served@.service",
    ] {
        let text = std::fs::read_to_string(units.join(name)).unwrap();
        // The command need not be installed for the check.
        let text = text.replace("/usr/bin/understudy", binary().to_str().unwrap());
        let kind = match name.contains('@') {
            true => "Type=oneshot\n",
            false => "Type=notify\n",
        };
        assert!(text.contains(kind), "{name}");
        let unit = directory.path().join(name);
        std::fs::write(&unit, text).unwrap();
        // What it does not know it tells, and takes all the same.
        let script = "exec systemd-analyze verify --man=no \"$0\" 2>&1";
        let said = tool("sh", ["-c", script, unit.to_str().unwrap()]);
        assert!(!said.contains(name), "{said}");
    }
}

#[test]
fn the_units_give_away_little() {
    needs!("the exposure of the units": "systemd-analyze");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    for name in ["understudy-receiver.service", "understudy-agent.service"] {
        let unit = units.join(name).to_str().unwrap().to_owned();
        let said = tool(
            "systemd-analyze",
            ["security", "--offline=true", "--no-pager", &unit],
        );
        let (_, level) = said.split_once(&format!("level for {name}: ")).unwrap();
        let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
        assert!(level <= 2.1, "{said}");
        let text = std::fs::read_to_string(&unit).unwrap();
        assert!(text.contains("\nLimitCORE=0\n"), "{name}");
    }
}

/// What a receiver tells its service manager, each assignment once.
fn hear(socket: &std::os::unix::net::UnixDatagram, wanted: &str, heard: &mut String) {
    let begun = Instant::now();
    let mut buffer = [0; 4096];
    while !heard.lines().any(|line| line.starts_with(wanted)) {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{wanted} was not told, but: {heard}"
        );
        if let Ok(length) = socket.recv(&mut buffer) {
            heard.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }
}

#[test]
fn the_receiver_tells_its_service_manager() {
    let stage = Stage::new(Kind::Embedded);
    stage.sync().ok();
    let path = stage.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let config = stage.path().join("receiver.toml");
    std::fs::write(&config, "[alerts]\n").unwrap();
    let daemon = Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        run.arg("--config").arg(&config).env("NOTIFY_SOCKET", &path)
    });
    let mut heard = String::new();
    for wanted in ["READY=1", "STATUS=1 dataset, at most ", "WATCHDOG=1"] {
        hear(&socket, wanted, &mut heard);
    }
    let mut heard = String::new();
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    for wanted in ["RELOADING=1", "MONOTONIC_USEC=", "READY=1", "WATCHDOG=1"] {
        hear(&socket, wanted, &mut heard);
    }
    let mut heard = String::new();
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    hear(&socket, "STOPPING=1", &mut heard);
    assert_eq!(daemon.stop(Signal::TERM), Some(0));
}

#[test]
fn the_agent_tells_its_service_manager() {
    let scene = Scene::on(Stage::new(Kind::Embedded));
    let path = scene.stage.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    scene.configure();
    let command = scene.command().env("NOTIFY_SOCKET", &path);
    let mut agent = Agent::start(&command, None);
    let mut heard = String::new();
    for wanted in ["READY=1", "WATCHDOG=1", "STATUS=1 dataset, all well"] {
        hear(&socket, wanted, &mut heard);
    }
    let mut heard = String::new();
    agent.signal(Signal::HUP);
    for wanted in ["RELOADING=1", "READY=1"] {
        hear(&socket, wanted, &mut heard);
    }
    let mut heard = String::new();
    agent.signal(Signal::TERM);
    hear(&socket, "STOPPING=1", &mut heard);
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}
