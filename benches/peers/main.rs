//! Runs understudy, rsync, restic and borg side by side on a generated tree and prints
//! medians, ratios to rsync, and the peak memory of each side, as Markdown.
//!
//! ```text
//! cargo bench --bench peers -- --files 100000 --bytes 1200000000 --runs 3 --peers rsync,restic,borg
//! ```
//!
//! With `--file BYTES` the tree is one file of noise: pages of it are touched, bytes inserted and appended, and all of it
//! rewritten.
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
mod measure;
mod options;
mod peers;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/e2e/support/random.rs"]
mod random;
mod report;
mod source;

use std::path::Path;

use destination::Destination;
use options::Options;
use peers::Peer;
use report::{Report, Work};

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
    let mut tree = Tree::make(&work.path().join("source"), &options);
    let mut report = Report::default();
    let peers: Vec<Peer> = Peer::chosen(&options);
    for run in 0..options.runs {
        for peer in &peers {
            eprintln!("run {} of {}: {}", run + 1, options.runs, peer.name());
            one_run(*peer, run, &options, &mut tree, &mut report, work.path());
        }
    }
    println!("{}", report.markdown(&options, &peers));
}

/// What is synced.
enum Tree {
    Many(source::Source),
    Large(large::LargeFile),
}

impl Tree {
    fn make(root: &Path, options: &Options) -> Self {
        match options.file {
            0 => Self::Many(source::Source::make(root, options)),
            bytes => Self::Large(large::LargeFile::make(root, bytes, options.seed)),
        }
    }

    fn root(&self) -> &Path {
        match self {
            Self::Many(source) => &source.root,
            Self::Large(file) => file.path.parent().unwrap(),
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
        }
    }

    fn change(&mut self, work: Work, options: &Options, seed: u64) {
        match self {
            Self::Many(source) if work == Work::Changed => source.change(options.changed, seed),
            Self::Many(_) => {}
            Self::Large(file) => file.change(work),
        }
    }
}

/// One peer's first sync, and one after each change.
fn one_run(
    peer: Peer,
    run: u64,
    options: &Options,
    tree: &mut Tree,
    report: &mut Report,
    work: &Path,
) {
    let destination = Destination::make(work, options);
    let mut set_up = peer.set_up(options, tree.root(), &destination.root, work);
    for &work in tree.works() {
        tree.change(work, options, run * 100 + peer as u64);
        // What was written so far must not be flushed on this peer's account.
        rustix::fs::sync();
        report.add(peer, work, set_up.sync());
    }
}
