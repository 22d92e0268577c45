//! What is in a dump, and that it stays the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use understudy_databases::Database;

use crate::server::{self, Server};
use crate::{EVERYTHING, files};

fn second() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn dump(server: &Server, into: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::create_dir(into).unwrap();
    server.postgres("shop").dump(into).unwrap();
    files(into)
}

#[test]
fn everything_is_in_a_dump_under_its_own_name() {
    let Some(server) = Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop; CREATE ROLE clerk");
    server.sql("shop", EVERYTHING);
    let scratch = tempfile::tempdir().unwrap();
    let dump = server.postgres("shop").dump(scratch.path()).unwrap();
    let rows = [
        ("public.t", 1000),
        ("s%2Fx.%2E%2Ew%C3%A9ird%20%25", 2),
        ("public.empty", 1),
        ("public.part", 1),
        ("public.u", 0),
        ("public.nothing", 0),
    ];
    let rows: BTreeMap<_, _> = rows.map(|(name, rows)| (name.to_owned(), rows)).into();
    assert_eq!(dump.rows, rows);
    assert_eq!(dump.notes, [""; 0]);
    let files = files(scratch.path());
    // Since version 17 the lists of large objects have a number, which is not kept.
    let names = files
        .keys()
        .map(|name| name.replace("blobs_of_4711.", "blobs."));
    let names: Vec<_> = names.collect();
    assert_eq!(
        names,
        [
            "blob_4711.dat",
            "blob_4712.dat",
            "blobs.toc",
            "contents.json",
            "globals.sql",
            "public.empty.dat",
            "public.nothing.dat",
            "public.part.dat",
            "public.t.dat",
            "public.u.dat",
            "s%2Fx.%2E%2Ew%C3%A9ird%20%25.dat",
            "toc.dat",
        ]
    );
    assert_eq!(files["blob_4711.dat"], b"a large object");
    assert!(String::from_utf8_lossy(&files["globals.sql"]).contains("CREATE ROLE clerk"));
}

#[test]
fn a_dump_of_what_has_not_changed_has_the_same_bytes() {
    let Some(server) = Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", EVERYTHING);
    let scratch = tempfile::tempdir().unwrap();
    let (first, made) = (dump(&server, &scratch.path().join("1")), second());
    while second() == made {
        std::thread::yield_now();
    }
    assert!(dump(&server, &scratch.path().join("2")) == first);
    let list = Command::new(server::programs().unwrap().join("pg_restore"))
        .arg("--list")
        .arg(scratch.path().join("2"))
        .output()
        .unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.contains("; Archive created at 2000-01-01 00:00:00"),
        "{list}"
    );

    // The numbers of pg_dump shift, and the names do not.
    server.sql(
        "shop",
        "DROP TABLE nothing; CREATE TABLE another (a int); INSERT INTO t (b) VALUES ('new')",
    );
    let third = dump(&server, &scratch.path().join("3"));
    for (name, bytes) in &first {
        match name.as_str() {
            "public.nothing.dat" => assert!(!third.contains_key(name)),
            "toc.dat" | "contents.json" | "public.t.dat" => {
                assert!(third[name] != *bytes, "{name}");
            }
            _ => assert!(third[name] == *bytes, "{name}"),
        }
    }
    assert!(third.contains_key("public.another.dat"));
}

#[test]
fn names_that_are_no_text_are_kept() {
    let Some(server) = Server::start() else {
        return;
    };
    server.sql(
        "postgres",
        "CREATE DATABASE shop TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'",
    );
    server.sql(
        "shop",
        "SET client_encoding = SQL_ASCII; CREATE TABLE \"a.b\" (a int)",
    );
    server.sql(
        "shop",
        r#"DO $$ BEGIN EXECUTE format('CREATE TABLE %I (a int)', convert_from('\xe9ff'::bytea, 'SQL_ASCII')); END $$"#,
    );
    let long = "я".repeat(31);
    server.sql("shop", &format!("CREATE SCHEMA {long}; CREATE TABLE {long}.{long} (a int); INSERT INTO {long}.{long} VALUES (1)"));
    let scratch = tempfile::tempdir().unwrap();
    let files = dump(&server, &scratch.path().join("1"));
    assert!(files.contains_key("public.a%2Eb.dat"));
    assert!(files.contains_key("public.%E9%FF.dat"));
    let cut: Vec<_> = files.keys().filter(|name| name.contains('~')).collect();
    assert_eq!(cut.len(), 1);
    assert_eq!(cut[0].len(), 200);
    let contents = String::from_utf8_lossy(&files["contents.json"]).into_owned();
    assert!(contents.contains(&"%D1%8F".repeat(31)), "{contents}");
}

#[test]
fn what_is_left_out_is_said() {
    let Some(server) = Server::start() else {
        return;
    };
    server.sql("postgres", "CREATE DATABASE shop");
    if server
        .try_sql("shop", "CREATE EXTENSION postgres_fdw")
        .is_err()
    {
        return crate::programs::skipped("the extension postgres_fdw");
    }
    server.sql(
        "shop",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE far (a int) SERVER elsewhere",
    );
    let scratch = tempfile::tempdir().unwrap();
    let dump = server.postgres("shop").dump(scratch.path()).unwrap();
    assert_eq!(dump.notes.len(), 1);
    assert!(dump.notes[0].contains("`public.far`"), "{:?}", dump.notes);
}
