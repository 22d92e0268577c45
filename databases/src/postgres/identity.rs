//! What tells a database from another one that had its name: the engine's own number of it, and those of its relations and of their files.

use crate::error::DatabaseError;
use crate::postgres::{Postgres, literal};

/// The engine's own catalogs are left out: their files change by themselves.
const RELATIONS: &str = "SELECT md5(coalesce(string_agg(concat_ws(' ', c.oid, c.relfilenode, c.relkind, c.relname), ',' ORDER BY c.oid), '')) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema';";

pub(super) fn identity(postgres: &Postgres, name: &str) -> Result<Option<String>, DatabaseError> {
    let (settings, limit) = (&postgres.settings, postgres.limits.probe);
    let number = format!(
        "SELECT (SELECT system_identifier FROM pg_control_system()), oid FROM pg_database WHERE datname ={};",
        literal(name)
    );
    let answer = postgres.sql(&settings.maintenance_database, &number, limit)?;
    let number = String::from_utf8_lossy(&answer).trim().to_owned();
    if number.is_empty() {
        return Ok(None);
    }
    let answer = postgres.sql(name, RELATIONS, limit)?;
    let relations = String::from_utf8_lossy(&answer).trim().to_owned();
    Ok(Some(format!("{number} {relations}")))
}
