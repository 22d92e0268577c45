//! What nobody should do, and what happens all the same: a clear message that says what to
//! do, the right exit code, and nothing lost.

use std::path::{Path, PathBuf};

use crate::support::facts::{Facts, facts};
use crate::support::trees::set_generation;
use crate::support::{Daemon, Kind, Outcome, Run, Stage, judge};

mod damage;
mod disks;
mod frames;
mod interruptions;

/// Files in generation trees here.
const FILES: usize = 50;

/// A stage with one snapshot, and the facts of its live tree.
fn with_a_snapshot(kind: Kind) -> (Stage, Facts) {
    let stage = Stage::new(kind);
    set_generation(&stage.source, 1, FILES);
    stage.sync().ok();
    let was = facts(&stage.live());
    (stage, was)
}

/// Runs what must be refused with exit code `code`: plainly and with `--json`, both of which
/// must mention `words`, and the latter must say what to do.
fn refused(run: impl Fn() -> Run, code: i32, words: &[&str]) -> Outcome {
    let plain = run().expect(code);
    plain.mentions(words);
    assert!(plain.stdout.is_empty(), "errors go to stderr:\n{plain}");
    let outcome = run().arg("--json").expect(code);
    let value = outcome.json();
    assert_eq!(value["ok"], false, "{outcome}");
    assert_eq!(value["error"]["code"], code, "{outcome}");
    let text = |key: &str| {
        value["error"][key]
            .as_str()
            .unwrap_or_default()
            .to_lowercase()
    };
    assert!(
        !text("hint").is_empty(),
        "it does not say what to do:\n{outcome}"
    );
    let said = format!("{} {}", text("message"), text("hint"));
    for word in words {
        assert!(
            said.contains(&word.to_lowercase()),
            "{word:?} is not in {said:?}"
        );
    }
    outcome
}

fn sync_of(stage: &Stage, source: &Path) -> Run {
    Run::new(["sync"])
        .arg(source)
        .arg("--spare")
        .arg(stage.spare())
        .arg("--state")
        .arg(&stage.state)
        .args(["--dataset", "site"])
}

#[test]
fn a_source_that_is_missing_or_no_directory() {
    for kind in Kind::BOTH {
        let (stage, was) = with_a_snapshot(kind);
        let missing = stage.path().join("no-such-directory");
        refused(|| sync_of(&stage, &missing), 1, &["no-such-directory"]);
        let file = stage.path().join("a-file");
        std::fs::write(&file, "file").unwrap();
        refused(|| sync_of(&stage, &file), 1, &["a-file", "director"]);
        judge::untouched(&was, &stage.live());
    }
}

#[test]
fn source_and_spare_inside_each_other() {
    let (stage, was) = with_a_snapshot(Kind::Embedded);
    refused(|| sync_of(&stage, &stage.live()), 2, &["inside"]);
    refused(|| sync_of(&stage, &stage.store), 2, &["store"]);
    let mut inside = Stage::new(Kind::Embedded);
    inside.store = inside.source.join("spare");
    refused(|| inside.sync(), 2, &["inside"]);
    assert!(!inside.store.exists());
    std::os::unix::fs::symlink(&inside.source, inside.path().join("link")).unwrap();
    inside.store = inside.path().join("link/spare");
    refused(|| inside.sync(), 2, &["inside"]);
    judge::untouched(&was, &stage.live());
}

#[test]
fn a_source_that_vanished() {
    for kind in Kind::BOTH {
        let (stage, was) = with_a_snapshot(kind);
        std::fs::rename(&stage.source, stage.path().join("away")).unwrap();
        refused(|| stage.sync(), 1, &["source"]);
        judge::untouched(&was, &stage.live());
        std::fs::rename(stage.path().join("away"), &stage.source).unwrap();
        set_generation(&stage.source, 2, FILES);
        stage.sync_and_judge();
    }
}

#[test]
fn a_source_that_became_empty() {
    for kind in Kind::BOTH {
        let (stage, was) = with_a_snapshot(kind);
        std::fs::rename(&stage.source, stage.path().join("away")).unwrap();
        std::fs::create_dir(&stage.source).unwrap();
        refused(|| stage.sync(), 4, &["source", "empty"]);
        judge::untouched(&was, &stage.live());
        // Nor does an index that was lost meanwhile make an empty source credible.
        std::fs::remove_dir_all(&stage.state).unwrap();
        refused(|| stage.sync(), 4, &["source", "empty"]);
        judge::untouched(&was, &stage.live());
    }
}

#[test]
fn an_empty_source_at_first_is_no_reason_to_fail() {
    let stage = Stage::new(Kind::Embedded);
    stage.sync_and_judge();
    std::fs::write(stage.source.join("file"), "file").unwrap();
    stage.sync_and_judge();
}

#[test]
fn a_spare_that_is_something_else() {
    let stage = Stage::new(Kind::Embedded);
    std::fs::write(stage.source.join("file"), "file").unwrap();
    std::fs::create_dir(&stage.store).unwrap();
    std::fs::write(stage.store.join("somebody's"), "precious").unwrap();
    let was = facts(&stage.store);
    refused(|| stage.sync(), 2, &["store", "empty"]);
    judge::untouched(&was, &stage.store);
    let listen = || {
        let run = Run::new(["receiver", "--listen", "127.0.0.1:0", "--store"]);
        run.arg(&stage.store)
    };
    listen().expect(2).mentions(&["store", "empty"]);
    judge::untouched(&was, &stage.store);
    std::fs::remove_dir_all(&stage.store).unwrap();
    std::fs::write(&stage.store, "a file").unwrap();
    refused(|| stage.sync(), 2, &["store"]);
}

#[test]
fn a_spare_that_cannot_be_reached() {
    let mut stage = Stage::new(Kind::Tcp);
    std::fs::write(stage.source.join("file"), "file").unwrap();
    let address = stage.spare();
    stage.daemon = None;
    let to_spare = |run: Run| run.args(["--spare", &address, "--state"]).arg(&stage.state);
    refused(
        || to_spare(Run::new(["sync"])).arg(&stage.source),
        6,
        &[&address],
    );
    for command in ["status", "snapshots", "verify"] {
        refused(|| to_spare(Run::new([command])), 6, &[&address]);
    }
}

#[test]
fn a_receiver_says_where_it_cannot_listen() {
    let stage = Stage::new(Kind::Embedded);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, code) in [(taken.as_str(), 1), ("192.0.2.1:7777", 1), ("7433", 2)] {
        let run = Run::new(["receiver", "--listen", address, "--store"]);
        run.arg(&stage.store).expect(code).mentions(&[address]);
    }
}

#[test]
fn names_that_are_no_datasets() {
    let (stage, was) = with_a_snapshot(Kind::Embedded);
    let long = "x".repeat(101);
    for name in [
        "", ".", "..", "../up", "a/b", "Upper", "-x", ".hidden", "ümlaut", &long,
    ] {
        let run = || {
            Run::new(["sync"])
                .arg(&stage.source)
                .arg("--spare")
                .arg(stage.spare())
                .arg("--state")
                .arg(&stage.state)
                .arg(format!("--dataset={name}"))
        };
        refused(run, 2, &["dataset"]);
    }
    judge::untouched(&was, &stage.live());
    let names: Vec<_> = stage
        .store
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|n| n == "site" || n.to_str().unwrap().starts_with('.') || n.len() > 4)
    );
}

#[test]
fn words_that_are_no_commands() {
    for arguments in [
        &["synk"][..],
        &["sync"],
        &["sync", "/tmp", "--sparr", "x"],
        &["restore"],
    ] {
        let outcome = Run::new(arguments).expect(2);
        assert!(!outcome.stderr.is_empty(), "{outcome}");
    }
    Run::new(["synk"]).expect(2).mentions(&["sync"]);
}

#[test]
fn configurations_that_are_wrong() {
    let stage = Stage::new(Kind::Embedded);
    let file = stage.path().join("agent.toml");
    let good = format!(
        "spare = {:?}\nstate = {:?}\ninterval = \"15m\"\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\n",
        stage.store, stage.state, stage.source
    );
    let wrong = |text: &str, words: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let outcome = Run::new(["agent", "--once", "--config"])
            .arg(&file)
            .expect(2);
        outcome.mentions(words);
        outcome.mentions(&["agent.toml"]);
    };
    wrong(
        &good.replace("interval", "intervall"),
        &["intervall", "agent.toml:3:1", "interval"],
    );
    wrong(
        &good.replace("path", "pathh"),
        &["pathh", "agent.toml:7:1", "`path`"],
    );
    wrong(&good.replace("15m", "soon"), &["soon", ":3:"]);
    wrong(&good.replace("15m", "0s"), &["interval"]);
    wrong(&good.replace("[[dataset]]", "[[dataset"), &[":6:"]);
    wrong(&good.replace("spare =", "# spare ="), &["spare"]);
    wrong(&format!("{good}name = \"../up\"\n"), &["../up"]);
    wrong(
        &format!("{good}{}", &good[good.find("[[").unwrap()..]),
        &["source"],
    );
    std::fs::remove_file(&file).unwrap();
    Run::new(["agent", "--once", "--config"])
        .arg(&file)
        .expect(2)
        .mentions(&["agent.toml"]);
    assert!(!stage.store.exists());
}

#[test]
fn a_dataset_that_the_configuration_does_not_have() {
    let stage = Stage::new(Kind::Embedded);
    let file = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\n",
        stage.store, stage.state, stage.source
    );
    std::fs::write(&file, text).unwrap();
    let run = Run::new(["agent", "--once", "--config"])
        .arg(&file)
        .arg("sauce");
    run.expect(2).mentions(&["sauce", "source"]);
}

/// All files below `directory` whose names end in `ending`.
fn files_named(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_named(&path, ending));
        } else if path.to_str().is_some_and(|path| path.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

/// Starting again after a receiver was stopped, on the same store, for what changes it.
fn stopped(stage: &mut Stage, change: impl FnOnce(&Stage)) {
    match stage.daemon.take() {
        None => change(stage),
        Some(daemon) => {
            let address = daemon.address.clone();
            // Told to end, not killed: else its databases' logs would put right what is damaged.
            assert_eq!(daemon.stop(rustix::process::Signal::TERM), Some(0));
            change(stage);
            stage.daemon = Some(Daemon::start_with(&stage.store, &address, |run| run));
        }
    }
}
