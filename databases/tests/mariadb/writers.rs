//! Who writes while a dump is taken: waits for nobody with InnoDB, and for as long as is said with anything else.

use std::time::{Duration, Instant};

use understudy_databases::{Database, Dump, Limits};

use crate::server::{Server, limits};
use crate::waits::{Waits, amid};
use crate::{is_full, pause};

/// About `megabytes` of rows, and a table to write to.
fn shop(engine: &str, megabytes: u64) -> Option<Server> {
    // As it comes: in the little memory of other tests a dump drives out what writers need.
    let server = Server::start(&["--innodb-buffer-pool-size=128M"])?;
    server.sql(&format!(
        "CREATE DATABASE shop; USE shop; CREATE TABLE a (a INT PRIMARY KEY, b TEXT) ENGINE={engine}; \
         INSERT INTO a SELECT seq, REPEAT(MD5(seq), 5) FROM seq_1_to_{}; \
         CREATE TABLE log (a INT AUTO_INCREMENT PRIMARY KEY, b TEXT) ENGINE={engine}; INSERT INTO log (b) VALUES ('0')",
        megabytes * 6000
    ));
    Some(server)
}

/// MyISAM lets rows be added at the end of a table that is locked for reading, and none be changed.
fn write(engine: &str) -> &'static str {
    match engine {
        "MyISAM" => "UPDATE shop.log SET b=b+1 WHERE a=1",
        _ => "INSERT INTO shop.log (b) VALUES ('a line')",
    }
}

fn dump_amid_writers(server: &Server, engine: &str) -> (Dump, Waits) {
    let limits = Limits {
        lock: Duration::from_secs(60),
        ..limits()
    };
    let shop =
        understudy_databases::mariadb::Mariadb::new(server.settings("shop", "root", ""), limits);
    let scratch = tempfile::tempdir().unwrap();
    amid(
        || server.session(),
        |session| session.sql(write(engine)),
        || shop.dump(scratch.path()).unwrap(),
    )
}

/// The dump stands still in the middle, and everybody goes on writing.
#[test]
fn writers_of_innodb_wait_for_no_dump() {
    let Some(server) = shop("InnoDB", 1) else {
        return;
    };
    server.sql("CREATE TABLE shop.z (a INT) ENGINE=InnoDB");
    let shop = server.mariadb("shop");
    let scratch = tempfile::tempdir().unwrap();
    let mut session = server.session();
    session.sql("LOCK TABLES shop.z WRITE");
    std::thread::scope(|scope| {
        let dumping = scope.spawn(|| shop.dump(scratch.path()).unwrap());
        let waits = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'";
        while server.sql(waits) == "0" {}
        server.sql("INSERT INTO shop.log (b) VALUES ('x'); UPDATE shop.a SET b='' WHERE a=1; DELETE FROM shop.a WHERE a=2");
        assert!(!dumping.is_finished());
        session.sql("UNLOCK TABLES");
        let dump = dumping.join().unwrap();
        assert_eq!((dump.rows["a"], dump.rows["log"]), (6000, 1));
        assert_eq!(dump.writers_waited, Duration::ZERO);
    });
}

/// Somebody who updates cannot before the dump has ended, and does not wait for longer than it says.
#[test]
fn writers_of_other_tables_wait_for_as_long_as_is_said() {
    let Some(server) = shop("MyISAM", 10) else {
        return;
    };
    let shop = server.mariadb("shop");
    let scratch = tempfile::tempdir().unwrap();
    let mut session = server.session();
    let (dump, waited) = std::thread::scope(|scope| {
        let dumping = scope.spawn(|| shop.dump(scratch.path()).unwrap());
        while server
            .sql("SHOW OPEN TABLES FROM shop WHERE In_use>0")
            .is_empty()
        {}
        let started = Instant::now();
        session.sql("UPDATE shop.a SET b='' WHERE a=1");
        let waited = started.elapsed();
        (dumping.join().unwrap(), waited)
    });
    assert!(dump.writers_waited > Duration::ZERO && dump.writers_waited < limits().lock);
    let slack = Duration::from_secs(1);
    assert!(waited < dump.writers_waited + slack, "{waited:?} {dump:?}");
}

/// One engine after another, each with and without a dump of more than 100 MB.
#[test]
fn waits_are_measured_in_full() {
    if !is_full() {
        eprintln!("skipped: measured with UNDERSTUDY_TEST_FULL only");
        return;
    }
    for engine in ["InnoDB", "MyISAM"] {
        let Some(server) = shop(engine, 110) else {
            return;
        };
        let mut caused = Vec::new();
        for _ in 0..3 {
            let started = Instant::now();
            let (dump, with) = dump_amid_writers(&server, engine);
            let length = started.elapsed();
            let ((), without) = amid(
                || server.session(),
                |session| session.sql(write(engine)),
                || pause(length),
            );
            assert!(with.count() > 0);
            eprintln!(
                "{engine}, a dump of {} ms: {}",
                length.as_millis(),
                with.words()
            );
            eprintln!("{engine}, no dump: {}", without.words());
            eprintln!(
                "{engine}: `writers_waited` {} ms",
                dump.writers_waited.as_millis()
            );
            if engine == "MyISAM" {
                assert!(with.longest() < dump.writers_waited + Duration::from_millis(250));
            }
            caused.push(with.longest().saturating_sub(without.longest()));
        }
        caused.sort();
        if engine == "InnoDB" {
            assert!(caused[1] < Duration::from_millis(250), "{caused:?}");
        }
    }
}
