//! The watch over a store, told of by hand-made clients: what sessions do becomes alerts, and those survive restarts.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests damage stores by any means"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::message::{
    Begin, Change, Changes, Commit, Confirm, Content, List, Message, Noted, Trouble,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::Hello;
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Failure, FailureCode, Name, Node,
    Place, Position, ProtocolError, StateDigest, Timestamp,
};
use understudy_receiver::alert::{Delivery, Event, Kind, Policy, Watch, acknowledge};
use understudy_receiver::{ReceiverError, SessionOptions, Store, serve};

/// A store, and a way to it.
struct Scratch {
    _directory: tempfile::TempDir,
    path: PathBuf,
    store: Arc<Store>,
}

impl Scratch {
    fn new() -> Self {
        let directory =
            tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("directory");
        let path = directory.path().join("store");
        let store = Arc::new(Store::open(&path).expect("store"));
        Self {
            _directory: directory,
            path,
            store,
        }
    }

    fn watch(&self) -> Watch {
        Watch::open(Arc::clone(&self.store)).expect("watch")
    }

    /// One session, in which `talk` has the channel.
    fn session(&self, talk: impl FnOnce(&mut Channel)) -> Result<(), ReceiverError> {
        let (mut ours, theirs) = in_process();
        let store = Arc::clone(&self.store);
        let thread = std::thread::spawn(move || serve(store, theirs, SessionOptions::default()));
        ours.greet().expect("greeting");
        talk(&mut ours);
        drop(ours);
        thread.join().expect("thread")
    }

    /// An upload, in which `talk` has the channel and the position that `Ready` gave.
    fn upload(
        &self,
        talk: impl FnOnce(&mut Channel, Option<Position>),
    ) -> Result<(), ReceiverError> {
        self.session(|channel| {
            send(channel, &Message::Begin(Begin { dataset: name() }));
            match hear(channel) {
                Ok(Message::Ready(ready)) => {
                    let end = hear(channel).expect("leftovers");
                    assert!(matches!(end, Message::LeftoverEnd(_)), "{end:?}");
                    talk(channel, ready.position);
                }
                other => panic!("{other:?}"),
            }
        })
    }

    /// A first snapshot of three files.
    fn fill(&self) {
        self.fill_after(Duration::ZERO);
    }

    /// The same, by a cycle that has taken this long.
    fn fill_after(&self, elapsed: Duration) {
        let names = ["a", "b", "c"];
        let records: Vec<Change> = std::iter::once(root())
            .chain(names.iter().map(|name| file(name)))
            .collect();
        let mut digest = StateDigest::empty();
        for record in &records {
            if let Change::Put { place, entry, .. } = record {
                digest.add(place, entry);
            }
        }
        let result = self.upload(|channel, base| {
            send(channel, &Message::Changes(Changes { records }));
            send(channel, &commit(base, &digest, elapsed));
            assert!(matches!(hear(channel), Ok(Message::Committed(_))));
        });
        result.expect("session");
    }

    /// Confirms the newest snapshot.
    fn confirm(&self) {
        self.confirm_after(Duration::ZERO);
    }

    /// Confirms it by a cycle that has taken this long.
    fn confirm_after(&self, elapsed: Duration) {
        let result = self.upload(|channel, base| {
            let confirm = Confirm {
                position: base.expect("a snapshot"),
                elapsed_milliseconds: milliseconds(elapsed),
            };
            send(channel, &Message::Confirm(confirm));
            assert!(matches!(hear(channel), Ok(Message::Confirmed(_))));
        });
        result.expect("session");
    }

    fn trouble(&self, times: usize) {
        let result = self.session(|channel| {
            for _ in 0..times {
                let trouble = Trouble {
                    dataset: name(),
                    reason: "the source\nis not mounted".to_owned(),
                };
                send(channel, &Message::Trouble(trouble));
                assert_eq!(hear(channel).expect("an answer"), Message::Noted(Noted {}));
            }
            // The session goes on: other questions may follow.
            send(channel, &Message::List(List { dataset: None }));
            assert!(matches!(hear(channel), Ok(Message::Datasets(_))));
        });
        result.expect("session");
    }
}

fn name() -> DatasetName {
    DatasetName::fit(b"site")
}

fn send(channel: &Channel, message: &Message) {
    channel.outgoing.send_message(message).expect("send");
}

fn hear(channel: &mut Channel) -> Result<Message, ProtocolError> {
    channel.incoming.receive_message()
}

fn place(parent: DirectoryId, name: &str) -> Place {
    Place {
        parent,
        name: Name::new(name).expect("name"),
    }
}

fn entry(node: Node, mode: u16) -> Entry {
    Entry {
        attributes: Attributes {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            modified: Timestamp {
                seconds: 1,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
        },
        node,
        group: 0,
    }
}

fn root() -> Change {
    let id = DirectoryId::FILES;
    Change::Put {
        place: place(DirectoryId(0), "files"),
        entry: entry(Node::Directory { id }, 0o755),
        content: Content::Directory,
    }
}

fn file(name: &str) -> Change {
    let content = name.as_bytes();
    let node = Node::File {
        size: content.len() as u64,
        hash: ContentHash::of(content),
    };
    Change::Put {
        place: place(DirectoryId::FILES, name),
        entry: entry(node, 0o644),
        content: Content::Inline(content.into()),
    }
}

fn commit(base: Option<Position>, digest: &StateDigest, elapsed: Duration) -> Message {
    Message::Commit(Commit {
        base,
        fingerprint: digest.fingerprint(),
        elapsed_milliseconds: milliseconds(elapsed),
    })
}

fn milliseconds(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).expect("short")
}

/// What is to be told, and its reasons; everybody is told.
fn told(watch: &mut Watch) -> Vec<(Kind, Event, String)> {
    let notices = watch.look(&Policy::default()).notices;
    for notice in &notices {
        watch.begin(notice);
        watch.end(notice, Delivery::Worked);
    }
    notices
        .into_iter()
        .map(|notice| (notice.kind, notice.event, notice.reason))
        .collect()
}

fn only(mut told: Vec<(Kind, Event, String)>) -> (Kind, Event, String) {
    assert_eq!(told.len(), 1, "{told:?}");
    told.remove(0)
}

#[test]
fn troubles_are_counted_across_restarts_and_ended_by_a_good_cycle() {
    let scratch = Scratch::new();
    scratch.trouble(2);
    assert_eq!(told(&mut scratch.watch()), []);
    scratch.trouble(1);
    let mut watch = scratch.watch();
    let (kind, event, reason) = only(told(&mut watch));
    assert_eq!((kind, event), (Kind::Failures, Event::Raised));
    assert!(reason.starts_with("3 cycles"), "{reason}");
    assert!(
        reason.contains("the source\\u{a}is not mounted"),
        "{reason}"
    );
    assert_eq!(told(&mut watch), []);
    let mut watch = scratch.watch();
    assert_eq!(told(&mut watch), [], "a restart repeats nothing");
    scratch.fill();
    let (kind, event, _) = only(told(&mut watch));
    assert_eq!((kind, event), (Kind::Failures, Event::Over));
    assert_eq!(told(&mut scratch.watch()), []);
}

#[test]
fn uploads_that_end_without_a_snapshot_are_failed_cycles() {
    let scratch = Scratch::new();
    let mut watch = scratch.watch();
    scratch.fill();
    for _ in 0..2 {
        scratch.upload(|_, _| {}).expect("an orderly end");
    }
    scratch.confirm();
    assert_eq!(watch.look(&Policy::default()).fresh, [name()]);
    for _ in 0..2 {
        scratch.upload(|_, _| {}).expect("an orderly end");
    }
    assert_eq!(told(&mut watch), [], "a confirmation began the count anew");
    let failed = scratch.upload(|channel, _| {
        let failure = Failure::new(FailureCode::Internal, "it fell over");
        send(channel, &Message::Failure(failure));
    });
    assert!(failed.is_err());
    let (kind, _, reason) = only(told(&mut watch));
    assert_eq!(kind, Kind::Failures);
    assert!(reason.contains("it fell over"), "{reason}");
}

#[test]
fn a_cycle_that_ends_too_late_is_none_to_be_glad_of() {
    let scratch = Scratch::new();
    let mut watch = scratch.watch();
    let hours = Duration::from_secs(7200);
    scratch.fill_after(hours);
    let look = watch.look(&Policy::default());
    assert_eq!((look.fresh, look.notices[0].kind), (vec![], Kind::Lag));
    scratch.confirm();
    assert_eq!(watch.look(&Policy::default()).fresh, [name()]);
    // A late confirmation takes nothing away from an earlier one.
    scratch.confirm_after(hours);
    assert_eq!(watch.look(&Policy::default()).fresh, [name()]);
    assert_eq!(watch.look(&Policy::default()).fresh, []);
}

#[test]
fn a_second_upload_beside_a_long_one_is_no_failure() {
    let scratch = Scratch::new();
    let mut watch = scratch.watch();
    scratch.fill();
    let result = scratch.upload(|_, _| {
        for _ in 0..3 {
            let busy = scratch.session(|channel| {
                send(channel, &Message::Begin(Begin { dataset: name() }));
                assert!(hear(channel).is_err());
            });
            assert!(matches!(busy, Err(ReceiverError::Busy(_))), "{busy:?}");
        }
    });
    result.expect("the long one");
    assert_eq!(told(&mut watch), []);
}

#[test]
fn a_guard_is_told_at_once_whichever_side_has_it() {
    let scratch = Scratch::new();
    let mut watch = scratch.watch();
    scratch.fill();
    let mut emptied = StateDigest::empty();
    if let Change::Put { place, entry, .. } = root() {
        emptied.add(&place, &entry);
    }
    let remove = |name| Change::Remove {
        place: place(DirectoryId::FILES, name),
    };
    let refused = scratch.upload(|channel, base| {
        let records = ["a", "b", "c"].map(remove).to_vec();
        send(channel, &Message::Changes(Changes { records }));
        send(channel, &commit(base, &emptied, Duration::ZERO));
        assert!(matches!(hear(channel), Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::Refused));
    });
    assert!(
        matches!(refused, Err(ReceiverError::Refused(_))),
        "{refused:?}"
    );
    let (kind, event, reason) = only(told(&mut watch));
    assert_eq!((kind, event), (Kind::Guard, Event::Raised));
    assert!(
        reason.contains("the last snapshot has 4 entries"),
        "{reason}"
    );
    scratch.confirm();
    assert_eq!(only(told(&mut watch)).1, Event::Over);
    let held = scratch.upload(|channel, _| {
        let failure = Failure::new(FailureCode::Refused, "the source is empty");
        send(channel, &Message::Failure(failure));
    });
    assert!(held.is_err());
    let (kind, _, reason) = only(told(&mut watch));
    assert_eq!(kind, Kind::Guard);
    assert!(reason.contains("the source is empty"), "{reason}");
}

#[test]
fn a_version_without_trouble_has_none() {
    let scratch = Scratch::new();
    let (mut ours, theirs) = in_process();
    let store = Arc::clone(&scratch.store);
    let thread = std::thread::spawn(move || serve(store, theirs, SessionOptions::default()));
    let old = Hello {
        newest: 1,
        ..Hello::ours()
    };
    send(&ours, &Message::Hello(old));
    assert!(matches!(hear(&mut ours), Ok(Message::Hello(_))));
    let trouble = Trouble {
        dataset: name(),
        reason: "too new".to_owned(),
    };
    send(&ours, &Message::Trouble(trouble));
    assert!(
        matches!(hear(&mut ours), Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::Misbehaved)
    );
    assert!(thread.join().expect("thread").is_err());
}

#[test]
fn what_is_acknowledged_is_silent_and_a_later_alert_is_not() {
    let scratch = Scratch::new();
    let impatient = Policy {
        repeat: Duration::ZERO,
        ..Policy::default()
    };
    scratch.fill();
    scratch.trouble(3);
    let mut watch = scratch.watch();
    only(told(&mut watch));
    assert_eq!(watch.look(&impatient).notices[0].event, Event::Repeated);
    assert_eq!(
        acknowledge(&scratch.store, Some(&name()), Some(Kind::Lag)).expect("done"),
        []
    );
    let done = acknowledge(&scratch.store, Some(&name()), None).expect("done");
    assert_eq!(
        (done[0].kind, done[0].before_seconds),
        (Kind::Failures, None)
    );
    let again = acknowledge(&scratch.store, Some(&name()), None).expect("done");
    assert!(again[0].before_seconds.is_some());
    let look = watch.look(&impatient);
    assert_eq!(look.notices, []);
    assert_eq!((look.summary.alerts, look.summary.acknowledged), (1, 1));
    assert_eq!(
        scratch.watch().look(&impatient).notices,
        [],
        "nor after a restart"
    );
    scratch.confirm();
    assert_eq!(only(told(&mut watch)).1, Event::Over);
    scratch.trouble(3);
    assert_eq!(only(told(&mut watch)).1, Event::Raised);
    let unknown = DatasetName::fit(b"other");
    let error = acknowledge(&scratch.store, Some(&unknown), None).expect_err("unknown");
    assert!(matches!(error, ReceiverError::NotFound(_)), "{error}");
}

#[test]
fn a_damaged_catalog_is_told_and_told_to_be_over() {
    let scratch = Scratch::new();
    scratch.fill();
    let catalog = scratch.path.join("site/.understudy/catalog.db");
    let aside = scratch.path.join("aside");
    std::fs::rename(&catalog, &aside).expect("rename");
    std::fs::write(&catalog, "no database".repeat(1000)).expect("write");
    let mut watch = scratch.watch();
    let (kind, event, reason) = only(told(&mut watch));
    assert_eq!((kind, event), (Kind::Trouble, Event::Raised));
    assert!(reason.contains("catalog.db"), "{reason}");
    std::fs::rename(&aside, &catalog).expect("rename");
    assert_eq!(only(told(&mut scratch.watch())).1, Event::Over);
}

#[test]
fn a_dataset_that_vanishes_is_missed_until_it_is_let_go() {
    let scratch = Scratch::new();
    scratch.fill();
    assert_eq!(told(&mut scratch.watch()), []);
    std::fs::remove_dir_all(scratch.path.join("site")).expect("remove");
    let mut watch = scratch.watch();
    let (kind, _, reason) = only(told(&mut watch));
    assert_eq!(kind, Kind::Trouble);
    assert!(reason.contains("gone from the store"), "{reason}");
    acknowledge(&scratch.store, Some(&name()), None).expect("done");
    assert_eq!(told(&mut watch), []);
    assert_eq!(told(&mut scratch.watch()), []);
    let error = acknowledge(&scratch.store, Some(&name()), None).expect_err("let go");
    assert!(matches!(error, ReceiverError::NotFound(_)), "{error}");
}

#[test]
fn what_could_not_be_told_is_not_taken_for_told() {
    let scratch = Scratch::new();
    scratch.trouble(3);
    let mut watch = scratch.watch();
    let notice = watch.look(&Policy::default()).notices.remove(0);
    watch.begin(&notice);
    assert_eq!(told(&mut watch), [], "it is being told");
    watch.end(&notice, Delivery::Failed);
    assert_eq!(told(&mut watch), [], "it is tried again later");
    let (_, event, _) = only(told(&mut scratch.watch()));
    assert_eq!(event, Event::Raised, "or by the next process");
}

#[test]
fn alerts_outlive_a_record_that_cannot_be_read_or_written() {
    let scratch = Scratch::new();
    scratch.trouble(3);
    only(told(&mut scratch.watch()));
    let record = scratch.path.join("understudy.alerts");
    std::fs::write(&record, "{").expect("write");
    let mut watch = scratch.watch();
    assert_eq!(told(&mut watch), [], "the count was in it");
    std::fs::remove_file(&record).expect("remove");
    std::fs::create_dir(&record).expect("directory");
    scratch.trouble(3);
    assert_eq!(only(told(&mut watch)).1, Event::Raised);
    assert_eq!(told(&mut watch), [], "told is told, written or not");
}

#[test]
fn what_root_acknowledges_stays_the_receivers() {
    if !rustix::process::geteuid().is_root() {
        let message = "skipped: the test of the record's owner needs root";
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{message}"
        );
        eprintln!("{message}");
        return;
    }
    let scratch = Scratch::new();
    let nobody = 65_534;
    std::os::unix::fs::chown(&scratch.path, Some(nobody), Some(nobody)).expect("owner");
    scratch.trouble(3);
    only(told(&mut scratch.watch()));
    acknowledge(&scratch.store, Some(&name()), None).expect("done");
    for file in ["understudy.alerts", "understudy.alerts.lock"] {
        let metadata = std::fs::metadata(scratch.path.join(file)).expect(file);
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&metadata),
            nobody,
            "{file}"
        );
    }
}
