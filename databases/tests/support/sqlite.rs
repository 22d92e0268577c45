//! Other processes that work with a database, in Python, which has SQLite.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use understudy_databases::sqlite::{self, COMPANIONS, Image, ImageError};

use crate::programs::skipped;

/// More than any test waits for.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Two directories: where the database is, and where copies go.
pub(crate) struct Site {
    place: TempDir,
    images: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let new = || tempfile::tempdir().unwrap();
        Self {
            place: new(),
            images: new(),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.place.path().join("site?%.db")
    }

    pub(crate) fn companion(&self, end: &str) -> PathBuf {
        let mut path = self.database().into_os_string();
        path.push(end);
        path.into()
    }

    /// A state of the database, by itself.
    pub(crate) fn take(&self, max_lock: Duration) -> Result<(Image, PathBuf), ImageError> {
        let into = self.images.path().join("image");
        let _ = std::fs::remove_file(&into);
        for end in COMPANIONS {
            let _ = std::fs::remove_file(self.images.path().join(format!("image{end}")));
        }
        let directory = File::open(self.place.path()).unwrap();
        let name = self.database().file_name().map(OsStr::to_owned).unwrap();
        let image = sqlite::take(directory.as_fd(), &name, &into, max_lock)?;
        let names = std::fs::read_dir(self.images.path()).unwrap().count();
        assert_eq!(names, 1, "something was left beside the image");
        Ok((image, into))
    }

    /// Everything in the directory of the database: names, what they hold, when they changed.
    pub(crate) fn everything(&self) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
        let entries = std::fs::read_dir(self.place.path()).unwrap();
        let mut all: Vec<_> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let modified = path.metadata().unwrap().modified().unwrap();
                let bytes = std::fs::read(&path).unwrap();
                (path, bytes, modified)
            })
            .collect();
        all.sort();
        all
    }
}

/// Opens an image as nobody else does, checks all of it, and returns the answer to a question.
pub(crate) fn ask(image: &Path, question: &str) -> i64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let address = format!("file:{}?immutable=1", image.display());
    let connection = Connection::open_with_flags(address, flags).unwrap();
    let check: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    connection
        .query_row(question, [], |row| row.get(0))
        .unwrap()
}

/// A process with the database open, which runs what it is told line by line.
pub(crate) struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const PROLOGUE: &str = r#"
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"#;

impl Other {
    /// `None` if there is no Python, which is said.
    pub(crate) fn start(database: &Path) -> Option<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", PROLOGUE]).arg(database);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            skipped("python3");
            return None;
        };
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Runs a line of Python, and waits for its end.
    pub(crate) fn run(&mut self, line: &str) {
        self.begin(line);
        assert_eq!(self.heard(), "done", "{line}");
    }

    /// Lets it run a line of Python.
    pub(crate) fn begin(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn heard(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// As a crash.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes the database.
    pub(crate) fn close(mut self) {
        self.run("db.close()");
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}
