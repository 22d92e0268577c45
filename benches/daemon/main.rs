//! Runs the agent's daemon and the receiver over trees of growing size and prints what a cycle costs: without
//! change, with changes, as a look at everything, after a restart; and beside it rsync's time for the same tree.
//!
//! ```text
//! cargo bench --bench daemon -- --sizes 10000,100000,1000000 --cycles 15 --picture docs/cost.svg
//! ```
//!
//! Times of cycles are those that the agent tells: from the start of the cycle, connection included, until the
//! spare has committed durably or recorded the confirmation. rsync's is that of the whole command (loopback daemon,
//! `-aHAX --delete`), nothing changed. Each size has a fresh ext4 file system for the spare (as root).

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prepares files by any means, and ends where it cannot"
)]

mod agent;
#[path = "../peers/destination.rs"]
mod destination;
#[allow(dead_code, reason = "shared with the benchmark of the peers")]
#[path = "../peers/link.rs"]
mod link;
#[allow(dead_code, reason = "shared with the benchmark of the peers")]
#[path = "../peers/measure.rs"]
mod measure;
#[allow(dead_code, reason = "shared with the benchmark of the peers")]
#[path = "../peers/namespace.rs"]
mod namespace;
#[allow(dead_code, reason = "shared with the benchmark of the peers")]
#[path = "../peers/options.rs"]
mod options;
#[allow(dead_code, reason = "shared with the benchmark of the peers")]
#[path = "../peers/peers.rs"]
mod peers;
mod picture;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/e2e/support/random.rs"]
mod random;
#[allow(dead_code, reason = "shared with the benchmark of the peers")]
#[path = "../peers/scenarios/mod.rs"]
mod scenarios;
#[path = "../peers/source.rs"]
mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::Pair;
use destination::Destination;
use options::Options;
use peers::Peer;
use source::Source;

/// How long the daemon is left alone to see what it takes at rest.
const REST: Duration = Duration::from_secs(30);

/// The medians of one size.
#[derive(Debug, Default)]
struct Row {
    files: u64,
    unchanged: f64,
    changed_100: f64,
    changed_1000: f64,
    sweep: f64,
    restart: f64,
    rsync: Option<f64>,
    resident_mb: f64,
    cpu_percent: f64,
}

struct Arguments {
    sizes: Vec<u64>,
    cycles: usize,
    binary: PathBuf,
    picture: Option<PathBuf>,
    work: PathBuf,
}

fn main() {
    let arguments = arguments();
    let rows: Vec<Row> = arguments
        .sizes
        .iter()
        .map(|files| measure_size(*files, &arguments))
        .collect();
    println!("{}", table(&rows));
    if let Some(path) = &arguments.picture {
        std::fs::write(path, picture::draw(&rows)).unwrap();
    }
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        sizes: vec![10_000, 100_000, 1_000_000],
        cycles: 15,
        binary: env!("CARGO_BIN_EXE_understudy").into(),
        picture: None,
        work: std::env::temp_dir(),
    };
    let mut given = std::env::args().skip(1).filter(|one| one != "--bench");
    while let Some(option) = given.next() {
        let value = given
            .next()
            .unwrap_or_else(|| panic!("{option} needs a value"));
        match option.as_str() {
            "--sizes" => {
                parsed.sizes = value.split(',').map(|one| one.parse().unwrap()).collect();
            }
            "--cycles" => parsed.cycles = value.parse().unwrap(),
            "--bin" => parsed.binary = value.into(),
            "--picture" => parsed.picture = Some(value.into()),
            "--work" => parsed.work = value.into(),
            _ => panic!("unknown option {option}: --sizes, --cycles, --bin, --picture or --work"),
        }
    }
    parsed
}

fn measure_size(files: u64, arguments: &Arguments) -> Row {
    let work = tempfile::Builder::new()
        .prefix("understudy-daemon-")
        .tempdir_in(&arguments.work)
        .unwrap();
    let options = Options {
        file: 0,
        files,
        bytes: files * 500,
        changed: 100,
        scenario: None,
        before: None,
        after: None,
        link: None,
        runs: 1,
        peers: vec!["rsync".to_owned()],
        binary: arguments.binary.clone(),
        work: arguments.work.clone(),
        seed: 1,
    };
    let source = Source::make(&work.path().join("source"), &options);
    let mut row = Row {
        files,
        ..Row::default()
    };
    {
        let destination = Destination::make(work.path(), &options);
        measure_pair(&mut row, &source, &destination.root, work.path(), arguments);
    }
    row.rsync = rsync(&options, &source, work.path());
    row
}

fn measure_pair(row: &mut Row, source: &Source, store: &Path, work: &Path, arguments: &Arguments) {
    let mut pair = Pair::start(&arguments.binary, &source.root, store, work);
    eprintln!(
        "{} files: first sync {:.1} s",
        row.files,
        pair.next().seconds
    );
    rustix::fs::sync();
    // What was written within the last tick is looked at once more.
    pair.next_by_journal();
    let median = |mut seconds: Vec<f64>| -> f64 {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let unchanged = |pair: &mut Pair| -> Vec<f64> {
        (0..arguments.cycles)
            .map(|_| pair.next_by_journal().seconds)
            .collect()
    };
    row.unchanged = median(unchanged(&mut pair));
    let mut seed = 0;
    for (count, result) in [(100, &mut row.changed_100), (1_000, &mut row.changed_1000)] {
        let seconds = (0..arguments.cycles.min(7))
            .map(|_| {
                seed += 1;
                source.change(count, seed);
                pair.next_committed().seconds
            })
            .collect();
        *result = median(seconds);
    }
    (row.resident_mb, row.cpu_percent) = pair.at_rest(REST);
    row.sweep = median(
        (0..3)
            .map(|_| {
                pair.restart_with_sweeps();
                // The first after the restart, then a look at everything because its time has come.
                pair.next();
                pair.next_sweep().seconds
            })
            .collect(),
    );
    row.restart = median(
        (0..3)
            .map(|_| {
                pair.restart();
                pair.next().seconds
            })
            .collect(),
    );
}

fn rsync(options: &Options, source: &Source, work: &Path) -> Option<f64> {
    if !Peer::chosen(options).contains(&Peer::Rsync) {
        return None;
    }
    let destination = Destination::make(work, options);
    let mut set_up = Peer::Rsync.set_up(options, &source.root, &destination.root, work, None);
    set_up.sync();
    let mut seconds: Vec<f64> = (0..3).map(|_| set_up.sync().seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Some(seconds[1])
}

fn table(rows: &[Row]) -> String {
    let mut text = "| files | nothing changed | 100 changed | 1,000 changed | look at everything | first after a restart | rsync, nothing changed | memory at rest | CPU at rest |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for row in rows {
        let rsync = row.rsync.map_or("-".to_owned(), |seconds| {
            format!("{seconds:.2} s ({:.0} times)", seconds / row.unchanged)
        });
        text += &format!(
            "| {} | {:.3} s | {:.3} s | {:.3} s | {:.2} s | {:.2} s | {rsync} | {:.0} MB | {:.2} % |\n",
            row.files,
            row.unchanged,
            row.changed_100,
            row.changed_1000,
            row.sweep,
            row.restart,
            row.resident_mb,
            row.cpu_percent
        );
    }
    let flatness = |cost: fn(&Row) -> f64| {
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        for row in rows {
            (least, most) = (least.min(cost(row)), most.max(cost(row)));
        }
        most / least
    };
    text + &format!(
        "\nLargest / smallest with the same 100 changes: {:.2}; without change: {:.2}\n",
        flatness(|row| row.changed_100),
        flatness(|row| row.unchanged)
    )
}
