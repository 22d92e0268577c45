//! The arguments of `understudy drift`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use understudy_protocol::DatasetName;

use super::OnSpare;

/// Look at what was kept that no main has sent, on the spare
///
/// Whatever somebody wrote into the live tree of a spare is made a snapshot, a drift point, before the main's next cycle undoes it; so is what an old
/// main had and never shipped when it failed back. Drift points are pinned: they stay until `understudy unpin`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy drift list --store /srv/spare
  understudy drift show photos 813
  understudy drift restore photos 813 /tmp/drift
  understudy drift accept photos 813          where it has halted the dataset (drift = \"halt\")")]
pub(crate) struct Drift {
    #[command(subcommand)]
    pub(crate) action: DriftAction,
}

/// What to do with drift points.
#[derive(Debug, Subcommand)]
pub(crate) enum DriftAction {
    /// List the drift points
    List {
        /// Only of this dataset
        dataset: Option<DatasetName>,
        #[command(flatten)]
        on_spare: OnSpare,
    },
    /// Tell what somebody changed, with the owner and the time that each file has
    ///
    /// Compared is with the snapshot before, as which the live tree was found changed; where there is none, with the one after.
    Show {
        /// The dataset
        dataset: DatasetName,
        /// Which drift point
        #[arg(value_name = "N")]
        snapshot: u64,
        #[command(flatten)]
        on_spare: OnSpare,
    },
    /// Let the main's next cycle undo the drift that has halted a dataset
    ///
    /// A dataset is halted by drift only where the receiver's configuration says `drift = "halt"`. The drift point stays, pinned.
    Accept {
        /// The dataset
        dataset: DatasetName,
        /// Which drift point: that of the live tree
        #[arg(value_name = "N")]
        snapshot: u64,
        #[command(flatten)]
        on_spare: OnSpare,
    },
    /// Write what somebody added or changed into a directory
    Restore {
        /// The dataset
        dataset: DatasetName,
        /// Which drift point
        #[arg(value_name = "N")]
        snapshot: u64,
        /// The directory to write, which must be absent or empty
        target: PathBuf,
        #[command(flatten)]
        on_spare: OnSpare,
    },
}
