//! Looking into the past: `ls`, `cat`, `find`, `diff` and `snapshots --changes` against copies of what the source was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::command::tool;
use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage, judge};

/// Names that nobody should meet on a terminal as they are.
const HOSTILE: [&[u8]; 3] = [b"new\nline", b"\x1b[31mred", b"\xff\xfe"];

/// A source with a bit of everything, twice synced; returns a copy of what it was at first.
fn two_snapshots(stage: &Stage) -> std::path::PathBuf {
    let source = &stage.source;
    fs::create_dir_all(source.join("docs/deep")).unwrap();
    fs::write(source.join("docs/a.txt"), "one").unwrap();
    fs::write(source.join("docs/deep/kept"), "kept").unwrap();
    fs::write(source.join("docs/moves"), "only here").unwrap();
    fs::write(source.join("vanishes"), "was here").unwrap();
    symlink("docs/\x1b[32m", source.join("link")).unwrap();
    for name in HOSTILE {
        fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let large = fs::File::create(source.join("large")).unwrap();
    large.write_all_at(&[7; 300_000], 0).unwrap();
    large.write_all_at(&[9; 300_000], 3 << 20).unwrap();
    large.set_len(5 << 20).unwrap();
    stage.sync_and_judge();
    let copy = stage.path().join("copy");
    tool("cp", ["-a".as_ref(), source.as_os_str(), copy.as_os_str()]);

    fs::write(source.join("docs/a.txt"), "two, longer").unwrap();
    fs::remove_file(source.join("vanishes")).unwrap();
    fs::rename(source.join("docs/moves"), source.join("moved")).unwrap();
    fs::rename(source.join("docs/deep"), source.join("deep")).unwrap();
    fs::write(source.join("new"), "new").unwrap();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(source.join("large"), mode).unwrap();
    stage.sync_and_judge();
    copy
}

fn look(stage: &Stage, command: &str) -> Run {
    stage.ask(command).arg(DATASET)
}

/// The bytes of a path that was told as JSON.
fn bytes(told: &Value, key: &str) -> Vec<u8> {
    match told[format!("{key}_bytes")].as_str() {
        None => told[key].as_str().unwrap().as_bytes().to_vec(),
        Some(hex) => hex
            .as_bytes()
            .chunks(2)
            .map(|digits| {
                let digits = std::str::from_utf8(digits).unwrap();
                u8::from_str_radix(digits, 16).unwrap()
            })
            .collect(),
    }
}

/// Writes the content of every file of a snapshot below `target`, by `ls` and `cat` alone.
fn rebuild(stage: &Stage, selection: &[&str], target: &Path) {
    fs::create_dir(target).unwrap();
    let listed = look(stage, "ls").arg("-R").args(selection).data();
    for entry in listed["entries"].as_array().unwrap() {
        let path = bytes(entry, "path");
        let at = target.join(OsStr::from_bytes(&path));
        match entry["kind"].as_str().unwrap() {
            "directory" => fs::create_dir(at).unwrap(),
            "symbolic link" => {
                symlink(OsStr::from_bytes(&bytes(entry, "target")), at).unwrap();
            }
            "file" => {
                let cat = look(stage, "cat").arg(OsStr::from_bytes(&path));
                let output = fs::File::create(at).unwrap();
                let mut child = cat.args(selection).spawn(output.into(), Stdio::inherit());
                assert!(child.wait().unwrap().success());
            }
            other => panic!("{other} in {listed}"),
        }
    }
}

fn shows_nothing_that_steers(text: &str) {
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(steers), "{text:?}");
    assert!(!text.contains('\u{fffd}'), "{text:?}");
}

#[test]
fn what_ls_and_cat_show_of_a_snapshot_is_what_the_source_was() {
    needs!("what_ls_and_cat_show_of_a_snapshot_is_what_the_source_was": "rsync", "cp");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        let copy = two_snapshots(&stage);
        for (selection, original) in [
            (&["--snapshot", "1"][..], &copy),
            (&["--snapshot", "2"], &stage.source),
            (&["--at", "0s"], &stage.source),
            (&[], &stage.source),
        ] {
            let rebuilt = stage.path().join("rebuilt");
            rebuild(&stage, selection, &rebuilt);
            let found = tool(
                "rsync",
                [
                    "-rlcn".as_ref(),
                    "--itemize-changes".as_ref(),
                    "--delete".as_ref(),
                    original.join("").as_os_str(),
                    rebuilt.join("").as_os_str(),
                ],
            );
            assert_eq!(found, "", "{selection:?}");
            fs::remove_dir_all(&rebuilt).unwrap();
        }
        let long = look(&stage, "ls").args(["-l", "--snapshot", "1"]).ok();
        shows_nothing_that_steers(&long.stdout);
        assert_eq!(long.stdout.lines().count(), 4 + HOSTILE.len(), "{long}");
        long.mentions(&[
            "drwx",
            "lrwxrwxrwx",
            "-> docs/\\u{1b}[32m",
            "new\\u{a}line",
            "\\xff",
        ]);
        long.mentions(&["5242880"]);
        let below = look(&stage, "ls").args(["/docs/", "--snapshot", "1"]).ok();
        assert_eq!(below.stdout, "a.txt\ndeep\nmoves\n");
        let one = look(&stage, "ls").args(["docs/a.txt", "-l"]).ok();
        one.mentions(&["-rw", " 11 ", "docs/a.txt"]);
    }
}

#[test]
fn the_snapshot_of_a_time_is_the_newest_that_was_there_then() {
    let stage = Stage::new(Kind::Embedded);
    two_snapshots(&stage);
    let listed = stage.ask("snapshots").data();
    let snapshots = listed["datasets"][0]["snapshots"]
        .as_array()
        .unwrap()
        .clone();
    for snapshot in &snapshots {
        let time = snapshot["time"].as_str().unwrap();
        let expected = snapshots
            .iter()
            .rev()
            .find(|found| found["time"].as_str() <= Some(time));
        let shown = look(&stage, "ls").args(["--at", time]).data();
        assert_eq!(shown["snapshot"]["number"], expected.unwrap()["number"]);
    }
    let early = look(&stage, "ls").args(["--at", "1000 days"]).expect(1);
    early.mentions(&["no snapshot as old as", "understudy snapshots"]);
    look(&stage, "cat")
        .args(["new", "--at", "noon"])
        .expect(2)
        .mentions(&["no point in time"]);
}

#[test]
fn find_tells_which_versions_there_were_and_when_they_went() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        two_snapshots(&stage);
        let found = |pattern: &str| {
            let told = look(&stage, "find").arg(pattern).data();
            let versions = told["versions"].as_array().unwrap().iter();
            let versions = versions.map(|version| {
                let number = |key: &str| version[key]["number"].as_u64();
                let path = version["path"].as_str().unwrap().to_owned();
                let size = version["size"].as_u64().unwrap();
                (path, size, number("first"), number("last"), number("gone"))
            });
            versions.collect::<Vec<_>>()
        };
        let version = |path: &str, size, first, last, gone| {
            (path.to_owned(), size, Some(first), Some(last), gone)
        };
        assert_eq!(
            found("a.txt"),
            [
                version("docs/a.txt", 3, 1, 1, Some(2)),
                version("docs/a.txt", 11, 2, 2, None)
            ]
        );
        assert_eq!(found("/vanishes"), [version("vanishes", 8, 1, 1, Some(2))]);
        assert_eq!(
            found("kept"),
            [
                version("deep/kept", 4, 2, 2, None),
                version("docs/deep/kept", 4, 1, 1, Some(2))
            ]
        );
        assert_eq!(
            found("/docs/deep/"),
            [version("docs/deep/kept", 4, 1, 1, Some(2))]
        );
        assert_eq!(found("nothing"), []);
        let text = look(&stage, "find").arg("*").ok();
        shows_nothing_that_steers(&text.stdout);
        text.mentions(&["until 20", "live", "\\xff\\xfe"]);
        let none = look(&stage, "find").args(["*", "--until", "1 year"]).data();
        assert_eq!(none["versions"].as_array().unwrap().len(), 0);
        let some = look(&stage, "find")
            .args(["/vanishes", "--since", "1h"])
            .data();
        assert_eq!(some["versions"].as_array().unwrap().len(), 1);
        look(&stage, "find")
            .arg("!a")
            .expect(1)
            .mentions(&["pattern"]);
    }
}

/// What changed at which path, with what goes with it.
fn changes(told: &Value) -> BTreeMap<String, String> {
    let differences = told["differences"].as_array().unwrap().iter();
    let differences = differences.map(|difference| {
        let path = difference["path"].as_str().unwrap().to_owned();
        let change = difference["change"].as_str().unwrap();
        let detail = difference["aspect"].as_str();
        let detail = detail.or(difference["from"]["path"].as_str());
        (
            path,
            format!("{change} {}", detail.unwrap_or(""))
                .trim()
                .to_owned(),
        )
    });
    differences.collect()
}

#[test]
fn diff_tells_what_changed_in_either_direction() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        two_snapshots(&stage);
        let expected = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs
                .iter()
                .map(|&(path, what)| (path.to_owned(), what.to_owned()));
            pairs.collect()
        };
        let forwards = look(&stage, "diff").arg("1").data();
        assert_eq!(
            changes(&forwards),
            expected(&[
                (".", "changed attributes"),
                ("deep", "moved docs/deep"),
                ("docs", "changed attributes"),
                ("docs/a.txt", "changed content"),
                ("large", "changed attributes"),
                ("moved", "moved docs/moves"),
                ("new", "added"),
                ("vanishes", "removed"),
            ])
        );
        assert_eq!(forwards["totals"]["added"]["entries"], 1);
        assert_eq!(forwards["totals"]["added"]["bytes"], 3);
        assert_eq!(forwards["totals"]["changed"]["bytes"], 11);
        let backwards = look(&stage, "diff").args(["live", "1"]).data();
        assert_eq!(
            changes(&backwards),
            expected(&[
                (".", "changed attributes"),
                ("docs", "changed attributes"),
                ("docs/a.txt", "changed content"),
                ("docs/deep", "moved deep"),
                ("docs/moves", "moved moved"),
                ("large", "changed attributes"),
                ("new", "removed"),
                ("vanishes", "added"),
            ])
        );
        let text = look(&stage, "diff").args(["1", "2"]).ok();
        text.mentions(&[
            "docs/deep -> deep",
            "3 B -> 11 B",
            "1 added (3 B)",
            "2 moved",
        ]);
        let same = look(&stage, "diff").args(["2", "live"]).ok();
        same.mentions(&["nothing differs"]);

        let listed = stage.ask("snapshots").arg("--changes").data();
        let told = &listed["datasets"][0]["snapshots"];
        assert_eq!(told[1]["changes"], forwards["totals"]);
        assert_eq!(told[0]["changes"]["added"]["entries"], told[0]["entries"]);
        let text = stage.ask("snapshots").arg("--changes").ok();
        text.mentions(&["CHANGES", "1 removed (8 B)"]);
    }
}

#[test]
fn damage_is_never_written_in_silence() {
    needs!("damage_is_never_written_in_silence": "rsync", "cp");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        two_snapshots(&stage);
        let flip = |path: &str| {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(stage.live().join(path))
                .unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 1).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 1).unwrap();
        };
        flip("docs/a.txt");
        flip("large");
        let small = look(&stage, "cat").arg("docs/a.txt").expect(1);
        assert_eq!(small.stdout, "");
        small.mentions(&["understudy verify"]);
        let large = look(&stage, "cat").arg("large").expect(1);
        large.mentions(&["understudy verify"]);
        // What was before is whole.
        let before = look(&stage, "cat")
            .args(["docs/a.txt", "--snapshot", "1"])
            .ok();
        assert_eq!(before.stdout, "one");
    }
}

#[test]
fn what_is_not_there_is_told_in_plain_words() {
    let stage = Stage::new(Kind::Embedded);
    two_snapshots(&stage);
    for (command, arguments, words) in [
        ("ls", &["nowhere"][..], "has no `nowhere`"),
        ("ls", &["--snapshot", "9"], "no snapshot 9"),
        ("cat", &["docs"], "is a directory"),
        ("cat", &["link"], "is a symbolic link"),
        ("cat", &["vanishes"], "has no `vanishes`"),
        ("diff", &["9"], "no snapshot 9"),
    ] {
        look(&stage, command)
            .args(arguments)
            .expect(1)
            .mentions(&[words]);
    }
    for (command, arguments) in [
        ("ls", &["../x"][..]),
        ("cat", &["a//b"]),
        ("cat", &["new", "--json"]),
        ("diff", &["first"]),
        ("ls", &["--snapshot", "1", "--at", "1h"]),
    ] {
        look(&stage, command).args(arguments).expect(2);
    }
    stage
        .ask("ls")
        .arg("absent")
        .expect(1)
        .mentions(&["no dataset `absent`"]);
    // Also for programs.
    let told = look(&stage, "ls")
        .args(["nowhere", "--json"])
        .expect(1)
        .json();
    assert_eq!(told["ok"], false, "{told}");
    judge::same(&stage.source, &stage.live());
}
