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
    /// Bytes over the loopback interface, both directions, with their headers.
    pub(crate) wire_bytes: u64,
    /// Peak of the largest process of the side that reads.
    pub(crate) client_kb: u64,
    /// Peak of the largest process of the side that writes, where it is another one.
    pub(crate) receiver_kb: u64,
    /// understudy's receiver from build to record.
    pub(crate) commit_seconds: Option<f64>,
}

/// Bytes that passed the loopback interface since the system started.
pub(crate) fn loopback_bytes() -> u64 {
    let told = std::fs::read_to_string("/sys/class/net/lo/statistics/tx_bytes");
    told.ok()
        .and_then(|digits| digits.trim().parse().ok())
        .unwrap_or(0)
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
