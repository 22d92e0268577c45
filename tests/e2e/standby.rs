//! Databases are loaded on the spare, and an application goes on with them after a promotion, and nobody loads anything over what it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::databases::{Site, mariadb, of_mariadb, of_postgres, postgres, programs};
use crate::support::{Daemon, Run};

const PATIENCE: Duration = Duration::from_secs(90);

/// A site with a database, its spare, and what that has loaded.
struct Scene {
    site: Site,
    receiver: Option<Daemon>,
}

impl Scene {
    /// `standby` are the keys of the `[[standby]]` that say where, and more.
    fn new(database: &str, standby: &str) -> Self {
        let site = Site::new(database);
        let told = site.place.path().join("told");
        let page = site.place.path().join("page");
        programs::script(&page, &format!("#!/bin/sh\ncat >> {}\n", told.display()));
        let config = format!(
            "store = \"{}\"\n[alerts]\ncommand = [{page:?}]\n[[standby]]\ndataset = \"site\"\n{standby}",
            site.spare().display()
        );
        fs::write(site.place.path().join("receiver.toml"), config).unwrap();
        let mut scene = Self {
            site,
            receiver: None,
        };
        scene.listen();
        scene
    }

    fn listen(&mut self) {
        let run = Run::new(["receiver", "--listen", "127.0.0.1:0", "--config"]);
        self.receiver = Some(Daemon::launch(&run.arg(self.config())));
    }

    fn config(&self) -> PathBuf {
        self.site.place.path().join("receiver.toml")
    }

    fn on_spare(&self, words: &[&str]) -> Run {
        Run::new(words).arg("--config").arg(self.config())
    }

    fn promote(&self) -> Run {
        self.on_spare(&["promote", "site", "--yes"])
    }

    /// What is known of the database on the spare.
    fn known(&self) -> Value {
        let status = Run::new(["status", "--spare"]).arg(self.site.spare());
        status.data()["datasets"][0]["standby"][0].clone()
    }

    fn snapshot(&self) -> u64 {
        let status = Run::new(["status", "--spare"]).arg(self.site.spare());
        let data = status.data();
        data["datasets"][0]["snapshot"]["number"].as_u64().unwrap()
    }

    fn await_known(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let known = self.known();
            if holds(&known) {
                return known;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}: {known}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn await_loaded(&self) -> Value {
        let newest = self.snapshot();
        self.await_known("loaded", |known| {
            known["loaded"]["snapshot"] == newest && known["loading"].is_null()
        })
    }

    fn told(&self) -> String {
        fs::read_to_string(self.site.place.path().join("told")).unwrap_or_default()
    }

    /// Has a worker do what it would do for the keeper; returns its answer.
    fn work(&self) -> Value {
        let request = json!({"dataset": "site", "database": "shop"});
        let input = self.site.place.path().join("request");
        fs::write(&input, format!("{request}\n")).unwrap();
        // It gives up when its input ends, so that stays open.
        let script = format!(
            "(cat {}; sleep 60) | timeout 60 {} standby --one --store {} {}",
            input.display(),
            env!("CARGO_BIN_EXE_understudy"),
            self.site.spare().display(),
            self.config().display()
        );
        let mut child = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let _ = child.kill();
        child.wait().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

/// The server where both databases are, and how the one on the spare is asked.
trait Engine {
    fn main(&self, statement: &str);
    fn standby(&self, question: &str) -> Result<String, String>;
    /// The rows on the main.
    fn rows(&self) -> String;
    fn remove_standby(&self);
    /// As if the power had failed, and come back.
    fn break_down(&mut self);
}

impl Engine for postgres::Server {
    fn main(&self, statement: &str) {
        self.sql("shop", statement);
    }

    fn standby(&self, question: &str) -> Result<String, String> {
        let answer = self.try_sql("copy", question)?;
        Ok(answer.trim().to_owned())
    }

    fn rows(&self) -> String {
        self.sql("shop", COUNT).trim().to_owned()
    }

    fn remove_standby(&self) {
        self.sql("postgres", "DROP DATABASE copy;");
    }

    fn break_down(&mut self) {
        self.stop(Signal::QUIT);
        self.restart();
    }
}

impl Engine for mariadb::Server {
    fn main(&self, statement: &str) {
        self.sql(&format!("USE shop; {statement}"));
    }

    fn standby(&self, question: &str) -> Result<String, String> {
        self.try_sql(&format!("USE copy; {question}"))
    }

    fn rows(&self) -> String {
        self.sql(&format!("USE shop; {COUNT}"))
    }

    fn remove_standby(&self) {
        self.sql("DROP DATABASE copy;");
    }

    fn break_down(&mut self) {
        panic!("it is not started again here");
    }
}

fn copy_of_postgres(server: &postgres::Server) -> String {
    of_postgres(server)
        .replace("[[dataset.database]]\n", "name = \"shop\"\n")
        .replace("database = \"shop\"", "database = \"copy\"")
}

fn copy_of_mariadb(server: &mariadb::Server) -> String {
    of_mariadb(server)
        .replace("[[dataset.database]]\n", "name = \"shop\"\n")
        .replace("database = \"shop\"", "database = \"copy\"")
}

const COUNT: &str = "SELECT count(*) FROM pictures;";

/// From the first load to a promotion, and beyond.
fn is_kept_until_an_application_has_it(scene: &mut Scene, server: &dyn Engine) {
    scene.site.cycle().ok();
    scene.await_loaded();
    assert_eq!(server.standby(COUNT).unwrap(), "1");
    server.main("INSERT INTO pictures VALUES (2);");
    scene.site.cycle().ok();
    let known = scene.await_loaded();
    assert_eq!(server.standby(COUNT).unwrap(), "2");
    // A snapshot of files alone is no reason to load.
    fs::write(scene.site.files().join("page"), "a page").unwrap();
    scene.site.cycle().ok();
    let again = scene.await_loaded();
    assert_eq!(again["loaded"]["at"], known["loaded"]["at"]);

    let facts = scene.on_spare(&["promote", "site", "--dry-run"]).ok();
    facts.mentions(&["database `shop`: loaded as snapshot"]);
    let begun = Instant::now();
    let data = scene.promote().data();
    let took = begun.elapsed();
    let promoted = &data["datasets"][0];
    assert_eq!(promoted["promoted"], true, "{data}");
    assert_eq!(promoted["databases"][0]["database"], "copy", "{data}");
    assert!(
        promoted["databases"][0]["loaded_now_seconds"].is_null(),
        "{data}"
    );
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(server.standby(COUNT).unwrap(), "2");

    // The application has it now.
    server
        .standby("INSERT INTO pictures VALUES (1000);")
        .unwrap();
    let unharmed = |when: &str| {
        assert_eq!(server.standby(COUNT).unwrap(), "3", "{when}");
    };
    server.main("INSERT INTO pictures VALUES (3);");
    scene.site.cycle().expect(5);
    assert!(scene.work()["idle"].is_string());
    unharmed("asked to load");
    scene.receiver.as_mut().unwrap().kill();
    scene.listen();
    std::thread::park_timeout(Duration::from_secs(3));
    unharmed("after a restart of the receiver");
    scene.promote().ok().mentions(&["the main already"]);
    unharmed("promoted again");

    // It becomes the spare again: only what another main sends replaces what the application has written.
    scene.on_spare(&["demote", "site", "--yes"]).ok();
    assert!(scene.work()["idle"].is_string());
    std::thread::park_timeout(Duration::from_secs(3));
    unharmed("demoted");
    let data = scene.promote().data();
    let database = &data["datasets"][0]["databases"][0];
    assert!(database["snapshot"].is_null(), "{data}");
    unharmed("promoted once more");
}

#[test]
fn postgres_is_kept_until_an_application_has_it() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql(
        "shop",
        "CREATE TABLE pictures (id bigint PRIMARY KEY); INSERT INTO pictures VALUES (1);",
    );
    let mut scene = Scene::new(&of_postgres(&server), &copy_of_postgres(&server));
    is_kept_until_an_application_has_it(&mut scene, &server);
}

#[test]
fn mariadb_is_kept_until_an_application_has_it() {
    let Some(server) = mariadb::Server::start(&[]) else {
        return;
    };
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.pictures (id BIGINT PRIMARY KEY); INSERT INTO shop.pictures VALUES (1);");
    let mut scene = Scene::new(&of_mariadb(&server), &copy_of_mariadb(&server));
    is_kept_until_an_application_has_it(&mut scene, &server);
}

#[test]
fn a_load_that_fails_is_told_and_the_one_before_stays_and_a_promotion_waits_for_whoever_can_help() {
    let Some(mut server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql(
        "shop",
        "CREATE TABLE pictures (id bigint PRIMARY KEY); INSERT INTO pictures VALUES (1);",
    );
    let scene = Scene::new(&of_postgres(&server), &copy_of_postgres(&server));
    scene.site.cycle().ok();
    scene.await_loaded();
    let before = scene.snapshot();
    // What is in the way of the next load.
    server.main("INSERT INTO pictures VALUES (2);");
    server.sql("postgres", "CREATE DATABASE copy__next;");
    server.sql(
        "postgres",
        "UPDATE pg_database SET datistemplate = true WHERE datname = 'copy__next';",
    );
    scene.site.cycle().ok();
    let known = scene.await_known("failed", |known| !known["error"].is_null());
    assert_eq!(known["loaded"]["snapshot"], before, "{known}");
    assert_eq!(server.standby(COUNT).unwrap(), "1");
    let begun = Instant::now();
    while !scene.told().contains("\"standby\"") {
        assert!(begun.elapsed() < PATIENCE, "{}", scene.told());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // A promotion does not go on with older rows without a word.
    let refused = scene.promote().expect(1);
    refused.mentions(&["not promoted", "older rows", "--without-databases"]);
    assert_eq!(server.standby(COUNT).unwrap(), "1");
    server.stop(Signal::QUIT);
    scene.promote().expect(1).mentions(&["Start it"]);
    server.restart();
    server.sql(
        "postgres",
        "UPDATE pg_database SET datistemplate = false WHERE datname = 'copy__next';",
    );
    let data = scene.promote().data();
    let database = &data["datasets"][0]["databases"][0];
    assert!(database["loaded_now_seconds"].is_number(), "{data}");
    assert_eq!(server.standby(COUNT).unwrap(), "2");
}

#[test]
fn a_promotion_without_databases_is_one_for_whoever_asks_for_it() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop; ");
    server.sql("postgres", "CREATE DATABASE copy;");
    server.sql("shop", "CREATE TABLE pictures (id bigint PRIMARY KEY);");
    server.sql(
        "copy",
        "CREATE TABLE pictures (id bigint PRIMARY KEY); INSERT INTO pictures VALUES (7);",
    );
    let standby = format!("{}load = \"promote\"\n", copy_of_postgres(&server));
    let scene = Scene::new(&of_postgres(&server), &standby);
    scene.site.cycle().ok();
    // What somebody else has made is not replaced, whatever the configuration says.
    let refused = scene.promote().expect(1);
    refused.mentions(&["`copy` here already", "has not loaded"]);
    assert_eq!(server.standby("SELECT id FROM pictures;").unwrap(), "7");
    scene.promote().arg("--without-databases").ok();
    assert_eq!(server.standby("SELECT id FROM pictures;").unwrap(), "7");
    assert!(scene.work()["idle"].is_string());
    assert_eq!(server.standby("SELECT id FROM pictures;").unwrap(), "7");
}

/// Everything of the standby's processes that runs, by the numbers of the processes.
fn processes(store: &Path) -> Vec<u32> {
    let store = store.to_str().unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|one| one.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |number: &u32| {
        let words = fs::read_to_string(format!("/proc/{number}/cmdline")).unwrap_or_default();
        words.contains("\0standby\0") && words.contains(store) && words.contains("\0--one\0")
    };
    numbers.filter(is_one).collect()
}

fn kill(process: u32) -> bool {
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).is_ok()
}

/// Waits for a load of the snapshot to begin; none if it has ended by then.
fn await_worker(scene: &Scene, newest: u64) -> Option<u32> {
    let begun = Instant::now();
    loop {
        if let [worker, ..] = processes(&scene.site.spare())[..] {
            return Some(worker);
        }
        if scene.known()["loaded"]["snapshot"] == newest {
            return None;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
}

/// `round` makes other rows, and returns how many there are; `kill` is what happens in the midst of a load.
fn each_claim_is_true(
    scene: &mut Scene,
    server: &mut dyn Engine,
    round: impl Fn(&mut dyn Engine, u64),
    harm: impl Fn(&mut Scene, &mut dyn Engine, u64, u32) -> bool,
) {
    scene.site.cycle().ok();
    scene.await_loaded();
    let mut killed = 0;
    for number in 1..=9_u64 {
        round(server, number);
        let rows = server.rows();
        scene.site.cycle().ok();
        let newest = scene.snapshot();
        if let Some(worker) = await_worker(scene, newest) {
            std::thread::park_timeout(Duration::from_millis(150 * number));
            killed += u32::from(harm(scene, server, number, worker));
        }
        // Whoever says that it is loaded is right.
        let begun = Instant::now();
        loop {
            let known = scene.known();
            if known["loaded"]["snapshot"] == newest {
                assert_eq!(server.standby(COUNT).unwrap(), rows);
                break;
            }
            if known["loading"].is_null() {
                // Not in five minutes, but now.
                scene.work();
            }
            assert!(begun.elapsed() < PATIENCE, "{known}");
        }
    }
    assert!(killed > 0, "no load was killed");
    // Somebody removes it: what is written down does not count any more.
    server.remove_standby();
    let killed = scene.promote().failing("promote.databases=1*return");
    assert!(killed.outcome().was_killed());
    let loaded = scene.known();
    assert_eq!(loaded["loaded"]["snapshot"], scene.snapshot(), "{loaded}");
    assert_eq!(server.standby(COUNT).unwrap(), server.rows());
    // What was loaded by then is not loaded again.
    let data = scene.promote().data();
    let database = &data["datasets"][0]["databases"][0];
    assert_eq!(database["snapshot"], loaded["loaded"]["snapshot"], "{data}");
    assert!(database["loaded_now_seconds"].is_null(), "{data}");
}

const TABLE: &str = "CREATE TABLE pictures (id bigint PRIMARY KEY, text text);";

#[test]
fn a_load_that_is_killed_anywhere_claims_nothing_and_the_next_one_brings_it() {
    let Some(mut server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql("shop", TABLE);
    let mut scene = Scene::new(&of_postgres(&server), &copy_of_postgres(&server));
    let more = |server: &mut dyn Engine, round: u64| {
        server.main(&format!(
            "INSERT INTO pictures SELECT {round}00000 + i, repeat('x', 100) FROM generate_series(1, 5000) i;"
        ));
    };
    each_claim_is_true(
        &mut scene,
        &mut server,
        more,
        |scene, server, round, worker| {
            match round % 3 {
                0 => server.break_down(),
                1 => {
                    scene.receiver.as_mut().unwrap().kill();
                    scene.listen();
                }
                _ => return kill(worker),
            }
            false
        },
    );
}

#[test]
fn a_load_of_mariadb_that_is_killed_anywhere_claims_nothing_and_the_next_one_brings_it() {
    let Some(mut server) = mariadb::Server::start(&[]) else {
        return;
    };
    server.sql(&format!(
        "CREATE DATABASE shop; USE shop; {TABLE} CREATE VIEW all_of_them AS SELECT * FROM pictures;"
    ));
    let mut scene = Scene::new(&of_mariadb(&server), &copy_of_mariadb(&server));
    let more = |server: &mut dyn Engine, round: u64| {
        server.main(&format!(
            "INSERT INTO pictures SELECT {round}00000 + seq, REPEAT('x', 100) FROM seq_1_to_5000;"
        ));
    };
    each_claim_is_true(&mut scene, &mut server, more, |scene, _, round, worker| {
        if round % 3 == 1 {
            scene.receiver.as_mut().unwrap().kill();
            scene.listen();
            return false;
        }
        kill(worker)
    });
}

/// In the midst of a load, of which the process is killed or not, this host becomes the main.
#[test]
fn a_load_under_way_ends_before_an_application_has_the_database() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    for round in 0..6_u64 {
        server.sql("postgres", "DROP DATABASE IF EXISTS shop;");
        server.sql("postgres", "DROP DATABASE IF EXISTS copy;");
        server.sql("postgres", "CREATE DATABASE shop;");
        server.sql("shop", TABLE);
        let scene = Scene::new(&of_postgres(&server), &copy_of_postgres(&server));
        scene.site.cycle().ok();
        scene.await_loaded();
        server.main(
            "INSERT INTO pictures SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i;",
        );
        scene.site.cycle().ok();
        let worker = await_worker(&scene, scene.snapshot());
        std::thread::park_timeout(Duration::from_millis(120 * round));
        if let (Some(worker), 1) = (worker, round % 2) {
            kill(worker);
        }
        let data = scene.promote().data();
        let database = &data["datasets"][0]["databases"][0];
        assert_eq!(database["snapshot"], scene.snapshot(), "{data}");
        server
            .standby("INSERT INTO pictures VALUES (0, 'of the application');")
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(server.standby(COUNT).unwrap(), "60001", "round {round}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

#[test]
fn two_databases_of_a_dataset_are_both_loaded() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql("postgres", "CREATE DATABASE blog;");
    server.sql("shop", TABLE);
    server.sql(
        "blog",
        "CREATE TABLE pictures (id int); INSERT INTO pictures VALUES (7);",
    );
    let other = |text: String, name: &str| text.replace("shop", "blog").replace("copy", name);
    let blog = other(of_postgres(&server), "");
    let standby = copy_of_postgres(&server);
    let both = format!(
        "{standby}[[standby]]\ndataset = \"site\"\n{}",
        other(standby.clone(), "blog_copy")
    );
    let scene = Scene::new(&format!("{}{blog}", of_postgres(&server)), &both);
    scene.site.cycle().ok();
    let begun = Instant::now();
    loop {
        let status = Run::new(["status", "--spare"])
            .arg(scene.site.spare())
            .data();
        let all = status["datasets"][0]["standby"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let newest = &status["datasets"][0]["snapshot"]["number"];
        if all.len() == 2 && all.iter().all(|one| &one["loaded"]["snapshot"] == newest) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(
        server.sql("blog_copy", "SELECT id FROM pictures;").trim(),
        "7"
    );
    assert_eq!(server.standby(COUNT).unwrap(), "0");
}

/// Both engines, each with the database `shop` of its own: what restores and drills do with it.
fn is_restored_and_practised(site: &Site, server: &dyn Engine, main: &dyn Fn(&str) -> String) {
    site.cycle().ok();
    let drill = || {
        Run::new(["drill", "site", "--unverified", "--spare"])
            .arg(site.spare())
            .arg("--state")
            .arg(site.place.path().join("other-state"))
            .arg("--agent-config")
            .arg(site.config())
    };
    let data = drill().data();
    let opened = &data["dumps_opened"][0];
    assert_eq!(opened["as_captured"], true, "{data}");
    drill().ok().mentions(&["loaded and removed again: 3 rows"]);
    let elsewhere = Run::new(["drill", "site", "--unverified", "--spare"])
        .arg(site.spare())
        .arg("--state")
        .arg(site.place.path().join("other-state"))
        .args(["--agent-config", "/nowhere"]);
    elsewhere.ok().mentions(&["databases were not opened"]);

    let restore = |target: &str| {
        Run::new(["restore", "site"])
            .arg(site.place.path().join(target))
            .args(["--load", "--unverified", "--config"])
            .arg(site.config())
            .arg("--spare")
            .arg(site.spare())
            .arg("--state")
            .arg(site.place.path().join("other-state"))
    };
    server.main("DELETE FROM pictures WHERE id = 1;");
    // What is there is only replaced by whoever wants that.
    restore("one")
        .expect(2)
        .mentions(&["1 table", "2 rows", "--replace-databases"]);
    assert!(!site.place.path().join("one").exists());
    assert_eq!(main(COUNT), "2");
    let restored = restore("one").arg("--replace-databases").ok();
    restored.mentions(&["`shop` is loaded as `shop`: 3 rows"]);
    assert_eq!(main(COUNT), "3");
    assert!(site.place.path().join("one").exists());
    let left = fs::read_dir(site.place.path()).unwrap().flatten();
    let left = left.filter(|one| one.file_name().to_string_lossy().contains("databases"));
    assert_eq!(left.count(), 0);
}

#[test]
fn postgres_is_restored_and_practised() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql(
        "shop",
        "CREATE TABLE pictures (id bigint PRIMARY KEY); INSERT INTO pictures VALUES (1), (2), (3);",
    );
    let site = Site::new(&of_postgres(&server));
    let main = |question: &str| server.sql("shop", question).trim().to_owned();
    is_restored_and_practised(&site, &server, &main);
    server.sql("postgres", "DROP DATABASE shop;");
    let data = Run::new(["restore", "site"])
        .arg(site.place.path().join("two"))
        .args(["--load", "--unverified", "--config"])
        .arg(site.config())
        .arg("--spare")
        .arg(site.spare())
        .arg("--state")
        .arg(site.place.path().join("other-state"))
        .data();
    assert_eq!(data["loaded"][0]["rows"]["public.pictures"], 3, "{data}");
    assert_eq!(main(COUNT), "3");
    let names = server.sql("postgres", "SELECT datname FROM pg_database;");
    assert!(!names.contains("drill"), "{names}");
}

#[test]
fn mariadb_is_restored_and_practised() {
    let Some(server) = mariadb::Server::start(&[]) else {
        return;
    };
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.pictures (id BIGINT PRIMARY KEY); INSERT INTO shop.pictures VALUES (1), (2), (3);");
    let site = Site::new(&of_mariadb(&server));
    let main = |question: &str| server.sql(&format!("USE shop; {question}"));
    is_restored_and_practised(&site, &server, &main);
    let names = server.sql("SHOW DATABASES;");
    assert!(!names.contains("drill"), "{names}");
}

#[test]
fn what_is_loaded_hourly_is_brought_up_to_date_by_a_promotion() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop;");
    server.sql("shop", TABLE);
    let standby = format!("{}load = \"hourly\"\n", copy_of_postgres(&server));
    let scene = Scene::new(&of_postgres(&server), &standby);
    scene.site.cycle().ok();
    let first = scene.await_loaded();
    server.main("INSERT INTO pictures VALUES (1, 'new');");
    scene.site.cycle().ok();
    std::thread::park_timeout(Duration::from_secs(3));
    assert_eq!(scene.known()["loaded"], first["loaded"]);
    assert_eq!(server.standby(COUNT).unwrap(), "0");
    let facts = scene.on_spare(&["promote", "site", "--dry-run"]).ok();
    facts.mentions(&["is loaded first", "as the last load took"]);
    let promoted = scene.promote().ok();
    promoted.mentions(&["loads the database `shop`", "it was loaded now"]);
    assert_eq!(server.standby(COUNT).unwrap(), "1");
}
