//! What a tired operator may type: each is refused or does no harm, and says what is right.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::tool;
use crate::support::{Run, judge};

const DATASET: &str = "shop";

/// Two hosts that are each other's spare, each with the same two daemons configured for ever.
struct Hosts {
    place: tempfile::TempDir,
}

impl Hosts {
    /// A is the main with a plain source, and B has all of it.
    fn new() -> Self {
        let hosts = Self {
            place: tempfile::tempdir().unwrap(),
        };
        for number in 0..20 {
            let directory = hosts.source().join(format!("d{}", number % 3));
            fs::create_dir_all(&directory).unwrap();
            let content = format!("order {number}\n").repeat(100);
            fs::write(directory.join(number.to_string()), content).unwrap();
        }
        hosts.configure("a", &hosts.source(), "b");
        hosts.configure("b", &hosts.live("b"), "a");
        hosts.cycle("a").ok();
        hosts
    }

    fn source(&self) -> PathBuf {
        self.place.path().join("a-site")
    }

    fn store(&self, host: &str) -> PathBuf {
        self.place.path().join(format!("{host}-store"))
    }

    fn live(&self, host: &str) -> PathBuf {
        self.store(host).join(DATASET).join("live/files")
    }

    fn config(&self, host: &str) -> PathBuf {
        self.place.path().join(format!("{host}.toml"))
    }

    fn configure(&self, host: &str, source: &Path, other: &str) {
        let text = format!(
            "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {source:?}\nname = \"{DATASET}\"\n",
            self.store(other),
            self.place.path().join(format!("{host}-state"))
        );
        fs::write(self.config(host), text).unwrap();
    }

    fn cycle(&self, host: &str) -> Run {
        Run::new(["agent", "--once", "--config"]).arg(self.config(host))
    }

    fn on_main(&self, host: &str, words: &[&str]) -> Run {
        Run::new(words).arg("--config").arg(self.config(host))
    }

    fn on_spare(&self, host: &str, words: &[&str]) -> Run {
        Run::new(words).arg("--store").arg(self.store(host))
    }

    fn promote(&self, host: &str) -> Run {
        self.on_spare(host, &["promote", DATASET, "--yes", "--preserve", "before"])
    }

    /// A copy of a tree, to compare with later.
    fn copy(&self, tree: &Path, name: &str) -> PathBuf {
        let to = self.place.path().join(name);
        let (from, into) = (tree.join(""), to.join(""));
        tool(
            "rsync",
            ["-aHAX", from.to_str().unwrap(), into.to_str().unwrap()],
        );
        to
    }
}

#[test]
fn promoting_while_the_main_lives_and_twice() {
    let hosts = Hosts::new();
    let facts = hosts.on_spare("b", &["promote", DATASET, "--dry-run"]).ok();
    facts.mentions(&["has NOT passed", "nothing was changed"]);
    hosts
        .on_spare("b", &["promote", DATASET])
        .expect(2)
        .mentions(&["--dry-run", "--yes"]);
    hosts.promote("b").ok();
    let again = hosts.promote("b").ok();
    again.mentions(&["already", "epoch 2"]);
    // The main goes on for a while: refused, whoever tries, with whatever it remembers, and told what to type.
    fs::write(hosts.source().join("d0/late"), "late\n").unwrap();
    let kept = hosts.copy(&hosts.live("b"), "promoted");
    for _ in 0..3 {
        hosts.cycle("a").expect(5).mentions(&["failback", "resume"]);
    }
    let sync = Run::new(["sync"])
        .arg(hosts.source())
        .args(["--dataset", DATASET, "--accept-deletions", "--state"])
        .arg(hosts.place.path().join("another-state"))
        .arg("--spare")
        .arg(hosts.store("b"));
    sync.expect(5).mentions(&["epoch"]);
    assert_eq!(judge::rsync(&kept, &hosts.live("b"), &[]), "");
}

#[test]
fn switching_in_the_wrong_direction() {
    let hosts = Hosts::new();
    let failback = |host: &str| {
        hosts
            .on_main(host, &["failback", DATASET, "--yes"])
            .arg("--store")
            .arg(hosts.store("a"))
    };
    let had = hosts.copy(&hosts.source(), "had");
    // Nobody was promoted; nobody is the main there; the spare hands over; a spare resumes.
    failback("a").expect(5).mentions(&["promote", "resume"]);
    failback("b").ok().mentions(&["spare already"]);
    hosts
        .on_main("b", &["handover", DATASET, "--yes"])
        .expect(2);
    hosts.on_spare("b", &["demote", DATASET, "--yes"]).ok();
    hosts.on_main("a", &["resume", DATASET]).ok();
    assert_eq!(judge::rsync(&had, &hosts.source(), &[]), "");
    hosts.cycle("a").ok();
    hosts.promote("b").ok();
    failback("b").expect(5).mentions(&["`main`", "demote"]);
    hosts
        .on_main("a", &["resume", DATASET])
        .expect(5)
        .mentions(&["demote"]);
    hosts
        .on_main("a", &["handover", DATASET, "--yes"])
        .expect(5);
    failback("a").ok();
    // Both promoted, one after the other: the epoch says who is.
    hosts.cycle("b").ok();
    hosts.promote("a").ok();
    hosts.cycle("b").expect(5).mentions(&["demote"]);
    hosts.cycle("a").expect(5).mentions(&["demote"]);
    hosts
        .on_spare("b", &["demote", DATASET, "--epoch", "3", "--yes"])
        .ok();
    hosts.cycle("a").ok();
    assert_eq!(judge::rsync(&hosts.live("a"), &hosts.live("b"), &[]), "");
    assert_eq!(judge::rsync(&had, &hosts.live("b"), &[]), "");
}

#[test]
fn agents_that_are_configured_on_both_sides() {
    let hosts = Hosts::new();
    let before = hosts.copy(&hosts.live("b"), "before");
    for _ in 0..2 {
        hosts
            .cycle("b")
            .expect(5)
            .mentions(&["the spare of dataset", DATASET]);
        hosts.cycle("a").ok();
    }
    assert!(!hosts.store("a").join(DATASET).exists());
    assert_eq!(judge::rsync(&before, &hosts.live("b"), &[]), "");
    // Its own store as its spare.
    let text = fs::read_to_string(hosts.config("b")).unwrap();
    let own = text.replace("a-store", "b-store");
    fs::write(hosts.config("b"), own).unwrap();
    hosts.cycle("b").expect(2);
    assert_eq!(judge::rsync(&before, &hosts.live("b"), &[]), "");
}

#[test]
fn a_new_disk_in_the_place_of_the_mains() {
    let hosts = Hosts::new();
    let before = hosts.copy(&hosts.live("b"), "before");
    let aside = hosts.place.path().join("old-disk");
    fs::rename(hosts.source(), aside).unwrap();
    hosts
        .cycle("a")
        .expect(1)
        .mentions(&["does not exist", "mounted"]);
    fs::create_dir(hosts.source()).unwrap();
    hosts
        .cycle("a")
        .expect(4)
        .mentions(&["mount what is missing"]);
    fs::write(hosts.source().join("lost+found"), "").unwrap();
    hosts.cycle("a").expect(4).mentions(&["held"]);
    assert_eq!(judge::rsync(&before, &hosts.live("b"), &[]), "");
    // The agent's state is new as well.
    fs::remove_dir_all(hosts.place.path().join("a-state")).unwrap();
    hosts.cycle("a").expect(4);
    assert_eq!(judge::rsync(&before, &hosts.live("b"), &[]), "");
}

#[test]
fn restoring_over_a_tree_that_is_live() {
    let hosts = Hosts::new();
    hosts.promote("b").ok();
    fs::write(hosts.live("b").join("d0/0"), "by the application\n").unwrap();
    let before = hosts.copy(&hosts.live("b"), "before");
    for option in ["--replace", "--in-place-progressive"] {
        let restore = Run::new(["restore", DATASET])
            .arg(hosts.live("b"))
            .args([option, "--unverified", "--spare"])
            .arg(hosts.store("b"))
            .arg("--state")
            .arg(hosts.place.path().join("other-state"));
        restore.expect(2).mentions(&["store"]);
    }
    // From the other host as well, which knows nothing of the store.
    hosts
        .on_main("a", &["failback", DATASET, "--yes"])
        .arg("--store")
        .arg(hosts.store("a"))
        .ok();
    hosts.cycle("b").ok();
    let restore = Run::new(["restore", DATASET])
        .arg(hosts.live("b"))
        .args(["--replace", "--unverified", "--spare"])
        .arg(hosts.store("a"))
        .arg("--state")
        .arg(hosts.place.path().join("other-state"));
    restore.expect(2).mentions(&["live tree"]);
    assert_eq!(judge::rsync(&before, &hosts.live("b"), &[]), "");
}
