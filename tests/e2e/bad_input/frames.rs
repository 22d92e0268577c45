//! What a peer must not send: noise, another protocol, frames that are damaged, too large,
//! repeated, left out or out of order. The receiver ends the session, and nothing wrong is committed.

use super::FILES;
use crate::support::facts::{differences, facts};
use crate::support::needs::needs;
use crate::support::pipes::{record, send};
use crate::support::stage::DATASET;
use crate::support::trees::set_generation;
use crate::support::{Kind, Random, Run, Stage, full};

#[test]
fn noise_and_other_protocols_are_hung_up_on() {
    needs!("noise_and_other_protocols_are_hung_up_on": "prlimit");
    let stage = Stage::new(Kind::Embedded);
    let mut random = Random::new(66);
    let send = |bytes: &[u8]| send(&stage.store, bytes);
    send(b"");
    send(b"GET / HTTP/1.1\r\nHost: spare\r\n\r\n");
    send(b"@RSYNCD: 31.0\n");
    send(&[0; 100_000]);
    send(&[0xFF; 100_000]);
    for _ in 0..20 {
        let length = 1 + random.index(100_000);
        send(&random.noise(length));
    }
    set_generation(&stage.source, 1, FILES);
    stage.sync_and_judge();
}

#[test]
fn damaged_uploads_commit_nothing_wrong() {
    needs!("damaged_uploads_commit_nothing_wrong": "prlimit");
    let stage = Stage::new(Kind::Embedded);
    set_generation(&stage.source, 1, FILES);
    let original = facts(&stage.source);
    let sync = Run::new(["sync", "--dataset", DATASET, "--state"]);
    let sync = sync
        .arg(stage.path().join("another state"))
        .arg(&stage.source);
    let upload = record(stage.path(), sync);
    let mut random = Random::new(67);
    for number in 0..if full() { 2_000 } else { 120 } {
        let (what, bytes) = damage(&upload, number, &mut random);
        send(&stage.store, &bytes);
        if stage.live().exists() {
            let found = differences(&original, &facts(&stage.live()));
            assert!(found.is_empty(), "after {what}: {}", found.join("\n"));
        }
    }
    stage.sync_and_judge();
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
