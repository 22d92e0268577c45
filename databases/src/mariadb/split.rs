//! Cuts what the dump client prints into parts, and counts rows on the way.

#![expect(
    clippy::disallowed_methods,
    reason = "owns writing into the directory of a dump"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::DatabaseError;
use crate::mariadb::parts::{Kind, Part, file_name};

/// So much of a line tells what it is.
const LINE_BYTES: u64 = 16 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// What was found in a dump.
#[derive(Debug, Default)]
pub(super) struct Split {
    pub(super) parts: Vec<Part>,
    pub(super) rows: BTreeMap<String, u64>,
    /// Whether the last line says that it is whole.
    pub(super) is_whole: bool,
}

/// Writes the parts of `output` into a directory.
pub(super) fn split(output: &mut dyn Read, into: &Path) -> Result<Split, DatabaseError> {
    let mut splitter = Splitter::new(into)?;
    let mut output = BufReader::with_capacity(BUFFER_BYTES, output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut output).take(LINE_BYTES).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return splitter.end(),
            Ok(_) => splitter.piece(&line)?,
            Err(error) => {
                return Err(DatabaseError::file("read the dump for", into, error));
            }
        }
    }
}

struct Splitter<'a> {
    into: &'a Path,
    path: PathBuf,
    file: BufWriter<File>,
    found: Split,
    used: BTreeSet<String>,
    /// A line `--` that belongs to what comes after it.
    held: bool,
    is_line_start: bool,
    is_delimited: bool,
    rows: Rows,
}

impl<'a> Splitter<'a> {
    fn new(into: &'a Path) -> Result<Self, DatabaseError> {
        let head = file_name(Kind::Head, "");
        let path = into.join(&head);
        let file = create(&path)?;
        let part = Part {
            file: head.clone(),
            kind: Kind::Head,
            name: String::new(),
        };
        Ok(Self {
            into,
            path,
            file,
            found: Split {
                parts: vec![part],
                ..Split::default()
            },
            used: BTreeSet::from([head]),
            held: false,
            is_line_start: true,
            is_delimited: false,
            rows: Rows::default(),
        })
    }

    /// A line, or a part of one.
    fn piece(&mut self, bytes: &[u8]) -> Result<(), DatabaseError> {
        let is_line_start = std::mem::replace(&mut self.is_line_start, bytes.ends_with(b"\n"));
        if self.rows.is_inside() {
            self.count(bytes);
            return self.write(bytes);
        }
        if !is_line_start {
            return self.write(bytes);
        }
        if bytes.starts_with(b"DELIMITER ") {
            self.is_delimited = bytes != b"DELIMITER ;\n";
        }
        if !self.is_delimited {
            if let Some((kind, name)) = self.boundary(bytes) {
                self.begin(kind, name)?;
            } else if bytes == b"--\n" && !self.held {
                self.held = true;
                return Ok(());
            }
            if bytes.starts_with(b"INSERT INTO ") {
                self.rows = Rows::begin();
                self.count(bytes);
            }
        }
        self.found.is_whole = match bytes {
            b"\n" => self.found.is_whole,
            line => line.starts_with(b"-- Dump completed"),
        };
        self.write(bytes)
    }

    fn count(&mut self, bytes: &[u8]) {
        let rows = self.rows.feed(bytes);
        if let Some(part) = self.found.parts.last()
            && part.kind == Kind::Table
        {
            *self.found.rows.entry(part.name.clone()).or_default() += rows;
        }
    }

    /// What begins with this line.
    fn boundary(&self, line: &[u8]) -> Option<(Kind, String)> {
        const HEADINGS: [(&str, Kind); 5] = [
            ("-- Table structure for table ", Kind::Table),
            ("-- Temporary table structure for view ", Kind::ViewStandIn),
            ("-- Temporary view structure for view ", Kind::ViewStandIn),
            ("-- Final view structure for view ", Kind::View),
            ("-- Dumping events for database ", Kind::Events),
        ];
        let line = String::from_utf8_lossy(line);
        if self.held {
            if line.starts_with("-- Dumping routines for database ") {
                return Some((Kind::Routines, String::new()));
            }
            let (heading, kind) = HEADINGS
                .iter()
                .find(|(heading, _)| line.starts_with(heading))?;
            let name = match kind {
                Kind::Events => String::new(),
                _ => unquote(line[heading.len()..].trim_end_matches('\n')),
            };
            return Some((*kind, name));
        }
        let part = self.found.parts.last()?;
        if part.kind == Kind::Table && line.starts_with("/*!50003 SET @saved_cs_client") {
            return Some((Kind::Triggers, part.name.clone()));
        }
        line.starts_with("/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE")
            .then_some((Kind::Tail, String::new()))
    }

    /// A second part of one name stays in the part before.
    fn begin(&mut self, kind: Kind, name: String) -> Result<(), DatabaseError> {
        let file = file_name(kind, &name);
        if !self.used.insert(file.clone()) {
            return Ok(());
        }
        self.flush()?;
        self.path = self.into.join(&file);
        self.file = create(&self.path)?;
        if kind == Kind::Table {
            self.found.rows.insert(name.clone(), 0);
        }
        self.found.parts.push(Part { file, kind, name });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DatabaseError> {
        let held: &[u8] = match std::mem::take(&mut self.held) {
            true => b"--\n",
            false => b"",
        };
        let written = self
            .file
            .write_all(held)
            .and_then(|()| self.file.write_all(bytes));
        written.map_err(|error| cannot_write(&self.path, error))
    }

    fn flush(&mut self) -> Result<(), DatabaseError> {
        let flushed = self.file.flush();
        flushed.map_err(|error| cannot_write(&self.path, error))
    }

    fn end(mut self) -> Result<Split, DatabaseError> {
        if self.held {
            self.write(b"")?;
        }
        self.flush()?;
        Ok(self.found)
    }
}

fn create(path: &Path) -> Result<BufWriter<File>, DatabaseError> {
    let file = File::create(path).map_err(|error| cannot_write(path, error))?;
    Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
}

fn cannot_write(path: &Path, error: std::io::Error) -> DatabaseError {
    DatabaseError::file("write", path, error)
}

fn unquote(name: &str) -> String {
    match name
        .strip_prefix('`')
        .and_then(|name| name.strip_suffix('`'))
    {
        Some(inner) => inner.replace("``", "`"),
        None => name.to_owned(),
    }
}

/// Counts the rows of one INSERT, which may come in pieces.
#[derive(Debug, Default)]
struct Rows {
    is_inside: bool,
    quote: Option<u8>,
    is_escaped: bool,
    depth: u32,
    /// The last letters outside of quotes and parentheses: `VALUES` begins the rows.
    word: Vec<u8>,
    has_values: bool,
}

impl Rows {
    fn begin() -> Self {
        Self {
            is_inside: true,
            ..Self::default()
        }
    }

    fn is_inside(&self) -> bool {
        self.is_inside
    }

    fn feed(&mut self, bytes: &[u8]) -> u64 {
        let mut rows = 0;
        for &byte in bytes {
            if let Some(quote) = self.quote {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' if quote != b'`' => self.is_escaped = true,
                    _ if byte == quote => self.quote = None,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'\'' | b'"' | b'`' => self.quote = Some(byte),
                b'(' => {
                    rows += u64::from(self.depth == 0 && self.has_values);
                    self.depth += 1;
                }
                b')' => self.depth = self.depth.saturating_sub(1),
                b';' if self.depth == 0 => self.is_inside = false,
                _ => {}
            }
            if self.depth == 0 && !self.has_values {
                match byte.is_ascii_alphabetic() {
                    true => self.word.push(byte),
                    false => self.word.clear(),
                }
                self.has_values = self.word == b"VALUES";
            }
        }
        rows
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_whatever_their_values_have() {
        let statement = br"INSERT INTO `t(` (`a`,`VALUES`) VALUES (1,'),(\''),(2,'x''('),
(3,');(');";
        for size in 1..statement.len() {
            let mut rows = Rows::begin();
            let counted: u64 = statement.chunks(size).map(|part| rows.feed(part)).sum();
            assert_eq!(counted, 3);
            assert!(!rows.is_inside());
        }
    }

    #[test]
    fn a_heading_within_a_routine_begins_no_part() {
        let text = "x\n--\n-- Dumping routines for database 'a'\n--\nDELIMITER ;;\n--\n-- Table structure for table `u`\n--\nend;;\nDELIMITER ;\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n-- Dump completed\n";
        let directory = tempfile::tempdir().unwrap();
        let found = split(&mut text.as_bytes(), directory.path()).unwrap();
        let names: Vec<_> = found.parts.iter().map(|part| part.file.as_str()).collect();
        assert_eq!(names, ["head.sql", "routines.sql", "tail.sql"]);
        assert!(found.is_whole);
        let bytes = found.parts.iter().map(|part| {
            let path = directory.path().join(&part.file);
            std::fs::read_to_string(path).unwrap()
        });
        assert_eq!(bytes.collect::<String>(), text);
    }
}
