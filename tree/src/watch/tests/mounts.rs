//! File systems that are mounted and unmounted in and around what is watched.

use super::*;

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
    // One more if the watcher looks in between.
    assert!(!gaps(&scene.drained(), 2).is_empty());
    let _mounted = Mounted::tmpfs(&scene.outside);
    assert!(!gaps(&scene.drained(), 2).is_empty());
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
