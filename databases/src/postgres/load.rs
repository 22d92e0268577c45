//! Making a database of a dump, beside the one that is to be replaced, and putting it in its place in one transaction.
//!
//! `NAME` serves until everything is loaded into `NAME__next`; then the two take each other's place, and what was there stays as
//! `NAME__previous` until the next load. There is no moment at which `NAME` is missing; who connects in the very moment of the change may be
//! refused once. Sessions that are connected to `NAME` are ended for it: they belong to the database that is replaced, not to its name.
//!
//! Wherever a load is killed, the next one begins anew. Programs of one whose process was killed may go on for a while, so their sessions are
//! ended first, and what is put in place is compared with what was made.
//!
//! Roles are not made: what is in `globals.sql` is for a person to run, or for whoever sets up the server.

#![expect(
    clippy::disallowed_methods,
    reason = "owns the directory of links that pg_restore reads"
)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::DatabaseError;
use crate::postgres::clients::{Client, closest};
use crate::postgres::contents::Contents;
use crate::postgres::facts::{self, Properties, Setting};
use crate::postgres::{APPLICATION, Postgres, errors, identifier, literal};

/// The engine cuts longer names without a word.
const NAME_BYTES: usize = 63;
/// So often somebody who connects again may be quicker.
const SWAPS: u32 = 5;
/// Sessions that only load lose nothing by it: the swap, after them, waits until all is on disk.
const LAZY: &str = " options='-c synchronous_commit=off'";

/// Begins the name of a directory of links.
const LINKS: &str = "understudy-load-";

/// The names that belong to one.
struct Names<'a> {
    name: &'a str,
    next: String,
    previous: String,
    /// Of every session that works on them.
    application: String,
}

impl<'a> Names<'a> {
    fn new(postgres: &Postgres, name: &'a str) -> Result<Self, DatabaseError> {
        let is_engines = [
            "postgres",
            "template0",
            "template1",
            &postgres.settings.maintenance_database,
        ]
        .contains(&name);
        let (next, previous) = (format!("{name}__next"), format!("{name}__previous"));
        if name.is_empty() || name.contains('\0') || is_engines || previous.len() > NAME_BYTES {
            return Err(DatabaseError::Unsupported(format!(
                "no database can be loaded as `{name}`: a name is needed that is not the engine's own and at most {} bytes long",
                NAME_BYTES + name.len() - previous.len()
            )));
        }
        // The engine has only ASCII in it.
        let hash = blake3::hash(name.as_bytes()).to_hex();
        let application = format!("{APPLICATION} load {}", &hash[..16]);
        Ok(Self {
            name,
            next,
            previous,
            application,
        })
    }
}

pub(super) fn load(postgres: &Postgres, from: &Path, name: &str) -> Result<(), DatabaseError> {
    let contents = Contents::read(from)?;
    let names = Names::new(postgres, name)?;
    let version = facts::version(postgres)?;
    let client = closest(
        postgres.clients(),
        version.max(contents.client),
        "the server, or for the dump,",
    )?;
    let archive = Archive::link(from, &contents)?;
    end_abandoned(postgres, &names)?;
    remove(postgres, &names, &names.next)?;
    let made = create(postgres, &names, &contents.properties)?;
    restore(postgres, client, &archive, &names)?;
    // Without it, the first that is asked of a large table takes far too long.
    postgres.sql_as(
        &names.application,
        &names.next,
        "ANALYZE;",
        postgres.limits.load,
    )?;
    set(postgres, &names, &contents.properties.settings);
    swap(postgres, &names, &made)
}

/// Ends the sessions of loads whose process was killed.
pub(super) fn settle(postgres: &Postgres, name: &str) -> Result<(), DatabaseError> {
    end_abandoned(postgres, &Names::new(postgres, name)?)
}

/// With what was kept of it.
pub(super) fn drop_database(postgres: &Postgres, name: &str) -> Result<(), DatabaseError> {
    let names = Names::new(postgres, name)?;
    end_abandoned(postgres, &names)?;
    for name in [&*names.next, &*names.previous, names.name] {
        remove(postgres, &names, name)?;
    }
    Ok(())
}

/// Until there are none, for a session is ended only where it looks for that.
fn end_abandoned(postgres: &Postgres, names: &Names<'_>) -> Result<(), DatabaseError> {
    let statement = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ={} AND pid <> pg_backend_pid();",
        literal(&names.application)
    );
    let started = Instant::now();
    while !maintain(postgres, names, &statement)?.starts_with(b"0") {
        if started.elapsed() > postgres.limits.probe.max(Duration::from_secs(60)) {
            return Err(DatabaseError::Incomplete(format!(
                "another load of `{}` goes on and cannot be ended: look for application_name{} in pg_stat_activity",
                names.name,
                literal(&names.application)
            )));
        }
    }
    Ok(())
}

/// Sessions in it are ended.
fn remove(postgres: &Postgres, names: &Names<'_>, name: &str) -> Result<(), DatabaseError> {
    let remove = format!(
        "SET client_min_messages = warning; DROP DATABASE IF EXISTS {} WITH (FORCE);",
        identifier(name)
    );
    maintain(postgres, names, &remove)?;
    Ok(())
}

/// Where other databases are made, renamed and removed. Those that are large take longer than a question.
fn maintain(
    postgres: &Postgres,
    names: &Names<'_>,
    statements: &str,
) -> Result<Vec<u8>, DatabaseError> {
    let limit = postgres.limits.probe.max(Duration::from_secs(60));
    let database = &postgres.settings.maintenance_database;
    postgres.sql_as(&names.application, database, statements, limit)
}

/// Empty, and as the one was that was dumped. Returns its number, which no other database gets.
fn create(
    postgres: &Postgres,
    names: &Names<'_>,
    properties: &Properties,
) -> Result<String, DatabaseError> {
    let Properties {
        encoding,
        collate,
        ctype,
        owner,
        ..
    } = properties;
    let database = identifier(&names.next);
    let locale = properties.locale.as_deref().unwrap_or_default();
    let provider = match properties.provider.as_str() {
        "i" => format!(" LOCALE_PROVIDER icu ICU_LOCALE{}", literal(locale)),
        "b" => format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE{}", literal(locale)),
        _ => String::new(),
    };
    let mut statements = format!(
        "CREATE DATABASE {database} TEMPLATE template0 OWNER {} ENCODING{} LC_COLLATE{} LC_CTYPE{}{provider};\n",
        identifier(owner),
        literal(encoding),
        literal(collate),
        literal(ctype),
    );
    if let Some(grants) = &properties.grants {
        statements.push_str(&format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC;\n"));
        for grant in grants {
            // The word of a privilege is no name, and is written into a statement as it is.
            if !grant
                .privilege
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b' ')
            {
                continue;
            }
            let to = grant
                .to
                .as_deref()
                .map_or_else(|| "PUBLIC".to_owned(), identifier);
            let option = if grant.can_grant {
                " WITH GRANT OPTION"
            } else {
                ""
            };
            statements.push_str(&format!(
                "GRANT {} ON DATABASE {database} TO {to}{option};\n",
                grant.privilege
            ));
        }
    }
    statements.push_str(&format!(
        "SELECT oid FROM pg_database WHERE datname ={};",
        literal(&names.next)
    ));
    let made = maintain(postgres, names, &statements)?;
    Ok(String::from_utf8_lossy(&made).trim().to_owned())
}

fn restore(
    postgres: &Postgres,
    client: &Client,
    archive: &Archive,
    names: &Names<'_>,
) -> Result<(), DatabaseError> {
    let connection = postgres.connection(&names.next, &names.application);
    let jobs = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    let arguments = [
        "--format=directory".to_owned(),
        format!("--jobs={jobs}"),
        "--exit-on-error".to_owned(),
        "--no-tablespaces".to_owned(),
        format!("--dbname={connection}{LAZY}"),
    ];
    let arguments = arguments.into_iter().map(OsString::from);
    let arguments = arguments.chain([archive.directory.as_os_str().to_owned()]);
    let program = postgres.program(client, "pg_restore", arguments, postgres.limits.load);
    program
        .if_too_long("the database is too large for the limit of a load, or the server is too busy")
        .answer()
        .map_err(|error| errors::explain(error, &postgres.settings, &names.next))?;
    Ok(())
}

/// What whoever connects gets, taken over by the server's own parser: some are lists. A setting that this server does not know is left out.
fn set(postgres: &Postgres, names: &Names<'_>, settings: &[Setting]) {
    for setting in settings {
        let (key, database) = (&setting.name, identifier(&names.next));
        let whose = match &setting.role {
            Some(role) => format!("ROLE {} IN DATABASE {database}", identifier(role)),
            None => format!("DATABASE {database}"),
        };
        // A setting of an extension has a dot between two names.
        let parts: Vec<_> = key.split('.').map(identifier).collect();
        let statements = format!(
            "BEGIN; SELECT set_config({}, {}, false); ALTER {whose} SET {} FROM CURRENT; COMMIT;",
            literal(key),
            literal(&setting.value),
            parts.join("."),
        );
        if let Err(error) = maintain(postgres, names, &statements) {
            tracing::warn!(
                "the setting `{key}` of the database `{}` is not taken over: {error}",
                names.name
            );
        }
    }
}

/// Both renames in one transaction. It waits for nobody: sessions in the way are ended, and the engine keeps new ones out while it renames. What
/// is in place then must be the one that was `made`, or the division by none undoes it.
fn swap(postgres: &Postgres, names: &Names<'_>, made: &str) -> Result<(), DatabaseError> {
    let (name, next, previous) = (
        identifier(names.name),
        identifier(&names.next),
        identifier(&names.previous),
    );
    let text = literal(names.name);
    let there = format!("SELECT count(*) FROM pg_database WHERE datname ={text};");
    let aside = match maintain(postgres, names, &there)?.starts_with(b"0") {
        true => String::new(),
        false => {
            remove(postgres, names, &names.previous)?;
            format!("ALTER DATABASE {name} RENAME TO {previous};")
        }
    };
    let statements = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname ={text};\n\
         BEGIN; {aside} ALTER DATABASE {next} RENAME TO {name};\n\
         SELECT 1 / count(*) FROM pg_database WHERE datname ={text} AND oid::text ={}; COMMIT;",
        literal(made),
    );
    let mut tried = 1;
    loop {
        match maintain(postgres, names, &statements) {
            Ok(ended) => {
                let ended = String::from_utf8_lossy(&ended);
                let ended = ended.lines().next().unwrap_or_default();
                if ended != "0" {
                    tracing::warn!(
                        "{ended} sessions of the database `{}` were ended to replace it",
                        names.name
                    );
                }
                return Ok(());
            }
            Err(DatabaseError::Failed { said, .. })
                if tried < SWAPS && said.contains("is being accessed by other users") =>
            {
                tried += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The directory that `pg_dump` wrote, made of links under the names that it gave. It is gone when this is.
struct Archive {
    directory: PathBuf,
}

impl Archive {
    fn link(from: &Path, contents: &Contents) -> Result<Self, DatabaseError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let from = from
            .canonicalize()
            .map_err(|error| DatabaseError::file("find", from, error))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        remove_abandoned();
        let directory = format!("{LINKS}{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let made = builder.create(&directory);
        made.map_err(|error| DatabaseError::file("make", &directory, error))?;
        let archive = Self { directory };
        for file in &contents.files {
            let path = from.join(&file.name);
            let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
            if !is_file {
                return Err(DatabaseError::Incomplete(format!(
                    "the dump is not whole: `{}` is missing. Take another snapshot",
                    path.display()
                )));
            }
            let link = archive.directory.join(&file.archive);
            std::os::unix::fs::symlink(&path, &link)
                .map_err(|error| DatabaseError::file("make a link", link, error))?;
        }
        Ok(archive)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What processes have left that were killed.
fn remove_abandoned() {
    let entries = std::fs::read_dir(std::env::temp_dir());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(LINKS)?.split('-').next());
        let is_gone = |process: &str| {
            process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()
        };
        if process.is_some_and(is_gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
