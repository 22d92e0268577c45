//! The arguments of `understudy handover`.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::DatasetName;

/// Hand datasets over to the spare, on the main: a planned switch in which nothing is lost
///
/// Stops the application (the programs that `on_stop` names in the agent's configuration), sends what is left in a cycle that looks at
/// everything, makes sure that the spare has exactly that, and ships nothing any more. Then `understudy promote` on the spare makes it the main.
/// Tells how long each step took. Until the spare is promoted, `understudy resume` takes it back. The agent must have been stopped. Whatever
/// interrupts it, the same command goes on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy handover photos --dry-run        what would be done: changes nothing
  understudy handover photos                  asks; then, on the spare: understudy promote photos
  understudy handover --all --yes             everything that the configuration names")]
pub(crate) struct Handover {
    /// The datasets
    #[arg(required_unless_present = "all")]
    pub(crate) datasets: Vec<DatasetName>,
    /// All datasets of the configuration
    #[arg(long, conflicts_with = "datasets")]
    pub(crate) all: bool,
    /// The agent's configuration
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/understudy/agent.toml"
    )]
    pub(crate) config: PathBuf,
    /// Change nothing, only show the facts
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
