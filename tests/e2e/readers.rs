//! Readers of the spare while it commits: through the path of `live` they never see two
//! snapshots mixed between two switches, and a descriptor of `live` that they hold stays one
//! whole snapshot until the next cycle begins. Commits file by file fail the same checks.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, open};

use crate::support::trees::{generation_of, read_generation, set_generation};
use crate::support::{Kind, Stage, full};

const FILES: usize = 40;

/// What readers and committer know of each other.
#[derive(Default)]
struct Clock {
    /// How many cycles have begun.
    cycles: AtomicU64,
    /// Whether the last one has ended.
    over: AtomicBool,
}

/// Ends the readers when dropped, also by a commit that fails.
struct Over<'a>(&'a Clock);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// What a reader has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Reads that counted.
    reads: u64,
    /// Snapshots told apart.
    snapshots: u64,
    /// Walks that went on after a switch had made them the past.
    outlived: u64,
    /// What must not be.
    violations: Vec<String>,
}

/// Opens one file after the other through the path of `live`, without end. Numbers may only
/// rise: whoever sees one file of a snapshot sees no file of an older one after it.
fn read_through_the_path(live: &Path, clock: &Clock) -> Seen {
    let mut seen = Seen::default();
    let mut newest = 0;
    while !clock.over.load(Ordering::SeqCst) {
        for number in 0..FILES {
            let path = live.join(format!("files/d{}/f{number}", number % 7));
            let found = match std::fs::read(&path) {
                Ok(content) => generation_of(&content),
                Err(error) => {
                    seen.violations.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            let Some(found) = found else {
                seen.violations
                    .push(format!("{} is empty or torn", path.display()));
                continue;
            };
            seen.reads += 1;
            if found < newest {
                let what = format!("{} is of {found} after {newest}", path.display());
                seen.violations.push(what);
            }
            seen.snapshots += u64::from(found > newest);
            newest = newest.max(found);
        }
    }
    seen
}

/// Opens `live` once per cycle and walks from the descriptor until the next cycle begins.
fn walk_from_a_descriptor(live: &Path, clock: &Clock) -> Seen {
    let mut seen = Seen::default();
    let mut last = 0;
    while !clock.over.load(Ordering::SeqCst) {
        let cycle = clock.cycles.load(Ordering::SeqCst);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(held) = open(live, flags, Mode::empty()) else {
            seen.violations.push("live is not there".to_owned());
            continue;
        };
        let root = PathBuf::from(format!("/proc/self/fd/{}/files", held.as_raw_fd()));
        let mut first = None;
        loop {
            let found = read_generation(&root, FILES);
            let now = std::fs::read(live.join("files/d0/f0")).unwrap_or_default();
            if clock.cycles.load(Ordering::SeqCst) != cycle || clock.over.load(Ordering::SeqCst) {
                break;
            }
            seen.reads += 1;
            match (found, first) {
                (Err(mixture), _) => seen.violations.push(mixture),
                (Ok(found), Some(first)) if found != first => {
                    seen.violations
                        .push(format!("held {first}, then it was {found}"));
                }
                (Ok(found), _) => {
                    first = Some(found);
                    seen.outlived += u64::from(generation_of(&now) > Some(found));
                    seen.snapshots += u64::from(found != last);
                    last = found;
                }
            }
        }
    }
    seen
}

/// Runs both readers while `commit` makes `generations` the live ones, one by one.
fn watch(
    live: &Path,
    generations: std::ops::RangeInclusive<u64>,
    commit: impl Fn(u64),
) -> [Seen; 2] {
    let clock = Clock::default();
    std::thread::scope(|scope| {
        let path = scope.spawn(|| read_through_the_path(live, &clock));
        let descriptor = scope.spawn(|| walk_from_a_descriptor(live, &clock));
        let over = Over(&clock);
        for generation in generations {
            clock.cycles.fetch_add(1, Ordering::SeqCst);
            commit(generation);
        }
        drop(over);
        [path.join().unwrap(), descriptor.join().unwrap()]
    })
}

fn no_mixture_is_seen(kind: Kind) {
    let commits = if full() { 200 } else { 20 };
    let stage = Stage::new(kind);
    set_generation(&stage.source, 1, FILES);
    stage.sync().ok();
    let live = stage.dataset().join("live");
    let [path, descriptor] = watch(&live, 2..=commits, |generation| {
        set_generation(&stage.source, generation, FILES);
        stage.sync().ok();
    });
    assert_eq!(path.violations, [""; 0], "through the path, of {path:?}");
    assert_eq!(descriptor.violations, [""; 0], "through the descriptor");
    assert!(
        path.reads > commits && path.snapshots > commits / 2,
        "{path:?}"
    );
    assert!(
        descriptor.reads > commits && descriptor.outlived > 0,
        "{descriptor:?}"
    );
}

#[test]
fn readers_see_whole_snapshots_embedded() {
    no_mixture_is_seen(Kind::Embedded);
}

#[test]
fn readers_see_whole_snapshots_over_tcp() {
    no_mixture_is_seen(Kind::Tcp);
}

#[test]
fn commits_file_by_file_are_caught() {
    let directory = tempfile::tempdir_in(crate::support::stage::directory_for_tests()).unwrap();
    let live = directory.path().join("live");
    std::fs::create_dir(&live).unwrap();
    let files = live.join("files");
    std::fs::create_dir(&files).unwrap();
    set_generation(&files, 1, FILES);
    let [path, descriptor] = watch(&live, 2..=200, |generation| {
        let next = directory.path().join("next");
        std::fs::create_dir(&next).unwrap();
        set_generation(&next, generation, FILES);
        // Each file is replaced atomically, as rsync does it: the tree is not.
        for number in 0..FILES {
            let name = format!("d{}/f{number}", number % 7);
            std::fs::rename(next.join(&name), files.join(&name)).unwrap();
        }
        for name in ["directory-of", "only-in"] {
            let [old, new] = [generation - 1, generation].map(|number| format!("{name}-{number}"));
            std::fs::rename(next.join(&new), files.join(&new)).unwrap();
            std::fs::rename(files.join(&old), next.join(&old)).unwrap();
        }
        std::fs::remove_dir_all(&next).unwrap();
        assert_eq!(
            read_generation(&files, FILES),
            Ok(generation),
            "whole when at rest"
        );
    });
    assert!(!path.violations.is_empty(), "not caught: {path:?}");
    assert!(
        !descriptor.violations.is_empty(),
        "not caught: {descriptor:?}"
    );
}
