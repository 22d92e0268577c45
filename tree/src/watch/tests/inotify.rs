//! Where the watcher has inotify alone.

use super::model::model;
use super::*;

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
