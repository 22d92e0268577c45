//! Taking a database: `pg_dump` into a directory, proof that it is whole, and names that stay.
//!
//! It reads in one snapshot of the server and keeps nobody from writing; only who alters or removes a table waits for it.

#![expect(
    clippy::disallowed_methods,
    reason = "owns the directory that a dump is written to"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::Dump;
use crate::error::DatabaseError;
use crate::names::file_name;
use crate::postgres::clients::{Client, closest};
use crate::postgres::contents::{CONTENTS, Contents, File};
use crate::postgres::facts::{Facts, Table};
use crate::postgres::listing::{self, Listing};
use crate::postgres::{APPLICATION, Postgres, archive, errors, facts};
use crate::run::Program;

/// Where `pg_dump` writes, in the directory of the dump, until the names are changed.
const SCRATCH: &str = "pg_dump.part";
const TOC: &str = "toc.dat";
const GLOBALS: &str = "globals.sql";
/// More than one connection reads in the same snapshot; with more than two an application would notice.
const JOBS: u32 = 2;
/// Ends the rows of every table.
const END: &[u8] = b"\\.\n\n\n";
/// Parts a script of the engine from what `psql` takes for commands of its own; the same each time, so that bytes are.
const KEY: &str = "understudy";

pub(super) fn dump(postgres: &Postgres, into: &Path) -> Result<Dump, DatabaseError> {
    let before = facts::read(postgres)?;
    let client = closest(postgres.clients(), before.version, "the server")?;
    let scratch = into.join(SCRATCH);
    run_pg_dump(postgres, client, &scratch)?;
    let after = facts::read(postgres)?;
    let mut dump = Dump::default();
    let listing = list(postgres, client, &scratch, &mut dump.notes)?;
    missing(&before, &after, &listing)?;
    let files = name_files(&scratch, &before, &after, &listing, &mut dump)?;
    move_files(&scratch, into, &files)?;
    let contents = Contents::new(client.major, after.properties.clone(), files);
    write(&into.join(CONTENTS), &contents.to_bytes()?)?;
    match globals(postgres, client) {
        Ok(globals) => write(&into.join(GLOBALS), &globals)?,
        Err(error) => dump.notes.push(format!(
            "roles are not in the dump and have to be created by hand where it is loaded: {error}"
        )),
    }
    let foreign = after
        .tables()
        .into_values()
        .filter(|table| table.is_foreign());
    dump.notes.extend(foreign.map(|table| {
        let name = table.name();
        format!("the rows of `{name}` are not in the dump, for it is a foreign table: they are kept elsewhere")
    }));
    Ok(dump)
}

fn run_pg_dump(postgres: &Postgres, client: &Client, scratch: &Path) -> Result<(), DatabaseError> {
    let database = &postgres.settings.database;
    let lock = postgres.limits.lock.as_millis().max(1);
    let arguments = [
        "--format=directory".to_owned(),
        "--compress=0".to_owned(),
        format!("--jobs={JOBS}"),
        "--no-sync".to_owned(),
        format!("--lock-wait-timeout={lock}ms"),
        format!("--dbname={}", postgres.connection(database, APPLICATION)),
    ];
    let arguments = arguments.into_iter().map(OsString::from);
    let arguments = arguments.chain(["--file".into(), scratch.as_os_str().to_owned()]);
    let program = postgres.program(client, "pg_dump", arguments, postgres.limits.dump);
    program
        .if_too_long("the database is too large for the limit of a dump, or the server is too busy")
        .answer()
        .map_err(|error| errors::explain(error, &postgres.settings, database))?;
    Ok(())
}

/// What is in the archive, after the moment in its head is the same as in every other.
fn list(
    postgres: &Postgres,
    client: &Client,
    scratch: &Path,
    notes: &mut Vec<String>,
) -> Result<Listing, DatabaseError> {
    let path = scratch.join(TOC);
    let list = || {
        let arguments = [OsString::from("--list"), scratch.as_os_str().to_owned()];
        let limit = postgres.limits.probe.max(Duration::from_secs(60));
        let printed = postgres
            .program(client, "pg_restore", arguments, limit)
            .answer();
        printed.map(|printed| listing::parse(&printed))
    };
    let original = read_head(&path)?;
    let mut head = original;
    if archive::set_moment(&mut head) {
        write_head(&path, &head)?;
        match list() {
            Ok(listing) if listing.created.starts_with(archive::CREATED) => return Ok(listing),
            _ => write_head(&path, &original)?,
        }
    }
    notes.push(format!(
        "`{TOC}` changes with every dump: where pg_dump {} keeps the time of an archive is not known",
        client.major
    ));
    list()
}

const HEAD_BYTES: usize = 64;

fn read_head(path: &Path) -> Result<[u8; HEAD_BYTES], DatabaseError> {
    let mut head = [0; HEAD_BYTES];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.map_err(|error| DatabaseError::file("read", path, error))?;
    Ok(head)
}

fn write_head(path: &Path, head: &[u8]) -> Result<(), DatabaseError> {
    let file = std::fs::OpenOptions::new().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(head));
    written.map_err(|error| DatabaseError::file("write", path, error))
}

/// Every table that was there before and after must be in the archive, with its rows.
fn missing(before: &Facts, after: &Facts, listing: &Listing) -> Result<(), DatabaseError> {
    let after = after.tables();
    let rows: Vec<_> = listing.rows.values().collect();
    let missing = before.tables().into_iter().filter(|(oid, table)| {
        let is_whole =
            listing.relations.contains(oid) && (!table.has_rows() || rows.contains(&oid));
        after.contains_key(oid) && !table.of_extension && !is_whole
    });
    let missing: Vec<_> = missing.map(|(_, table)| table.name()).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(DatabaseError::Incomplete(format!(
            "pg_dump succeeded, and has left out {} of the tables that the server has: {}. What it wrote is thrown away; the next cycle tries again, \
             and if this stays, compare with `pg_dump --verbose`",
            missing.len(),
            missing
                .iter()
                .take(5)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

/// Gives every file its name, and counts the rows of those that have rows.
fn name_files(
    scratch: &Path,
    before: &Facts,
    after: &Facts,
    listing: &Listing,
    dump: &mut Dump,
) -> Result<Vec<File>, DatabaseError> {
    let (before, after) = (before.tables(), after.tables());
    let mut tables: BTreeMap<String, u32> = (listing.rows.iter())
        .map(|(entry, oid)| (format!("{entry}.dat"), *oid))
        .collect();
    let mut files = Vec::new();
    for archive in names_in(scratch)? {
        let path = scratch.join(&archive);
        let Some(oid) = tables.remove(&archive) else {
            let name = match archive.strip_prefix("blobs_") {
                Some(_) => list_of_objects(&path)?,
                None => archive.clone(),
            };
            files.push(File {
                name,
                archive,
                table: None,
            });
            continue;
        };
        let table = after.get(&oid).or_else(|| before.get(&oid));
        let name = table.map_or_else(|| format!("{oid}"), |table| Table::name(table));
        let rows = count_rows(&path, &name)?;
        if !table.is_some_and(|table| table.of_extension) {
            dump.rows.insert(name.clone(), rows);
        }
        files.push(File {
            name: file_name(&name, ".dat"),
            archive,
            table: Some(name),
        });
    }
    match tables.into_iter().next() {
        None => Ok(files),
        Some((file, oid)) => {
            let table = after.get(&oid).or_else(|| before.get(&oid));
            Err(DatabaseError::Incomplete(format!(
                "pg_dump succeeded, and the file of the rows of `{}` is not there (`{file}`). What it wrote is thrown away; the next cycle tries again",
                table.map_or_else(|| format!("{oid}"), |table| Table::name(table))
            )))
        }
    }
}

/// In order, so that what is found first does not depend on the file system.
fn names_in(directory: &Path) -> Result<Vec<String>, DatabaseError> {
    let read = || {
        let entries = std::fs::read_dir(directory)?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        names.collect::<Result<Vec<_>, _>>()
    };
    let names: Vec<OsString> =
        read().map_err(|error| DatabaseError::file("list", directory, error))?;
    let names = names
        .iter()
        .map(OsString::as_os_str)
        .map(OsStr::to_string_lossy);
    let mut names: Vec<_> = names.map(String::from).collect();
    names.sort();
    Ok(names)
}

/// Newer versions list large objects in groups, in files with a number that shifts: named by the first one of the group.
fn list_of_objects(path: &Path) -> Result<String, DatabaseError> {
    let list =
        std::fs::read_to_string(path).map_err(|error| DatabaseError::file("read", path, error))?;
    let first = list.split(' ').next().unwrap_or_default();
    Ok(format!("blobs_of_{first}.toc"))
}

/// The rows in a file of `pg_dump`, which has one in each line, and says by its last line that it is whole.
fn count_rows(path: &Path, table: &str) -> Result<u64, DatabaseError> {
    let unread = |error| DatabaseError::file("read", path, error);
    let mut file = std::fs::File::open(path).map_err(unread)?;
    let (mut lines, mut last) = (0u64, Vec::new());
    let mut part = vec![0; 1 << 18];
    loop {
        let length = file.read(&mut part).map_err(unread)?;
        if length == 0 {
            break;
        }
        let read = &part[..length];
        lines += read
            .iter()
            .map(|byte| u64::from(*byte == b'\n'))
            .sum::<u64>();
        last.extend_from_slice(&read[length.saturating_sub(END.len() + 1)..]);
        last.drain(..last.len().saturating_sub(END.len() + 1));
    }
    match last.strip_suffix(END) {
        Some([] | [b'\n']) => Ok(lines - 3),
        _ => Err(DatabaseError::Incomplete(format!(
            "pg_dump succeeded, and the rows of `{table}` do not end with the line that ends them. What it wrote is thrown away; see whether the \
             disk or a quota is full"
        ))),
    }
}

/// Out of the scratch directory, which is gone then.
fn move_files(scratch: &Path, into: &Path, files: &[File]) -> Result<(), DatabaseError> {
    for file in files {
        let (from, to) = (scratch.join(&file.archive), into.join(&file.name));
        if to.symlink_metadata().is_ok() {
            return Err(DatabaseError::Incomplete(format!(
                "two files of a dump would be called `{}`",
                file.name
            )));
        }
        std::fs::rename(&from, &to).map_err(|error| DatabaseError::file("rename", from, error))?;
    }
    std::fs::remove_dir(scratch).map_err(|error| DatabaseError::file("remove", scratch, error))
}

/// Roles and their memberships, without passwords, which a role that is no superuser may not read.
pub(super) fn globals(postgres: &Postgres, client: &Client) -> Result<Vec<u8>, DatabaseError> {
    let limit = postgres.limits.probe.max(Duration::from_secs(60));
    // Help is only given if nothing else is asked for.
    let help = [
        client.program("pg_dumpall").into_os_string(),
        "--help".into(),
    ];
    let help = Program::new(help, limit).answer()?;
    let mut arguments: Vec<OsString> = ["--globals-only", "--no-role-passwords"]
        .map(Into::into)
        .into();
    if String::from_utf8_lossy(&help).contains("--restrict-key") {
        arguments.push(format!("--restrict-key={KEY}").into());
    }
    let database = &postgres.settings.database;
    arguments.push(format!("--database={database}").into());
    arguments.push(format!("--dbname={}", postgres.connection(database, APPLICATION)).into());
    let program = postgres.program(client, "pg_dumpall", arguments, limit);
    let globals = program
        .answer()
        .map_err(|error| errors::explain(error, &postgres.settings, database))?;
    // A name of something in the server could end the part that is no command of `psql`, for it knows the key.
    let text = String::from_utf8_lossy(&globals);
    match text.matches(&format!("restrict {KEY}")).count() {
        0 | 2 => Ok(globals),
        _ => Err(DatabaseError::Incomplete(
            "something in the server has a name that would run commands in `psql`: look for `restrict` in the names of roles and their comments"
                .to_owned(),
        )),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DatabaseError> {
    std::fs::write(path, bytes).map_err(|error| DatabaseError::file("write", path, error))
}
