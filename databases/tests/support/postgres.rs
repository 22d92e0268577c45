//! A PostgreSQL server of a test: on a socket in a temporary directory, without TCP, as an ordinary user if the test runs as root.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use understudy_databases::Limits;
use understudy_databases::postgres::{Postgres, PostgresSettings};

/// Names the directory of the programs of another version.
const OTHER: &str = "UNDERSTUDY_TEST_POSTGRES";

/// A server that runs until it is dropped.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    child: Child,
}

/// A session that stays open.
pub(crate) struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// The directory of the newest server and its programs, or of another one that is to be tested.
pub(crate) fn programs() -> Option<PathBuf> {
    if let Some(other) = std::env::var_os(OTHER) {
        return Some(PathBuf::from(other));
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let directories = versions.map(|version| version.path().join("bin"));
    let found = directories
        .filter(|bin| bin.join("initdb").exists() && bin.join("pg_dump").exists())
        .max();
    if found.is_none() {
        super::programs::skipped("postgres");
    }
    found
}

impl Server {
    /// None if there is none to start: the test is skipped.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With settings of its own, as `-c` has them.
    pub(crate) fn start_with(settings: &[&str]) -> Option<Self> {
        let programs = programs()?;
        let directory = tempfile::tempdir().unwrap();
        super::programs::give(directory.path(), "postgres");
        let data = directory.path().join("data");
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args([
            "--auth=trust",
            "--no-sync",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "-D",
        ]);
        let output = super::programs::as_user(initdb.arg(&data), "postgres")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let child = run(&programs, directory.path(), settings);
        let server = Self { directory, child };
        server.wait();
        Some(server)
    }

    /// Starts it again after [`Server::stop`].
    pub(crate) fn restart(&mut self) {
        self.child = run(&programs().unwrap(), self.directory.path(), &[]);
        self.wait();
    }

    fn wait(&self) {
        let started = Instant::now();
        while self.try_sql("postgres", "SELECT 1").is_err() {
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(60), "{}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// SIGINT: it stops in order. SIGQUIT: it stops as if the power had failed.
    pub(crate) fn stop(&mut self, signal: Signal) {
        // The number of one that has ended may be somebody else's.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
            let _ = self.child.wait();
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Of the superuser.
    pub(crate) fn settings(&self, database: &str) -> PostgresSettings {
        self.settings_of(database, "postgres")
    }

    pub(crate) fn settings_of(&self, database: &str, user: &str) -> PostgresSettings {
        let socket = self.directory.path().to_str().unwrap();
        let other = std::env::var(OTHER).ok();
        let json = serde_json::json!({"database": database, "host": socket, "user": user, "programs": other});
        serde_json::from_value(json).unwrap()
    }

    pub(crate) fn postgres(&self, database: &str) -> Postgres {
        Postgres::new(self.settings(database), limits())
    }

    pub(crate) fn postgres_of(&self, database: &str, user: &str) -> Postgres {
        Postgres::new(self.settings_of(database, user), limits())
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(programs().unwrap().join("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-w",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
        ]);
        psql.arg(self.directory.path()).args(["-d", database]);
        psql
    }

    pub(crate) fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut psql = self.psql(database);
        let psql = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = psql.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).unwrap()
    }

    pub(crate) fn session(&self, database: &str) -> Session {
        let mut psql = self.psql(database);
        let mut child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Session {
            child,
            input,
            output,
        }
    }
}

impl Session {
    /// Returns when it is done.
    pub(crate) fn sql(&mut self, statements: &str) -> String {
        writeln!(self.input, "{statements}\n\\echo -- done").unwrap();
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "the session has ended"
            );
            match line.as_str() {
                "-- done\n" => return printed,
                _ => printed.push_str(&line),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Signal::QUIT);
    }
}

/// Short, so that what hangs is found out.
pub(crate) fn limits() -> Limits {
    Limits {
        probe: Duration::from_secs(20),
        dump: Duration::from_secs(60),
        lock: Duration::from_secs(20),
        load: Duration::from_secs(60),
    }
}

fn run(programs: &Path, directory: &Path, settings: &[&str]) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    let mut postgres = Command::new(programs.join("postgres"));
    postgres
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory);
    for setting in [
        "listen_addresses=",
        "fsync=off",
        "max_connections=30",
        "shared_buffers=16MB",
    ]
    .iter()
    .chain(settings)
    {
        postgres.args(["-c", setting]);
    }
    let postgres = super::programs::as_user(&mut postgres, "postgres").process_group(0);
    postgres
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
