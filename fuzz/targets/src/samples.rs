//! Honest values that seeds are made of.

use understudy_protocol::message::*;
use understudy_protocol::version::Hello;
use understudy_protocol::{
    Attributes, ContentHash, DatasetName, DirectoryId, Entry, Failure, FailureCode, Fingerprint,
    Message, Name, Node, Place, Position, RelPath, Snapshot, Timestamp, Xattr,
};

pub(crate) fn dataset() -> DatasetName {
    DatasetName::fit(b"site")
}

pub(crate) fn place(parent: u64, name: &str) -> Place {
    Place::new(DirectoryId(parent), Name::new(name).expect("a name"))
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

pub(crate) fn attributes() -> Attributes {
    Attributes {
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: Timestamp {
            seconds: 1,
            nanoseconds: 2,
        },
        xattrs: Vec::new(),
    }
}

pub(crate) fn entry(node: Node) -> Entry {
    Entry {
        attributes: attributes(),
        node,
        group: 0,
    }
}

pub(crate) fn file(content: &[u8]) -> Entry {
    entry(Node::File {
        size: content.len() as u64,
        hash: ContentHash::of(content),
    })
}

pub(crate) fn directory(id: u64) -> Entry {
    let mut entry = entry(Node::Directory {
        id: DirectoryId(id),
    });
    entry.attributes.mode = 0o755;
    entry
}

fn position() -> Position {
    Position {
        epoch: 1,
        number: 3,
        fingerprint: Fingerprint([7; 32]),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        position: position(),
        committed_seconds: 1_790_000_000,
        entries: 4,
        bytes: 300,
    }
}

/// Entries of every kind.
fn entries() -> Vec<(Place, Entry)> {
    let nodes = [
        Node::Directory {
            id: DirectoryId::FILES,
        },
        Node::Symlink {
            target: b"../../etc"[..].into(),
        },
        Node::Fifo,
        Node::CharacterDevice { major: 1, minor: 3 },
        Node::BlockDevice { major: 8, minor: 0 },
    ];
    let mut entries = vec![(place(0, "files"), directory(1))];
    for (node, name) in nodes.into_iter().zip(["a", "b", "c", "d", "e"]) {
        entries.push((place(1, name), entry(node)));
    }
    let mut whole = file(b"some content");
    whole.group = 7;
    whole.attributes.xattrs.push(Xattr {
        name: b"user.a"[..].into(),
        value: b"value"[..].into(),
    });
    entries.push((place(1, "f"), whole));
    entries
}

/// Messages of nearly every kind, some with all that they may have.
pub(crate) fn messages() -> Vec<Message> {
    let mut messages = of_uploads();
    messages.extend(of_contents());
    messages.extend(of_the_past());
    messages.extend(of_reports());
    messages
}

fn of_uploads() -> Vec<Message> {
    let (site, hash) = (dataset(), ContentHash::of(b"base"));
    vec![
        Message::Hello(Hello::ours()),
        Message::Failure(Failure::new(FailureCode::Busy, "another upload is running")),
        Message::Claim(Claim {
            dataset: site.clone(),
            epoch: 2,
        }),
        Message::Begin(Begin { dataset: site }),
        Message::Changes(Changes { records: changes() }),
        Message::Commit(Commit {
            base: Some(position()),
            fingerprint: Fingerprint([9; 32]),
            elapsed_milliseconds: 70_000,
        }),
        Message::Confirm(Confirm {
            position: position(),
            elapsed_milliseconds: 5,
        }),
        Message::SourceRoot(SourceRoot {
            file_system: Some(9),
            inode: 2,
            born: Some(attributes().modified),
        }),
        Message::Ready(Ready {
            position: Some(position()),
        }),
        Message::Committed(Committed {
            snapshot: snapshot(),
            timings: vec![Timing {
                step: "stage".to_owned(),
                microseconds: 300,
            }],
        }),
        Message::Confirmed(Confirmed {
            snapshot: snapshot(),
        }),
        Message::Leftover(Leftover {
            contents: vec![(300, [1; 16])],
            partials: vec![(1 << 20, hash)],
        }),
        Message::LeftoverEnd(LeftoverEnd {}),
        Message::Waited(Waited {
            milliseconds: 1,
            of_milliseconds: 2,
        }),
        Message::Fuzzy(Fuzzy {
            places: vec![place(1, "f")],
        }),
        Message::Owners(Owners {
            users: vec![(0, b"root"[..].into())],
            groups: vec![(0, b"wheel"[..].into())],
        }),
    ]
}

/// A record with each kind of content.
pub(crate) fn changes() -> Vec<Change> {
    let pieces = vec![
        Piece::Copy {
            from: 1,
            length: 300,
        },
        Piece::Data(b"new"[..].into()),
    ];
    let contents = [
        Content::Inline(b"some content"[..].into()),
        Content::Stream(1),
        Content::Keep(place(1, "a")),
        Content::Copy(place(1, "b")),
        Content::Sibling(place(1, "c")),
        Content::Delta(place(1, "d"), pieces),
        Content::Leftover,
        Content::History,
    ];
    let mut changes = vec![
        Change::Put {
            place: place(0, "files"),
            entry: directory(1),
            content: Content::Directory,
        },
        Change::Remove {
            place: place(1, "old"),
        },
        Change::Touch {
            place: place(1, "touched"),
            attributes: attributes(),
            touch: Touch::Copied,
        },
    ];
    for (content, number) in contents.into_iter().zip(0..) {
        changes.push(Change::Put {
            place: place(1, &format!("file{number}")),
            entry: file(b"some content"),
            content,
        });
    }
    changes
}

fn of_contents() -> Vec<Message> {
    let hash = ContentHash::of(b"content");
    vec![
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: 4096,
            data: b"content ".repeat(100).into(),
        }),
        Message::StreamEnd(StreamEnd {
            stream: 1,
            size: 5000,
            hash,
        }),
        Message::StreamAbort(StreamAbort { stream: 1 }),
        Message::StreamBase(StreamBase {
            stream: 1,
            place: place(1, "f"),
        }),
        Message::StreamCopy(StreamCopy {
            stream: 1,
            offset: 0,
            from: 4096,
            length: 8192,
        }),
        Message::StreamPieces(StreamPieces {
            stream: 1,
            offset: 4096,
            pieces: vec![
                StreamPiece::New(b"new"[..].into()),
                StreamPiece::Former {
                    from: 4099,
                    length: 500,
                },
            ],
        }),
        Message::StreamResume(StreamResume {
            stream: 1,
            length: 4096,
            hash,
        }),
        Message::ReadManifest(ReadManifest {
            dataset: dataset(),
            number: Some(3),
        }),
        Message::Manifest(Manifest { entries: entries() }),
        Message::ManifestEnd(ManifestEnd {
            snapshot: snapshot(),
        }),
        Message::Want(Want {
            places: vec![place(1, "f"), place(1, "g")],
        }),
        Message::WantRest(WantRest {
            place: place(1, "f"),
            from: 4096,
            other: Some(b"signature"[..].into()),
        }),
        Message::Given(Given {
            contents: vec![(place(1, "f"), b"content"[..].into())],
        }),
        Message::GivenStream(GivenStream {
            place: place(1, "f"),
            stream: 2,
        }),
        Message::Wanted(Wanted {
            contents: vec![WantedContent {
                path: path("a/f"),
                size: 7,
                hash,
            }],
        }),
        Message::Returned(Returned {
            hash,
            stream: Some(3),
        }),
    ]
}

fn of_the_past() -> Vec<Message> {
    let (number, tally) = (
        3,
        Tally {
            entries: 2,
            bytes: 900,
        },
    );
    let (before, after) = (file(b"before"), file(b"after"));
    vec![
        Message::List(List {
            dataset: Some(dataset()),
        }),
        Message::ListFuzzy(ListFuzzy {
            dataset: dataset(),
            number: Some(number),
        }),
        Message::FuzzyFiles(FuzzyFiles {
            files: vec![FuzzyFile {
                path: path("a/f"),
                since: 2,
                until: Some(4),
            }],
        }),
        Message::Locate(Locate {
            dataset: dataset(),
            number: None,
            path: path("a/f"),
        }),
        Message::Located(Located {
            snapshot: snapshot(),
            place: place(1, "f"),
            entry: before.clone(),
        }),
        Message::ListTree(ListTree {
            dataset: dataset(),
            number,
            path: path("a"),
            depth: Depth::All,
        }),
        Message::Listed(Listed {
            entries: vec![(path("a/f"), before.clone())],
        }),
        Message::Find(Find {
            dataset: dataset(),
            pattern: "/a/**/*.{c,h}".to_owned(),
            first: Some(1),
            last: None,
        }),
        Message::Found(Found {
            versions: vec![Version {
                path: path("a/f"),
                entry: before.clone(),
                since: 1,
                until: None,
            }],
        }),
        Message::Compare(Compare {
            dataset: dataset(),
            from: 1,
            to: 3,
        }),
        Message::Differences(Differences {
            differences: vec![Difference::Moved {
                from: path("a/f"),
                path: path("b/f"),
                before,
                after,
            }],
        }),
        Message::Summarise(Summarise { dataset: dataset() }),
        Message::ListSnapshots(ListSnapshots {
            dataset: dataset(),
            before: number,
        }),
        Message::Snapshots(Snapshots {
            snapshots: vec![snapshot()],
        }),
        Message::Summaries(Summaries {
            summaries: vec![Summary {
                number,
                added: tally,
                removed: tally,
                changed: tally,
                touched: tally,
                moved: tally,
            }],
        }),
        Message::ListRetention(ListRetention { dataset: dataset() }),
        Message::Retention(Retention {
            snapshots: vec![Retained {
                number,
                pin: Some(Pin {
                    reason: "before the upgrade".to_owned(),
                    since_seconds: 9,
                }),
                flag: Some(Flag {
                    since_seconds: 9,
                    due_seconds: 99,
                }),
            }],
        }),
        Message::RetentionEnd(RetentionEnd {
            verified: Some(LastVerified {
                seconds: 5,
                findings: 1,
            }),
        }),
        Message::Told(Told {}),
    ]
}

fn of_reports() -> Vec<Message> {
    let what = || "its content is not what it was".to_owned();
    vec![
        Message::Datasets(Datasets {
            datasets: vec![DatasetStatus {
                name: dataset(),
                snapshots: vec![snapshot()],
                as_of_seconds: Some(1_790_000_000),
                uploading: true,
                trouble: Some("held".to_owned()),
            }],
            free_bytes: 1 << 40,
            now_seconds: 1_790_000_001,
        }),
        Message::Trouble(Trouble {
            dataset: dataset(),
            reason: "the source is empty".to_owned(),
        }),
        Message::Inspect(Inspect {
            dataset: Some(dataset()),
            repair: Repairing::Always,
            bytes_per_second: 1 << 20,
        }),
        Message::Finding(Finding {
            dataset: dataset(),
            path: path("a/f"),
            what: what(),
        }),
        Message::Repaired(Repaired {
            dataset: dataset(),
            path: path("a/f"),
            what: what(),
        }),
        Message::Verified(Verified {
            dataset: dataset(),
            snapshot: Some(snapshot()),
            entries: 4,
            files: 2,
            bytes: 300,
            objects: 1,
            object_bytes: 30,
            findings: 0,
        }),
        Message::Health(Health {
            findings: vec![KnownFinding {
                path: path("a/f"),
                what: what(),
                content: Some(ContentHash::of(b"content")),
                state: FindingState::Lost,
                found_seconds: 9,
            }],
            damaged: vec![2, 3],
            scrub: Some(ScrubState {
                last: Some(ScrubEnd {
                    since_seconds: 1,
                    seconds: 2,
                    bytes: 3,
                    findings: 4,
                }),
                running: Some(ScrubRun {
                    since_seconds: 1,
                    done_bytes: 2,
                    total_bytes: 3,
                    findings: 4,
                }),
            }),
            open: 1,
            accepted: 2,
        }),
        Message::Overseen(overseen()),
    ]
}

fn overseen() -> Overseen {
    let filling = Filling {
        total: 1 << 40,
        free: 1 << 30,
        reserve: 1 << 20,
        each_day: Some(-5),
        full_seconds: None,
    };
    let restoring = Restoring {
        who: "host:/srv".to_owned(),
        phase: RestorePhase::Restoring,
        files_total: 9,
        files_done: 5,
        files_found: 1,
        bytes_total: 900,
        bytes_done: 500,
        bytes_found: 100,
        bytes_per_second: Some(50),
        remaining_seconds: Some(8),
    };
    Overseen {
        restores: vec![RunningRestore {
            dataset: dataset(),
            number: 3,
            since_seconds: 1,
            files_given: 2,
            bytes_given: 3,
            told: Some((4, restoring)),
        }],
        bytes: filling,
        inodes: filling,
        observed_seconds: 86_400,
    }
}
