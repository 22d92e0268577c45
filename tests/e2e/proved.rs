//! A restore on a host with a main's key gets what the main has signed, or nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::support::{Kind, Run, Stage};

/// Keys as they stand in their files: 52 letters and digits.
const KEY: &str = "aebagbafaydqqcikbmga2dqpcaireeyuculbogazdinryhi6d4qa";
const OTHER: &str = "eaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqa";

/// Gives the state directory a main's key.
fn give_key(state: &Path, key: &str) {
    let directory = state.join("identity");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .unwrap();
    let path = directory.join("key");
    fs::remove_file(&path).ok();
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    writeln!(file, "{key}").unwrap();
}

fn signing() -> Stage {
    let stage = Stage::new(Kind::Embedded);
    give_key(&stage.state, KEY);
    fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    stage
}

fn restore(stage: &Stage, target: &str) -> Run {
    let target = stage.path().join(target);
    stage.restore(&target).arg("--state").arg(&stage.state)
}

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn what_was_signed_is_proved_and_what_was_set_back_is_refused() {
    let stage = signing();
    let data = restore(&stage, "first").data();
    assert_eq!(data["proved"]["is_proved"], true, "{data}");
    assert_eq!(data["proved"]["is_newest"], true, "{data}");
    copy(&stage.store, &stage.path().join("before"));
    fs::write(stage.source.join("file"), "two").unwrap();
    stage.sync().ok();
    // The spare comes back from a backup of its own.
    fs::remove_dir_all(&stage.store).unwrap();
    fs::rename(stage.path().join("before"), &stage.store).unwrap();
    let refused = restore(&stage, "second").outcome();
    assert_eq!(refused.code, Some(9), "{refused:?}");
    assert!(
        refused.stderr.contains("acknowledged snapshot 2"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("--snapshot 1"), "{refused:?}");
    assert!(!stage.path().join("second").exists());
    // Asked for by its number it is what was sent.
    restore(&stage, "second").args(["--snapshot", "1"]).ok();
    // The next cycle mends it.
    stage.sync().ok();
    let data = restore(&stage, "third").data();
    assert_eq!(data["proved"]["is_newest"], true, "{data}");
    assert_eq!(fs::read(stage.path().join("third/file")).unwrap(), b"two");
    // A dataset that is not shown at all.
    fs::remove_dir_all(stage.dataset()).unwrap();
    let all = stage
        .ask("restore")
        .arg("--all")
        .arg(stage.path().join("all"));
    let hidden = all.arg("--state").arg(&stage.state).outcome();
    assert_eq!(hidden.code, Some(9), "{hidden:?}");
    assert!(hidden.stderr.contains("does not show"), "{hidden:?}");
}

#[test]
fn a_machine_with_the_key_alone_proves_everything_but_that_it_is_the_newest() {
    let mut stage = signing();
    stage.state = stage.path().join("another state");
    give_key(&stage.state, KEY);
    let data = restore(&stage, "target").data();
    assert_eq!(data["proved"]["is_newest"], "unknown", "{data}");
    let outcome = restore(&stage, "again").outcome();
    assert!(
        outcome.stdout.contains("whether that was the last"),
        "{outcome:?}"
    );
}

#[test]
fn what_another_key_has_signed_needs_a_word_for_it() {
    let stage = signing();
    let public = restore(&stage, "first").data()["proved"]["key"].clone();
    let public = public.as_str().unwrap();
    give_key(&stage.state, OTHER);
    let refused = restore(&stage, "second").outcome();
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(
        refused.stderr.contains(&format!("--trust-key {public}")),
        "{refused:?}"
    );
    let trusted = restore(&stage, "second").args(["--trust-key", public]);
    assert_eq!(trusted.data()["proved"]["key"], public);
    let insisted = restore(&stage, "third").arg("--unverified").outcome();
    assert_eq!(insisted.code, Some(0), "{insisted:?}");
    assert!(insisted.said().contains("NOT PROVED"), "{insisted:?}");
}

#[test]
fn what_was_made_before_there_was_a_key_is_refused_unless_somebody_insists() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    // Without a key nobody asks.
    assert!(restore(&stage, "first").data()["proved"].is_null());
    give_key(&stage.state, KEY);
    let refused = restore(&stage, "second").outcome();
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(refused.stderr.contains("not signed"), "{refused:?}");
    restore(&stage, "second").arg("--unverified").ok();
    // The next cycle signs it.
    stage.sync().ok();
    assert_eq!(restore(&stage, "third").data()["proved"]["is_proved"], true);
}

#[test]
fn a_new_machine_restores_with_what_was_on_paper() {
    let stage = Stage::new(Kind::Tcp);
    fs::write(stage.source.join("file"), "one").unwrap();
    stage.sync().ok();
    let export = Run::new(["pair", "--export-recovery", "--state"]).arg(&stage.state);
    let kit = export.outcome();
    assert_eq!(kit.code, Some(0), "{kit:?}");
    let (kit, paper) = (kit.stdout, stage.path().join("paper"));

    let import = |from: &Path, state: &str| {
        let run = Run::new(["pair", "--import-recovery"]).arg(from);
        run.arg("--state").arg(stage.path().join(state))
    };
    // A slip of the pen is found in its line.
    let secret = kit
        .lines()
        .position(|line| line.starts_with("secret-1"))
        .unwrap();
    let mut lines: Vec<String> = kit.lines().map(ToOwned::to_owned).collect();
    let other = if lines[secret].contains("7") {
        ("7", "2")
    } else {
        (": a", ": b")
    };
    lines[secret] = if lines[secret].contains(other.0) {
        lines[secret].replacen(other.0, other.1, 1)
    } else {
        lines[secret].replacen(": ", ": b", 1)
    };
    fs::write(&paper, lines.join("\n")).unwrap();
    let refused = import(&paper, "new").outcome();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains(&format!("line {}", secret + 1)),
        "{refused:?}"
    );
    assert!(!stage.path().join("new").exists());

    fs::write(&paper, &kit).unwrap();
    import(&paper, "new").ok();
    let typed = import(Path::new("-"), "typed").given(kit.as_bytes());
    assert_eq!(typed.code, Some(0), "{typed:?}");
    for state in ["new", "typed"] {
        let target = stage.path().join(format!("{state} target"));
        let run = Run::new(["restore", "site"])
            .arg(&target)
            .arg("--spare")
            .arg(stage.spare());
        let data = run.arg("--state").arg(stage.path().join(state)).data();
        assert_eq!(data["proved"]["is_newest"], "unknown", "{data}");
        assert_eq!(fs::read(target.join("file")).unwrap(), b"one");
    }

    // A host that is a main already stays the one that it is.
    give_key(&stage.path().join("other"), OTHER);
    let refused = import(&paper, "other").outcome();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("another key"), "{refused:?}");
}
