//! Loading a dump: all of it, in place of what was there, or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use understudy_databases::postgres::Postgres;
use understudy_databases::{Database, Dump};

use crate::server::{Server, limits};
use crate::{EVERYTHING, files};

fn shop() -> Option<(Server, tempfile::TempDir, Dump)> {
    let server = Server::start()?;
    server.sql(
        "postgres",
        "CREATE ROLE owner; CREATE ROLE guest;
         CREATE DATABASE shop OWNER owner TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C';
         ALTER DATABASE shop SET search_path TO \"$user\", \"s/x\", public;
         ALTER DATABASE shop SET default_transaction_read_only = off;
         ALTER ROLE guest IN DATABASE shop SET work_mem = '7MB';
         REVOKE CONNECT ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO guest WITH GRANT OPTION;",
    );
    server.sql("shop", &format!("SET client_encoding = UTF8; {EVERYTHING}"));
    server.sql(
        "shop",
        "ALTER TABLE t OWNER TO owner; GRANT SELECT ON t TO guest",
    );
    let scratch = tempfile::tempdir().unwrap();
    let dump = server.postgres("shop").dump(scratch.path()).unwrap();
    Some((server, scratch, dump))
}

fn databases(server: &Server) -> String {
    let names = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1";
    server.sql("postgres", names).replace('\n', " ")
}

fn without_numbers(contents: &[u8]) -> String {
    let text = String::from_utf8_lossy(contents);
    let lines = text.lines().filter(|line| !line.contains("\"archive\""));
    lines.collect::<Vec<_>>().join("\n")
}

/// What pg_dump says of two databases differs in their names only.
#[test]
fn what_is_loaded_is_what_was_dumped() {
    let Some((server, first, dump)) = shop() else {
        return;
    };
    let postgres = server.postgres("shop");
    postgres.load(first.path(), "standby").unwrap();
    assert_eq!(databases(&server), "shop standby");
    let second = tempfile::tempdir().unwrap();
    let again = server.postgres("standby").dump(second.path()).unwrap();
    assert_eq!(again, dump);
    let (first, second) = (files(first.path()), files(second.path()));
    for (name, bytes) in &first {
        match name.as_str() {
            "toc.dat" => {}
            // The numbers of pg_dump depend on the order in which things were made.
            "contents.json" => assert_eq!(without_numbers(bytes), without_numbers(&second[name])),
            _ => assert!(second[name] == *bytes, "{name}"),
        }
    }
    let contents = String::from_utf8_lossy(&first["contents.json"]).into_owned();
    for word in [
        "LATIN1",
        "\"owner\": \"owner\"",
        "work_mem",
        "can_grant\": true",
        "$user",
    ] {
        assert!(contents.contains(word), "{word}: {contents}");
    }
    assert_eq!(postgres.count("standby").unwrap(), dump.rows);
    assert_eq!(server.sql("standby", "SELECT nextval('t_id_seq')"), "1001");
    assert_eq!(server.sql("standby", "SELECT f() + count FROM mv"), "1001");
}

#[test]
fn a_database_is_replaced_under_whoever_uses_it_and_kept_once() {
    let Some((server, scratch, _)) = shop() else {
        return;
    };
    let postgres = server.postgres("shop");
    for name in ["it's \"the\" standby", "standby"] {
        let quoted = name.replace('"', "\"\"");
        server.sql("postgres", &format!("CREATE DATABASE \"{quoted}\""));
        server.sql(name, "CREATE TABLE generation AS SELECT 1 AS g");
        let mut session = server.session(name);
        session.sql("BEGIN; INSERT INTO generation VALUES (2);");
        postgres.load(scratch.path(), name).unwrap();
        assert_eq!(server.sql(name, "SELECT count(*) FROM public.t"), "1000");
        let previous = format!("{name}__previous");
        assert_eq!(server.sql(&previous, "SELECT * FROM generation"), "1");
        postgres.load(scratch.path(), name).unwrap();
        assert_eq!(
            server.sql(&previous, "SELECT count(*) FROM public.t"),
            "1000"
        );
        postgres.drop_database(name).unwrap();
        postgres.drop_database(name).unwrap();
        assert_eq!(databases(&server), "shop");
    }
}

#[test]
fn names_that_cannot_be_loaded_as_are_refused() {
    let Some((server, scratch, _)) = shop() else {
        return;
    };
    let postgres = server.postgres("shop");
    for name in ["", "postgres", "template1", &*"x".repeat(54)] {
        let error = postgres.load(scratch.path(), name).unwrap_err().to_string();
        assert!(error.contains("at most 53 bytes"), "{error}");
        assert!(postgres.drop_database(name).is_err());
    }
    postgres.load(scratch.path(), &"x".repeat(53)).unwrap();
}

#[test]
fn a_load_that_fails_leaves_what_was_there() {
    let Some((server, scratch, _)) = shop() else {
        return;
    };
    let postgres = server.postgres("shop");
    postgres.load(scratch.path(), "standby").unwrap();
    server.sql("standby", "CREATE TABLE public.mine ()");
    let fails = |server: &Server, words: &[&str]| {
        let error = postgres
            .load(scratch.path(), "standby")
            .unwrap_err()
            .to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        assert_eq!(
            server.sql("standby", "SELECT count(*) FROM public.mine, public.t"),
            "0"
        );
    };
    let path = scratch.path().join("public.t.dat");
    let rows = std::fs::read(&path).unwrap();
    std::fs::write(&path, [b"x\ty\tz\n".as_slice(), &rows].concat()).unwrap();
    fails(&server, &["pg_restore", "extra data"]);
    std::fs::remove_file(&path).unwrap();
    fails(&server, &["not whole", "public.t.dat"]);
    std::fs::write(&path, rows).unwrap();

    // The role is there when the dump is made, and not where it is loaded.
    server.sql(
        "shop",
        "ALTER TABLE t OWNER TO postgres; REVOKE SELECT ON t FROM guest",
    );
    server.sql(
        "standby",
        "ALTER TABLE public.t OWNER TO postgres; REVOKE SELECT ON public.t FROM guest",
    );
    server.sql("postgres", "ALTER ROLE guest RENAME TO nobody");
    fails(&server, &["a role is missing", "globals.sql", "\"guest\""]);
    server.sql("postgres", "ALTER ROLE nobody RENAME TO guest");
    postgres.load(scratch.path(), "standby").unwrap();
}

/// Programs of a load that was killed may just put it in place, which ends the sessions in it, and refuses one that begins.
fn count(postgres: &Postgres) -> BTreeMap<String, u64> {
    let expected = ["terminating connection", "just been dropped or renamed"];
    loop {
        match postgres.count("standby") {
            Ok(rows) => return rows,
            Err(error) => {
                let error = error.to_string();
                assert!(
                    expected.iter().any(|words| error.contains(words)),
                    "{error}"
                );
            }
        }
    }
}

/// Either may end the other; what is in place is whole.
#[test]
fn two_loads_at_the_same_time_leave_one_whole_database() {
    let Some((server, scratch, dump)) = shop() else {
        return;
    };
    let postgres = server.postgres("shop");
    postgres.load(scratch.path(), "standby").unwrap();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let load = || server.postgres("shop").load(scratch.path(), "standby");
            let loads = [scope.spawn(load), scope.spawn(load)];
            for load in loads {
                drop(load.join().unwrap());
            }
        });
        assert_eq!(count(&postgres), dump.rows);
    }
    postgres.load(scratch.path(), "standby").unwrap();
    assert_eq!(databases(&server), "shop standby standby__previous");
}

/// A `pg_restore` that does not end, and is not in the database that it is for, so that it does not go with that.
#[test]
fn what_a_load_has_left_running_is_ended() {
    let Some((server, scratch, dump)) = shop() else {
        return;
    };
    let programs = tempfile::tempdir().unwrap();
    for name in ["psql", "pg_dump"] {
        let real = crate::server::programs().unwrap().join(name);
        std::os::unix::fs::symlink(real, programs.path().join(name)).unwrap();
    }
    crate::programs::script(
        &programs.path().join("pg_restore"),
        r#"#!/usr/bin/env bash
for word; do [[ $word != --dbname=* ]] || connection=${word#--dbname=}; done
exec "${0%/*}/psql" -d "${connection/standby__next/postgres}" -c 'SELECT pg_sleep(1000)'
"#,
    );
    let mut settings = server.settings("shop");
    settings.programs = Some(programs.path().to_owned());
    let from = scratch.path().to_owned();
    let hanging =
        std::thread::spawn(move || Postgres::new(settings, limits()).load(&from, "standby"));
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'";
    while server.sql("postgres", sleeping) == "0" {
        std::thread::yield_now();
    }
    let postgres = server.postgres("shop");
    postgres.load(scratch.path(), "standby").unwrap();
    assert_eq!(server.sql("postgres", sleeping), "0");
    let error = hanging.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("ended the connection"), "{error}");
    assert_eq!(count(&postgres), dump.rows);
}

/// As the next test has it: a load, in a process that may be killed.
#[test]
fn in_a_process_of_its_own() {
    let Some(job) = std::env::var_os("UNDERSTUDY_TEST_LOAD") else {
        return;
    };
    let (settings, from): (_, String) = serde_json::from_str(job.to_str().unwrap()).unwrap();
    Postgres::new(settings, limits())
        .load(Path::new(&from), "standby")
        .unwrap();
}

/// A load is killed at a random moment, with its programs or without them; there is always a whole database, and the next load works.
#[test]
fn a_load_can_be_killed_at_any_moment_and_run_again() {
    let Some((server, scratch, dump)) = shop() else {
        return;
    };
    let postgres = server.postgres("shop");
    let started = Instant::now();
    postgres.load(scratch.path(), "standby").unwrap();
    let length = started.elapsed();
    let job = serde_json::to_string(&(server.settings("shop"), scratch.path())).unwrap();
    let tries = match std::env::var_os("UNDERSTUDY_TEST_FULL") {
        Some(_) => 100,
        None => 8,
    };
    let mut killed = Vec::new();
    for number in 1..=tries {
        let mut load = Command::new(std::env::current_exe().unwrap());
        let load = load
            .args(["--exact", "loads::in_a_process_of_its_own"])
            .env("UNDERSTUDY_TEST_LOAD", &job);
        let mut load = load
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        crate::probes::pause(length * number / tries + Duration::from_millis(20));
        killed.push(format!("understudy-load-{}-0", load.id()));
        load.kill().unwrap();
        load.wait().unwrap();
        assert_eq!(
            postgres.count("standby").unwrap(),
            dump.rows,
            "try {number}"
        );
        if number % 4 == 0 {
            postgres.load(scratch.path(), "standby").unwrap();
            assert_eq!(
                postgres.count("standby").unwrap(),
                dump.rows,
                "try {number}"
            );
            assert_eq!(databases(&server), "shop standby standby__previous");
        }
    }
    let left = killed
        .iter()
        .filter(|name| std::env::temp_dir().join(name).exists());
    assert_eq!(left.count(), 0);
}
