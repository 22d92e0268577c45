//! Who writes while a dump is taken waits for nobody.

use std::time::{Duration, Instant};

use understudy_databases::Database;

use crate::probes::pause;
use crate::server::Server;
use crate::waits::amid;

/// About `megabytes` of rows, and a table to write to.
fn shop(megabytes: u64) -> Option<Server> {
    let server = Server::start()?;
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        &format!(
            "CREATE TABLE a (a int PRIMARY KEY, b text); INSERT INTO a SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, {}) i; \
             CREATE TABLE log (a serial PRIMARY KEY, b text)",
            megabytes * 6000
        ),
    );
    Some(server)
}

/// The dump has its snapshot and its locks, and waits for one more; everybody goes on writing.
#[test]
fn writers_wait_for_no_dump() {
    let Some(server) = shop(1) else { return };
    server.sql("shop", "CREATE TABLE z (a int)");
    let postgres = server.postgres("shop");
    let scratch = tempfile::tempdir().unwrap();
    let mut session = server.session("shop");
    session.sql("BEGIN; LOCK TABLE z;");
    std::thread::scope(|scope| {
        let dumping = scope.spawn(|| postgres.dump(scratch.path()).unwrap());
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while server.sql("shop", waits) == "0" {
            std::thread::yield_now();
        }
        server.sql("shop", "INSERT INTO log (b) VALUES ('x'); UPDATE a SET b = '' WHERE a = 1; DELETE FROM a WHERE a = 2");
        assert!(!dumping.is_finished());
        session.sql("COMMIT;");
        let dump = dumping.join().unwrap();
        assert_eq!((dump.rows["public.a"], dump.rows["public.log"]), (6000, 0));
        assert_eq!(dump.writers_waited, Duration::ZERO);
    });
}

/// With and without a dump of more than 100 MB.
#[test]
fn waits_are_measured_in_full() {
    if std::env::var_os("UNDERSTUDY_TEST_FULL").is_none() {
        eprintln!("skipped: measured with UNDERSTUDY_TEST_FULL only");
        return;
    }
    let Some(server) = shop(110) else { return };
    let write = |session: &mut crate::server::Session| {
        session.sql("INSERT INTO log (b) VALUES ('a line');");
    };
    let mut caused = Vec::new();
    for _ in 0..3 {
        let scratch = tempfile::tempdir().unwrap();
        let postgres = server.postgres("shop");
        let started = Instant::now();
        let (_, with) = amid(
            || server.session("shop"),
            write,
            || postgres.dump(scratch.path()).unwrap(),
        );
        let length = started.elapsed();
        let ((), without) = amid(|| server.session("shop"), write, || pause(length));
        assert!(with.count() > 0);
        eprintln!(
            "PostgreSQL, a dump of {} ms: {}",
            length.as_millis(),
            with.words()
        );
        eprintln!("PostgreSQL, no dump: {}", without.words());
        caused.push(with.longest().saturating_sub(without.longest()));
    }
    caused.sort();
    assert!(caused[1] < Duration::from_millis(250), "{caused:?}");
}
