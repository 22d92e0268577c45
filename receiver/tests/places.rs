//! Names of either twin that somebody takes away, adds or changes: found, put right, and the rest kept.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(
    clippy::disallowed_methods,
    reason = "plays somebody who writes into a store"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use stage::{Stage, dataset, directory, entry, file, hear, place, send};
use understudy_protocol::message::{Change, Content, Repair, Verify};
use understudy_protocol::{Message, Node};

/// The twins of a dataset.
const TWINS: [&str; 2] = ["live", ".understudy/shadow"];

/// The paths of what was found, and of what was repaired.
#[derive(Debug, Default)]
struct Told {
    found: Vec<String>,
    repaired: Vec<String>,
}

fn told(stage: &Stage, request: &Message) -> Told {
    stage.talk(|channel| {
        send(channel, request);
        let mut told = Told::default();
        loop {
            match hear(channel).expect("answer") {
                Message::Finding(finding) => told.found.push(finding.path.to_string()),
                Message::Repaired(repaired) => told.repaired.push(repaired.path.to_string()),
                Message::Verified(_) => {}
                Message::VerifyEnd(_) => {
                    told.found.sort();
                    told.repaired.sort();
                    told.found.dedup();
                    told.repaired.dedup();
                    return told;
                }
                other => panic!("{other:?}"),
            }
        }
    })
}

fn repair(stage: &Stage) -> Told {
    let dataset = Some(dataset());
    told(stage, &Message::Repair(Repair { dataset }))
}

fn verify(stage: &Stage) -> Vec<String> {
    let dataset = Some(dataset());
    told(stage, &Message::Verify(Verify { dataset })).found
}

fn node(at: understudy_protocol::Place, node: Node, group: u64) -> Change {
    let mut entry = entry(node);
    entry.group = group;
    let content = Content::Inline(Vec::new().into());
    Change::Put {
        place: at,
        entry,
        content,
    }
}

/// Directories, a file with two names, a link and a fifo; both twins show the newest snapshot if `is_equal`.
fn world(is_equal: bool) -> Stage {
    let mut stage = Stage::new();
    let target = b"elsewhere".to_vec().into();
    let grouped = |change: Change| match change {
        Change::Put {
            place,
            mut entry,
            content,
        } => {
            entry.group = 7;
            Change::Put {
                place,
                entry,
                content,
            }
        }
        other => other,
    };
    let sibling = match grouped(file(place(3, "other"), "two names")) {
        Change::Put {
            place: at, entry, ..
        } => Change::Put {
            place: at,
            entry,
            content: Content::Sibling(place(2, "name")),
        },
        other => other,
    };
    let changes = [
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        directory(place(2, "below"), 3),
        file(place(2, "f"), "content"),
        file(place(3, "g"), "another"),
        grouped(file(place(2, "name"), "two names")),
        sibling,
        node(place(2, "link"), Node::Symlink { target }, 0),
        node(place(3, "fifo"), Node::Fifo, 0),
    ];
    stage.upload(&changes, &[]);
    turn(&mut stage, "x");
    if is_equal {
        assert!(repair(&stage).found.is_empty());
    }
    stage
}

/// Makes another snapshot, so that the twins change places.
fn turn(stage: &mut Stage, text: &str) {
    stage.upload(&[file(place(1, "x"), text)], &[]);
}

/// That nothing is wrong with either twin, now and later.
fn assert_right(stage: &mut Stage, context: &str) {
    for text in ["1", "2"] {
        let found = verify(stage);
        assert!(found.is_empty(), "{context}, before {text}: {found:?}");
        for twin in TWINS {
            let files = stage.path(twin).join("files/d");
            let inode = |name: &str| fs::metadata(files.join(name)).expect("stat").ino();
            assert_eq!(inode("name"), inode("below/other"), "{context}");
            assert_eq!(fs::read(files.join("f")).expect("read"), b"content");
        }
        turn(stage, text);
    }
}

/// What somebody does to a twin, and what is wrong then.
type Deed = (&'static str, fn(&Path), &'static [&'static str]);

const DEEDS: &[Deed] = &[
    (
        "a file is gone",
        |d| fs::remove_file(d.join("f")).expect("remove"),
        &["d", "d/f"],
    ),
    (
        "a link is gone",
        |d| fs::remove_file(d.join("link")).expect("remove"),
        &["d", "d/link"],
    ),
    (
        "a fifo is gone",
        |d| fs::remove_file(d.join("below/fifo")).expect("remove"),
        &["d/below", "d/below/fifo"],
    ),
    (
        "a name of a file is gone",
        |d| fs::remove_file(d.join("name")).expect("remove"),
        &["d", "d/name"],
    ),
    (
        "a name is another file",
        |d| {
            fs::remove_file(d.join("below/other")).expect("remove");
            fs::copy(d.join("name"), d.join("below/other")).expect("copy");
            let file = fs::File::options().write(true).open(d.join("below/other"));
            let time = d.join("name").metadata().and_then(|stat| stat.modified());
            file.and_then(|file| file.set_modified(time?))
                .expect("time");
        },
        &["d/below"],
    ),
    (
        "a link leads elsewhere",
        |d| {
            fs::remove_file(d.join("link")).expect("remove");
            symlink("/etc", d.join("link")).expect("link");
        },
        &["d", "d/link"],
    ),
    (
        "a directory is a link",
        |d| {
            fs::rename(d.join("below"), d.with_file_name("away")).expect("rename");
            symlink("../away", d.join("below")).expect("link");
        },
        &["d", "d/below"],
    ),
    (
        "a directory is in the place of a file",
        |d| {
            fs::remove_file(d.join("f")).expect("remove");
            fs::create_dir(d.join("f")).expect("make");
        },
        &["d", "d/f"],
    ),
    (
        "all is gone",
        |d| fs::remove_dir_all(d).expect("remove"),
        &["d"],
    ),
];

#[test]
fn whatever_is_done_to_the_names_of_one_tree_is_mended() {
    for is_equal in [true, false] {
        for twin in TWINS {
            for (what, deed, found) in DEEDS {
                let context = format!("{what}, in {twin}, equal: {is_equal}");
                let mut stage = world(is_equal);
                deed(&stage.path(twin).join("files/d"));
                let seen = verify(&stage);
                for path in *found {
                    let is_seen = seen.iter().any(|one| one == path);
                    assert!(is_seen, "{context}: {path} is not among {seen:?}");
                }
                let told = repair(&stage);
                assert!(told.found.is_empty(), "{context}: {told:?}");
                assert_right(&mut stage, &context);
            }
        }
    }
}

fn kept(stage: &Stage) -> Vec<PathBuf> {
    let Ok(kept) = fs::read_dir(stage.path(".understudy/kept")) else {
        return Vec::new();
    };
    let within = |one: fs::DirEntry| fs::read_dir(one.path()).expect("list");
    let files = kept.flat_map(|one| within(one.expect("entry")));
    files.map(|one| one.expect("entry").path()).collect()
}

#[test]
fn what_is_added_to_either_tree_is_kept() {
    for twin in TWINS {
        let mut stage = world(true);
        let added = stage.path(twin).join("files/d/added");
        fs::write(&added, "by somebody").expect("write");
        assert_eq!(verify(&stage), ["d", "d/added"], "in {twin}");
        let told = repair(&stage);
        assert!(told.found.is_empty(), "{told:?}");
        assert!(!added.exists());
        let kept = kept(&stage);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(fs::read(&kept[0]).expect("read"), b"by somebody");
        assert_right(&mut stage, twin);
    }
}

#[test]
fn what_is_in_neither_tree_is_lost_and_told() {
    let stage = world(true);
    for twin in TWINS {
        fs::remove_dir_all(stage.path(twin).join("files/d")).expect("remove");
    }
    let told = repair(&stage);
    let lost = ["d/below/g", "d/below/other", "d/f", "d/name"];
    assert_eq!(told.found, lost, "{told:?}");
    assert_eq!(verify(&stage), lost);
    // The main is asked for the contents, and what else there was is back.
    let wanted = stage.talk(|channel| stage::begin(channel).wanted);
    assert_eq!(wanted.len(), 3, "{wanted:?}");
    let link = fs::read_link(stage.path("live/files/d/link")).expect("link");
    assert_eq!(link, Path::new("elsewhere"));
}
