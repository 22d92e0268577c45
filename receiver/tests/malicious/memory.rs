//! How much memory the receiver takes whatever a main sends: measured in a process of its own for each attack, attacker included.

use std::process::Command;

use understudy_protocol::message::{Change, Content, Fuzzy, ReadManifest};
use understudy_protocol::{
    Compression, DatasetName, Encoder, Entry, Frame, Message, Node, StateDigest,
};

use crate::frames::{plain, raw, varint};
use crate::victim::{
    Outcome, Victim, begin, changes, commit, directory, entry, of_text, peer, place, put, xattr,
};

const MOST_KIB: u64 = 256 * 1024;
/// Says in a child which attack it makes.
const ATTACK: &str = "UNDERSTUDY_TEST_ATTACK";

/// Runs the test of this name again in a process of its own, in which `attack` is made, and looks at what that took.
fn measured(name: &str, attack: impl FnOnce()) {
    if std::env::var(ATTACK).as_deref() == Ok(name) {
        attack();
        println!("peak {} KiB", peak_kib());
        return;
    }
    let program = std::env::current_exe().expect("program");
    let mut child = Command::new(program);
    child.args(["--exact", "--nocapture", "--include-ignored"]);
    child.arg(format!("memory::{name}")).env(ATTACK, name);
    let output = child.output().expect("child");
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{failed}");
    let peak = text.lines().find_map(|line| {
        line.split("peak ")
            .nth(1)?
            .strip_suffix(" KiB")?
            .parse()
            .ok()
    });
    let peak: u64 = peak.unwrap_or_else(|| panic!("{text}"));
    println!("{name}: {} MiB", peak / 1024);
    assert!(peak <= MOST_KIB, "{name} took {peak} KiB");
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let digits = line.expect("peak").trim().trim_end_matches(" kB");
    digits.parse().expect("number")
}

/// An upload of these records, which come as they are made, and a commit with a digest that is wrong.
fn flood(victim: &Victim, records: impl Iterator<Item = Change>) -> Outcome {
    let base = victim_base(victim);
    let mut records = records.peekable();
    let mut encoder = Encoder::new(Compression::Off);
    let batches = std::iter::from_fn(move || {
        let batch: Vec<Change> = records.by_ref().take(4000).collect();
        (!batch.is_empty()).then(|| encoder.encode(&changes(batch)).expect("encode"))
    });
    let last = plain(&commit(Some(base), &StateDigest::empty()));
    let frames = std::iter::once(plain(&begin()));
    victim.throw(&peer("alpha"), frames.chain(batches).chain([last]))
}

fn victim_base(victim: &Victim) -> understudy_protocol::Position {
    let outcome = victim.attack(&[begin()]);
    let ready = outcome.heard.iter().find_map(|message| match message {
        Message::Ready(ready) => ready.position,
        _ => None,
    });
    ready.expect("position")
}

fn refused(outcome: &Outcome) {
    assert!(outcome.failure.is_some(), "it was taken");
}

/// The first name of a file, and names without end that are linked to it.
fn names_of_one_file(count: u64) -> impl Iterator<Item = Change> {
    let named = |place, content| {
        let mut entry = entry(of_text("x"));
        entry.group = 7;
        put(place, entry, content)
    };
    let first = named(place(1, "first"), Content::Inline(b"x".to_vec().into()));
    let others = (0..count).map(move |number| {
        let at = place(1, format!("{number}"));
        named(at, Content::Sibling(place(1, "first")))
    });
    std::iter::once(first).chain(others)
}

/// Directories beside each other.
fn directories(count: u64) -> impl Iterator<Item = Change> {
    (0..count).map(|number| directory(place(1, format!("d{number}")), 1000 + number))
}

#[test]
fn names_of_one_file_without_end() {
    measured("names_of_one_file_without_end", || {
        let (victim, _) = Victim::new();
        refused(&flood(&victim, names_of_one_file(150_000)));
        victim.check();
    });
}

#[test]
fn names_that_come_before_the_file() {
    measured("names_that_come_before_the_file", || {
        let (victim, _) = Victim::new();
        let records: Vec<Change> = names_of_one_file(130_000).collect();
        refused(&flood(&victim, records.into_iter().rev().take(130_000)));
        victim.check();
    });
}

#[test]
fn directories_without_end() {
    measured("directories_without_end", || {
        let (victim, _) = Victim::new();
        refused(&flood(&victim, directories(150_000)));
        victim.check();
    });
}

#[test]
#[ignore = "minutes: ten million entries"]
fn ten_million_names() {
    measured("ten_million_names", || {
        let (victim, _) = Victim::new();
        refused(&flood(&victim, names_of_one_file(10_000_000)));
    });
}

#[test]
#[ignore = "minutes: ten million entries"]
fn ten_million_directories() {
    measured("ten_million_directories", || {
        let (victim, _) = Victim::new();
        refused(&flood(&victim, directories(10_000_000)));
    });
}

/// One directory below the other, with the longest names there are.
#[test]
fn long_paths() {
    measured("long_paths", || {
        let (victim, _) = Victim::new();
        let depth = 1500;
        let name = |number: u64| format!("{number:0>255}");
        let chain = (0..depth).map(move |number| {
            let parent = if number == 0 { 1 } else { 999 + number };
            directory(place(parent, name(number)), 1000 + number)
        });
        let records: Vec<Change> = chain.collect();
        let base = victim_base(&victim);
        let all = [crate::victim::base(), records.clone()].concat();
        let mut messages = vec![begin()];
        messages.extend(records.chunks(1000).map(|part| changes(part.to_vec())));
        messages.push(commit(Some(base), &crate::victim::digest(&all)));
        let outcome = victim.attack(&messages);
        assert!(outcome.committed().is_some(), "{:?}", outcome.failure);
        victim.check();
    });
}

/// What is short on the wire and long in memory, in many frames at once.
#[test]
fn short_messages_with_long_lists() {
    measured("short_messages_with_long_lists", || {
        for number in [6, 11, 15, 72] {
            let (victim, _) = Victim::new();
            let body = [&varint(250_000)[..], &[1; 1_000_000]].concat();
            let frames = (0..50).map(|_| raw(number, 0, &body));
            let begun = [plain(&begin())];
            refused(&victim.throw(&peer("alpha"), begun.into_iter().chain(frames)));
            victim.check();
        }
    });
}

/// Entries with all the attributes that they may have, in one directory, and then the manifest.
#[test]
fn large_attributes() {
    measured("large_attributes", || {
        let (victim, _) = Victim::new();
        let value = vec![b'v'; 60_000];
        let heavy = move |number: u64| {
            let mut entry: Entry = entry(Node::Fifo);
            let names = ["user.a", "user.b", "user.c", "user.d"];
            entry.attributes.xattrs = names.map(|name| xattr(name, &value)).to_vec();
            let content = Content::Inline(Vec::new().into());
            put(place(1, format!("h{number}")), entry, content)
        };
        let base = victim_base(&victim);
        let mut all = crate::victim::digest(&crate::victim::base());
        for number in 0..1500 {
            if let Change::Put { place, entry, .. } = heavy(number) {
                all.add(&place, &entry);
            }
        }
        let frames = (0..1500)
            .map(move |number| plain(&changes(vec![heavy(number)])))
            .chain([plain(&commit(Some(base), &all))]);
        let begun: [Frame; 1] = [plain(&begin())];
        let outcome = victim.throw(&peer("alpha"), begun.into_iter().chain(frames));
        assert!(outcome.committed().is_some(), "{:?}", outcome.failure);
        read_manifest(&victim);
        victim.check();
    });
}

/// Reads a manifest and forgets it as it comes.
fn read_manifest(victim: &Victim) {
    use understudy_protocol::transport::in_process;
    use understudy_protocol::version::Hello;
    let (mut ours, theirs) = in_process();
    let options = understudy_receiver::SessionOptions {
        peer: peer("alpha"),
        ..understudy_receiver::SessionOptions::default()
    };
    let store = victim.store.clone();
    let session = std::thread::spawn(move || understudy_receiver::serve(store, theirs, options));
    let request = ReadManifest {
        dataset: DatasetName::fit(b"evil"),
        number: None,
    };
    for message in [
        Message::Hello(Hello::ours()),
        Message::ReadManifest(request),
    ] {
        ours.outgoing.send_message(&message).expect("send");
    }
    while !matches!(
        ours.incoming.receive_message().expect("manifest"),
        Message::ManifestEnd(_)
    ) {}
    drop(ours);
    let _ = session.join().expect("session");
}

/// Fuzzy marks for places that are not there.
#[test]
fn fuzzy_marks_without_end() {
    measured("fuzzy_marks_without_end", || {
        let (victim, _) = Victim::new();
        let base = victim_base(&victim);
        let marks = (0..100_u64).map(|batch| {
            let places = (0..4000).map(|number| place(1000 + batch, format!("{number}")));
            let places = places.collect();
            plain(&Message::Fuzzy(Fuzzy { places }))
        });
        let last = plain(&commit(Some(base), &StateDigest::empty()));
        let frames = [plain(&begin())].into_iter().chain(marks).chain([last]);
        refused(&victim.throw(&peer("alpha"), frames));
        victim.check();
    });
}
