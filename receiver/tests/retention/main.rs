//! Random histories of syncs, pins and prunes by a clock of their own, against full copies of each snapshot: what is kept stays
//! whole, and what belongs to nothing is gone.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

mod cold;
#[allow(dead_code, reason = "shared, and not all of it is used here")]
#[path = "../stage/mod.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use understudy_protocol::message::{
    Change, Content, Fuzzy, FuzzyFile, List, ListFuzzy, ListRetention, ReadManifest, Retained,
    StreamBase, StreamBlock, StreamCopy, StreamEnd, Touch, Verify, Want,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, Entry, FailureCode, Message, Node, Place, ProtocolError};
use understudy_receiver::retention::{
    Grace, Mode, Moment, ObstacleKind, Policies, Policy, Pruned, Request, Trust, compress_all, pin,
    prune, unpin,
};
use understudy_receiver::{Lease, Reserve};

use stage::{Stage, dataset, directory, entry, file, hear, place, send};

const DAY: i64 = 86_400;
/// 2026-11-26T00:00:00Z.
const START: i64 = 1_795_651_200;

/// A snapshot as it was when it was made.
struct Copy {
    entries: BTreeMap<Place, Entry>,
    is_fuzzy: bool,
}

/// A store, its clock, and a full copy of everything.
struct History {
    stage: Stage,
    now: i64,
    contents: BTreeMap<ContentHash, Vec<u8>>,
    copies: BTreeMap<u64, Copy>,
    pins: BTreeSet<u64>,
    policy: Policy,
}

fn doubted() -> Place {
    place(10, "busy")
}

impl History {
    fn new(policy: Policy) -> Self {
        let mut history = Self {
            stage: Stage::new(),
            now: START,
            contents: BTreeMap::new(),
            copies: BTreeMap::new(),
            pins: BTreeSet::new(),
            policy,
        };
        let first = [
            directory(place(0, "files"), 1),
            directory(place(1, "d0"), 10),
            file(doubted(), "busy"),
        ];
        history.sync(&first, &[], false);
        history
    }

    fn sync(&mut self, changes: &[Change], before: &[Message], is_fuzzy: bool) {
        for change in changes {
            if let Change::Put {
                content: Content::Inline(bytes),
                ..
            } = change
            {
                self.contents
                    .insert(ContentHash::of(&bytes.0), bytes.0.clone());
            }
        }
        let mut messages = before.to_vec();
        if is_fuzzy {
            messages.push(Message::Fuzzy(Fuzzy {
                places: vec![doubted()],
            }));
        }
        self.stage.upload(changes, &messages);
        let number = self.head();
        let entries = self.stage.entries.clone();
        self.copies.insert(number, Copy { entries, is_fuzzy });
        self.change_catalog(&format!(
            "UPDATE snapshot SET committed_seconds = {} WHERE number = {number}",
            self.now
        ));
    }

    fn head(&self) -> u64 {
        self.stage.position.expect("a snapshot").number
    }

    #[expect(clippy::disallowed_methods, reason = "plays another time, or damage")]
    fn catalog(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.stage.path(".understudy/catalog.db")).expect("open")
    }

    fn change_catalog(&self, sql: &str) {
        self.catalog().execute_batch(sql).expect("change");
    }

    fn request(&self, mode: Mode, moment: &Moment) -> Pruned {
        let request = Request {
            policy: &self.policy,
            moment,
            mode,
            grace: Grace::Wait,
            trust: Trust::Check,
        };
        prune(&self.stage.store, &dataset(), &request).expect("prune")
    }

    fn moment(&self) -> Moment {
        Moment {
            seconds: self.now,
            boot: "one".to_owned(),
            boot_seconds: self.now - START,
        }
    }

    /// Prunes, which must do what was foretold, and checks everything.
    fn prune(&mut self) -> Pruned {
        let foretold = self.request(Mode::Look, &self.moment());
        let done = self.request(Mode::Act, &self.moment());
        assert_eq!(done, foretold);
        assert_eq!(done.obstacle, None);
        for one in &done.removed {
            assert!(!self.pins.contains(&one.number) && one.number != self.head());
            assert!(self.now - one.committed_seconds > self.policy.minimum_age.as_secs() as i64);
            self.copies.remove(&one.number).expect("was there");
        }
        self.check();
        let again = self.request(Mode::Look, &self.moment());
        assert!(
            again.removed.is_empty() && again.flagged.is_empty(),
            "{again:?}"
        );
        assert_eq!(again.freed.objects, 0);
        done
    }

    /// Compresses whatever is in history by now; how many contents that were.
    fn compress(&self) -> u64 {
        // Else what came since then is looked at tomorrow.
        #[expect(clippy::disallowed_methods, reason = "plays another day")]
        let _ = std::fs::remove_file(self.stage.path(".understudy/cold"));
        self.compress_within(Reserve::default())
    }

    /// Compresses what no earlier pass has looked at.
    fn compress_within(&self, reserve: Reserve) -> u64 {
        let policies = Policies {
            common: self.policy.clone(),
            ..Policies::default()
        };
        let week = Duration::from_secs(8 * 24 * 3600);
        let moment = Moment {
            seconds: (std::time::SystemTime::now() + week)
                .duration_since(std::time::UNIX_EPOCH)
                .expect("after 1970")
                .as_secs() as i64,
            ..self.moment()
        };
        let mut objects = 0;
        let rules = (&policies, reserve);
        compress_all(&self.stage.store, rules, &moment, |_, done| {
            objects += done.expect("compressed").objects;
        })
        .expect("datasets");
        objects
    }

    fn check(&self) {
        let kept: Vec<u64> = self.copies.keys().copied().collect();
        assert_eq!(self.listed(), kept);
        for (number, copy) in &self.copies {
            self.check_snapshot(*number, copy);
        }
        self.check_marks();
        self.check_rows();
        self.check_verify();
    }

    fn listed(&self) -> Vec<u64> {
        self.stage.talk(|channel| {
            send(
                channel,
                &Message::List(List {
                    dataset: Some(dataset()),
                }),
            );
            let Ok(Message::Datasets(told)) = hear(channel) else {
                panic!("no list")
            };
            assert_eq!(told.datasets[0].trouble, None);
            let numbers = told.datasets[0]
                .snapshots
                .iter()
                .map(|one| one.position.number);
            numbers.collect()
        })
    }

    /// Every entry and every content of a snapshot comes back as it was.
    fn check_snapshot(&self, number: u64, copy: &Copy) {
        let (entries, fuzzy) = self.stage.talk(|channel| {
            let (mut entries, mut fuzzy) = (BTreeMap::new(), Vec::new());
            let request = ReadManifest {
                dataset: dataset(),
                number: Some(number),
            };
            send(channel, &Message::ReadManifest(request));
            loop {
                match hear(channel).expect("manifest") {
                    Message::Manifest(part) => entries.extend(part.entries),
                    Message::Fuzzy(part) => fuzzy.extend(part.places),
                    Message::ManifestEnd(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            let files = entries
                .iter()
                .filter(|(_, entry): &(_, &Entry)| entry.content().is_some());
            let places: Vec<Place> = files.map(|(place, _)| place.clone()).collect();
            let mut left = places.len();
            send(channel, &Message::Want(Want { places }));
            let mut stream = Vec::new();
            let mut at = None;
            while left > 0 {
                match hear(channel).expect("content") {
                    Message::Given(given) => {
                        left -= given.contents.len();
                        for (place, bytes) in given.contents {
                            self.check_content(&entries[&place], &bytes.0);
                        }
                    }
                    Message::GivenStream(given) => at = Some(given.place),
                    Message::StreamBlock(block) => {
                        stream.resize(block.offset as usize, 0);
                        stream.extend(&block.data.0);
                    }
                    Message::StreamEnd(end) => {
                        stream.resize(end.size as usize, 0);
                        self.check_content(&entries[&at.take().expect("a stream")], &stream);
                        stream.clear();
                        left -= 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            (entries, fuzzy)
        });
        assert_eq!(entries, copy.entries, "manifest of snapshot {number}");
        assert_eq!(!fuzzy.is_empty(), copy.is_fuzzy, "snapshot {number}");
    }

    fn check_content(&self, entry: &Entry, found: &[u8]) {
        let (_, hash) = entry.content().expect("a file");
        assert!(self.contents[&hash] == found, "{hash}");
    }

    /// Files that may be torn are told of the snapshots that are there, with the paths that they have in them.
    fn check_marks(&self) {
        let files: Vec<FuzzyFile> = self.stage.talk(|channel| {
            let request = ListFuzzy {
                dataset: dataset(),
                number: None,
            };
            send(channel, &Message::ListFuzzy(request));
            let mut files = Vec::new();
            loop {
                match hear(channel).expect("fuzzy files") {
                    Message::FuzzyFiles(more) => files.extend(more.files),
                    Message::FuzzyEnd(_) => return files,
                    other => panic!("{other:?}"),
                }
            }
        });
        for (number, copy) in &self.copies {
            let mut paths = files
                .iter()
                .filter(|file| file.is_in(*number))
                .map(|file| &file.path);
            let inside = copy.entries.iter().find(|(_, entry)| {
                entry.directory_id() == Some(understudy_protocol::DirectoryId(10))
            });
            let wanted = format!("{}/busy", inside.expect("the directory").0.name);
            let found = paths.next().map(ToString::to_string);
            assert_eq!(found, copy.is_fuzzy.then_some(wanted), "snapshot {number}");
            assert!(paths.next().is_none());
        }
    }

    /// No row and no object is there that belongs to nothing. The twins are the newest snapshot and the one before it.
    fn check_rows(&self) {
        let head = self.head();
        let belongs = |since: u64, until: Option<u64>| {
            let mut numbers = self.copies.keys().copied().chain([head - 1, head]);
            numbers.any(|number| since <= number && until.is_none_or(|until| number < until))
        };
        let catalog = self.catalog();
        for table in ["entry", "fuzzy"] {
            let mut statement = catalog
                .prepare(&format!("SELECT since, until FROM {table}"))
                .expect("prepare");
            let rows = statement.query_map([], |row| {
                Ok((
                    row.get::<_, i64>(0)? as u64,
                    row.get::<_, Option<i64>>(1)?.map(|until| until as u64),
                ))
            });
            for row in rows.expect("rows") {
                let (since, until) = row.expect("a row");
                assert!(belongs(since, until), "{table}: {since} to {until:?}");
            }
        }
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let mut statement = catalog
            .prepare("SELECT entry FROM entry WHERE kind = 0")
            .expect("prepare");
        let rows = statement
            .query_map([], |row| row.get::<_, Vec<u8>>(0))
            .expect("rows");
        for row in rows {
            let entry: Entry = postcard::from_bytes(&row.expect("a row")).expect("an entry");
            needed.extend(entry.content().map(|(_, hash)| hash.to_string()));
        }
        let objects = self.objects();
        // Where patches are, others may lead through what no row has.
        let has_patches = objects.iter().any(|object| object.ends_with(".patch"));
        for object in objects {
            assert!(
                has_patches || needed.contains(object.trim_end_matches(".zst")),
                "{object} belongs to nothing"
            );
        }
    }

    fn objects(&self) -> Vec<String> {
        let shelves = std::fs::read_dir(self.stage.path(".understudy/objects")).expect("list");
        let names = shelves.flat_map(|shelf| {
            let shelf = shelf.expect("shelf");
            let first = shelf.file_name().into_string().expect("text");
            let names = std::fs::read_dir(shelf.path()).expect("list");
            names.map(move |name| {
                first.clone() + name.expect("name").file_name().to_str().expect("text")
            })
        });
        names.collect()
    }

    fn check_verify(&self) {
        assert_eq!(self.verify(), Vec::<String>::new());
    }

    fn verify(&self) -> Vec<String> {
        self.stage.talk(|channel| {
            send(
                channel,
                &Message::Verify(Verify {
                    dataset: Some(dataset()),
                }),
            );
            let mut findings = Vec::new();
            loop {
                match hear(channel).expect("verification") {
                    Message::Finding(finding) => findings.push(finding.what),
                    Message::Verified(_) => {}
                    Message::VerifyEnd(_) => return findings,
                    other => panic!("{other:?}"),
                }
            }
        })
    }

    fn retained(&self) -> Vec<Retained> {
        self.stage.talk(|channel| {
            send(
                channel,
                &Message::ListRetention(ListRetention { dataset: dataset() }),
            );
            let mut found = Vec::new();
            loop {
                match hear(channel).expect("retention") {
                    Message::Retention(more) => found.extend(more.snapshots),
                    Message::RetentionEnd(_) => return found,
                    other => panic!("{other:?}"),
                }
            }
        })
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Write {
        directory: bool,
        name: u8,
        letter: u8,
    },
    Remove {
        directory: bool,
        name: u8,
    },
    Move {
        name: u8,
    },
}

#[derive(Debug, Clone)]
enum Step {
    Sync { edits: Vec<Edit>, is_fuzzy: bool },
    Pass { hours: i64 },
    Pin { which: usize },
    Unpin { which: usize },
    Compress,
    Prune,
}

fn step() -> impl Strategy<Value = Step> {
    let edit = prop_oneof![
        // Few contents, so that they come back.
        4 => (any::<bool>(), 0..4u8, 0..6u8).prop_map(|(directory, name, letter)| Edit::Write { directory, name, letter }),
        2 => (any::<bool>(), 0..4u8).prop_map(|(directory, name)| Edit::Remove { directory, name }),
        1 => (0..3u8).prop_map(|name| Edit::Move { name }),
    ];
    let edits = prop::collection::vec(edit, 0..5);
    prop_oneof![
        8 => (edits, prop::bool::weighted(0.4)).prop_map(|(edits, is_fuzzy)| Step::Sync { edits, is_fuzzy }),
        4 => prop_oneof![0..3i64, 0..60i64, 0..2000i64].prop_map(|hours| Step::Pass { hours }),
        1 => any::<usize>().prop_map(|which| Step::Pin { which }),
        1 => any::<usize>().prop_map(|which| Step::Unpin { which }),
        2 => Just(Step::Compress),
        3 => Just(Step::Prune),
    ]
}

fn changes(history: &History, edits: &[Edit]) -> Vec<Change> {
    let mut made: BTreeMap<Place, Option<Change>> = BTreeMap::new();
    let mut moved = None;
    let at = |is_inside: bool, name: u8| place(if is_inside { 10 } else { 1 }, &format!("f{name}"));
    for edit in edits {
        match *edit {
            Edit::Write {
                directory,
                name,
                letter,
            } => {
                // Some are worth compressing.
                let length = if letter < 4 { 100 } else { 5000 } * usize::from(letter) + 1;
                let text = String::from(char::from(b'a' + letter)).repeat(length);
                let place = at(directory, name);
                made.insert(place.clone(), Some(file(place, &text)));
            }
            Edit::Remove { directory, name } => {
                made.insert(at(directory, name), None);
            }
            Edit::Move { name } => moved = Some(directory(place(1, &format!("d{name}")), 10)),
        }
    }
    let made = made.into_iter().filter_map(|(place, change)| match change {
        Some(change) => Some(change),
        None => history
            .stage
            .entries
            .contains_key(&place)
            .then_some(Change::Remove { place }),
    });
    made.chain(moved).collect()
}

fn run(policy: Policy, steps: &[Step]) {
    let mut history = History::new(policy);
    for step in steps {
        let nth = |which: usize, of: Vec<u64>| of.get(which % of.len().max(1)).copied();
        match step {
            Step::Sync { edits, is_fuzzy } => {
                let changes = changes(&history, edits);
                history.sync(&changes, &[], *is_fuzzy);
            }
            Step::Pass { hours } => history.now += hours * 3600 + 1,
            Step::Pin { which } => {
                let number = nth(*which, history.copies.keys().copied().collect()).expect("one");
                pin(&history.stage.store, &dataset(), number, "why").expect("pin");
                history.pins.insert(number);
            }
            Step::Unpin { which } => {
                if let Some(number) = nth(*which, history.pins.iter().copied().collect()) {
                    unpin(&history.stage.store, &dataset(), number).expect("unpin");
                    history.pins.remove(&number);
                }
            }
            Step::Compress => {
                history.compress();
                history.check();
            }
            Step::Prune => {
                history.prune();
            }
        }
    }
    history.prune();
    history.now += 4000 * DAY;
    history.prune();
    history.now += 4 * DAY;
    history.prune();
    // All that is left is what never goes.
    let healthy = history
        .copies
        .iter()
        .filter(|(_, copy)| !copy.is_fuzzy)
        .count();
    let most = history.pins.len() + 1 + healthy.max(history.policy.newest.get() as usize);
    assert!(history.copies.len() <= most);
}

fn policy() -> impl Strategy<Value = Policy> {
    let hours = |most: u64| (0..most).prop_map(|hours| Duration::from_secs(hours * 3600));
    (
        hours(40),
        hours(100),
        hours(400),
        hours(2000),
        1..30u64,
        1..4u32,
        1..80u64,
    )
        .prop_map(
            |(all, hourly, daily, monthly, minimum_age, newest, grace)| Policy {
                all,
                hourly,
                daily,
                monthly,
                minimum_age: Duration::from_secs(minimum_age * 3600),
                newest: NonZeroU32::new(newest).expect("not zero"),
                grace: Duration::from_secs(grace * 3600),
                ..Policy::default()
            },
        )
}

/// 15 cases unless `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(15)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_stays_whole_and_what_belongs_to_nothing_goes(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        run(policy, &steps);
    }
}

fn strict() -> Policy {
    Policy {
        all: Duration::from_secs(3600),
        hourly: Duration::ZERO,
        daily: Duration::ZERO,
        monthly: Duration::ZERO,
        minimum_age: Duration::from_secs(3600),
        newest: NonZeroU32::MIN,
        grace: Duration::from_secs(3600),
        ..Policy::default()
    }
}

fn text(name: &str, content: &str) -> Change {
    file(place(1, name), content)
}

/// Five snapshots of a file, hours apart, the older ones expired.
fn aged() -> History {
    let mut history = History::new(strict());
    for content in ["one", "two", "three", "four"] {
        history.now += 3 * 3600;
        history.sync(&[text("f", content)], &[], false);
    }
    history.now += 3 * 3600;
    history
}

#[test]
fn what_expires_is_flagged_told_and_goes_when_the_grace_period_is_over() {
    let mut history = aged();
    let flagged = history.prune();
    assert_eq!(
        flagged
            .flagged
            .iter()
            .map(|one| one.number)
            .collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    pin(&history.stage.store, &dataset(), 2, "audit").expect("pin");
    history.pins.insert(2);
    let told = history.retained();
    assert_eq!(told.len(), 4);
    assert_eq!(
        told[1].pin.as_ref().map(|pin| pin.reason.as_str()),
        Some("audit")
    );
    assert!(told[1].flag.is_none());
    assert_eq!(
        told[0].flag.expect("a flag").due_seconds,
        history.now + 3600
    );
    history.now += 3599;
    assert_eq!(history.prune().waiting.len(), 3);
    history.now += 1;
    let removed = history.prune();
    assert_eq!(
        removed
            .removed
            .iter()
            .map(|one| one.number)
            .collect::<Vec<_>>(),
        [1, 3, 4]
    );
    assert!(removed.freed.objects > 0 && removed.freed.bytes > 0);
    assert!(pin(&history.stage.store, &dataset(), 3, "late").is_err());
    unpin(&history.stage.store, &dataset(), 2).expect("unpin");
    history.pins.clear();
    assert_eq!(history.prune().flagged.len(), 1);
}

#[test]
fn nothing_goes_while_the_clock_cannot_be_believed() {
    let history = aged();
    let doubt = |moment: Moment| {
        for mode in [Mode::Look, Mode::Act] {
            let stopped = history.request(mode, &moment);
            assert_eq!(
                stopped.obstacle.expect("an obstacle").kind,
                ObstacleKind::Clock
            );
            assert!(stopped.flagged.is_empty() && stopped.removed.is_empty());
        }
        assert_eq!(history.retained(), []);
    };
    // Before any pass, only the snapshots tell.
    doubt(Moment {
        seconds: START,
        ..history.moment()
    });
    let keep_all = Request {
        policy: &Policy::default(),
        moment: &history.moment(),
        mode: Mode::Act,
        grace: Grace::Wait,
        trust: Trust::Check,
    };
    assert_eq!(
        prune(&history.stage.store, &dataset(), &keep_all)
            .expect("prune")
            .obstacle,
        None
    );
    doubt(Moment {
        seconds: history.now + 3650 * DAY,
        ..history.moment()
    });
    doubt(Moment {
        seconds: history.now + 3650 * DAY,
        boot: "two".to_owned(),
        boot_seconds: 5,
    });
    doubt(Moment {
        seconds: history.now - 3600,
        ..history.moment()
    });
    // Somebody looks, and says so.
    let later = Moment {
        seconds: history.now + 3650 * DAY,
        ..history.moment()
    };
    let request = Request {
        policy: &history.policy,
        moment: &later,
        mode: Mode::Act,
        grace: Grace::Wait,
        trust: Trust::Given,
    };
    let done = prune(&history.stage.store, &dataset(), &request).expect("prune");
    assert_eq!((done.obstacle, done.flagged.len()), (None, 4));
}

#[test]
fn nothing_goes_while_the_catalog_is_in_doubt_or_a_verification_had_findings() {
    let mut history = aged();
    history.prune();
    history.now += 3600;
    let stopped = |history: &History, kind| {
        let pruned = history.request(Mode::Act, &history.moment());
        let obstacle = pruned.obstacle.expect("an obstacle");
        assert_eq!(obstacle.kind, kind, "{}", obstacle.reason);
        assert!(pruned.removed.is_empty());
        assert_eq!(history.listed(), [1, 2, 3, 4, 5]);
    };
    history.change_catalog("UPDATE snapshot SET entries = entries + 1 WHERE number = 2");
    stopped(&history, ObstacleKind::Catalog);
    history.change_catalog("UPDATE snapshot SET entries = entries - 1 WHERE number = 2");
    history.change_catalog("INSERT INTO pin VALUES (77, 'gone', 0)");
    stopped(&history, ObstacleKind::Catalog);
    history.change_catalog("DELETE FROM pin");
    let live = history.stage.path("live/files/f");
    let sound = std::fs::read(&live).expect("read");
    let modified = std::fs::metadata(&live)
        .expect("stat")
        .modified()
        .expect("time");
    let write = |content: &[u8]| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&live)
            .expect("open");
        std::os::unix::fs::FileExt::write_all_at(&file, content, 0).expect("write");
        file.set_modified(modified).expect("time");
    };
    write(b"FOUR");
    assert_eq!(history.verify().len(), 1);
    stopped(&history, ObstacleKind::Findings);
    write(&sound);
    assert_eq!(history.verify().len(), 0);
    assert_eq!(history.prune().removed.len(), 4);
}

#[test]
fn a_snapshot_that_is_being_read_is_not_removed() {
    let mut history = aged();
    history.prune();
    history.now += 3600;
    history.stage.talk(|channel| {
        let request = ReadManifest {
            dataset: dataset(),
            number: Some(1),
        };
        send(channel, &Message::ReadManifest(request));
        while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
        let stopped = history.request(Mode::Act, &history.moment());
        assert_eq!(
            stopped.obstacle.expect("an obstacle").kind,
            ObstacleKind::Reader
        );
        assert!(stopped.removed.is_empty() && stopped.freed.objects == 0);
        send(
            channel,
            &Message::Want(Want {
                places: vec![doubted()],
            }),
        );
        assert!(matches!(hear(channel), Ok(Message::Given(_))));
    });
    assert_eq!(history.prune().removed.len(), 4);
}

#[test]
fn a_reader_that_asks_for_nothing_does_not_keep_what_expires_for_ever() {
    let mut history = aged();
    history.prune();
    history.now += 3600;
    history.stage.options.lease = Lease(Duration::ZERO);
    let read = |channel: &mut Channel, number| {
        let request = ReadManifest {
            dataset: dataset(),
            number: Some(number),
        };
        send(channel, &Message::ReadManifest(request));
        while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
    };
    let want = |channel: &mut Channel| {
        let places = vec![doubted()];
        send(channel, &Message::Want(Want { places }));
        hear(channel)
    };
    let head = history.head();
    history.stage.talk(|idle| {
        read(idle, 1);
        history.stage.talk(|other| {
            read(other, head);
            // Until both have been silent for long enough.
            while history
                .request(Mode::Act, &history.moment())
                .obstacle
                .is_some_and(|obstacle| obstacle.kind == ObstacleKind::Reader)
            {
                std::thread::yield_now();
            }
            // What is still there is given.
            assert!(matches!(want(other), Ok(Message::Given(_))));
        });
        match want(idle) {
            Err(ProtocolError::Failed(failure)) => assert_eq!(failure.code, FailureCode::NotFound),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn the_ballast_is_whole_or_made_anew() {
    let mut history = aged();
    let ballast = history.stage.path(".understudy/ballast");
    history.prune();
    assert_eq!(ballast.metadata().expect("there").len(), 1 << 20);
    let file = std::fs::File::options()
        .write(true)
        .open(&ballast)
        .expect("open");
    file.set_len(1000).expect("cut");
    history.now += 3600;
    history.prune();
    assert_eq!(ballast.metadata().expect("there").len(), 1 << 20);
}

#[test]
fn the_twins_go_on_when_the_snapshot_before_the_newest_is_gone() {
    let mut history = aged();
    // Much of each is of that snapshot only.
    let moved = |name: &str| directory(place(1, name), 10);
    history.sync(&[moved("d2")], &[], true);
    let short = place(1, "short");
    history.sync(
        &[moved("d1"), text("short", "lived"), text("kept", "kept")],
        &[],
        true,
    );
    let kept = place(1, "kept");
    let mut attributes = history.stage.entries[&kept].attributes.clone();
    attributes.mode = 0o700;
    let changes = [
        moved("d3"),
        Change::Remove { place: short },
        Change::Touch {
            place: kept,
            attributes,
            touch: Touch::Kept,
        },
    ];
    history.sync(&changes, &[], true);
    for _ in 0..2 {
        history.now += 3 * 3600;
        history.prune();
    }
    // The newest healthy one, and the newest one.
    assert_eq!(history.listed(), [5, 8]);
    for content in ["newer", "newest"] {
        history.sync(&[text("g", content)], &[], false);
        history.check_verify();
    }
    history.now += 3 * 3600;
    history.prune();
}

const SIZE: usize = 5 << 20;
const PAGE: usize = 4096;

fn large() -> Place {
    place(1, "large")
}

/// Uploads a version of a large file that differs from the former one in a page.
fn patch(history: &mut History, former: &[u8], content: &[u8]) {
    let block = |offset: usize, data: &[u8]| {
        let data = data.to_vec().into();
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: offset as u64,
            data,
        })
    };
    let copy = |from: usize, to: usize| {
        let length = (to - from) as u64;
        let copy = StreamCopy {
            stream: 1,
            offset: from as u64,
            from: from as u64,
            length,
        };
        (length > 0).then_some(Message::StreamCopy(copy))
    };
    let mut messages = Vec::new();
    if former.is_empty() {
        let blocks = content.chunks(1 << 19).enumerate();
        messages.extend(blocks.map(|(number, data)| block(number << 19, data)));
    } else {
        messages.push(Message::StreamBase(StreamBase {
            stream: 1,
            place: large(),
        }));
        let mut position = 0;
        for start in (0..SIZE).step_by(PAGE) {
            if former[start..start + PAGE] != content[start..start + PAGE] {
                messages.extend(copy(position, start));
                messages.push(block(start, &content[start..start + PAGE]));
                position = start + PAGE;
            }
        }
        messages.extend(copy(position, SIZE));
    }
    let hash = ContentHash::of(content);
    messages.push(Message::StreamEnd(StreamEnd {
        stream: 1,
        size: SIZE as u64,
        hash,
    }));
    history.contents.insert(hash, content.to_vec());
    let put = Change::Put {
        place: large(),
        entry: entry(Node::File {
            size: SIZE as u64,
            hash,
        }),
        content: Content::Stream(1),
    };
    history.sync(&[put], &messages, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases().div_ceil(3), max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_that_lead_through_expired_ones_stay_whole(
        // Which state of a page each version has: states come back.
        states in prop::collection::vec((0..3u8, 0..3usize), 3..12),
        pinned in prop::collection::btree_set(1..12u64, 0..4),
    ) {
        let mut history = History::new(strict());
        let mut content: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
        let mut former = Vec::new();
        for (index, (state, page)) in states.iter().enumerate() {
            content[page * 9 * PAGE..][..PAGE].fill(*state);
            if former != content {
                patch(&mut history, &former, &content);
                former.clone_from(&content);
            } else {
                history.sync(&[text("f", &index.to_string())], &[], false);
            }
            history.now += 1800;
            if index % 4 == 3 {
                history.prune();
            }
        }
        let pinned: Vec<u64> = pinned.into_iter().filter(|number| history.copies.contains_key(number)).collect();
        for &number in &pinned {
            pin(&history.stage.store, &dataset(), number, "why").expect("pin");
            history.pins.insert(number);
        }
        for _ in 0..3 {
            history.now += 2 * 3600;
            history.prune();
        }
        for number in pinned {
            unpin(&history.stage.store, &dataset(), number).expect("unpin");
        }
        history.pins.clear();
        for _ in 0..3 {
            history.now += 2 * 3600;
            history.prune();
        }
        prop_assert_eq!(history.copies.len(), 1);
    }
}

#[test]
fn a_version_of_which_nobody_knows_how_many_patches_lead_to_it_is_kept_whole() {
    let mut history = History::new(strict());
    let mut content: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
    let mut former = Vec::new();
    let mut change = |history: &mut History, state: u8| {
        content[9 * PAGE..10 * PAGE].fill(state);
        patch(history, &former, &content);
        former.clone_from(&content);
    };
    change(&mut history, 1);
    change(&mut history, 2);
    for number in 0..3 {
        history.sync(&[text("f", &number.to_string())], &[], false);
    }
    // The row of the first version goes with all snapshots that had it.
    for _ in 0..3 {
        history.now += 2 * 3600;
        history.prune();
    }
    assert_eq!(history.copies.len(), 1);
    change(&mut history, 3);
    for number in 3..6 {
        history.sync(&[text("f", &number.to_string())], &[], false);
    }
    assert_eq!(objects(&history), (1, 0));
    // The next one leads to what is known again.
    change(&mut history, 4);
    for number in 6..9 {
        history.sync(&[text("f", &number.to_string())], &[], false);
    }
    assert_eq!(objects(&history), (1, 1));
    // Everything is there still, and comes back.
    history.now += 2 * 3600;
    assert_eq!(history.prune().removed, []);
}

/// How many contents of large files are kept whole, and how many as patches.
fn objects(history: &History) -> (usize, usize) {
    let (mut whole, mut patches) = (0, 0);
    for shelf in std::fs::read_dir(history.stage.path(".understudy/objects")).expect("list") {
        for object in std::fs::read_dir(shelf.expect("shelf").path()).expect("list") {
            let object = object.expect("object");
            match object.path().extension() {
                Some(_) => patches += 1,
                None if object.metadata().expect("stat").len() == SIZE as u64 => whole += 1,
                None => {}
            }
        }
    }
    (whole, patches)
}

#[test]
fn reading_needs_no_right_to_change() {
    let history = aged();
    let foretold = history.request(Mode::Look, &history.moment());
    assert_eq!(foretold.flagged.len(), 4);
    assert_eq!(history.retained(), []);
    assert_eq!(history.request(Mode::Look, &history.moment()), foretold);
}

#[test]
fn a_peer_of_an_older_version_is_not_answered() {
    let mut history = aged();
    history.stage.version = 4;
    history.stage.talk(|channel| {
        send(
            channel,
            &Message::ListRetention(ListRetention { dataset: dataset() }),
        );
        let refused = hear(channel).expect_err("a failure").to_string();
        assert!(refused.contains("ListRetention"), "{refused}");
    });
    assert_eq!(history.listed(), [1, 2, 3, 4, 5]);
}
