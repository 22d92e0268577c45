//! What a peer must not send: noise, another protocol, frames that are damaged, too large,
//! repeated, left out or out of order. The receiver drops the connection and lives on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::FILES;
use crate::support::facts::{differences, facts};
use crate::support::proxy::Proxy;
use crate::support::trees::set_generation;
use crate::support::{Kind, Random, Stage, full};

/// Sends `bytes`, says that it was all, and waits until the receiver hangs up.
///
/// # Panics
/// If it does not hang up, or answers without end.
fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    let mut answer = Vec::new();
    match stream.take(10 << 20).read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!(
                "the receiver does not hang up on {}",
                bytes[..bytes.len().min(60)].escape_ascii()
            );
        }
        _ => assert!(answer.len() < 10 << 20, "it answers without end"),
    }
}

/// Panics unless the receiver lives and has not grown.
fn assert_well(stage: &mut Stage) {
    let daemon = stage.daemon.as_mut().unwrap();
    assert!(
        daemon.is_alive(),
        "the receiver died: {}",
        daemon.reported()
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_pid()));
    let status = status.unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 300_000, "the receiver has grown to {peak_kb} KB");
    let reported = daemon.reported();
    assert!(!reported.contains("panicked"), "{reported}");
}

#[test]
fn noise_and_other_protocols_are_hung_up_on() {
    let mut stage = Stage::new(Kind::Tcp);
    let mut random = Random::new(66);
    let address = stage.spare();
    send(&address, b"");
    send(&address, b"GET / HTTP/1.1\r\nHost: spare\r\n\r\n");
    send(&address, b"@RSYNCD: 31.0\n");
    send(&address, &[0; 100_000]);
    send(&address, &[0xFF; 100_000]);
    for _ in 0..20 {
        let length = 1 + random.index(100_000);
        send(&address, &random.noise(length));
    }
    assert_well(&mut stage);
    set_generation(&stage.source, 1, FILES);
    stage.sync_and_judge();
}

#[test]
fn damaged_uploads_commit_nothing_wrong() {
    let mut stage = Stage::new(Kind::Tcp);
    set_generation(&stage.source, 1, FILES);
    let original = facts(&stage.source);
    let upload = record(&stage);
    let address = stage.spare();
    let mut random = Random::new(67);
    for number in 0..if full() { 2_000 } else { 120 } {
        let (what, bytes) = damage(&upload, number, &mut random);
        send(&address, &bytes);
        assert_well(&mut stage);
        if stage.live().exists() {
            let found = differences(&original, &facts(&stage.live()));
            assert!(found.is_empty(), "after {what}: {}", found.join("\n"));
        }
    }
    stage.sync_and_judge();
}

/// What an agent sends to a spare that has nothing yet.
fn record(stage: &Stage) -> Vec<u8> {
    let mut other = Stage::new(Kind::Tcp);
    let proxy = Proxy::to(&other.spare());
    other
        .daemon
        .as_mut()
        .unwrap()
        .address
        .clone_from(&proxy.address);
    other.source.clone_from(&stage.source);
    other.sync().ok();
    proxy.recorded()
}

/// One way or another of damaging `upload`, in turn.
fn damage(upload: &[u8], number: u64, random: &mut Random) -> (String, Vec<u8>) {
    let mut bytes = upload.to_vec();
    // Half of the time near the beginning, where the lengths of the first frames are.
    let reach = if random.below(2) == 0 {
        bytes.len().min(200)
    } else {
        bytes.len()
    };
    let at = random.index(reach);
    let what = match number % 6 {
        0 => {
            bytes[at] ^= 1 << random.below(8);
            "a bit flipped"
        }
        1 => {
            let end = (at + 4).min(bytes.len());
            bytes[at..end].fill(0xFF);
            "four bytes of ones"
        }
        2 => {
            bytes.truncate(at);
            "the end missing"
        }
        3 => {
            let end = (at + 1 + random.index(500)).min(bytes.len());
            bytes.drain(at..end);
            "a piece left out"
        }
        4 => {
            let end = (at + 1 + random.index(500)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
            "a piece repeated"
        }
        _ => {
            let middle = at + (bytes.len() - at) / 2;
            bytes[at..].rotate_left(middle - at);
            "two parts out of order"
        }
    };
    (format!("{what} at {at} ({number})"), bytes)
}
