//! The arguments of `understudy salvage`.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::DatasetName;

use super::OnSpare;

/// Bring what the disks of a broken main still have into the store, on the spare
///
/// Mount the disk (read-only) and name the directory that was the source. Before a promotion its state becomes the newest snapshot, as if the main had
/// run one more cycle: everything is read, only what differs is written, and guards judge it as any cycle, for a disk that is half empty must not become
/// the truth. After a promotion the application writes into the live tree, so the state becomes a dataset of its own, NAME-salvaged, with its
/// snapshot pinned.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy salvage /mnt/broken/srv/photos --dataset photos --dry-run
  understudy salvage /mnt/broken/srv/photos --dataset photos --exclude /cache/ --store /srv/spare")]
pub(crate) struct Salvage {
    /// What was the source of the dataset
    pub(crate) directory: PathBuf,
    /// The dataset
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: DatasetName,
    /// Leave out what matches, as the main did; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Enter file systems mounted below the directory
    #[arg(long)]
    pub(crate) cross_mounts: bool,
    /// Change nothing, only say what it would become
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}
