//! A MariaDB server of a test: on a socket in a temporary directory, without TCP, as an ordinary user if the test runs as root.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use understudy_databases::Limits;
use understudy_databases::mariadb::{Mariadb, MariadbSettings};

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

impl Server {
    /// None if there is none to start: the test is skipped.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let found = ["/usr/sbin/mariadbd", "/usr/bin/mariadbd"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(program) = found else {
            super::programs::skipped("mariadbd");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        super::programs::give(directory.path(), "mysql");
        let data = format!("--datadir={}", directory.path().join("data").display());
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", &data]);
        let scratch = format!("--tmpdir={}", directory.path().display());
        install.arg(&scratch);
        install.arg("--auth-root-authentication-method=normal");
        let output = super::programs::as_user(&mut install, "mysql")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut server = Command::new(program);
        server.args(["--no-defaults", "--skip-networking", &data]);
        server.arg(scratch);
        server.arg(format!("--socket={}", directory.path().join("s").display()));
        server.args([
            "--innodb-buffer-pool-size=16M",
            "--innodb-flush-log-at-trx-commit=2",
        ]);
        server
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = super::programs::as_user(&mut server, "mysql")
            .spawn()
            .unwrap();
        let server = Self { directory, child };
        let started = Instant::now();
        while server.try_sql("SELECT 1").is_err() {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(server)
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn try_sql(&self, statements: &str) -> Result<String, String> {
        self.try_sql_with(&[], statements)
    }

    fn try_sql_with(&self, options: &[&str], statements: &str) -> Result<String, String> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-uroot", "-BN", "-S"]);
        client.arg(self.directory.path().join("s")).args(options);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = client.stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub(crate) fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap()
    }

    /// With options of the client.
    pub(crate) fn sql_with(&self, options: &[&str], statements: &str) -> String {
        self.try_sql_with(options, statements).unwrap()
    }

    /// As an account, by an option file.
    pub(crate) fn settings(&self, database: &str, user: &str, password: &str) -> MariadbSettings {
        let file: PathBuf = self.directory.path().join(format!("{user}.cnf"));
        let text = format!("[client]\nuser={user}\npassword={password}\n");
        std::fs::write(&file, text).unwrap();
        let settings = serde_json::json!({
            "database": database,
            "socket": self.directory.path().join("s"),
            "defaults_file": file,
        });
        serde_json::from_value(settings).unwrap()
    }

    pub(crate) fn mariadb_of(&self, database: &str, user: &str, password: &str) -> Mariadb {
        Mariadb::new(self.settings(database, user, password), limits())
    }

    pub(crate) fn mariadb(&self, database: &str) -> Mariadb {
        self.mariadb_of(database, "root", "")
    }
}

impl Server {
    pub(crate) fn session(&self) -> Session {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-uroot", "-BNn", "-S"]);
        client.arg(self.directory.path().join("s"));
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = client.spawn().unwrap();
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
    pub(crate) fn sql(&mut self, statements: &str) {
        writeln!(self.input, "{statements}; SELECT '-- done';").unwrap();
        let mut line = String::new();
        while line != "-- done\n" {
            line.clear();
            let read = self.output.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the session has ended");
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
        self.stop();
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        probe: Duration::from_secs(20),
        dump: Duration::from_secs(60),
        lock: Duration::from_secs(2),
        load: Duration::from_secs(60),
    }
}
