//! The results as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::destination::is_fresh_possible;
use crate::measure::{Sample, Wire};
use crate::options::Options;
use crate::peers::Peer;
use crate::scenarios::Scenario;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    First,
    Unchanged,
    Changed,
    Pages,
    PagesAgain,
    Inserted,
    Appended,
    Rewritten,
    Happened,
}

const WORKS: [Work; 9] = [
    Work::First,
    Work::Unchanged,
    Work::Changed,
    Work::Pages,
    Work::PagesAgain,
    Work::Inserted,
    Work::Appended,
    Work::Rewritten,
    Work::Happened,
];

/// All samples so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    samples: BTreeMap<(Work, Peer), Vec<Sample>>,
}

impl Report {
    /// One more sample.
    pub(crate) fn add(&mut self, peer: Peer, work: Work, sample: Sample) {
        eprintln!(
            "  {work:?}: {:.2} s, {} bytes",
            sample.seconds,
            sample.wire.bytes()
        );
        self.samples.entry((work, peer)).or_default().push(sample);
    }

    /// One table for all.
    pub(crate) fn markdown(&self, options: &Options, peers: &[Peer]) -> String {
        let what = match options.scenario {
            Some(scenario) => format!("{scenario:?}"),
            None => format!("{} files, {} bytes", options.files, options.bytes),
        };
        let link = options
            .link
            .map_or(String::new(), |speed| format!(", over a link of {speed}"));
        let mut text = format!(
            "{what}{link}, {} runs, medians (least to most), {} cores.\n\
             The source is in the page cache; the destination is {}.\n\n",
            options.runs,
            std::thread::available_parallelism().map_or(0, usize::from),
            if is_fresh_possible() {
                "an ext4 file system made afresh for every run"
            } else {
                "a fresh directory (NOT a fresh file system: run as root for that)"
            },
        );
        text.push_str(
            "| work | who | seconds | of rsync | on the wire | client's peak | receiver's peak |\n",
        );
        text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        for work in WORKS {
            for peer in peers {
                self.row(&mut text, work, *peer, options);
            }
        }
        self.commits(&mut text, peers);
        text
    }

    fn row(&self, text: &mut String, work: Work, peer: Peer, options: &Options) {
        let Some(samples) = self.samples.get(&(work, peer)) else {
            return;
        };
        let name = match work {
            Work::First => "first sync".to_owned(),
            Work::Unchanged => "nothing changed".to_owned(),
            Work::Changed => format!("{} files changed", options.changed),
            Work::Pages => "1 % of the pages touched".to_owned(),
            Work::PagesAgain => "the same once more".to_owned(),
            Work::Inserted => "1,000 bytes inserted at the front".to_owned(),
            Work::Appended => "1 MiB appended".to_owned(),
            Work::Rewritten => "rewritten".to_owned(),
            Work::Happened => options
                .scenario
                .map_or("changed", Scenario::change_name)
                .to_owned(),
        };
        let seconds = sorted(samples, |sample| sample.seconds);
        let rsync = self.samples.get(&(work, Peer::Rsync));
        let ratio = rsync.map_or("-".to_owned(), |rsync| {
            let rsync = median(&sorted(rsync, |sample| sample.seconds));
            format!("{:.2}", median(&seconds) / rsync)
        });
        let peak = |kb: fn(&Sample) -> u64| match samples.iter().map(kb).max() {
            None | Some(0) => "-".to_owned(),
            Some(kb) => format!("{} MB", kb.div_ceil(1024)),
        };
        let spread = format!("{:.2} to {:.2}", seconds[0], seconds[seconds.len() - 1]);
        writeln!(
            text,
            "| {name} | {} | {:.2} ({spread}) | {ratio} | {} | {} | {} |",
            peer.name(),
            median(&seconds),
            on_the_wire(samples),
            peak(|sample| sample.client_kb),
            peak(|sample| sample.receiver_kb),
        )
        .unwrap();
    }

    /// understudy's receiver from build to record, of the changed files.
    fn commits(&self, text: &mut String, peers: &[Peer]) {
        for peer in peers {
            let samples = self
                .samples
                .get(&(Work::Changed, *peer))
                .map_or(&[][..], Vec::as_slice);
            let commits: Vec<_> = samples
                .iter()
                .filter(|s| s.commit_seconds.is_some())
                .cloned()
                .collect();
            if !commits.is_empty() {
                let seconds = sorted(&commits, |sample| sample.commit_seconds.unwrap_or(0.0));
                writeln!(
                    text,
                    "\n{}: the receiver's build to record of the changed files took {:.3} s.",
                    peer.name(),
                    median(&seconds)
                )
                .unwrap();
            }
        }
    }
}

/// Both directions, and each alone where that is known.
fn on_the_wire(samples: &[Sample]) -> String {
    let total = median(&sorted(samples, |sample| sample.wire.bytes() as f64));
    let direction = |of: fn((u64, u64)) -> u64| {
        let each = samples.iter().filter_map(|sample| match sample.wire {
            Wire::Link(passed) => Some(of(passed) as f64),
            Wire::Loopback(_) => None,
        });
        let mut each: Vec<f64> = each.collect();
        each.sort_by(f64::total_cmp);
        (!each.is_empty()).then(|| median(&each))
    };
    match (direction(|(up, _)| up), direction(|(_, down)| down)) {
        _ if total == 0.0 => "-".to_owned(),
        (Some(up), Some(down)) => {
            let each = format!("{} up, {} down", megabytes(up), megabytes(down));
            format!("{} ({each})", megabytes(total))
        }
        _ => megabytes(total),
    }
}

fn megabytes(bytes: f64) -> String {
    match bytes / 1e6 {
        megabytes if megabytes < 10.0 => format!("{megabytes:.3} MB"),
        megabytes => format!("{megabytes:.1} MB"),
    }
}

fn sorted(samples: &[Sample], value: fn(&Sample) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Of a sorted list that is not empty; the mean of the middle two if there are two.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
