//! Micro benchmarks: what frames, connections, deltas, commits and scans cost by themselves.
//!
//! `cargo bench --bench micro -- frame | wire | delta | commit [FILES] | scan [FILES]`. Figures are printed, never asserted.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "benchmarks prepare files of their own, and stop at what they do not expect"
)]

mod commit;
mod delta;
mod frame;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/e2e/support/random.rs"]
mod random;
mod scan;
mod wire;

use std::time::{Duration, Instant};

fn main() {
    // `cargo bench` and `cargo test --benches` add arguments of their own, which all begin with a dash.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'));
    let which = arguments.next().unwrap_or_else(|| "all".to_owned());
    let files: u64 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    if matches!(which.as_str(), "frame" | "all") {
        frame::run();
    }
    if matches!(which.as_str(), "wire" | "all") {
        wire::run();
    }
    if matches!(which.as_str(), "delta" | "all") {
        delta::run();
    }
    if matches!(which.as_str(), "scan" | "all") {
        scan::run(files);
    }
    if matches!(which.as_str(), "commit" | "all") {
        commit::run(files);
    }
}

/// The median of five runs.
fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[2]
}
