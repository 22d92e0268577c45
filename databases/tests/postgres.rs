//! PostgreSQL, with a real server.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "scratch directories of the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/postgres.rs"]
mod server;
#[path = "support/waits.rs"]
mod waits;

#[path = "postgres/dumps.rs"]
mod dumps;
#[path = "postgres/failures.rs"]
mod failures;
#[path = "postgres/loads.rs"]
mod loads;
#[path = "postgres/probes.rs"]
mod probes;
#[path = "postgres/writers.rs"]
mod writers;

use std::collections::BTreeMap;
use std::path::Path;

/// Every file of a directory, by its name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

/// A bit of everything that a dump has a file for, or has to leave out.
const EVERYTHING: &str = r#"
CREATE TABLE t (id serial PRIMARY KEY, b text);
INSERT INTO t (b) SELECT repeat(E'\\.\n', i % 3) || md5(i::text) FROM generate_series(1, 1000) i;
CREATE SCHEMA "s/x";
CREATE TABLE "s/x"."..wéird %" (a int);
INSERT INTO "s/x"."..wéird %" VALUES (1), (2);
CREATE TABLE empty ();
INSERT INTO empty DEFAULT VALUES;
CREATE TABLE parts (a int) PARTITION BY RANGE (a);
CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
INSERT INTO parts VALUES (3);
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM t;
CREATE UNLOGGED TABLE u (a int);
CREATE TABLE nothing (a int);
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT lo_from_bytea(4711, 'a large object'), lo_from_bytea(4712, '');
"#;
