//! Running parts of a dump in a database of any name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use crate::error::DatabaseError;
use crate::mariadb::load::Names;
use crate::mariadb::parts::{Contents, Kind};
use crate::mariadb::{Mariadb, identifier, own};

const SANDBOX: &[u8] = b"/*M!999999\\- enable the sandbox mode */";
const LOADED: &str = "understudy has loaded it";
/// The first releases whose client knows the sandbox.
const SANDBOXED: [(u32, u32, u32); 7] = [
    (10, 5, 25),
    (10, 6, 18),
    (10, 11, 8),
    (11, 0, 6),
    (11, 1, 5),
    (11, 2, 4),
    (11, 4, 2),
];

impl Mariadb {
    /// Runs the settings of a dump and its parts of these kinds in one session of a load.
    pub(super) fn pour(
        &self,
        from: &Path,
        contents: &Contents,
        names: &Names<'_>,
        into: &str,
        kinds: &[Kind],
    ) -> Result<(), DatabaseError> {
        let begin = names.go_on(self.limits.probe);
        let begin = format!("{begin}USE {};\n", identifier(into));
        let mut input: Box<dyn Read + Send> = Box::new(Cursor::new(begin));
        let knows_sandbox = self.knows_sandbox()?;
        let is_wanted = |kind| kind == Kind::Head || kinds.contains(&kind);
        for part in contents.parts.iter().filter(|part| is_wanted(part.kind)) {
            let path = from.join(&part.file);
            input = match part.kind {
                Kind::Head if !knows_sandbox => {
                    let cannot = |error| DatabaseError::file("read", &path, error);
                    let head = without_sandbox(std::fs::read(&path).map_err(cannot)?);
                    Box::new(input.chain(Cursor::new(head)))
                }
                Kind::Table | Kind::View => Box::new(input.chain(Late {
                    path,
                    names: Some((contents.database.clone(), into.to_owned())),
                    opened: None,
                })),
                _ => Box::new(input.chain(Late {
                    path,
                    names: None,
                    opened: None,
                })),
            };
        }
        // Proves that everything was read to here, and not only that what was read was right.
        input = Box::new(input.chain(Cursor::new(format!("\nSELECT '{LOADED}';\n"))));
        let client = self.sql_client(self.limits.load).input_stream(input);
        let answer = client.answer().map_err(|error| names.explain(error))?;
        match String::from_utf8_lossy(&answer).contains(LOADED) {
            true => Ok(()),
            false => Err(DatabaseError::Incomplete(format!(
                "the dump in `{}` was not read to its end into the database `{into}`: a file of it is missing or cannot be read",
                from.display()
            ))),
        }
    }

    fn knows_sandbox(&self) -> Result<bool, DatabaseError> {
        let client = self.client(["mariadb", "mysql"], &["--version"], self.limits.probe);
        let said = client.answer()?;
        Ok(knows_sandbox(&String::from_utf8_lossy(&said)))
    }
}

fn knows_sandbox(said: &str) -> bool {
    let Some((before, _)) = said.split_once("-MariaDB") else {
        return false;
    };
    let version = before.rsplit([' ', '-']).next().unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').flat_map(str::parse).collect();
    let [major, minor, patch] = numbers[..] else {
        return false;
    };
    let is_of = |first: &&(u32, u32, u32)| (first.0, first.1) == (major, minor);
    match SANDBOXED.iter().find(is_of) {
        Some(first) => patch >= first.2,
        None => (major, minor) > (11, 4),
    }
}

fn without_sandbox(head: Vec<u8>) -> Vec<u8> {
    let end = head.iter().position(|byte| *byte == b'\n');
    match (head.starts_with(SANDBOX), end) {
        (true, Some(end)) => head[end + 1..].to_vec(),
        _ => head,
    }
}

/// A file that is opened when it is its turn: a dump may have more of them than can be open at once.
struct Late {
    path: PathBuf,
    /// The database that its statements were written for, and the one that they shall be for.
    names: Option<(String, String)>,
    opened: Option<Box<dyn Read + Send>>,
}

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let opened = match &mut self.opened {
            Some(opened) => opened,
            unopened => {
                let file = File::open(&self.path)?;
                unopened.insert(match &self.names {
                    Some((from, to)) => for_database(file, from, to)?,
                    None => Box::new(file),
                })
            }
        };
        opened.read(buffer)
    }
}

/// A file whose statements before its rows are for another database.
fn for_database(file: File, from: &str, to: &str) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut structure = Vec::new();
    loop {
        let start = structure.len();
        let length = file.read_until(b'\n', &mut structure)?;
        let line = &structure[start..];
        if length == 0 || line.starts_with(b"INSERT INTO ") {
            let rows = structure.split_off(start);
            let structure = own::renamed(&structure, from, to);
            return Ok(Box::new(
                Cursor::new(structure).chain(Cursor::new(rows)).chain(file),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_that_know_the_sandbox_are_given_it() {
        assert!(knows_sandbox(
            "mariadb  Ver 15.1 Distrib 10.11.19-MariaDB, for debian-linux-gnu"
        ));
        assert!(knows_sandbox("mariadb from 11.8.1-MariaDB, client 15.2"));
        assert!(!knows_sandbox("mysql  Ver 15.1 Distrib 10.3.39-MariaDB"));
        assert!(!knows_sandbox("mysql  Ver 8.0.36 for Linux"));
    }
}
