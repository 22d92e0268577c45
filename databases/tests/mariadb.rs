//! MariaDB, with a real server.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "scratch directories of the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/mariadb.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use server::Server;
use understudy_databases::Database;

/// A bit of everything that a dump has a part for.
const EVERYTHING: &str = r#"
CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci; USE shop;
CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c INT AS (a+1)) ENGINE=InnoDB;
INSERT INTO t (a,b) SELECT seq, CONCAT('(\n''\\;', REPEAT('),(', seq % 5), seq) FROM seq_1_to_3000;
CREATE TABLE `..wéird/``%` (a INT) ENGINE=InnoDB; INSERT INTO `..wéird/``%` VALUES (1),(2);
CREATE TABLE child (a INT, FOREIGN KEY (a) REFERENCES t (a)) ENGINE=InnoDB; INSERT INTO child VALUES (7);
CREATE TABLE empty (a INT) ENGINE=InnoDB;
CREATE VIEW v AS SELECT a FROM t;
DELIMITER //
CREATE TRIGGER tr BEFORE INSERT ON child FOR EACH ROW BEGIN SET @x=1; END//
CREATE PROCEDURE p() BEGIN SELECT 1; END//
CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN SELECT 1; END//
"#;

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

#[test]
fn everything_is_dumped_loaded_and_dumped_again_with_the_same_bytes() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql(EVERYTHING);
    let shop = server.mariadb("shop");
    let (first, second, third) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let dump = shop.dump(first.path()).unwrap();
    shop.dump(second.path()).unwrap();
    assert_eq!(files(first.path()), files(second.path()));
    assert_eq!(dump.rows, shop.count("shop").unwrap());
    assert_eq!(dump.rows["t"], 3000);
    assert_eq!(dump.writers_waited, Duration::ZERO);
    assert!(files(first.path()).contains_key("table...w%C3%A9ird%2F%60%25.sql"));

    server.sql("CREATE DATABASE copy; CREATE TABLE copy.before_it (a INT)");
    for _ in 0..2 {
        shop.load(first.path(), "copy").unwrap();
        assert_eq!(shop.count("copy").unwrap(), dump.rows);
        assert_eq!(server.sql("SELECT COUNT(*) FROM copy.v"), "3000");
    }
    assert_eq!(shop.count("copy__previous").unwrap(), dump.rows);
    server.mariadb("copy").dump(third.path()).unwrap();
    for (name, bytes) in files(first.path()) {
        if !["head.sql", "events.sql", "routines.sql"].contains(&name.as_str()) {
            assert_eq!(files(third.path())[&name], bytes, "{name}");
        }
    }
    // A failed load leaves what is there.
    std::fs::remove_file(first.path().join("table.t.sql")).unwrap();
    let error = shop.load(first.path(), "copy").unwrap_err().to_string();
    assert!(error.contains("was not read to its end"), "{error}");
    assert_eq!(shop.count("copy").unwrap(), dump.rows);
    shop.drop_database("copy").unwrap();
    shop.drop_database("copy").unwrap();
}

#[test]
fn routines_that_cannot_be_read_fail_the_dump_with_the_grant() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql(EVERYTHING);
    server.sql("CREATE USER u@localhost IDENTIFIED BY 'secret'; GRANT SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT ON shop.* TO u@localhost");
    let shop = server.mariadb_of("shop", "u", "secret");
    let into = tempfile::tempdir().unwrap();
    let error = shop.dump(into.path()).unwrap_err().to_string();
    let grant = "GRANT SELECT ON mysql.proc TO `u`@`localhost`";
    assert!(error.contains(grant), "{error}");
    assert!(
        shop.check()
            .unwrap()
            .iter()
            .any(|line| line.contains(grant))
    );
    server.sql(grant);
    shop.dump(into.path()).unwrap();
    assert_eq!(shop.check().unwrap(), Vec::<String>::new());
    server.sql("REVOKE TRIGGER ON shop.* FROM u@localhost");
    let error = shop.dump(into.path()).unwrap_err().to_string();
    assert!(error.contains("GRANT TRIGGER ON `shop`.*"), "{error}");
}

#[test]
fn tables_that_cannot_be_read_fail_the_dump_with_the_grant() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.a (a INT); CREATE TABLE shop.b (b INT)");
    server.sql(
        "CREATE USER u@localhost IDENTIFIED BY 'x'; GRANT SELECT, TRIGGER ON shop.a TO u@localhost; \
         GRANT TRIGGER, EVENT, LOCK TABLES, SHOW VIEW ON shop.* TO u@localhost; GRANT SELECT ON mysql.proc TO u@localhost",
    );
    let into = tempfile::tempdir().unwrap();
    let shop = server.mariadb_of("shop", "u", "x");
    let error = shop.dump(into.path()).unwrap_err().to_string();
    assert!(error.contains("GRANT SELECT ON `shop`.*"), "{error}");
    server.sql("GRANT SELECT ON shop.* TO u@localhost");
    shop.dump(into.path()).unwrap();
}

#[test]
fn what_goes_wrong_is_told_with_what_to_do() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.m (a INT) ENGINE=MyISAM; INSERT INTO shop.m VALUES (1)");
    server.sql("CREATE USER u@localhost IDENTIFIED BY 'other'");
    let into = tempfile::tempdir().unwrap();
    let tell = |database: &str, user: &str| {
        let database = server.mariadb_of(database, user, if user == "u" { "secret" } else { "" });
        database.dump(into.path()).unwrap_err().to_string()
    };
    let error = tell("shop", "u");
    assert!(
        error.contains("its password was changed") && !error.contains("secret"),
        "{error}"
    );
    let error = tell("nothing", "root");
    assert!(error.contains("there is no database `nothing`"), "{error}");

    // Somebody writes, and the lock is not given.
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| server.sql("LOCK TABLES shop.m WRITE; SELECT SLEEP(4)"));
        while server.sql(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
        ) == "0"
        {}
        let error = tell("shop", "root");
        assert!(error.contains("tables that are not InnoDB"), "{error}");
        writer.join().unwrap();
    });
    let dump = server.mariadb("shop").dump(into.path()).unwrap();
    assert!(dump.writers_waited > Duration::ZERO && dump.notes[0].contains(": m"));

    let index = server.directory().join("data/shop/m.MYI");
    server.sql("FLUSH TABLES");
    let file = std::fs::File::options().write(true).open(index).unwrap();
    file.set_len(10).unwrap();
    let error = tell("shop", "root");
    assert!(error.contains("REPAIR TABLE"), "{error}");
    server.stop();
    let shop = server.mariadb("shop");
    let error = shop.dump(into.path()).unwrap_err().to_string();
    assert!(error.contains("start it"), "{error}");
    assert!(shop.check().unwrap()[0].contains("start it"));
}

/// A writer commits at some moment around the probe and the dump; if the next probe says that nothing has changed, the dump has the row.
fn race(options: &[&str], engine: &str) {
    let Some(server) = Server::start(options) else {
        return;
    };
    server.sql(&format!(
        "CREATE DATABASE shop; CREATE TABLE shop.t (a INT PRIMARY KEY) ENGINE={engine}"
    ));
    let shop = server.mariadb("shop");
    let full = std::env::var_os("UNDERSTUDY_TEST_FULL").is_some();
    let tries = if full { 1000 } else { 200 };
    let into = tempfile::tempdir().unwrap();
    let mut unchanged = 0;
    for row in 1..=tries {
        let (before, dump, after) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let wait = row * 7919 % 61;
                std::thread::park_timeout(Duration::from_millis(wait));
                server.sql(&format!("INSERT INTO shop.t VALUES ({row})"));
            });
            std::thread::park_timeout(Duration::from_millis(row * 31 % 61));
            let before = shop.probe().unwrap();
            let dump = shop.dump(into.path()).unwrap();
            writer.join().unwrap();
            (before, dump, shop.probe().unwrap())
        });
        if before.is_settled && before.token == after.token {
            unchanged += 1;
            assert_eq!(dump.rows["t"], row, "a commit was lost");
        }
    }
    eprintln!("{engine} {options:?}: {unchanged} of {tries} unchanged");
}

#[test]
fn no_commit_is_lost_with_a_binary_log() {
    race(&["--log-bin=bin", "--sync-binlog=1"], "InnoDB");
}

#[test]
fn no_commit_is_lost_without_a_binary_log() {
    race(&[], "InnoDB");
}

#[test]
fn no_commit_is_lost_of_tables_without_transactions() {
    race(&[], "MyISAM");
}
