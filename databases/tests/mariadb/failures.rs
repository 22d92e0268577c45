//! Everything that can go wrong says what it means, and what to do.

use std::path::Path;
use std::time::{Duration, Instant};

use understudy_databases::Database;

use crate::server::Server;
use crate::{EVERYTHING, files};

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
    let error = shop.dump(into.path()).unwrap_err().to_string();
    assert!(error.contains("GRANT EXECUTE"), "{error}");
    let lines = shop.check().unwrap();
    assert!(lines.len() == 1 && lines[0].contains("GRANT EXECUTE"));
    server.sql("GRANT EXECUTE ON shop.* TO u@localhost");
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
    // A fact, and nothing that anybody has to do something about.
    assert_eq!(
        server.mariadb("shop").check().unwrap(),
        Vec::<String>::new()
    );

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

/// Tables in order of their names; a session can lock one of them, at which a dump waits after it has printed those before.
fn shop() -> Option<Server> {
    let server = Server::start(&[])?;
    server.sql(
        "CREATE DATABASE shop; USE shop; CREATE TABLE a (a INT) ENGINE=InnoDB; INSERT INTO a SELECT seq FROM seq_1_to_100000; \
         CREATE TABLE m (a INT) ENGINE=InnoDB; CREATE TABLE z (a INT) ENGINE=InnoDB; INSERT INTO z VALUES (1)",
    );
    Some(server)
}

fn wait_for_waiter(server: &Server) {
    let started = Instant::now();
    let waits =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'";
    while server.sql(waits) == "0" {
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

/// The process of a program that has this word in its arguments.
fn process(program: &str, word: &str) -> Option<rustix::process::Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|number| {
            let words = std::fs::read(Path::new("/proc").join(number.to_string()).join("cmdline"));
            let words = String::from_utf8_lossy(&words.unwrap_or_default()).into_owned();
            words.starts_with(program) && words.contains(word)
        })
        .find_map(rustix::process::Pid::from_raw)
}

/// Without it nothing takes a directory for a dump.
fn is_called_whole(directory: &Path) -> bool {
    files(directory).contains_key("contents.json")
}

#[test]
fn a_client_or_a_server_that_is_killed_in_the_middle_of_a_dump_is_named() {
    for kills_server in [false, true] {
        let Some(mut server) = shop() else { return };
        let shop = server.mariadb("shop");
        let into = tempfile::tempdir().unwrap();
        let mut session = server.session();
        session.sql("LOCK TABLES shop.m WRITE");
        let error = std::thread::scope(|scope| {
            let dumping = scope.spawn(|| shop.dump(into.path()).unwrap_err().to_string());
            wait_for_waiter(&server);
            match kills_server {
                true => server.stop(),
                false => {
                    let socket = server.directory().join("s");
                    let client = process("mariadb-dump", socket.to_str().unwrap()).unwrap();
                    let kill = rustix::process::Signal::KILL;
                    rustix::process::kill_process(client, kill).unwrap();
                }
            }
            dumping.join().unwrap()
        });
        let words = match kills_server {
            true => ["ended the connection", "The next cycle tries again"],
            false => ["killed by signal 9", "next cycle tries again"],
        };
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.contains("`shop`"), "{error}");
        assert!(!is_called_whole(into.path()));
    }
}

/// Whoever alters a table that the dump has not come to yet makes it begin again.
#[test]
fn a_table_that_is_altered_or_removed_under_a_dump_is_dumped_again() {
    for (change, rows) in [
        ("ALTER TABLE shop.z ADD COLUMN b INT DEFAULT 7", Some(1)),
        ("DROP TABLE shop.z", None),
        ("TRUNCATE shop.z", Some(0)),
    ] {
        let Some(server) = shop() else { return };
        let shop = server.mariadb("shop");
        let into = tempfile::tempdir().unwrap();
        let mut session = server.session();
        session.sql("LOCK TABLES shop.m WRITE");
        let dump = std::thread::scope(|scope| {
            let dumping = scope.spawn(|| shop.dump(into.path()));
            wait_for_waiter(&server);
            server.sql(change);
            session.sql("UNLOCK TABLES");
            dumping.join().unwrap().unwrap()
        });
        assert_eq!(dump.rows.get("z").copied(), rows, "{change}");
        assert_eq!(dump.rows["a"], 100_000);
        let again = tempfile::tempdir().unwrap();
        shop.dump(again.path()).unwrap();
        assert!(files(into.path()) == files(again.path()), "{change}");
    }
}

/// A file system of 256 KB, where root may make one.
#[test]
fn a_full_disk_is_named() {
    let Some(server) = shop() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(words[0]);
        let output = command.args(&words[1..]).arg(scratch.path()).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !run(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
        eprintln!("skipped: a file system cannot be mounted");
        return;
    }
    let dumped = server.mariadb("shop").dump(scratch.path());
    let is_called_whole = is_called_whole(scratch.path());
    assert!(run(&["umount"]));
    let error = dumped.unwrap_err().to_string();
    assert!(
        error.contains("The disk is full: free some space"),
        "{error}"
    );
    assert!(!is_called_whole);
}

/// As the next test has it: a dump, in a process whose files may have 256 KiB.
#[test]
fn in_a_process_of_its_own() {
    let Some(job) = std::env::var_os("UNDERSTUDY_TEST_DUMP") else {
        return;
    };
    let (settings, into): (_, std::path::PathBuf) =
        serde_json::from_str(job.to_str().unwrap()).unwrap();
    let shop = understudy_databases::mariadb::Mariadb::new(settings, crate::server::limits());
    let error = shop.dump(&into).unwrap_err().to_string();
    std::fs::write(into.join("error"), error).unwrap();
}

#[test]
fn a_limit_of_the_user_is_named() {
    let Some(server) = shop() else { return };
    let into = tempfile::tempdir().unwrap();
    let job = serde_json::to_string(&(server.settings("shop", "root", ""), into.path())).unwrap();
    let limited =
        "trap '' XFSZ; ulimit -f 512; exec \"$0\" --exact failures::in_a_process_of_its_own";
    let output = std::process::Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env("UNDERSTUDY_TEST_DUMP", job)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let error = std::fs::read_to_string(into.path().join("error")).unwrap();
    assert!(error.contains("A limit of the user is reached"), "{error}");
    assert!(!is_called_whole(into.path()));
}
