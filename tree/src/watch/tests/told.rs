//! What is told of changes, and what is not.

use super::*;

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
