//! The arguments of the commands that make a dataset of a tree that is there already.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::{DatasetName, MainName};

use super::OnSpare;

/// Make a dataset of a directory that is there already, on the spare, without copying it
///
/// For a copy that another program has made: it is moved into the store, every file is read once, and the main's next cycle sends only what
/// differs. The directory and the store must be on one file system. Whatever interrupts it, the same command goes on; if it fails, the
/// directory is where it was. Run it on the spare, by root or by the receiver's user; the receiver need not be asked.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy adopt /srv/mirror/photos --dataset photos --main web1 --dry-run
  understudy adopt /srv/mirror/photos --dataset photos --main web1 --store /srv/spare")]
pub(crate) struct Adopt {
    /// What to make a dataset of
    pub(crate) directory: PathBuf,
    /// The name of the dataset, which must not be there
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: DatasetName,
    /// The main that may use it [default: nobody, until `understudy pair --grant`]
    #[arg(long, value_name = "NAME")]
    pub(crate) main: Option<MainName>,
    /// Change nothing, only say whether it can be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// Make the old main the spare of the host that took over, on the old main
///
/// Asks the other host, which must have been promoted. Then the source is moved into a store on this host, without copying, and what it has
/// becomes a pinned snapshot: what was never shipped before the other host took over is found there. A link stands where the source
/// stood. From then on the agent of the other host keeps this one up to date, and sends only what differs. The application and
/// the agent on this host must have been stopped. Whatever interrupts it, the same command goes on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy failback photos --store /srv/spare --dry-run      what would be done: changes nothing
  understudy failback photos --store /srv/spare --main web2    asks; web2 is the name of the other host here")]
pub(crate) struct Failback {
    /// The dataset
    pub(crate) dataset: DatasetName,
    /// The agent's configuration on this host
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/understudy/agent.toml"
    )]
    pub(crate) config: PathBuf,
    /// The directory that is to hold the dataset, on the file system of the source; made if it is not there [default: that of
    /// /etc/understudy/receiver.toml]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// The name under which this host knows the other one, or will: it may use the dataset [default: nobody, until `understudy pair
    /// --grant`]
    #[arg(long, value_name = "NAME")]
    pub(crate) main: Option<MainName>,
    /// Change nothing, only show the facts
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
