//! Everything that can go wrong says what it means, and what to do.

use std::time::Duration;

use understudy_databases::Database;

use crate::EVERYTHING;
use crate::server::Server;

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
