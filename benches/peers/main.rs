//! Runs understudy, rsync, restic and borg side by side on a generated tree and prints
//! medians, ratios to rsync, and the peak memory of each side, as Markdown.
//!
//! ```text
//! cargo bench --bench peers -- --files 100000 --bytes 1200000000 --runs 3 --peers rsync,restic,borg
//! ```
//!
//! With `--file BYTES` the tree is one file of noise: pages of it are touched, bytes inserted and appended, and all of it
//! rewritten. With `--scenario NAME` it is one that changes as such trees do: a database under load, logs, a repository that
//! is packed anew, a source tree and its next version. With `--link 100mbit,20ms` the two sides have such a link between them.
//!
//! Every run of every peer writes to an ext4 file system made afresh for it (as root;
//! otherwise to a fresh directory), for ext4 searches past inodes that were just deleted and
//! that would be measured, too. A run counts until its data is durable: understudy's is when
//! it returns, after the others the destination is synced within the time.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prepares files by any means, and ends where it cannot"
)]

mod destination;
mod large;
mod link;
mod measure;
mod namespace;
mod options;
mod peers;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/e2e/support/random.rs"]
mod random;
mod report;
mod scenarios;
mod source;

use std::path::Path;

use destination::Destination;
use link::Link;
use options::Options;
use peers::Peer;
use report::{Report, Work};
use scenarios::Stage;

fn main() {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{}", options::USAGE);
            std::process::exit(2);
        }
    };
    let work = tempfile::Builder::new()
        .prefix("understudy-peers-")
        .tempdir_in(&options.work)
        .unwrap();
    let mut tree = match Tree::make(&work.path().join("source"), &options) {
        Ok(tree) => tree,
        Err(why) => return println!("skipped: {why}"),
    };
    let link = options.link.map(Link::make);
    let mut report = Report::default();
    let peers: Vec<Peer> = Peer::chosen(&options);
    for run in 0..options.runs {
        for peer in &peers {
            eprintln!("run {} of {}: {}", run + 1, options.runs, peer.name());
            let mut bench = Bench {
                options: &options,
                link: link.as_ref(),
                work: work.path(),
                report: &mut report,
            };
            bench.one_run(*peer, run, &mut tree);
        }
    }
    println!("{}", report.markdown(&options, &peers));
}

/// What is synced.
enum Tree {
    Many(source::Source),
    Large(large::LargeFile),
    Stage(Stage),
}

impl Tree {
    /// Makes the tree; says what is missing if that is not possible here.
    fn make(root: &Path, options: &Options) -> Result<Self, String> {
        Ok(match (options.scenario, options.file) {
            (Some(scenario), _) => Self::Stage(Stage::make(scenario, root, options)?),
            (None, 0) => Self::Many(source::Source::make(root, options)),
            (None, bytes) => Self::Large(large::LargeFile::make(root, bytes, options.seed)),
        })
    }

    fn root(&self) -> &Path {
        match self {
            Self::Many(source) => &source.root,
            Self::Large(file) => file.path.parent().unwrap(),
            Self::Stage(stage) => &stage.root,
        }
    }

    fn works(&self) -> &'static [Work] {
        match self {
            Self::Many(_) => &[Work::First, Work::Unchanged, Work::Changed],
            Self::Large(_) => &[
                Work::First,
                Work::Pages,
                Work::PagesAgain,
                Work::Inserted,
                Work::Appended,
                Work::Rewritten,
            ],
            Self::Stage(_) => &[Work::First, Work::Happened],
        }
    }

    fn change(&mut self, work: Work, options: &Options, seed: u64) {
        match self {
            Self::Many(source) if work == Work::Changed => source.change(options.changed, seed),
            Self::Many(_) => {}
            Self::Large(file) => file.change(work),
            Self::Stage(stage) if work == Work::First => stage.reset(),
            Self::Stage(stage) => stage.change(options),
        }
    }
}

/// What all runs have in common.
struct Bench<'a> {
    options: &'a Options,
    link: Option<&'a Link>,
    work: &'a Path,
    report: &'a mut Report,
}

impl Bench<'_> {
    /// One peer's first sync, and one after each change.
    fn one_run(&mut self, peer: Peer, run: u64, tree: &mut Tree) {
        let (options, work_directory) = (self.options, self.work);
        let destination = Destination::make(work_directory, options);
        let place = &destination.root;
        let mut set_up = peer.set_up(options, tree.root(), place, work_directory, self.link);
        for &work in tree.works() {
            tree.change(work, options, run * 100 + peer as u64);
            // What was written so far must not be flushed on this peer's account.
            rustix::fs::sync();
            self.report.add(peer, work, set_up.sync());
        }
    }
}
