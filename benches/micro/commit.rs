//! The receiver alone: a first snapshot of many small files, then cycles in which 1,000 of them change.

use std::sync::Arc;
use std::time::Instant;

use understudy_protocol::message::{Begin, Change, Changes, Commit, Content, Timing};
use understudy_protocol::transport::in_process;
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Message, Name, Node, Place, Position,
    StateDigest, Timestamp,
};
use understudy_receiver::{SessionOptions, Store, serve};

const PER_DIRECTORY: u64 = 1000;
const CHANGED: u64 = 1000;

/// Prints the receiver's own timings of each cycle.
pub(crate) fn run(files: u64) {
    let scratch = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into()))
        .expect("scratch");
    let store = Arc::new(Store::open(&scratch.path().join("store")).expect("store"));
    let mut digest = StateDigest::empty();
    let mut base = None;
    for cycle in 0..4u64 {
        let started = Instant::now();
        let (position, timings) = upload(&store, &mut digest, base, files, cycle);
        base = Some(position);
        let changed = if cycle == 0 {
            files
        } else {
            CHANGED.min(files)
        };
        println!(
            "commit {changed} of {files} files: {:.3} s in all; {}",
            started.elapsed().as_secs_f64(),
            shown(&timings)
        );
    }
}

fn shown(timings: &[Timing]) -> String {
    let one = |timing: &Timing| format!("{} {:.3}", timing.step, timing.microseconds as f64 / 1e6);
    timings.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn upload(
    store: &Arc<Store>,
    digest: &mut StateDigest,
    base: Option<Position>,
    files: u64,
    cycle: u64,
) -> (Position, Vec<Timing>) {
    let (mut ours, theirs) = in_process();
    let store = Arc::clone(store);
    let session = std::thread::spawn(move || serve(store, theirs, SessionOptions::default()));
    ours.greet().expect("greeting");
    let send = |message: &Message| ours.outgoing.send_message(message).expect("send");
    send(&Message::Begin(Begin {
        dataset: DatasetName::new("bench").expect("name"),
    }));
    let mut records = Vec::new();
    let flush = |records: &mut Vec<Change>| {
        if !records.is_empty() {
            let message = Message::Changes(Changes {
                records: std::mem::take(records),
            });
            ours.outgoing.send_message(&message).expect("send");
        }
    };
    if cycle == 0 {
        records.push(directory(
            Place::new(DirectoryId::TOP, name("files")),
            1,
            digest,
        ));
        for number in 0..files.div_ceil(PER_DIRECTORY) {
            let place = Place::new(DirectoryId::FILES, name(&format!("d{number}")));
            records.push(directory(place, number + 2, digest));
        }
    }
    let step = if cycle == 0 {
        1
    } else {
        (files / CHANGED).max(1)
    };
    for file in (0..files).step_by(step as usize) {
        let place = Place::new(
            DirectoryId(file / PER_DIRECTORY + 2),
            name(&format!("f{file}")),
        );
        if cycle > 0 {
            digest.remove(
                &place,
                &content(file, if cycle == 1 { 0 } else { cycle - 1 }).0,
            );
        }
        let (entry, data) = content(file, cycle);
        digest.add(&place, &entry);
        records.push(Change::Put {
            place,
            entry,
            content: Content::Inline(data.into()),
        });
        if records.len() >= 500 {
            flush(&mut records);
        }
    }
    flush(&mut records);
    let commit = Commit {
        base,
        fingerprint: digest.fingerprint(),
        elapsed_milliseconds: 0,
    };
    let Message::Ready(_) = ours.incoming.receive_message().expect("ready") else {
        panic!("not ready")
    };
    let end = ours.incoming.receive_message().expect("leftovers");
    assert!(matches!(end, Message::LeftoverEnd(_)), "{end:?}");
    ours.outgoing
        .send_message(&Message::Commit(commit))
        .expect("send");
    let reply = ours.incoming.receive_message().expect("reply");
    let Message::Committed(committed) = reply else {
        panic!("{reply:?}")
    };
    drop(ours);
    session.join().expect("thread").expect("session");
    (committed.snapshot.position, committed.timings)
}

fn directory(place: Place, id: u64, digest: &mut StateDigest) -> Change {
    let entry = Entry {
        attributes: attributes(0o755),
        node: Node::Directory {
            id: DirectoryId(id),
        },
        group: 0,
    };
    digest.add(&place, &entry);
    Change::Put {
        place,
        entry,
        content: Content::Directory,
    }
}

fn content(file: u64, cycle: u64) -> (Entry, Vec<u8>) {
    let data = format!("file {file} of cycle {cycle}\n")
        .repeat(20)
        .into_bytes();
    let node = Node::File {
        size: data.len() as u64,
        hash: ContentHash::of(&data),
    };
    (
        Entry {
            attributes: attributes(0o644),
            node,
            group: 0,
        },
        data,
    )
}

fn attributes(mode: u16) -> Attributes {
    let privileges = understudy_tree::Privileges::current();
    let modified = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 0,
    };
    Attributes {
        mode,
        uid: privileges.uid,
        gid: privileges.gid,
        modified,
        xattrs: vec![],
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("name")
}
