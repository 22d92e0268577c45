//! What a main may ask for: its own datasets, and nothing that changes the past or tells of others.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use understudy_protocol::message::{
    Begin, Change, Changes, Claim, Commit, Compare, Confirm, Content, Depth, Find, HandOver,
    Inspect, List, ListFuzzy, ListRetention, ListRoles, ListSnapshots, ListTree, Locate, Oversee,
    Owners, ReadManifest, Repair, Repairing, RestorePhase, Restoring, Returned, SourceRoot, Stated,
    StreamAbort, StreamBase, StreamBlock, StreamCopy, StreamEnd, StreamPiece, StreamPieces,
    StreamResume, Summarise, TABLE, Trouble, Verify, Want, WantRest,
};
use understudy_protocol::version::Hello;
use understudy_protocol::{
    Bytes, ContentHash, DatasetName, Failure, FailureCode, MainName, Message, Node, Position,
    ProtocolError, RelPath,
};
use understudy_receiver::{Peer, Store};

mod stage;
use stage::{Stage, directory, entry, file, hear, place, send};

fn name(text: &str) -> DatasetName {
    DatasetName::new(text).expect("name")
}

fn main(text: &str) -> MainName {
    MainName::new(text).expect("name")
}

impl Stage {
    /// Becomes what a main would have.
    fn belonging_to(mut self, text: &str) -> Self {
        self.options.peer = Peer::Main(main(text));
        self
    }

    /// The same store, as somebody else who has uploaded nothing.
    fn other(&self, peer: Peer) -> Seen<'_> {
        let mut options = self.options.clone();
        options.peer = peer;
        Seen {
            stage: self,
            options,
        }
    }
}

/// A peer in front of the store of a stage.
struct Seen<'a> {
    stage: &'a Stage,
    options: understudy_receiver::SessionOptions,
}

impl Seen<'_> {
    /// Asks for one thing, and takes everything that is answered until it fails or nothing more can come.
    fn ask(&self, message: &Message) -> Result<Vec<Message>, Failure> {
        self.ask_all(std::slice::from_ref(message))
    }

    fn ask_all(&self, messages: &[Message]) -> Result<Vec<Message>, Failure> {
        let (mut ours, theirs) = understudy_protocol::transport::in_process();
        let (store, options) = (self.stage.store.clone(), self.options.clone());
        let session =
            std::thread::spawn(move || understudy_receiver::serve(store, theirs, options));
        send(&mut ours, &Message::Hello(Hello::ours()));
        hear(&mut ours).expect("greeting");
        let understudy_protocol::transport::Channel {
            outgoing,
            mut incoming,
        } = ours;
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            loop {
                match incoming.receive_message() {
                    Ok(message) => heard.push(message),
                    Err(ProtocolError::Failed(failure)) => return Err(failure),
                    Err(_) => return Ok(heard),
                }
            }
        });
        for message in messages {
            let _ = outgoing.send_message(message);
        }
        drop(outgoing);
        let _ = session.join().expect("session");
        reader.join().expect("reader")
    }
}

fn hash() -> ContentHash {
    ContentHash::of(b"alpha's secret")
}

/// Every message that an agent can send, about this dataset if it names one.
fn every(of: &DatasetName) -> Vec<Message> {
    let dataset = of.clone();
    let one = Some(of.clone());
    let at = place(1, "secret");
    let position = Position {
        epoch: 1,
        number: 1,
        fingerprint: understudy_protocol::StateDigest::empty().fingerprint(),
    };
    let all = vec![
        Message::Hello(Hello::ours()),
        Message::Failure(Failure::new(FailureCode::Internal, "gives up")),
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: 0,
            data: b"x"[..].into(),
        }),
        Message::StreamEnd(StreamEnd {
            stream: 1,
            size: 14,
            hash: hash(),
        }),
        Message::StreamAbort(StreamAbort { stream: 1 }),
        Message::Fuzzy(understudy_protocol::message::Fuzzy {
            places: vec![at.clone()],
        }),
        Message::StreamBase(StreamBase {
            stream: 1,
            place: at.clone(),
        }),
        Message::StreamCopy(StreamCopy {
            stream: 1,
            offset: 0,
            from: 0,
            length: 1,
        }),
        Message::StreamPieces(StreamPieces {
            stream: 1,
            offset: 0,
            pieces: vec![StreamPiece::New(b"x"[..].into())],
        }),
        Message::StreamResume(StreamResume {
            stream: 1,
            length: 14,
            hash: hash(),
        }),
        Message::Begin(Begin {
            dataset: dataset.clone(),
        }),
        Message::Claim(Claim {
            dataset: dataset.clone(),
            epoch: 1,
        }),
        Message::Changes(Changes {
            records: vec![Change::Remove { place: at.clone() }],
        }),
        Message::Commit(Commit {
            base: Some(position),
            fingerprint: position.fingerprint,
            elapsed_milliseconds: u64::MAX,
        }),
        Message::Confirm(Confirm {
            position,
            elapsed_milliseconds: u64::MAX,
        }),
        Message::ReadManifest(ReadManifest {
            dataset: dataset.clone(),
            number: None,
        }),
        Message::Want(Want {
            places: vec![at.clone()],
        }),
        Message::List(List {
            dataset: one.clone(),
        }),
        Message::ListRoles(ListRoles {
            dataset: one.clone(),
        }),
        Message::HandOver(HandOver {
            dataset: dataset.clone(),
            epoch: 1,
            position: Some(position),
        }),
        Message::Verify(Verify {
            dataset: one.clone(),
        }),
        Message::Trouble(Trouble {
            dataset: dataset.clone(),
            reason: "none".to_owned(),
        }),
        Message::ListFuzzy(ListFuzzy {
            dataset: dataset.clone(),
            number: None,
        }),
        Message::WantRest(WantRest {
            place: at,
            from: 1,
            other: None,
        }),
        Message::ListRetention(ListRetention {
            dataset: dataset.clone(),
        }),
        Message::Locate(Locate {
            dataset: dataset.clone(),
            number: None,
            path: RelPath::new(b"secret").expect("path"),
        }),
        Message::ListTree(ListTree {
            dataset: dataset.clone(),
            number: 1,
            path: RelPath::root(),
            depth: Depth::All,
        }),
        Message::Find(Find {
            dataset: dataset.clone(),
            pattern: "*".to_owned(),
            first: None,
            last: None,
        }),
        Message::Compare(Compare {
            dataset: dataset.clone(),
            from: 1,
            to: 1,
        }),
        Message::Summarise(Summarise {
            dataset: dataset.clone(),
        }),
        Message::ListSnapshots(ListSnapshots {
            dataset,
            before: u64::MAX,
        }),
        Message::Repair(Repair {
            dataset: one.clone(),
        }),
        Message::Returned(Returned {
            hash: hash(),
            stream: None,
        }),
        Message::Inspect(Inspect {
            dataset: one,
            repair: Repairing::Always,
            bytes_per_second: 1 << 30,
        }),
        Message::SourceRoot(SourceRoot {
            file_system: None,
            inode: 1,
            born: None,
        }),
        Message::Restoring(restoring()),
        Message::Oversee(Oversee {}),
        Message::Owners(Owners::default()),
        Message::Stated(Stated {
            statement: Bytes(Vec::new()),
        }),
    ];
    let named: Vec<&str> = all.iter().map(Message::name).collect();
    for row in TABLE.iter().filter(|row| row.sender != "receiver") {
        assert!(named.contains(&row.name), "{} is not tried", row.name);
    }
    all
}

fn restoring() -> Restoring {
    Restoring {
        who: "nobody".to_owned(),
        phase: RestorePhase::Checking,
        files_total: 1,
        files_done: 0,
        files_found: 0,
        bytes_total: 1,
        bytes_done: 0,
        bytes_found: 0,
        bytes_per_second: None,
        remaining_seconds: None,
    }
}

/// What a message can do to what is stored.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing.
    None,
    /// It is part of a new snapshot, which comes after all that there are.
    NewSnapshot,
    /// It is noted that something was, or was not, as it should be; nobody's decision is changed.
    Note,
    /// What is damaged is made what it was.
    Mending,
    /// A receiver sends it.
    NotOfAnAgent,
}

/// There is no effect here that removes a snapshot, a pin or a policy, changes what guards hold back, accepts a loss or makes a role: a
/// message that would have one has no place in this table.
fn effect(message: &Message) -> Effect {
    use Effect::{Mending, NewSnapshot, None, NotOfAnAgent, Note};
    match message {
        Message::Hello(_)
        | Message::Failure(_)
        | Message::ReadManifest(_)
        | Message::Want(_)
        | Message::WantRest(_)
        | Message::List(_)
        | Message::ListFuzzy(_)
        | Message::ListRetention(_)
        | Message::Locate(_)
        | Message::ListTree(_)
        | Message::Find(_)
        | Message::Compare(_)
        | Message::Summarise(_)
        | Message::ListSnapshots(_)
        | Message::ListRoles(_)
        | Message::Oversee(_) => None,
        Message::Begin(_)
        | Message::Claim(_)
        | Message::Changes(_)
        | Message::Commit(_)
        | Message::Fuzzy(_)
        | Message::Owners(_)
        | Message::Stated(_)
        | Message::SourceRoot(_)
        | Message::StreamBlock(_)
        | Message::StreamEnd(_)
        | Message::StreamAbort(_)
        | Message::StreamBase(_)
        | Message::StreamCopy(_)
        | Message::StreamPieces(_)
        | Message::StreamResume(_) => NewSnapshot,
        // A confirmation drops what is held, as a harmless upload does: the source is whole again.
        Message::Confirm(_)
        | Message::Trouble(_)
        | Message::Verify(_)
        | Message::HandOver(_)
        | Message::Restoring(_) => Note,
        Message::Repair(_) | Message::Inspect(_) | Message::Returned(_) => Mending,
        Message::Ready(_)
        | Message::Committed(_)
        | Message::Confirmed(_)
        | Message::Manifest(_)
        | Message::ManifestEnd(_)
        | Message::Given(_)
        | Message::GivenStream(_)
        | Message::Datasets(_)
        | Message::Finding(_)
        | Message::Verified(_)
        | Message::VerifyEnd(_)
        | Message::Noted(_)
        | Message::FuzzyFiles(_)
        | Message::FuzzyEnd(_)
        | Message::Leftover(_)
        | Message::LeftoverEnd(_)
        | Message::Waited(_)
        | Message::Retention(_)
        | Message::RetentionEnd(_)
        | Message::Located(_)
        | Message::Listed(_)
        | Message::Found(_)
        | Message::Differences(_)
        | Message::Summaries(_)
        | Message::Snapshots(_)
        | Message::Told(_)
        | Message::Repaired(_)
        | Message::DatasetRole(_)
        | Message::Wanted(_)
        | Message::Health(_)
        | Message::Overseen(_) => NotOfAnAgent,
    }
}

/// Everything below a directory: kind, mode, size, inode and content.
fn image(path: &Path) -> BTreeMap<String, (u32, u64, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).expect("metadata");
        let mut content = Vec::new();
        if metadata.is_dir() {
            let listed = std::fs::read_dir(&path).expect("list");
            pending.extend(listed.map(|entry| entry.expect("entry").path()));
        } else if metadata.is_file() {
            content = std::fs::read(&path).expect("read");
        }
        let seen = (metadata.mode(), metadata.len(), metadata.ino(), content);
        // SQLite makes these whenever a catalog is read, and has nothing in them that was not there.
        let text = path.to_string_lossy().into_owned();
        if !text.ends_with("catalog.db-shm") && !text.ends_with("catalog.db-wal") {
            found.insert(text, seen);
        }
    }
    found
}

/// A store with the dataset `site` of `alpha`, of three snapshots.
fn of_alpha() -> Stage {
    let mut stage = Stage::new().belonging_to("alpha");
    let (root, secret) = (place(0, "files"), place(1, "secret"));
    stage.upload(
        &[directory(root, 1), file(secret.clone(), "alpha's secret")],
        &[],
    );
    // The first content moves into history with the third snapshot.
    for text in ["alpha's next secret", "alpha's last secret"] {
        stage.upload(&[file(secret.clone(), text)], &[]);
    }
    stage
}

#[test]
fn a_dataset_belongs_to_who_made_it() {
    let stage = of_alpha();
    let owner = stage.store.owner(&name("site")).expect("owner");
    assert_eq!(owner, Some(main("alpha")));
    let listed = |peer| {
        let heard = stage
            .other(peer)
            .ask(&Message::List(List { dataset: None }));
        match &heard.expect("list")[..] {
            [Message::Datasets(told)] => told.datasets.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(listed(Peer::Main(main("alpha"))), 1);
    assert_eq!(listed(Peer::Main(main("beta"))), 0);
    assert_eq!(listed(Peer::Operator), 1);
    stage
        .store
        .grant(&main("beta"), &name("site"))
        .expect("grant");
    assert_eq!(listed(Peer::Main(main("alpha"))), 0);
    assert_eq!(listed(Peer::Main(main("beta"))), 1);
    let other = name("other");
    assert!(stage.store.grant(&main("beta"), &other).is_err());
}

#[test]
fn what_is_anothers_is_answered_as_what_is_not_there() {
    let stage = of_alpha();
    let before = image(&stage.path(""));
    let beta = stage.other(Peer::Main(main("beta")));
    for (foreign, absent) in every(&name("site")).iter().zip(every(&name("nope"))) {
        if let Message::Begin(_) | Message::Claim(_) | Message::Trouble(_) | Message::Oversee(_) =
            foreign
        {
            continue;
        }
        let heard = beta.ask(foreign);
        let expected = beta.ask(&absent);
        let text = format!("{heard:?}").replace("site", "nope");
        assert_eq!(text, format!("{expected:?}"), "{}", foreign.name());
        assert!(!format!("{heard:?}").contains("secret"), "{heard:?}");
    }
    assert_eq!(image(&stage.path("")), before);
    let names = stage.store.dataset_names().expect("names");
    assert_eq!(names, [name("site")]);
}

#[test]
fn a_name_that_is_taken_is_refused_whoever_has_it() {
    let stage = of_alpha();
    let ours = name("nobodys");
    // As it was before datasets had owners.
    let heard = stage.other(Peer::Operator).ask(&Message::Begin(Begin {
        dataset: ours.clone(),
    }));
    heard.expect("begin");
    assert_eq!(stage.store.owner(&ours).expect("owner"), None);
    let before = image(&stage.path(""));
    let beta = stage.other(Peer::Main(main("beta")));
    let refused = |message: Message| {
        let failure = beta.ask(&message).expect_err("refused");
        assert_eq!(failure.code, FailureCode::Forbidden);
        failure.text
    };
    let begin = |dataset: &str| {
        refused(Message::Begin(Begin {
            dataset: name(dataset),
        }))
    };
    let trouble = |dataset: &str| {
        refused(Message::Trouble(Trouble {
            dataset: name(dataset),
            reason: "x".to_owned(),
        }))
    };
    let text = begin("site");
    assert_eq!(text.replace("site", "nobodys"), begin("nobodys"));
    assert!(!text.contains("alpha"), "{text}");
    assert!(text.contains("understudy pair --grant beta site"), "{text}");
    assert_eq!(trouble("site"), text);
    assert_eq!(trouble("nobodys"), begin("nobodys"));
    assert_eq!(image(&stage.path("")), before);
}

#[test]
fn not_found_texts_name_own_datasets_only() {
    let stage = of_alpha();
    let beta = stage.other(Peer::Main(main("beta")));
    beta.ask(&Message::Begin(Begin {
        dataset: name("beta1"),
    }))
    .expect("begin");
    let ask = Message::Summarise(Summarise {
        dataset: name("site"),
    });
    let failure = beta.ask(&ask).expect_err("not there");
    assert_eq!(failure.code, FailureCode::NotFound);
    assert_eq!(
        failure.text,
        "the spare has no dataset `site` (it has: beta1)"
    );
}

#[test]
fn lists_of_everything_are_of_own_datasets() {
    let stage = of_alpha();
    let beta = stage.other(Peer::Main(main("beta")));
    let heard = beta.ask_all(&[
        Message::Verify(Verify { dataset: None }),
        Message::Repair(Repair { dataset: None }),
        Message::List(List { dataset: None }),
        Message::Oversee(Oversee {}),
    ]);
    for message in heard.expect("answers") {
        match message {
            Message::VerifyEnd(end) => assert_eq!(end.datasets, 0),
            Message::Datasets(told) => assert!(told.datasets.is_empty()),
            Message::Overseen(told) => {
                assert!(told.restores.is_empty());
                assert_eq!(told.bytes.each_day, None);
                assert_eq!(told.observed_seconds, 0);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "damages a store")]
fn a_dataset_that_cannot_be_looked_at_is_in_nobodys_way_and_not_told() {
    let stage = of_alpha();
    let file = stage.path(".understudy/main");
    std::fs::remove_file(&file).expect("remove");
    // Opening a socket fails, whoever does it.
    let _socket = std::os::unix::net::UnixListener::bind(&file).expect("socket");
    assert!(stage.store.owners().is_err());
    let beta = stage.other(Peer::Main(main("beta")));
    let begin = |dataset: &str| {
        let dataset = name(dataset);
        beta.ask(&Message::Begin(Begin { dataset }))
    };
    begin("beta1").expect("begin");
    match &beta
        .ask(&Message::List(List { dataset: None }))
        .expect("list")[..]
    {
        [Message::Datasets(told)] => {
            let names: Vec<_> = told.datasets.iter().map(|one| &one.name).collect();
            assert_eq!(names, [&name("beta1")]);
        }
        other => panic!("{other:?}"),
    }
    beta.ask(&Message::Oversee(Oversee {})).expect("overseen");
    assert_eq!(
        begin("site").expect_err("taken").code,
        FailureCode::Forbidden
    );
    let ask = Message::Summarise(Summarise {
        dataset: name("site"),
    });
    let failure = beta.ask(&ask).expect_err("not there");
    assert_eq!(failure.code, FailureCode::NotFound);
}

#[test]
fn restores_of_others_are_not_told() {
    let stage = of_alpha();
    let told = stage.talk(|channel| {
        let ask = ReadManifest {
            dataset: name("site"),
            number: None,
        };
        send(channel, &Message::ReadManifest(ask));
        while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
        send(channel, &Message::Restoring(restoring()));
        let places = vec![place(1, "secret")];
        send(channel, &Message::Want(Want { places }));
        hear(channel).expect("given");
        let running = |peer| {
            let heard = stage.other(peer).ask(&Message::Oversee(Oversee {}));
            match &heard.expect("overseen")[..] {
                [Message::Overseen(told)] => told.restores.len(),
                other => panic!("{other:?}"),
            }
        };
        [
            running(Peer::Main(main("alpha"))),
            running(Peer::Main(main("beta"))),
            running(Peer::Operator),
        ]
    });
    assert_eq!(told, [1, 0, 1]);
}

#[test]
fn contents_of_others_cannot_be_referred_to() {
    let stage = of_alpha();
    let beta = stage.other(Peer::Main(main("beta")));
    let ours = Begin {
        dataset: name("ours"),
    };
    // A first snapshot, and then one that refers to what only alpha has, in each way.
    let secret = |content| Change::Put {
        place: place(1, "stolen"),
        entry: entry(Node::File {
            size: 14,
            hash: hash(),
        }),
        content,
    };
    let upload = |base: Option<Position>, records: Vec<Change>| {
        beta.ask_all(&[
            Message::Begin(ours.clone()),
            Message::Changes(Changes { records }),
            Message::Commit(Commit {
                base,
                fingerprint: understudy_protocol::StateDigest::empty().fingerprint(),
                elapsed_milliseconds: 0,
            }),
        ])
    };
    let mut of_beta = Stage::new();
    let root = [
        directory(place(0, "files"), 1),
        file(place(1, "own"), "beta's"),
    ];
    of_beta.upload(&root, &[]);
    let fingerprint = of_beta.position.expect("position").fingerprint;
    let first = beta.ask_all(&[
        Message::Begin(ours.clone()),
        Message::Changes(Changes {
            records: root.to_vec(),
        }),
        Message::Commit(Commit {
            base: None,
            fingerprint,
            elapsed_milliseconds: 0,
        }),
    ]);
    let base = first
        .expect("upload")
        .iter()
        .find_map(|message| match message {
            Message::Committed(committed) => Some(committed.snapshot.position),
            _ => None,
        });
    assert!(base.is_some());
    for (content, code) in [
        (Content::History, FailureCode::NotInHistory),
        (Content::Leftover, FailureCode::BadLeftover),
        (Content::Copy(place(1, "secret")), FailureCode::OutOfStep),
        (Content::Keep(place(1, "secret")), FailureCode::OutOfStep),
        (
            Content::Delta(place(1, "secret"), Vec::new()),
            FailureCode::OutOfStep,
        ),
        (
            Content::Sibling(place(1, "secret")),
            FailureCode::Misbehaved,
        ),
        (Content::Stream(7), FailureCode::Misbehaved),
    ] {
        let shown = format!("{content:?}");
        let failure = upload(base, vec![secret(content)]).expect_err(&shown);
        assert_eq!(failure.code, code, "{shown}: {}", failure.text);
    }
    // Contents of its own dataset that were wanted, after a manifest of another: there is no such thing.
    let other = ReadManifest {
        dataset: name("site"),
        number: None,
    };
    let failure = beta.ask_all(&[Message::Begin(ours), Message::ReadManifest(other)]);
    assert_eq!(failure.expect_err("foreign").code, FailureCode::Misbehaved);
}

#[test]
fn no_message_changes_the_past_or_what_people_decided() {
    let stage = of_alpha();
    understudy_receiver::retention::pin(&stage.store, &name("site"), 1, "until June").expect("pin");
    let before = past(&stage.store);
    let objects = || {
        let mut found = image(&stage.path(".understudy/objects"));
        found.retain(|_, (mode, ..)| *mode & 0o170_000 == 0o100_000);
        found
    };
    let kept = objects();
    assert!(!kept.is_empty());
    for message in every(&name("site")) {
        assert_ne!(effect(&message), Effect::NotOfAnAgent, "{}", message.name());
        let alpha = stage.other(Peer::Main(main("alpha")));
        let _ = alpha.ask(&message);
        let begin = Message::Begin(Begin {
            dataset: name("site"),
        });
        let _ = alpha.ask_all(&[begin, message.clone()]);
        assert_eq!(past(&stage.store), before, "{}", message.name());
    }
    let now = objects();
    assert!(kept.iter().all(|(path, seen)| now.get(path) == Some(seen)));
}

/// The snapshots and pins of `site`.
fn past(store: &std::sync::Arc<Store>) -> String {
    let (mut ours, theirs) = understudy_protocol::transport::in_process();
    let shared = store.clone();
    let options = understudy_receiver::SessionOptions::default();
    let session = std::thread::spawn(move || understudy_receiver::serve(shared, theirs, options));
    send(&mut ours, &Message::Hello(Hello::ours()));
    hear(&mut ours).expect("greeting");
    send(
        &mut ours,
        &Message::List(List {
            dataset: Some(name("site")),
        }),
    );
    let snapshots = match hear(&mut ours).expect("list") {
        Message::Datasets(told) => told.datasets[0].snapshots.clone(),
        other => panic!("{other:?}"),
    };
    send(
        &mut ours,
        &Message::ListRetention(ListRetention {
            dataset: name("site"),
        }),
    );
    let retention = hear(&mut ours).expect("retention");
    drop(ours);
    let _ = session.join().expect("session");
    format!("{snapshots:?} {retention:?}")
}
