//! The example for Redis.

use std::path::Path;
use std::time::{Duration, Instant};

use understudy_databases::command::CommandDatabase;
use understudy_databases::{Database, DatabaseError, Probe};

use crate::server::Server;
use crate::{command, limits, programs};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/redis.sh");

fn redis(server: &Server, more: &[&str]) -> CommandDatabase {
    let socket = server.socket();
    let words = [&["bash", SCRIPT, socket.to_str().unwrap()], more].concat();
    command(&words, limits())
}

fn dump(database: &CommandDatabase) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    database.dump(scratch.path()).unwrap();
    std::fs::read(scratch.path().join("dump.rdb")).unwrap()
}

/// Until the second of the last save is over.
fn settled(database: &CommandDatabase) -> Probe {
    let started = Instant::now();
    loop {
        let probe = database.probe().unwrap();
        if probe.is_settled {
            return probe;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "never settled");
    }
}

#[test]
fn redis_is_dumped_when_it_has_changed_and_only_then() {
    let Some(mut server) = Server::start("") else {
        return;
    };
    let database = redis(&server, &[]);
    assert_eq!(database.check().unwrap(), [""; 0]);
    server.ask(&["SET", "key", "the first value"]);
    let first = dump(&database);
    assert!(first.windows(15).any(|part| part == b"the first value"));
    // What was saved is not saved again, so that the probe stays as it is.
    let before = settled(&database);
    assert!(dump(&database) == first);
    server.ask(&["GET", "key"]);
    assert_eq!(database.probe().unwrap(), before);

    server.ask(&["SET", "key", "another value"]);
    assert_ne!(settled(&database).token, before.token);
    let second = dump(&database);
    assert!(second.windows(13).any(|part| part == b"another value"));
    // In the second of a save nothing can be promised.
    server.ask(&["SET", "key", "a third value"]);
    server.ask(&["SAVE"]);
    let saved: u64 = server.ask(&["LASTSAVE"]).parse().unwrap();
    let probe = database.probe().unwrap();
    let now: u64 = server
        .ask(&["TIME"])
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(!probe.is_settled || now > saved);

    // A server that was started again may have read another file than it writes.
    let before = settled(&database);
    server.stop();
    server.run();
    assert_ne!(settled(&database).token, before.token);
    assert!(
        dump(&database)
            .windows(13)
            .any(|part| part == b"a third value")
    );
}

/// What it read is in its append-only file, and dump.rdb is older.
#[test]
fn redis_that_was_started_again_is_saved_anew() {
    let Some(mut server) = Server::start("appendonly yes\nappendfsync always\n") else {
        return;
    };
    let database = redis(&server, &[]);
    server.ask(&["SET", "key", "the first value"]);
    dump(&database);
    server.ask(&["SET", "key", "another value"]);
    server.ask(&["BGREWRITEAOF"]);
    while server
        .ask(&["INFO", "persistence"])
        .contains("aof_rewrite_in_progress:1")
    {
        std::thread::yield_now();
    }
    server.stop();
    server.run();
    while server.ask(&["GET", "key"]) != "another value" {
        std::thread::yield_now();
    }
    assert!(
        dump(&database)
            .windows(13)
            .any(|part| part == b"another value")
    );
}

#[test]
fn redis_is_loaded_in_place_of_what_it_had() {
    let (Some(main), Some(spare)) = (Server::start(""), Server::start("save 3600 1\n")) else {
        return;
    };
    for number in 0..100 {
        main.ask(&["SET", &format!("key{number}"), "value"]);
    }
    spare.ask(&["SET", "old", "value"]);
    let scratch = tempfile::tempdir().unwrap();
    redis(&main, &[]).dump(scratch.path()).unwrap();
    let start = spare.path().join("start.sh");
    let switch = match programs::is_root() {
        true => "setpriv --reuid redis --regid redis --clear-groups ",
        false => "",
    };
    let at = spare.path().display();
    programs::script(
        &start,
        &format!("#!/bin/sh\n{switch}redis-server {at}/redis.conf --daemonize yes\n"),
    );
    let database = redis(&spare, &["/dev/null", start.to_str().unwrap()]);
    for _ in 0..2 {
        database.load(scratch.path(), "sessions").unwrap();
        assert_eq!(database.count("sessions").unwrap()["db0"], 100);
        assert_eq!(spare.ask(&["GET", "key7"]), "value");
        assert_eq!(spare.ask(&["GET", "old"]), "");
    }
    assert!(spare.path().join("dump.rdb.previous").exists());

    // One that was stopped in the middle of a load.
    spare.ask(&["SHUTDOWN", "NOSAVE"]);
    database.load(scratch.path(), "sessions").unwrap();
    assert_eq!(database.count("sessions").unwrap()["db0"], 100);

    let path = scratch.path().join("dump.rdb");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = database
        .load(scratch.path(), "sessions")
        .unwrap_err()
        .to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(database.count("sessions").unwrap()["db0"], 100);
    assert!(matches!(
        database.drop_database("sessions"),
        Err(DatabaseError::Unsupported(_))
    ));
    assert!(matches!(
        redis(&spare, &[]).load(scratch.path(), "x"),
        Err(DatabaseError::Unsupported(_))
    ));
}

#[test]
fn redis_says_what_is_wrong() {
    let Some(mut server) = Server::start("requirepass hush\nrdbcompression yes\n") else {
        return;
    };
    let auth = server.path().join("auth");
    std::fs::write(&auth, "AUTH hush\n").unwrap();
    let right = redis(&server, &[auth.to_str().unwrap()]);
    let lines = right.check().unwrap();
    assert!(
        lines.len() == 1 && lines[0].contains("rdbcompression"),
        "{lines:?}"
    );
    right.probe().unwrap();
    dump(&right);

    let says = |database: &CommandDatabase, word: &str| {
        let error = database.probe().unwrap_err().to_string();
        assert!(
            error.contains(word) && !error.contains("hush"),
            "{word:?}: {error}"
        );
        let error = database
            .dump(Path::new("/nowhere"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(word) && !error.contains("hush"),
            "{word:?}: {error}"
        );
        assert!(database.check().unwrap()[0].contains(word));
    };
    says(&redis(&server, &[]), "AUTH password");
    server.stop();
    says(&right, "systemctl start redis-server");
}
