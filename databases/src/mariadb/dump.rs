//! A dump: in one transaction if every table can, with locks and a limit of time if one cannot.

#![expect(
    clippy::disallowed_methods,
    reason = "owns writing into the directory of a dump"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Dump;
use crate::error::DatabaseError;
use crate::mariadb::parts::Contents;
use crate::mariadb::split::{Split, split};
use crate::mariadb::{Mariadb, errors, literal};

const TRIES: usize = 3;
/// A table was altered or dropped while it was dumped.
const ALTERED: [u32; 2] = [1412, 1146];
const FLAGS: [&str; 12] = [
    "--quick",
    "--skip-dump-date",
    "--order-by-primary",
    "--hex-blob",
    "--routines",
    "--triggers",
    "--events",
    "--default-character-set=utf8mb4",
    "--tz-utc",
    "--max-allowed-packet=1G",
    "--no-tablespaces",
    // A table whose default is of a sequence cannot be filled while it is locked.
    "--skip-add-locks",
];

impl Mariadb {
    pub(super) fn write_dump(&self, into: &Path) -> Result<Dump, DatabaseError> {
        let silent = self.what_is_left_out()?;
        if !silent.is_empty() {
            return Err(DatabaseError::Unsupported(silent.join("; ")));
        }
        let (character_set, collation) = self.character_set()?;
        let database = &self.settings.database;
        for attempt in 1.. {
            let others = self.not_transactional()?;
            let started = Instant::now();
            match self.try_dump(into, !others.is_empty()) {
                Ok(split) => {
                    let took = started.elapsed();
                    let contents =
                        Contents::new(database.clone(), character_set, collation, split.parts);
                    contents.write(into)?;
                    let mut dump = described(split.rows, &others, took);
                    dump.notes.extend(self.without_history()?);
                    return Ok(dump);
                }
                Err(error) if attempt < TRIES && errors::has_number(&error, &ALTERED) => {
                    tracing::debug!(%error, "a table was altered while it was dumped");
                    empty(into)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(DatabaseError::NotNow("no try was made".to_owned()))
    }

    fn try_dump(&self, into: &Path, needs_lock: bool) -> Result<Split, DatabaseError> {
        let database = &self.settings.database;
        let mut words = FLAGS.to_vec();
        if !self.is_of_mariadb()? {
            words.extend(["--set-gtid-purged=OFF", "--column-statistics=0"]);
        }
        let limit = match needs_lock {
            true => {
                words.push("--lock-tables");
                self.limits.lock.min(self.limits.dump)
            }
            false => {
                words.extend(["--single-transaction", "--skip-lock-tables"]);
                self.limits.dump
            }
        };
        words.extend(["--", database]);
        let what = match needs_lock {
            true => format!(
                "the database `{database}` has tables that are not InnoDB, and while they are dumped nobody can write: so that writers need not wait longer, nothing was dumped. Convert them (ALTER TABLE ... ENGINE=InnoDB), or raise the limit of the lock"
            ),
            false => format!(
                "the database `{database}` was not dumped in time: raise the limit of the dump, or find out what keeps the server busy"
            ),
        };
        let client = self.client(["mariadb-dump", "mysqldump"], &words, limit);
        let mut found = Split::default();
        let streamed = client.if_too_long(what).stream(Box::new(|output| {
            found = split(output, into)?;
            Ok(())
        }));
        streamed.map_err(|error| errors::explain(error, database))?;
        match found.is_whole {
            true => Ok(found),
            false => Err(DatabaseError::Incomplete(format!(
                "the dump of the database `{database}` does not end with `-- Dump completed`, although the client reported success: it is not whole and is thrown away. Look into the server's log; an option file that sets `skip-comments` also does this"
            ))),
        }
    }

    /// The base tables that a transaction does not hold still.
    pub(super) fn not_transactional(&self) -> Result<Vec<String>, DatabaseError> {
        let answer = self.ask(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema={} AND \
             table_type IN ('BASE TABLE','SYSTEM VERSIONED') AND (engine IS NULL OR engine<>'InnoDB') ORDER BY table_name;",
            literal(&self.settings.database)
        ))?;
        Ok(answer.into_iter().flatten().collect())
    }

    /// What the client leaves out of tables that keep what their rows were.
    fn without_history(&self) -> Result<Option<String>, DatabaseError> {
        let tables = self.ask(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema={} AND table_type='SYSTEM VERSIONED' ORDER BY table_name;",
            literal(&self.settings.database)
        ))?;
        let tables: Vec<_> = tables.into_iter().flatten().collect();
        Ok((!tables.is_empty()).then(|| {
            format!(
                "of tables with system versioning only the rows of now are in the dump: {}",
                tables.join(", ")
            )
        }))
    }

    fn character_set(&self) -> Result<(String, String), DatabaseError> {
        let database = &self.settings.database;
        let answer = self.ask(&format!(
            "SELECT default_character_set_name,default_collation_name FROM \
             information_schema.schemata WHERE schema_name={};",
            literal(database)
        ))?;
        match answer.into_iter().next().as_deref() {
            Some([set, collation]) => Ok((set.clone(), collation.clone())),
            _ => Err(DatabaseError::Unsupported(format!(
                "there is no database `{database}` (1049), or the account may not see it: correct `database`, or GRANT it the rights that the check of the configuration names"
            ))),
        }
    }

    /// Whether the dump client is MariaDB's, under whichever name.
    fn is_of_mariadb(&self) -> Result<bool, DatabaseError> {
        let names = ["mariadb-dump", "mysqldump"];
        let client = self.client(names, &["--version"], self.limits.probe);
        let said = client.answer()?;
        Ok(String::from_utf8_lossy(&said).contains("MariaDB"))
    }
}

fn described(
    rows: std::collections::BTreeMap<String, u64>,
    others: &[String],
    took: Duration,
) -> Dump {
    if others.is_empty() {
        return Dump {
            rows,
            ..Dump::default()
        };
    }
    let note = format!(
        "not InnoDB, so that writers had to wait while it was dumped: {}",
        others.join(", ")
    );
    Dump {
        rows,
        writers_waited: took,
        notes: vec![note],
    }
}

fn empty(directory: &Path) -> Result<(), DatabaseError> {
    let cannot = |error| DatabaseError::file("empty", directory, error);
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        std::fs::remove_file(entry.map_err(cannot)?.path()).map_err(cannot)?;
    }
    Ok(())
}
