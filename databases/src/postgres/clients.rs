//! Which client programs there are. Several versions are installed beside each other; a `pg_dump` that is older than the server refuses, and a
//! newer `pg_restore` may set what an older server does not know, so the closest one that is not older is used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::DatabaseError;
use crate::run::Program;

pub(super) const INSTALL: &str = "Install the client programs of PostgreSQL (Debian: postgresql-client), or set `programs` to their directory";

/// A directory of client programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    directory: PathBuf,
    pub(super) major: u32,
}

impl Client {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Those in `only`, or else those where packages put them, or else what is in PATH, which on Debian is a script that chooses for itself.
pub(super) fn installed(only: Option<&Path>) -> Vec<Client> {
    if let Some(directory) = only {
        return client(directory.to_owned()).into_iter().collect();
    }
    let mut directories = Vec::new();
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
    ] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let is_version = entry.file_name().to_str().is_some_and(|name| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
            });
            if is_version {
                directories.push(entry.path().join(below));
            }
        }
    }
    let found: Vec<_> = directories.into_iter().filter_map(client).collect();
    if !found.is_empty() {
        return found;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter_map(client).collect()
}

/// For questions: the newest knows every server.
pub(super) fn newest(clients: &[Client]) -> Result<&Client, DatabaseError> {
    clients
        .iter()
        .max_by_key(|client| client.major)
        .ok_or_else(missing)
}

/// The closest one that is not older than `major`, the version of `what`.
pub(super) fn closest<'a>(
    clients: &'a [Client],
    major: u32,
    what: &str,
) -> Result<&'a Client, DatabaseError> {
    let Some(newest) = clients.iter().map(|client| client.major).max() else {
        return Err(missing());
    };
    let fit = clients.iter().filter(|client| client.major >= major);
    fit.min_by_key(|client| client.major).ok_or_else(|| {
        DatabaseError::Unsupported(format!(
            "the newest client programs of PostgreSQL here are of version {newest}, too old for {what} of version {major}. Install those of version \
             {major} (Debian: postgresql-client-{major}), or set `programs` to their directory"
        ))
    })
}

fn missing() -> DatabaseError {
    DatabaseError::Start {
        program: "pg_dump".to_owned(),
        error: std::io::Error::from(std::io::ErrorKind::NotFound),
        remedy: INSTALL.to_owned(),
    }
}

fn client(directory: PathBuf) -> Option<Client> {
    let program = directory.join("pg_dump");
    let words = [program.into_os_string(), "--version".into()];
    let said = Program::new(words, Duration::from_secs(10)).answer().ok()?;
    let major = major(&String::from_utf8_lossy(&said))?;
    Some(Client { directory, major })
}

/// Of `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major(said: &str) -> Option<u32> {
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    let digits = version.split(|next: char| !next.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn all(majors: &[u32]) -> Vec<Client> {
        let client = |major: &u32| Client {
            directory: PathBuf::from(format!("/{major}")),
            major: *major,
        };
        majors.iter().map(client).collect()
    }

    #[test]
    fn versions_are_read_from_what_a_program_says() {
        assert_eq!(
            major("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("pg_dump (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("something else 15"), None);
    }

    #[test]
    fn the_closest_client_is_used_and_never_an_older_one() {
        let clients = all(&[17, 14, 15]);
        assert_eq!(closest(&clients, 15, "the server").unwrap().major, 15);
        assert_eq!(closest(&clients, 16, "the server").unwrap().major, 17);
        assert_eq!(newest(&clients).unwrap().major, 17);
        let error = closest(&clients, 18, "the server").unwrap_err().to_string();
        assert!(
            error.contains("version 17, too old for the server of version 18"),
            "{error}"
        );
        assert!(error.contains("postgresql-client-18"), "{error}");
        let error = newest(&[]).unwrap_err().to_string();
        assert!(error.contains("postgresql-client"), "{error}");
    }
}
