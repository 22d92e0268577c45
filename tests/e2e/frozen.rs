//! Sources that are read from a snapshot of their file system, on btrfs, by the script that is an example.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::agent::Scene;
use crate::support::command::tool;
use crate::support::disks::Disk;
use crate::support::needs::needs;
use crate::support::{Kind, Run, Stage, judge};

const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/databases/examples/btrfs-snapshot.sh"
);

/// A scene with a subvolume of its own.
struct Frozen {
    scene: Scene,
    /// Goes last, for the source is on it.
    disk: Disk,
}

impl Frozen {
    /// `before` and `after` run around the making of a snapshot, with `$place` for notes.
    fn new(before: &str, after: &str) -> Self {
        let disk = Disk::btrfs(400);
        let mut scene = Scene::on(Stage::new(Kind::Embedded));
        scene.stage.source = disk.root.join("source");
        subvolume(&scene.stage.source);
        fs::create_dir(scene.stage.path().join("notes")).unwrap();
        fs::write(scene.at("page"), "first").unwrap();
        let make = program(
            &scene,
            "make",
            &format!("{before}\npath=$({EXAMPLE} make)\n{after}\necho \"$path\""),
        );
        let remove = program(&scene, "remove", &format!("{EXAMPLE} remove"));
        scene.dataset =
            format!("snapshot = {{ make = [{make:?}, \"make\"], remove = [{remove:?}] }}\n");
        Self { scene, disk }
    }

    fn snapshot(&self) -> PathBuf {
        self.disk.root.join(".understudy-site")
    }

    fn note(&self, name: &str) -> PathBuf {
        self.scene.stage.path().join("notes").join(name)
    }

    /// What has run, in its order; forgets it.
    fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.note("log")).unwrap_or_default();
        fs::remove_file(self.note("log")).ok();
        text.lines().map(str::to_owned).collect()
    }

    fn once(&self) -> Run {
        Run::new(["agent", "--once", "--config"]).arg(self.scene.configure())
    }

    fn live(&self, name: &str) -> String {
        fs::read_to_string(self.scene.live(name)).unwrap()
    }
}

fn subvolume(path: &Path) {
    let words = ["subvolume".as_ref(), "create".as_ref(), path.as_os_str()];
    tool("btrfs", words);
}

fn program(scene: &Scene, name: &str, script: &str) -> PathBuf {
    let program = scene.stage.path().join(name);
    let place = scene.stage.path().join("notes");
    let text = format!(
        "#!/bin/sh\nset -eu\nplace={}\necho {name} >> $place/log\n{script}\n",
        place.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn what_is_read_is_of_the_moment_of_the_snapshot() {
    needs!("what_is_read_is_of_the_moment_of_the_snapshot": "root", "mkfs.btrfs", "btrfs", "mount");
    let mut frozen = Frozen::new(
        "[ -e $place/quiet ] || printf before > $UNDERSTUDY_PATH/page",
        "[ -e $place/quiet ] || { printf after > $UNDERSTUDY_PATH/page; rm -f $UNDERSTUDY_PATH/goes; }",
    );
    fs::write(frozen.scene.at("goes"), "goes").unwrap();
    frozen.once().ok();
    assert_eq!(frozen.live("page"), "before");
    assert_eq!(frozen.live("goes"), "goes");
    assert_eq!(
        fs::read_to_string(frozen.scene.at("page")).unwrap(),
        "after"
    );
    assert_eq!(frozen.ran(), ["make", "remove"]);
    assert!(!frozen.snapshot().exists());
    assert!(!frozen.scene.stage.state.join("frozen/site").exists());
    // The index knows what is in a snapshot: nothing is read twice, whichever of both is read.
    fs::write(frozen.note("quiet"), "").unwrap();
    frozen.once().ok();
    std::thread::park_timeout(Duration::from_secs(1));
    frozen.once().ok();
    judge::same(&frozen.scene.stage.source, &frozen.scene.stage.live());
    frozen.scene.dataset = String::new();
    let data = frozen.once().data();
    assert_eq!(data["datasets"][0]["files_read"], 0, "{data}");
}

#[test]
fn what_changed_just_before_a_snapshot_is_read_once_more() {
    needs!("what_changed_just_before_a_snapshot_is_read_once_more": "root", "mkfs.btrfs", "btrfs", "mount");
    // It may have changed once more within the same tick of the clock, which is long ago when it is looked at.
    let frozen = Frozen::new(
        "[ -e $place/quiet ] || printf before > $UNDERSTUDY_PATH/page",
        "sleep 3",
    );
    let read = || frozen.once().data()["datasets"][0]["files_read"].clone();
    assert_eq!(read(), 1);
    fs::write(frozen.note("quiet"), "").unwrap();
    assert_eq!(read(), 1);
    assert_eq!(read(), 0);
}

#[test]
fn a_journal_leads_into_snapshots_and_loses_nothing_that_comes_after_them() {
    needs!("a_journal_leads_into_snapshots_and_loses_nothing_that_comes_after_them": "root", "mkfs.btrfs", "btrfs", "mount");
    // While there is a snapshot, every kind of change happens, of which it must have nothing.
    let frozen = Frozen::new(
        "",
        "[ -e $place/go ] || exec echo \"$path\"\n\
         cd $UNDERSTUDY_PATH; n=$(cat $place/go); rm $place/go\n\
         printf changed$n > d1/f300; rm -f d2/f6$n*; mv d3 moved$n; mkdir d3; mv moved$n/f901 d3/; printf new > d4/new$n\n\
         ln d5/f1500 d6/link$n; mv d7/f2100 d8/f2100.$n; mv d8/f2100.$n d7/f2100; chmod 600 d9/f270$n; cd /",
    );
    frozen.scene.fill();
    let mut agent = frozen.scene.watched();
    for round in 0..4 {
        fs::write(frozen.note("go"), format!("{round}")).unwrap();
        // Another one comes before it.
        fs::write(frozen.scene.at(&format!("d10/before{round}")), "before").unwrap();
        await_that("changed", || !frozen.note("go").exists());
        frozen.scene.settle(&mut agent);
    }
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
    await_that("removed", || !frozen.snapshot().exists());
}

#[test]
fn a_database_and_its_log_are_of_one_moment_in_a_snapshot() {
    needs!("a_database_and_its_log_are_of_one_moment_in_a_snapshot": "root", "mkfs.btrfs", "btrfs", "mount");
    let frozen = Frozen::new("", "");
    let open = |path: &Path| rusqlite::Connection::open(path).unwrap();
    let database = open(&frozen.scene.at("shop.db"));
    let sql = "PRAGMA journal_mode = WAL; CREATE TABLE rows (number INTEGER)";
    database.execute_batch(sql).unwrap();
    for number in 0..3 {
        database
            .execute("INSERT INTO rows VALUES (?1)", [number])
            .unwrap();
        let data = frozen.once().data();
        assert_eq!(data["datasets"][0]["sqlite_databases"], 1, "{data}");
        let snapshot = &data["datasets"][0]["snapshot"]["number"];
        assert_eq!(*snapshot, number + 1, "one snapshot has both: {data}");
        let copy = frozen.scene.stage.path().join("copy.db");
        fs::copy(frozen.scene.live("shop.db"), &copy).unwrap();
        let count = open(&copy).query_row("SELECT count(*) FROM rows", [], |row| row.get(0));
        assert_eq!(count, Ok(number + 1));
        assert!(!frozen.scene.live("shop.db-wal").exists());
    }
}

#[test]
fn an_application_is_still_for_no_longer_than_the_snapshot_takes() {
    needs!("an_application_is_still_for_no_longer_than_the_snapshot_takes": "root", "mkfs.btrfs", "btrfs", "mount");
    let mut frozen = Frozen::new("", "");
    let before = program(&frozen.scene, "before", "");
    let after = program(
        &frozen.scene,
        "after",
        "printf working > $UNDERSTUDY_PATH/page",
    );
    let engine = program(&frozen.scene, "engine $UNDERSTUDY_PHASE", "echo rows");
    let named = frozen.scene.stage.path().join("engine");
    fs::rename(engine, &named).unwrap();
    frozen.scene.dataset = format!(
        "before_capture = [[{before:?}]]\nafter_capture = [[{after:?}]]\n{}\
         [[dataset.database]]\nengine = \"command\"\nname = \"shop\"\ncommand = [{named:?}]\n",
        frozen.scene.dataset
    );
    frozen.once().ok();
    let ran: Vec<_> = frozen.ran();
    let ran = ran.iter().filter(|one| *one != "engine probe");
    let order = ["before", "engine dump", "make", "after", "remove"];
    assert!(ran.eq(order.iter()), "{order:?}");
    assert_eq!(frozen.live("page"), "first");
}

#[test]
fn what_prints_another_place_is_refused_and_nothing_is_lost() {
    needs!("what_prints_another_place_is_refused_and_nothing_is_lost": "root", "mkfs.btrfs", "btrfs", "mount");
    let frozen = Frozen::new(
        "",
        "[ ! -e $place/path ] || path=$(cat $place/path); [ ! -e $place/fails ] || { echo 'no room' >&2; exit 1; }",
    );
    frozen.once().ok();
    fs::write(frozen.scene.at("page"), "second").unwrap();
    let empty = frozen.scene.stage.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (path, words) in [
        (empty.to_str().unwrap(), "another directory"),
        (
            frozen.scene.stage.source.to_str().unwrap(),
            "the source itself",
        ),
        ("/absent/place", "/absent/place"),
        ("relative", "absolute path"),
    ] {
        fs::write(frozen.note("path"), path).unwrap();
        frozen.once().expect(1).mentions(&[words]);
        assert_eq!(frozen.live("page"), "first");
        assert!(!frozen.snapshot().exists(), "{path}");
    }
    fs::remove_file(frozen.note("path")).unwrap();
    fs::write(frozen.note("fails"), "").unwrap();
    frozen
        .once()
        .expect(1)
        .mentions(&["no room", "`remove` was run"]);
    assert!(!frozen.snapshot().exists());
    fs::remove_file(frozen.note("fails")).unwrap();
    frozen.once().ok();
    assert_eq!(frozen.live("page"), "second");
}

#[test]
fn subvolumes_below_are_not_taken_for_empty_and_the_agents_state_is_left_out() {
    needs!("subvolumes_below_are_not_taken_for_empty_and_the_agents_state_is_left_out": "root", "mkfs.btrfs", "btrfs", "mount");
    let mut frozen = Frozen::new("", "");
    frozen.scene.stage.state = frozen.scene.at("state");
    let snapshot = std::mem::take(&mut frozen.scene.dataset);
    subvolume(&frozen.scene.at("below"));
    fs::write(frozen.scene.at("below/file"), "below").unwrap();
    frozen.once().ok();
    assert_eq!(frozen.live("below/file"), "below");
    frozen.scene.dataset = snapshot;
    frozen
        .once()
        .expect(3)
        .mentions(&["below", "a subvolume of its own"]);
    assert_eq!(frozen.live("below/file"), "below");
    assert!(!frozen.scene.live("state").exists());
    frozen.scene.dataset += "exclude = [\"/below\"]\n";
    frozen.once().ok();
    assert!(!frozen.scene.live("below").exists());
}

#[test]
fn what_is_left_of_agents_that_were_killed_is_removed() {
    needs!("what_is_left_of_agents_that_were_killed_is_removed": "root", "mkfs.btrfs", "btrfs", "mount");
    // The agent alone: whoever keeps the snapshot removes it.
    let frozen = Frozen::new(
        "",
        "[ ! -e $place/slow ] || { touch $place/made; sleep 1000; }",
    );
    fs::write(frozen.note("slow"), "").unwrap();
    let mut agent = frozen.scene.start();
    await_that("made", || frozen.note("made").exists());
    assert!(frozen.snapshot().exists());
    agent.end(Signal::KILL);
    await_that("removed", || !frozen.snapshot().exists());
    fs::remove_file(frozen.note("slow")).unwrap();
    // Everybody: the next start does.
    let notes = frozen.scene.stage.state.join("frozen");
    await_that("undone", || !notes.join("site").exists());
    fs::write(notes.join("site"), "since yesterday\n").unwrap();
    tool(
        "btrfs",
        [
            "subvolume".as_ref(),
            "snapshot".as_ref(),
            "-r".as_ref(),
            frozen.scene.stage.source.as_os_str(),
            frozen.snapshot().as_os_str(),
        ],
    );
    frozen.ran();
    frozen.once().ok();
    assert_eq!(frozen.ran(), ["remove", "make", "remove"]);
    assert!(!frozen.snapshot().exists() && !notes.join("site").exists());
}
