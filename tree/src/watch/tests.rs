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

#[test]
fn every_change_of_a_file_is_told_with_its_name() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let file = scene.root.join("f");
    fs::write(&file, "x").expect("create");
    assert_eq!(scene.told(), set(&["./f"]));
    fs::write(&file, "y").expect("modify");
    assert_eq!(scene.told(), set(&["./f"]));
    let writing = fs::File::options().write(true).open(&file).expect("open");
    writing.set_len(0).expect("truncate");
    assert_eq!(scene.told(), set(&["./f"]));
    drop(writing);
    scene.told();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(scene.told(), set(&["./f"]));
    shell("setfattr -n user.a -v b f", &scene.root);
    assert_eq!(scene.told(), set(&["./f"]));
    fs::write(scene.root.join("g"), "x").expect("create");
    scene.told();
    fs::rename(scene.root.join("g"), &file).expect("rename over");
    assert_eq!(scene.told(), set(&["./f", "./g"]));
    fs::hard_link(&file, scene.root.join("h")).expect("link");
    assert!(scene.told().contains("./h"));
    fs::write(scene.root.join("h"), "other name").expect("write");
    assert_eq!(scene.told(), set(&["./h"]));
    symlink("f", scene.root.join("s")).expect("symlink");
    assert_eq!(scene.told(), set(&["./s"]));
    fs::remove_file(&file).expect("unlink");
    assert!(scene.told().contains("./f"));
    assert_eq!(scene.told(), set(&[]));
}

#[test]
fn files_are_told_by_inode_where_other_names_stand_for_them() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let (here, there) = (scene.root.join("file"), scene.outside.join("other"));
    fs::write(&here, "x").expect("write");
    let inode = fs::metadata(&here).expect("stat").ino();
    let told = || {
        let events = scene.drained();
        let mut told = events.iter().filter_map(|event| match event {
            Event::Inode { root: 1, inode } => Some(inode.inode),
            _ => None,
        });
        told.any(|told| told == inode)
    };
    assert!(!told(), "one name says it all");
    fs::hard_link(&here, &there).expect("link");
    assert!(told(), "a name more, outside");
    fs::write(&there, "y").expect("write");
    assert!(told(), "written by the name outside");
    fs::write(&here, "y").expect("write");
    assert!(told(), "written by the name inside");
    fs::remove_file(&there).expect("unlink");
    assert!(told(), "a name less");
    fs::write(&here, "z").expect("write");
    assert!(!told(), "one name says it all again");
    fs::hard_link(&here, &there).expect("link");
    fs::write(&there, "short").expect("write");
    fs::remove_file(&there).expect("unlink");
    assert!(told(), "what came and went");
    fs::remove_file(&here).expect("unlink");
    assert!(!told(), "what is gone is told by its name");
}

#[test]
fn directories_are_told_with_all_they_were_made_with() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    fs::create_dir_all(scene.root.join("a/b/c")).expect("mkdir -p");
    fs::write(scene.root.join("a/b/c/f"), "x").expect("write");
    assert_eq!(scene.told(), set(&["./a", "a/b", "a/b/c", "a/b/c/f"]));
    fs::set_permissions(scene.root.join("a"), fs::Permissions::from_mode(0o700)).expect("chmod");
    assert_eq!(scene.told(), set(&["a/."]));
    fs::set_permissions(&scene.root, fs::Permissions::from_mode(0o700)).expect("chmod");
    assert_eq!(scene.told(), set(&["./."]));
    let inode = fs::metadata(scene.root.join("a/b")).expect("stat").ino();
    fs::write(scene.root.join("a/b/f"), "x").expect("write");
    let events = scene.drained();
    let identities: BTreeSet<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Touched { directory, .. } => Some(directory.inode),
            Event::Inode { .. } | Event::Gap { .. } => None,
        })
        .collect();
    assert_eq!(identities, BTreeSet::from([inode]));
    fs::remove_dir_all(scene.root.join("a")).expect("rm -r");
    assert!(scene.told().contains("./a"));
}

#[test]
fn moved_directories_are_told_as_far_as_they_reach() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    fs::create_dir_all(scene.root.join("a/deep")).expect("mkdir");
    fs::create_dir(scene.root.join("b")).expect("mkdir");
    scene.told();
    fs::rename(scene.root.join("a"), scene.root.join("b/a")).expect("within");
    assert_eq!(scene.told(), set(&["./a", "b/a/"]));
    fs::write(scene.root.join("b/a/deep/f"), "x").expect("write");
    assert_eq!(scene.told(), set(&["b/a/deep/f"]), "by its new path");
    fs::rename(scene.root.join("b/a"), scene.outside.join("a")).expect("out");
    assert_eq!(scene.told(), set(&["b/a"]));
    fs::write(scene.outside.join("a/deep/f"), "changed").expect("write");
    assert_eq!(scene.told(), set(&[]), "it is outside now");
    fs::rename(scene.outside.join("a"), scene.root.join("b/a")).expect("in");
    assert_eq!(scene.told(), set(&["b/a/"]));
    fs::write(scene.root.join("b/a/deep/f"), "again").expect("write");
    assert_eq!(scene.told(), set(&["b/a/deep/f"]));
}

/// A directory is taken out, changed outside, and put into a directory that comes in only afterwards: by the time
/// the events are read all the paths are those of the end.
#[test]
fn a_directory_that_was_outside_for_a_moment_is_told_whole() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    fs::create_dir_all(scene.root.join("p/d")).expect("mkdir");
    fs::write(scene.root.join("p/d/f"), "x").expect("write");
    scene.told();
    fs::rename(scene.root.join("p"), scene.outside.join("p")).expect("out");
    fs::write(scene.outside.join("p/d/f"), "changed outside").expect("write");
    assert!(!scene.told().contains("p/d/f"));
    fs::rename(scene.outside.join("p/d"), scene.root.join("d")).expect("in");
    fs::rename(scene.outside.join("p"), scene.root.join("p")).expect("in");
    let told = scene.told();
    assert!(told.contains("./d/") && told.contains("./p/"), "{told:?}");
}

#[test]
fn a_root_made_anew_is_a_gap_and_watched_again() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    fs::remove_dir(&scene.root).expect("rmdir");
    assert!(!scene.gaps().is_empty());
    assert!(matches!(scene.watcher.method(1), Method::Unwatched { .. }));
    assert!(scene.gaps().is_empty(), "told once");
    fs::create_dir(&scene.root).expect("mkdir");
    assert_eq!(scene.gaps(), ["it is watched again"]);
    assert_eq!(scene.watcher.method(1), Method::Fanotify);
    fs::write(scene.root.join("f"), "x").expect("write");
    assert_eq!(scene.told(), set(&["./f"]));
    fs::rename(&scene.root, scene.outside.join("old")).expect("mv");
    fs::create_dir(&scene.root).expect("mkdir");
    fs::write(scene.root.join("g"), "x").expect("write");
    assert!(!scene.gaps().is_empty());
    fs::write(scene.root.join("h"), "x").expect("write");
    assert_eq!(scene.told(), set(&["./h"]));
}

/// While a directory above a root has another name, nothing below it can be told to be inside.
#[test]
fn a_root_that_was_away_for_a_moment_is_a_gap() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    // Inside another root, and not.
    for top in [&scene.root, &scene.outside] {
        let above = top.join("above");
        let site = above.join("site");
        fs::create_dir_all(&site).expect("mkdir");
        scene.watcher.watch(vec![
            Root {
                key: 1,
                path: scene.root.clone(),
                mounts: Mounts::Stay,
            },
            Root {
                key: 2,
                path: site.clone(),
                mounts: Mounts::Stay,
            },
        ]);
        for _ in 0..20 {
            scene.drained();
            let away = top.join("away");
            fs::rename(&above, &away).expect("away");
            fs::write(away.join("site/f"), "x").expect("write");
            fs::rename(&away, &above).expect("back");
            assert!(!gaps(&scene.drained(), 2).is_empty());
        }
        scene.drained();
        assert_eq!(scene.watcher.method(2), Method::Fanotify);
        fs::write(site.join("f"), "y").expect("write");
        assert_eq!(places(&scene.drained(), 2), set(&["./f"]));
    }
}

#[test]
fn a_tree_is_watched_through_every_mount_of_it() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let elsewhere = scene.outside.join("elsewhere");
    fs::create_dir(&elsewhere).expect("mkdir");
    fs::create_dir(scene.root.join("d")).expect("mkdir");
    let arguments = [OsStr::new("--bind"), scene.root.as_os_str()];
    let bound = Mounted::new(&arguments, &elsewhere);
    scene.told();
    fs::write(elsewhere.join("d/f"), "x").expect("write");
    assert_eq!(scene.told(), set(&["d/f"]));
    drop(bound);
}

#[test]
fn another_mount_namespace_is_seen() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let script = format!(
        "mount --bind '{}' '{}' && echo x > '{}/f'",
        scene.root.display(),
        scene.outside.display(),
        scene.outside.display()
    );
    run("unshare", &["-m", "sh", "-ec", &script].map(OsStr::new));
    assert_eq!(scene.told(), set(&["./f"]));
}

#[test]
fn mounts_below_a_root_are_gaps_and_cover_what_belongs_to_it() {
    for mounts in [Mounts::Stay, Mounts::Cross] {
        let Some(scene) = Scene::new(mounts) else {
            return;
        };
        let point = scene.root.join("mnt");
        fs::create_dir(&point).expect("mkdir");
        scene.told();
        let mounted = Mounted::tmpfs(&point);
        assert_eq!(scene.gaps().len(), 1, "{mounts:?}");
        assert_eq!(scene.watcher.method(1), Method::Fanotify);
        fs::write(point.join("f"), "x").expect("write");
        let expected = match mounts {
            Mounts::Stay => set(&[]),
            Mounts::Cross => set(&["mnt/f"]),
        };
        assert_eq!(scene.told(), expected, "{mounts:?}");
        assert!(unmount(&point), "umount");
        assert_eq!(scene.gaps().len(), 1, "{mounts:?}");
        fs::write(point.join("f"), "x").expect("write");
        assert_eq!(scene.told(), set(&["mnt/f"]), "{mounts:?}");
        std::mem::forget(mounted);
    }
}

#[test]
fn a_mount_that_another_hides_is_no_obstacle() {
    let Some(scene) = Scene::new(Mounts::Cross) else {
        return;
    };
    let point = scene.root.join("mnt");
    let hidden = point.join("hidden");
    fs::create_dir(&point).expect("mkdir");
    let lower = Mounted::tmpfs(&point);
    fs::create_dir(&hidden).expect("mkdir");
    let inner = Mounted::tmpfs(&hidden);
    let upper = Mounted::tmpfs(&point);
    scene.drained();
    assert_eq!(scene.watcher.method(1), Method::Fanotify);
    fs::write(point.join("f"), "x").expect("write");
    assert_eq!(scene.told(), set(&["mnt/f"]));
    drop((upper, inner, lower));
}

/// A mount that comes and goes between two drains was there all the same.
#[test]
fn mounts_are_noticed_when_they_happen() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let wait_for_gap = || {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let events = std::mem::take(&mut *scene.events.lock().expect("events"));
            if !gaps(&events, 1).is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "no gap");
            std::thread::yield_now();
        }
    };
    let mounted = Mounted::tmpfs(&scene.root);
    wait_for_gap();
    drop(mounted);
    wait_for_gap();
    assert_eq!(scene.gaps(), [""; 0], "the drain finds nothing new");
}

/// Whoever watches must not keep a disk from being unmounted.
#[test]
fn a_watched_file_system_can_be_unmounted_and_comes_back() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let mounted = Mounted::tmpfs(&scene.outside);
    scene.watcher.watch(vec![Root {
        key: 2,
        path: scene.outside.clone(),
        mounts: Mounts::Stay,
    }]);
    assert_eq!(gaps(&scene.drained(), 2).len(), 1);
    fs::create_dir(scene.outside.join("d")).expect("mkdir");
    fs::write(scene.outside.join("d/f"), "x").expect("write");
    assert!(places(&scene.drained(), 2).contains("d/f"));
    assert!(unmount(&scene.outside), "umount");
    std::mem::forget(mounted);
    assert_eq!(gaps(&scene.drained(), 2).len(), 1);
    let _mounted = Mounted::tmpfs(&scene.outside);
    assert_eq!(gaps(&scene.drained(), 2).len(), 1);
    fs::write(scene.outside.join("g"), "x").expect("write");
    assert_eq!(places(&scene.drained(), 2), set(&["./g"]));
}

/// Everything that a path tells of may then be as before, the number of the mount too; only what was watched is gone.
#[test]
fn a_file_system_that_is_mounted_again_at_once_is_watched_again() {
    for prefer in [Prefer::Best, Prefer::Inotify] {
        let options = Options {
            prefer,
            ..Options::default()
        };
        let (stands, has_stopped) = sync_channel(1);
        let (go_on, is_to_go_on) = sync_channel::<()>(1);
        let stop = move |event: &Event| {
            let is_told = |what: &Touched| matches!(what, Touched::Name(name, _) if name.as_bytes() == b"stop");
            if matches!(event, Event::Touched { what, .. } if is_told(what)) {
                // Whoever asked for it may have gone, and then it is over.
                let _ = stands.send(());
                let _ = is_to_go_on.recv();
            }
        };
        let _limit = QUEUE_LIMIT.read().unwrap_or_else(PoisonError::into_inner);
        let Some(scene) = Scene::start_with(options, Mounts::Stay, None, stop) else {
            return;
        };
        let Some(disk) = Disk::new(&scene.outside.join("image")) else {
            return;
        };
        let point = scene.outside.join("point");
        fs::create_dir(&point).expect("mkdir");
        let mounted = Mounted::new(&[disk.0.as_ref()], &point);
        let roots = [(1, &scene.root), (2, &point)].map(|(key, path)| Root {
            key,
            path: path.clone(),
            mounts: Mounts::Stay,
        });
        scene.watcher.watch(roots.into());
        assert_eq!(gaps(&scene.drained(), 2).len(), 1);
        // Between two looks of the watcher's thread.
        fs::write(scene.root.join("stop"), "").expect("write");
        has_stopped.recv().expect("stopped");
        let again = format!("umount '{0}'; mount '{1}' '{0}'", point.display(), disk.0);
        shell(&again, &scene.root);
        drop((has_stopped, go_on));
        assert!(!gaps(&scene.drained(), 2).is_empty(), "{prefer:?}");
        fs::write(point.join("f"), "x").expect("write");
        assert!(places(&scene.drained(), 2).contains("./f"), "{prefer:?}");
        scene.watcher.watch(Vec::new());
        drop(mounted);
    }
}

/// A block device made of a file, with an ext4 file system; its path.
struct Disk(String);

impl Disk {
    fn new(image: &Path) -> Option<Self> {
        let image = image.display();
        let script = format!(
            "truncate -s 64M '{image}'; mkfs.ext4 -qF '{image}'; losetup -f --show '{image}'"
        );
        let made = Process::new("sh").args(["-ec", &script]).output();
        let made = made.expect("run sh");
        if !made.status.success() {
            skip(&format!("no loop device: {made:?}"));
            return None;
        }
        let path = String::from_utf8(made.stdout).expect("a path");
        Some(Self(path.trim().to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // In a test that failed there is nothing more to say.
        let _ = Process::new("losetup").args(["-d", &self.0]).output();
    }
}

#[test]
fn more_than_the_queue_holds_is_a_gap() {
    let _alone = QUEUE_LIMIT.write().unwrap_or_else(PoisonError::into_inner);
    let Some(setting) = Setting::lower("/proc/sys/fs/fanotify/max_queued_events", "10") else {
        return;
    };
    let scene = Scene::start(Options::default(), Mounts::Stay, None);
    drop(setting);
    let Some(scene) = scene else {
        return;
    };
    // More than what one read takes away meanwhile.
    for number in 0..2000 {
        fs::write(scene.root.join(number.to_string()), "x").expect("write");
    }
    let events = scene.drained();
    let gaps = gaps(&events, 1);
    assert!(gaps.iter().any(|gap| gap.contains("queue")), "{gaps:?}");
    // It goes on; but what others do on this file system may be too much for this small queue again.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        fs::write(scene.root.join("f"), "x").expect("write");
        let events = scene.drained();
        if self::gaps(&events, 1).is_empty() {
            assert_eq!(places(&events, 1), set(&["./f"]));
            return;
        }
        assert!(Instant::now() < deadline, "{events:?}");
    }
}

#[test]
fn a_directory_that_is_gone_at_once_is_no_gap() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    for _ in 0..TRIES {
        for _ in 0..200 {
            fs::create_dir_all(scene.root.join("a/b")).expect("mkdir");
            fs::write(scene.root.join("a/b/f"), "x").expect("write");
            fs::remove_dir_all(scene.root.join("a")).expect("rm -r");
        }
        let events = scene.drained();
        if !is_overflow(&gaps(&events, 1)) {
            assert!(places(&events, 1).contains("./a"));
            return;
        }
    }
    unreachable!("the kernel's queue was full {TRIES} times");
}

#[test]
fn nested_roots_are_both_told() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let inner = scene.root.join("a/inner");
    fs::create_dir_all(&inner).expect("mkdir");
    fs::create_dir(scene.root.join("d")).expect("mkdir");
    let root = |key, path: &Path| Root {
        key,
        path: path.to_owned(),
        mounts: Mounts::Stay,
    };
    scene
        .watcher
        .watch(vec![root(1, &scene.root), root(2, &inner)]);
    let events = scene.drained();
    assert_eq!(gaps(&events, 1), [""; 0], "already watched");
    assert_eq!(gaps(&events, 2).len(), 1);
    fs::write(inner.join("f"), "x").expect("write");
    let events = scene.drained();
    assert_eq!(places(&events, 1), set(&["a/inner/f"]));
    assert_eq!(places(&events, 2), set(&["./f"]));
    fs::rename(scene.root.join("d"), inner.join("d")).expect("mv");
    let events = scene.drained();
    assert!(places(&events, 2).contains("./d/"), "{events:?}");
    scene.watcher.watch(vec![root(2, &inner)]);
    scene.drained();
    fs::write(inner.join("g"), "x").expect("write");
    let events = scene.drained();
    assert_eq!(places(&events, 1), set(&[]));
    assert_eq!(places(&events, 2), set(&["./g"]));
}

#[test]
fn what_happens_elsewhere_is_not_told() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    // Its path begins with the root's, but not with its components.
    let sibling = scene.root.with_file_name("root2");
    for directory in [&scene.outside, &sibling] {
        fs::create_dir_all(directory.join("a/b")).expect("mkdir");
        fs::write(directory.join("a/b/f"), "x").expect("write");
        fs::rename(directory.join("a"), directory.join("c")).expect("mv");
    }
    assert_eq!(scene.drained(), []);
}

#[test]
fn ignored_directories_and_this_process_are_not_told() {
    let _limit = QUEUE_LIMIT.read().unwrap_or_else(PoisonError::into_inner);
    let ignored = tempfile::tempdir().expect("ignored");
    let options = Options {
        ignored: vec![ignored.path().to_owned()],
        prefer: Prefer::Best,
    };
    let own = Some(std::process::id());
    let Some(scene) = Scene::start(options, Mounts::Stay, own) else {
        return;
    };
    scene.watcher.watch(vec![Root {
        key: 2,
        path: std::env::temp_dir(),
        mounts: Mounts::Stay,
    }]);
    scene.watcher.drain();
    scene.events.lock().expect("events").clear();
    let mine = |events: &[Event], name: &str| {
        events.iter().any(|event| {
            matches!(event, Event::Touched { what: Touched::Name(told, _), .. }
                if told.as_bytes() == name.as_bytes())
        })
    };
    shell("echo x > ignored-file", ignored.path());
    shell("echo x > foreign-file", &scene.root);
    fs::write(scene.root.join("own-file"), "x").expect("write");
    // Moved by this process, changed by another: the path known before must not count.
    fs::create_dir(scene.outside.join("d")).expect("mkdir");
    shell("echo x > before", &scene.outside.join("d"));
    scene.watcher.drain();
    fs::rename(scene.outside.join("d"), scene.root.join("d")).expect("mv");
    shell("echo x > after", &scene.root.join("d"));
    let events = scene.drained();
    assert!(!mine(&events, "ignored-file"), "{events:?}");
    assert!(!mine(&events, "own-file"), "{events:?}");
    assert!(mine(&events, "foreign-file"), "{events:?}");
    let in_root = |event: &&Event| matches!(event, Event::Touched { path, .. } if path.as_bytes().ends_with(b"root/d"));
    assert!(events.iter().any(|event| in_root(&event)), "{events:?}");
}

#[test]
fn what_inotify_hears_of_ignored_directories_is_not_told() {
    let _limit = QUEUE_LIMIT.read().unwrap_or_else(PoisonError::into_inner);
    let parent = tempfile::tempdir().expect("parent");
    let state = parent.path().join("state");
    fs::create_dir_all(state.join("deep")).expect("mkdir");
    let options = Options {
        ignored: vec![state.clone()],
        prefer: Prefer::Inotify,
    };
    let scene = Scene::start(options, Mounts::Stay, None).expect("a scene");
    scene.watcher.watch(vec![Root {
        key: 2,
        path: parent.path().to_owned(),
        mounts: Mounts::Stay,
    }]);
    scene.drained();
    fs::write(state.join("deep/f"), "x").expect("write");
    fs::create_dir(state.join("new")).expect("mkdir");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(parent.path().join("state2"), "x").expect("write");
    let told = places(&scene.drained(), 2);
    assert_eq!(told, set(&["./state", "./state2"]));
}

#[test]
fn names_are_bytes_of_any_length() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let long = vec![b'x'; 255];
    let names = [&b"\xff\xfe\n"[..], &long];
    for name in names {
        let directory = scene.root.join(OsStr::from_bytes(name));
        fs::create_dir(&directory).expect("mkdir");
        fs::write(directory.join(OsStr::from_bytes(name)), "x").expect("write");
    }
    let mut told = BTreeSet::new();
    for event in scene.drained() {
        if let Event::Touched { path, what, .. } = event
            && let Touched::Name(name, Reach::Entry | Reach::Content) = what
        {
            told.insert((path.as_bytes().to_vec(), name.as_bytes().to_vec()));
        }
    }
    for name in names {
        assert!(told.contains(&(Vec::new(), name.to_vec())));
        assert!(told.contains(&(name.to_vec(), name.to_vec())));
    }
}

#[test]
fn directories_deeper_than_a_path_can_say_are_told_by_identity() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let name = "x".repeat(200);
    let script = format!(
        "for i in $(seq 30); do mkdir {name}; cd -P ./{name} || exit 1; done; echo x > f; stat -c %i . > '{}/inode'",
        scene.outside.display()
    );
    shell(&script, &scene.root);
    let inode: u64 = fs::read_to_string(scene.outside.join("inode"))
        .expect("inode")
        .trim()
        .parse()
        .expect("number");
    let events = scene.drained();
    assert_eq!(gaps(&events, 1), [""; 0]);
    let file = Name::new("f").expect("name");
    assert!(events.iter().any(|event| matches!(event,
        Event::Touched { directory, what: Touched::Name(name, _), .. }
            if directory.inode == inode && *name == file)));
}

#[test]
fn a_drain_tells_everything_before_it() {
    // Few enough for the kernel's queue if nobody reads it meanwhile: other tests write to the same file system.
    const FILES: u32 = 2000;
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    for number in 0..FILES {
        fs::write(scene.root.join(number.to_string()), "x").expect("write");
    }
    let told = scene.told();
    for number in 0..FILES {
        assert!(told.contains(&format!("./{number}")), "{number}");
    }
}

/// Inode number and birth time: the number alone is soon given again.
type Id = (u64, i64, u32);

fn id(path: &Path) -> Id {
    let stat = fs::symlink_metadata(path).expect("stat");
    let born = stat.created().expect("birth time");
    let born = born.duration_since(std::time::UNIX_EPOCH).expect("date");
    (
        stat.ino(),
        born.as_secs().cast_signed(),
        born.subsec_nanos(),
    )
}

fn id_of(identity: Identity) -> Id {
    let born = identity.born.expect("birth time");
    (identity.inode, born.seconds, born.nanoseconds)
}

/// What a look at a tree by stat finds.
#[derive(Default)]
struct Snapshot {
    /// By directory and name.
    entries: BTreeMap<(Id, Vec<u8>), Found>,
    /// The directory and name of each directory but the root.
    parents: BTreeMap<Id, (Id, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    id: Id,
    is_directory: bool,
    /// Mode, owner, size, modified, changed.
    state: (u32, u32, u64, (i64, i64), (i64, i64)),
}

impl Snapshot {
    fn take(root: &Path) -> Self {
        let mut snapshot = Self::default();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let directory = id(&path);
            for entry in fs::read_dir(&path).expect("list") {
                let entry = entry.expect("entry");
                let stat = entry.metadata().expect("stat");
                let key = (directory, entry.file_name().as_bytes().to_vec());
                if stat.is_dir() {
                    pending.push(entry.path());
                    snapshot.parents.insert(id(&entry.path()), key.clone());
                }
                let found = Found {
                    id: id(&entry.path()),
                    is_directory: stat.is_dir(),
                    state: (
                        stat.mode(),
                        stat.uid(),
                        stat.size(),
                        (stat.mtime(), stat.mtime_nsec()),
                        (stat.ctime(), stat.ctime_nsec()),
                    ),
                };
                snapshot.entries.insert(key, found);
            }
        }
        snapshot
    }
}

type Difference = ((Id, Vec<u8>), Option<Found>, Option<Found>);

/// Every difference between the two that no event tells of.
fn untold(before: &Snapshot, after: &Snapshot, events: &[Event], root: Id) -> Vec<Difference> {
    let mut names = BTreeSet::new();
    let mut whole = BTreeSet::new();
    let mut directories = BTreeSet::new();
    // Files lose a name with a directory that is gone, too; its own name is checked.
    let is_there = |directory| directory == root || after.parents.contains_key(&directory);
    let mut ids: BTreeSet<Id> = before
        .entries
        .iter()
        .filter(|(key, _)| !is_there(key.0))
        .map(|(_, found)| found.id)
        .collect();
    for event in events {
        let Event::Touched {
            directory, what, ..
        } = event
        else {
            continue;
        };
        directories.insert(id_of(*directory));
        if let Touched::Name(name, reach) = what {
            let key = (id_of(*directory), name.as_bytes().to_vec());
            for snapshot in [before, after] {
                ids.extend(snapshot.entries.get(&key).map(|found| found.id));
            }
            if *reach == Reach::Below {
                whole.insert(key.clone());
            }
            names.insert(key);
        }
    }
    let below_whole = |mut directory: Id| {
        while let Some(key) = after.parents.get(&directory) {
            if whole.contains(key) {
                return true;
            }
            directory = key.0;
        }
        false
    };
    // A name that vanished below one of them was a name of a file elsewhere, too.
    let in_whole = before
        .entries
        .iter()
        .chain(&after.entries)
        .filter(|(key, _)| below_whole(key.0));
    ids.extend(in_whole.map(|(_, found)| found.id));
    let keys: BTreeSet<_> = before.entries.keys().chain(after.entries.keys()).collect();
    let mut untold = Vec::new();
    for key in keys {
        let (old, new) = (before.entries.get(key), after.entries.get(key));
        if old == new || !is_there(key.0) || names.contains(key) || below_whole(key.0) {
            continue;
        }
        let told_by_id = match (old, new) {
            (Some(old), Some(new)) if old.id == new.id => {
                if new.is_directory {
                    directories.contains(&new.id)
                } else {
                    ids.contains(&new.id)
                }
            }
            _ => false,
        };
        if !told_by_id {
            untold.push((key.clone(), old.cloned(), new.cloned()));
        }
    }
    untold
}

/// A small generator: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// All directories below `top`, itself included, and all other entries.
fn everything(top: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut files) = (vec![top.to_owned()], Vec::new());
    let mut next = 0;
    while next < directories.len() {
        for entry in fs::read_dir(&directories[next]).expect("list") {
            let path = entry.expect("entry").path();
            if fs::symlink_metadata(&path).expect("stat").is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
        next += 1;
    }
    (directories, files)
}

/// One random change in the scene; one that is impossible changes nothing. Gives back the file that got another
/// name.
fn change(scene: &Scene, dice: &mut Dice) -> Option<Id> {
    let (mut directories, mut files) = everything(&scene.root);
    let (others, more) = everything(&scene.outside);
    directories.extend(others);
    files.extend(more);
    let directory = directories[dice.roll(directories.len())].clone();
    let target = directory.join(format!("n{}", dice.roll(6)));
    let any_directory = directories[dice.roll(directories.len())].clone();
    let movable = any_directory != scene.root && any_directory != scene.outside;
    let file = (!files.is_empty()).then(|| files[dice.roll(files.len())].clone());
    let mut linked = None;
    let _ = match (dice.roll(12), file) {
        (0 | 1, _) => fs::create_dir(&target),
        (2 | 3, _) => fs::write(&target, vec![b'x'; dice.roll(9000)]),
        (4 | 5, _) if movable => fs::rename(&any_directory, &target),
        (6, Some(file)) => fs::rename(file, &target),
        (7, Some(file)) => fs::remove_file(file),
        (8, Some(file)) => {
            linked = Some(id(&file));
            fs::hard_link(file, &target)
        }
        (9, Some(file)) => fs::File::options()
            .append(true)
            .open(file)
            .and_then(|mut file| io::Write::write_all(&mut file, b"more")),
        (10, _) => {
            let mode = 0o700 + dice.roll(64) as u32;
            fs::set_permissions(any_directory, fs::Permissions::from_mode(mode))
        }
        (11, _) if movable && dice.roll(2) == 0 => fs::remove_dir_all(any_directory),
        _ => fs::remove_dir(any_directory.join("n1")),
    };
    linked
}

/// Makes the kernel's clock move, so that two changes never have the same time.
fn tick(scene: &Scene) {
    let file = scene.outside.with_file_name("clock");
    fs::write(&file, "").expect("write");
    let read = || {
        let stat = fs::metadata(&file).expect("stat");
        (stat.ctime(), stat.ctime_nsec())
    };
    let before = read();
    let deadline = Instant::now() + Duration::from_secs(5);
    while read() == before {
        assert!(Instant::now() < deadline, "the clock stands");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
}

/// Random changes in a scene; after every few, what differs by stat was told.
fn model(scene: &Scene, seed: u64) {
    let mut dice = Dice(seed);
    let root = id(&scene.root);
    let mut before = Snapshot::take(&scene.root);
    for round in 0..60 {
        tick(scene);
        // Names of a file that are outside, or that come and go, are the kernel's blind spot, as `watch` says.
        let mut blind: BTreeSet<Id> = everything(&scene.outside)
            .1
            .iter()
            .map(|file| id(file))
            .collect();
        for _ in 0..=dice.roll(12) {
            blind.extend(change(scene, &mut dice));
            // Sometimes the thread reads in the middle.
            if dice.roll(8) == 0 {
                scene.watcher.drain();
            }
        }
        let events = scene.drained();
        let after = Snapshot::take(&scene.root);
        assert_eq!(gaps(&events, 1), [""; 0], "seed {seed}, round {round}");
        blind.extend(everything(&scene.outside).1.iter().map(|file| id(file)));
        let untold: Vec<_> = untold(&before, &after, &events, root)
            .into_iter()
            .filter(|(_, old, new)| {
                ![old, new]
                    .into_iter()
                    .flatten()
                    .any(|found| blind.contains(&found.id))
            })
            .collect();
        assert!(
            untold.is_empty(),
            "seed {seed}, round {round}: {untold:#?}\n{events:#?}"
        );
        before = after;
    }
}

#[test]
fn whatever_changes_is_told() {
    for seed in 1..=10 {
        let Some(scene) = Scene::new(Mounts::Stay) else {
            return;
        };
        model(&scene, seed * 7919);
    }
}

impl Scene {
    /// With one root, key 1, under inotify.
    fn with_inotify() -> Self {
        let limit = QUEUE_LIMIT.read().unwrap_or_else(PoisonError::into_inner);
        let options = Options {
            prefer: Prefer::Inotify,
            ..Options::default()
        };
        let mut scene = Self::start(options, Mounts::Stay, None).expect("a scene");
        scene._limit = Some(limit);
        let method = scene.watcher.method(1);
        assert!(matches!(method, Method::Inotify { .. }), "{method:?}");
        scene
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

#[test]
fn inotify_tells_every_change() {
    let scene = Scene::with_inotify();
    let told_after = |what: &str, place: &str, change: &dyn Fn()| {
        change();
        let told = scene.told();
        assert!(told.contains(place), "{what}: {told:?}");
    };
    let file = scene.root.join("f");
    told_after("create", "./f", &|| fs::write(&file, "x").expect("write"));
    told_after("modify", "./f", &|| fs::write(&file, "y").expect("write"));
    told_after("chmod", "./f", &|| {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    });
    told_after("mkdir", "./d/", &|| {
        fs::create_dir_all(scene.root.join("d/e")).expect("mkdir");
    });
    told_after("write in a new one", "d/e/f", &|| {
        fs::write(scene.root.join("d/e/f"), "x").expect("write");
    });
    told_after("directory's mode", "d/e/.", &|| {
        fs::set_permissions(scene.root.join("d/e"), fs::Permissions::from_mode(0o700))
            .expect("chmod");
    });
    told_after("root's mode", "./.", &|| {
        fs::set_permissions(&scene.root, fs::Permissions::from_mode(0o700)).expect("chmod");
    });
    told_after("move out", "d/e", &|| {
        fs::rename(scene.root.join("d/e"), scene.outside.join("e")).expect("mv");
    });
    fs::write(scene.outside.join("e/f"), "outside").expect("write");
    assert_eq!(scene.told(), set(&[]));
    told_after("move in", "./e/", &|| {
        fs::rename(scene.outside.join("e"), scene.root.join("e")).expect("mv");
    });
    told_after("write in a moved one", "e/f", &|| {
        fs::write(scene.root.join("e/f"), "inside").expect("write");
    });
    told_after("unlink", "./f", &|| fs::remove_file(&file).expect("unlink"));
    symlink(&scene.outside, scene.root.join("link")).expect("symlink");
    scene.told();
    fs::write(scene.outside.join("behind"), "x").expect("write");
    assert_eq!(scene.told(), set(&[]), "links are not followed");
}

#[test]
fn whatever_changes_is_told_by_inotify() {
    for seed in 1..=5 {
        model(&Scene::with_inotify(), seed * 104_729);
    }
}

#[test]
fn inotify_watches_what_was_made_behind_its_back() {
    let scene = Scene::with_inotify();
    for round in 0..50 {
        let top = scene.root.join(round.to_string());
        shell("mkdir -p a/b/c && echo x > a/b/c/f && mv a d", {
            fs::create_dir(&top).expect("mkdir");
            &top
        });
        scene.told();
        fs::write(top.join("d/b/c/f"), "later").expect("write");
        let told = scene.told();
        assert!(told.contains(&format!("{round}/d/b/c/f")), "{told:?}");
    }
}

#[test]
fn inotify_drains_everything_before_it() {
    let scene = Scene::with_inotify();
    for number in 0..1000 {
        fs::write(scene.root.join(number.to_string()), "x").expect("write");
    }
    let told = scene.told();
    for number in 0..1000 {
        assert!(told.contains(&format!("./{number}")), "{number}");
    }
}

#[test]
fn a_root_made_anew_is_a_gap_under_inotify_too() {
    let scene = Scene::with_inotify();
    fs::remove_dir(&scene.root).expect("rmdir");
    assert_eq!(scene.gaps().len(), 1);
    fs::create_dir(&scene.root).expect("mkdir");
    assert_eq!(scene.gaps(), ["it is watched again"]);
    fs::write(scene.root.join("f"), "x").expect("write");
    assert!(scene.told().contains("./f"));
}

#[test]
fn more_than_inotify_holds_is_a_gap() {
    let _alone = QUEUE_LIMIT.write().unwrap_or_else(PoisonError::into_inner);
    let Some(setting) = Setting::lower("/proc/sys/fs/inotify/max_queued_events", "2") else {
        return;
    };
    let options = Options {
        prefer: Prefer::Inotify,
        ..Options::default()
    };
    let scene = Scene::start(options, Mounts::Stay, None).expect("a scene");
    drop(setting);
    for number in 0..2000 {
        fs::write(scene.root.join(number.to_string()), "x").expect("write");
    }
    let gaps = scene.gaps();
    assert!(gaps.iter().any(|gap| gap.contains("queue")), "{gaps:?}");
    scene.drained();
    fs::write(scene.root.join("f"), "x").expect("write");
    assert!(scene.told().contains("./f"), "and it goes on");
}

#[test]
fn too_few_inotify_watches_are_told_with_what_to_do() {
    let _alone = QUEUE_LIMIT.write().unwrap_or_else(PoisonError::into_inner);
    let Some(_setting) = Setting::lower("/proc/sys/fs/inotify/max_user_watches", "1") else {
        return;
    };
    let options = Options {
        prefer: Prefer::Inotify,
        ..Options::default()
    };
    let scene = Scene::start(options, Mounts::Stay, None).expect("a scene");
    let method = scene.watcher.method(1);
    assert!(
        matches!(&method, Method::Unwatched { why } if why.contains("max_user_watches")),
        "{method:?}"
    );
}

#[test]
fn nothing_is_watched_where_the_user_wants_none() {
    let options = Options {
        prefer: Prefer::Periodic,
        ..Options::default()
    };
    let scene = Scene::start(options, Mounts::Stay, None).expect("a scene");
    assert!(matches!(scene.watcher.method(1), Method::Unwatched { .. }));
    assert_eq!(scene.drained(), []);
}

#[test]
fn a_sink_that_panics_ends_the_watcher_and_hangs_nobody() {
    let scratch = tempfile::tempdir().expect("scratch");
    let watcher = Watcher::start(Options::default(), |_| unreachable!("as the test wants it"))
        .expect("start");
    watcher.watch(vec![Root {
        key: 1,
        path: scratch.path().to_owned(),
        mounts: Mounts::Stay,
    }]);
    watcher.drain();
    let method = watcher.method(1);
    assert!(
        matches!(&method, Method::Unwatched { why } if why.contains("ended")),
        "{method:?}"
    );
}

/// Runs a test of this binary, one that is ignored, under `setpriv` with these arguments.
fn run_without_privileges(arguments: &[&str], test: &str) {
    let scratch = tempfile::tempdir().expect("scratch");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let binary = scratch.path().join("tests");
    fs::copy(std::env::current_exe().expect("own path"), &binary).expect("copy");
    let output = Process::new("setpriv")
        .args(arguments)
        .arg(&binary)
        .args(["--exact", "--ignored", "--nocapture", test])
        .env("TMPDIR", scratch.path())
        .output();
    let output = match output {
        Ok(output) if rustix::process::geteuid().is_root() => output,
        Ok(_) => return skip("only root can give privileges away"),
        Err(error) => return skip(&format!("setpriv: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

#[test]
fn without_privileges_there_is_inotify() {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    run_without_privileges(&nobody, "watch::tests::child_of_nobody");
    let bounded = ["--bounding-set=-dac_read_search"];
    run_without_privileges(&bounded, "watch::tests::child_that_may_not_open_handles");
}

/// The reason for which fanotify is not used, in a scene that works all the same.
fn why_inotify() -> String {
    let scene = Scene::start(
        Options {
            prefer: Prefer::Best,
            ..Options::default()
        },
        Mounts::Stay,
        Some(std::process::id()),
    )
    .expect("a scene");
    fs::write(scene.root.join("f"), "x").expect("write");
    assert!(scene.told().contains("./f"));
    match scene.watcher.method(1) {
        Method::Inotify { why_not_fanotify } => why_not_fanotify,
        other => unreachable!("{other:?}"),
    }
}

#[test]
#[ignore = "run by another test as another user"]
fn child_of_nobody() {
    let why = why_inotify();
    assert!(why.contains("AmbientCapabilities=CAP_SYS_ADMIN"), "{why}");
}

#[test]
#[ignore = "run by another test without a capability"]
fn child_that_may_not_open_handles() {
    let why = why_inotify();
    assert!(why.contains("needs CAP_DAC_READ_SEARCH"), "{why}");
}

#[test]
fn file_systems_that_fanotify_refuses_get_inotify() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    for name in ["lower", "upper", "work", "overlay", "btrfs"] {
        fs::create_dir(scene.outside.join(name)).expect("mkdir");
    }
    let outside = scene.outside.display().to_string();
    let overlay = scene.outside.join("overlay");
    let options =
        format!("lowerdir={outside}/lower,upperdir={outside}/upper,workdir={outside}/work");
    let mut mounted = Vec::new();
    let mount = |arguments: &[&str], at: &Path| {
        let done = Process::new("mount").args(arguments).arg(at).output();
        done.is_ok_and(|output| output.status.success())
            .then(|| Mounted(at.to_owned()))
    };
    let mut roots = Vec::new();
    match mount(&["-t", "overlay", "-o", &options, "none"], &overlay) {
        Some(mount) => {
            mounted.push(mount);
            roots.push(overlay);
        }
        None => skip("overlayfs cannot be mounted"),
    }
    let image = scene.outside.join("image");
    let made = fs::File::create(&image)
        .and_then(|file| file.set_len(256 << 20))
        .and_then(|()| Process::new("mkfs.btrfs").arg("-q").arg(&image).output());
    let btrfs = scene.outside.join("btrfs");
    let image = image.display().to_string();
    match made
        .ok()
        .and_then(|_| mount(&["-o", "loop", &image], &btrfs))
    {
        Some(mount) => {
            mounted.push(mount);
            shell("btrfs -q subvolume create sub", &btrfs);
            roots.push(btrfs.join("sub"));
        }
        None => skip("btrfs cannot be mounted"),
    }
    for path in roots {
        scene.watcher.watch(vec![Root {
            key: 2,
            path: path.clone(),
            mounts: Mounts::Stay,
        }]);
        scene.drained();
        let method = scene.watcher.method(2);
        assert!(matches!(method, Method::Inotify { .. }), "{method:?}");
        eprintln!("{method:?}");
        fs::write(path.join("f"), "x").expect("write");
        assert!(places(&scene.drained(), 2).contains("./f"));
        scene.watcher.watch(Vec::new());
    }
}

/// Processor time that the watcher's thread has used, in nanoseconds.
fn thread_nanoseconds() -> u64 {
    for task in fs::read_dir("/proc/self/task").expect("tasks") {
        let task = task.expect("task").path();
        if fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "watcher") {
            let statistics = fs::read_to_string(task.join("schedstat")).expect("schedstat");
            let used = statistics.split(' ').next().expect("a number");
            return used.parse().expect("a number");
        }
    }
    unreachable!("the watcher has a thread");
}

/// Writes 5,000 times a second to files in `directory` for ten seconds; what share of one core the watcher took.
fn share_of_a_core(directory: &Path, watcher: &Watcher) -> f64 {
    const FILES: usize = 1000;
    const A_TICK: usize = 5;
    let mut files = Vec::new();
    for number in 0..FILES {
        let parent = directory.join((number % 50).to_string());
        fs::create_dir_all(&parent).expect("mkdir");
        files.push(fs::File::create(parent.join(number.to_string())).expect("create"));
    }
    watcher.drain();
    let (start, before) = (Instant::now(), thread_nanoseconds());
    for tick in 0..10_000 {
        for number in 0..A_TICK {
            let file = &mut files[(tick * A_TICK + number) % FILES];
            io::Write::write_all(file, b"x").expect("write");
        }
        let next = start + Duration::from_millis(tick as u64 + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let used = Duration::from_nanos(thread_nanoseconds() - before);
    used.as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement, for a quiet machine: run it alone, optimised, with --nocapture"]
fn cost_of_watching() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let inside = share_of_a_core(&scene.root, &scene.watcher);
    let told = scene.drained().len();
    let outside = share_of_a_core(&scene.outside, &scene.watcher);
    let idle = thread_nanoseconds();
    std::thread::sleep(Duration::from_secs(5));
    let idle = Duration::from_nanos(thread_nanoseconds() - idle).as_secs_f64() / 5.0;
    println!(
        "share of a core at 5,000 events/s: inside {:.2} % ({told} told), outside {:.2} %; at rest {:.3} %",
        inside * 100.0,
        outside * 100.0,
        idle * 100.0
    );
}
