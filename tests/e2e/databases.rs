//! Files and databases in one snapshot: real servers, the real agent.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use understudy_databases::Database;

use crate::support::{Random, Run, full, judge};

#[path = "../../databases/tests/support/mariadb.rs"]
#[allow(dead_code, reason = "the tests of the crate use more of it")]
pub(crate) mod mariadb;
#[path = "../../databases/tests/support/postgres.rs"]
#[expect(dead_code, reason = "the tests of the crate use more of it")]
pub(crate) mod postgres;
#[path = "../../databases/tests/support/programs.rs"]
pub(crate) mod programs;

/// A site with a database, and where its agent keeps things.
pub(crate) struct Site {
    pub(crate) place: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new(database: &str) -> Self {
        let place = tempfile::tempdir_in(crate::support::stage::directory_for_tests()).unwrap();
        let site = Self { place };
        fs::create_dir(site.files()).unwrap();
        let config = format!(
            "spare = \"{0}/spare\"\nstate = \"{0}/state\"\n[pace]\npressure = \"off\"\n[[dataset]]\npath = \"{0}/site\"\n{database}",
            site.place.path().display()
        );
        fs::write(site.config(), config).unwrap();
        site
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.place.path().join("site")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.place.path().join("agent.toml")
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.place.path().join("spare")
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.spare().join("site/live")
    }

    pub(crate) fn cycle(&self) -> Run {
        Run::new(["agent", "--once", "--config"]).arg(self.config())
    }

    pub(crate) fn restore(&self) -> (PathBuf, PathBuf) {
        let target = |what: &str| self.place.path().join(what);
        let (files, databases) = (target("files"), target("databases"));
        Run::new(["restore", "site"])
            .arg(&files)
            .arg("--databases")
            .arg(&databases)
            .args(["--unverified", "--spare"])
            .arg(self.spare())
            .arg("--state")
            .arg(self.place.path().join("other-state"))
            .ok();
        (files, databases)
    }
}

pub(crate) fn of_postgres(server: &postgres::Server) -> String {
    format!(
        "[[dataset.database]]\nengine = \"postgres\"\ndatabase = \"shop\"\nuser = \"postgres\"\nhost = \"{}\"\n",
        server.directory().display()
    )
}

pub(crate) fn of_mariadb(server: &mariadb::Server) -> String {
    let place = server.directory().display();
    fs::write(server.directory().join("root.cnf"), "[client]\nuser=root\n").unwrap();
    format!(
        "[[dataset.database]]\nengine = \"mariadb\"\ndatabase = \"shop\"\nsocket = \"{place}/s\"\ndefaults_file = \"{place}/root.cnf\"\n"
    )
}

/// A server with the table of pictures.
pub(crate) trait Served: Sync {
    /// Runs a statement; when it returns, that counts.
    fn run(&self, statement: &str);

    /// The pictures of a dump.
    fn ids(&self, dump: &Path) -> Vec<String>;

    /// Where that is on the spare.
    fn dump(&self, live: &Path) -> PathBuf {
        live.join("databases/shop")
    }

    /// Loads a dump as a database of its own; returns how many pictures that has. `None` if a dump is one already.
    fn load(&self, dump: &Path) -> Option<usize>;

    /// Closes what the application has open.
    fn rest(&self) {}
}

/// Sessions stay open, as those of an application do.
struct Sessions<'a> {
    server: &'a postgres::Server,
    open: Mutex<Vec<postgres::Session>>,
}

impl Served for Sessions<'_> {
    fn run(&self, statement: &str) {
        let open = self.open.lock().unwrap().pop();
        let mut session = open.unwrap_or_else(|| self.server.session("shop"));
        session.sql(statement);
        self.open.lock().unwrap().push(session);
    }

    fn ids(&self, dump: &Path) -> Vec<String> {
        let text = fs::read_to_string(dump.join("public.pictures.dat")).unwrap();
        let rows = text.lines().take_while(|line| *line != "\\.");
        rows.map(str::to_owned).collect()
    }

    fn load(&self, dump: &Path) -> Option<usize> {
        self.server.postgres("shop").load(dump, "each").unwrap();
        let count = self.server.sql("each", "SELECT COUNT(*) FROM pictures;");
        Some(count.trim().parse().unwrap())
    }
}

impl Served for mariadb::Server {
    fn run(&self, statement: &str) {
        self.sql(&format!("USE shop; {statement}"));
    }

    fn ids(&self, dump: &Path) -> Vec<String> {
        let files = fs::read_dir(dump).unwrap().flatten();
        let texts = files.map(|file| fs::read_to_string(file.path()).unwrap());
        let mut ids = Vec::new();
        for text in texts {
            let rows = text.lines().filter_map(|line| line.strip_prefix('('));
            ids.extend(rows.map(|row| row.trim_end_matches([')', ',', ';']).to_owned()));
        }
        ids
    }

    fn load(&self, dump: &Path) -> Option<usize> {
        self.mariadb("shop").load(dump, "each").unwrap();
        let count = self.sql("SELECT COUNT(*) FROM each.pictures;");
        Some(count.trim().parse().unwrap())
    }
}

/// How long a picture stays at least: longer than a cycle takes from the first look at its directory to the last.
const LEAST: Duration = Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 3 });
/// How long somebody waits between two uploads.
const PAUSE: Duration = Duration::from_millis(8);

/// An application with uploads: a picture is written before its row, and removed after it.
struct Gallery<'a> {
    server: &'a dyn Served,
    files: PathBuf,
    next: AtomicU64,
}

impl Gallery<'_> {
    fn act(&self, random: &mut Random, known: &mut VecDeque<(u64, Instant)>) {
        let oldest = known.front().filter(|(_, since)| since.elapsed() > LEAST);
        let oldest = oldest.map(|(id, _)| *id);
        if let (Some(id), 0) = (oldest, random.below(2)) {
            known.pop_front();
            self.server
                .run(&format!("DELETE FROM pictures WHERE id = {id};"));
            fs::remove_file(self.path(id)).unwrap();
            return;
        }
        if let (Some(id), 0) = (oldest, random.below(3)) {
            // Another name: the file first, then its row, then the former file.
            known.pop_front();
            let new = self.new_id();
            fs::copy(self.path(id), self.path(new)).unwrap();
            self.server
                .run(&format!("UPDATE pictures SET id = {new} WHERE id = {id};"));
            fs::remove_file(self.path(id)).unwrap();
            known.push_back((new, Instant::now()));
            return;
        }
        let id = self.new_id();
        fs::write(self.path(id), format!("picture {id}\n")).unwrap();
        self.server
            .run(&format!("INSERT INTO pictures VALUES ({id});"));
        known.push_back((id, Instant::now()));
    }

    fn new_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.files.join(format!("d{}", id % 7)).join(id.to_string())
    }

    /// Until somebody says that it is enough.
    fn run(&self, seed: u64, is_over: &AtomicBool) {
        let (mut random, mut known) = (Random::new(seed), VecDeque::new());
        while !is_over.load(Ordering::Relaxed) {
            self.act(&mut random, &mut known);
            std::thread::park_timeout(PAUSE);
        }
    }
}

/// Names of all pictures.
fn names(files: &Path) -> Vec<String> {
    let directories = fs::read_dir(files).unwrap().flatten();
    let pictures = directories.flat_map(|directory| fs::read_dir(directory.path()).unwrap());
    pictures
        .map(|one| one.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Takes snapshots of a gallery whose users never stop, and looks at each.
pub(crate) fn each_row_has_its_file(server: &dyn Served, site: &Site, snapshots: u32) {
    for number in 0..7 {
        fs::create_dir(site.files().join(format!("d{number}"))).unwrap();
    }
    // So many that what users remove in a cycle is little of it.
    fs::create_dir(site.files().join("old")).unwrap();
    for number in 0..if full() { 30_000 } else { 3000 } {
        fs::write(site.files().join(format!("old/{number}")), "old").unwrap();
    }
    let gallery = Gallery {
        server,
        files: site.files(),
        next: AtomicU64::new(1),
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (gallery, is_over) = (&gallery, &is_over);
            scope.spawn(move || gallery.run(seed, is_over));
        }
        let looked = catch_unwind(AssertUnwindSafe(|| look_at_each(server, site, snapshots)));
        is_over.store(true, Ordering::Relaxed);
        looked.unwrap_or_else(|panic| resume_unwind(panic));
    });
    server.rest();
    // At rest: what was kept for a row goes, and everything is as it is here.
    for _ in 0..2 {
        site.cycle().ok();
    }
    assert_eq!(
        judge::rsync(&site.files(), &site.live().join("files"), &[]),
        ""
    );
}

fn look_at_each(server: &dyn Served, site: &Site, snapshots: u32) {
    let (mut before, mut broken) = (Vec::new(), 0);
    for number in 1..=snapshots {
        let outcome = site.cycle().outcome();
        // Files that change or vanish while they are read are told.
        assert!(
            [Some(0), Some(3)].contains(&outcome.code),
            "{}",
            outcome.said()
        );
        let rows = server.ids(&server.dump(&site.live()));
        // What it would be with the files of before: rows without files.
        broken += rows.iter().filter(|id| !before.contains(*id)).count();
        before.clone_from(&names(&site.live().join("files")));
        let has_file = |id: &&String| {
            let place = id.parse::<u64>().unwrap() % 7;
            let path = site.live().join(format!("files/d{place}")).join(id);
            fs::read_to_string(path).is_ok_and(|text| text.starts_with("picture"))
        };
        let lost: Vec<&String> = rows.iter().filter(|id| !has_file(id)).collect();
        assert!(
            lost.is_empty(),
            "snapshot {number}: rows without files: {lost:?} of {}",
            rows.len()
        );
        assert!(!rows.is_empty());
        let loaded = server.load(&server.dump(&site.live()));
        assert!(loaded.is_none_or(|loaded| loaded == rows.len()));
    }
    assert!(broken > 0, "no row came with its file");
}

pub(crate) fn snapshots() -> u32 {
    if full() { 200 } else { 8 }
}

/// `UNDERSTUDY_TEST_FULL=1`: 200 snapshots.
#[test]
fn each_row_of_each_snapshot_has_its_file() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql("shop", "CREATE TABLE pictures (id bigint PRIMARY KEY);");
    let site = Site::new(&of_postgres(&server));
    let served = Sessions {
        server: &server,
        open: Mutex::default(),
    };
    each_row_has_its_file(&served, &site, snapshots());
    // A restored database has the rows of the one that was captured.
    let (files, databases) = site.restore();
    let restored = server.postgres("shop");
    restored.load(&databases.join("shop"), "restored").unwrap();
    let rows = server.sql("restored", "SELECT id FROM pictures;");
    assert_eq!(
        rows.lines().count(),
        served.ids(&databases.join("shop")).len()
    );
    for id in rows.lines() {
        let place = id.parse::<u64>().unwrap() % 7;
        assert!(files.join(format!("d{place}/{id}")).exists(), "{id}");
    }
}

/// The same of MariaDB, with tables that a transaction holds still and with those of Piwigo, which none does.
#[test]
fn each_row_of_each_snapshot_of_mariadb_has_its_file() {
    let Some(server) = mariadb::Server::start(&[]) else {
        return;
    };
    for engine in ["InnoDB", "MyISAM"] {
        server.sql(&format!(
            "DROP DATABASE IF EXISTS shop; CREATE DATABASE shop; CREATE TABLE shop.pictures (id BIGINT PRIMARY KEY) ENGINE={engine};"
        ));
        let site = Site::new(&of_mariadb(&server));
        each_row_has_its_file(&server, &site, snapshots() / 2);
        let (files, databases) = site.restore();
        let restored = server.mariadb("shop");
        restored.load(&databases.join("shop"), "restored").unwrap();
        let rows = server.sql("SELECT id FROM restored.pictures;");
        assert_eq!(
            rows.lines().count(),
            server.ids(&databases.join("shop")).len()
        );
        for id in rows.lines() {
            let place = id.parse::<u64>().unwrap() % 7;
            assert!(
                files.join(format!("d{place}/{id}")).exists(),
                "{engine}: {id}"
            );
        }
    }
}

#[test]
fn a_database_that_cannot_be_captured_ends_the_cycle_and_the_spare_keeps_what_it_has() {
    let Some(mut server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql(
        "shop",
        "CREATE TABLE pictures (id bigint PRIMARY KEY); INSERT INTO pictures VALUES (1);",
    );
    let site = Site::new(&of_postgres(&server));
    fs::write(site.files().join("page"), "first").unwrap();
    site.cycle().ok();
    let data = site.cycle().data();
    assert_eq!(data["datasets"][0]["committed"], false, "{data}");
    fs::write(site.files().join("page"), "second").unwrap();
    server.stop(rustix::process::Signal::INT);
    let outcome = site.cycle().expect(1);
    outcome.mentions(&["shop", "Start it", "keeps its last snapshot"]);
    assert_eq!(
        fs::read_to_string(site.live().join("files/page")).unwrap(),
        "first"
    );
    server.restart();
    site.cycle().ok();
    assert_eq!(
        fs::read_to_string(site.live().join("files/page")).unwrap(),
        "second"
    );
}

#[test]
fn any_other_database_is_captured_by_a_program() {
    let site = Site::new("");
    let program = site.place.path().join("engine");
    let text = "#!/bin/sh\ncase $UNDERSTUDY_PHASE in\n\
        probe) cat \"$0.data\" || exit 1;;\n\
        dump) cp \"$0.data\" \"$UNDERSTUDY_OUT/all\"; echo of \"$UNDERSTUDY_DATASET/$UNDERSTUDY_DATABASE\";;\n\
        *) exit 64;;\nesac\n";
    programs::script(&program, text);
    fs::write(site.files().join("page"), "a site").unwrap();
    let data = site.place.path().join("engine.data");
    fs::write(&data, "first").unwrap();
    let config = fs::read_to_string(site.config()).unwrap();
    let database = format!(
        "[[dataset.database]]\nengine = \"command\"\nname = \"other\"\ncommand = [\"{}\"]\n",
        program.display()
    );
    fs::write(site.config(), format!("{config}{database}")).unwrap();
    site.cycle().ok();
    let has =
        |file: &str| fs::read_to_string(site.live().join("databases/other").join(file)).unwrap();
    assert_eq!(
        (has("all"), has("output")),
        ("first".into(), "of site/other\n".into())
    );
    fs::write(&data, "second").unwrap();
    site.cycle().ok();
    assert_eq!(has("all"), "second");
    fs::remove_file(&data).unwrap();
    site.cycle().expect(1).mentions(&["other", "engine.data"]);
    assert_eq!(has("all"), "second");
    // Nobody may read what is in a database but its owner.
    let mode = fs::metadata(site.live().join("databases/other/all"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // One that is configured no more is in no snapshot.
    fs::write(site.config(), config).unwrap();
    site.cycle().ok();
    assert!(!site.live().join("databases").exists());
}

#[test]
fn files_are_not_sent_by_hand_without_the_databases_that_the_agent_has() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    let site = Site::new(&of_postgres(&server));
    site.cycle().ok();
    let by_hand = Run::new(["sync"])
        .arg(site.files())
        .arg("--spare")
        .arg(site.spare())
        .arg("--state")
        .arg(site.place.path().join("state"));
    by_hand
        .expect(2)
        .mentions(&["databases", "agent --once site"]);
    assert!(site.live().join("databases/shop").exists());
}
