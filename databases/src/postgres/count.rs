//! Rows of each table of a database.

use std::collections::BTreeMap;

use crate::error::DatabaseError;
use crate::postgres::{Postgres, facts};

/// What is counted is what a dump has rows of. Each count is a statement that the server makes itself, so that any name will do.
const COUNT: &str = "\
SET row_security = off;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format('SELECT %L, count(*) FROM ONLY %I.%I',
  encode(convert_to(n.nspname, e.name), 'hex') || '.' || encode(convert_to(c.relname, e.name), 'hex'), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
  (SELECT CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END AS name) e
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_class'::regclass AND p.objid = c.oid AND p.deptype = 'e')
\\gexec
COMMIT;
";

pub(super) fn count(
    postgres: &Postgres,
    name: &str,
) -> Result<BTreeMap<String, u64>, DatabaseError> {
    let answer = postgres.sql(name, COUNT, postgres.limits.load)?;
    let answer = String::from_utf8_lossy(&answer);
    let line = |line: &str| {
        let (table, rows) = line.split_once('|')?;
        let (schema, table) = table.split_once('.')?;
        Some((facts::table_name(schema, table), rows.parse().ok()?))
    };
    let counted = answer.lines().map(|text| {
        line(text).ok_or_else(|| {
            DatabaseError::Incomplete(format!(
                "PostgreSQL's count of rows is not understood: {text:?}"
            ))
        })
    });
    counted.collect()
}
