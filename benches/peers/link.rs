//! A slow link between the side that reads and the side that writes.
//!
//! Each side has a network namespace of its own, and a token bucket on its end of the cable between them. A proxy on the
//! loopback address of the near side, where understudy wants its spare to be, passes bytes on by the cable to a proxy on
//! the far side, and that to the receiver on its loopback address. The near proxy holds back what passes for half of the
//! round trip in each direction. Connections are accepted without that delay.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::namespace::{FAR_ADDRESS, Namespace};

const PIECE: usize = 16 << 10;
/// Pieces that wait in a proxy for each direction of a connection: far more than a link holds while one travels.
const PIECES: usize = 256;
/// What the test of a link sends.
const TEST_BYTES: usize = 12_500_000;

/// What a link can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    bits_per_second: u64,
    round_trip: Duration,
}

impl Speed {
    /// Reads `100mbit,20ms`.
    ///
    /// # Errors
    /// Says what is expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(',').and_then(|(rate, delay)| {
            let megabits: u64 = rate.strip_suffix("mbit")?.parse().ok()?;
            let milliseconds = delay.strip_suffix("ms")?.parse().ok()?;
            Some(Self {
                bits_per_second: megabits.checked_mul(1_000_000).filter(|&bits| bits > 0)?,
                round_trip: Duration::from_millis(milliseconds),
            })
        });
        parsed.ok_or(format!("--link {text}: it is to be like 100mbit,20ms"))
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabits = self.bits_per_second / 1_000_000;
        write!(
            f,
            "{megabits} Mbit/s with {} ms round trip",
            self.round_trip.as_millis()
        )
    }
}

/// The bytes that passed, without the headers of TCP/IP.
#[derive(Debug, Default)]
struct Passed {
    up: AtomicU64,
    down: AtomicU64,
}

/// A link that stands. Its proxies run until the process ends.
#[derive(Debug)]
pub(crate) struct Link {
    near: Namespace,
    far: Namespace,
    /// Where the near proxy listens.
    address: String,
    /// Where the receiver listens, on the far side.
    target: Arc<Mutex<String>>,
    passed: Arc<Passed>,
}

impl Link {
    /// Makes a link, and sees that it is as slow as it is to be.
    pub(crate) fn make(speed: Speed) -> Self {
        let (near, far) = Namespace::pair(speed.bits_per_second);
        let target = Arc::new(Mutex::new(String::new()));
        let passed = Arc::new(Passed::default());
        let far_target = Arc::clone(&target);
        let far_port = far.within(|| {
            proxy(FAR_ADDRESS, Duration::ZERO, Arc::default(), move || {
                far_target.lock().unwrap().clone()
            })
        });
        let cable = format!("{FAR_ADDRESS}:{far_port}");
        let near_passed = Arc::clone(&passed);
        let near_port = near.within(|| {
            let localhost = Ipv4Addr::LOCALHOST.to_string();
            proxy(&localhost, speed.round_trip / 2, near_passed, move || {
                cable.clone()
            })
        });
        let link = Self {
            near,
            far,
            address: format!("127.0.0.1:{near_port}"),
            target,
            passed,
        };
        link.test(speed);
        link
    }

    /// Starts a process on the side that reads.
    pub(crate) fn spawn_near(&self, command: &mut Command) -> std::io::Result<Child> {
        self.near.spawn(command)
    }

    /// Starts a process on the side that writes.
    pub(crate) fn spawn_far(&self, command: &mut Command) -> std::io::Result<Child> {
        self.far.spawn(command)
    }

    /// Runs on the side that writes.
    pub(crate) fn far<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.far.within(body)
    }

    /// The address at which the near side reaches what listens at `target` on the far side.
    pub(crate) fn lead_to(&self, target: &str) -> String {
        target.clone_into(&mut self.target.lock().unwrap());
        self.address.clone()
    }

    /// Bytes that have passed up to the far side and down from it.
    pub(crate) fn passed(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (of(&self.passed.up), of(&self.passed.down))
    }

    /// Sends something and waits for an answer of one byte.
    fn test(&self, speed: Speed) {
        let listener = self.far(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = self.lead_to(&listener.local_addr().unwrap().to_string());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; TEST_BYTES];
            for length in [1, TEST_BYTES] {
                stream.read_exact(&mut bytes[..length]).unwrap();
                stream.write_all(&[0]).unwrap();
            }
        });
        let mut stream = self.near.within(|| TcpStream::connect(address)).unwrap();
        let mut took = |length: usize| {
            let begun = Instant::now();
            stream.write_all(&vec![0; length]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            begun.elapsed()
        };
        let (trip, transfer) = (took(1), took(TEST_BYTES));
        let ideal = TEST_BYTES as f64 * 8.0 / speed.bits_per_second as f64;
        eprintln!("the link: {trip:?} for a round trip, {transfer:?} for {TEST_BYTES} bytes");
        assert!(trip >= speed.round_trip, "the link answers too soon");
        assert!(
            transfer.as_secs_f64() >= 0.95 * ideal,
            "the link is too fast"
        );
    }
}

/// Listens, and forwards each connection; gives the port.
fn proxy(
    address: &str,
    delay: Duration,
    passed: Arc<Passed>,
    target: impl Fn() -> String + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // What is refused there is seen as an end here.
            let Ok(far) = TcpStream::connect(target()) else {
                continue;
            };
            forward_both(near, far, delay, &passed);
        }
    });
    port
}

fn forward_both(near: TcpStream, far: TcpStream, delay: Duration, passed: &Arc<Passed>) {
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (up, down) = (Arc::clone(passed), Arc::clone(passed));
    forward(near, far, delay, move |bytes| {
        up.up.fetch_add(bytes, Ordering::SeqCst);
    });
    forward(far_back, near_back, delay, move |bytes| {
        down.down.fetch_add(bytes, Ordering::SeqCst);
    });
}

/// Forwards one direction on two threads: one stamps what arrives, the other waits for its time.
fn forward(from: TcpStream, to: TcpStream, delay: Duration, count: impl Fn(u64) + Send + 'static) {
    let (sender, receiver) = sync_channel(PIECES);
    std::thread::spawn(move || stamp(from, &sender, count));
    std::thread::spawn(move || release(&receiver, to, delay));
}

fn stamp(mut from: TcpStream, sender: &SyncSender<(Instant, Vec<u8>)>, count: impl Fn(u64)) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        count(length as u64);
        if sender
            .send((Instant::now(), buffer[..length].to_vec()))
            .is_err()
        {
            break;
        }
    }
    from.shutdown(Shutdown::Read).ok();
}

fn release(receiver: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, delay: Duration) {
    for (arrived, bytes) in receiver {
        let left = (arrived + delay).saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left);
        }
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
