//! The arguments of the commands that tell what the spare has, and whether it is sound.

use clap::Args;
use understudy_protocol::DatasetName;

/// List the snapshots on the spare
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy snapshots --spare /mnt/spare
  understudy snapshots photos --json --spare spare.example.org:7433
  understudy snapshots photos --changes --spare /mnt/spare")]
pub(crate) struct Snapshots {
    /// Only this dataset
    pub(crate) dataset: Option<DatasetName>,
    /// Tell how much changed with each, which takes the longer the more it was
    #[arg(long)]
    pub(crate) changes: bool,
}

/// Tell how far behind the spare is
///
/// For each dataset: the newest snapshot, and how long ago the source was seen to be like it, by the spare's
/// clock. What was written on the main after that would be lost if the main died now.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy status --spare spare.example.org:7433
  understudy status --json --spare /mnt/spare | jq '.data.datasets[].lag_seconds'")]
pub(crate) struct Status {}

/// Have the spare read everything again, and tell what is damaged
///
/// Compares the live tree and the kept contents of earlier snapshots with the hashes that the main
/// computed, past the page cache. Uploads go on meanwhile. Exit code 9 if anything differs; what was accepted as lost is no
/// difference (`understudy status` tells of it).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy verify --spare /mnt/spare
  understudy verify photos --spare spare.example.org:7433
  understudy verify photos --repair --spare /mnt/spare
  understudy verify --pace 20MB --spare spare.example.org:7433")]
pub(crate) struct Verify {
    /// Only this dataset
    pub(crate) dataset: Option<DatasetName>,
    /// Repair what the spare has elsewhere: under another name, in its other tree, or in history; and ask the main for the rest at its
    /// next cycle
    #[arg(long)]
    pub(crate) repair: bool,
    /// Read no faster than this per second, as in 20MB
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) pace: Option<u64>,
}

fn rate(text: &str) -> Result<u64, String> {
    let wrong = || "write bytes per second with their unit, for instance 500kB or 20MB".to_owned();
    crate::receiver_config::parse_rate(text).ok_or_else(wrong)
}
