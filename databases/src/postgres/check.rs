//! What would make a dump fail, or leave something out, before it does.

use serde::Deserialize;

use crate::error::DatabaseError;
use crate::postgres::clients::closest;
use crate::postgres::facts::OLDEST;
use crate::postgres::{Postgres, dump};

/// Names are for a person to read here.
const QUESTION: &str = "\
SET client_min_messages = warning;
WITH own AS (
  SELECT c.oid, c.relkind, c.relrowsecurity, n.oid AS schema, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_class'::regclass AND p.objid = c.oid AND p.deptype = 'e')
)
SELECT json_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'role', current_user,
  'is_standby', pg_is_in_recovery(),
  'unreadable', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own
    WHERE relkind IN ('r', 'p', 'S') AND NOT (has_table_privilege(oid, 'SELECT') AND has_schema_privilege(schema, 'USAGE'))),
  'hidden', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own WHERE relrowsecurity AND row_security_active(oid)),
  'foreign', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own WHERE relkind = 'f'),
  'objects', (SELECT count(*) FROM pg_largeobject_metadata m
    WHERE current_setting('lo_compat_privileges') = 'off' AND NOT pg_has_role(m.lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a
        WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))),
  'locked', (SELECT coalesce(json_agg(format('%s by process %s, since %s s', own.name, l.pid,
      round(extract(epoch FROM clock_timestamp() - a.xact_start))) ORDER BY own.name), '[]')
    FROM pg_locks l JOIN own ON own.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND own.relkind IN ('r', 'p')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND clock_timestamp() - a.xact_start > make_interval(secs => LOCK_SECONDS)));
";

#[derive(Debug, Deserialize)]
struct Answer {
    version: u32,
    role: String,
    is_standby: bool,
    unreadable: Vec<String>,
    hidden: Vec<String>,
    foreign: Vec<String>,
    objects: u64,
    locked: Vec<String>,
}

pub(super) fn check(postgres: &Postgres) -> Vec<String> {
    let answer = match ask(postgres) {
        Ok(answer) => answer,
        Err(error) => return vec![error.to_string()],
    };
    let mut lines = words(&answer);
    if answer.version < OLDEST {
        lines.push(format!(
            "the server is PostgreSQL {}, and {OLDEST} is the oldest that can be taken: upgrade it",
            answer.version
        ));
    }
    match closest(postgres.clients(), answer.version, "the server") {
        Err(error) => lines.push(error.to_string()),
        Ok(client) => {
            if let Err(error) = dump::globals(postgres, client) {
                lines.push(format!("roles will not be in a dump: {error}"));
            }
        }
    }
    lines
}

fn ask(postgres: &Postgres) -> Result<Answer, DatabaseError> {
    let seconds = postgres.limits.lock.as_secs_f64().to_string();
    let question = QUESTION.replace("LOCK_SECONDS", &seconds);
    let database = &postgres.settings.database;
    let answer = postgres.sql(database, &question, postgres.limits.probe)?;
    serde_json::from_str(&String::from_utf8_lossy(&answer)).map_err(|error| {
        DatabaseError::Incomplete(format!(
            "what PostgreSQL says of the rights in `{database}` is not understood: {error}"
        ))
    })
}

fn words(answer: &Answer) -> Vec<String> {
    let role = &answer.role;
    let mut lines = Vec::new();
    if !answer.unreadable.is_empty() {
        lines.push(format!(
            "the role {role} may not read {}, and a dump fails: GRANT pg_read_all_data TO {role}",
            some(&answer.unreadable)
        ));
    }
    if !answer.hidden.is_empty() {
        lines.push(format!(
            "row-level security hides rows of {} from the role {role}, and a dump fails: ALTER ROLE {role} BYPASSRLS",
            some(&answer.hidden)
        ));
    }
    if answer.objects > 0 {
        lines.push(format!(
            "the role {role} may not read {} large objects, and a dump fails, for pg_read_all_data does not cover them: dump as their owner or a \
             superuser, or ALTER ROLE {role} SET lo_compat_privileges = on (as a superuser)",
            answer.objects
        ));
    }
    if !answer.locked.is_empty() {
        lines.push(format!(
            "a dump would wait, and fail, for somebody locks {}: let that end, or end it by pg_terminate_backend",
            some(&answer.locked)
        ));
    }
    if !answer.foreign.is_empty() {
        lines.push(format!(
            "rows of foreign tables are not in a dump: {}. Take the server that has them as well",
            some(&answer.foreign)
        ));
    }
    if answer.is_standby {
        lines.push(
            "the server is a standby, which does not tell exactly whether anything has changed: each cycle makes a dump. Take the primary, if it can be \
             reached"
                .to_owned(),
        );
    }
    lines
}

/// A few of them, and how many more.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
