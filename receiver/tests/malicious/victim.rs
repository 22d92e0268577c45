//! A receiver with the dataset of an honest main beside that of the attacker, and a tree beside the store that must not change.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use understudy_protocol::message::{Begin, Change, Changes, Commit, Content};
use understudy_protocol::transport::in_process;
use understudy_protocol::version::Hello;
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Failure, Frame, MainName, Message,
    Name, Node, Place, Position, ProtocolError, StateDigest, Timestamp, Xattr,
};
use understudy_receiver::{Peer, SessionOptions, Store, serve};

/// What is seen of a file: mode, size, inode, owner, time, content or target.
type Seen = (u32, u64, u64, u32, i64, Vec<u8>);

pub(crate) struct Victim {
    pub(crate) store: Arc<Store>,
    scratch: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

/// What came of an attack.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) heard: Vec<Message>,
    pub(crate) failure: Option<Failure>,
}

impl Outcome {
    pub(crate) fn committed(&self) -> Option<Position> {
        self.heard.iter().find_map(|message| match message {
            Message::Committed(committed) => Some(committed.snapshot.position),
            _ => None,
        })
    }
}

pub(crate) fn peer(name: &str) -> Peer {
    Peer::Main(MainName::new(name).expect("name"))
}

pub(crate) fn place(parent: u64, name: impl AsRef<[u8]>) -> Place {
    Place::new(
        DirectoryId(parent),
        Name::new(name.as_ref().to_vec()).expect("name"),
    )
}

pub(crate) fn entry(node: Node) -> Entry {
    let privileges = understudy_tree::Privileges::current();
    Entry {
        attributes: Attributes {
            mode: 0o755,
            uid: privileges.uid,
            gid: privileges.gid,
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

pub(crate) fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr {
        name: name.as_bytes().into(),
        value: value.into(),
    }
}

pub(crate) fn of_text(text: &str) -> Node {
    Node::File {
        size: text.len() as u64,
        hash: ContentHash::of(text.as_bytes()),
    }
}

pub(crate) fn put(place: Place, entry: Entry, content: Content) -> Change {
    Change::Put {
        place,
        entry,
        content,
    }
}

pub(crate) fn file(place: Place, text: &str) -> Change {
    let content = Content::Inline(text.as_bytes().to_vec().into());
    put(place, entry(of_text(text)), content)
}

pub(crate) fn directory(place: Place, id: u64) -> Change {
    let id = DirectoryId(id);
    put(place, entry(Node::Directory { id }), Content::Directory)
}

pub(crate) fn link(place: Place, target: &str) -> Change {
    let target = target.as_bytes().to_vec().into();
    let mut entry = entry(Node::Symlink { target });
    // As those of Linux are.
    entry.attributes.mode = 0o777;
    put(place, entry, Content::Inline(Vec::new().into()))
}

/// The root, a directory with the number 5 and three files.
pub(crate) fn base() -> Vec<Change> {
    vec![
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 5),
        file(place(1, "a"), "first"),
        file(place(1, "b"), "second"),
        file(place(5, "c"), "third"),
    ]
}

pub(crate) fn changes(records: Vec<Change>) -> Message {
    Message::Changes(Changes { records })
}

/// The state after changes that put new things only.
pub(crate) fn digest(records: &[Change]) -> StateDigest {
    let mut digest = StateDigest::empty();
    for record in records {
        if let Change::Put { place, entry, .. } = record {
            digest.add(place, entry);
        }
    }
    digest
}

pub(crate) fn commit(base: Option<Position>, digest: &StateDigest) -> Message {
    Message::Commit(Commit {
        base,
        fingerprint: digest.fingerprint(),
        elapsed_milliseconds: 0,
    })
}

pub(crate) fn begin() -> Message {
    Message::Begin(Begin {
        dataset: DatasetName::fit(b"evil"),
    })
}

/// Everything below a directory.
fn image(path: &Path) -> BTreeMap<PathBuf, Seen> {
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
        let seen = (
            metadata.mode(),
            metadata.len(),
            metadata.ino(),
            metadata.uid(),
            metadata.mtime(),
            content,
        );
        found.insert(path, seen);
    }
    found
}

impl Victim {
    /// With the dataset `honest` of `beta`, and `evil` of `alpha` with one snapshot.
    #[expect(clippy::disallowed_methods, reason = "makes a tree beside the store")]
    pub(crate) fn new() -> (Self, Position) {
        let scratch = tempfile::tempdir().expect("tempdir");
        let sentinel = scratch.path().join("sentinel");
        std::fs::create_dir_all(sentinel.join("inner")).expect("sentinel");
        std::fs::write(sentinel.join("inner/file"), "untouched").expect("sentinel");
        std::os::unix::fs::symlink("inner", sentinel.join("link")).expect("sentinel");
        let store = Store::open(&scratch.path().join("store")).expect("store");
        let mut victim = Self {
            store: Arc::new(store),
            scratch,
            before: BTreeMap::new(),
        };
        let honest = Message::Begin(Begin {
            dataset: DatasetName::fit(b"honest"),
        });
        let first = [honest, changes(base()), commit(None, &digest(&base()))];
        let outcome = victim.tell(&peer("beta"), &first);
        assert!(outcome.committed().is_some(), "{outcome:?}");
        let outcome = victim.attack(&[begin(), changes(base()), commit(None, &digest(&base()))]);
        let position = outcome.committed().expect("base");
        victim.before = victim.image();
        (victim, position)
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn image(&self) -> BTreeMap<PathBuf, Seen> {
        let mut all = image(&self.scratch.path().join("store/honest"));
        all.extend(image(&self.scratch.path().join("sentinel")));
        all
    }

    /// Nothing that is not the attacker's has changed.
    pub(crate) fn check(&self) {
        assert!(self.image() == self.before, "what is not its own changed");
        let names = |path: PathBuf| {
            let listed = std::fs::read_dir(path).expect("list");
            let mut names: Vec<_> = listed.map(|one| one.expect("entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.path().to_owned()), ["sentinel", "store"]);
        let own = ["evil", "honest", "understudy.space", "understudy.store"];
        assert_eq!(names(self.path().join("store")), own);
    }

    /// Tells the receiver these things as this peer, and hears what it says until it ends.
    pub(crate) fn tell(&self, peer: &Peer, messages: &[Message]) -> Outcome {
        let mut encoder =
            understudy_protocol::Encoder::new(understudy_protocol::encode::Compression::Off);
        let frames = messages
            .iter()
            .map(move |message| encoder.encode(message).expect("encode"));
        self.throw(peer, frames)
    }

    pub(crate) fn attack(&self, messages: &[Message]) -> Outcome {
        self.tell(&peer("alpha"), messages)
    }

    /// The same with any frames. The session must end by itself: a thread that panicked would be seen here.
    pub(crate) fn throw(&self, peer: &Peer, frames: impl IntoIterator<Item = Frame>) -> Outcome {
        let (ours, theirs) = in_process();
        let options = SessionOptions {
            peer: peer.clone(),
            ..SessionOptions::default()
        };
        let store = Arc::clone(&self.store);
        let session = std::thread::spawn(move || serve(store, theirs, options));
        let understudy_protocol::transport::Channel {
            outgoing,
            mut incoming,
        } = ours;
        let reader = std::thread::spawn(move || {
            let mut outcome = Outcome {
                heard: Vec::new(),
                failure: None,
            };
            loop {
                match incoming.receive_message() {
                    // They would be many.
                    Ok(Message::Waited(_)) => {}
                    Ok(message) => outcome.heard.push(message),
                    Err(ProtocolError::Failed(failure)) => {
                        outcome.failure = Some(failure);
                        return outcome;
                    }
                    Err(_) => return outcome,
                }
            }
        });
        let _ = outgoing.send_message(&Message::Hello(Hello::ours()));
        for frame in frames {
            if outgoing.send(frame).is_err() {
                break;
            }
        }
        drop(outgoing);
        let _ = session.join().expect("no attack makes a session panic");
        reader.join().expect("reader")
    }

    /// The attacker's dataset can still be used by somebody honest, and is what it was or what was committed.
    pub(crate) fn still_works(&self, base: Position, records: &[Change], all: &StateDigest) {
        let outcome = self.attack(&[begin(), changes(records.to_vec()), commit(Some(base), all)]);
        assert!(outcome.committed().is_some(), "{outcome:?}");
        let verified = self.attack(&[Message::Verify(understudy_protocol::message::Verify {
            dataset: Some(DatasetName::fit(b"evil")),
        })]);
        for message in &verified.heard {
            // What no disk can hold is told, and is the attacker's own loss.
            let is_odd = |finding: &understudy_protocol::message::Finding| {
                finding.path.as_bytes() == b"odd" && finding.what.starts_with("differs in")
            };
            let is_fine = match message {
                Message::Finding(finding) => is_odd(finding),
                _ => true,
            };
            assert!(is_fine, "{message:?}");
        }
    }
}
