//! MariaDB, with a real server.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "scratch directories of the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/mariadb.rs"]
mod server;
#[path = "support/waits.rs"]
mod waits;

#[path = "mariadb/dumps.rs"]
mod dumps;
#[path = "mariadb/failures.rs"]
mod failures;
#[path = "mariadb/loads.rs"]
mod loads;
#[path = "mariadb/probes.rs"]
mod probes;
#[path = "mariadb/writers.rs"]
mod writers;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A bit of everything that a dump has a part for.
const EVERYTHING: &str = r#"
CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci; USE shop;
CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c INT AS (a+1)) ENGINE=InnoDB;
INSERT INTO t (a,b) SELECT seq, CONCAT('(\n''\\;', REPEAT('),(', seq % 5), seq) FROM seq_1_to_3000;
CREATE TABLE `..wéird/``%` (a INT) ENGINE=InnoDB; INSERT INTO `..wéird/``%` VALUES (1),(2);
CREATE TABLE child (a INT, FOREIGN KEY (a) REFERENCES t (a)) ENGINE=InnoDB; INSERT INTO child VALUES (7);
CREATE TABLE empty (a INT) ENGINE=InnoDB;
CREATE SEQUENCE numbers NOCACHE;
CREATE TABLE numbered (a INT PRIMARY KEY DEFAULT nextval(numbers), b INT) ENGINE=InnoDB;
INSERT INTO numbered (b) VALUES (1),(2);
CREATE VIEW v AS SELECT a FROM t;
DELIMITER //
CREATE TRIGGER tr BEFORE INSERT ON child FOR EACH ROW BEGIN SET @x=1; END//
CREATE PROCEDURE p() BEGIN SELECT 1; END//
CREATE FUNCTION f() RETURNS INT DETERMINISTIC BEGIN RETURN 4; END//
CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN SELECT 1; END//
CREATE TABLE shop (a INT) ENGINE=InnoDB//
CREATE VIEW w AS SELECT shop.a, f() AS four, 'shop.f() `shop`.`f`()' AS text FROM shop//
"#;

/// Every file of a directory, by its name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

/// Whatever wakes a thread before.
fn pause(length: Duration) {
    let started = Instant::now();
    while let Some(rest) = length.checked_sub(started.elapsed()) {
        std::thread::park_timeout(rest);
    }
}

/// Whether a test is to be run at length.
fn is_full() -> bool {
    std::env::var_os("UNDERSTUDY_TEST_FULL").is_some()
}
