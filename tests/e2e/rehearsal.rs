//! A promotion for practice: goes through all of it, and reaches nothing of the store.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::support::command::{binary, tool};
use crate::support::disks::Disk;
use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Kind, Random, Run, Stage, judge, trees};

/// The second of these hooks can be rehearsed: it changes a file in place, adds one, and tells what it was told.
fn configure(stage: &Stage, script: &str) -> PathBuf {
    let config = stage.path().join("receiver.toml");
    let (store, moved) = (&stage.store, stage.path().join("moved"));
    let text = format!(
        "store = {store:?}\non_promote = [[\"/bin/touch\", {moved:?}], {{ run = [\"/bin/sh\", \"-c\", {script:?}], rehearse = true }}]\n"
    );
    fs::write(&config, text).unwrap();
    config
}

fn drill(config: &Path) -> Run {
    Run::new(["drill", DATASET, "--promote", "--config"]).arg(config)
}

fn facts(config: &Path) -> Run {
    Run::new(["promote", DATASET, "--dry-run", "--config"]).arg(config)
}

fn left(place: &Path) -> Vec<String> {
    let names = fs::read_dir(place).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("understudy.drill"))
        .collect()
}

fn practise(stage: &Stage, by: &str) {
    trees::mixed(&mut Random::new(7), &stage.source, 60);
    fs::write(stage.source.join("page"), "as the main has it\n").unwrap();
    stage.sync().ok();
    fs::write(stage.source.join("page"), "as the main has it now\n").unwrap();
    stage.sync().ok();
    let told = stage.path().join("told");
    let copy = stage.path().join("copy");
    let script = format!(
        "cp -a \"$UNDERSTUDY_PATH\" {1}; cat \"$UNDERSTUDY_PATH/page\" > {0}; echo $UNDERSTUDY_REHEARSAL $UNDERSTUDY_DATASET $UNDERSTUDY_EPOCH $UNDERSTUDY_SNAPSHOT >> {0}; \
         echo changed 1<> \"$UNDERSTUDY_PATH/page\"; echo added > \"$UNDERSTUDY_PATH/added\"; echo loaded",
        told.display(),
        copy.display()
    );
    let config = configure(stage, &script);
    let before = facts(&config).ok();
    assert!(!before.said().contains("practised"), "{}", before.said());

    let data = drill(&config).data();
    assert_eq!(
        fs::read_to_string(&told).unwrap(),
        "as the main has it now\n1 site 2 2\n"
    );
    assert_eq!(
        (&data["whole"], &data["epoch"]),
        (&true.into(), &2.into()),
        "{data}"
    );
    assert_eq!(data["copied_by"], by);
    judge::same(&stage.source, &copy);
    assert_eq!(data["hooks"][0]["output"], "loaded\n", "{data}");
    assert_eq!(data["would_run"][0][0], "/bin/touch", "{data}");
    assert!(!stage.path().join("moved").exists());
    assert_eq!(left(&stage.store), Vec::<String>::new());

    judge::same(&stage.source, &stage.live());
    stage.ask("verify").ok();
    let after = facts(&config).ok();
    after.mentions(&[
        "practised",
        "with snapshot 2",
        "1 hook",
        "is the spare, in epoch 1",
    ]);
    stage
        .ask("status")
        .ok()
        .mentions(&["practised", "snapshot 2"]);
    // The spare goes on as if nothing had been, and can be promoted.
    fs::write(stage.source.join("page"), "and goes on\n").unwrap();
    stage.sync().ok();
    judge::same(&stage.source, &stage.live());
    Run::new(["promote", DATASET, "--yes", "--config"])
        .arg(&config)
        .ok();
    drill(&config).expect(5).mentions(&["other host"]);
}

#[test]
fn a_promotion_is_practised_on_a_copy() {
    practise(&Stage::new(Kind::Embedded), "copying");
}

#[test]
fn a_promotion_is_practised_on_a_copy_that_shares_blocks() {
    needs!("a_promotion_is_practised_on_a_copy_that_shares_blocks": "root", "mkfs.btrfs");
    let disk = Disk::btrfs(512);
    let stage = Stage::with_store_at(Kind::Embedded, &disk.root);
    practise(&stage, "sharing blocks");
}

#[test]
fn a_hook_that_fails_in_a_rehearsal_is_told_and_nothing_is_left() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("page"), "content\n").unwrap();
    stage.sync().ok();
    let config = configure(&stage, "echo no such database; exit 3");
    let scratch = stage.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let failed = drill(&config).arg("--scratch").arg(&scratch).expect(1);
    failed.mentions(&["no such database", "only read"]);
    assert_eq!(left(&scratch), Vec::<String>::new());
    let facts = facts(&config).ok();
    assert!(!facts.said().contains("practised"), "{}", facts.said());
    judge::same(&stage.source, &stage.live());
    // Without the word nobody knows which dataset is meant to be promoted where.
    Run::new(["drill", DATASET, "--config"])
        .arg(&config)
        .expect(2);
}

/// Debian's `nobody`.
const USER: u32 = 65534;

#[test]
fn an_ordinary_user_practises_too() {
    needs!("an_ordinary_user_practises_too": "root", "setpriv");
    let stage = Stage::below(Kind::Embedded, &std::env::temp_dir());
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(stage.path(), 0o755).unwrap();
    let program = stage.path().join("understudy");
    fs::copy(binary(), &program).unwrap();
    fs::write(stage.source.join("page"), "content\n").unwrap();
    mode(&stage.source, 0o555).unwrap();
    for place in [&stage.store, &stage.state] {
        fs::create_dir(place).unwrap();
        chown(place, Some(USER), Some(USER)).unwrap();
    }
    let [source, store, state] =
        [&stage.source, &stage.store, &stage.state].map(|path| path.to_str().unwrap());
    let as_user = |words: &[&str]| {
        let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
        let before = [
            user.as_str(),
            &group,
            "--clear-groups",
            program.to_str().unwrap(),
        ];
        tool("setpriv", [&before, words].concat());
    };
    as_user(&[
        "sync",
        source,
        "--dataset",
        DATASET,
        "--spare",
        store,
        "--state",
        state,
    ]);
    as_user(&["drill", DATASET, "--promote", "--store", store]);
    assert_eq!(left(&stage.store), Vec::<String>::new());
    // What root has written down keeps nobody else from the facts.
    Run::new(["drill", DATASET, "--promote", "--store", store]).ok();
    as_user(&["promote", DATASET, "--dry-run", "--store", store]);
}

#[test]
fn what_a_practice_left_that_was_killed_goes_with_the_next_one() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("page"), "content\n").unwrap();
    stage.sync().ok();
    let config = configure(&stage, "true");
    let killed = drill(&config).failing("promote.standing=return").outcome();
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(left(&stage.store).len(), 1);
    // Nobody takes it for a dataset, and the dataset is what it was.
    let facts = Run::new(["promote", "--all", "--dry-run", "--config"]).arg(&config);
    assert_eq!(facts.data()["datasets"].as_array().unwrap().len(), 1);
    stage.ask("verify").ok();
    drill(&config).ok();
    assert_eq!(left(&stage.store), Vec::<String>::new());
}
