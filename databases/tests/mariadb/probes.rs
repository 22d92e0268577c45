//! Whether anything has changed: no commit is missed, and nothing else counts.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use understudy_databases::mariadb::Mariadb;
use understudy_databases::{Database, Probe};

use crate::server::{Server, Session};
use crate::{EVERYTHING, files, is_full, pause};

const LOGGED: [&str; 2] = ["--log-bin=bin", "--sync-binlog=1"];

fn settled(shop: &Mariadb) -> Probe {
    let started = std::time::Instant::now();
    loop {
        let probe = shop.probe().unwrap();
        if probe.is_settled {
            return probe;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never quiet");
    }
}

#[test]
fn what_changes_nothing_is_no_change() {
    for options in [&LOGGED[..], &[]] {
        let Some(server) = Server::start(options) else {
            return;
        };
        server.sql(EVERYTHING);
        server.sql("CREATE TABLE shop.m (a INT) ENGINE=MyISAM; INSERT INTO shop.m VALUES (1)");
        let shop = server.mariadb("shop");
        // At once, while InnoDB still writes to its own log.
        let before = settled(&shop);
        server.sql("USE shop; SELECT COUNT(*) FROM t ORDER BY b; SELECT * FROM w; BEGIN; SELECT * FROM m; ROLLBACK; \
                    SELECT * FROM (SELECT DISTINCT b FROM t) x ORDER BY b; CHECK TABLE m; CALL p()");
        let scratch = tempfile::tempdir().unwrap();
        shop.dump(scratch.path()).unwrap();
        shop.check().unwrap();
        pause(Duration::from_millis(2500));
        assert_eq!(settled(&shop), before, "{options:?}");
    }
}

#[test]
fn every_kind_of_change_is_one() {
    for (options, has_process) in [(&LOGGED[..], true), (&[], true), (&[], false)] {
        let Some(server) = Server::start(options) else {
            return;
        };
        server.sql(EVERYTHING);
        server.sql("CREATE TABLE shop.m (a INT AUTO_INCREMENT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO shop.m VALUES (1)");
        server.sql("CREATE USER u@localhost; GRANT ALL ON shop.* TO u@localhost; GRANT SELECT ON mysql.proc TO u@localhost");
        let shop = match has_process {
            true => server.mariadb("shop"),
            false => server.mariadb_of("shop", "u", ""),
        };
        for change in [
            "INSERT INTO t (a) VALUES (5000)",
            "UPDATE t SET b='' WHERE a=1",
            "DELETE FROM child",
            "TRUNCATE empty",
            "INSERT INTO m VALUES ()",
            "UPDATE m SET a=17 WHERE a=1",
            "DELETE FROM m",
            "TRUNCATE m",
            "DO SETVAL(numbers, 100)",
            "CREATE OR REPLACE VIEW v AS SELECT 1 AS a",
            "DROP FUNCTION f; CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 5",
            "DROP TRIGGER tr",
            "ALTER EVENT e DISABLE",
            "ALTER TABLE t COMMENT='x'",
            "ALTER TABLE t AUTO_INCREMENT=77",
            "ALTER TABLE m ADD COLUMN b INT",
            "CREATE INDEX i ON t (c)",
            "RENAME TABLE empty TO full",
            "ALTER DATABASE shop CHARACTER SET latin1",
        ] {
            let before = shop.probe().unwrap().token;
            server.sql(&format!("USE shop; {change}"));
            assert_ne!(
                shop.probe().unwrap().token,
                before,
                "{options:?} {has_process}: {change}"
            );
        }
    }
}

/// Counters have moved when a row is changed, so the commit moves none: as long as it is to come, they settle nothing.
#[test]
fn a_transaction_that_is_open_leaves_nothing_settled_or_is_a_change_when_it_commits() {
    for (options, has_process) in [(&LOGGED[..], true), (&[], true), (&[], false)] {
        let Some(server) = Server::start(options) else {
            return;
        };
        server.sql(EVERYTHING);
        server.sql("CREATE USER u@localhost; GRANT ALL ON shop.* TO u@localhost");
        let shop = match has_process {
            true => server.mariadb("shop"),
            false => server.mariadb_of("shop", "u", ""),
        };
        let mut session = server.session();
        for end in ["COMMIT", "XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'"] {
            let begin = match end {
                "COMMIT" => "BEGIN",
                _ => "XA START 'x'",
            };
            session.sql(&format!(
                "USE shop; {begin}; UPDATE t SET b=CONCAT(b,'x') WHERE a=1"
            ));
            pause(Duration::from_millis(500));
            let before = shop.probe().unwrap();
            session.sql(end);
            let after = shop.probe().unwrap();
            let context = format!("{options:?} {has_process}: {end}");
            assert!(
                !before.is_settled || before.token != after.token,
                "{context}"
            );
            let is_open_told = options.is_empty() && has_process;
            assert_eq!(
                is_open_told,
                !before.is_settled && before.token == after.token
            );
        }
    }
}

/// A statement on a table without transactions is counted row by row, and others may see its rows when it ends only.
#[test]
fn a_statement_that_runs_leaves_nothing_settled() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.m (a INT) ENGINE=MyISAM; INSERT INTO shop.m VALUES (1)");
    let shop = server.mariadb("shop");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.sql(
                "USE shop; INSERT INTO m SELECT seq + IF(seq < 5, 0, SLEEP(2)) FROM seq_1_to_5",
            )
        });
        while server
            .sql("SHOW OPEN TABLES FROM shop WHERE In_use>0")
            .is_empty()
        {}
        assert!(!shop.probe().unwrap().is_settled);
    });
    settled(&shop);
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// Something that changes a row, or several, and may take a while.
fn change(number: u64, engine: &str) -> Vec<(String, Duration)> {
    let write = match number % 5 {
        0 => format!("DELETE FROM t WHERE a={}", number / 2),
        1 => format!("UPDATE t SET b=b+1 WHERE a<{number} ORDER BY a DESC LIMIT 2"),
        2 => format!("INSERT INTO t VALUES ({number},0)"),
        _ => format!("INSERT INTO t VALUES ({number},0),(-{number},0)"),
    };
    // As long as it takes from a probe to the moment that a dump is of, and longer.
    let hold = Duration::from_micros(random(300_000));
    match (engine, number % 3) {
        ("MyISAM", 0) => {
            // All rows are counted, and nobody sees them until it ends.
            let slow = format!(
                "INSERT INTO t SELECT {number}*1000+seq, 0 FROM seq_1_to_4 WHERE seq<4 OR SLEEP(0.{:02})",
                random(30)
            );
            vec![(slow, Duration::ZERO)]
        }
        ("MyISAM", _) => vec![(write, Duration::ZERO)],
        (_, 0) => vec![
            (format!("BEGIN; SELECT 1; {write}"), hold),
            ("COMMIT".to_owned(), Duration::ZERO),
        ],
        (_, 1) => vec![
            ("BEGIN; SELECT COUNT(*) FROM t".to_owned(), hold),
            (write, hold),
            ("COMMIT".to_owned(), Duration::ZERO),
        ],
        _ => vec![(write, Duration::ZERO)],
    }
}

/// How often a probe was tried.
#[derive(Default)]
struct Tried {
    /// It said that nothing had changed since the one before, around which something was written.
    near: u64,
    /// It did, in any of two looks of a try.
    any: u64,
}

/// Writes at some moment around a probe and the dump after it, with transactions that are open across them. Whenever the next probe says that
/// nothing has changed, a dump has the same bytes as the one before.
fn races(options: &[&str], engine: &str, has_process: bool) -> Option<()> {
    let server = Server::start(options)?;
    server.sql(&format!("CREATE DATABASE shop; CREATE TABLE shop.t (a INT PRIMARY KEY, b INT) ENGINE={engine}; INSERT INTO shop.t VALUES (0,0)"));
    server.sql("CREATE USER u@localhost; GRANT ALL ON shop.* TO u@localhost; GRANT SELECT ON mysql.proc TO u@localhost");
    let shop = match has_process {
        true => server.mariadb("shop"),
        false => server.mariadb_of("shop", "u", ""),
    };
    let mut session = server.session();
    session.sql("USE shop");
    let tries = if is_full() { 1000 } else { 20 };
    let mut tried = Tried::default();
    let dump = || {
        let scratch = tempfile::tempdir().unwrap();
        shop.dump(scratch.path()).unwrap();
        files(scratch.path())
    };
    for number in 1..=tries {
        let (first, dumped) = beside(&mut session, change(number, engine), || {
            (shop.probe().unwrap(), dump())
        });
        let second = shop.probe().unwrap();
        let is_near = first.is_settled && first.token == second.token;
        let again = dump();
        assert!(
            !is_near || again == dumped,
            "{engine}, try {number}: a change was missed"
        );
        let third = shop.probe().unwrap();
        let is_equal = second.is_settled && second.token == third.token;
        assert!(
            !is_equal || dump() == again,
            "{engine}, try {number}: a change was missed"
        );
        tried.near += u64::from(is_near);
        tried.any += u64::from(is_near || is_equal);
    }
    let kind = shop.probe().unwrap().token;
    let kind = kind.split(':').next().unwrap();
    eprintln!(
        "{engine} by {kind}: of {tries} tries {} were said to be unchanged since a probe amid writing, {} since either probe",
        tried.near, tried.any
    );
    assert!(
        tried.any * 2 > tries || !has_process,
        "the test tries nothing"
    );
    Some(())
}

/// Does something, before or after the begin of which something is written.
fn beside<T>(session: &mut Session, steps: Vec<(String, Duration)>, does: impl FnOnce() -> T) -> T {
    let (write, wait) = match random(2) {
        0 => (Duration::ZERO, Duration::from_micros(random(120_000))),
        _ => (Duration::from_micros(random(80_000)), Duration::ZERO),
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            pause(write);
            for (statement, hold) in steps {
                session.sql(&statement);
                pause(hold);
            }
        });
        pause(wait);
        let done = does();
        writing.join().unwrap();
        done
    })
}

#[test]
fn no_commit_is_missed_with_a_binary_log() {
    races(&LOGGED, "InnoDB", true);
}

#[test]
fn no_commit_is_missed_by_counters() {
    races(&[], "InnoDB", true);
}

#[test]
fn no_write_is_missed_of_tables_without_transactions() {
    races(&[], "MyISAM", true);
}

#[test]
fn no_commit_is_missed_by_the_position_in_the_log_of_the_engine() {
    races(&[], "InnoDB", false);
}

#[test]
fn no_write_is_missed_of_tables_without_transactions_with_a_binary_log() {
    races(&LOGGED, "MyISAM", true);
}
