//! The arguments of what an administrator of a spare does for ssh.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::MainName;

/// Print the line of authorized_keys that lets a main's ssh key reach its own datasets and nothing else
///
/// Whoever logs in with that key gets a receiver, whatever they ask for: no shell, no forwarding, no other store.
/// Run it on the spare, as the user who is logged in to.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy authorized-key web1 web1.pub --store /srv/spare >> ~/.ssh/authorized_keys
  ssh root@web1 cat /etc/understudy/ssh_key.pub | understudy authorized-key web1 - --store /srv/spare")]
pub(crate) struct AuthorizedKey {
    /// What the main is called on this spare
    #[arg(value_name = "NAME")]
    pub(crate) main: MainName,
    /// The file with the main's public key; `-` is stdin
    #[arg(value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The directory that holds the datasets
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// The receiver's configuration, which counts for this main as well
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
