//! The arguments of `understudy promote`.

use clap::{Args, ValueEnum};
use understudy_protocol::DatasetName;

use super::OnSpare;

/// Make this spare the main of datasets, so that an application may write into their live trees
///
/// Shows for each dataset how old its newest snapshot is, when its main was last heard of, what may be lost, and whether the agreed
/// threshold (`promote_after`, 2 hours unless the configuration says something else) has passed; then asks. The old main is refused from
/// then on. What is under way is finished or dropped, and the promoted snapshot stays restorable. Afterwards the programs run that
/// `on_promote` names. It can be repeated whenever it was interrupted. Databases of the snapshot that are loaded on this host are first
/// brought to where the snapshot has them. Run it on the spare, by root or by the receiver's user; the receiver
/// need not run.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy promote --all --dry-run          what would be lost: changes nothing
  understudy promote photos                   the store of /etc/understudy/receiver.toml; asks
  understudy promote --all --yes              everything, without a question
  understudy promote photos --hooks-only      run the hooks once more that have failed")]
pub(crate) struct Promote {
    /// The datasets
    #[arg(required_unless_present = "all")]
    pub(crate) datasets: Vec<DatasetName>,
    /// All datasets of the store
    #[arg(long, conflicts_with = "datasets")]
    pub(crate) all: bool,
    /// Change nothing, only show the facts
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// When the files of the promoted snapshot are copied apart from what the application changes
    ///
    /// What the application replaces or removes stays in history in any case. What it changes in place is lost to history unless a copy
    /// was made before: the receiver makes them afterwards, in the background, or all are made before the application may write.
    #[arg(long, value_enum, default_value = "after", value_name = "WHEN")]
    pub(crate) preserve: When,
    /// Drop the cycle that a guard holds, and promote what was before it
    #[arg(long)]
    pub(crate) without_held: bool,
    /// Promote the files although databases are not as the snapshot has them
    ///
    /// Databases that the configuration names (`[[standby]]`) are otherwise loaded first, unless what was loaded before is the same. Once this host
    /// is the main none is loaded any more.
    #[arg(long)]
    pub(crate) without_databases: bool,
    /// Only run the hooks of datasets of which this host is the main already
    #[arg(long, conflicts_with_all = ["dry_run", "without_held", "without_databases"])]
    pub(crate) hooks_only: bool,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// When files are copied apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// In the background
    After,
    /// Before the application may write: takes time and room
    Before,
}
