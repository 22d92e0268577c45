//! Without privileges, and where fanotify is refused.

use super::*;

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
    run_without_privileges(&nobody, "watch::tests::privileges::child_of_nobody");
    let bounded = ["--bounding-set=-dac_read_search"];
    run_without_privileges(
        &bounded,
        "watch::tests::privileges::child_that_may_not_open_handles",
    );
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
