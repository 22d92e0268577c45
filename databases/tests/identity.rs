//! What tells a database from another one that had its name.
#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "scratch directories of the test")]

use understudy_databases::Database;

#[path = "support/mariadb.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod mariadb;
#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod postgres;
#[path = "support/programs.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod programs;

/// `change` makes another database of the one called `shop`, in a way that must be told.
fn tells(database: &dyn Database, what: &str, change: impl FnOnce()) {
    let before = database.identity("shop").unwrap();
    assert_eq!(database.identity("shop").unwrap(), before, "{what}");
    // The times of MariaDB have seconds.
    std::thread::park_timeout(std::time::Duration::from_millis(1100));
    change();
    assert_ne!(database.identity("shop").unwrap(), before, "{what}");
}

#[test]
fn a_database_of_postgres_that_was_replaced_is_another_one() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    let database = server.postgres("shop");
    let make = "CREATE DATABASE shop;";
    let table = "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1);";
    assert_eq!(database.identity("shop").unwrap(), None);
    tells(&database, "made", || drop(server.sql("postgres", make)));
    tells(&database, "a table", || drop(server.sql("shop", table)));
    let before = database.identity("shop").unwrap();
    server.sql("shop", "INSERT INTO orders VALUES (2); VACUUM ANALYZE;");
    assert_eq!(database.identity("shop").unwrap(), before, "rows");
    tells(&database, "emptied", || {
        server.sql("shop", "TRUNCATE orders;");
    });
    tells(&database, "made anew", || {
        server.sql("postgres", "DROP DATABASE shop;");
        server.sql("postgres", make);
        server.sql("shop", table);
    });
    tells(&database, "removed", || {
        server.sql("postgres", "DROP DATABASE shop;");
    });
    assert_eq!(database.identity("shop").unwrap(), None);
}

#[test]
fn a_database_of_mariadb_that_was_replaced_is_another_one() {
    let Some(server) = mariadb::Server::start(&[]) else {
        return;
    };
    let database = server.mariadb("shop");
    let make = "CREATE DATABASE shop;";
    let table = "CREATE TABLE shop.orders (id int); INSERT INTO shop.orders VALUES (1);";
    assert_eq!(database.identity("shop").unwrap(), None);
    tells(&database, "made", || drop(server.sql(make)));
    tells(&database, "a table", || drop(server.sql(table)));
    let before = database.identity("shop").unwrap();
    server.sql("INSERT INTO shop.orders VALUES (2);");
    assert_eq!(database.identity("shop").unwrap(), before, "rows");
    tells(&database, "a trigger", || {
        let trigger =
            "CREATE TRIGGER shop.t BEFORE INSERT ON shop.orders FOR EACH ROW SET NEW.id = 1;";
        server.sql(trigger);
    });
    tells(&database, "made anew", || {
        server.sql("DROP DATABASE shop;");
        server.sql(make);
        server.sql(table);
    });
    tells(&database, "removed", || {
        drop(server.sql("DROP DATABASE shop;"));
    });
    assert_eq!(database.identity("shop").unwrap(), None);
}

#[test]
fn what_a_killed_load_has_left_in_mariadb_is_ended() {
    let Some(server) = mariadb::Server::start(&[]) else {
        return;
    };
    let database = server.mariadb("shop");
    server.sql("CREATE DATABASE shop; CREATE DATABASE shop__next; CREATE TABLE shop.t (id int); CREATE TABLE shop__next.t (id int);");
    std::thread::scope(|scope| {
        // Somebody reads, and the swap waits for that.
        let reader = scope.spawn(|| {
            server.try_sql("USE shop; BEGIN; SELECT * FROM t; SELECT SLEEP(30); COMMIT;")
        });
        await_that(&server, "SLEEP");
        // As every session of a load does.
        let hash = blake3::hash(b"shop").to_hex();
        let swap = format!(
            "SELECT GET_LOCK('understudy load {}', 5); RENAME TABLE shop.t TO shop.old, `shop__next`.t TO shop.t;",
            &hash[..32]
        );
        let server = &server;
        let waiting = scope.spawn(move || server.try_sql(&swap));
        await_that(server, "RENAME");
        database.settle("shop").unwrap();
        assert!(waiting.join().unwrap().is_err());
        let tables = server.sql("SHOW TABLES FROM shop;");
        assert_eq!(tables, "t");
        let sleeping = "SELECT id FROM information_schema.processlist WHERE info LIKE '%SLEEP(30)%' AND id<>CONNECTION_ID();";
        let id = server.sql(sleeping);
        server.sql(&format!("KILL {id};"));
        let _ = reader.join();
    });
}

fn await_that(server: &mariadb::Server, word: &str) {
    let question = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%{word}%' AND id<>CONNECTION_ID();"
    );
    let since = std::time::Instant::now();
    while server.sql(&question) == "0" {
        assert!(since.elapsed().as_secs() < 30);
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}
