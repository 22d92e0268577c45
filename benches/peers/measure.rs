//! Time and peak memory of processes.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What one sync took.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Until the data was durable.
    pub(crate) seconds: f64,
    /// What passed between the sides meanwhile.
    pub(crate) wire: Wire,
    /// Peak of the largest process of the side that reads.
    pub(crate) client_kb: u64,
    /// Peak of the largest process of the side that writes, where it is another one.
    pub(crate) receiver_kb: u64,
    /// understudy's receiver from build to record.
    pub(crate) commit_seconds: Option<f64>,
}

/// Bytes that passed between the two sides.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    /// Over the loopback interface, both directions, with their headers.
    Loopback(u64),
    /// Over a link, up to the receiver and down from it, without headers.
    Link((u64, u64)),
}

impl Wire {
    /// What passed the loopback interface of this network since it began.
    pub(crate) fn loopback() -> Self {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        // Eight counts of what came in go before the bytes that went out.
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("lo:"));
        let sent = line.and_then(|line| line.split_whitespace().nth(8));
        Self::Loopback(sent.and_then(|digits| digits.parse().ok()).unwrap_or(0))
    }

    /// Both directions.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Loopback(bytes) => bytes,
            Self::Link((up, down)) => up + down,
        }
    }
}

impl std::ops::Sub for Wire {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        match (self, earlier) {
            (Self::Link((up, down)), Self::Link((up_earlier, down_earlier))) => {
                Self::Link((up - up_earlier, down - down_earlier))
            }
            _ => Self::Loopback(self.bytes() - earlier.bytes()),
        }
    }
}

/// Watches a process and its descendants, and keeps the peak of the largest.
#[derive(Debug)]
pub(crate) struct Memory {
    peak_kb: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Memory {
    /// Begins to watch.
    pub(crate) fn watch(child: &Child) -> Self {
        let memory = Self {
            peak_kb: Arc::default(),
            over: Arc::default(),
        };
        let (peak_kb, over) = (Arc::clone(&memory.peak_kb), Arc::clone(&memory.over));
        let pid = child.id();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                peak_kb.fetch_max(largest_peak_kb(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        memory
    }

    /// The peak so far.
    pub(crate) fn peak_kb(&self) -> u64 {
        self.peak_kb.load(Ordering::Relaxed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The kernel's high-water mark of the largest among a process and its descendants; it only
/// rises, so that nothing is missed between two looks but the last moment.
fn largest_peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0);
    children(pid)
        .into_iter()
        .map(largest_peak_kb)
        .fold(own, u64::max)
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|line| {
            line.split_whitespace()
                .flat_map(str::parse)
                .collect::<Vec<u32>>()
        })
        .collect()
}
