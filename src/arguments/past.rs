//! The arguments of the commands that look into the past.

use std::ffi::OsString;
use std::str::FromStr;

use clap::Args;
use understudy_protocol::DatasetName;

/// Which snapshot is meant.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Which snapshot [default: the newest]
    #[arg(long, value_name = "N", conflicts_with = "at")]
    pub(crate) snapshot: Option<u64>,
    /// The newest snapshot that was committed up to then: "2026-11-26 22:10", or "2h" for two hours ago
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
}

/// List what a snapshot holds
///
/// Dumps of databases stand below `databases`, each in a directory of its name; should the files have the same path, it is the files'.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy ls photos --spare /mnt/spare
  understudy ls photos 2026/summer -l --at '3 days ago' --spare spare.example.org:7433
  understudy ls shop databases --spare /mnt/spare
  understudy ls photos -R --snapshot 12 --json --spare /mnt/spare")]
pub(crate) struct Ls {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// A directory or file in it [default: its root]
    #[arg(value_name = "PATH", default_value = "")]
    pub(crate) path: OsString,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// List what is in directories as well, all the way down
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Tell kind, mode, owner, group, size and time, too
    #[arg(short, long)]
    pub(crate) long: bool,
}

/// Write the content of a file of a snapshot to stdout
///
/// The content is hashed on its way: if it is not what the main had, the exit code is not 0, and of a file of up to
/// 64 KiB nothing was written.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy cat shop settings.php --snapshot 12 --spare /mnt/spare
  understudy cat shop data/orders.csv --at '2026-11-26 08:00' --spare spare.example.org:7433 > orders.csv")]
pub(crate) struct Cat {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// The file
    #[arg(value_name = "PATH")]
    pub(crate) path: OsString,
    #[command(flatten)]
    pub(crate) selection: Selection,
}

/// Find every version of files in all snapshots
///
/// Tells in which snapshots each version is, and whether it still is in the newest. A pattern is written as for
/// `sync --exclude`: without a `/` in it, it matches names in any directory; a directory that matches stands for all files
/// in it. One that begins with the names of directories is found fastest.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy find shop settings.php --spare /mnt/spare
      When did it change, or vanish?
  understudy find shop '/data/*.csv' --since 2d --spare spare.example.org:7433")]
pub(crate) struct Find {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// Which files, in the syntax of .gitignore
    pub(crate) pattern: String,
    /// Only versions that are in a snapshot committed at this time or later
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only versions that are in a snapshot committed up to this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

/// Tell what differs between two snapshots
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy diff shop 12 13 --spare /mnt/spare
  understudy diff shop 12 --spare spare.example.org:7433
      What has changed since then?")]
pub(crate) struct Diff {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// The snapshot to start from: its number, or `live` for the newest
    #[arg(value_name = "A")]
    pub(crate) from: Point,
    /// The snapshot to end at
    #[arg(value_name = "B", default_value = "live")]
    pub(crate) to: Point,
}

/// A snapshot as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The newest.
    Live,
    /// By its number.
    Number(u64),
}

impl FromStr for Point {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "live" {
            return Ok(Self::Live);
        }
        text.parse()
            .map(Self::Number)
            .map_err(|_| "it is neither a snapshot's number nor `live`")
    }
}
