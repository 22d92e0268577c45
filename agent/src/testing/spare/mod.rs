//! A spare in memory. It panics when the agent breaks a rule of the protocol.

mod apply;
mod dumps;
mod streams;
mod testimony;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use understudy_protocol::message::{
    Change, Changes, Commit, Committed, Confirmed, Content, Fuzzy, Leftover, LeftoverEnd, Manifest,
    ManifestEnd, Owners, Ready, Restoring, Wanted, WantedContent,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::version::{self, Hello};
use understudy_protocol::{
    Bytes, ContentHash, DirectoryId, Entry, Failure, FailureCode, Message, Node, Place, Position,
    ProtocolError, Snapshot, StateDigest,
};

use super::Tree;

/// The state of one dataset: entries with the number of their file.
#[derive(Default)]
pub(crate) struct Spare {
    pub(crate) position: Option<Position>,
    pub(crate) entries: BTreeMap<Place, (Entry, u64)>,
    /// The entries before the last upload.
    pub(crate) before: BTreeMap<Place, (Entry, u64)>,
    pub(crate) contents: HashMap<u64, Vec<u8>>,
    /// Places of fuzzy files.
    pub(crate) fuzzy: BTreeSet<Place>,
    next_file: u64,
    /// The records of each committed upload.
    pub(crate) uploads: Vec<Vec<Change>>,
    /// The records of the last upload as they came.
    pub(crate) told: Vec<Change>,
    pub(crate) confirmations: usize,
    pub(crate) manifests: usize,
    /// The newest version of the protocol that it speaks, if that is not this build's.
    pub(crate) newest: Option<u32>,
    /// Contents that it says it has left over; with `is_boasting` it has none of them.
    pub(crate) leftovers: Vec<Vec<u8>>,
    /// Beginnings of contents that it has left over.
    pub(crate) partials: Vec<Vec<u8>>,
    pub(crate) is_boasting: bool,
    /// Contents that files had before, and have no more; with `is_forgetful` it has none of them.
    pub(crate) history: Vec<Vec<u8>>,
    pub(crate) is_forgetful: bool,
    /// What it says that it has lost.
    pub(crate) wanted: Vec<WantedContent>,
    /// What it was given back of that, or that the agent does not have it.
    pub(crate) returned: Vec<(ContentHash, Option<Vec<u8>>)>,
    /// The stream that is the last of them.
    giving: Option<u64>,
    /// What it was told of owners.
    pub(crate) owners: Owners,
    /// What was said of each snapshot, signed, by its number.
    pub(crate) stated: BTreeMap<u64, Bytes>,
    /// What it was told of restores.
    pub(crate) restoring: Vec<Restoring>,
    /// How many contents it compared with what a restore has of them.
    pub(crate) compared: usize,
    /// Told instead of committing.
    pub(crate) refuse: Option<Failure>,
    /// Told after committing, as if what was held had been released at once.
    pub(crate) refuse_and_commit: Option<Failure>,
}

#[derive(Default)]
struct Upload {
    records: Vec<Change>,
    fuzzy: BTreeSet<Place>,
    open: HashMap<u64, Vec<u8>>,
    ended: HashMap<u64, Vec<u8>>,
    /// Contents of the base that streams are new versions of.
    bases: HashMap<u64, Vec<u8>>,
    stated: Option<Bytes>,
}

/// Serves one connection.
pub(crate) fn serve(spare: &Mutex<Spare>, channel: Channel) {
    serve_until(spare, channel, usize::MAX);
}

/// Serves one connection until it has sent so many messages.
pub(crate) fn serve_until(spare: &Mutex<Spare>, mut channel: Channel, mut messages: usize) {
    let newest = spare.lock().expect("spare").newest;
    let greeted = match newest {
        None => channel.greet().map(drop),
        Some(newest) => greet_as(newest, &mut channel),
    };
    if greeted.is_err() {
        return;
    }
    let mut upload = Upload::default();
    loop {
        let message = match channel.incoming.receive_message() {
            Ok(message) => message,
            // The agent gives up, and may say why.
            Err(ProtocolError::Cut | ProtocolError::Failed(_)) => return,
            Err(error) => unreachable!("{error}"),
        };
        let mut spare = spare.lock().expect("spare");
        let answers = spare.answer(message, &mut upload);
        for answer in answers {
            if messages == 0 {
                return;
            }
            messages -= 1;
            let is_last = matches!(answer, Message::Failure(_));
            if channel.outgoing.send_message(&answer).is_err() || is_last {
                return;
            }
        }
    }
}

fn bad_leftover() -> Message {
    Message::Failure(Failure::new(FailureCode::BadLeftover, "nothing is left"))
}

/// Greets as an older version does.
fn greet_as(newest: u32, channel: &mut Channel) -> Result<(), ProtocolError> {
    let hello = Hello {
        newest,
        ..Hello::ours()
    };
    channel.outgoing.send_message(&Message::Hello(hello))?;
    channel.incoming.receive_message().map(drop)
}

impl Spare {
    pub(super) fn speaks(&self, version: u32) -> bool {
        self.newest.is_none_or(|newest| newest >= version)
    }

    fn snapshot(&self) -> Snapshot {
        let position = self.position.expect("a snapshot");
        let bytes = self
            .entries
            .values()
            .map(|(entry, _)| entry.size_bytes())
            .sum();
        Snapshot {
            position,
            committed_seconds: 0,
            entries: self.entries.len() as u64,
            bytes,
        }
    }

    fn ready(&self) -> Vec<Message> {
        let ready = Message::Ready(Ready {
            position: self.position,
        });
        if !self.speaks(version::RESUME) {
            return vec![ready];
        }
        let wanted = Message::Wanted(Wanted {
            contents: self.wanted.clone(),
        });
        let wanted = (!self.wanted.is_empty()).then_some(wanted);
        let told = self.leftovers.iter().map(|content| {
            let hash = ContentHash::of(content);
            let key = hash.0[..16].try_into().expect("16 bytes");
            Message::Leftover(Leftover {
                contents: vec![(content.len() as u64, key)],
                partials: vec![],
            })
        });
        let partials = self.partials.iter().map(|partial| {
            Message::Leftover(Leftover {
                contents: vec![],
                partials: vec![(partial.len() as u64, ContentHash::of(partial))],
            })
        });
        let end = Message::LeftoverEnd(LeftoverEnd {});
        [ready]
            .into_iter()
            .chain(self.said())
            .chain(wanted)
            .chain(told)
            .chain(partials)
            .chain([end])
            .collect()
    }

    fn answer(&mut self, message: Message, upload: &mut Upload) -> Vec<Message> {
        match message {
            Message::Begin(_) => {
                self.told.clear();
                self.ready()
            }
            Message::ReadManifest(_) => self.manifest(),
            Message::Changes(changes) => self.take_changes(changes, upload),
            Message::Commit(commit) => self.commit(&commit, upload),
            Message::Confirm(confirm) => {
                assert_eq!(Some(confirm.position), self.position);
                assert!(upload.records.is_empty(), "confirmed after changes");
                self.confirmations += 1;
                vec![Message::Confirmed(Confirmed {
                    snapshot: self.snapshot(),
                })]
            }
            Message::Want(want) => want
                .places
                .iter()
                .flat_map(|place| self.give(place, 0))
                .collect(),
            Message::WantRest(rest) => {
                assert_eq!(self.newest, None, "an older version does not know it");
                match &rest.other {
                    Some(signature) => {
                        self.compared += 1;
                        self.give_changed(&rest, signature)
                    }
                    None => self.give(&rest.place, rest.from),
                }
            }
            Message::Restoring(restoring) => {
                assert_eq!(self.newest, None, "an older version does not know it");
                self.restoring.push(restoring);
                vec![]
            }
            Message::Fuzzy(_)
            | Message::SourceRoot(_)
            | Message::Owners(_)
            | Message::Stated(_) => {
                self.take_testimony(message, upload);
                vec![]
            }
            other => self.take_stream(other, upload),
        }
    }

    fn take_changes(&mut self, changes: Changes, upload: &mut Upload) -> Vec<Message> {
        let has = |what: &Content| {
            changes.records.iter().any(|change| match change {
                Change::Put { content, .. } => content == what,
                _ => false,
            })
        };
        if self.is_boasting && has(&Content::Leftover) {
            return vec![bad_leftover()];
        }
        assert!(
            self.speaks(version::HISTORY) || !has(&Content::History),
            "an older version does not know it"
        );
        if self.is_forgetful && has(&Content::History) {
            return vec![Message::Failure(Failure::new(
                FailureCode::NotInHistory,
                "it is not in history",
            ))];
        }
        self.told.extend(changes.records.iter().cloned());
        let records = changes
            .records
            .into_iter()
            .map(|record| self.in_full(record));
        upload.records.extend(records);
        vec![]
    }

    fn commit(&mut self, commit: &Commit, upload: &mut Upload) -> Vec<Message> {
        assert_eq!(commit.base, self.position, "base");
        if let Some(failure) = self.refuse.take() {
            return vec![Message::Failure(failure)];
        }
        self.fuzzy = std::mem::take(&mut upload.fuzzy);
        let stated = upload.stated.take();
        self.apply(std::mem::take(upload));
        for place in &self.fuzzy {
            let is_file = self.entries[place].0.content().is_some();
            assert!(is_file, "{place:?} is told to be fuzzy, and is no file");
        }
        let digest = self.digest();
        if digest.fingerprint() != commit.fingerprint {
            unreachable!("the agent's digest is another");
        }
        let number = self.position.map_or(1, |position| position.number + 1);
        self.position = Some(Position {
            epoch: 1,
            number,
            fingerprint: commit.fingerprint,
        });
        self.stated.extend(stated.map(|stated| (number, stated)));
        if let Some(failure) = self.refuse_and_commit.take() {
            return vec![Message::Failure(failure)];
        }
        vec![Message::Committed(Committed {
            snapshot: self.snapshot(),
            timings: vec![],
        })]
    }

    fn digest(&self) -> StateDigest {
        let mut digest = StateDigest::empty();
        self.entries
            .iter()
            .for_each(|(place, (entry, _))| digest.add(place, entry));
        digest
    }

    fn manifest(&mut self) -> Vec<Message> {
        self.manifests += 1;
        if self.position.is_none() {
            return vec![Message::Failure(Failure::new(
                FailureCode::NotFound,
                "no snapshot",
            ))];
        }
        let mut entries = Vec::new();
        let mut pending = vec![DirectoryId::TOP];
        while let Some(id) = pending.pop() {
            for (place, (entry, _)) in self.entries.iter().filter(|(place, _)| place.parent == id) {
                pending.extend(entry.directory_id());
                entries.push((place.clone(), entry.clone()));
            }
        }
        let parts = entries.chunks(3).map(|part| {
            Message::Manifest(Manifest {
                entries: part.to_vec(),
            })
        });
        let owners = (self.newest.is_none() && self.owners != Owners::default())
            .then(|| Message::Owners(self.owners.clone()));
        let end = Message::ManifestEnd(ManifestEnd {
            snapshot: self.snapshot(),
        });
        let fuzzy = Message::Fuzzy(Fuzzy {
            places: self.fuzzy.iter().cloned().collect(),
        });
        let fuzzy = self.speaks(version::FUZZY).then_some(fuzzy);
        let said = self.said();
        let all = said.into_iter().chain(parts).chain(fuzzy).chain(owners);
        all.chain([end]).collect()
    }

    /// Entries by path; the numbers of directories are left out.
    pub(crate) fn tree(&self) -> Tree {
        self.tree_below(DirectoryId::FILES)
    }

    /// The same of what is below the root `databases`; empty if there is none.
    pub(crate) fn databases(&self) -> Tree {
        let root = understudy_protocol::Name::new(b"databases").expect("name");
        let root = self.entries.get(&Place::new(DirectoryId::TOP, root));
        match root.and_then(|(entry, _)| entry.directory_id()) {
            Some(id) => self.tree_below(id),
            None => Tree::new(),
        }
    }

    fn tree_below(&self, id: DirectoryId) -> Tree {
        let mut tree = Tree::new();
        let mut pending = vec![(id, understudy_protocol::RelPath::root())];
        while let Some((id, path)) = pending.pop() {
            for (place, (entry, file)) in
                self.entries.iter().filter(|(place, _)| place.parent == id)
            {
                let path = path.join(&place.name);
                let mut entry = entry.clone();
                if let Some(id) = entry.directory_id() {
                    pending.push((id, path.clone()));
                    entry.node = Node::Directory {
                        id: DirectoryId::TOP,
                    };
                }
                tree.insert(path.as_bytes().to_vec(), (entry, *file));
            }
        }
        tree
    }
}
