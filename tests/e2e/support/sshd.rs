//! A server of ssh on loopback, with keys and a configuration of its own, for the user who runs the tests.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::command::{Run, binary, tool};
use super::needs;

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running sshd; killed, with its sessions, when dropped.
#[derive(Debug)]
pub(crate) struct Sshd {
    child: Child,
    directory: PathBuf,
    port: u16,
    stderr: std::fs::File,
}

impl Sshd {
    /// Starts one that keeps its files in `place` and knows one key, `key`. Its commands find the command under test.
    pub(crate) fn start(place: &Path) -> Self {
        let path = format!(
            "{}:{}",
            binary().parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        Self::start_where(place, &path)
    }

    /// As `start`, with `path` as the PATH of what it starts.
    pub(crate) fn start_where(place: &Path, path: &str) -> Self {
        let directory = place.join("sshd");
        std::fs::create_dir(&directory).unwrap();
        if needs::is_root() {
            // Where its unprivileged part is locked in.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        for name in ["host", "key", "other"] {
            let file = directory.join(name);
            let options = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"].map(String::from);
            tool(
                "ssh-keygen",
                options.into_iter().chain([file.display().to_string()]),
            );
        }
        let public = std::fs::read_to_string(directory.join("key.pub")).unwrap();
        std::fs::write(directory.join("authorized_keys"), public).unwrap();
        let (child, port, stderr) = listen(&directory, path);
        let sshd = Self {
            child,
            directory,
            port,
            stderr,
        };
        let host = std::fs::read_to_string(sshd.at("host.pub")).unwrap();
        std::fs::write(sshd.at("known_hosts"), format!("spare {host}")).unwrap();
        sshd
    }

    /// One of its files: `key`, `other` (a key that it does not know), `authorized_keys`, `known_hosts`.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where it listens, `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of a store.
    pub(crate) fn spare(&self, store: &Path) -> String {
        spare_at(&self.address(), store)
    }

    /// The program with which it is reached, using the key `name`.
    pub(crate) fn client(&self, name: &str) -> Vec<String> {
        let known = self.at("known_hosts");
        let options = [
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "HostKeyAlias=spare".to_owned(),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            format!("UserKnownHostsFile={}", known.display()),
        ];
        let mut words = ["ssh", "-F", "/dev/null", "-i"].map(String::from).to_vec();
        words.push(self.at(name).display().to_string());
        words.extend(
            options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option]),
        );
        words
    }

    /// As `client`, in one line.
    pub(crate) fn client_line(&self, name: &str) -> String {
        let words = self.client(name);
        words.iter().map(|word| format!("'{word}' ")).collect()
    }

    /// Lets one key in only as this line of `authorized_keys` says.
    pub(crate) fn authorize(&self, line: &str) {
        std::fs::write(self.at("authorized_keys"), format!("{}\n", line.trim_end())).unwrap();
    }

    /// The line that `understudy authorized-key` prints for `main`.
    pub(crate) fn line_for(&self, main: &str, key: &str, store: &Path, others: &[&str]) -> String {
        let run = Run::new(["authorized-key", main]).args(others);
        let run = run.arg(self.at(&format!("{key}.pub")));
        run.arg("--store").arg(store).ok().stdout
    }

    /// Kills the sessions that it has, or it altogether.
    pub(crate) fn kill_sessions(&self) {
        for session in children(self.child.id()) {
            for inner in children(session) {
                kill(inner);
            }
            kill(session);
        }
    }

    /// Kills it with its sessions.
    pub(crate) fn kill(&mut self) {
        self.kill_sessions();
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

/// The address of a store behind `address`, `HOST:PORT`.
pub(crate) fn spare_at(address: &str, store: &Path) -> String {
    let user = tool("id", ["-un"]);
    format!("ssh://{}@{address}{}", user.trim(), store.display())
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_sessions();
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let mut bytes = vec![0; 20_000];
            let read = self.stderr.read_at(&mut bytes, 0).unwrap_or_default();
            std::io::stderr().write_all(&bytes[..read]).ok();
        }
    }
}

/// Starts it on a port that is free, and waits until it listens there.
fn listen(directory: &Path, path: &str) -> (Child, u16, std::fs::File) {
    let begun = Instant::now();
    loop {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let files = directory.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {files}/host\nAuthorizedKeysFile {files}/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\nSetEnv PATH={path}\nLogLevel VERBOSE\n"
        );
        std::fs::write(directory.join("config"), config).unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let program = needs::program("sshd").unwrap();
        let mut child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(directory.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.try_clone().unwrap())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (child, port, stderr);
            }
            assert!(begun.elapsed() < PATIENCE, "sshd does not listen");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        // Somebody else may have taken the port.
        let mut said = vec![0; 4000];
        let read = stderr.read_at(&mut said, 0).unwrap();
        let said = String::from_utf8_lossy(&said[..read]).into_owned();
        assert!(begun.elapsed() < PATIENCE, "sshd does not start: {said}");
    }
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

fn kill(id: u32) {
    let id = i32::try_from(id)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    // It may have ended by itself.
    rustix::process::kill_process(id.unwrap(), rustix::process::Signal::KILL).ok();
}
