//! Renames that get in each other's way: swaps, chains, cycles, and names that change what
//! they are. Interrupted at every step and repeated, they end in the same tree.

use std::path::Path;

use crate::support::needs::needs;
use crate::support::{Kind, Stage, judge};

/// What an edit is, and how it is made.
type Edit = (&'static str, fn(&Path));

/// Edits of the tree that `prepare` makes, in the order in which they are made.
const EDITS: [Edit; 14] = [
    ("two files swap names", |root| {
        swap(root, "files/1", "files/2");
    }),
    ("two directories swap names", |root| {
        swap(root, "one", "two");
    }),
    ("a file and a directory swap names", |root| {
        swap(root, "files/3", "three");
    }),
    ("files move up a chain", |root| {
        rename(root, "files/4", "files/9");
        rename(root, "files/5", "files/4");
        rename(root, "files/6", "files/5");
    }),
    ("directories move up a chain", |root| {
        rename(root, "one", "zero");
        rename(root, "two", "one");
        rename(root, "four", "two");
    }),
    ("four files go round", |root| {
        cycle(root, &["files/1", "files/2", "files/4", "files/5"]);
    }),
    ("three directories go round", |root| {
        cycle(root, &["zero", "one", "two"]);
    }),
    ("a directory becomes a file", |root| {
        std::fs::remove_dir_all(root.join("zero")).unwrap();
        write(root, "zero", "a file now");
    }),
    ("and a directory again", |root| {
        std::fs::remove_file(root.join("zero")).unwrap();
        write(root, "zero/inner", "a directory again");
    }),
    ("a file is renamed and another takes its name", |root| {
        rename(root, "files/1", "files/moved");
        write(root, "files/1", "new under the old name");
    }),
    (
        "a directory is renamed and another takes its name",
        |root| {
            rename(root, "one", "files/one moved");
            write(root, "one/only", "new under the old name");
        },
    ),
    ("parent and child swap places", |root| {
        rename(root, "outer/inner", "aside");
        rename(root, "outer", "aside/outer");
        rename(root, "aside", "inner");
    }),
    (
        "a deep directory moves, with one inside it moved out",
        |root| {
            rename(root, "deep/a/b/c/d", "d");
            rename(root, "deep/a", "inner/a");
            write(root, "deep/a/b", "a file where a directory was");
        },
    ),
    (
        "everything goes below a directory that takes a file's name",
        |root| {
            std::fs::remove_file(root.join("files/2")).unwrap();
            std::fs::create_dir(root.join("files/2")).unwrap();
            for name in ["zero", "one", "two", "d", "deep", "inner"] {
                rename(root, name, &format!("files/2/{name}"));
            }
        },
    ),
];

fn prepare(root: &Path) {
    for number in 1..=6 {
        write(root, &format!("files/{number}"), &format!("file {number}"));
    }
    for name in [
        "one",
        "two",
        "three",
        "four",
        "outer",
        "outer/inner",
        "deep/a/b/c/d",
    ] {
        write(root, &format!("{name}/file"), &format!("in {name}"));
        write(root, &format!("{name}/same"), "the same everywhere");
    }
    std::fs::hard_link(root.join("one/file"), root.join("two/linked")).unwrap();
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn rename(root: &Path, from: &str, to: &str) {
    std::fs::rename(root.join(from), root.join(to)).unwrap();
}

fn swap(root: &Path, left: &str, right: &str) {
    cycle(root, &[left, right]);
}

/// Each takes the place of the next, the last that of the first.
fn cycle(root: &Path, names: &[&str]) {
    rename(root, names[names.len() - 1], "aside during a cycle");
    for index in (1..names.len()).rev() {
        rename(root, names[index - 1], names[index]);
    }
    rename(root, "aside during a cycle", names[0]);
}

#[test]
fn entangled_renames_arrive() {
    needs!("entangled_renames_arrive": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        prepare(&stage.source);
        stage.sync_and_judge();
        for (name, edit) in EDITS {
            eprintln!("{kind:?}: {name}");
            edit(&stage.source);
            let data = stage.sync_and_judge();
            assert_eq!(data["committed"], true, "{name}: {data}");
        }
    }
}

#[test]
fn all_entangled_renames_at_once_arrive() {
    needs!("all_entangled_renames_at_once_arrive": "rsync");
    let stage = Stage::new(Kind::Embedded);
    prepare(&stage.source);
    stage.sync_and_judge();
    for (_, edit) in EDITS {
        edit(&stage.source);
    }
    stage.sync_and_judge();
}

#[test]
fn a_renamed_directory_sends_no_content() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        for number in 0..20_u8 {
            let content = vec![number; 100_000];
            write(&stage.source, &format!("before/{number}"), "");
            std::fs::write(stage.source.join(format!("before/{number}")), content).unwrap();
        }
        stage.sync().ok();
        rename(&stage.source, "before", "after");
        let data = stage.sync_and_judge();
        assert!(data["moved"].as_u64() > Some(0), "{data}");
        assert!(data["bytes_sent"].as_u64() < Some(10_000), "{data}");
    }
}

/// Each edit is killed at its first step, synced; then undone, redone and killed at its
/// second step, and so on until it has no such step any more.
#[test]
fn entangled_renames_interrupted_at_every_step_end_in_the_same_tree() {
    needs!("entangled_renames_interrupted_at_every_step_end_in_the_same_tree": "rsync");
    let together: [&[usize]; 6] = [
        &[0, 1, 2],
        &[3, 4],
        &[5, 6],
        &[7],
        &[8, 9, 10],
        &[11, 12, 13],
    ];
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for edits in together.iter().skip(half).step_by(2) {
                    interrupt_at_every_step(edits);
                }
            });
        }
    });
}

fn interrupt_at_every_step(edits: &[usize]) {
    let mut kills = 0;
    loop {
        let stage = Stage::new(Kind::Embedded);
        prepare(&stage.source);
        for (_, edit) in &EDITS[..edits[0]] {
            edit(&stage.source);
        }
        stage.sync().ok();
        // A second snapshot, so that the next cycle has something to catch up.
        write(&stage.source, "files/6", "changed");
        stage.sync().ok();
        for edit in edits {
            EDITS[*edit].1(&stage.source);
        }
        let interrupted = stage
            .sync()
            .failing(&format!("apply.step={kills}*off->return"))
            .outcome();
        if !interrupted.was_killed() {
            assert_eq!(interrupted.code, Some(0), "{interrupted}");
            assert!(
                kills > 3,
                "edits {edits:?} have {kills} steps only: is the kill point there?"
            );
            return;
        }
        kills += 1;
        let again = stage.sync().outcome();
        assert_eq!(
            again.code,
            Some(0),
            "edits {edits:?} killed at step {kills}:\n{again}"
        );
        eprintln!("edits {edits:?} killed at step {kills}");
        judge::same(&stage.source, &stage.live());
    }
}
