//! A store with a clock of its own, and a full copy of each of its snapshots.

use super::*;

/// A snapshot as it was when it was made.
pub(super) struct Copy {
    pub(super) entries: BTreeMap<Place, Entry>,
    pub(super) is_fuzzy: bool,
}

/// A store, its clock, and a full copy of everything.
pub(super) struct History {
    pub(super) stage: Stage,
    pub(super) now: i64,
    pub(super) contents: BTreeMap<ContentHash, Vec<u8>>,
    pub(super) copies: BTreeMap<u64, Copy>,
    pub(super) pins: BTreeSet<u64>,
    pub(super) policy: Policy,
}

pub(super) fn doubted() -> Place {
    place(10, "busy")
}

impl History {
    pub(super) fn new(policy: Policy) -> Self {
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

    pub(super) fn sync(&mut self, changes: &[Change], before: &[Message], is_fuzzy: bool) {
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

    pub(super) fn head(&self) -> u64 {
        self.stage.position.expect("a snapshot").number
    }

    #[expect(clippy::disallowed_methods, reason = "plays another time, or damage")]
    pub(super) fn catalog(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.stage.path(".understudy/catalog.db")).expect("open")
    }

    pub(super) fn change_catalog(&self, sql: &str) {
        self.catalog().execute_batch(sql).expect("change");
    }

    pub(super) fn request(&self, mode: Mode, moment: &Moment) -> Pruned {
        let request = Request {
            policy: &self.policy,
            moment,
            mode,
            grace: Grace::Wait,
            trust: Trust::Check,
        };
        prune(&self.stage.store, &dataset(), &request).expect("prune")
    }

    pub(super) fn moment(&self) -> Moment {
        Moment {
            seconds: self.now,
            boot: "one".to_owned(),
            boot_seconds: self.now - START,
        }
    }

    /// Prunes, which must do what was foretold, and checks everything.
    pub(super) fn prune(&mut self) -> Pruned {
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
    pub(super) fn compress(&self) -> u64 {
        // Else what came since then is looked at tomorrow.
        #[expect(clippy::disallowed_methods, reason = "plays another day")]
        let _ = std::fs::remove_file(self.stage.path(".understudy/cold"));
        self.compress_within(Reserve::default())
    }

    /// Compresses what no earlier pass has looked at.
    pub(super) fn compress_within(&self, reserve: Reserve) -> u64 {
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

    pub(super) fn check(&self) {
        let kept: Vec<u64> = self.copies.keys().copied().collect();
        assert_eq!(self.listed(), kept);
        for (number, copy) in &self.copies {
            self.check_snapshot(*number, copy);
        }
        self.check_marks();
        self.check_rows();
        self.check_verify();
    }

    pub(super) fn listed(&self) -> Vec<u64> {
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
    pub(super) fn check_snapshot(&self, number: u64, copy: &Copy) {
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

    pub(super) fn check_content(&self, entry: &Entry, found: &[u8]) {
        let (_, hash) = entry.content().expect("a file");
        assert!(self.contents[&hash] == found, "{hash}");
    }

    /// Files that may be torn are told of the snapshots that are there, with the paths that they have in them.
    pub(super) fn check_marks(&self) {
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
    pub(super) fn check_rows(&self) {
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

    pub(super) fn objects(&self) -> Vec<String> {
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

    pub(super) fn check_verify(&self) {
        assert_eq!(self.verify(), Vec::<String>::new());
    }

    pub(super) fn verify(&self) -> Vec<String> {
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

    pub(super) fn retained(&self) -> Vec<Retained> {
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
