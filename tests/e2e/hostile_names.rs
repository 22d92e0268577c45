//! Names of files that would steer a terminal, forge lines of a log or hide what they are: nothing that is printed, logged or told
//! to people's programs has such a character, on either side.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;

use understudy_protocol::is_harmful;

use crate::support::stage::DATASET;
use crate::support::{Daemon, Kind, Outcome, Run, Stage};

/// Escape sequences, ends of lines, other directions, what cannot be seen, the C1 controls, and what is no UTF-8.
const NAMES: [&[u8]; 7] = [
    b"esc\x1b[2J\x1b]0;title\x07",
    b"line\nERROR forged: yes",
    b"return\rback\x08\x7f",
    "bidi\u{202e}gnp.exe\u{2066}".as_bytes(),
    "unseen\u{200b}\u{feff}\u{2060}".as_bytes(),
    "c1\u{9b}31m\u{85}".as_bytes(),
    b"bytes\xff\xfe\xc3(",
];

fn assert_harmless(what: &str, text: &str) {
    let found = text.chars().find(|&c| is_harmful(c) && c != '\n');
    assert_eq!(found, None, "{what}: {text:?}");
    for line in text.lines() {
        assert!(!line.starts_with("ERROR forged"), "{what}: {text:?}");
    }
    // What is no UTF-8 was replaced when it was read.
    assert!(!text.contains('\u{fffd}'), "{what}: {text:?}");
}

fn harmless(what: &str, run: Run) -> Outcome {
    let outcome = run.arg("-vv").outcome();
    assert_harmless(what, &outcome.stdout);
    assert_harmless(what, &outcome.stderr);
    outcome
}

/// A stage whose receiver logs all that it can, with a command that keeps what it is told.
fn stage() -> Stage {
    let mut stage = Stage::new(Kind::Embedded);
    let (told, page) = (stage.path().join("told"), stage.path().join("page"));
    std::fs::create_dir(&told).unwrap();
    let script = format!(
        "#!/bin/sh\nf={}/$(date +%s%N)-$$\nenv > $f.env; cat > $f.json\n",
        told.display()
    );
    std::fs::write(&page, script).unwrap();
    let config = stage.path().join("receiver.toml");
    let text = format!("[alerts]\ncommand = [\"/bin/sh\", {page:?}]\n");
    std::fs::write(&config, text).unwrap();
    stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
        run.arg("-vv").arg("--config").arg(&config)
    }));
    for (number, name) in NAMES.iter().enumerate() {
        let name = OsStr::from_bytes(name);
        std::fs::write(stage.source.join(name), format!("content {number}")).unwrap();
        let directory = stage.source.join(format!("d{number}"));
        std::fs::create_dir(&directory).unwrap();
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("file"), "content").unwrap();
    }
    // Of a kind that is not kept, which is told by name.
    UnixListener::bind(stage.source.join("socket\x1b[2J")).unwrap();
    stage
}

#[test]
fn names_of_files_steer_no_terminal_and_forge_no_line() {
    let stage = stage();
    assert_eq!(harmless("sync", stage.sync()).code, Some(0));
    std::fs::write(stage.source.join(OsStr::from_bytes(NAMES[1])), "changed").unwrap();
    harmless("second sync", stage.sync());
    for command in ["status", "snapshots", "ls", "find", "diff"] {
        for format in [None, Some("--json")] {
            let run = stage.ask(command).args(format);
            let run = match command {
                "status" => run,
                "find" => run.args([DATASET, "*"]),
                "diff" => run.args([DATASET, "1", "2"]),
                "ls" => run.args([DATASET, "--recursive"]),
                _ => run.arg(DATASET),
            };
            let outcome = harmless(command, run);
            assert_eq!(outcome.code, Some(0), "{command}: {}", outcome.said());
        }
    }
    damage_and_restore(&stage);
    let target = stage.path().join(OsStr::from_bytes(NAMES[0]));
    for _ in 0..2 {
        // The second time something is there.
        harmless("restore", stage.restore(&target));
    }
    let all_gone = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    };
    std::fs::read_dir(&stage.source)
        .unwrap()
        .skip(1)
        .for_each(all_gone);
    harmless("sync of a loss", stage.sync());
    for format in [None, Some("--json")] {
        let held = Run::new(["held"]).arg("--store").arg(&stage.store);
        harmless("held", held.args(format));
        harmless("status", stage.ask("status").args(format));
    }
    told_and_logged(&stage);
}

/// Damages files on the spare: a verification names them, and so does a restore.
fn damage_and_restore(stage: &Stage) {
    for name in NAMES {
        let path = stage.live().join(OsStr::from_bytes(name));
        let content = std::fs::read(&path).unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"X", content.len() as u64 - 1).unwrap();
        file.set_modified(modified).unwrap();
    }
    for format in [None, Some("--json")] {
        let outcome = harmless("verify", stage.ask("verify").args(format));
        assert_ne!(outcome.code, Some(0), "{}", outcome.said());
        harmless("status", stage.ask("status").args(format));
    }
    harmless(
        "restore of damage",
        stage.restore(&stage.path().join("damaged")),
    );
}

/// What the receiver logged, and what the command was told.
fn told_and_logged(stage: &Stage) {
    let told = stage.path().join("told");
    let begun = std::time::Instant::now();
    loop {
        let mut names: Vec<_> = std::fs::read_dir(&told)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
        if !names.is_empty() || begun.elapsed() > std::time::Duration::from_secs(60) {
            break;
        }
        std::thread::yield_now();
    }
    let mut alerts = 0;
    for entry in std::fs::read_dir(&told).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        assert_harmless("alert", &String::from_utf8_lossy(&text));
        alerts += 1;
    }
    assert!(alerts > 0, "nobody was told");
    assert_harmless(
        "the receiver's log",
        &stage.daemon.as_ref().unwrap().reported(),
    );
}
