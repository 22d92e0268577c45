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
use crate::mariadb::parts::{self, Kind, Part};
use crate::mariadb::statements::Statements;

/// So much of a line tells what it is.
const LINE_BYTES: u64 = 16 << 10;
const BUFFER_BYTES: usize = 256 << 10;
/// A name has at most 64 characters.
const NAME_LINES: usize = 64;

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
    /// A line `--`, and a heading that goes on, which belong to what comes after them.
    held: Vec<u8>,
    is_line_start: bool,
    statements: Statements,
    /// Of the INSERT that is being read.
    rows: Option<Rows>,
}

/// What lines of a comment begin.
enum Heading {
    /// A part.
    Of(Kind, String),
    /// Its name has a line break, and goes on.
    Unfinished,
    Nothing,
}

impl<'a> Splitter<'a> {
    fn new(into: &'a Path) -> Result<Self, DatabaseError> {
        let head = parts::file(Kind::Head, "");
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
            held: Vec::new(),
            is_line_start: true,
            statements: Statements::new(),
            rows: None,
        })
    }

    /// A line, or a part of one.
    fn piece(&mut self, bytes: &[u8]) -> Result<(), DatabaseError> {
        let is_line_start = std::mem::replace(&mut self.is_line_start, bytes.ends_with(b"\n"));
        // Nothing within a statement, or a string, begins a part.
        if is_line_start && self.statements.is_between() {
            return self.line_between(bytes);
        }
        self.read_on(bytes);
        self.write(bytes)
    }

    /// The begin of a line between two statements.
    fn line_between(&mut self, bytes: &[u8]) -> Result<(), DatabaseError> {
        self.found.is_whole = match bytes {
            b"\n" => self.found.is_whole,
            line => line.starts_with(b"-- Dump completed"),
        };
        if !self.held.is_empty() {
            let is_comment = bytes.starts_with(b"--");
            if is_comment {
                self.held.extend_from_slice(bytes);
                match heading(&self.held) {
                    Heading::Unfinished => return Ok(()),
                    Heading::Of(kind, name) => self.begin(kind, name)?,
                    Heading::Nothing => {}
                }
            }
            let held = std::mem::take(&mut self.held);
            self.write(&held)?;
            if is_comment {
                return Ok(());
            }
        }
        if bytes == b"--\n" {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        if self.statements.command(bytes) {
            return self.write(bytes);
        }
        if let Some((kind, name)) = self.without_heading(bytes) {
            self.begin(kind, name)?;
        }
        if bytes.starts_with(b"INSERT INTO ") {
            self.rows = Some(Rows::default());
        }
        self.read_on(bytes);
        self.write(bytes)
    }

    /// Follows the statements, and counts rows.
    fn read_on(&mut self, bytes: &[u8]) {
        let Some(mut counter) = self.rows.take() else {
            return self.statements.feed(bytes, |_| {});
        };
        let mut rows = 0;
        self.statements
            .feed(bytes, |byte| rows += u64::from(counter.is_row(byte)));
        if let Some(part) = self.found.parts.last()
            && part.kind == Kind::Table
        {
            *self.found.rows.entry(part.name.clone()).or_default() += rows;
        }
        if !self.statements.is_between() {
            self.rows = Some(counter);
        }
    }

    /// What begins with this line, without a comment that says so.
    fn without_heading(&self, line: &[u8]) -> Option<(Kind, String)> {
        let part = self.found.parts.last()?;
        if part.kind == Kind::Table && line.starts_with(b"/*!50003 SET @saved_cs_client") {
            return Some((Kind::Triggers, part.name.clone()));
        }
        line.starts_with(b"/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE")
            .then_some((Kind::Tail, String::new()))
    }

    /// A second part of one name stays in the part before.
    fn begin(&mut self, kind: Kind, name: String) -> Result<(), DatabaseError> {
        let file = parts::file(kind, &name);
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
        let written = self.file.write_all(bytes);
        written.map_err(|error| cannot_write(&self.path, error))
    }

    fn flush(&mut self) -> Result<(), DatabaseError> {
        let flushed = self.file.flush();
        flushed.map_err(|error| cannot_write(&self.path, error))
    }

    fn end(mut self) -> Result<Split, DatabaseError> {
        let held = std::mem::take(&mut self.held);
        self.write(&held)?;
        self.flush()?;
        self.found.is_whole &= self.statements.is_between();
        Ok(self.found)
    }
}

/// What the lines `--` and those after it begin.
fn heading(lines: &[u8]) -> Heading {
    const HEADINGS: [(&str, Kind); 7] = [
        ("Sequence structure for ", Kind::Sequences),
        ("Table structure for table ", Kind::Table),
        ("Temporary table structure for view ", Kind::ViewStandIn),
        ("Temporary view structure for view ", Kind::ViewStandIn),
        ("Final view structure for view ", Kind::View),
        ("Dumping events for database ", Kind::Events),
        ("Dumping routines for database ", Kind::Routines),
    ];
    let lines = String::from_utf8_lossy(lines);
    let Some(text) = lines
        .strip_prefix("--\n-- ")
        .and_then(|text| text.strip_suffix('\n'))
    else {
        return Heading::Nothing;
    };
    let found = HEADINGS
        .iter()
        .find_map(|(heading, kind)| Some((*kind, text.strip_prefix(heading)?)));
    let Some((kind, name)) = found else {
        return Heading::Nothing;
    };
    match kind {
        Kind::Sequences | Kind::Events | Kind::Routines => Heading::Of(kind, String::new()),
        _ if !name.starts_with('`') => Heading::Of(kind, name.to_owned()),
        // Each line of a name is a comment of its own.
        _ => match name.matches('`').count() % 2 {
            0 => Heading::Of(kind, unquote(&name.replace("\n-- ", "\n"))),
            _ if name.lines().count() > NAME_LINES => Heading::Nothing,
            _ => Heading::Unfinished,
        },
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

/// Counts the rows of one INSERT by what is neither quoted nor a comment.
#[derive(Debug, Default)]
struct Rows {
    depth: u32,
    /// The last letters outside of parentheses: `VALUES` begins the rows.
    word: Vec<u8>,
    has_values: bool,
}

impl Rows {
    /// Whether a row begins with this byte.
    fn is_row(&mut self, byte: u8) -> bool {
        let is_row = byte == b'(' && self.depth == 0 && self.has_values;
        match byte {
            b'(' => self.depth += 1,
            b')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth == 0 && !self.has_values {
            match byte.is_ascii_alphabetic() {
                true => self.word.push(byte),
                false => self.word.clear(),
            }
            self.has_values = self.word == b"VALUES";
        }
        is_row
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    /// Splits; returns the files in order, after making sure that they are what was split.
    fn split_text(text: &str) -> (Split, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let found = split(&mut text.as_bytes(), directory.path()).unwrap();
        let names = found.parts.iter().map(|part| part.file.clone()).collect();
        let bytes = found.parts.iter().map(|part| {
            let path = directory.path().join(&part.file);
            std::fs::read_to_string(path).unwrap()
        });
        assert_eq!(bytes.collect::<String>(), text);
        (found, names)
    }

    #[test]
    fn rows_are_counted_whatever_their_values_have() {
        let text = "--\n-- Table structure for table `t(`\n--\nINSERT INTO `t(` (`a`,`VALUES`) VALUES (1,'),(\\''),(2,'x''('),\n(3,');(');\n";
        let (found, _) = split_text(text);
        assert_eq!(found.rows["t("], 3);
    }

    #[test]
    fn a_heading_within_a_statement_begins_no_part() {
        for body in [
            "begin\n--\n-- Table structure for table `u`\n--\nend",
            "begin /*\nDELIMITER ;\n--\n-- Table structure for table `u`\n*/ end",
            "select '\nDELIMITER ;\n--\n-- Table structure for table `u`\n'",
        ] {
            let text = format!(
                "x;\n--\n-- Dumping routines for database 'a'\n--\nDELIMITER ;;\n{body};;\nDELIMITER ;\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n-- Dump completed\n"
            );
            let (found, names) = split_text(&text);
            assert_eq!(names, ["head.sql", "routines.sql", "tail.sql"], "{body}");
            assert!(found.is_whole);
        }
        let row = "--\n-- Table structure for table `t`\n--\nINSERT INTO `t` VALUES ('\n--\n-- Table structure for table `u`\n--\n');\n";
        let (found, names) = split_text(row);
        assert_eq!(names, ["head.sql", "table.t.sql"]);
        assert_eq!(found.rows["t"], 1);
    }

    #[test]
    fn a_name_of_several_lines_is_one_name() {
        let text = "--\n-- Table structure for table `a``\n-- -- Table structure for table ``b``\n-- c`\n--\nx;\n-- Dump completed";
        let (found, _) = split_text(text);
        assert_eq!(
            found.parts[1].name,
            "a`\n-- Table structure for table `b`\nc"
        );
    }

    #[test]
    fn what_ends_within_a_statement_is_not_whole() {
        let (found, _) = split_text("INSERT INTO t VALUES ('\n-- Dump completed\n");
        assert!(!found.is_whole);
        let (found, _) = split_text("x;\n-- Dump completed\n");
        assert!(found.is_whole);
    }
}
