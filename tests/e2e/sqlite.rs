//! SQLite databases among the files: real processes work with them, and the spare has one state of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::databases::{Served, Site, each_row_has_its_file, snapshots};
use crate::support::judge;

/// An application's own connection; nobody else in this process opens its files.
struct Application {
    path: PathBuf,
    open: Mutex<Option<Connection>>,
}

impl Application {
    fn open(path: &Path, mode: &str) -> Self {
        let connection = connect(path);
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode={mode}; PRAGMA synchronous=NORMAL; CREATE TABLE IF NOT EXISTS pictures(id INTEGER PRIMARY KEY);"
            ))
            .unwrap();
        Self {
            path: path.to_owned(),
            open: Mutex::new(Some(connection)),
        }
    }

    fn close(&self) {
        self.open.lock().unwrap().take();
    }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection
}

impl Served for Application {
    fn run(&self, statement: &str) {
        let mut open = self.open.lock().unwrap();
        let connection = open.get_or_insert_with(|| connect(&self.path));
        connection.execute_batch(statement).unwrap();
    }

    fn ids(&self, dump: &Path) -> Vec<String> {
        rows(&dump.join("shop.db"))
    }

    fn load(&self, _dump: &Path) -> Option<usize> {
        None
    }

    fn dump(&self, live: &Path) -> PathBuf {
        live.join("files/data")
    }

    fn rest(&self) {
        self.close();
    }
}

/// The pictures of a database of the spare, which is whole by itself and must not be written to.
fn rows(path: &Path) -> Vec<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let address = format!("file:{}?immutable=1", path.display());
    let connection = Connection::open_with_flags(address, flags).unwrap();
    let ask = |question: &str| -> Vec<String> {
        let mut statement = connection.prepare(question).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(ask("PRAGMA integrity_check"), ["ok"]);
    ask("SELECT CAST(id AS TEXT) FROM pictures ORDER BY id")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// A site with `data/shop.db`.
fn site(keys: &str) -> (Site, PathBuf) {
    let site = Site::new(keys);
    fs::create_dir(site.files().join("data")).unwrap();
    let path = site.files().join("data/shop.db");
    (site, path)
}

/// `UNDERSTUDY_TEST_FULL=1`: 200 snapshots.
#[test]
fn each_row_of_each_snapshot_of_sqlite_has_its_file() {
    for mode in ["wal", "delete"] {
        let (site, path) = site("");
        let application = Application::open(&path, mode);
        each_row_has_its_file(&application, &site, snapshots() / 2);
    }
}

#[test]
fn what_is_in_the_log_alone_is_on_the_spare_and_the_log_is_not() {
    let (site, path) = site("");
    let application = Application::open(&path, "wal");
    application.run("INSERT INTO pictures VALUES (1)");
    site.cycle().ok();
    let live = site.live().join("files/data");
    assert_eq!(names(&live), ["shop.db"]);
    assert_eq!(rows(&live.join("shop.db")), ["1"]);
    let first = site.cycle().data();
    assert_eq!(first["datasets"][0]["committed"], false, "{first}");
    application.run("INSERT INTO pictures VALUES (2)");
    let before = names(&site.files().join("data"));
    let second = site.cycle().data();
    assert_eq!(second["datasets"][0]["committed"], true, "{second}");
    assert_eq!(second["datasets"][0]["sqlite_databases"], 1);
    assert_eq!(rows(&live.join("shop.db")), ["1", "2"]);
    assert_eq!(
        names(&site.files().join("data")),
        before,
        "something was made or removed"
    );
    // Once it is closed, the spare has it byte by byte, and a file with such a name that belongs to nothing is one.
    application.close();
    fs::write(site.files().join("data/other-wal"), "notes").unwrap();
    site.cycle().ok();
    assert_eq!(
        judge::rsync(&site.files(), &site.live().join("files"), &[]),
        ""
    );
    // One that the application removes goes, and what is called like its log is a file again.
    fs::rename(&path, site.files().join("data/moved.db")).unwrap();
    fs::write(site.files().join("data/shop.db-wal"), "notes").unwrap();
    site.cycle().ok();
    site.cycle().ok();
    assert_eq!(names(&live), ["moved.db", "other-wal", "shop.db-wal"]);
}

#[test]
fn what_cannot_be_taken_is_copied_as_files_and_told() {
    let (site, path) = site("");
    let application = Application::open(&path, "wal");
    application.run("INSERT INTO pictures VALUES (1)");
    site.cycle().ok();
    // Damaged, with its log beside it, which may be all that is left.
    let mut bytes = fs::read(&path).unwrap();
    application.close();
    bytes[24..100].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let log = path.with_extension("db-wal");
    fs::write(&log, "what was the log").unwrap();
    let outcome = site.cycle().ok();
    assert!(
        outcome.stderr.contains("damaged or encrypted"),
        "{}",
        outcome.said()
    );
    site.cycle().ok();
    let live = site.live().join("files/data");
    assert_eq!(fs::read(live.join("shop.db")).unwrap(), bytes);
    assert_eq!(names(&live), ["shop.db", "shop.db-wal"]);
    // Somebody repairs it.
    fs::remove_file(&log).unwrap();
    fs::remove_file(&path).unwrap();
    let application = Application::open(&path, "wal");
    application.run("INSERT INTO pictures VALUES (7)");
    site.cycle().ok();
    site.cycle().ok();
    assert_eq!(names(&live), ["shop.db"]);
    assert_eq!(rows(&live.join("shop.db")), ["7"]);
}

#[test]
fn a_database_that_is_kept_locked_is_told_and_its_files_are_sent() {
    let (site, path) = site("sqlite_max_lock = \"1s\"\n");
    let application = Application::open(&path, "delete");
    application.run("INSERT INTO pictures VALUES (1)");
    application.run("PRAGMA journal_mode=MEMORY; PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; INSERT INTO pictures VALUES (2)");
    let outcome = site.cycle().ok();
    assert!(
        outcome.stderr.contains("others keep it locked"),
        "{}",
        outcome.said()
    );
    application.run("COMMIT; PRAGMA locking_mode=NORMAL; SELECT 1 FROM pictures");
    site.cycle().ok();
    assert_eq!(rows(&site.live().join("files/data/shop.db")), ["1", "2"]);
}

#[test]
fn files_are_files_where_that_is_said() {
    let (site, path) = site("sqlite = \"copy\"\n");
    let application = Application::open(&path, "wal");
    application.run("INSERT INTO pictures VALUES (1)");
    site.cycle().ok();
    assert_eq!(
        judge::rsync(&site.files(), &site.live().join("files"), &[]),
        ""
    );
    assert!(names(&site.live().join("files/data")).len() == 3);
}

/// The process that copies is killed in the middle of it, again and again.
#[test]
fn whatever_becomes_of_the_process_that_copies_a_database_is_whole_or_as_before() {
    let (site, path) = site("");
    let application = Application::open(&path, "wal");
    application.run("CREATE TABLE ballast(b)");
    let small = Application::open(&path.with_file_name("a.db"), "wal");
    for _ in 0..40 {
        application.run("INSERT INTO ballast VALUES (randomblob(1000000))");
    }
    site.cycle().ok();
    let live = site.live().join("files/data/shop.db");
    let mut killed = 0;
    for number in 1..=8 {
        application.run(&format!("INSERT INTO pictures VALUES ({number})"));
        small.run(&format!("INSERT INTO pictures VALUES ({number})"));
        let mut cycle = site.cycle().spawn(Stdio::null(), Stdio::null());
        let pid = cycle.id();
        for _ in 0..400 {
            std::thread::park_timeout(Duration::from_millis(number));
            if let Some(imager) = child_of(pid, "imager") {
                let imager = rustix::process::Pid::from_raw(imager).unwrap();
                let signal = rustix::process::Signal::KILL;
                killed += u32::from(rustix::process::kill_process(imager, signal).is_ok());
            }
            if cycle.try_wait().unwrap().is_some() {
                break;
            }
        }
        cycle.wait().unwrap();
        if live.exists() {
            rows(&live);
        }
        // What was copied before another copy was killed is as good, and in no case gone.
        let beside = live.with_file_name("a.db");
        assert!(number < 2 || beside.exists(), "{number}");
    }
    assert!(killed > 0);
    site.cycle().ok();
    assert_eq!(rows(&live).len(), 8);
    // What was left of copies is gone with the next one.
    let left = fs::read_dir(site.files().with_file_name("state/images")).unwrap();
    assert!(left.count() <= 1);
}

/// The process that another one has started as the command `name`.
fn child_of(parent: u32, name: &str) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).ok()?;
    let all = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let all: Vec<String> = all.chain(children.ok()).collect();
    let pids = all.iter().flat_map(|line| line.split_whitespace());
    pids.filter_map(|pid| pid.parse().ok()).find(|pid: &i32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split('\0').any(|word| word == name)
    })
}
