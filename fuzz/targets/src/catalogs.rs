//! A store whose catalog is damaged, or says anything: no question is answered by a panic, and no upload either.

use std::path::Path;
use std::sync::OnceLock;

use understudy_protocol::message::{
    Begin, Change, Changes, Commit, Compare, Content, Depth, Find, Inspect, List, ListFuzzy,
    ListRetention, ListSnapshots, ListTree, Locate, ReadManifest, Repairing, Summarise, Want,
};
use understudy_protocol::version::NEWEST;
use understudy_protocol::{Message, RelPath};

use crate::choices::Choices;
use crate::spare::{Spare, digest, tell};
use crate::{samples, scratch};

const CATALOG: &str = "store/site/.understudy/catalog.db";
const PAGE: usize = 4096;

/// See the description of this module.
pub(crate) fn catalogs(data: &[u8]) {
    let mut choices = Choices::new(data);
    let scratch = scratch::directory();
    copy(template().path(), scratch.path());
    let catalog = scratch.path().join(CATALOG);
    match choices.below(4) {
        0 => write(&catalog, choices.rest()),
        1 | 2 => rewrite(&catalog, &mut choices),
        _ => damage(&catalog, &mut choices),
    }
    match Spare::at(scratch) {
        Ok(spare) => use_it(&spare),
        Err(error) => drop(error.to_string()),
    }
}

/// Flips bytes of pages, cuts the file, or exchanges two pages.
fn damage(path: &Path, choices: &mut Choices<'_>) {
    let mut bytes = std::fs::read(path).expect("a catalog");
    for _ in 0..1 + choices.below(8) {
        let page = choices.below(bytes.len() / PAGE) * PAGE;
        let at = page + usize::from(choices.short()) % PAGE;
        match choices.below(8) {
            0 => bytes.truncate(at.max(PAGE)),
            1 => {
                let other = choices.below(bytes.len() / PAGE) * PAGE;
                let taken = bytes[page..page + PAGE].to_vec();
                bytes.copy_within(other..other + PAGE, page);
                bytes[other..other + PAGE].copy_from_slice(&taken);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = choices.byte();
                }
            }
        }
    }
    write(path, &bytes);
}

const COLUMNS: [(&str, &[&str]); 8] = [
    (
        "snapshot",
        &[
            "number",
            "epoch",
            "fingerprint",
            "digest",
            "committed_seconds",
            "as_of_seconds",
            "entries",
            "bytes",
            "first_entry",
            "committed",
        ],
    ),
    (
        "entry",
        &[
            "id",
            "parent",
            "name",
            "since",
            "until",
            "kind",
            "directory",
            "hash_key",
            "link_group",
            "origin",
            "entry",
        ],
    ),
    ("confirmation", &["as_of_seconds"]),
    ("fuzzy", &["parent", "name", "since", "until"]),
    ("pin", &["snapshot", "reason", "since_seconds"]),
    ("flag", &["snapshot", "flagged_seconds", "due_seconds"]),
    ("moment", &["seconds", "boot", "boot_seconds"]),
    ("owner", &["kind", "id", "since", "name"]),
];

/// Gives rows other values: the database is whole, and what it says is not.
#[expect(
    clippy::disallowed_methods,
    reason = "changes a catalog behind the back of its owner"
)]
fn rewrite(path: &Path, choices: &mut Choices<'_>) {
    let connection = rusqlite::Connection::open(path).expect("open");
    for _ in 0..1 + choices.below(6) {
        let (table, columns) = COLUMNS[choices.below(16) % COLUMNS.len()];
        let column = columns[choices.below(columns.len())];
        let value: rusqlite::types::Value = match choices.below(6) {
            0 => rusqlite::types::Value::Null,
            1..=3 => (choices.number() as i64).into(),
            4 => choices.some().to_vec().into(),
            _ => String::from_utf8_lossy(choices.some()).into_owned().into(),
        };
        let row = choices.byte() & 15;
        let key = columns[0];
        let sql = format!(
            "UPDATE OR IGNORE {table} SET {column} = ?1 WHERE {key} IN (SELECT {key} FROM {table} LIMIT 1 OFFSET {row})"
        );
        // What a column does not take it does not take.
        let _ = connection.execute(&sql, [value]);
    }
}

/// Asks everything that can be asked, and uploads.
fn use_it(spare: &Spare) {
    let dataset = samples::dataset();
    let mut questions = vec![
        Message::List(List { dataset: None }),
        Message::ListFuzzy(ListFuzzy {
            dataset: dataset.clone(),
            number: None,
        }),
        Message::ListRetention(ListRetention {
            dataset: dataset.clone(),
        }),
        Message::Summarise(Summarise {
            dataset: dataset.clone(),
        }),
        Message::ListSnapshots(ListSnapshots {
            dataset: dataset.clone(),
            before: u64::MAX,
        }),
        Message::Compare(Compare {
            dataset: dataset.clone(),
            from: 1,
            to: 2,
        }),
        Message::Find(Find {
            dataset: dataset.clone(),
            pattern: "*".to_owned(),
            first: None,
            last: None,
        }),
        Message::Inspect(Inspect {
            dataset: None,
            repair: Repairing::Always,
            bytes_per_second: 1 << 30,
        }),
    ];
    for number in [None, Some(1), Some(u64::MAX)] {
        questions.push(Message::ReadManifest(ReadManifest {
            dataset: dataset.clone(),
            number,
        }));
        questions.push(Message::Locate(Locate {
            dataset: dataset.clone(),
            number,
            path: samples::path("d/a"),
        }));
        questions.push(Message::ListTree(ListTree {
            dataset: dataset.clone(),
            number: number.unwrap_or(2),
            path: RelPath::root(),
            depth: Depth::All,
        }));
    }
    for question in &questions {
        spare.ask(question);
    }
    want(spare);
    upload(spare);
}

/// Asks for everything in the newest snapshot.
fn want(spare: &Spare) {
    spare.talk(NEWEST, |channel| {
        let (dataset, number) = (samples::dataset(), Some(2));
        tell(
            channel,
            &Message::ReadManifest(ReadManifest { dataset, number }),
        );
        let mut places = Vec::new();
        while let Ok(message) = channel.incoming.receive_message() {
            match message {
                Message::Manifest(part) => {
                    let files = part
                        .entries
                        .into_iter()
                        .filter(|(_, entry)| entry.content().is_some());
                    places.extend(files.map(|(place, _)| place));
                }
                Message::ManifestEnd(_) if places.is_empty() => break,
                Message::ManifestEnd(_) => tell(
                    channel,
                    &Message::Want(Want {
                        places: std::mem::take(&mut places),
                    }),
                ),
                Message::Given(_) | Message::StreamEnd(_) => break,
                _ => {}
            }
        }
    });
}

fn upload(spare: &Spare) {
    spare.talk(NEWEST, |channel| {
        let dataset = samples::dataset();
        tell(channel, &Message::Begin(Begin { dataset }));
        let mut base = None;
        while let Ok(message) = channel.incoming.receive_message() {
            match message {
                Message::Ready(ready) => base = ready.position,
                Message::LeftoverEnd(_) => {
                    let records = vec![
                        put(1, "new", b"new"),
                        Change::Remove {
                            place: samples::place(1, "b"),
                        },
                    ];
                    tell(channel, &Message::Changes(Changes { records }));
                    let fingerprint = digest(&Default::default()).fingerprint();
                    tell(
                        channel,
                        &Message::Commit(Commit {
                            base,
                            fingerprint,
                            elapsed_milliseconds: 1,
                        }),
                    );
                }
                _ => {}
            }
        }
    });
}

fn put(parent: u64, name: &str, content: &[u8]) -> Change {
    Change::Put {
        place: samples::place(parent, name),
        entry: samples::file(content),
        content: Content::Inline(content.into()),
    }
}

/// A store with two snapshots, made once.
fn template() -> &'static tempfile::TempDir {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let mut spare = Spare::new();
        let directory = |parent, name, id| Change::Put {
            place: samples::place(parent, name),
            entry: samples::directory(id),
            content: Content::Directory,
        };
        spare.commit(&[
            directory(0, "files", 1),
            directory(1, "d", 2),
            put(2, "a", &[b'a'; 5000]),
            put(1, "b", b"b"),
            put(1, "c", b"c"),
        ]);
        spare.commit(&[
            put(1, "b", b"another"),
            Change::Remove {
                place: samples::place(1, "c"),
            },
            put(2, "e", b"c"),
        ]);
        spare.into_scratch()
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "prepares a store for one input, on which nothing depends"
)]
fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::FileTypeExt;
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (kind, to) = (
            entry.file_type().expect("a kind"),
            to.join(entry.file_name()),
        );
        if kind.is_dir() {
            std::fs::create_dir(&to).expect("a directory");
            copy(&entry.path(), &to);
            let mode = entry.metadata().expect("metadata").permissions();
            std::fs::set_permissions(&to, mode).expect("mode");
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).expect("a link");
            std::os::unix::fs::symlink(target, &to).expect("a link");
        } else if !kind.is_fifo() {
            std::fs::copy(entry.path(), &to).expect("a file");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "damages a catalog behind the back of its owner"
)]
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

pub(crate) fn catalogs_seeds() -> Vec<Vec<u8>> {
    let whole = std::fs::read(template().path().join(CATALOG)).expect("a catalog");
    let mut seeds = vec![[&[0], &whole[..]].concat(), vec![3, 0, 0, 24, 0, 5, 9]];
    for table in 0..COLUMNS.len() as u8 {
        for column in 0..COLUMNS[usize::from(table)].1.len() as u8 {
            for number in [0, 171, 175, 255] {
                seeds.push(vec![1, 0, table, column, 1, number, 0]);
            }
            seeds.push(vec![1, 0, table, column, 4, 2, b'.', b'.', 0]);
        }
    }
    seeds
}
