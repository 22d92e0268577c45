//! The arguments of `understudy demote`.

use clap::Args;
use understudy_protocol::DatasetName;

use super::OnSpare;

/// Make this host the spare of a dataset again, after it was promoted
///
/// The application must have been stopped. What it wrote since the promotion becomes the last snapshot of this epoch, is pinned, and can be
/// listed, compared and restored like any other; nothing is copied and nothing is lost. Then uploads of the main are taken again: of the
/// epoch of the other host if --epoch is given, which `understudy status` there tells, else of this one, for a promotion that was a mistake.
/// In that case `understudy resume` on the main takes the epoch over. It can be repeated whenever it was interrupted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy demote photos                    asks; then, on the main: understudy resume photos
  understudy demote photos --epoch 3 --yes    the other host was promoted to epoch 3")]
pub(crate) struct Demote {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// The epoch in which the other host is the main [default: that of this host]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) epoch: Option<u64>,
    /// Do not ask whether the application was stopped
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Go on as the main after the promotion of the spare was undone, on the main
///
/// An agent that was told once that another host took over does not go on by itself. This asks the spare, which must have been demoted, and
/// takes over its epoch. The next cycle compares everything and makes the spare like the source; what the spare has that the source has
/// not stays a pinned snapshot there.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy resume photos --config /etc/understudy/agent.toml")]
pub(crate) struct Resume {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// The agent's configuration
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/understudy/agent.toml"
    )]
    pub(crate) config: std::path::PathBuf,
}
