//! How each peer is set up and told to sync.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::link::Link;
use crate::measure::{Memory, Sample, Wire};
use crate::options::Options;

/// One of those who are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Embedded,
    Tcp,
    Rsync,
    RsyncCompressed,
    Restic,
    Borg,
}

/// A peer with its destination, ready to sync.
#[derive(Debug)]
pub(crate) struct SetUp<'a> {
    peer: Peer,
    link: Option<&'a Link>,
    source: PathBuf,
    destination: PathBuf,
    state: PathBuf,
    binary: PathBuf,
    address: String,
    archives: u32,
    daemon: Option<(Daemon, Memory)>,
}

/// A process that is killed when dropped.
#[derive(Debug)]
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Peer {
    /// Both ways of understudy, and those of the others that are wanted and installed.
    pub(crate) fn chosen(options: &Options) -> Vec<Self> {
        let mut peers = vec![Self::Embedded, Self::Tcp];
        for peer in [Self::Rsync, Self::RsyncCompressed, Self::Restic, Self::Borg] {
            let name = peer.option();
            if !options.peers.iter().any(|wanted| wanted == name) {
                continue;
            }
            if Command::new(name.trim_end_matches("-z"))
                .arg("--version")
                .output()
                .is_ok()
            {
                peers.push(peer);
            } else {
                eprintln!("{name} is not installed: left out");
            }
        }
        peers
    }

    /// As the report calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "understudy, embedded",
            Self::Tcp => "understudy, TCP",
            Self::Rsync => "rsync daemon",
            Self::RsyncCompressed => "rsync daemon, -z --zc=zstd",
            Self::Restic => "restic",
            Self::Borg => "borg",
        }
    }

    /// As the options call it.
    fn option(self) -> &'static str {
        match self {
            Self::Embedded | Self::Tcp => "understudy",
            Self::Rsync => "rsync",
            Self::RsyncCompressed => "rsync-z",
            Self::Restic => "restic",
            Self::Borg => "borg",
        }
    }

    /// Starts what must run and makes what must be there before the first sync.
    pub(crate) fn set_up<'a>(
        self,
        options: &Options,
        source: &Path,
        destination: &Path,
        work: &Path,
        link: Option<&'a Link>,
    ) -> SetUp<'a> {
        let state = work.join("state");
        std::fs::remove_dir_all(&state).ok();
        std::fs::create_dir(&state).unwrap();
        let mut set_up = SetUp {
            peer: self,
            link,
            source: source.to_owned(),
            destination: destination.to_owned(),
            state,
            binary: options.binary.clone(),
            address: String::new(),
            archives: 0,
            daemon: None,
        };
        match self {
            Self::Embedded => {}
            Self::Tcp => set_up.start_receiver(),
            Self::Rsync | Self::RsyncCompressed => set_up.start_rsync(),
            Self::Restic => finish(set_up.restic().arg("init").stdout(Stdio::null())),
            Self::Borg => finish(
                set_up
                    .borg()
                    .args(["init", "-e", "none"])
                    .arg(set_up.repository()),
            ),
        }
        set_up
    }
}

impl SetUp<'_> {
    /// Syncs the source to the destination, durably.
    pub(crate) fn sync(&mut self) -> Sample {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (begun, wire) = (Instant::now(), self.wire());
        let child = match self.link {
            Some(link) => link.spawn_near(&mut command),
            None => command.spawn(),
        };
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let memory = Memory::watch(&child);
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}, {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        if !matches!(self.peer, Peer::Embedded | Peer::Tcp) {
            finish(Command::new("sync").arg("-f").arg(&self.destination));
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.archives += 1;
        Sample {
            seconds,
            wire: self.wire() - wire,
            client_kb: memory.peak_kb(),
            receiver_kb: self
                .daemon
                .as_ref()
                .map_or(0, |(_, memory)| memory.peak_kb()),
            commit_seconds: commit_seconds(&output.stdout),
        }
    }

    fn wire(&self) -> Wire {
        match self.link {
            Some(link) => Wire::Link(link.passed()),
            None => Wire::loopback(),
        }
    }

    fn command(&self) -> Command {
        match self.peer {
            Peer::Embedded | Peer::Tcp => {
                let mut command = Command::new(&self.binary);
                command
                    .arg("sync")
                    .arg(&self.source)
                    .arg("--state")
                    .arg(&self.state);
                command.args(["--json", "--dataset", "bench", "--spare"]);
                match self.peer {
                    Peer::Tcp => command.arg(&self.address),
                    _ => command.arg(self.repository()),
                };
                command
            }
            Peer::Rsync | Peer::RsyncCompressed => {
                let mut command = Command::new("rsync");
                let mut source = self.source.clone().into_os_string();
                source.push("/");
                command.args(["-aHAX", "--delete"]);
                if self.peer == Peer::RsyncCompressed {
                    command.args(["-z", "--zc=zstd"]);
                }
                command.arg(source);
                command.arg(format!("rsync://{}/destination/", self.address));
                command
            }
            Peer::Restic => {
                let mut command = self.restic();
                command.args(["backup", "--quiet"]).arg(&self.source);
                command
            }
            Peer::Borg => {
                let mut archive = self.repository().into_os_string();
                archive.push(format!("::{}", self.archives));
                let mut command = self.borg();
                command.arg("create").arg(archive).arg(&self.source);
                command
            }
        }
    }

    fn repository(&self) -> PathBuf {
        self.destination.join("repository")
    }

    fn restic(&self) -> Command {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", "benchmark")
            .env("RESTIC_REPOSITORY", self.repository());
        command.env("RESTIC_CACHE_DIR", self.state.join("cache"));
        command
    }

    fn borg(&self) -> Command {
        let mut command = Command::new("borg");
        command.env("BORG_BASE_DIR", &self.state);
        command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    }

    fn start_receiver(&mut self) {
        let mut command = Command::new(&self.binary);
        command
            .args(["receiver", "--listen", "127.0.0.1:0", "--store"])
            .arg(self.repository());
        let mut child = self.spawn_receiver(command.stdout(Stdio::piped()));
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim_end().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("the receiver said {line:?}"));
        self.address = self.lead_to(address);
        self.watch(child);
        self.pair();
    }

    /// Has the two sides know each other.
    fn pair(&self) {
        let mut command = Command::new(&self.binary);
        command
            .args(["pair", "--new", "bench", "--json", "--store"])
            .arg(self.repository());
        let printed = command.output().unwrap().stdout;
        let printed: serde_json::Value = serde_json::from_slice(&printed).unwrap();
        let code = printed["data"]["code"].as_str().unwrap();
        let mut command = Command::new(&self.binary);
        command
            .args(["pair", &self.address, code, "--state"])
            .arg(&self.state)
            .stdout(Stdio::null());
        let child = match self.link {
            Some(link) => link.spawn_near(&mut command),
            None => command.spawn(),
        };
        let status = child.unwrap().wait().unwrap();
        assert!(status.success(), "{command:?}: {status}");
    }

    fn start_rsync(&mut self) {
        let listener = self.receiver_side(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let address = format!("127.0.0.1:{port}");
        let root = if crate::destination::is_fresh_possible() {
            "uid = root\ngid = root\n"
        } else {
            ""
        };
        let configuration = self.state.join("rsyncd.conf");
        let target = self.repository();
        std::fs::create_dir(&target).unwrap();
        let text = format!(
            "address = 127.0.0.1\nport = {port}\nuse chroot = false\n{root}\
             [destination]\npath = {}\nread only = false\n",
            target.display()
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("rsync");
        command
            .args(["--daemon", "--no-detach", "--config"])
            .arg(&configuration);
        let child = self.spawn_receiver(&mut command);
        self.watch(child);
        let begun = Instant::now();
        while self.receiver_side(|| TcpStream::connect(&address)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the rsync daemon does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.address = self.lead_to(&address);
    }

    fn spawn_receiver(&self, command: &mut Command) -> Child {
        let child = match self.link {
            Some(link) => link.spawn_far(command),
            None => command.spawn(),
        };
        child.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn receiver_side<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        match self.link {
            Some(link) => link.far(body),
            None => body(),
        }
    }

    /// Where the side that reads reaches a receiver that listens at `address`.
    fn lead_to(&self, address: &str) -> String {
        match self.link {
            Some(link) => link.lead_to(address),
            None => address.to_owned(),
        }
    }

    fn watch(&mut self, child: Child) {
        let memory = Memory::watch(&child);
        self.daemon = Some((Daemon(child), memory));
    }
}

fn finish(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// From build to record, out of what `sync --json` prints.
fn commit_seconds(stdout: &[u8]) -> Option<f64> {
    let value: serde_json::Value = serde_json::from_slice(stdout).ok()?;
    let steps = value["data"]["receiver"].as_object()?;
    let part = ["build", "sync", "switch", "record"];
    Some(
        part.iter()
            .filter_map(|step| steps.get(*step)?.as_f64())
            .sum(),
    )
}
