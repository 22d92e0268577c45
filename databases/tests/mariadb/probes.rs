//! Whether anything has changed: no commit is missed.

use std::time::Duration;

use understudy_databases::Database;

use crate::is_full;
use crate::server::Server;

/// A writer commits at some moment around the probe and the dump; if the next probe says that nothing has changed, the dump has the row.
fn race(options: &[&str], engine: &str) {
    let Some(server) = Server::start(options) else {
        return;
    };
    server.sql(&format!(
        "CREATE DATABASE shop; CREATE TABLE shop.t (a INT PRIMARY KEY) ENGINE={engine}"
    ));
    let shop = server.mariadb("shop");
    let tries = if is_full() { 1000 } else { 20 };
    let into = tempfile::tempdir().unwrap();
    let mut unchanged = 0;
    for row in 1..=tries {
        let (before, dump, after) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let wait = row * 7919 % 61;
                std::thread::park_timeout(Duration::from_millis(wait));
                server.sql(&format!("INSERT INTO shop.t VALUES ({row})"));
            });
            std::thread::park_timeout(Duration::from_millis(row * 31 % 61));
            let before = shop.probe().unwrap();
            let dump = shop.dump(into.path()).unwrap();
            writer.join().unwrap();
            (before, dump, shop.probe().unwrap())
        });
        if before.is_settled && before.token == after.token {
            unchanged += 1;
            assert_eq!(dump.rows["t"], row, "a commit was lost");
        }
    }
    eprintln!("{engine} {options:?}: {unchanged} of {tries} unchanged");
}

#[test]
fn no_commit_is_lost_with_a_binary_log() {
    race(&["--log-bin=bin", "--sync-binlog=1"], "InnoDB");
}

#[test]
fn no_commit_is_lost_without_a_binary_log() {
    race(&[], "InnoDB");
}

#[test]
fn no_commit_is_lost_of_tables_without_transactions() {
    race(&[], "MyISAM");
}
