//! What tells a database from another one that had its name: its objects, and when each was made. That has a resolution of one second, so who
//! replaces a database twice within a second has to wait between.

use crate::error::DatabaseError;
use crate::mariadb::{Mariadb, literal};

impl Mariadb {
    pub(super) fn read_identity(&self, name: &str) -> Result<Option<String>, DatabaseError> {
        let text = literal(name);
        let rows = self.ask(&format!(
            "SELECT 'schema',COUNT(*) FROM information_schema.schemata WHERE schema_name={text};\
             SELECT 'table',table_name,table_type,engine,UNIX_TIMESTAMP(create_time) FROM information_schema.tables \
             WHERE table_schema={text} ORDER BY table_name;\
             SELECT 'trigger',trigger_name,created FROM information_schema.triggers WHERE trigger_schema={text} ORDER BY trigger_name;\
             SELECT routine_type,routine_name,created FROM information_schema.routines WHERE routine_schema={text} \
             ORDER BY routine_type,routine_name;\
             SELECT 'event',event_name,created FROM information_schema.events WHERE event_schema={text} ORDER BY event_name;"
        ))?;
        if rows.first().and_then(|row| row.get(1)).map(String::as_str) != Some("1") {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        for row in rows {
            for field in row {
                hasher.update(&(field.len() as u64).to_le_bytes());
                hasher.update(field.as_bytes());
            }
            hasher.update(&u64::MAX.to_le_bytes());
        }
        Ok(Some(hasher.finalize().to_hex().to_string()))
    }
}
