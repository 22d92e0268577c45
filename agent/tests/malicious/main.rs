//! A spare that means harm, and speaks the protocol: a restore from it, or a cycle with it, writes nothing outside of its target, gives
//! away nothing, takes little memory, and ends.
#![expect(clippy::disallowed_methods, reason = "prepares and inspects trees")]

mod contents;
mod cycles;
mod manifests;
mod packed;
mod proofs;
mod questions;
mod spare;
mod world;

/// What the whole process may take at most, all tests together.
const MOST_KIB: u64 = 256 * 1024;

/// The most memory that this process has had so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

fn assert_small() {
    let peak = peak_kib();
    assert!(peak < MOST_KIB, "{peak} KiB");
}
