//! Everything that can go wrong says what it means, and what to do.

use std::time::Duration;

use understudy_databases::postgres::Postgres;
use understudy_databases::{Database, DatabaseError, Limits};

use crate::programs::script;
use crate::server::{Server, limits};

fn shop(settings: &[&str]) -> Option<Server> {
    let server = Server::start_with(settings)?;
    server.sql("postgres", "CREATE DATABASE shop; CREATE ROLE clerk LOGIN");
    server.sql("shop", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    Some(server)
}

fn dump(postgres: &Postgres) -> Result<Vec<String>, DatabaseError> {
    let scratch = tempfile::tempdir().unwrap();
    let dump = postgres.dump(&scratch.path().canonicalize().unwrap())?;
    Ok(dump.notes)
}

/// It fails, and says all of this.
fn fails<T>(result: Result<T, DatabaseError>, words: &[&str]) {
    let Err(error) = result else {
        unreachable!("it has succeeded, and should say {words:?}")
    };
    let error = error.to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

fn has_line(lines: &[String], words: &[&str]) {
    let has = lines
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has, "no line has {words:?}: {lines:#?}");
}

#[test]
fn rights_that_lack_are_named_before_and_after() {
    let Some(server) = shop(&[]) else { return };
    let clerk = server.postgres_of("shop", "clerk");
    has_line(
        &clerk.check().unwrap(),
        &["clerk", "public.t", "GRANT pg_read_all_data TO clerk"],
    );
    fails(
        dump(&clerk),
        &["`shop`", "permission denied", "GRANT pg_read_all_data"],
    );

    server.sql("shop", "GRANT pg_read_all_data TO clerk");
    assert_eq!(clerk.check().unwrap(), [""; 0]);
    assert_eq!(dump(&clerk).unwrap(), [""; 0]);
    assert!(clerk.probe().unwrap().is_settled);

    server.sql("shop", "ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    has_line(&clerk.check().unwrap(), &["public.t", "BYPASSRLS"]);
    fails(dump(&clerk), &["BYPASSRLS"]);
    server.sql("shop", "ALTER ROLE clerk BYPASSRLS");
    assert_eq!(clerk.check().unwrap(), [""; 0]);
    assert_eq!(dump(&clerk).unwrap(), [""; 0]);

    server.sql("shop", "SELECT lo_from_bytea(7, 'x')");
    has_line(
        &clerk.check().unwrap(),
        &["1 large object", "lo_compat_privileges"],
    );
    fails(dump(&clerk), &["large object", "lo_compat_privileges"]);
    server.sql("shop", "GRANT SELECT ON LARGE OBJECT 7 TO clerk");
    assert_eq!(clerk.check().unwrap(), [""; 0]);
    assert_eq!(dump(&clerk).unwrap(), [""; 0]);
}

#[test]
fn a_table_that_is_locked_ends_the_dump_after_the_limit() {
    let Some(server) = shop(&[]) else { return };
    let limits = Limits {
        lock: Duration::from_millis(200),
        ..limits()
    };
    let postgres = Postgres::new(server.settings("shop"), limits);
    let mut session = server.session("shop");
    session.sql("BEGIN; LOCK TABLE t;");
    fails(dump(&postgres), &["`shop`", "pg_blocking_pids", "public.t"]);
    has_line(
        &postgres.check().unwrap(),
        &["public.t by process", "pg_terminate_backend"],
    );
    session.sql("COMMIT;");
    dump(&postgres).unwrap();
    assert_eq!(postgres.check().unwrap(), [""; 0]);
}

#[test]
fn a_server_that_is_not_there_or_does_not_let_in_is_named() {
    let Some(mut server) = shop(&[]) else { return };
    fails(
        dump(&server.postgres("shpo")),
        &["`shpo`", "Correct `database`"],
    );
    fails(
        dump(&server.postgres_of("shop", "nobody")),
        &["Correct `user`"],
    );

    let hba = server.directory().join("data/pg_hba.conf");
    let lines = "local all clerk scram-sha-256\nlocal all postgres trust\nlocal all ghost peer\n";
    std::fs::write(hba, lines).unwrap();
    server.sql("postgres", "ALTER ROLE clerk PASSWORD 'right' SUPERUSER; CREATE ROLE ghost LOGIN; CREATE ROLE stranger LOGIN; SELECT pg_reload_conf()");
    let passwords = server.directory().join("passwords");
    let mut settings = server.settings_of("shop", "clerk");
    settings.password_file = Some(passwords.clone());
    let clerk = Postgres::new(settings, limits());
    fails(dump(&clerk), &["wants a password", ".pgpass"]);
    let password = |password: &str| {
        std::fs::write(&passwords, format!("*:*:*:clerk:{password}\n")).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&passwords, private).unwrap();
    };
    password("hush");
    fails(dump(&clerk), &["does not accept", "`password_file`"]);
    let error = clerk.probe().unwrap_err().to_string();
    assert!(!error.contains("hush"), "{error}");
    password("right");
    dump(&clerk).unwrap();
    fails(
        dump(&server.postgres_of("shop", "ghost")),
        &["pg_ident.conf"],
    );
    fails(
        dump(&server.postgres_of("shop", "stranger")),
        &["pg_hba.conf"],
    );

    server.stop(rustix::process::Signal::INT);
    fails(
        dump(&server.postgres("shop")),
        &["does not run", "systemctl start postgresql"],
    );
    fails(server.postgres("shop").probe(), &["does not run"]);
    has_line(&server.postgres("shop").check().unwrap(), &["does not run"]);
}

/// The dump waits for a lock when the server is killed, so it is in the middle.
#[test]
fn a_server_that_is_killed_in_the_middle_of_a_dump_is_named() {
    for signal in [rustix::process::Signal::QUIT, rustix::process::Signal::INT] {
        let Some(mut server) = shop(&[]) else { return };
        let postgres = server.postgres("shop");
        let mut session = server.session("shop");
        session.sql("BEGIN; LOCK TABLE t;");
        let dumping = std::thread::spawn(move || dump(&postgres));
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while server.sql("shop", waits) == "0" {
            std::thread::yield_now();
        }
        server.stop(signal);
        fails(dumping.join().unwrap(), &["thrown away", "tries again"]);
    }
}

#[test]
fn a_dump_that_takes_too_long_is_killed() {
    let Some(server) = shop(&[]) else { return };
    let mut session = server.session("shop");
    session.sql("BEGIN; LOCK TABLE t;");
    let limits = Limits {
        dump: Duration::from_millis(300),
        ..limits()
    };
    fails(
        dump(&Postgres::new(server.settings("shop"), limits)),
        &["was killed after", "limit of a dump"],
    );
}

/// A file system of 256 KB, where root may make one.
#[test]
fn a_full_disk_is_named() {
    let Some(server) = shop(&[]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mount = |words: &[&str]| {
        let mount = std::process::Command::new(words[0])
            .args(&words[1..])
            .arg(scratch.path())
            .output();
        mount.is_ok_and(|output| output.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
        eprintln!("skipped: a file system cannot be mounted");
        return;
    }
    server.sql("shop", "INSERT INTO t SELECT generate_series(1, 200000)");
    let dumped = server.postgres("shop").dump(scratch.path());
    assert!(mount(&["umount"]));
    fails(dumped, &["the disk is full"]);
}

#[test]
fn programs_that_are_missing_or_too_old_are_named() {
    let Some(server) = shop(&[]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut settings = server.settings("shop");
    settings.programs = Some(scratch.path().to_owned());
    let missing = Postgres::new(settings.clone(), limits());
    fails(missing.probe(), &["postgresql-client"]);
    has_line(&missing.check().unwrap(), &["postgresql-client"]);

    let pg_dump = scratch.path().join("pg_dump");
    script(&pg_dump, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.1'\n");
    let psql = crate::server::programs().unwrap().join("psql");
    std::os::unix::fs::symlink(psql, scratch.path().join("psql")).unwrap();
    let old = Postgres::new(settings, limits());
    fails(dump(&old), &["version 12, too old"]);
    has_line(&old.check().unwrap(), &["version 12, too old"]);
}

/// A `pg_dump` that says that all is well, and leaves something out.
#[test]
fn a_dump_that_is_not_whole_is_refused() {
    let Some(server) = shop(&[]) else { return };
    let real = crate::server::programs().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let programs = scratch.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    for name in ["psql", "pg_restore", "pg_dumpall"] {
        std::os::unix::fs::symlink(real.join(name), programs.join(name)).unwrap();
    }
    let real = real.display();
    for (number, (text, words)) in [
        (
            format!("{real}/pg_dump \"$@\" --exclude-table=t"),
            ["has left out 1", "public.t"],
        ),
        (
            format!("{real}/pg_dump \"$@\" --exclude-table-data=t"),
            ["has left out 1", "public.t"],
        ),
        (
            format!("{real}/pg_dump \"$@\" && rm pg_dump.part/[0-9]*.dat"),
            ["is not there", "public.t"],
        ),
        (
            format!("{real}/pg_dump \"$@\" && truncate -s -1 pg_dump.part/[0-9]*.dat"),
            ["do not end", "public.t"],
        ),
        (
            format!("{real}/pg_dump \"$@\" && truncate -s 0 pg_dump.part/[0-9]*.dat"),
            ["do not end", "public.t"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let into = scratch.path().join(number.to_string());
        std::fs::create_dir(&into).unwrap();
        let text = text.replace(
            "pg_dump.part",
            &into.join("pg_dump.part").display().to_string(),
        );
        let pg_dump = format!("#!/bin/sh\n[ $# = 1 ] && exec {real}/pg_dump \"$@\"\n{text}\n");
        script(&programs.join("pg_dump"), &pg_dump);
        let mut settings = server.settings("shop");
        settings.programs = Some(programs.clone());
        fails(Postgres::new(settings, limits()).dump(&into), &words);
    }
}
