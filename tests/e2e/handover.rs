//! A planned switch: the main hands over, its spare takes over, and back.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage, judge};

/// A host with a store and an agent, both on directories of its own.
struct Host {
    place: PathBuf,
}

impl Host {
    fn new(place: PathBuf) -> Self {
        fs::create_dir_all(&place).unwrap();
        Self { place }
    }

    fn store(&self) -> PathBuf {
        self.place.join("store")
    }

    fn live(&self) -> PathBuf {
        self.store().join(DATASET).join("live/files")
    }

    fn stopped(&self) -> PathBuf {
        self.place.join("application-stopped")
    }

    /// Its agent ships `source` to the store of `other`; the application is stopped by a program.
    fn configure(&self, source: &Path, other: &Self) {
        let text = format!(
            "spare = {:?}\nstate = {:?}\non_stop = [[\"/usr/bin/touch\", {:?}]]\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {source:?}\nname = \"{DATASET}\"\n",
            other.store(),
            self.place.join("state"),
            self.stopped()
        );
        fs::write(self.place.join("agent.toml"), text).unwrap();
    }

    fn on_main(&self, words: &[&str]) -> Run {
        Run::new(words)
            .arg("--config")
            .arg(self.place.join("agent.toml"))
    }

    fn on_spare(&self, words: &[&str]) -> Run {
        Run::new(words).arg("--store").arg(self.store())
    }

    fn cycle(&self) -> Run {
        self.on_main(&["agent", "--once"])
    }

    fn hand_over(&self) -> Run {
        self.on_main(&["handover", DATASET, "--yes"])
    }
}

struct Pair {
    _place: tempfile::TempDir,
    source: PathBuf,
    a: Host,
    b: Host,
}

impl Pair {
    /// A has a plain source, and B has it up to a write that is not shipped yet.
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| Host::new(place.path().join(name)));
        let source = a.place.join("site");
        fs::create_dir_all(source.join("uploads")).unwrap();
        for number in 0..30 {
            let content = format!("{number}\n").repeat(300);
            fs::write(source.join("uploads").join(number.to_string()), content).unwrap();
        }
        a.configure(&source, &b);
        b.configure(&b.live(), &a);
        a.cycle().ok();
        fs::write(source.join("uploads/last"), "not shipped yet\n").unwrap();
        Self {
            _place: place,
            source,
            a,
            b,
        }
    }
}

fn snapshots(host: &Host) -> Vec<(u64, u64)> {
    let listed = Run::new(["snapshots", DATASET, "--spare"])
        .arg(host.store())
        .data();
    let snapshots = listed["datasets"][0]["snapshots"].as_array().unwrap();
    let name = |one: &serde_json::Value| {
        (
            one["epoch"].as_u64().unwrap(),
            one["number"].as_u64().unwrap(),
        )
    };
    snapshots.iter().map(name).collect()
}

#[test]
fn roles_are_swapped_and_swapped_back_and_nothing_is_lost() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    let looked = a.on_main(&["handover", DATASET, "--dry-run"]).ok();
    looked.mentions(&[
        "epoch 1",
        "first runs: /usr/bin/touch",
        "nothing was changed",
    ]);
    assert!(!a.stopped().exists());
    a.hand_over()
        .ok()
        .mentions(&["promote", "failback", "the last cycle"]);
    assert!(a.stopped().exists());
    a.cycle().expect(5).mentions(&["handed", DATASET]);
    let facts = b.on_spare(&["promote", DATASET, "--dry-run"]).ok();
    facts.mentions(&["nothing is lost", "handed over"]);
    // The application changes files in place at once.
    b.on_spare(&["promote", DATASET, "--yes", "--preserve", "before"])
        .ok();
    assert_eq!(judge::rsync(&pair.source, &b.live(), &[]), "");
    a.on_main(&["failback", DATASET, "--yes"])
        .arg("--store")
        .arg(a.store())
        .ok();
    fs::write(b.live().join("uploads/on-b"), "written on B\n").unwrap();
    b.cycle().ok();
    assert_eq!(judge::rsync(&b.live(), &a.live(), &[]), "");
    // And back, from store to store.
    fs::write(b.live().join("uploads/last"), "changed on B\n").unwrap();
    b.hand_over()
        .ok()
        .mentions(&["promote", "demote site --epoch 3"]);
    b.cycle().expect(5).mentions(&["handed"]);
    a.on_spare(&["promote", DATASET, "--yes"]).ok();
    b.on_spare(&["demote", DATASET, "--epoch", "3", "--yes"])
        .ok();
    assert_eq!(judge::rsync(&b.live(), &a.live(), &[]), "");
    fs::write(
        pair.source.join("uploads/on-a"),
        "written on A, where it always was\n",
    )
    .unwrap();
    a.cycle().ok();
    b.cycle().expect(5).mentions(&["spare"]);
    assert_eq!(judge::rsync(&a.live(), &b.live(), &[]), "");
    a.cycle().ok();
    for host in [a, b] {
        let names = snapshots(host);
        assert!(
            names.is_sorted_by(|one, next| one.0 <= next.0 && one.1 < next.1),
            "{names:?}"
        );
        Run::new(["verify", "--spare"]).arg(host.store()).ok();
    }
    // The history of both hosts is on both.
    let epochs = |host: &Host| -> Vec<u64> {
        let mut epochs: Vec<u64> = snapshots(host).iter().map(|name| name.0).collect();
        epochs.dedup();
        epochs
    };
    assert_eq!((epochs(a), epochs(b)), (vec![1, 2], vec![1, 2, 3]));
}

#[test]
fn a_handover_can_be_killed_at_any_step() {
    let points = [
        "handover.stopped",
        "handover.shipped",
        "handover.standing",
        "handover.told",
    ];
    for point in points {
        let pair = Pair::new();
        let (a, b) = (&pair.a, &pair.b);
        let killed = a.hand_over().failing(&format!("{point}=1*return"));
        assert!(killed.outcome().was_killed(), "{point}");
        a.hand_over().ok();
        a.hand_over().ok();
        let facts = b.on_spare(&["promote", DATASET, "--dry-run"]).ok();
        facts.mentions(&["nothing is lost"]);
        b.on_spare(&["promote", DATASET, "--yes"]).ok();
        assert_eq!(judge::rsync(&pair.source, &b.live(), &[]), "");
        a.hand_over().expect(5).mentions(&["promoted", "failback"]);
    }
}

#[test]
fn a_handover_is_taken_back() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    let facts = || b.on_spare(&["promote", DATASET, "--dry-run"]).ok();
    a.hand_over().ok();
    a.on_main(&["resume", DATASET]).ok();
    facts().mentions(&["may be lost"]);
    fs::write(pair.source.join("uploads/later"), "x").unwrap();
    a.cycle().ok();
    assert_eq!(judge::rsync(&pair.source, &b.live(), &[]), "");
    // From a store, too.
    a.hand_over().ok();
    b.on_spare(&["promote", DATASET, "--yes"]).ok();
    a.on_main(&["resume", DATASET])
        .expect(5)
        .mentions(&["demote"]);
    a.on_main(&["failback", DATASET, "--yes"])
        .arg("--store")
        .arg(a.store())
        .ok();
    b.cycle().ok();
    b.hand_over().ok();
    b.on_main(&["resume", DATASET]).ok();
    let facts = a.on_spare(&["promote", DATASET, "--dry-run"]).ok();
    facts.mentions(&["may be lost"]);
    fs::write(b.live().join("uploads/later"), "y").unwrap();
    b.cycle().ok();
    assert_eq!(judge::rsync(&b.live(), &a.live(), &[]), "");
}

#[test]
fn what_cannot_be_stopped_or_sent_is_not_handed_over() {
    let pair = Pair::new();
    let (a, b) = (&pair.a, &pair.b);
    let config = a.place.join("agent.toml");
    let right = fs::read_to_string(&config).unwrap();
    let wrong = right.replace(
        "\"/usr/bin/touch\"",
        "\"/bin/sh\", \"-c\", \"echo it hangs; exit 3\"",
    );
    fs::write(&config, wrong).unwrap();
    let refused = a.hand_over().expect(1);
    refused.mentions(&["it hangs", "the main still"]);
    a.cycle().ok();
    fs::write(&config, right).unwrap();
    // A cycle that a guard holds.
    for number in 0..20 {
        fs::remove_file(pair.source.join("uploads").join(number.to_string())).unwrap();
    }
    a.hand_over()
        .expect(4)
        .mentions(&["the main still", "held"]);
    // What is held is decided over before anything is stopped.
    fs::remove_file(a.stopped()).unwrap();
    a.hand_over()
        .expect(1)
        .mentions(&["cannot take over", "held", "not stopped"]);
    assert!(!a.stopped().exists());
    let facts = b.on_spare(&["promote", DATASET, "--dry-run"]).ok();
    facts.mentions(&["may be lost"]);
    // And from the wrong host.
    b.hand_over().expect(2).mentions(&["no store"]);
}

#[test]
fn a_spare_that_is_another_host_is_told() {
    let stage = Stage::new(Kind::Tcp);
    fs::write(stage.source.join("page"), "content\n").unwrap();
    stage.sync().ok();
    fs::write(stage.source.join("page"), "not shipped yet\n").unwrap();
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.spare(),
        stage.state,
        stage.source
    );
    fs::write(&config, text).unwrap();
    let on_main = |command: &str| Run::new([command, DATASET, "--config"]).arg(&config);
    let facts = || {
        let facts = Run::new(["promote", DATASET, "--dry-run", "--store"]);
        facts.arg(&stage.store).ok()
    };
    on_main("handover")
        .arg("--yes")
        .ok()
        .mentions(&["snapshot 2"]);
    facts().mentions(&["nothing is lost", "snapshot: 2"]);
    judge::same(&stage.source, &stage.live());
    on_main("resume").ok();
    facts().mentions(&["may be lost"]);
}
