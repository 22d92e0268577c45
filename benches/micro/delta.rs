//! What summing, comparing and searching a content of 256 MiB cost.

use std::time::{Duration, Instant};

use understudy_protocol::ContentHash;
use understudy_protocol::delta::{Budget, Op, Search, Signature, Summer, differing};

use crate::random::Random;

const SIZE: usize = 256 * 1024 * 1024;
const PIECE: usize = 512 * 1024;

/// Times everything on one core.
pub(crate) fn run() {
    let base = Random::new(1).noise(SIZE);
    let summed = crate::median(|| {
        std::hint::black_box(signature(&base, SIZE as u64));
    });
    report("sum (4 KiB groups, with blocks)", summed, SIZE);
    let hashed = crate::median(|| {
        std::hint::black_box(ContentHash::of(&base));
    });
    report("plain BLAKE3", hashed, SIZE);
    let signature = signature(&base, SIZE as u64);
    let compared = crate::median(|| {
        std::hint::black_box(differing(&signature, &signature));
    });
    report("compare", compared, SIZE);
    let inserted = [&Random::new(3).noise(1000)[..], &base[..SIZE - 1000]].concat();
    search("all matches (1,000 bytes inserted)", &signature, &inserted);
    search(
        "nothing matches (random)",
        &signature,
        &Random::new(2).noise(SIZE),
    );
    every_other(&signature, &base);
    hostile(base);
}

/// Every other 32 KiB is new and the rest has moved by 1,000 bytes.
fn every_other(signature: &Signature, base: &[u8]) {
    let mut mixed = [&Random::new(3).noise(1000)[..], &base[..SIZE - 1000]].concat();
    let new = Random::new(4).noise(SIZE);
    for start in (0..SIZE).step_by(64 * 1024) {
        mixed[start..start + 32 * 1024].copy_from_slice(&new[start..start + 32 * 1024]);
    }
    search("every other 32 KiB matches", signature, &mixed);
}

/// The base has blocks with the rolling sum of zeros, and the content is zeros: every position is a candidate, none is found.
fn hostile(mut base: Vec<u8>) {
    let block = 16 * 1024;
    base[..block].fill(0);
    for place in 0..512 {
        base[2 * place] = 128;
    }
    let signature = signature(&base, SIZE as u64);
    search(
        "made to defeat (equal rolling sums)",
        &signature,
        &vec![0; SIZE],
    );
}

fn search(label: &str, base: &Signature, content: &[u8]) {
    let mut copied = 0;
    let time = crate::median(|| {
        let started = Instant::now();
        let budget = Budget::new(move || started.elapsed());
        let mut search = Search::new(base, budget).expect("blocks");
        let mut ops = Vec::new();
        for piece in content.chunks(PIECE) {
            search.feed(piece, &mut ops);
        }
        search.end(&mut ops);
        copied = ops
            .iter()
            .map(|op| match op {
                Op::Copy { length, .. } => *length,
                Op::Literal { .. } => 0,
            })
            .sum();
    });
    report(
        &format!(
            "search, {label}, {:.1} % copied",
            copied as f64 * 100.0 / SIZE as f64
        ),
        time,
        SIZE,
    );
}

fn signature(content: &[u8], size: u64) -> Signature {
    let mut summer = Summer::new(size);
    content.chunks(PIECE).for_each(|piece| summer.update(piece));
    summer.finish().signature
}

fn report(label: &str, time: Duration, bytes: usize) {
    println!(
        "delta {label}: {:.0} MB/s",
        bytes as f64 / 1e6 / time.as_secs_f64()
    );
}
