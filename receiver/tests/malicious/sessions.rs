//! A main that takes more than its share: sessions, datasets, manifests, bytes.

use std::num::NonZeroU64;
use std::sync::Arc;

use understudy_protocol::message::{
    Begin, Change, Commit, Content, Fuzzy, List, Owners, ReadManifest, Ready, Trouble,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::Hello;
use understudy_protocol::{Bytes, DatasetName, FailureCode, MainName, Message, Position, limits};
use understudy_receiver::quota::{Quota, Quotas, used};
use understudy_receiver::{SessionOptions, Store, serve};

use crate::victim::{
    Victim, base, begin, changes, commit, digest, directory, entry, file, of_text, peer, place,
    put, xattr,
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

    /// How often the attacker's catalog was counted.
    fn counts(&self) -> i64 {
        let path = self.victim.path().join("store/evil/.understudy/catalog.db");
        let catalog = rusqlite::Connection::open(path).expect("open");
        let counts = catalog.query_row("SELECT counts FROM taken", [], |row| row.get(0));
        counts.expect("counted")
    }

    fn used(&self) -> (u64, u64) {
        let main = MainName::new("alpha").expect("name");
        let used = used(&self.victim.store, &main).expect("count");
        (used.bytes, used.files)
    }
}

/// What these take in the catalog.
fn rows(records: &[Change]) -> u64 {
    let row = |record: &Change| match record {
        Change::Put { place, entry, .. } => {
            let encoded = postcard::to_stdvec(entry).expect("encode");
            128 + place.name.as_bytes().len() as u64 + encoded.len() as u64
        }
        _ => 0,
    };
    records.iter().map(row).sum()
}

#[test]
fn a_quota_of_bytes_holds_whatever_the_bytes_are_made_of() {
    let (x, y) = (place(1, "x"), place(1, "y"));
    let large = [file(x.clone(), &"x".repeat(500))];
    let (before, each) = (rows(&base()), rows(&large));
    // "first", "second" and "third" are there.
    let mut limited = Limited::new(1000 + before + 2 * each, u64::MAX);
    assert_eq!(limited.used(), (16 + before, 5));
    limited.upload(&large).expect("room");
    assert_eq!(limited.used(), (516 + before + each, 6));
    let why = limited
        .upload(&[file(y.clone(), &"y".repeat(485))])
        .expect_err("too much");
    for words in ["alpha", "KB", "names and attributes", "[quota.main.alpha]"] {
        assert!(why.contains(words), "{why}");
    }
    // A copy is a file as any other, and a file that is kept is none.
    let copy = put(
        y.clone(),
        entry(of_text(&"x".repeat(500))),
        Content::Copy(x.clone()),
    );
    limited.upload(&[copy]).expect_err("too much");
    limited.upload(&[file(y, &"y".repeat(484))]).expect("room");
    assert_eq!(limited.used(), (1000 + before + 2 * each, 7));
    limited
        .upload(&[file(place(1, "z"), "")])
        .expect_err("nothing left, not even for the name");
    // What adds nothing can always be done.
    limited.entries.retain(|record| match record {
        Change::Put { place, .. } => *place != x,
        _ => true,
    });
    limited
        .upload(&[Change::Remove { place: x.clone() }])
        .expect("nothing");
    limited.victim.check();
}

#[test]
fn history_counts_and_what_is_in_it_twice_counts_once() {
    let (before, each) = (rows(&base()), rows(&[file(place(1, "a"), "1")]));
    let mut limited = Limited::new(110 + before + 4 * each, u64::MAX);
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
    assert_eq!(limited.used(), (46 + before + each, 6));
    replace(&mut limited, &"2".repeat(30)).expect("room");
    assert_eq!(limited.used(), (76 + before + 2 * each, 7));
    // It counts while it arrives, and is then found to be there already.
    replace(&mut limited, &"1".repeat(30)).expect("room");
    assert_eq!(limited.used(), (76 + before + 3 * each, 8));
    let counted = limited.counts();
    replace(&mut limited, &"3".repeat(35)).expect_err("too much");
    assert_eq!(limited.counts(), counted + 1, "something has changed");
    replace(&mut limited, &"3".repeat(35)).expect_err("too much");
    assert_eq!(limited.counts(), counted + 1, "nothing has changed");
    replace(&mut limited, &"3".repeat(34)).expect("exactly");
    assert_eq!(limited.used(), (110 + before + 4 * each, 9));
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

/// A first upload to another dataset of the root and one file.
fn first(dataset: &str, bytes: usize) -> ([Message; 3], u64) {
    let records = [
        directory(place(0, "files"), 1),
        file(place(1, "x"), &"y".repeat(bytes)),
    ];
    let dataset = DatasetName::new(dataset).expect("name");
    let messages = [
        Message::Begin(Begin { dataset }),
        changes(records.to_vec()),
        commit(None, &digest(&records)),
    ];
    (messages, rows(&records))
}

/// Whether an upload is committed, and why not.
fn committed(
    store: &Arc<Store>,
    options: &SessionOptions,
    messages: &[Message],
) -> Result<(), understudy_protocol::Failure> {
    let mut channel = open(store, options);
    for message in messages {
        if let Err(error) = channel.outgoing.send_message(message) {
            assert!(
                !matches!(error, understudy_protocol::ProtocolError::TooLong { .. }),
                "{error}"
            );
        }
    }
    loop {
        match channel.incoming.receive_message() {
            Ok(Message::Committed(_)) => return Ok(()),
            Ok(_) => {}
            Err(understudy_protocol::ProtocolError::Failed(failure)) => return Err(failure),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_held_counts_until_something_takes_its_place() {
    let many: Vec<Change> = (0..40)
        .map(|number| file(place(1, format!("m{number}")), &format!("{number:0>100}")))
        .collect();
    let before = rows(&base()) + rows(&many);
    // Most of it goes, and something comes: a guard holds that.
    let harm = |name: &str| {
        let mut records: Vec<Change> = (0..40)
            .map(|number| Change::Remove {
                place: place(1, format!("m{number}")),
            })
            .collect();
        records.push(file(place(1, name), &name.repeat(3000)));
        records
    };
    let each = rows(&harm("n"));
    let mut limited = Limited::new(7500 + before + each, u64::MAX);
    limited.upload(&many).expect("room");
    assert_eq!(limited.used(), (4016 + before, 45));
    // The second takes the place of the first, and both would be too much.
    for name in ["n", "o"] {
        let after = digest(&[base(), harm(name)].concat());
        let last = commit(Some(limited.position), &after);
        let messages = [begin(), changes(harm(name)), last];
        let failure = committed(&limited.victim.store, &limited.options, &messages);
        let failure = failure.expect_err("held");
        assert_eq!(failure.code, FailureCode::Refused, "{failure:?}");
        assert_eq!(limited.used(), (7016 + before + each, 46));
    }
    let (other, _) = first("other", 600);
    committed(&limited.victim.store, &limited.options, &other).expect_err("what is held takes it");
    limited
        .upload(&[file(place(1, "l"), &"l".repeat(3501))])
        .expect_err("too much");
    limited
        .upload(&[file(place(1, "l"), &"l".repeat(3484))])
        .expect("room");
    assert_eq!(limited.used(), (7500 + before + each, 46));
}

#[test]
fn a_quota_is_for_all_datasets_of_a_main_and_for_no_other() {
    let large = [file(place(1, "x"), &"x".repeat(500))];
    let (second, more) = first("second", 484);
    let before = rows(&base()) + rows(&large) + more;
    let mut limited = Limited::new(1000 + before, u64::MAX);
    limited.upload(&large).expect("room");
    let upload = |options: &SessionOptions, messages: &[Message]| {
        committed(&limited.victim.store, options, messages).is_ok()
    };
    assert!(!upload(&limited.options, &first("second", 485).0));
    assert!(upload(&limited.options, &second));
    assert!(!upload(&limited.options, &first("third", 1).0));
    assert_eq!(limited.used(), (1000 + before, 8));
    let mut beta = limited.options.clone();
    beta.peer = peer("beta");
    assert!(upload(&beta, &first("beta2", 5000).0));
}

#[test]
fn uploads_side_by_side_share_what_is_left() {
    // 5 rows are there, and 4 may come.
    let limited = Limited::new(u64::MAX >> 1, 9);
    let named = |count: u32| -> Vec<Change> {
        let names = (0..count).map(|number| file(place(1, format!("n{number}")), ""));
        names.collect()
    };
    let channel = open(&limited.victim.store, &limited.options);
    let all = [base(), named(3)].concat();
    for message in [begin(), changes(named(3))] {
        channel.outgoing.send_message(&message).expect("send");
    }
    // It is counted as soon as this is there.
    let weight = limited
        .victim
        .path()
        .join("store/evil/.understudy/staging/weight");
    while !weight.exists() {
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let (second, _) = first("second", 1);
    let refused = committed(&limited.victim.store, &limited.options, &second);
    let failure = refused.expect_err("too many together");
    assert!(failure.text.contains("9 files"), "{failure:?}");
    let last = commit(Some(limited.position), &digest(&all));
    channel.outgoing.send_message(&last).expect("send");
    let mut incoming = channel.incoming;
    while !matches!(
        incoming.receive_message().expect("it fits"),
        Message::Committed(_)
    ) {}
    assert_eq!(limited.used().1, 8);
}

#[test]
fn what_a_catalog_is_filled_with_counts() {
    let names = |message: u32| -> Vec<(u32, Bytes)> {
        let name = |number: u32| {
            let name = format!("{message}.{number:0>250}").into_bytes();
            (number, Bytes(name))
        };
        (0..1500).map(name).collect()
    };
    let owners = |message: u32| {
        Message::Owners(Owners {
            users: names(message),
            groups: names(message),
        })
    };
    // Places that are no files: the marks take room until that is found out.
    let marks = |message: u64| {
        let places = (0..4000).map(|number| place(1000 + message, format!("{number}")));
        Message::Fuzzy(Fuzzy {
            places: places.collect(),
        })
    };
    let attributed = |number: u32| {
        let mut entry = entry(of_text(""));
        let value = vec![7; 60_000];
        entry.attributes.xattrs = ["user.a", "user.b"]
            .map(|name| xattr(name, &value))
            .to_vec();
        let content = Content::Inline(Vec::new().into());
        put(place(1, format!("a{number}")), entry, content)
    };
    let heavy: Vec<Change> = (0..8).map(attributed).collect();
    let limited = Limited::new(500_000, u64::MAX);
    let size = || {
        let below = limited.victim.path().join("store/evil/.understudy");
        let files = ["catalog.db", "catalog.db-wal"].map(|name| below.join(name));
        let lengths = files
            .iter()
            .map(|file| file.metadata().map_or(0, |one| one.len()));
        lengths.sum::<u64>()
    };
    let before = (limited.used(), size());
    for (filling, after) in [
        (vec![owners(1)], base()),
        ((0..20).map(marks).collect(), base()),
        (vec![changes(heavy.clone())], [base(), heavy].concat()),
    ] {
        let last = commit(Some(limited.position), &digest(&after));
        let messages = [vec![begin()], filling, vec![last]].concat();
        let filled = committed(&limited.victim.store, &limited.options, &messages);
        let failure = filled.expect_err("too much");
        assert_eq!(failure.code, FailureCode::NoSpace, "{failure:?}");
        assert_eq!(limited.used(), before.0);
        assert!(size() < before.1 + 500_000, "{} of {}", size(), before.1);
    }
    limited.victim.check();
}

#[test]
fn names_of_owners_come_in_few_messages() {
    let (victim, base) = Victim::new();
    let named = Message::Owners(Owners {
        users: vec![(0, Bytes(b"root".to_vec()))],
        groups: Vec::new(),
    });
    for (count, is_taken) in [(4, true), (5, false)] {
        let last = commit(Some(base), &digest(&crate::victim::base()));
        let messages = [vec![begin()], vec![named.clone(); count], vec![last]].concat();
        let outcome = victim.attack(&messages);
        assert_eq!(outcome.committed().is_some(), is_taken, "{outcome:?}");
        if !is_taken {
            let code = outcome.failure.expect("refused").code;
            assert_eq!(code, FailureCode::Misbehaved);
            return;
        }
    }
}

#[test]
fn what_was_interrupted_does_not_count_beside_what_takes_its_place() {
    let files = |name: &str| -> Vec<Change> {
        let text = name.repeat(60_000);
        let files = (0..10).map(|number| file(place(1, format!("{name}{number}")), &text));
        files.collect()
    };
    let limited = Limited::new(1_000_000, u64::MAX);
    let channel = open(&limited.victim.store, &limited.options);
    for message in [begin(), changes(files("n"))] {
        channel.outgoing.send_message(&message).expect("send");
    }
    drop(channel.outgoing);
    let mut incoming = channel.incoming;
    while incoming.receive_message().is_ok() {}
    let left = limited
        .victim
        .path()
        .join("store/evil/.understudy/leftovers");
    assert!(left.exists(), "nothing was left");
    let mut channel = open(&limited.victim.store, &limited.options);
    for message in [begin(), changes(files("o"))] {
        channel.outgoing.send_message(&message).expect("send");
    }
    // It is looked at while it is staged.
    let weight = limited
        .victim
        .path()
        .join("store/evil/.understudy/staging/weight");
    let mut patience = 0..2000;
    while !weight.exists() && patience.next().is_some() {
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let all = [base(), files("o")].concat();
    let last = commit(Some(limited.position), &digest(&all));
    let _ = channel.outgoing.send_message(&last);
    while !matches!(
        channel
            .incoming
            .receive_message()
            .expect("it takes its place"),
        Message::Committed(_)
    ) {}
    limited.victim.check();
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
