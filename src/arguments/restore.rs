//! The arguments of the commands that bring something back.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use understudy_protocol::{DatasetName, PublicKey};
use understudy_tree::Glob;

use super::Selection;

/// Where the agent's configuration is unless something else is said.
const AGENT_CONFIG: &str = "/etc/understudy/agent.toml";

/// Bring a dataset back from the spare
///
/// Writes a snapshot's files as TARGET, which appears whole or not at all. TARGET must be absent or an empty
/// directory; with --replace it may hold files: those that are right are used, of large ones that differ only the
/// difference is fetched, and everything that stood there is kept beside it as TARGET.before-restore-TIME.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy restore photos /srv/photos --spare spare.example.org:7433
  understudy restore photos /tmp/old --snapshot 12 --spare /mnt/spare
  understudy restore photos /tmp/old --at '2026-11-26 14:00' --path albums/2019 --path '**/*.xmp'
  understudy restore photos /srv/photos --replace --dry-run --spare spare.example.org:7433
      How much would be written? (Nothing is.)
  understudy restore photos /srv/photos --in-place-progressive --first index.php --order newest
      Serve /srv/photos while it fills, the newest files first.
  understudy restore shop /srv/shop --databases /var/tmp/shop-dumps
      The files, and the dumps of its databases as they were captured with them.
  understudy restore shop /srv/shop --load
      The files, and its databases loaded where /etc/understudy/agent.toml says that they are.
  understudy restore --all /srv --dataset-order shop,photos")]
#[command(allow_missing_positional = true)]
pub(crate) struct Restore {
    /// The dataset to restore
    #[arg(required_unless_present = "all")]
    pub(crate) dataset: Option<DatasetName>,
    /// The directory to write; with --all that of all datasets, each by its name
    #[arg(required = true)]
    pub(crate) target: PathBuf,
    /// Every dataset of the spare, each as TARGET/NAME
    #[arg(long, conflicts_with_all = ["dataset", "snapshot", "path"])]
    pub(crate) all: bool,
    /// Which datasets come first, separated by commas; the others follow by name
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "all")]
    pub(crate) dataset_order: Vec<DatasetName>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Only what matches, with all below it; a glob from the dataset's root, `**` goes through directories; may be repeated
    #[arg(long, value_name = "PATTERN", conflicts_with = "replace", value_parser = Glob::new)]
    pub(crate) path: Vec<Glob>,
    /// These files before all others, in the order in which the patterns are given; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = Glob::new)]
    pub(crate) first: Vec<Glob>,
    /// In which order the other files come
    #[arg(long, value_enum, default_value = "listed", value_name = "ORDER")]
    pub(crate) order: Order,
    /// Whose the files become: users and groups with the numbers or with the names that they had on the main
    ///
    /// By name it is told which names are not known here; their files keep the numbers, and so do access control lists. Names are those of
    /// /etc/passwd and /etc/group.
    #[arg(long, value_enum, default_value = "number", value_name = "HOW")]
    pub(crate) owners: Owners,
    /// Restore the databases of the snapshot as well: DIR gets a directory with the dump of each; with --all DIR/NAME does for each dataset
    ///
    /// DIR must be absent or empty, and neither in TARGET nor around it; it appears when TARGET does, from the same snapshot. How a dump is loaded is
    /// a matter of the database. --path, --first and --replace are about files alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) databases: Option<PathBuf>,
    /// Load the databases of the snapshot as well, where the agent's configuration says that they are
    ///
    /// Each takes the place of the one that is there, once all of it is loaded; what is there and not empty is only replaced with
    /// --replace-databases, or if somebody confirms it. Their rows are counted afterwards. The dumps are removed then, unless --databases says where
    /// they are to stay.
    #[arg(long, conflicts_with_all = ["all", "dry_run"])]
    pub(crate) load: bool,
    /// Load over databases that are not empty
    #[arg(long, requires = "load")]
    pub(crate) replace_databases: bool,
    /// The agent's configuration, which says where databases are
    #[arg(long, value_name = "FILE", requires = "load", default_value = AGENT_CONFIG)]
    pub(crate) config: PathBuf,
    /// Take the place of what stands at TARGET, which is kept beside it
    #[arg(long)]
    pub(crate) replace: bool,
    /// Write into TARGET itself, each file appearing as it comes: for serving it meanwhile
    ///
    /// What is replaced, and with --replace in the end what the snapshot does not have, is moved to
    /// TARGET.before-restore-TIME. Interrupted, the same command carries on.
    #[arg(long)]
    pub(crate) in_place_progressive: bool,
    /// Leave out the files whose content is lost: the main does not have it any more, or somebody on the spare has accepted that
    ///
    /// Without it a restore fails at the first of them. They are listed, and the exit code is 3. Of a spare that has lost more than a
    /// thousand contents only the first thousand are left out.
    #[arg(long)]
    pub(crate) skip_lost: bool,
    #[command(flatten)]
    pub(crate) trusting: Trusting,
    /// Write nothing, only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Restore {
    /// Where the dumps of databases come; beside the target if nobody says.
    pub(crate) fn dumps(&self) -> PathBuf {
        self.databases.clone().unwrap_or_else(|| {
            let mut place = self.target.clone().into_os_string();
            place.push(format!(".databases-{}", std::process::id()));
            place.into()
        })
    }
}

/// Whose word counts.
#[derive(Debug, Clone, Args)]
pub(crate) struct Trusting {
    /// Restore what cannot be proved to be what the main has sent
    ///
    /// Where this host has a main's key, a snapshot must be signed by it. Whoever holds the spare may have put anything into what is not, set-user-id
    /// programs and devices included.
    #[arg(long)]
    pub(crate) unverified: bool,
    /// Another key that may have signed what is restored, a former one of the main; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(crate) trust_key: Vec<PublicKey>,
}

/// Whose files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Owners {
    /// The same numbers
    Number,
    /// The same names
    Name,
}

/// In which order files come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Those that were changed last come first
    Newest,
    /// The smallest come first
    Smallest,
    /// By directory and name
    Listed,
}

/// Restore for practice: into a scratch directory, with everything read again, and removed afterwards
///
/// Tells how long a restore takes on this host and whether all of it is right: every content is hashed once more from the disk, and every
/// SQLite database is opened and checked. Databases that this host's configuration names are loaded under a name of their own
/// (understudy_drill_...), their rows compared with those that were captured, and removed. Later estimates (`restore --dry-run`, and of what is left while a restore runs) use what it took.
///
/// With --promote, on the spare, a promotion is practised instead: the newest snapshot is copied into a scratch store, promoted there, and those
/// `on_promote` hooks are run that the configuration marks with `rehearse = true`, with UNDERSTUDY_REHEARSAL=1. The dataset itself is only
/// read. `status` and `promote --dry-run` tell how long it took.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy drill photos --spare spare.example.org:7433
  understudy drill photos --at '3 days ago' --scratch /mnt/large --spare /mnt/spare
  understudy drill photos --promote           on the spare: the store of /etc/understudy/receiver.toml")]
pub(crate) struct Drill {
    /// The dataset
    pub(crate) dataset: DatasetName,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// An existing directory with room for the dataset [default: the state directory; with --promote the store's]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// The agent's configuration, which says where databases are loaded for practice
    #[arg(long, value_name = "FILE", default_value = AGENT_CONFIG)]
    pub(crate) agent_config: PathBuf,
    /// Practise a promotion, on the spare
    #[arg(long, conflicts_with_all = ["snapshot", "at", "unverified", "trust_key"])]
    pub(crate) promote: bool,
    /// The directory that holds the datasets [default: that of --spare, else of the configuration]
    #[arg(long, value_name = "DIR", requires = "promote")]
    pub(crate) store: Option<PathBuf>,
    /// The receiver's configuration [default: /etc/understudy/receiver.toml]
    #[arg(long, value_name = "FILE", requires = "promote")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trusting: Trusting,
}
