//! Whether anything has changed.
//!
//! With a binary log its position decides: that of a consistent snapshot, for a transaction is in the log before the engine shows it to others,
//! and what the log alone says is ahead of what a dump would see. Blind to sessions that turn off their log (`sql_log_bin=0`).
//!
//! Without one, the server's counters of rows that were written and of statements that alter something decide, which move when that is done and
//! not in the background. They are ahead of a commit, so they settle nothing while a transaction is open that has changed a row, or a statement
//! runs that may. Who may not see that (it takes the right PROCESS) has the position in InnoDB's own log, which moves with every commit and for
//! some seconds after it, and is as good once it stands still. Times of tables are asked for, and never trusted alone: that of an InnoDB table is
//! the begin of the transaction that wrote it last, in seconds.
//!
//! All of these are the server's, so whatever another database does counts as well.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::Probe;
use crate::error::DatabaseError;
use crate::mariadb::{Mariadb, errors, identifier, literal};

/// What is read first comes first: whatever changes after that has moved by the next time.
const STATEMENTS: &str = "
START TRANSACTION WITH CONSISTENT SNAPSHOT;
SHOW STATUS WHERE Variable_name IN ('Binlog_snapshot_file','Binlog_snapshot_position');
ROLLBACK;
SHOW GLOBAL VARIABLES WHERE Variable_name IN
 ('version','server_uid','server_uuid','log_bin','gtid_binlog_pos','gtid_executed');
SELECT 1 /*M! FROM DUAL WHERE 0 UNION ALL SELECT CONCAT('started ',variable_name,UNIX_TIMESTAMP()-variable_value)
 FROM information_schema.global_status WHERE variable_name IN ('UPTIME','UPTIME_SINCE_FLUSH_STATUS') */;
SHOW GLOBAL STATUS WHERE Variable_name='Innodb_lsn_current' OR Variable_name REGEXP
 '^(Com_(alter|create|drop|rename|truncate|delete|optimize|repair)|Handler_(write|update|delete)$|Innodb_rows_(inserted|updated|deleted)$)';
SELECT 'schema',default_character_set_name,default_collation_name,'',0
 FROM information_schema.schemata WHERE schema_name=@d;
SELECT 'object',table_name,table_type,engine,UNIX_TIMESTAMP(create_time),table_collation,create_options,
 MD5(table_comment),auto_increment,IF(engine='InnoDB','',UNIX_TIMESTAMP(update_time)),
 table_type<>'VIEW' AND (engine IS NULL OR IFNULL(UNIX_TIMESTAMP(create_time)>=UNIX_TIMESTAMP()-2,1))
 FROM information_schema.tables WHERE table_schema=@d ORDER BY table_name;
SELECT 'column',table_name,ordinal_position,column_name,MD5(CONCAT_WS('|',IFNULL(column_default,'-'),is_nullable,column_type,
 IFNULL(collation_name,'-'),extra,column_comment,generation_expression)),0
 FROM information_schema.columns WHERE table_schema=@d ORDER BY table_name,ordinal_position;
SELECT 'index',table_name,index_name,seq_in_index,column_name,non_unique,sub_part,index_type,0
 FROM information_schema.statistics WHERE table_schema=@d ORDER BY table_name,index_name,seq_in_index;
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

/// What comes with a last field that says whether it is too young for a time of one second's resolution.
const OBJECTS: [&str; 8] = [
    "schema", "object", "column", "index", "view", "trigger", "routine", "event",
];

/// What may be going on whose effect on counters is there, and whose effect on tables is not.
const GOING_ON: &str = "
SELECT 'statement' FROM information_schema.processlist WHERE id<>CONNECTION_ID() AND info IS NOT NULL
 AND info NOT REGEXP '^[[:space:](]*(SELECT|SHOW|SET|USE|BEGIN|START|COMMIT|ROLLBACK|DO|EXPLAIN|LOCK|UNLOCK)[^a-zA-Z_]' LIMIT 1;
SHOW ENGINE INNODB STATUS;
";
/// The account may not see that.
const NO_RIGHT: [u32; 1] = [1227];
const LSN: &str = "Innodb_lsn_current";

/// For so long a probe waits for what is going on to end, and for InnoDB's log to stand still.
const PATIENCE: Duration = Duration::from_millis(150);
const AGAIN: Duration = Duration::from_millis(20);

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The binary log.
    Log,
    /// Counters, and nothing that is going on.
    Counters,
    /// InnoDB's log, counters and times.
    Times,
}

/// What a server has said.
struct Answer {
    rows: Vec<Vec<String>>,
    /// Tables that are in use.
    used: BTreeSet<String>,
}

impl Mariadb {
    pub(super) fn read_probe(&self) -> Result<Probe, DatabaseError> {
        let started = Instant::now();
        loop {
            let probe = self.read_once()?;
            if probe.is_settled || started.elapsed() > PATIENCE {
                return Ok(probe);
            }
            std::thread::park_timeout(AGAIN);
        }
    }

    fn read_once(&self) -> Result<Probe, DatabaseError> {
        let database = &self.settings.database;
        let (schema, text) = (identifier(database), literal(database));
        let (rows, used) = self
            .ask(&format!(
                "USE {schema};\nSET @d={text};{STATEMENTS}SHOW OPEN TABLES FROM {schema} WHERE In_use>0;"
            ))?
            .into_iter()
            .partition(|row: &Vec<String>| row.len() != 4 || row[0] != *database);
        let used = Vec::into_iter(used).map(|row| row[1].clone()).collect();
        let answer = Answer { rows, used };
        let unknown = || {
            DatabaseError::Incomplete(format!(
                "the server of the database `{database}` did not say what tells whether it has changed: it may be too old"
            ))
        };
        if answer.has_log().ok_or_else(unknown)? {
            return Ok(answer.probe(Kind::Log, true));
        }
        let position = answer.value(LSN).ok_or_else(unknown)?;
        match self.ask(GOING_ON) {
            Ok(rows) => Ok(answer.probe(Kind::Counters, is_quiet(&rows))),
            Err(error) if errors::has_number(&error, &NO_RIGHT) => {
                let read = Instant::now();
                while let Some(rest) = PATIENCE.checked_sub(read.elapsed()) {
                    std::thread::park_timeout(rest);
                }
                let again = self.ask(&format!("SHOW GLOBAL STATUS LIKE '{LSN}';"))?;
                let stands = again.first().and_then(|row| row.get(1)) == Some(&position);
                Ok(answer.probe(Kind::Times, stands))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether no transaction is open that has changed anything, and no statement runs that may.
fn is_quiet(rows: &[Vec<String>]) -> bool {
    let is_going_on = |text: &String| {
        text == "statement" || text.contains("undo log entries") || text.contains("truncated...")
    };
    let has_status = rows.iter().any(|row| row.len() == 3);
    has_status && !rows.iter().flatten().any(is_going_on)
}

impl Answer {
    fn value(&self, key: &str) -> Option<String> {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| row.len() == 2 && row[0].eq_ignore_ascii_case(key));
        row.map(|row| row[1].clone())
    }

    /// Whether there is a binary log whose position can be had: of MariaDB that of a snapshot, of MySQL the transactions that are done.
    fn has_log(&self) -> Option<bool> {
        let is_logged = self.value("log_bin")?.eq_ignore_ascii_case("ON");
        let position = self
            .value("Binlog_snapshot_position")
            .or(self.value("gtid_executed"));
        Some(is_logged && position.is_some_and(|position| !position.is_empty()))
    }

    /// Tables of which no transaction keeps what others see apart from what is done.
    fn not_transactional(&self) -> impl Iterator<Item = &String> {
        let is_other = |row: &&Vec<String>| {
            row[0] == "object" && row.len() > 4 && row[2] != "VIEW" && row[3] != "InnoDB"
        };
        self.rows.iter().filter(is_other).map(|row| &row[1])
    }

    /// `is_quiet`: as far as this kind asks, but for tables that are not InnoDB.
    fn probe(&self, kind: Kind, is_quiet: bool) -> Probe {
        let has_others = self.not_transactional().next().is_some();
        let is_used = self
            .not_transactional()
            .any(|table| self.used.contains(table));
        let mut is_settled = is_quiet && !is_used;
        let mut hasher = blake3::Hasher::new();
        for row in &self.rows {
            let first = row[0].as_str();
            let is_object = row.len() > 2 && OBJECTS.contains(&first);
            let is_counter =
                ["Com_", "Handler_", "Innodb_rows_"].map(|start| first.starts_with(start));
            let is_counter = row.len() == 2 && is_counter.contains(&true);
            let counts = match kind {
                Kind::Log => !is_object && !is_counter && first != LSN,
                Kind::Counters => first != LSN,
                Kind::Times => true,
            };
            // Rows are counted one by one, but for all of a table that is not InnoDB.
            if !counts || (!has_others && first.starts_with("Com_delete")) {
                continue;
            }
            let (counted, young) = row.split_at(row.len() - usize::from(is_object));
            is_settled &= kind != Kind::Times || young.iter().all(|young| young == "0");
            for field in counted {
                hasher.update(&(field.len() as u64).to_le_bytes());
                hasher.update(field.as_bytes());
            }
            hasher.update(&u64::MAX.to_le_bytes());
        }
        let kind = match kind {
            Kind::Log => "log",
            Kind::Counters => "counters",
            Kind::Times => "times",
        };
        let token = format!("{kind}:{}", hasher.finalize().to_hex());
        Probe { token, is_settled }
    }
}
