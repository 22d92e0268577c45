//! The arguments of the two daemons.

use std::path::PathBuf;

use clap::Args;
use understudy_protocol::{DatasetName, MainName};

/// Keep the spare up to date with this host's datasets, every few minutes
///
/// Reads a TOML file and runs one cycle for each dataset at its interval, until it is told to end by SIGTERM
/// or Ctrl-C; SIGHUP makes it read the file again. A dataset that fails is tried again at its next interval and
/// holds up no other; a spare that is away is tried more often. Between cycles the sources are watched, so that a
/// cycle costs what changed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  understudy agent --config agent.toml            run until told to end
  understudy agent --config agent.toml --once     one cycle of every dataset
  understudy agent --once photos                  one cycle of one dataset

A configuration:
  spare = \"spare.example.org:7433\"  # or \"ssh://root@spare.example.org/srv/spare\"
  ssh = [\"ssh\", \"-i\", \"/etc/understudy/ssh_key\"]   # for the latter; this may be left out
  interval = \"15m\"
  sweep = \"1h\"                 # how often everything is compared in large datasets
  watch = \"auto\"               # fanotify, else inotify; or \"inotify\", or \"never\"
  on_fence = [[\"/usr/bin/systemctl\", \"stop\", \"site\"]]   # run once another host took over
  unsettled = \"ship\"           # files that never stand still are sent and marked; or \"keep\"
  on_stop = [[\"/usr/bin/systemctl\", \"stop\", \"site\"]]   # by `handover`; also in a dataset

  [pace]                       # each line may be left out
  nice = 10
  io = \"idle\"                  # or \"best-effort\"
  bandwidth = \"20MB\"           # per second
  pressure = 50                # percent of /proc/pressure above which it pauses; or \"off\"
  pause_at_most = \"5m\"         # in one cycle

  [[pace.hours]]
  from = \"08:00\"
  to = \"18:00\"
  bandwidth = \"5MB\"

  [[dataset]]
  path = \"/srv/photos\"
  exclude = [\"*.tmp\"]
  sqlite = \"capture\"           # databases among the files, while they are used; or \"copy\"

  on_database_failure = \"fail\" # the spare keeps its last snapshot; or \"ship-files\": the files
  # ship_files_after = 3        # go without it after so many failures in a row

  before_capture = [[\"/usr/local/bin/maintenance\", \"on\"]]   # while databases are captured
  after_capture = [[\"/usr/local/bin/maintenance\", \"off\"]]   # always, whatever fails
  # max_capture = \"10m\"

  [dataset.snapshot]           # of the file system: files are read from it
  make = [\"/usr/local/lib/understudy/btrfs-snapshot.sh\", \"make\"]
  remove = [\"/usr/local/lib/understudy/btrfs-snapshot.sh\", \"remove\"]

  [[dataset.database]]         # captured before the files, and one snapshot with them
  engine = \"postgres\"
  database = \"photos\"          # also: host, port, user, service, password_file, programs
  force_dump = \"6h\"            # so often even if nothing is said to have changed

  [[dataset.database]]
  engine = \"command\"           # any other one, by a program
  name = \"cache\"               # in snapshots [default: `database`]
  command = [\"/usr/local/lib/understudy/redis.sh\"]
  max_probe = \"10s\"            # each question; a whole dump: max_dump = \"1h\", a load:
  max_lock = \"20s\"             # max_load = \"4h\"; writers wait at most so long

  [[dataset]]
  path = \"/var/www/*\"          # one dataset for each directory there

`understudy check databases` says what keeps a database from being captured.")]
pub(crate) struct Agent {
    /// The configuration
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/understudy/agent.toml"
    )]
    pub(crate) config: PathBuf,
    /// Run one cycle and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Read and hash every byte in the first cycle, whatever the times of the files say
    #[arg(long)]
    pub(crate) full: bool,
    /// Only these datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub(crate) datasets: Vec<DatasetName>,
}

/// Be the spare: take uploads into a store
///
/// Prints `listening on HOST:PORT` when it is ready, and runs until it is told to end by SIGTERM or Ctrl-C. The
/// store is made if the directory is empty or not there yet. Only mains that it knows are let in (`understudy pair`). The newest snapshot of each dataset is at
/// STORE/DATASET/live/files, as plain files.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  understudy receiver --store /srv/spare
  understudy receiver --config /etc/understudy/receiver.toml
  understudy receiver --stdio --store /srv/spare      what an agent starts through ssh

A configuration:
  store = \"/srv/spare\"
  listen = \"[::]:7433\"
  specials = \"materialise\"              # or \"record\": set-user-id bits and devices stay recorded
  drift = \"keep-and-heal\"               # or \"halt\": until `understudy drift accept`
  promote_after = \"2h\"                  # a main that is silent for so long is an alert
  on_promote = [[\"/usr/local/bin/move\"]] # run for each dataset that is promoted
                                        # { run = [...], rehearse = true }: by drills too
  hook_limit = \"10m\"                    # for each of them
  served = \"/srv/served\"                # it is an alert if a dataset can be written to there

  [dataset.photos]                      # specials, drift, promote_after, on_promote of one
  on_promote = [[\"/usr/bin/systemctl\", \"start\", \"photos\"]]

  [[standby]]                           # a database of a dataset that is loaded on this host
  dataset = \"photos\"
  name = \"photos\"                       # in snapshots [default: `database`]
  engine = \"postgres\"                   # keys as in the agent's [[dataset.database]]
  database = \"photos\"                   # what it becomes here
  load = \"each\"                         # with each snapshot; \"hourly\"; \"promote\": only then
  max_load = \"4h\"

  [alerts]                              # each line may be left out
  lag = \"1h\"                            # a dataset that is further behind is an alert
  failures = 3                          # so are so many failed cycles in a row
  repeat = \"4h\"                         # told again until `understudy acknowledge`
  space = \"7d\"                          # the disk will take nothing more in less than this
  command = [\"/usr/local/bin/page\"]     # run for each alert: UNDERSTUDY_* variables, JSON on stdin
  webhook = \"https://chat.example/hook\" # the same JSON is posted there
  heartbeat = \"https://hc.example/uuid\" # fetched each heartbeat_interval (60s): it lives
  heartbeat_fail = false                # true: an alert fetches the dataset's URL + /fail

  [alerts.dataset.photos]
  lag = \"30m\"
  heartbeat = \"https://hc.example/uuid\" # fetched after each cycle that brings it up to date

  [retention]                           # each line may be left out
  all = \"1d\"                            # every snapshot is kept so long,
  hourly = \"7d\"                         # one of each hour, of each day, of each month so long;
  daily = \"30d\"                         # \"off\" for no such rule
  monthly = \"365d\"
  minimum_age = \"1d\"                    # none goes before
  newest = 3                            # so many healthy ones stay however old they are
  grace = \"3d\"                          # expired ones are flagged so long before they go

  [retention.dataset.photos]            # any of these, for one dataset
  monthly = \"1825d\"

  [scrub]                               # each line may be left out
  every = \"30d\"                        # everything is read again and compared; or \"off\"
  least = \"1MB\"                        # evenly, and never slower than this per second,
  most = \"50MB\"                        # nor faster than this
  repair = false                        # true: what is damaged is mended, also from the main

  [quota]                               # each line may be left out: no limit
  bytes = \"2TB\"                         # what one main may take, history and all
  files = 20000000                      # entries, and former versions of entries

  [quota.main.web]                      # any of these, for one main
  bytes = \"500GB\"

SIGHUP has it read the part [alerts] again.")]
pub(crate) struct Receiver {
    /// The directory that holds the datasets
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Where to listen [default: `[::]:7433`, which is every address of this host]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Serve whoever has started it, over stdin and stdout, and end with them
    ///
    /// It may run beside a receiver that listens, on the same store. The configuration at its usual place counts
    /// if it is about that store.
    #[arg(long, conflicts_with = "listen")]
    pub(crate) stdio: bool,
    /// Let it see and change the datasets of this main alone
    #[arg(long, value_name = "NAME", requires = "stdio")]
    pub(crate) main: Option<MainName>,
    /// Refuse a store that is not there yet
    #[arg(long, requires = "stdio")]
    pub(crate) existing: bool,
    /// The configuration; options on the command line come before it [default, without --store:
    /// /etc/understudy/receiver.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Tell people what the receiver at the other end of standard input says; started by the receiver alone
#[derive(Debug, Args)]
pub(crate) struct Messenger {
    /// The receiver's configuration
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// Run what the configuration names once this host is fenced; started by the agent alone
#[derive(Debug, Args)]
pub(crate) struct Fencer {
    /// The agent's configuration
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// Load databases on the spare; started by the receiver alone
#[derive(Debug, Args)]
pub(crate) struct Standby {
    /// The receiver's configuration
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The directory that holds the datasets
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// Load what standard input names, and end
    #[arg(long)]
    pub(crate) one: bool,
}

/// Load restored dumps; started by `restore --load` and `drill` alone
#[derive(Debug, Args)]
pub(crate) struct Opener {
    /// The agent's configuration
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The directory below which dumps are
    #[arg(long, value_name = "DIR")]
    pub(crate) below: PathBuf,
}

/// Take the databases that the agent at the other end of standard input names; started by the agent alone
#[derive(Debug, Args)]
pub(crate) struct Capturer {
    /// The agent's configuration
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Do one thing, and end
    #[arg(long)]
    pub(crate) one: bool,
}

/// Copy the SQLite databases that the agent at the other end of standard input names; started by an agent alone
#[derive(Debug, Args)]
pub(crate) struct Imager {
    /// Where copies go
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}
