//! `[[dataset.database]]`.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Spanned, Table, Value};
use understudy_databases::Limits;

use super::file::{File, explain};
use super::units::parse_interval;
use crate::databases::{DatabaseSettings, Engine, OnFailure};
use crate::error::AgentError;

/// As long as a name in a snapshot may be, and still be read.
const NAME_BYTES: usize = 64;
/// Failures in a row after which files are shipped without a database, if nobody says how many.
const FAILURES: u32 = 3;

/// The keys that every engine has. What is left belongs to the engine.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawEngine {
    Postgres,
}

/// What to do when a database cannot be captured.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawOnFailure {
    Fail,
    ShipFiles,
}

impl File<'_> {
    pub(super) fn databases(
        &self,
        raw: &[Spanned<Table>],
    ) -> Result<Vec<DatabaseSettings>, AgentError> {
        let mut names = HashSet::new();
        let mut databases = Vec::new();
        for table in raw {
            let database = self.database(table)?;
            if !names.insert(database.name.clone()) {
                let why = format!(
                    "there are two databases called `{}` in this dataset; give one another `name`",
                    database.name
                );
                return Err(self.refuse(Some(table.span()), &why));
            }
            databases.push(database);
        }
        Ok(databases)
    }

    pub(super) fn on_failure(
        &self,
        raw: Option<RawOnFailure>,
        after: Option<&Spanned<NonZeroU32>>,
    ) -> Result<OnFailure, AgentError> {
        match (raw, after) {
            (Some(RawOnFailure::ShipFiles), after) => Ok(OnFailure::ShipFiles {
                after: after.map_or(FAILURES, |after| after.get_ref().get()),
            }),
            (_, None) => Ok(OnFailure::Fail),
            (_, Some(after)) => Err(self.refuse(
                Some(after.span()),
                &"`ship_files_after` says nothing without `on_database_failure = \"ship-files\"`",
            )),
        }
    }

    fn database(&self, table: &Spanned<Table>) -> Result<DatabaseSettings, AgentError> {
        let mut own = table.get_ref().clone();
        let refuse = |why: &str| self.refuse(Some(table.span()), &why);
        let mut take = |key: &str| own.remove(key);
        let engine = take("engine")
            .ok_or_else(|| refuse("a database has an `engine`: write `engine = \"postgres\"`"))?;
        let engine: RawEngine = self.of_engine(table, engine)?;
        let name = take("name");
        let default = Limits::default();
        let mut time = |key: &str, default: Duration| -> Result<Duration, AgentError> {
            match take(key) {
                None => Ok(default),
                Some(Value::String(text)) => {
                    parse_interval(&text).map_err(|why| refuse(&format!("`{key}`: {why}")))
                }
                Some(_) => Err(refuse(&format!(
                    "`{key}` is a time: write `{key} = \"20s\"`"
                ))),
            }
        };
        let limits = Limits {
            probe: time("max_probe", default.probe)?,
            dump: time("max_dump", default.dump)?,
            lock: time("max_lock", default.lock)?,
            load: time("max_load", default.load)?,
        };
        let force_dump = time("force_dump", DatabaseSettings::FORCE_DUMP)?;
        let database = own.get("database").cloned();
        let engine = match engine {
            RawEngine::Postgres => Engine::Postgres(self.of_engine(table, Value::Table(own))?),
        };
        let name = match name.or(database) {
            Some(Value::String(name)) => name,
            _ => {
                return Err(refuse(
                    "a database has a `name`, by which it is found in snapshots",
                ));
            }
        };
        if !is_name(&name) {
            let why = format!(
                "`{}` is no name for a database in a snapshot: write `name = \"...\"` with up to {NAME_BYTES} letters, digits, `_`, `-` and `.`, which it does not begin with",
                name.escape_debug()
            );
            return Err(refuse(&why));
        }
        Ok(DatabaseSettings {
            name,
            engine,
            limits,
            force_dump,
        })
    }

    fn of_engine<T: DeserializeOwned>(
        &self,
        table: &Spanned<Table>,
        value: Value,
    ) -> Result<T, AgentError> {
        let read = value.try_into::<T>();
        read.map_err(|error| self.refuse(Some(table.span()), &explain(error.message())))
    }
}

fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !name.is_empty()
        && name.len() <= NAME_BYTES
        && !name.starts_with('.')
        && name.bytes().all(is_good)
}
