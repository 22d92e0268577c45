//! `[[dataset.database]]`: keys that every database has, and those of its engine, which that reads by itself.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Spanned, Table, Value};
use understudy_databases::Limits;
use understudy_databases::command::CommandSettings;

use super::Sources;
use super::file::{File, RawDataset, explain};
use super::units::parse_interval;
use crate::databases::{DatabaseSettings, Engine, OnFailure, SnapshotPrograms, Stillness};
use crate::error::AgentError;
use crate::images::Sqlite;

/// As long as a name in a snapshot may be, and still be read.
const NAME_BYTES: usize = 64;
/// Failures in a row after which files are shipped without a database, if nobody says how many.
const FAILURES: u32 = 3;

/// The keys of a database, as they are written.
pub type RawDatabase = BTreeMap<Spanned<String>, Spanned<Value>>;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawEngine {
    #[serde(alias = "mysql")]
    Mariadb,
    Postgres,
    Command,
}

/// Checks a database of the configuration `text` at `path`, which need not be an agent's. Errors name file, line and column.
pub fn database(
    (path, text): (&Path, &str),
    raw: &Spanned<RawDatabase>,
) -> Result<DatabaseSettings, AgentError> {
    File { text, path }.database(raw)
}

/// What to do when a database cannot be captured.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawOnFailure {
    Fail,
    ShipFiles,
}

/// What to do with SQLite databases among the files.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawSqlite {
    Capture,
    Copy,
}

/// The programs that make and remove snapshots of a file system.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSnapshot {
    make: Spanned<Vec<String>>,
    remove: Spanned<Vec<String>>,
}

impl File<'_> {
    pub(super) fn snapshot(
        &self,
        raw: &RawDataset,
    ) -> Result<Option<SnapshotPrograms>, AgentError> {
        let Some(snapshot) = &raw.snapshot else {
            return Ok(None);
        };
        if raw.cross_mounts {
            let why = "a snapshot has nothing of other file systems, which `cross_mounts = true` asks for: leave one of them out";
            return Err(self.refuse(Some(snapshot.span()), &why));
        }
        let RawSnapshot { make, remove } = snapshot.get_ref();
        Ok(Some(SnapshotPrograms {
            make: self.one_command(make)?,
            remove: self.one_command(remove)?,
        }))
    }

    pub(super) fn sqlite(&self, raw: &RawDataset) -> Result<Sqlite, AgentError> {
        let limit = raw.sqlite_max_lock.as_ref();
        match (raw.sqlite, limit) {
            (Some(RawSqlite::Copy), None) => Ok(Sqlite::Copy),
            (Some(RawSqlite::Copy), Some(limit)) => Err(self.refuse(
                Some(limit.span()),
                &"`sqlite_max_lock` says nothing with `sqlite = \"copy\"`, which locks nothing",
            )),
            (_, limit) => Ok(Sqlite::Capture {
                max_lock: self.interval_or(limit, Sqlite::MAX_LOCK)?,
            }),
        }
    }

    pub(super) fn stillness(&self, raw: &RawDataset) -> Result<Option<Stillness>, AgentError> {
        let before = self.commands(&raw.before_capture)?;
        let after = self.commands(&raw.after_capture)?;
        let limit = raw.max_capture.as_ref();
        match (before.first(), after.first(), limit) {
            (None, None, None) => Ok(None),
            (None, None, Some(limit)) => Err(self.refuse(
                Some(limit.span()),
                &"`max_capture` says nothing without `before_capture` and `after_capture`",
            )),
            (Some(_), None, _) => Err(self.refuse(
                raw.before_capture.first().map(Spanned::span),
                &"`before_capture` without `after_capture`: nothing would let the application go on; if there is nothing to be done, write `after_capture = [[\"/bin/true\"]]`",
            )),
            (_, Some(_), limit) => Ok(Some(Stillness {
                before,
                after,
                most: self.interval_or(limit, Stillness::MOST)?,
            })),
        }
    }

    pub(super) fn databases(
        &self,
        raw: &[Spanned<RawDatabase>],
        place: &Sources,
    ) -> Result<Vec<DatabaseSettings>, AgentError> {
        if let (Sources::Each(_), Some(first)) = (place, raw.first()) {
            let why = "a path that ends in `/*` is several datasets, and a database belongs to one: give that a [[dataset]] of its own";
            return Err(self.refuse(Some(first.span()), &why));
        }
        let mut names = HashSet::new();
        let mut databases = Vec::new();
        for raw in raw {
            let database = self.database(raw)?;
            if !names.insert(database.name.clone()) {
                let why = format!(
                    "there are two databases called `{}` in this dataset; give one another `name`",
                    database.name
                );
                let span = raw.get_ref().get("name").map_or(raw.span(), Spanned::span);
                return Err(self.refuse(Some(span), &why));
            }
            databases.push(database);
        }
        Ok(databases)
    }

    pub(super) fn on_failure(
        &self,
        raw: &RawDataset,
        databases: &[DatabaseSettings],
    ) -> Result<OnFailure, AgentError> {
        let (wish, after) = (
            raw.on_database_failure.as_ref(),
            raw.ship_files_after.as_ref(),
        );
        let span = wish
            .map(Spanned::span)
            .or_else(|| after.map(Spanned::span))
            .filter(|_| databases.is_empty());
        if span.is_some() {
            let why = "this dataset has no database: add a [[dataset.database]] below it, or remove this line";
            return Err(self.refuse(span, &why));
        }
        match (wish.map(Spanned::get_ref), after) {
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

    fn database(&self, raw: &Spanned<RawDatabase>) -> Result<DatabaseSettings, AgentError> {
        let mut keys = Keys {
            file: self,
            whole: raw,
            left: raw.get_ref().clone(),
        };
        let engine = keys.engine()?;
        let name = keys.left.remove("name");
        let default = Limits::default();
        let limits = Limits {
            probe: keys.time("max_probe", default.probe)?,
            dump: keys.time("max_dump", default.dump)?,
            lock: keys.time("max_lock", default.lock)?,
            load: keys.time("max_load", default.load)?,
        };
        let force_dump = keys.time("force_dump", DatabaseSettings::FORCE_DUMP)?;
        let name = keys.name(name.as_ref())?;
        let engine = match engine {
            RawEngine::Mariadb => Engine::Mariadb(keys.rest()?),
            RawEngine::Postgres => Engine::Postgres(keys.rest()?),
            RawEngine::Command => Engine::Command(keys.command()?),
        };
        Ok(DatabaseSettings {
            name,
            engine,
            limits,
            force_dump,
        })
    }
}

/// The keys of one database, of which some are read already.
struct Keys<'a> {
    file: &'a File<'a>,
    whole: &'a Spanned<RawDatabase>,
    left: RawDatabase,
}

impl Keys<'_> {
    fn engine(&mut self) -> Result<RawEngine, AgentError> {
        let Some(engine) = self.left.remove("engine") else {
            return Err(self.refuse(
                "a database has an `engine`: write `engine = \"mariadb\"` or \"postgres\", or \"command\" for one that a program of yours takes",
            ));
        };
        let span = engine.span();
        let read = engine.into_inner().try_into();
        read.map_err(|error: toml::de::Error| {
            self.file.refuse(Some(span), &explain(error.message()))
        })
    }

    fn time(&mut self, key: &str, default: Duration) -> Result<Duration, AgentError> {
        let Some(value) = self.left.remove(key) else {
            return Ok(default);
        };
        let time = match value.get_ref() {
            Value::String(text) => parse_interval(text),
            _ => Err(format!(
                "`{key}` is a time: write for instance `{key} = \"90s\"`"
            )),
        };
        time.map_err(|why| self.file.refuse(Some(value.span()), &why))
    }

    /// What it is called in snapshots: as it is named here, or else as the engine calls it.
    fn name(&self, own: Option<&Spanned<Value>>) -> Result<String, AgentError> {
        let Some(given) = own.or_else(|| self.left.get("database")) else {
            return Err(self.refuse(
                "a database has a name, by which it is found in snapshots: write `name = \"shop\"`",
            ));
        };
        let wrong = |what: &str| {
            let why = format!(
                "{what} is no name for a database in a snapshot: write `name = \"...\"` with at most {NAME_BYTES} of the characters A-Z, a-z, 0-9, `_`, `-` and `.`, and not `.` first"
            );
            self.file.refuse(Some(given.span()), &why)
        };
        match given.get_ref() {
            Value::String(name) if is_name(name) => Ok(name.clone()),
            Value::String(name) => Err(wrong(&format!("`{}`", name.escape_debug()))),
            other => Err(wrong(&other.to_string())),
        }
    }

    fn command(self) -> Result<CommandSettings, AgentError> {
        let span = self.left.get("command").map(Spanned::span);
        let file = self.file;
        let settings: CommandSettings = self.rest()?;
        let is_program = settings
            .command
            .first()
            .is_some_and(|word| word.starts_with('/'));
        let has_nul = settings.command.iter().any(|word| word.contains('\0'));
        if is_program && !has_nul {
            return Ok(settings);
        }
        let why = "`command` must begin with an absolute path, for it is run without a shell: write `command = [\"/usr/local/bin/dump-shop\"]`";
        Err(file.refuse(span, &why))
    }

    /// Everything that is left must be known to the engine.
    fn rest<T: DeserializeOwned>(self) -> Result<T, AgentError> {
        let mut spans = BTreeMap::new();
        let mut table = Table::new();
        for (key, value) in self.left {
            spans.insert(key.get_ref().clone(), (key.span(), value.span()));
            table.insert(key.into_inner(), value.into_inner());
        }
        let read = Value::Table(table).try_into::<T>();
        read.map_err(|error| {
            let shown = error.to_string();
            let unknown = shown.strip_prefix("unknown field `");
            let unknown = unknown.and_then(|rest| rest.split('`').next());
            let wrong = shown.rsplit_once("in `");
            let wrong = wrong.and_then(|(_, rest)| rest.split(['`', '.']).next());
            let span = match (unknown, wrong) {
                (Some(key), _) => spans.get(key).map(|(key, _)| key.clone()),
                (None, Some(key)) => spans.get(key).map(|(_, value)| value.clone()),
                (None, None) => None,
            };
            let span = span.unwrap_or_else(|| self.whole.span());
            self.file.refuse(Some(span), &explain(error.message()))
        })
    }

    fn refuse(&self, why: &str) -> AgentError {
        self.file.refuse(Some(self.whole.span()), &why)
    }
}

fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !name.is_empty()
        && name.len() <= NAME_BYTES
        && !name.starts_with('.')
        && name.bytes().all(is_good)
}
