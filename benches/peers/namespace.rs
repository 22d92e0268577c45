//! Two network namespaces and the cable between them, which has the rate that was asked for.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The address of the far end of the cable.
pub(crate) const FAR_ADDRESS: &str = "10.133.7.2";
const NEAR_ADDRESS: &str = "10.133.7.1";

/// A network of its own; it ends when dropped, and its cable with it.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Two with a cable between them: the near and the far end.
    pub(crate) fn pair(bits_per_second: u64) -> (Self, Self) {
        let id = std::process::id();
        let near = Self::add(format!("understudy-near-{id}"));
        let far = Self::add(format!("understudy-far-{id}"));
        near.ip(&[
            "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far.name,
        ]);
        for (namespace, address) in [(&near, NEAR_ADDRESS), (&far, FAR_ADDRESS)] {
            namespace.ip(&["address", "add", &format!("{address}/24"), "dev", "cable"]);
            namespace.ip(&["link", "set", "lo", "up"]);
            namespace.ip(&["link", "set", "cable", "up"]);
            let rate = format!("{bits_per_second}bit");
            namespace.within(|| {
                run(Command::new("tc").args([
                    "qdisc", "add", "dev", "cable", "root", "tbf", "rate", &rate, "burst",
                    "32kbit", "latency", "50ms",
                ]));
            });
        }
        (near, far)
    }

    fn add(name: String) -> Self {
        run(Command::new("ip").args(["netns", "add", &name]));
        Self { name }
    }

    fn ip(&self, arguments: &[&str]) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments));
    }

    /// Starts a process that is in this network.
    pub(crate) fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        self.within(|| command.spawn())
    }

    /// Runs on a thread that is in this network, as are the sockets that it makes and the threads and processes that it
    /// starts.
    pub(crate) fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = File::open(format!("/run/netns/{}", self.name)).unwrap();
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                body()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status()
            .ok();
    }
}

fn run(command: &mut Command) {
    let status = command.status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}; a link needs root");
}
