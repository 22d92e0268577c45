//! Real trees, real mounts, real processes. fanotify and mounts take root: without it these tests are skipped,
//! unless `CI` says that nothing may be missing.
#![expect(
    clippy::disallowed_methods,
    reason = "tests change files as strangers do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::mpsc::sync_channel;
use std::sync::{RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

mod cost;
mod inotify;
mod model;
mod mounts;
mod privileges;
mod told;

/// Held for writing by the test that lowers the system's queue limit, which new groups take over.
static QUEUE_LIMIT: RwLock<()> = RwLock::new(());

/// A watched directory with another beside it.
struct Scene {
    watcher: Watcher,
    events: Arc<Mutex<Vec<Event>>>,
    root: PathBuf,
    outside: PathBuf,
    _scratch: TempDir,
    _limit: Option<RwLockReadGuard<'static, ()>>,
}

impl Scene {
    /// With one root, key 1; `None` where fanotify is refused.
    fn new(mounts: Mounts) -> Option<Self> {
        let limit = QUEUE_LIMIT.read().unwrap_or_else(PoisonError::into_inner);
        let mut scene = Self::start(Options::default(), mounts, None)?;
        scene._limit = Some(limit);
        Some(scene)
    }

    fn start(options: Options, mounts: Mounts, own_process: Option<u32>) -> Option<Self> {
        Self::start_with(options, mounts, own_process, |_| {})
    }

    /// With something to do for the watcher's thread before it tells an event.
    fn start_with(
        options: Options,
        mounts: Mounts,
        own_process: Option<u32>,
        mut before: impl FnMut(&Event) + Send + 'static,
    ) -> Option<Self> {
        let scratch = tempfile::tempdir().expect("scratch");
        let root = scratch.path().join("root");
        let outside = scratch.path().join("outside");
        fs::create_dir(&root).expect("root");
        fs::create_dir(&outside).expect("outside");
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let prefer = options.prefer;
        let watcher = Watcher::start_as(options, own_process, move |event| {
            before(&event);
            sink.lock().expect("events").push(event);
        })
        .expect("start");
        watcher.watch(vec![Root {
            key: 1,
            path: root.clone(),
            mounts,
        }]);
        if own_process.is_none() && prefer == Prefer::Best && watcher.method(1) != Method::Fanotify
        {
            skip(&format!("no fanotify: {:?}", watcher.method(1)));
            return None;
        }
        let scene = Self {
            watcher,
            events,
            root,
            outside,
            _scratch: scratch,
            _limit: None,
        };
        let first = scene.drained();
        assert!(matches!(&first[0], Event::Gap { root: 1, .. }), "{first:?}");
        Some(scene)
    }

    /// What was told since the last call.
    fn drained(&self) -> Vec<Event> {
        self.watcher.drain();
        std::mem::take(&mut *self.events.lock().expect("events"))
    }

    /// The places that were told as `directory/name`, with `/` after the name for a whole subtree.
    fn told(&self) -> BTreeSet<String> {
        places(&self.drained(), 1)
    }

    fn gaps(&self) -> Vec<String> {
        gaps(&self.drained(), 1)
    }
}

fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "cannot be tested here: {why}"
    );
    eprintln!("skipped: {why}");
}

fn places(events: &[Event], key: u32) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for event in events {
        match event {
            Event::Touched {
                root, path, what, ..
            } if *root == key => {
                places.insert(match what {
                    Touched::Itself => format!("{path}/."),
                    Touched::Name(name, Reach::Entry | Reach::Content) => format!("{path}/{name}"),
                    Touched::Name(name, Reach::Below) => format!("{path}/{name}/"),
                });
            }
            Event::Touched { .. } | Event::Inode { .. } => {}
            Event::Gap { root, reason } => assert_ne!(*root, key, "gap: {reason}"),
        }
    }
    places
}

fn gaps(events: &[Event], key: u32) -> Vec<String> {
    let gap = |event: &Event| match event {
        Event::Gap { root, reason } if *root == key => Some(reason.clone()),
        _ => None,
    };
    events.iter().filter_map(gap).collect()
}

/// How often something is done again because the kernel's queue, which has what others do on this file system as well, was full.
const TRIES: u32 = 100;

/// Whether all that is told is that the kernel's queue was full.
fn is_overflow(gaps: &[String]) -> bool {
    !gaps.is_empty() && gaps.iter().all(|gap| gap.contains("max_queued_events"))
}

fn set(places: &[&str]) -> BTreeSet<String> {
    places.iter().map(|place| (*place).to_owned()).collect()
}

/// Runs a program that must succeed.
fn run(program: &str, arguments: &[&OsStr]) {
    let output = Process::new(program)
        .args(arguments)
        .output()
        .expect("run a program");
    assert!(output.status.success(), "{program}: {output:?}");
}

fn shell(script: &str, directory: &Path) {
    let output = Process::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .output()
        .expect("run sh");
    assert!(output.status.success(), "{script}: {output:?}");
}

/// A mount that is taken away at the end of the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&OsStr], at: &Path) -> Self {
        let mut all = arguments.to_vec();
        all.push(at.as_os_str());
        run("mount", &all);
        Self(at.to_owned())
    }

    fn tmpfs(at: &Path) -> Self {
        let arguments = ["-t", "tmpfs", "none"].map(OsStr::new);
        Self::new(&arguments, at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // In a test that failed there is nothing more to say.
        unmount(&self.0);
    }
}

/// Whether it could be unmounted. Any watcher of this process may have it open for a moment.
fn unmount(at: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let output = Process::new("umount").arg(at).output();
        if output.is_ok_and(|output| output.status.success()) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
}

/// A system setting that comes back at the end of the test; `None` if it cannot be changed.
struct Setting(&'static str, String);

impl Setting {
    fn lower(path: &'static str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(path).ok()?;
        if fs::write(path, value).is_err() {
            skip(&format!("{path} cannot be changed"));
            return None;
        }
        Some(Self(path, before))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(self.0, &self.1).expect("restore the setting");
    }
}
