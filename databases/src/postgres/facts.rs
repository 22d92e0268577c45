//! What the server itself says of a database: which tables there are, and with what it must be made again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::names::escape;
use crate::postgres::Postgres;

/// Older ones have no 64-bit snapshots and are maintained by nobody.
pub(super) const OLDEST: u32 = 13;

/// Names are sent as hexadecimal digits, for in a database without an encoding they are any bytes.
const QUESTION: &str = "\
SET client_min_messages = warning;
SELECT json_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'properties', json_build_object(
    'encoding', pg_encoding_to_char(d.encoding),
    'collate', d.datcollate,
    'ctype', d.datctype,
    'provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
    'owner', pg_get_userbyid(d.datdba),
    'grants', (SELECT json_agg(json_build_object(
        'to', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
        'privilege', a.privilege_type, 'can_grant', a.is_grantable)
        ORDER BY a.grantee <> 0, pg_get_userbyid(a.grantee), a.privilege_type)
      FROM aclexplode(d.datacl) a),
    'settings', (SELECT coalesce(json_agg(json_build_object(
        'role', CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END,
        'name', split_part(c, '=', 1), 'value', substr(c, position('=' IN c) + 1))
        ORDER BY s.setrole <> 0, pg_get_userbyid(s.setrole), c), '[]')
      FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setdatabase = d.oid)),
  'tables', (SELECT coalesce(json_agg(json_build_object(
      'oid', c.oid::bigint,
      'schema', encode(convert_to(n.nspname, e.name), 'hex'),
      'name', encode(convert_to(c.relname, e.name), 'hex'),
      'kind', c.relkind,
      'of_extension', EXISTS (SELECT FROM pg_depend p
        WHERE p.classid = 'pg_class'::regclass AND p.objid = c.oid AND p.deptype = 'e'))), '[]')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
      (SELECT CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END AS name) e
    WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'))
FROM pg_database d WHERE d.datname = current_database();
";

/// A database at one moment.
#[derive(Debug, Deserialize)]
pub(super) struct Facts {
    /// Of the server: its major.
    pub(super) version: u32,
    pub(super) properties: Properties,
    tables: Vec<Table>,
}

/// With what a database is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Properties {
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    /// `c` of the system, `i` of ICU, `b` of the engine itself.
    pub(super) provider: String,
    pub(super) locale: Option<String>,
    pub(super) owner: String,
    /// As they are by default, if there are none.
    pub(super) grants: Option<Vec<Grant>>,
    pub(super) settings: Vec<Setting>,
}

/// A right to a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// A role, or everybody.
    pub(super) to: Option<String>,
    pub(super) privilege: String,
    pub(super) can_grant: bool,
}

/// A setting of whoever connects to a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setting {
    /// Of one role only.
    pub(super) role: Option<String>,
    pub(super) name: String,
    pub(super) value: String,
}

/// A table.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Table {
    oid: u32,
    schema: String,
    name: String,
    kind: String,
    /// Made by an extension, which makes it again.
    pub(super) of_extension: bool,
}

impl Table {
    /// See [`table_name`].
    pub(super) fn name(&self) -> String {
        table_name(&self.schema, &self.name)
    }

    pub(super) fn has_rows(&self) -> bool {
        self.kind == "r"
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.kind == "f"
    }
}

impl Facts {
    pub(super) fn tables(&self) -> BTreeMap<u32, &Table> {
        self.tables.iter().map(|table| (table.oid, table)).collect()
    }
}

pub(super) fn read(postgres: &Postgres) -> Result<Facts, DatabaseError> {
    let database = &postgres.settings.database;
    let answer = postgres.sql(database, QUESTION, postgres.limits.probe)?;
    let facts: Facts = serde_json::from_slice(&answer).map_err(|error| {
        DatabaseError::Incomplete(format!(
            "what PostgreSQL says of the tables of `{database}` is not understood: {error}"
        ))
    })?;
    match facts.version < OLDEST {
        true => Err(DatabaseError::Unsupported(format!(
            "the server is PostgreSQL {}, and {OLDEST} is the oldest that can be taken: upgrade it",
            facts.version
        ))),
        false => Ok(facts),
    }
}

/// The major of the server, asked where databases are made.
pub(super) fn version(postgres: &Postgres) -> Result<u32, DatabaseError> {
    let question = "SELECT current_setting('server_version_num')::int / 10000;";
    let database = &postgres.settings.maintenance_database;
    let answer = postgres.sql(database, question, postgres.limits.probe)?;
    let answer = String::from_utf8_lossy(&answer);
    answer.trim().parse().map_err(|_| {
        DatabaseError::Incomplete(format!(
            "PostgreSQL's version is not understood: {answer:?}"
        ))
    })
}

/// Schema and name, each sent as hexadecimal digits: escaped, with a dot between them. For most names that is as they are written.
pub(super) fn table_name(schema: &str, name: &str) -> String {
    format!("{}.{}", escape(&bytes(schema)), escape(&bytes(name)))
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let pairs =
        pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect()
}
