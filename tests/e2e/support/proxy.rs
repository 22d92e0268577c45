//! A connection that can be cut at any byte, and recorded, between agent and receiver.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the proxy may let through, and what it has seen.
#[derive(Debug, Default)]
struct Traffic {
    /// Bytes that still pass from agent to receiver; then the connection is cut.
    up: AtomicU64,
    /// Bytes that still pass from receiver to agent; then the connection is cut.
    down: AtomicU64,
    /// What the agent has sent, while it is recorded.
    recorded: Mutex<Vec<u8>>,
    over: AtomicBool,
}

/// Listens on loopback and forwards to a receiver.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where it listens, `127.0.0.1:PORT`.
    pub(crate) address: String,
    traffic: Arc<Traffic>,
}

impl Proxy {
    /// A proxy that lets everything through to `receiver`.
    pub(crate) fn to(receiver: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let traffic = Arc::new(Traffic::default());
        let proxy = Self {
            address,
            traffic: Arc::clone(&traffic),
        };
        proxy.cut_after(u64::MAX, u64::MAX);
        let receiver = receiver.to_owned();
        std::thread::spawn(move || {
            for agent in listener.incoming() {
                if traffic.over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(agent), Ok(receiver)) = (agent, TcpStream::connect(&receiver)) else {
                    continue;
                };
                forward_both(agent, receiver, &traffic);
            }
        });
        proxy
    }

    /// Cuts when that many more bytes have passed, up to the receiver or down from it.
    pub(crate) fn cut_after(&self, up: u64, down: u64) {
        self.traffic.up.store(up, Ordering::SeqCst);
        self.traffic.down.store(down, Ordering::SeqCst);
        self.traffic.recorded.lock().unwrap().clear();
    }

    /// How many bytes have passed up and down since `cut_after(u64::MAX, u64::MAX)`.
    pub(crate) fn passed(&self) -> (u64, u64) {
        let passed = |left: &AtomicU64| u64::MAX - left.load(Ordering::SeqCst);
        (passed(&self.traffic.up), passed(&self.traffic.down))
    }

    /// Whether nothing may pass down from the receiver any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.traffic.down.load(Ordering::SeqCst) == 0
    }

    /// What the agent has sent since the last `cut_after`.
    pub(crate) fn recorded(&self) -> Vec<u8> {
        self.traffic.recorded.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.traffic.over.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its thread sees that it is over.
        TcpStream::connect(&self.address).ok();
    }
}

fn forward_both(agent: TcpStream, receiver: TcpStream, traffic: &Arc<Traffic>) {
    let (agent_back, receiver_back) = (agent.try_clone().unwrap(), receiver.try_clone().unwrap());
    let (up, down) = (Arc::clone(traffic), Arc::clone(traffic));
    std::thread::spawn(move || {
        forward(agent, receiver, &up.up, |bytes| {
            up.recorded.lock().unwrap().extend(bytes);
        });
    });
    std::thread::spawn(move || forward(receiver_back, agent_back, &down.down, |_| {}));
}

/// Forwards until the end or until nothing may pass any more, which cuts both directions.
fn forward(mut from: TcpStream, mut to: TcpStream, left: &AtomicU64, seen: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let allowed = left.load(Ordering::SeqCst).min(length as u64);
        left.fetch_sub(allowed, Ordering::SeqCst);
        let allowed = usize::try_from(allowed).unwrap();
        seen(&buffer[..allowed]);
        if to.write_all(&buffer[..allowed]).is_err() || allowed < length {
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
            return;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
