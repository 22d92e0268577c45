//! Web servers for heartbeats and webhooks: one that notes what it is asked, one that encrypts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::command::tool;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `GET /path`.
    pub(crate) line: String,
    /// The body, `null` if it is no JSON.
    pub(crate) body: Value,
}

/// A server on a port of its own; it lives as long as the test process.
#[derive(Debug)]
pub(crate) struct Listener {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    held: Arc<Mutex<Vec<TcpStream>>>,
}

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers at once.
    Answers,
    /// Takes them and never answers.
    Hangs,
}

impl Listener {
    /// Starts one.
    pub(crate) fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            address: listener.local_addr().unwrap().to_string(),
            requests: Arc::default(),
            held: Arc::default(),
        };
        let (requests, held) = (Arc::clone(&this.requests), Arc::clone(&this.held));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(request) = read(&stream) else {
                    continue;
                };
                requests.lock().unwrap().push(request);
                match manner {
                    Manner::Answers => answer(stream),
                    Manner::Hangs => held.lock().unwrap().push(stream),
                }
            }
        });
        this
    }

    /// The URL of a path that starts with `/`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How often `line` was asked for.
    pub(crate) fn count(&self, line: &str) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|request| request.line == line)
            .count()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        line: first.strip_suffix(" HTTP/1.1\r\n")?.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

fn answer(mut stream: TcpStream) {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .ok();
}

/// A web server of `openssl` with a certificate by `authority.pem`; killed when dropped.
#[derive(Debug)]
pub(crate) struct TlsServer {
    child: Child,
    /// Where it listens, at `localhost`.
    pub(crate) port: u16,
}

impl TlsServer {
    /// Starts one; keys and certificates, also that of a stranger in `other.pem`, are made in `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        let script = "
            set -e; cd \"$0\"; key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
            for name in authority other; do
                openssl req -x509 $key -keyout $name.key -out $name.pem -days 2 -subj /CN=$name
            done
            openssl req $key -keyout server.key -out server.csr -subj /CN=localhost
            printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' > extensions
            openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
                -out server.pem -days 2 -extfile extensions";
        tool("sh", ["-c", script, directory.to_str().unwrap()]);
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www"])
            .args(["-cert", "server.pem", "-key", "server.key"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("ACCEPT")));
        let line = line.expect("openssl listens").unwrap();
        let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        // What it prints further must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
