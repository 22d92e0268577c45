//! Any other engine, by a program that a person has written for it.
//!
//! It is run with nothing but PATH, HOME, USER, LOGNAME and the locale in its environment, and with these:
//!
//! | variable | is |
//! | --- | --- |
//! | `UNDERSTUDY_PHASE` | `probe`, `dump`, `check`, `load`, `drop` or `count` |
//! | `UNDERSTUDY_DATASET` | the dataset |
//! | `UNDERSTUDY_DATABASE` | the database: as configured, or with `load`, `drop` and `count` the name that it shall have, or has, here |
//! | `UNDERSTUDY_OUT` | with `dump`: an empty directory. Only the user and the capabilities that the program was started with lead there: what runs with others prints instead |
//! | `UNDERSTUDY_IN` | with `load`: a directory with what `dump` has made |
//!
//! | phase | does |
//! | --- | --- |
//! | `probe` | prints a token. As long as it is equal to the one before, nothing has changed and no dump is made, so a token that could be the same after a change must not be printed: nothing printed is no token, and always a dump |
//! | `dump` | makes files in `UNDERSTUDY_OUT`, which are taken as they are, or prints something, which becomes the file `output` |
//! | `check` | prints what would make a dump fail or leave something out, and what to do about it, a line each |
//! | `load` | makes the database of `UNDERSTUDY_IN`, in place of one that is there, and returns when it can be used; the file `output`, if there is one, is its standard input |
//! | `drop` | removes the database; one that is not there was removed before |
//! | `count` | prints lines of a name, a tab and a number of rows |
//!
//! Exit code 0 says that all is done. 75 says 'not now': nothing is wrong, and the next cycle tries again. 64 says that it does not know this
//! phase: no token then, nothing wrong, nothing counted, and an error for `dump`, `load` and `drop`. Any other says that it has failed, and why
//! is what it prints to standard error, at the end. What takes longer than the limit is killed, with all that it has started in its group.

#![expect(
    clippy::disallowed_methods,
    reason = "owns the file that a program's output is written to"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::run::Program;
use crate::{Database, Dump, Limits, Probe};

/// What is printed by `dump` is in this file.
pub const OUTPUT: &str = "output";
const NOT_NOW: i32 = 75;
const NOT_KNOWN: i32 = 64;
/// More is no token.
const TOKEN_BYTES: usize = 64 << 10;

/// How a database is taken by a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// The program and its arguments, which everybody can see: a secret is for a file that it reads.
    pub command: Vec<String>,
}

/// A database that a program takes.
#[derive(Debug)]
pub struct CommandDatabase {
    settings: CommandSettings,
    dataset: String,
    database: String,
    limits: Limits,
}

impl CommandDatabase {
    /// Runs nothing yet.
    pub fn new(
        settings: CommandSettings,
        dataset: impl Into<String>,
        database: impl Into<String>,
        limits: Limits,
    ) -> Self {
        Self {
            settings,
            dataset: dataset.into(),
            database: database.into(),
            limits,
        }
    }

    fn program(
        &self,
        phase: &str,
        database: &str,
        limit: Duration,
    ) -> Result<Program, DatabaseError> {
        if self.settings.command.is_empty() {
            return Err(DatabaseError::Unsupported(format!(
                "`command` of the database `{}` has no words: write the program that takes it, and its arguments",
                self.database
            )));
        }
        let program = Program::new(&self.settings.command, limit)
            .variable("UNDERSTUDY_PHASE", phase)
            .variable("UNDERSTUDY_DATASET", &self.dataset)
            .variable("UNDERSTUDY_DATABASE", database)
            .if_missing("Correct `command`: its first word is a program in PATH, or the whole path of one that may be executed")
            .if_too_long(format!(
                "the phase `{phase}` did not end. See what it waits for, or set the limit higher"
            ));
        Ok(program)
    }
}

impl Database for CommandDatabase {
    fn probe(&self) -> Result<Probe, DatabaseError> {
        let answer = self
            .program("probe", &self.database, self.limits.probe)?
            .answer();
        let token = known(answer)?.unwrap_or_default();
        let token = String::from_utf8(token)
            .ok()
            .filter(|token| token.len() <= TOKEN_BYTES);
        let Some(token) = token else {
            return Err(DatabaseError::Incomplete(format!(
                "what `{}` printed in the phase `probe` is no token: it has to be text of at most {TOKEN_BYTES} bytes",
                self.settings.command.join(" ")
            )));
        };
        let token = token.trim().to_owned();
        let is_settled = !token.is_empty();
        Ok(Probe { token, is_settled })
    }

    fn dump(&self, into: &Path) -> Result<Dump, DatabaseError> {
        let program = self.program("dump", &self.database, self.limits.dump)?;
        let program = program.variable("UNDERSTUDY_OUT", into);
        let path = into.join(OUTPUT);
        let dumped = program.stream(Box::new(|printed| keep(printed, &path)));
        if known(dumped)?.is_none() {
            return Err(not_known(&self.settings, "dump"));
        }
        let mut entries =
            std::fs::read_dir(into).map_err(|error| DatabaseError::file("list", into, error))?;
        match entries.next() {
            Some(_) => Ok(Dump::default()),
            None => Err(DatabaseError::Incomplete(format!(
                "`{}` has succeeded in the phase `dump`, and has neither printed anything nor made a file in UNDERSTUDY_OUT",
                self.settings.command.join(" ")
            ))),
        }
    }

    fn check(&self) -> Result<Vec<String>, DatabaseError> {
        let answer = self
            .program("check", &self.database, self.limits.probe)?
            .answer();
        match known(answer) {
            Err(error) => Ok(vec![error.to_string()]),
            Ok(lines) => {
                let lines = lines.unwrap_or_default();
                let lines = String::from_utf8_lossy(&lines);
                let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
                Ok(lines.map(str::to_owned).collect())
            }
        }
    }

    fn load(&self, from: &Path, name: &str) -> Result<(), DatabaseError> {
        let mut program = self
            .program("load", name, self.limits.load)?
            .variable("UNDERSTUDY_IN", from);
        let path = from.join(OUTPUT);
        if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            let file =
                File::open(&path).map_err(|error| DatabaseError::file("open", path, error))?;
            program = program.input_file(file);
        }
        known(program.answer())?
            .map(drop)
            .ok_or_else(|| not_known(&self.settings, "load"))
    }

    /// As far as the program can count: what it does not tell apart by that is taken for the same.
    fn identity(&self, name: &str) -> Result<Option<String>, DatabaseError> {
        let counted = self.count(name)?.into_iter();
        let lines = counted.map(|(name, rows)| format!("{name}\t{rows}\n"));
        Ok(Some(lines.collect()))
    }

    /// What a program leaves running is not known here.
    fn settle(&self, _name: &str) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn drop_database(&self, name: &str) -> Result<(), DatabaseError> {
        let limit = self.limits.probe.max(Duration::from_secs(60));
        let dropped = known(self.program("drop", name, limit)?.answer())?;
        dropped
            .map(drop)
            .ok_or_else(|| not_known(&self.settings, "drop"))
    }

    fn count(&self, name: &str) -> Result<BTreeMap<String, u64>, DatabaseError> {
        let counted = known(self.program("count", name, self.limits.load)?.answer())?;
        let counted = counted.unwrap_or_default();
        let counted = String::from_utf8_lossy(&counted);
        let lines = counted.lines().map(|line| {
            let parts = line.rsplit_once('\t');
            let parts = parts.and_then(|(name, rows)| Some((name.to_owned(), rows.trim().parse().ok()?)));
            parts.ok_or_else(|| {
                DatabaseError::Incomplete(format!(
                    "what `{}` printed in the phase `count` is no name, tab and number of rows: {line:?}",
                    self.settings.command.join(" ")
                ))
            })
        });
        lines.collect()
    }
}

/// None if the program does not know the phase.
fn known<T>(answer: Result<T, DatabaseError>) -> Result<Option<T>, DatabaseError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(DatabaseError::Failed {
            code: Some(NOT_KNOWN),
            ..
        }) => Ok(None),
        Err(DatabaseError::Failed {
            code: Some(NOT_NOW),
            program,
            said,
            ..
        }) => Err(DatabaseError::NotNow(match said.is_empty() {
            true => format!("`{program}` says so, without a reason"),
            false => said,
        })),
        Err(error) => Err(error),
    }
}

fn not_known(settings: &CommandSettings, phase: &str) -> DatabaseError {
    DatabaseError::Unsupported(format!(
        "`{}` does not know the phase `{phase}` (exit code {NOT_KNOWN}): add it to the program, or do without what needs it",
        settings.command.join(" ")
    ))
}

/// Writes what is printed into a file, which is made for the first byte.
fn keep(printed: &mut dyn Read, path: &Path) -> Result<(), DatabaseError> {
    let mut part = vec![0; 1 << 18];
    let mut file = None;
    loop {
        let length = match printed.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(DatabaseError::file("read what becomes", path, error)),
        };
        let file = match &mut file {
            Some(file) => file,
            None => {
                let made = File::create_new(path);
                file.insert(made.map_err(|error| DatabaseError::file("make", path, error))?)
            }
        };
        let written = file.write_all(&part[..length]);
        written.map_err(|error| DatabaseError::file("write", path, error))?;
    }
}
