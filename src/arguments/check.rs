//! The arguments of `understudy check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use understudy_protocol::DatasetName;

use super::OnSpare;

/// Look whether this host is what it is taken for, for a monitor, and whether its databases can be captured
///
/// `role`: exit code 0 if this host plays the expected part in all datasets, 5 if not. On the spare it asks the store, on the main the state of
/// the agent, with --agent. Nothing is asked of the other host.
///
/// `databases`: asks each database of the agent's configuration what would make a dump fail or leave something out, and says what to do about it:
/// exit code 1 if there is anything. Nothing is changed. Run it as the user that the agent runs as.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy check role --expect spare --store /srv/spare --served /srv/served
  understudy check role --expect main --agent /etc/understudy/agent.toml
  understudy check role --expect main photos --store /srv/spare      after `promote photos`
  understudy check databases                                         of /etc/understudy/agent.toml
  sudo -u understudy understudy check databases --agent /etc/understudy/agent.toml")]
pub(crate) struct Check {
    /// What to look at
    #[arg(value_enum)]
    pub(crate) what: Checked,
    /// Which part this host should play
    #[arg(long, value_enum, value_name = "ROLE", required_if_eq("what", "role"))]
    pub(crate) expect: Option<ExpectedRole>,
    /// Only these datasets [default: all]
    pub(crate) datasets: Vec<DatasetName>,
    /// The directory below which the datasets are served, each by its name: on a spare nobody may be able to write there
    #[arg(long, value_name = "PATH", conflicts_with = "agent")]
    pub(crate) served: Option<PathBuf>,
    /// The agent's configuration: this host is asked as the main of what that names [default for `databases`: /etc/understudy/agent.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "config"])]
    pub(crate) agent: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

/// What can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Checked {
    /// The part that this host plays
    Role,
    /// The databases of its datasets
    Databases,
}

/// The part that a host should play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExpectedRole {
    /// It follows
    Spare,
    /// Its tree is the truth
    Main,
}
