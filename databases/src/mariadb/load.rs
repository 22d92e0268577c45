//! Loading a dump in place of what is there.
//!
//! Everything but events is loaded into `NAME__next` first, which proves that it can be. Then the tables take the place of those of before by one
//! RENAME TABLE, at which nobody sees some of the old and some of the new; those of before are in `NAME__previous` until the next load. Triggers,
//! views, routines and events cannot be moved: those of before are removed just before that, and the new ones are made just after it. In
//! between, readers find no views and routines, and writers no triggers.
//!
//! A load may be killed anywhere and made again, with this dump or another one. A table that the same RENAME moves into `NAME__previous` says
//! that what is in place is not finished: as long as it is there, `NAME__previous` stays as it is, and what is replaced goes to `NAME__undone`
//! and is removed at the end. Sessions of a load whose process was killed may go on for a while: they hold a lock by which the next load
//! finds and ends them, and do nothing any more without the table that names their load.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::DatabaseError;
use crate::mariadb::parts::{Contents, Kind};
use crate::mariadb::{Mariadb, errors, identifier, literal, own};

/// Longer names are refused by the engine.
const NAME_CHARACTERS: usize = 64;
const ENGINES: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];
/// In `NAME__previous`: the tables in place are new, and not everything that belongs to them is there yet.
const UNFINISHED: &str = "understudy_unfinished";
/// What the server is given to understand, and does not, if the lock is somebody else's.
const OTHER_LOAD: &str = "another load of this database goes on";

/// The names that belong to one load.
pub(super) struct Names<'a> {
    pub(super) name: &'a str,
    pub(super) next: String,
    previous: String,
    undone: String,
    /// Of every session that loads it.
    lock: String,
    /// A table in `next`, of this load alone.
    token: String,
}

impl<'a> Names<'a> {
    fn new(name: &'a str) -> Result<Self, DatabaseError> {
        let named = |suffix: &str| format!("{name}__{suffix}");
        let (next, previous, undone) = (named("next"), named("previous"), named("undone"));
        let is_engines = ENGINES
            .iter()
            .any(|engines| name.eq_ignore_ascii_case(engines));
        let is_too_long = previous.chars().count() > NAME_CHARACTERS;
        if name.is_empty()
            || name.contains('\0')
            || name.ends_with(' ')
            || is_engines
            || is_too_long
        {
            return Err(DatabaseError::Unsupported(format!(
                "no database can be loaded as `{name}`: a name is needed that is not the engine's own, does not end with a space and is at most {} \
                 characters long, for others are made of it (`{previous}`)",
                NAME_CHARACTERS + name.len() - previous.len()
            )));
        }
        let hash = blake3::hash(name.as_bytes()).to_hex();
        Ok(Self {
            name,
            next,
            previous,
            undone,
            lock: format!("understudy load {}", &hash[..32]),
            token: format!("understudy_{}", token()),
        })
    }

    /// Begins a session of this load, which is the only one from then on, or fails.
    fn begin(&self, wait: Duration) -> String {
        format!(
            "SET @understudy=IF(GET_LOCK({},{})=1,'DO 0',{});PREPARE understudy FROM @understudy;EXECUTE understudy;\n",
            literal(&self.lock),
            wait.as_secs().max(1),
            literal(OTHER_LOAD),
        )
    }

    /// Begins a session in which this load goes on, if no other one has taken its place.
    pub(super) fn go_on(&self, wait: Duration) -> String {
        let (next, token) = (identifier(&self.next), identifier(&self.token));
        let begin = self.begin(wait);
        format!("{begin}SELECT 1 FROM {next}.{token} LIMIT 0;\n")
    }

    /// What an error of a session means.
    pub(super) fn explain(&self, error: DatabaseError) -> DatabaseError {
        let is_other = |said: &str| said.contains(OTHER_LOAD) || said.contains(&self.token);
        match &error {
            DatabaseError::Failed { said, .. } if is_other(said) => DatabaseError::NotNow(format!(
                "another load of the database `{}` goes on, and has taken the place of this one. Load again when it has ended",
                self.name
            )),
            _ => errors::explain(error, self.name),
        }
    }
}

/// Not the one of any other load.
fn token() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let unique = format!("{now} {} {number}", std::process::id());
    blake3::hash(unique.as_bytes()).to_hex()[..24].to_owned()
}

impl Mariadb {
    pub(super) fn load_dump(&self, from: &Path, name: &str) -> Result<(), DatabaseError> {
        let contents = Contents::read(from)?;
        let names = Names::new(name)?;
        self.end_abandoned(&names)?;
        let sort = format!(
            "CHARACTER SET {} COLLATE {}",
            identifier(&contents.character_set),
            identifier(&contents.collation)
        );
        let (next, undone, token) = (
            identifier(&names.next),
            identifier(&names.undone),
            identifier(&names.token),
        );
        self.work(
            &names,
            &names.begin(self.limits.probe),
            &format!(
                "DROP DATABASE IF EXISTS {next}; DROP DATABASE IF EXISTS {undone}; CREATE DATABASE {next} {sort}; \
                 CREATE TABLE {next}.{token} (a INT);"
            ),
        )?;
        self.pour(from, &contents, &names, &names.next, &TABLES)?;
        self.pour(from, &contents, &names, &names.next, &REHEARSED)?;
        self.swap(&names, &sort)?;
        self.pour(from, &contents, &names, name, &OTHERS)?;
        let previous = identifier(&names.previous);
        let unfinished = identifier(UNFINISHED);
        self.work_on(
            &names,
            &format!(
                "DROP TABLE IF EXISTS {previous}.{unfinished}; DROP DATABASE IF EXISTS {undone}; DROP DATABASE {next};"
            ),
        )
    }

    /// Ends what loads have left running whose process was killed.
    pub(super) fn end_loads(&self, name: &str) -> Result<(), DatabaseError> {
        self.end_abandoned(&Names::new(name)?)
    }

    /// With what was kept of it.
    pub(super) fn remove(&self, name: &str) -> Result<(), DatabaseError> {
        let names = Names::new(name)?;
        self.end_abandoned(&names)?;
        let all = [&*names.next, &*names.undone, &*names.previous, name];
        let drops = all.map(|name| format!("DROP DATABASE IF EXISTS {};", identifier(name)));
        self.work(&names, &names.begin(self.limits.probe), &drops.concat())
    }

    /// Puts the tables in their place.
    fn swap(&self, names: &Names<'_>, sort: &str) -> Result<(), DatabaseError> {
        let (schema, previous) = (identifier(names.name), identifier(&names.previous));
        let marked = self.ask(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema={} AND table_name={};",
            literal(&names.previous),
            literal(UNFINISHED)
        ))?;
        let (aside, make) = match marked.is_empty() {
            true => (
                &names.previous,
                format!("DROP DATABASE IF EXISTS {previous}; CREATE DATABASE {previous} {sort};"),
            ),
            false => (
                &names.undone,
                format!("CREATE DATABASE {} {sort};", identifier(&names.undone)),
            ),
        };
        // First, for an engine that does not move all at once moves it before anything else.
        let mut moves = vec![format!(
            "{}.{} TO {}.{}",
            identifier(&names.next),
            identifier(&names.token),
            identifier(aside),
            identifier(UNFINISHED)
        )];
        for (source, target) in [(names.name, aside.as_str()), (&names.next, names.name)] {
            for table in self.movable(source)? {
                if table == names.token {
                    continue;
                }
                let (from, to, table) =
                    (identifier(source), identifier(target), identifier(&table));
                moves.push(format!("{from}.{table} TO {to}.{table}"));
            }
        }
        let removals = [self.removals(&names.next)?, self.removals(names.name)?].concat();
        self.work_on(
            names,
            &format!(
                "CREATE DATABASE IF NOT EXISTS {schema} {sort}; ALTER DATABASE {schema} {sort}; {make} {removals} SET foreign_key_checks=0; \
                 RENAME TABLE {}; CREATE TABLE {}.{} (a INT);",
                moves.join(","),
                identifier(&names.next),
                identifier(&names.token)
            ),
        )?;
        let defaults = self.defaults(names)?;
        self.work_on(names, &defaults)
    }

    /// Until no session holds the lock.
    fn end_abandoned(&self, names: &Names<'_>) -> Result<(), DatabaseError> {
        let lock = literal(&names.lock);
        let started = Instant::now();
        loop {
            let holder = self.ask(&format!("SELECT IFNULL(IS_USED_LOCK({lock}),'');"))?;
            let holder = holder.into_iter().flatten().next().unwrap_or_default();
            if holder.parse::<u64>().is_err() {
                return Ok(());
            }
            match self.ask(&format!("KILL {holder};")) {
                // It has ended by itself.
                Err(error) if errors::has_number(&error, &[1094]) => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            if started.elapsed() > self.limits.probe.max(Duration::from_secs(60)) {
                return Err(DatabaseError::NotNow(format!(
                    "another load of the database `{}` goes on and cannot be ended: it is the session {holder} in SHOW PROCESSLIST",
                    names.name
                )));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn work_on(&self, names: &Names<'_>, statements: &str) -> Result<(), DatabaseError> {
        self.work(names, &names.go_on(self.limits.probe), statements)
    }

    fn work(&self, names: &Names<'_>, begin: &str, statements: &str) -> Result<(), DatabaseError> {
        let input = format!("{begin}{statements}\n");
        let client = self.sql_client(self.limits.load).input(input);
        let worked = client.answer();
        worked.map(drop).map_err(|error| names.explain(error))
    }

    fn movable(&self, database: &str) -> Result<Vec<String>, DatabaseError> {
        let answer = self.ask(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema={} \
             AND table_type IN ('BASE TABLE','SEQUENCE','SYSTEM VERSIONED') ORDER BY table_name;",
            literal(database)
        ))?;
        Ok(answer.into_iter().flatten().collect())
    }

    /// Statements that remove what cannot be moved.
    fn removals(&self, database: &str) -> Result<String, DatabaseError> {
        let text = literal(database);
        let rows = self.ask(&format!(
            "SELECT 'TRIGGER',trigger_name FROM information_schema.triggers WHERE trigger_schema={text};\
             SELECT 'VIEW',table_name FROM information_schema.views WHERE table_schema={text};\
             SELECT routine_type,routine_name FROM information_schema.routines WHERE routine_schema={text};\
             SELECT 'EVENT',event_name FROM information_schema.events WHERE event_schema={text};"
        ))?;
        let schema = identifier(database);
        let statement = |row: Vec<String>| match &row[..] {
            [kind, name] => format!("DROP {kind} IF EXISTS {schema}.{};", identifier(name)),
            _ => String::new(),
        };
        Ok(rows.into_iter().map(statement).collect())
    }

    /// Statements that give defaults the sequences of the database that their tables are in now.
    fn defaults(&self, names: &Names<'_>) -> Result<String, DatabaseError> {
        let rows = self.ask(&format!(
            "SELECT table_name,column_name,column_default FROM information_schema.columns WHERE table_schema={} \
             AND extra NOT LIKE '%GENERATED%' AND column_default LIKE '%val(%';",
            literal(names.name)
        ))?;
        let schema = identifier(names.name);
        let mut statements = String::new();
        for row in rows {
            let [table, column, default] = &row[..] else {
                continue;
            };
            let new = own::renamed(default.as_bytes(), &names.next, names.name);
            let new = String::from_utf8_lossy(&new);
            if new != *default {
                let (table, column) = (identifier(table), identifier(column));
                statements.push_str(&format!(
                    "ALTER TABLE {schema}.{table} ALTER COLUMN {column} SET DEFAULT ({new});"
                ));
            }
        }
        Ok(statements)
    }
}

const TABLES: [Kind; 3] = [Kind::Sequences, Kind::Table, Kind::Tail];
/// An event would run there.
const REHEARSED: [Kind; 5] = [
    Kind::Triggers,
    Kind::ViewStandIn,
    Kind::View,
    Kind::Routines,
    Kind::Tail,
];
const OTHERS: [Kind; 6] = [
    Kind::Triggers,
    Kind::ViewStandIn,
    Kind::View,
    Kind::Events,
    Kind::Routines,
    Kind::Tail,
];
