//! The arguments of `understudy sync`.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::DatasetName;

/// Bring the spare up to date with a directory, once
///
/// Everything is compared; only differences are sent. The spare then has a new snapshot, or, if nothing
/// has changed, the news that the last one is still current. The snapshot is durable when the command ends.
/// The source is never changed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy sync /srv/photos --spare /mnt/spare
      The newest state is then at /mnt/spare/photos/live/files.
  understudy sync /srv/shop --exclude '*.tmp' --exclude /cache/ --spare spare.example.org:7433
      To a receiver, without temporary files and without the top-level directory `cache`.")]
pub(crate) struct Sync {
    /// The directory to copy
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// The dataset's name on the spare [default: the directory's name, made to fit]
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<DatasetName>,
    /// Leave out what matches, in the syntax of .gitignore, relative to SRC; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Enter file systems mounted below SRC
    #[arg(long)]
    pub(crate) cross_mounts: bool,
    /// Let a guard of the spare pass, for a change that deletes much; only for a spare that is a directory
    #[arg(long)]
    pub(crate) accept_deletions: bool,
}
