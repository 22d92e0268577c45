//! The arguments of the commands that are run on the spare, on the store itself.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::DatasetName;
use understudy_receiver::alert::Kind;

/// Acknowledge the alerts of a dataset, on the spare: they are not repeated
///
/// Only the alerts that there are now: what is raised later is told as ever, and that an alert is over is told as
/// well. Says what it has acknowledged. It works on the store itself, so it is run on the spare, by root or by the
/// receiver's user; the receiver need not be asked.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy acknowledge photos               the store of /etc/understudy/receiver.toml
  understudy acknowledge photos lag --store /srv/spare
  understudy acknowledge --disk               that the disk fills: an alert of no dataset")]
pub(crate) struct Acknowledge {
    /// The dataset
    #[arg(required_unless_present = "disk")]
    pub(crate) dataset: Option<DatasetName>,
    /// Only this one: lag, failures, guard, trouble, damage, silent or drift [default: all there are]
    pub(crate) kind: Option<Kind>,
    /// The alert that the store's disk fills
    #[arg(long, conflicts_with_all = ["dataset", "kind"])]
    pub(crate) disk: bool,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Show the cycles that a guard holds, on the spare
///
/// A cycle that would remove, empty or turn into noise too much of a dataset is held: it is staged, and nothing is changed
/// until somebody decides. A later cycle takes its place, or ends the hold if it harms little. The thresholds are in the part `[guard]` of the receiver's configuration.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy held                             all datasets in the store of /etc/understudy/receiver.toml
  understudy held photos --store /srv/spare")]
pub(crate) struct Held {
    /// Only this dataset
    pub(crate) dataset: Option<DatasetName>,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// What is decided of a held cycle.
///
/// `understudy held` shows what is held, with its digest: only what was looked at can be decided. It is run on the spare, by root or by the
/// receiver's user; the receiver need not be asked.
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// The first digits of the digest that `understudy held` shows, at least eight
    pub(crate) digest: String,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Accept what verifications found damaged in a dataset as lost, on the spare
///
/// While anything that was found is open, nothing of the dataset is pruned. `understudy verify --repair` mends what the spare or the
/// main still has. What nobody has can be accepted: pruning goes on, the snapshots that have it stay listed as damaged and never count
/// as healthy, and it is no difference any more. Says what it accepts; what is found later is told as ever.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy accept photos                    the store of /etc/understudy/receiver.toml
  understudy accept photos --store /srv/spare")]
pub(crate) struct Accept {
    /// The dataset
    pub(crate) dataset: DatasetName,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Where the store is, for commands that work on it beside a receiver.
#[derive(Debug, Clone, Args)]
pub(crate) struct OnSpare {
    /// The directory that holds the datasets [default: that of --spare, else of the configuration]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// The receiver's configuration [default: /etc/understudy/receiver.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Flag and remove snapshots that the retention policy does not keep, on the spare
///
/// A receiver that runs does this every hour. By default all snapshots of the last day are kept, one of each hour for a week, of
/// each day for 30 days and of each month for a year; the newest three healthy ones and pinned ones stay however old
/// they are. What expires is flagged, told by `understudy snapshots`, and goes three days later. Nothing is removed while
/// the last verification has findings, the catalog fails its check, or the clock has jumped: the reason is told.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy prune --dry-run                  what would go, and what that gives back
  understudy prune photos --store /srv/spare
  understudy prune --now                      the disk is full: flag nothing, remove at once")]
pub(crate) struct Prune {
    /// Only this dataset
    pub(crate) dataset: Option<DatasetName>,
    /// Change nothing, only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not wait for the grace period: what the policy does not keep goes now
    #[arg(long)]
    pub(crate) now: bool,
    /// The clock of this host is right, although it seems to have jumped
    #[arg(long)]
    pub(crate) trust_clock: bool,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Keep a snapshot whatever the retention policy says, on the spare
///
/// It stays until `understudy unpin`. What was flagged to go is not any more.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy pin photos 812 --reason 'before the migration, Ada, until June'
  understudy pin photos 812 --reason audit --store /srv/spare")]
pub(crate) struct Pin {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// Which snapshot; `understudy snapshots` lists them
    pub(crate) snapshot: u64,
    /// Why, for whoever finds the pin later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Let the retention policy decide over a pinned snapshot again, on the spare
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy unpin photos 812
  understudy unpin photos 812 --store /srv/spare")]
pub(crate) struct Unpin {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// Which snapshot
    pub(crate) snapshot: u64,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}
