//! A Redis server of a test: on a socket in a temporary directory, without TCP, as an ordinary user if the test runs as root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::programs;

/// A server that runs until it is dropped, whatever has started it.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Server {
    /// None if there is none to start: the test is skipped.
    pub(crate) fn start(settings: &str) -> Option<Self> {
        for program in ["redis-server", "redis-cli", "redis-check-rdb"] {
            if Command::new(program).arg("--version").output().is_err() {
                programs::skipped(program);
                return None;
            }
        }
        let directory = tempfile::tempdir().unwrap();
        programs::give(directory.path(), "redis");
        let at = directory.path().display();
        let common = format!(
            "port 0\nunixsocket {at}/socket\ndir {at}\npidfile {at}/redis.pid\nlogfile {at}/log\nrdbcompression no\nsave \"\"\n"
        );
        std::fs::write(directory.path().join("redis.conf"), common + settings).unwrap();
        let mut server = Self {
            directory,
            child: None,
        };
        server.run();
        Some(server)
    }

    pub(crate) fn run(&mut self) {
        let mut redis = Command::new("redis-server");
        redis.arg(self.directory.path().join("redis.conf"));
        let redis = programs::as_user(&mut redis, "redis").stdin(Stdio::null());
        self.child = Some(redis.stdout(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        while !self.ask(&["PING"]).starts_with(['P', 'N']) {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "Redis does not start"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        let output = cli
            .arg("-s")
            .arg(self.socket())
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        // One that was started by somebody else ends when it is told to, whatever number it has.
        self.ask(&["SHUTDOWN", "NOSAVE"]);
    }
}
