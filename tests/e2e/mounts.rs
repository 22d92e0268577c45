//! Mounts in and around sources: one inode at two places, a file system that went, a spare where datasets are.

use std::path::Path;

use crate::support::command::Run;
use crate::support::disks::Mounted;
use crate::support::needs::needs;
use crate::support::{Kind, Stage, judge};

fn sync(stage: &Stage) -> Run {
    Run::new([
        "sync",
        "--cross-mounts",
        "--json",
        "--dataset",
        "tree",
        "--spare",
    ])
    .arg(stage.spare())
    .arg("--state")
    .arg(&stage.state)
    .arg(&stage.source)
}

fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn one_inode_at_two_places_is_kept_at_both() {
    needs!("one_inode_at_two_places_is_kept_at_both": "root", "rsync", "mount");
    let stage = Stage::new(Kind::Embedded);
    let live = stage.store.join("tree/live/files");
    for name in ["a/one", "a/deep/two", "a/deep/er/three"] {
        write(&stage.source.join(name), name);
    }
    std::os::unix::fs::symlink("one", stage.source.join("a/link")).unwrap();
    std::fs::create_dir(stage.source.join("b")).unwrap();
    sync(&stage).ok();
    // What is mounted a second time has not moved.
    let (a, b) = (stage.source.join("a"), stage.source.join("b"));
    let _mounted = Mounted::new(&["--bind"], &a, &b);
    sync(&stage).ok();
    assert_eq!(judge::rsync(&stage.source, &live, &[]), "");
    for round in 0..3 {
        write(&stage.source.join("a/deep/two"), &format!("round {round}"));
        write(&stage.source.join(format!("a/new {round}")), "new");
        std::fs::rename(
            stage.source.join("a/deep"),
            stage.source.join("a/deep away"),
        )
        .unwrap();
        sync(&stage).ok();
        std::fs::rename(
            stage.source.join("a/deep away"),
            stage.source.join("a/deep"),
        )
        .unwrap();
        // A file that changed at both places at once may take a second cycle at one of them.
        sync(&stage).ok();
        sync(&stage).ok();
        assert_eq!(judge::rsync(&stage.source, &live, &[]), "");
    }
}

#[test]
fn a_file_system_in_the_source_that_is_not_mounted_deletes_nothing() {
    needs!("a_file_system_in_the_source_that_is_not_mounted_deletes_nothing": "root", "rsync", "mount");
    let stage = Stage::new(Kind::Embedded);
    let live = stage.store.join("tree/live/files");
    write(&stage.source.join("outside"), "outside");
    let inner = stage.source.join("inner");
    std::fs::create_dir(&inner).unwrap();
    {
        let _mounted = Mounted::new(&["-t", "tmpfs"], Path::new("none"), &inner);
        write(&inner.join("deep/file"), "inside");
        sync(&stage).ok();
        judge::same(&stage.source, &live);
    }
    let outcome = sync(&stage).expect(3);
    outcome.mentions(&["inner", "not mounted"]);
    let kept = std::fs::read_to_string(live.join("inner/deep/file")).unwrap();
    assert_eq!(kept, "inside");
    // Something in it says that it is meant.
    write(&inner.join("new"), "meant");
    sync(&stage).ok();
    judge::same(&stage.source, &live);
}

#[test]
fn a_spare_among_the_datasets_is_no_dataset() {
    let stage = Stage::new(Kind::Embedded);
    let parent = stage.path().join("srv");
    write(&parent.join("site/file"), "content");
    let file = stage.path().join("agent.toml");
    let spare = parent.join("spare");
    let text = format!(
        "spare = {spare:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = \"{}/*\"\n",
        stage.state,
        parent.display()
    );
    std::fs::write(&file, text).unwrap();
    // It is not there yet, and would be a dataset as soon as it is.
    let run = Run::new(["agent", "--once", "--config"]).arg(&file);
    run.expect(2).mentions(&["spare"]);
    assert!(!spare.exists(), "it was made all the same");
    std::fs::create_dir(&spare).unwrap();
    run.expect(2).mentions(&["spare"]);
}
