//! Somebody swaps directories and links under whole cycles, verifications and restores: what is outside is neither read
//! nor touched. `tree/tests/swapper.rs` does the same to single operations, a million times, with a negative control.
//!
//! How a run ends does not matter here: a tree that never stands still may be refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use crate::support::facts::{Facts, facts};
use crate::support::stage::DATASET;
use crate::support::{Kind, Outcome, Random, Run, Stage, edits, judge, trees};

const CANARY: &[u8] = b"canary: nobody may read this";

fn rounds() -> usize {
    if crate::support::full() { 100 } else { 4 }
}

/// Exchanges names again and again, until it is dropped.
struct Swapper {
    is_over: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        let (is_over, swaps) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for (one, other) in &pairs {
                    // A name may be gone for a moment.
                    let swapped = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                    count.fetch_add(u64::from(swapped.is_ok()), Ordering::Relaxed);
                }
            }
        });
        Self {
            is_over,
            swaps,
            thread: Some(thread),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking());
        let swaps = self.swaps.load(Ordering::Relaxed);
        assert!(swaps > 0 || std::thread::panicking(), "nothing was swapped");
        println!("{swaps} swaps");
    }
}

/// What must neither be read nor touched, and links to it.
struct Outside {
    place: PathBuf,
    links: PathBuf,
    was: Facts,
}

impl Outside {
    fn new(stage: &Stage) -> Self {
        let (place, links) = (stage.path().join("outside"), stage.path().join("links"));
        std::fs::create_dir_all(place.join("deep")).unwrap();
        std::fs::create_dir(&links).unwrap();
        for file in ["file", "new", "deep/file"] {
            std::fs::write(place.join(file), CANARY).unwrap();
        }
        std::os::unix::fs::symlink(&place, links.join("directory")).unwrap();
        std::os::unix::fs::symlink(place.join("file"), links.join("file")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, links.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        let was = facts(&place);
        Self { place, links, was }
    }

    /// Swaps a directory, and a file in another, of the tree at `root` for what leads outside.
    fn swap(&self, root: &Path) -> Swapper {
        Swapper::start(vec![
            (root.join("a/d"), self.links.join("directory")),
            (root.join("a/f"), self.links.join("file")),
            (root.join("b/f"), self.links.join("fifo")),
        ])
    }

    fn check(&self, trees: &[&Path]) {
        judge::untouched(&self.was, &self.place);
        for tree in trees {
            assert_eq!(holding_canary(tree), Vec::<PathBuf>::new());
        }
    }
}

/// Every file below that has the content of what is outside.
fn holding_canary(path: &Path) -> Vec<PathBuf> {
    let Ok(found) = path.symlink_metadata() else {
        return Vec::new();
    };
    if found.is_dir() {
        let below = std::fs::read_dir(path).unwrap();
        return below
            .flat_map(|entry| holding_canary(&entry.unwrap().path()))
            .collect();
    }
    let content = if found.is_file() {
        std::fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let has = content.windows(CANARY.len()).any(|window| window == CANARY);
    has.then(|| path.to_owned()).into_iter().collect()
}

fn fill(root: &Path) {
    for directory in ["a/d/deep", "b"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["a/d/file", "a/d/deep/file", "a/f", "b/f", "b/stays"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    std::fs::create_dir(root.join("mixed")).unwrap();
    trees::mixed(&mut Random::new(3), &root.join("mixed"), 60);
}

fn edit(stage: &Stage, round: usize) {
    let root = &stage.source;
    edits::random(&mut Random::new(round as u64), &root.join("mixed"), 10);
    for file in ["a/d/file", "a/d/deep/file", "a/d/new", "a/f", "b/f"] {
        let path = root.join(file);
        // Just now the directory may be a link, and the file a link or a fifo: neither is followed or waited for.
        let inside = path.parent().unwrap().canonicalize();
        let is_inside = inside.is_ok_and(|inside| inside.starts_with(root.canonicalize().unwrap()));
        let is_plain = path
            .symlink_metadata()
            .map_or(true, |found| found.is_file());
        if is_inside && is_plain {
            std::fs::write(path, format!("{file} {round}")).unwrap();
        }
    }
}

fn ended(outcome: &Outcome) {
    assert!(outcome.code.is_some(), "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
}

#[test]
fn an_agent_sends_nothing_from_outside_its_source() {
    let stage = Stage::new(Kind::Embedded);
    fill(&stage.source);
    stage.sync().ok();
    let outside = Outside::new(&stage);
    for round in 0..rounds() {
        edit(&stage, round);
        let swapper = outside.swap(&stage.source);
        ended(&stage.sync().arg("--accept-deletions").outcome());
        drop(swapper);
        outside.check(&[&stage.store]);
    }
}

#[test]
fn a_receiver_reaches_nothing_outside_its_store() {
    let stage = Stage::new(Kind::Embedded);
    fill(&stage.source);
    stage.sync().ok();
    let outside = Outside::new(&stage);
    for round in 0..rounds() {
        edit(&stage, round);
        let swapper = outside.swap(&stage.live());
        ended(&stage.sync().arg("--accept-deletions").outcome());
        ended(&stage.ask("verify").outcome());
        ended(&stage.ask("verify").arg("--repair").outcome());
        let prune = Run::new(["prune", "--now", "--store"]).arg(&stage.store);
        ended(&prune.outcome());
        drop(swapper);
        outside.check(&[&stage.store.join(DATASET).join(".understudy")]);
        let target = stage.path().join(format!("restored-{round}"));
        ended(&stage.restore(&target).outcome());
        outside.check(&[&target]);
    }
}

#[test]
fn a_restore_reaches_nothing_outside_its_target() {
    let stage = Stage::new(Kind::Embedded);
    fill(&stage.source);
    stage.sync().ok();
    let outside = Outside::new(&stage);
    let target = stage.path().join("target");
    fill(&target);
    for round in 0..rounds() {
        edit(&stage, round);
        stage.sync().arg("--accept-deletions").outcome();
        for manner in ["--replace", "--in-place-progressive"] {
            let swapper = outside.swap(&target);
            ended(&stage.restore(&target).arg(manner).outcome());
            drop(swapper);
            outside.check(&[&target]);
        }
    }
}
