//! Loading a dump in place of what is there.
//!
//! Tables are loaded into `NAME__next` and then moved by one RENAME TABLE, at which nobody sees some of the old and some of the new; those of
//! before are in `NAME__previous` until the next load. Triggers, views, routines and events cannot be moved: those of before are removed just
//! before that, and the new ones are made just after it. In between, readers find no views and routines, and writers no triggers. What a
//! killed load has left behind is removed by the next one, which can be made at any time.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use crate::error::DatabaseError;
use crate::mariadb::parts::{Contents, Kind};
use crate::mariadb::{Mariadb, errors, identifier, literal};

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
    pub(super) fn load_dump(&self, from: &Path, name: &str) -> Result<(), DatabaseError> {
        let contents = Contents::read(from)?;
        let (next, previous) = (format!("{name}__next"), format!("{name}__previous"));
        let sort = format!(
            "CHARACTER SET {} COLLATE {}",
            identifier(&contents.character_set),
            identifier(&contents.collation)
        );
        let (schema, scratch, old) = (identifier(name), identifier(&next), identifier(&previous));
        self.run(&format!(
            "DROP DATABASE IF EXISTS {scratch}; CREATE DATABASE {scratch} {sort};"
        ))?;
        self.pour(
            from,
            &contents,
            &next,
            &[Kind::Head, Kind::Table, Kind::Tail],
        )?;
        self.run(&format!(
            "CREATE DATABASE IF NOT EXISTS {schema} {sort}; ALTER DATABASE {schema} {sort}; \
             DROP DATABASE IF EXISTS {old}; CREATE DATABASE {old} {sort};"
        ))?;
        let mut moves = Vec::new();
        for (source, target) in [(name, &*previous), (&*next, name)] {
            for table in self.movable(source)? {
                let (from, to, table) =
                    (identifier(source), identifier(target), identifier(&table));
                moves.push(format!("{from}.{table} TO {to}.{table}"));
            }
        }
        let mut swap = self.removals(name)?;
        swap.push_str("SET foreign_key_checks=0;");
        if !moves.is_empty() {
            swap.push_str(&format!("RENAME TABLE {};", moves.join(",")));
        }
        self.run(&swap)?;
        let others = [
            Kind::Head,
            Kind::Triggers,
            Kind::ViewStandIn,
            Kind::View,
            Kind::Events,
            Kind::Routines,
            Kind::Tail,
        ];
        self.pour(from, &contents, name, &others)?;
        self.run(&format!("DROP DATABASE IF EXISTS {scratch};"))
    }

    /// Runs the parts of these kinds in one session.
    fn pour(
        &self,
        from: &Path,
        contents: &Contents,
        into: &str,
        kinds: &[Kind],
    ) -> Result<(), DatabaseError> {
        let begin = format!("USE {};\n", identifier(into));
        let mut input: Box<dyn Read + Send> = Box::new(Cursor::new(begin));
        let knows_sandbox = self.knows_sandbox()?;
        for part in contents
            .parts
            .iter()
            .filter(|part| kinds.contains(&part.kind))
        {
            let path = from.join(&part.file);
            if part.kind == Kind::Head && !knows_sandbox {
                let cannot = |error| DatabaseError::file("read", &path, error);
                let head = without_sandbox(std::fs::read(&path).map_err(cannot)?);
                input = Box::new(input.chain(Cursor::new(head)));
                continue;
            }
            input = Box::new(input.chain(Late(path, None)));
        }
        // Proves that everything was read to here, and not only that what was read was right.
        input = Box::new(input.chain(Cursor::new(format!("\nSELECT '{LOADED}';\n"))));
        let client = self.sql_client(self.limits.load).input_stream(input);
        let answer = client
            .answer()
            .map_err(|error| errors::explain(error, into))?;
        match String::from_utf8_lossy(&answer).contains(LOADED) {
            true => Ok(()),
            false => Err(DatabaseError::Incomplete(format!(
                "the dump in `{}` was not read to its end into the database `{into}`: a file of it is missing or cannot be read",
                from.display()
            ))),
        }
    }

    fn movable(&self, database: &str) -> Result<Vec<String>, DatabaseError> {
        let answer = self.ask(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema={} \
             AND table_type IN ('BASE TABLE','SEQUENCE') ORDER BY table_name;",
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
struct Late(std::path::PathBuf, Option<File>);

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let file = match &mut self.1 {
            Some(file) => file,
            unopened => unopened.insert(File::open(&self.0)?),
        };
        file.read(buffer)
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
