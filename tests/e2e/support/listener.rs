//! A web server that notes what it is asked, for heartbeats and webhooks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

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
