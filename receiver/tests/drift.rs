//! What somebody writes into the live tree: found, kept as a snapshot of its own, and no reason to lose anything of another one.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![allow(
    clippy::disallowed_methods,
    reason = "plays somebody who writes where nobody should"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use stage::{Stage, dataset, directory, file, hear, place, send};
use understudy_protocol::message::{Change, ReadManifest, Want};
use understudy_protocol::{
    ContentHash, DirectoryId, Entry, FailureCode, Message, Place, ProtocolError,
};
use understudy_receiver::Drift;
use understudy_receiver::drift::{self, Point};

fn live(stage: &Stage, path: &str) -> PathBuf {
    stage.path("live/files").join(path)
}

fn seek(stage: &Stage) -> Option<Point> {
    drift::seek(&stage.store, &dataset()).expect("look")
}

fn files() -> Vec<Change> {
    vec![
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        directory(place(1, "e"), 3),
        file(place(1, "a"), "first"),
        file(place(1, "b"), "second"),
        file(place(2, "c"), "third"),
        file(place(2, "f"), "fourth"),
        file(place(3, "g"), "fifth"),
        file(place(3, "h"), "sixth"),
    ]
}

/// What stands below a directory: kind, mode, time, content or target, and a number that names of one file share.
fn found(root: &Path) -> BTreeMap<String, (char, u32, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(items) = fs::read_dir(&path) else {
            // Somebody removed all of it.
            return all;
        };
        for item in items {
            let path = item.expect("item").path();
            let stat = path.symlink_metadata().expect("stat");
            let (kind, content) = if stat.is_dir() {
                pending.push(path.clone());
                ('d', Vec::new())
            } else if stat.is_symlink() {
                let target = fs::read_link(&path).expect("target");
                ('l', target.to_string_lossy().into_owned().into_bytes())
            } else {
                (
                    'f',
                    ContentHash::of(&fs::read(&path).expect("read")).0.to_vec(),
                )
            };
            let below = path.strip_prefix(root).expect("below");
            let mode = stat.mode() & 0o7777;
            all.insert(
                below.display().to_string(),
                (kind, mode, stat.mtime(), content),
            );
        }
    }
    all
}

/// The entries of a snapshot.
fn entries(stage: &Stage, number: u64) -> BTreeMap<Place, Entry> {
    stage.talk(|channel| {
        let request = ReadManifest {
            dataset: dataset(),
            number: Some(number),
        };
        send(channel, &Message::ReadManifest(request));
        let mut entries = BTreeMap::new();
        loop {
            match hear(channel).expect("manifest") {
                Message::Manifest(part) => entries.extend(part.entries),
                Message::ManifestEnd(_) => return entries,
                Message::Stated(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

/// The same as [`found`], as a snapshot has it.
fn told(stage: &Stage, number: u64) -> BTreeMap<String, (char, u32, i64, Vec<u8>)> {
    use understudy_protocol::Node;
    let entries = entries(stage, number);
    let mut paths = BTreeMap::from([(DirectoryId::FILES, String::new())]);
    let mut all = BTreeMap::new();
    let mut left: Vec<_> = entries
        .iter()
        .filter(|(place, _)| place.parent.0 > 0)
        .collect();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|(place, entry)| {
            let Some(above) = paths.get(&place.parent) else {
                return true;
            };
            let path = format!("{above}{}", place.name);
            let (kind, content) = match &entry.node {
                Node::Directory { id } => {
                    paths.insert(*id, format!("{path}/"));
                    ('d', Vec::new())
                }
                Node::Symlink { target } => ('l', target.0.clone()),
                Node::File { hash, .. } => ('f', hash.0.to_vec()),
                other => panic!("{other:?}"),
            };
            let attributes = &entry.attributes;
            let mode = u32::from(attributes.mode);
            all.insert(path, (kind, mode, attributes.modified.seconds, content));
            false
        });
        assert!(left.len() < before, "{left:?}");
    }
    all
}

/// Whether the content of every file of a snapshot comes back.
fn is_whole(stage: &Stage, number: u64) -> bool {
    let entries = entries(stage, number);
    let places = entries.into_iter().filter_map(|(place, entry)| {
        let (_, hash) = entry.content()?;
        Some((place, hash))
    });
    places.collect::<Vec<_>>().into_iter().all(|(place, hash)| {
        stage.talk(|channel| {
            let request = ReadManifest {
                dataset: dataset(),
                number: Some(number),
            };
            send(channel, &Message::ReadManifest(request));
            while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
            let places = vec![place];
            send(channel, &Message::Want(Want { places }));
            match hear(channel) {
                Ok(Message::Given(given)) => ContentHash::of(&given.contents[0].1.0) == hash,
                _ => false,
            }
        })
    })
}

/// Writes anew what stands at a path, in the same file.
fn overwrite(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).truncate(true).open(path).expect("open");
    file.write_all(text.as_bytes()).expect("write");
}

/// Puts another file in the place of what stands at a path.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("write");
    fs::rename(&beside, path).expect("rename");
}

fn changed() -> Stage {
    let mut stage = Stage::new();
    stage.upload(&files(), &[]);
    stage.upload(&[file(place(1, "a"), "first, again")], &[]);
    stage
}

/// What somebody does, and how. What that leaves must be in the snapshot, whichever it is.
type Writer = (&'static str, fn(&Stage));

fn writers() -> Vec<Writer> {
    vec![
        ("in place", |stage| overwrite(&live(stage, "b"), "another")),
        ("in place, newest", |stage| {
            overwrite(&live(stage, "a"), "another");
        }),
        ("replaced", |stage| replace(&live(stage, "b"), "anothe")),
        ("replaced with the same times", |stage| {
            let path = live(stage, "d/c");
            let beside = live(stage, "d/x");
            fs::write(&beside, "thirt").expect("write");
            let file = fs::File::open(&beside).expect("open");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1))
                .expect("time");
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("mode");
            fs::rename(&beside, path).expect("rename");
            let above = fs::File::open(live(stage, "d")).expect("open");
            above
                .set_modified(UNIX_EPOCH + Duration::from_secs(1))
                .expect("time");
        }),
        ("added", |stage| {
            fs::write(live(stage, "new"), "new").expect("write");
        }),
        ("added below", |stage| {
            fs::create_dir_all(live(stage, "x/y")).expect("mkdir");
            fs::write(live(stage, "x/y/z"), "new").expect("write");
        }),
        ("removed", |stage| {
            fs::remove_file(live(stage, "d/c")).expect("remove");
        }),
        ("removed with all", |stage| {
            fs::remove_dir_all(live(stage, "d")).expect("remove");
        }),
        ("mode", |stage| {
            fs::set_permissions(live(stage, "b"), fs::Permissions::from_mode(0o600)).expect("mode");
        }),
        ("mode of a directory", |stage| {
            fs::set_permissions(live(stage, "d"), fs::Permissions::from_mode(0o700)).expect("mode");
        }),
        ("time", |stage| {
            let file = fs::File::open(live(stage, "b")).expect("open");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(7))
                .expect("time");
        }),
        ("moved", |stage| {
            fs::rename(live(stage, "d"), live(stage, "e/d")).expect("rename");
        }),
        ("another kind", |stage| {
            fs::remove_file(live(stage, "b")).expect("remove");
            symlink("a", live(stage, "b")).expect("link");
            fs::remove_file(live(stage, "a")).expect("remove");
            fs::create_dir(live(stage, "a")).expect("mkdir");
            fs::remove_dir_all(live(stage, "d")).expect("remove");
            fs::write(live(stage, "d"), "a file").expect("write");
        }),
        ("linked", |stage| {
            fs::hard_link(live(stage, "b"), live(stage, "also-b")).expect("link");
        }),
        ("everything removed", |stage| {
            fs::remove_dir_all(live(stage, "")).expect("remove");
        }),
    ]
}

#[test]
fn whatever_somebody_does_to_the_live_tree_becomes_a_snapshot() {
    for (what, write) in writers() {
        let stage = changed();
        assert_eq!(seek(&stage), None, "{what}");
        let epoch = entries(&stage, 2);
        write(&stage);
        let wanted = found(&live(&stage, ""));
        let point = seek(&stage).unwrap_or_else(|| panic!("{what} is not found"));
        assert_eq!(point.snapshot.position.number, 3, "{what}");
        assert_eq!(told(&stage, 3), wanted, "{what}");
        assert_eq!(
            found(&live(&stage, "")),
            wanted,
            "{what}: it is not touched"
        );
        assert_eq!(
            entries(&stage, 2),
            epoch,
            "{what}: the snapshot before is the same"
        );
        assert!(is_whole(&stage, 3), "{what}");
        assert_eq!(seek(&stage), None, "{what}: it is found once");
        let marker = fs::read_to_string(stage.path("live/SNAPSHOT")).expect("marker");
        assert!(marker.contains("number: 3\n"), "{what}: {marker}");
        let marker = fs::read_to_string(stage.path(".understudy/shadow/SNAPSHOT")).expect("marker");
        assert!(marker.contains("number: 3\n"), "{what}: {marker}");
    }
}

/// What the cycle below changes.
fn another_cycle() -> Vec<Change> {
    vec![
        file(place(1, "a"), "first, once more"),
        Change::Remove {
            place: place(3, "g"),
        },
    ]
}

fn keeping_drift(mut stage: Stage) -> Stage {
    stage.options.drift = Drift::Keep;
    stage
}

#[test]
fn what_somebody_does_while_an_upload_runs_is_kept_before_anything_takes_its_place() {
    for (what, write) in writers() {
        let mut stage = keeping_drift(changed());
        // A file that the cycle does not replace is the same one in both twins.
        if ["in place", "time", "mode"].contains(&what) {
            stage
                .try_upload_while(&another_cycle(), &[], || write(&stage))
                .expect("commit");
            assert!(seek(&stage).is_some(), "{what}: it is met by the next look");
            continue;
        }
        let mut wanted = None;
        let refused = stage.try_upload_while(&another_cycle(), &[], || {
            write(&stage);
            wanted = Some(found(&live(&stage, "")));
        });
        match refused {
            Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::OutOfStep => {}
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(Some(&told(&stage, 3)), wanted.as_ref(), "{what}");
        assert_eq!(Some(found(&live(&stage, ""))), wanted, "{what}");
        assert!(is_whole(&stage, 3), "{what}");
        // The main compares, and sends what leads from there to what it has.
        stage.entries = entries(&stage, 3);
        let points = drift::points(&stage.store, &dataset()).expect("points");
        stage.position = Some(points[0].snapshot.position);
        // Whoever never stops does not keep the spare from following.
        let goes_on = stage.try_upload_while(&[file(place(1, "z"), "next")], &[], || {
            fs::write(live(&stage, "again"), "again").expect("write");
        });
        assert_eq!(goes_on.expect("commit").number, 4, "{what}");
        assert!(live(&stage, "z").exists(), "{what}");
    }
}

/// What lies about and is taken away again is no reason to send anything twice.
#[test]
fn a_directory_that_was_touched_and_is_as_it_was_is_no_drift() {
    let mut stage = keeping_drift(changed());
    let position = stage.try_upload_while(&another_cycle(), &[], || {
        fs::write(live(&stage, "d/lock"), "held").expect("write");
        fs::remove_file(live(&stage, "d/lock")).expect("remove");
        let above = fs::File::open(live(&stage, "d")).expect("open");
        above
            .set_modified(UNIX_EPOCH + Duration::from_secs(1))
            .expect("time");
    });
    stage.entries = stage.after(&another_cycle());
    stage.position = Some(position.expect("commit"));
    assert!(!live(&stage, "e/g").exists());
}

#[test]
fn what_the_other_twin_still_has_goes_into_history_and_the_rest_is_asked_for() {
    for (what, write) in writers() {
        let stage = changed();
        write(&stage);
        seek(&stage).expect("found");
        let in_place = what.starts_with("in place");
        // What was new in the newest snapshot is in no other file yet.
        let is_newest =
            what == "another kind" || what == "everything removed" || what == "in place, newest";
        let asked = stage.talk(|channel| stage::begin(channel).wanted);
        let missing = asked.len();
        assert_eq!(
            missing,
            usize::from(in_place || is_newest),
            "{what}: {asked:?}"
        );
        assert_eq!(is_whole(&stage, 1), what != "in place", "{what}");
        assert_eq!(is_whole(&stage, 2), missing == 0, "{what}");
    }
}

/// A directory with this many files, `old0`, `old1` and so on.
fn with_files(count: u32) -> Stage {
    let mut stage = Stage::new();
    let mut changes = vec![directory(place(0, "files"), 1), directory(place(1, "d"), 2)];
    changes.extend((0..count).map(|number| file(place(2, &format!("old{number}")), &text(number))));
    stage.upload(&changes, &[]);
    stage
}

fn text(number: u32) -> String {
    format!("text {number} ").repeat(20)
}

/// The next upload starts from what somebody has written: nothing but these names differs from what the stage knows.
fn adopt(stage: &mut Stage, point: &Point) {
    stage.entries = entries(stage, point.snapshot.position.number);
    stage.position = Some(point.snapshot.position);
}

fn removals(stage: &Stage, prefix: &str) -> Vec<Change> {
    let all = stage
        .entries
        .keys()
        .filter(|place| place.name.as_bytes().starts_with(prefix.as_bytes()));
    all.map(|place| Change::Remove {
        place: place.clone(),
    })
    .collect()
}

fn is_held(stage: &Stage, changes: &[Change]) -> bool {
    match stage.try_upload(changes, &[]) {
        Ok(_) => false,
        Err(ProtocolError::Failed(failure)) if failure.code == FailureCode::Refused => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn drift_that_goes_is_no_harm_and_what_goes_with_it_is_no_less_of_one() {
    // More than there was, so that everything that was is little of all.
    let add = |stage: &Stage| {
        for number in 0..200 {
            fs::write(live(stage, &format!("d/new{number}")), text(1000 + number)).expect("write");
        }
    };
    let mut stage = with_files(20);
    add(&stage);
    let point = seek(&stage).expect("found");
    adopt(&mut stage, &point);
    assert!(
        !is_held(&stage, &removals(&stage, "new")),
        "only drift goes"
    );

    let mut stage = with_files(20);
    add(&stage);
    let point = seek(&stage).expect("found");
    adopt(&mut stage, &point);
    assert!(is_held(&stage, &removals(&stage, "old")), "the rest goes");

    // Each file is changed before it goes.
    let mut stage = with_files(20);
    for number in 0..20 {
        let path = live(&stage, &format!("d/old{number}"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
    }
    let point = seek(&stage).expect("found");
    adopt(&mut stage, &point);
    assert!(
        is_held(&stage, &removals(&stage, "old")),
        "what was touched goes"
    );
}
