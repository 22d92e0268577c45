//! A main that takes more than its share: sessions, datasets, manifests, bytes.

use std::num::NonZeroU64;
use std::sync::Arc;

use understudy_protocol::message::{
    Begin, Change, Commit, Content, List, ReadManifest, Ready, Trouble,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::Hello;
use understudy_protocol::{DatasetName, FailureCode, MainName, Message, Position, limits};
use understudy_receiver::quota::{Quota, Quotas, used};
use understudy_receiver::{SessionOptions, Store, serve};

use crate::victim::{
    Victim, base, begin, changes, commit, digest, directory, entry, file, of_text, peer, place, put,
};

/// A session that stays open.
fn open(store: &Arc<Store>, options: &SessionOptions) -> Channel {
    let (mut ours, theirs) = in_process();
    let (store, options) = (Arc::clone(store), options.clone());
    std::thread::spawn(move || serve(store, theirs, options));
    let hello = Message::Hello(Hello::ours());
    ours.outgoing.send_message(&hello).expect("send");
    ours.incoming.receive_message().expect("greeting");
    ours
}

fn of(main: &str) -> SessionOptions {
    SessionOptions {
        peer: peer(main),
        ..SessionOptions::default()
    }
}

/// Asks, and hears the first answer.
fn ask(
    channel: &mut Channel,
    message: &Message,
) -> Result<Message, understudy_protocol::ProtocolError> {
    let _ = channel.outgoing.send_message(message);
    channel.incoming.receive_message()
}

fn list() -> Message {
    Message::List(List { dataset: None })
}

#[test]
fn sessions_that_stall_keep_no_other_main_out() {
    let (victim, _) = Victim::new();
    let mut stalled: Vec<Channel> = (0..limits::SESSIONS_OF_MAIN)
        .map(|_| open(&victim.store, &of("alpha")))
        .collect();
    // Each has been let in once it is answered.
    for channel in &mut stalled {
        ask(channel, &list()).expect("let in");
    }
    let refused = ask(&mut open(&victim.store, &of("alpha")), &list());
    match refused.expect_err("one too many") {
        understudy_protocol::ProtocolError::Failed(failure) => {
            assert_eq!(failure.code, FailureCode::Busy, "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    // An upload that began and says no more holds its own dataset only.
    ask(&mut stalled[0], &begin()).expect("begun");
    ask(&mut open(&victim.store, &of("beta")), &list()).expect("let in");
    let honest = Message::Begin(Begin {
        dataset: DatasetName::fit(b"honest"),
    });
    let begun = ask(&mut open(&victim.store, &of("beta")), &honest).expect("begun");
    assert!(matches!(begun, Message::Ready(Ready { position: Some(_) })));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "makes many datasets at once")]
fn datasets_without_end_are_refused() {
    let (victim, _) = Victim::new();
    let store = victim.path().join("store");
    for number in 1..limits::DATASETS {
        let control = store.join(format!("evil{number}/.understudy"));
        std::fs::create_dir_all(&control).expect("dataset");
        std::fs::write(control.join("main"), "alpha\n").expect("owner");
    }
    let one_more = DatasetName::fit(b"one-more");
    let trouble = Message::Trouble(Trouble {
        dataset: one_more.clone(),
        reason: "none".to_owned(),
    });
    let begin = Message::Begin(Begin {
        dataset: one_more.clone(),
    });
    for message in [trouble, begin] {
        let failure = victim.attack(&[message]).failure.expect("refused");
        assert_eq!(failure.code, FailureCode::NoSpace, "{failure:?}");
    }
    assert!(!store.join("one-more").exists());
    let other = Message::Begin(Begin { dataset: one_more });
    let outcome = victim.tell(&peer("beta"), &[other]);
    assert!(outcome.failure.is_none(), "{outcome:?}");
}

#[test]
fn manifests_without_end_are_refused_within_an_upload() {
    let (victim, _) = Victim::new();
    let read = Message::ReadManifest(ReadManifest {
        dataset: DatasetName::fit(b"evil"),
        number: None,
    });
    let messages = [vec![begin()], vec![read; limits::ADOPTIONS + 1]].concat();
    let failure = victim.attack(&messages).failure.expect("refused");
    assert_eq!(failure.code, FailureCode::Misbehaved, "{failure:?}");
    victim.check();
}

/// A main with a quota, and what its dataset has.
struct Limited {
    victim: Victim,
    options: SessionOptions,
    position: Position,
    entries: Vec<Change>,
}

impl Limited {
    fn new(bytes: u64, files: u64) -> Self {
        let (victim, position) = Victim::new();
        let quota = Quota {
            bytes: NonZeroU64::new(bytes),
            files: NonZeroU64::new(files),
        };
        let main = MainName::new("alpha").expect("name");
        let mut quotas = Quotas::default();
        quotas.mains.insert(main, quota);
        let options = SessionOptions {
            quotas: Arc::new(quotas),
            ..of("alpha")
        };
        Self {
            victim,
            options,
            position,
            entries: base(),
        }
    }

    /// Puts new things beside what is there.
    fn upload(&mut self, records: &[Change]) -> Result<(), String> {
        let all = [self.entries.clone(), records.to_vec()].concat();
        let last = Commit {
            base: Some(self.position),
            fingerprint: digest(&all).fingerprint(),
            elapsed_milliseconds: 0,
        };
        let mut channel = open(&self.victim.store, &self.options);
        for message in [begin(), changes(records.to_vec()), Message::Commit(last)] {
            let _ = channel.outgoing.send_message(&message);
        }
        loop {
            match channel.incoming.receive_message() {
                Ok(Message::Committed(committed)) => {
                    (self.position, self.entries) = (committed.snapshot.position, all);
                    return Ok(());
                }
                Ok(_) => {}
                Err(understudy_protocol::ProtocolError::Failed(failure)) => {
                    assert_eq!(failure.code, FailureCode::NoSpace, "{failure:?}");
                    return Err(failure.text);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn used(&self) -> (u64, u64) {
        let main = MainName::new("alpha").expect("name");
        let used = used(&self.victim.store, &main).expect("count");
        (used.bytes, used.files)
    }
}

#[test]
fn a_quota_of_bytes_holds_whatever_the_bytes_are_made_of() {
    // "first", "second" and "third" are there.
    let mut limited = Limited::new(1000, u64::MAX);
    assert_eq!(limited.used(), (16, 5));
    limited
        .upload(&[file(place(1, "x"), &"x".repeat(500))])
        .expect("room");
    assert_eq!(limited.used(), (516, 6));
    let why = limited
        .upload(&[file(place(1, "y"), &"y".repeat(485))])
        .expect_err("too much");
    for words in ["alpha", "1.0 KB", "516 B", "485 B", "[quota.main.alpha]"] {
        assert!(why.contains(words), "{why}");
    }
    // A copy is a file as any other, and a file that is kept is none.
    let text = "x".repeat(500);
    let copy = put(
        place(1, "y"),
        entry(of_text(&text)),
        Content::Copy(place(1, "x")),
    );
    limited.upload(&[copy]).expect_err("too much");
    limited
        .upload(&[file(place(1, "y"), &"y".repeat(484))])
        .expect("room");
    assert_eq!(limited.used(), (1000, 7));
    limited
        .upload(&[file(place(1, "z"), "z")])
        .expect_err("nothing left");
    // What adds no bytes can always be done.
    limited
        .upload(&[file(place(1, "empty"), "")])
        .expect("nothing");
    limited
        .upload(&[directory(place(1, "dir"), 9)])
        .expect("nothing");
    limited.victim.check();
}

#[test]
fn history_counts_and_what_is_in_it_twice_counts_once() {
    let mut limited = Limited::new(110, u64::MAX);
    let replace = |limited: &mut Limited, text: &str| {
        let before = limited.entries.clone();
        limited.entries.retain(|record| match record {
            Change::Put { place, .. } => place.name.as_bytes() != b"a",
            _ => true,
        });
        let replaced = limited.upload(&[file(place(1, "a"), text)]);
        if replaced.is_err() {
            limited.entries = before;
        }
        replaced
    };
    // 16 bytes, of which 5 are replaced: 11 live, and the versions.
    replace(&mut limited, &"1".repeat(30)).expect("room");
    assert_eq!(limited.used(), (46, 6));
    replace(&mut limited, &"2".repeat(30)).expect("room");
    assert_eq!(limited.used(), (76, 7));
    // It counts while it arrives, and is then found to be there already.
    replace(&mut limited, &"1".repeat(30)).expect("room");
    assert_eq!(limited.used(), (76, 8));
    replace(&mut limited, &"3".repeat(35)).expect_err("too much");
    replace(&mut limited, &"3".repeat(34)).expect("exactly");
    assert_eq!(limited.used(), (110, 9));
    replace(&mut limited, "4").expect_err("nothing left");
    limited.victim.check();
}

#[test]
fn a_quota_of_files_counts_every_version() {
    let mut limited = Limited::new(u64::MAX >> 1, 8);
    assert_eq!(limited.used().1, 5);
    let files = |first: u32, count: u32| -> Vec<Change> {
        (first..first + count)
            .map(|number| file(place(1, format!("n{number}")), ""))
            .collect()
    };
    let why = limited.upload(&files(0, 4)).expect_err("too many");
    assert!(why.contains("8 files") && why.contains('4'), "{why}");
    limited.upload(&files(0, 3)).expect("room");
    limited.upload(&files(10, 1)).expect_err("nothing left");
    limited.victim.check();
}

#[test]
fn what_is_held_counts_until_it_is_dropped() {
    let mut limited = Limited::new(10_000, u64::MAX);
    let many: Vec<Change> = (0..40)
        .map(|number| file(place(1, format!("m{number}")), &format!("{number:0>100}")))
        .collect();
    limited.upload(&many).expect("room");
    assert_eq!(limited.used(), (4016, 45));
    // Most of it goes, and something comes: a guard holds that.
    let mut records: Vec<Change> = (0..40)
        .map(|number| Change::Remove {
            place: place(1, format!("m{number}")),
        })
        .collect();
    records.push(file(place(1, "new"), &"n".repeat(3000)));
    let after = digest(&[base(), records.clone()].concat());
    let last = commit(Some(limited.position), &after);
    let mut channel = open(&limited.victim.store, &limited.options);
    for message in [begin(), changes(records), last] {
        let _ = channel.outgoing.send_message(&message);
    }
    let failure = loop {
        match channel.incoming.receive_message() {
            Ok(_) => {}
            Err(understudy_protocol::ProtocolError::Failed(failure)) => break failure,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(failure.code, FailureCode::Refused, "{failure:?}");
    assert_eq!(limited.used(), (7016, 46));
    limited
        .upload(&[file(place(1, "large"), &"l".repeat(3000))])
        .expect_err("what is held takes it");
    // A small one takes its place.
    limited
        .upload(&[file(place(1, "small"), "s")])
        .expect("room");
    assert_eq!(limited.used(), (4017, 46));
    limited
        .upload(&[file(place(1, "large"), &"l".repeat(3000))])
        .expect("room");
    limited.victim.check();
}

#[test]
fn a_quota_is_for_all_datasets_of_a_main_and_for_no_other() {
    let mut limited = Limited::new(1000, u64::MAX);
    limited
        .upload(&[file(place(1, "x"), &"x".repeat(500))])
        .expect("room");
    let first = |dataset: &str, bytes: usize| {
        let records = [
            directory(place(0, "files"), 1),
            file(place(1, "x"), &"y".repeat(bytes)),
        ];
        let dataset = DatasetName::new(dataset).expect("name");
        [
            Message::Begin(Begin { dataset }),
            changes(records.to_vec()),
            commit(None, &digest(&records)),
        ]
    };
    let upload = |options: &SessionOptions, messages: &[Message]| {
        let mut channel = open(&limited.victim.store, options);
        for message in messages {
            let _ = channel.outgoing.send_message(message);
        }
        loop {
            match channel.incoming.receive_message() {
                Ok(Message::Committed(_)) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    assert!(!upload(&limited.options, &first("second", 485)));
    assert!(upload(&limited.options, &first("second", 484)));
    assert!(!upload(&limited.options, &first("third", 1)));
    assert_eq!(limited.used(), (1000, 8));
    let mut beta = limited.options.clone();
    beta.peer = peer("beta");
    assert!(upload(&beta, &first("beta2", 5000)));
}

#[test]
fn what_was_interrupted_counts_for_what_runs_beside_it() {
    let limited = Limited::new(50 << 20, u64::MAX);
    // Streams are counted as they come, and what is left of them stays counted.
    let block = |number: u64| {
        Message::StreamBlock(understudy_protocol::message::StreamBlock {
            stream: 1,
            offset: number * (1 << 19),
            data: vec![7; 1 << 19].into(),
        })
    };
    let channel = open(&limited.victim.store, &limited.options);
    let _ = channel.outgoing.send_message(&begin());
    let mut incoming = channel.incoming;
    let reader = std::thread::spawn(move || {
        loop {
            match incoming.receive_message() {
                Ok(_) => {}
                Err(understudy_protocol::ProtocolError::Failed(failure)) => return Some(failure),
                Err(_) => return None,
            }
        }
    });
    // Four times the quota; it is looked at meanwhile.
    for number in 0..400 {
        if channel.outgoing.send_message(&block(number)).is_err() {
            break;
        }
    }
    drop(channel.outgoing);
    let failure = reader.join().expect("reader");
    let failure = failure.expect("refused before it ends");
    assert_eq!(failure.code, FailureCode::NoSpace, "{failure:?}");
    assert!(failure.text.contains("quota"), "{failure:?}");
    limited.victim.check();
}
