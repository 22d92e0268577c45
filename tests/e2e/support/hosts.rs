//! Hosts that are network namespaces.

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Run;
use super::command::tool;

/// A network namespace, as long as a process in it lives.
#[derive(Debug)]
pub(crate) struct Host(Child);

impl Host {
    /// One that is connected to nothing.
    pub(crate) fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "7200"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let host = Self(child);
        let namespace = |process: &str| std::fs::metadata(format!("/proc/{process}/ns/net"));
        let ours = namespace("self").unwrap().ino();
        let begun = Instant::now();
        while namespace(&host.process()).unwrap().ino() == ours {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(10));
        }
        host
    }

    /// The process that keeps it.
    pub(crate) fn process(&self) -> String {
        self.0.id().to_string()
    }

    /// Runs a command there.
    pub(crate) fn on(&self, run: Run) -> Run {
        run.through(&["nsenter", "--net", "--target", &self.process(), "--"])
    }

    /// Runs `ip` there.
    pub(crate) fn network(&self, arguments: &[&str]) {
        let process = self.process();
        let within = ["--net", "--target", &process, "--", "ip"];
        tool("nsenter", within.iter().chain(arguments));
    }

    /// Gives a device there an address, and lets it work.
    pub(crate) fn connect(&self, device: &str, address: &str) {
        self.network(&["link", "set", "lo", "up"]);
        self.network(&["address", "add", &format!("{address}/24"), "dev", device]);
        self.network(&["link", "set", device, "up"]);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
