//! Whether anything has changed: no commit is missed, and nothing else counts.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use understudy_databases::postgres::Postgres;
use understudy_databases::{Database, Probe};

use crate::EVERYTHING;
use crate::server::{Server, limits};

/// Until two probes are equal: the server is done with what a change leaves for later.
fn settled(server: &Server) -> Probe {
    let postgres = server.postgres("shop");
    let started = Instant::now();
    let mut last = postgres.probe().unwrap();
    loop {
        let probe = postgres.probe().unwrap();
        if probe == last {
            assert!(probe.is_settled);
            return probe;
        }
        last = probe;
        assert!(started.elapsed() < Duration::from_secs(60), "never quiet");
    }
}

#[test]
fn what_changes_nothing_is_no_change() {
    let Some(server) = Server::start_with(&["autovacuum=off"]) else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", EVERYTHING);
    server.sql("shop", "VACUUM FREEZE");
    server.sql("postgres", "CHECKPOINT");
    let before = settled(&server);
    server.sql(
        "shop",
        "SELECT count(*) FROM t; BEGIN; SELECT * FROM part; ROLLBACK",
    );
    let scratch = tempfile::tempdir().unwrap();
    server.postgres("shop").dump(scratch.path()).unwrap();
    server.postgres("shop").check().unwrap();
    assert_eq!(server.postgres("shop").probe().unwrap(), before);
}

#[test]
fn every_kind_of_change_is_one() {
    let Some(mut server) = Server::start_with(&["autovacuum=off"]) else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", EVERYTHING);
    for change in [
        "INSERT INTO t (b) VALUES ('x')",
        "UPDATE u SET a = 1; INSERT INTO u VALUES (1)",
        "SET synchronous_commit = off; DELETE FROM t WHERE id = 1",
        "TRUNCATE part",
        "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "SELECT setval('t_id_seq', 5000)",
        "SELECT lo_put(4711, 0, 'A')",
        "ALTER ROLE postgres SET work_mem = '5MB'",
        "ALTER DATABASE shop SET work_mem = '6MB'",
    ] {
        let before = server.postgres("shop").probe().unwrap();
        server.sql("shop", change);
        assert_ne!(
            server.postgres("shop").probe().unwrap().token,
            before.token,
            "{change}"
        );
    }
    let before = server.postgres("shop").probe().unwrap();
    server.stop(rustix::process::Signal::INT);
    server.restart();
    assert_ne!(
        server.postgres("shop").probe().unwrap().token,
        before.token,
        "a restart"
    );
}

#[test]
fn a_transaction_that_ran_already_is_a_change_when_it_commits() {
    let Some(server) = Server::start_with(&["max_prepared_transactions=2"]) else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", EVERYTHING);
    let mut old = server.session("shop");
    old.sql("BEGIN; INSERT INTO u VALUES (1);");
    server.sql(
        "shop",
        "BEGIN; INSERT INTO u VALUES (2); PREPARE TRANSACTION 'p'",
    );
    server.sql("shop", "INSERT INTO t (b) VALUES ('younger')");
    // The younger one first, while the older one keeps the start of the snapshot where it is.
    let before = settled(&server);
    server.sql("shop", "COMMIT PREPARED 'p'");
    let after = server.postgres("shop").probe().unwrap();
    assert_ne!(before.token, after.token);
    old.sql("COMMIT;");
    assert_ne!(server.postgres("shop").probe().unwrap().token, after.token);
}

fn random(below_microseconds: u64) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    Duration::from_micros(random % below_microseconds)
}

/// Whatever wakes a thread before.
pub(crate) fn pause(length: Duration) {
    let started = Instant::now();
    while let Some(rest) = length.checked_sub(started.elapsed()) {
        std::thread::park_timeout(rest);
    }
}

/// Two servers, for most of the time is spent waiting.
#[test]
fn no_commit_is_missed_whenever_it_comes() {
    let tries = match std::env::var_os("UNDERSTUDY_TEST_FULL") {
        Some(_) => 1000,
        None => 200,
    };
    let Some(servers) = [Server::start(), Server::start()]
        .into_iter()
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let unchanged = std::thread::scope(|scope| {
        let each = servers
            .iter()
            .map(|server| scope.spawn(|| races(server, tries / 2)));
        let each: Vec<_> = each.collect();
        each.into_iter()
            .map(|each| each.join().unwrap())
            .sum::<u64>()
    });
    println!("{unchanged} of {tries} said that nothing had changed");
    assert!(
        unchanged * 10 > tries,
        "the test tries nothing: {unchanged} of {tries} were unchanged"
    );
}

/// A transaction of random length commits at a random moment around a probe and the dump after it. If the next probe says that nothing has
/// changed, the dump must have every row that was committed before that probe. Returns how often it said so.
fn races(server: &Server, tries: u64) -> u64 {
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE t (id bigint)");
    let mut writer = server.session("shop");
    // Roles are asked for after the rows were read, and only take time here.
    let programs = tempfile::tempdir().unwrap();
    for name in ["psql", "pg_dump", "pg_restore"] {
        let real = crate::server::programs().unwrap().join(name);
        std::os::unix::fs::symlink(real, programs.path().join(name)).unwrap();
    }
    let mut settings = server.settings("shop");
    settings.programs = Some(programs.path().to_owned());
    let postgres = Postgres::new(settings, limits());
    let mut unchanged = 0;
    for number in 1..=tries {
        // The probe comes first, or the transaction, which may be done before it or not.
        let (probe, write) = match number % 2 {
            0 => (random(60_000), Duration::ZERO),
            _ => (Duration::ZERO, random(60_000)),
        };
        let hold = random(30_000);
        let scratch = tempfile::tempdir().unwrap();
        let (first, rows, second) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                pause(write);
                writer.sql(&format!("BEGIN; INSERT INTO t VALUES ({number});"));
                pause(hold);
                writer.sql("COMMIT;");
            });
            pause(probe);
            let first = postgres.probe().unwrap();
            let dump = postgres.dump(scratch.path()).unwrap();
            writing.join().unwrap();
            (first, dump.rows["public.t"], postgres.probe().unwrap())
        });
        if first.is_settled && first.token == second.token {
            unchanged += 1;
            assert_eq!(rows, number, "try {number}: a committed row is in no dump");
        }
    }
    unchanged
}
