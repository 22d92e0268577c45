//! Whether anything has changed, in one run of the client.
//!
//! With a binary log its position decides: that of a consistent snapshot, for a transaction is in the log before the engine shows it to others.
//! Blind to sessions that turn off their log (`sql_log_bin=0`). Without one, the position in InnoDB's log decides, which any tenant of the
//! server moves, and times of one second's resolution for everything outside of InnoDB: what is younger than two seconds is not settled.

use crate::Probe;
use crate::error::DatabaseError;
use crate::mariadb::{Mariadb, identifier, literal};

/// What is read first comes first: whatever changes after that has moved by the next time.
const STATEMENTS: &str = "
START TRANSACTION WITH CONSISTENT SNAPSHOT;
SHOW STATUS WHERE Variable_name IN ('Binlog_snapshot_file','Binlog_snapshot_position');
ROLLBACK;
SHOW GLOBAL VARIABLES WHERE Variable_name IN
 ('version','server_uid','server_uuid','log_bin','gtid_binlog_pos','gtid_executed');
SELECT 1 /*M! FROM DUAL WHERE 0 UNION ALL SELECT CONCAT('started ',UNIX_TIMESTAMP()-variable_value)
 FROM information_schema.global_status WHERE variable_name='UPTIME' */;
SHOW GLOBAL STATUS WHERE Variable_name='Innodb_lsn_current';
SELECT 'schema',default_character_set_name,default_collation_name,0
 FROM information_schema.schemata WHERE schema_name=@d;
SELECT 'object',table_name,table_type,engine,UNIX_TIMESTAMP(create_time),table_collation,create_options,
 MD5(table_comment),IF(engine='InnoDB','',UNIX_TIMESTAMP(update_time)),
 table_type='BASE TABLE' AND (engine IS NULL OR
 IFNULL(UNIX_TIMESTAMP(create_time)>=UNIX_TIMESTAMP()-2,1) OR
 (engine<>'InnoDB' AND IFNULL(UNIX_TIMESTAMP(update_time)>=UNIX_TIMESTAMP()-2,1)))
 FROM information_schema.tables WHERE table_schema=@d ORDER BY table_name;
SELECT 'view',table_name,MD5(view_definition),definer,security_type,check_option,0
 FROM information_schema.views WHERE table_schema=@d ORDER BY table_name;
SELECT 'trigger',trigger_name,MD5(action_statement),definer,created,
 IFNULL(created>=NOW()-INTERVAL 2 SECOND,1)
 FROM information_schema.triggers WHERE trigger_schema=@d ORDER BY trigger_name;
SELECT 'routine',routine_type,routine_name,MD5(routine_definition),definer,last_altered,
 last_altered>=NOW()-INTERVAL 2 SECOND
 FROM information_schema.routines WHERE routine_schema=@d ORDER BY routine_type,routine_name;
SELECT 'event',event_name,MD5(event_definition),definer,last_altered,status,
 last_altered>=NOW()-INTERVAL 2 SECOND
 FROM information_schema.events WHERE event_schema=@d ORDER BY event_name;
";

/// What comes with a last field that says whether it is too young to tell.
const OBJECTS: [&str; 6] = ["schema", "object", "view", "trigger", "routine", "event"];

impl Mariadb {
    pub(super) fn read_probe(&self) -> Result<Probe, DatabaseError> {
        let database = &self.settings.database;
        let (schema, text) = (identifier(database), literal(database));
        let rows = self.ask(&format!("USE {schema};\nSET @d={text};{STATEMENTS}"))?;
        let probe = understand(rows);
        probe.ok_or_else(|| {
            DatabaseError::Incomplete(format!(
                "the server of the database `{database}` did not say what tells whether it has changed: it may be too old"
            ))
        })
    }
}

fn understand(rows: Vec<Vec<String>>) -> Option<Probe> {
    let value = |key: &str| {
        let row = rows
            .iter()
            .find(|row| row.len() == 2 && row[0].eq_ignore_ascii_case(key));
        row.map(|row| row[1].clone())
    };
    let is_logged = value("log_bin")?.eq_ignore_ascii_case("ON");
    let position = value("gtid_binlog_pos").or(value("gtid_executed"));
    let is_exact = is_logged && position.is_some_and(|position| !position.is_empty());
    if !is_exact {
        value("Innodb_lsn_current")?;
    }
    let mut hasher = blake3::Hasher::new();
    let mut is_settled = true;
    for row in rows {
        let is_object = row.len() > 2 && OBJECTS.contains(&row[0].as_str());
        let is_position = row[0].eq_ignore_ascii_case("Innodb_lsn_current");
        if is_exact && (is_object || is_position) {
            continue;
        }
        let (counted, young) = match is_object {
            true => row.split_at(row.len() - 1),
            false => (&row[..], &[][..]),
        };
        is_settled &= young.iter().all(|young| young == "0");
        for field in counted {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.update(&u64::MAX.to_le_bytes());
    }
    let kind = match is_exact {
        true => "log",
        false => "times",
    };
    let token = format!("{kind}:{}", hasher.finalize().to_hex());
    Some(Probe { token, is_settled })
}
