//! The arguments of what makes two hosts know each other.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use understudy_protocol::MainName;

use super::OnSpare;

/// Have a main and a spare know each other by their keys
///
/// On the spare, `--new NAME` makes a code that is good once and for an hour, and prints what to type on the main. That
/// binds the keys of both: from then on each talks to the other and to nobody else. Pairing a NAME again gives it another
/// key. A receiver that runs looks at what was changed within a second; it need not be asked.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args([
    "new", "host", "list", "revoke", "grant", "forget", "export_recovery", "import_recovery",
]))]
#[command(after_long_help = "\
Examples:
  understudy pair --new web1 --store /srv/spare      on the spare: print a code for the main web1
  understudy pair spare.example.org:7433             on the main: use it; it is asked for
  understudy pair --list                             on either: who is known, by which key
  understudy pair --revoke web1 --store /srv/spare   on the spare: know web1 no more
  understudy pair --grant web1 photos --store /srv/spare
      On the spare: the dataset photos belongs to web1 from now on. Datasets that were there before mains were known belong
      to nobody, and no main can use them before.
  understudy pair --forget spare.example.org:7433    on the main: know that spare no more
  understudy pair --export-recovery > kit            on the main: what a new machine needs, to print and lock away
  understudy pair --import-recovery kit              on a new machine: restore as that main
  understudy pair --address 127.0.0.1:7433 spare.example.org:7433
      On the main: reach the same spare at another address, a forwarded port for instance.")]
pub(crate) struct Pair {
    /// On the spare: make a code for the main that is to be called NAME there
    #[arg(long, value_name = "NAME")]
    pub(crate) new: Option<MainName>,
    /// How long the code is good
    #[arg(long, value_name = "TIME", requires = "new", default_value = "1h", value_parser = duration)]
    pub(crate) valid: Duration,
    /// List the mains that the spare of this host knows, and the spares that this host knows
    #[arg(long)]
    pub(crate) list: bool,
    /// On the spare: know a main no more, and end its connections
    #[arg(long, value_name = "NAME")]
    pub(crate) revoke: Option<MainName>,
    /// On the spare: give a dataset to a main
    #[arg(long, num_args = 2, value_names = ["NAME", "DATASET"])]
    pub(crate) grant: Option<Vec<String>>,
    /// On the main: know a spare no more
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) forget: Option<String>,
    /// On the main: print what a new machine needs to restore as this main, a secret to lock away
    #[arg(long)]
    pub(crate) export_recovery: bool,
    /// On a new machine: take what was printed, from a file or, with `-`, as it is typed in
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) import_recovery: Option<PathBuf>,
    /// On the main: reach the spare that is known at HOST:PORT at this address, too
    #[arg(long, value_name = "NEW", requires = "host", conflicts_with = "code")]
    pub(crate) address: Option<String>,
    /// On the main: where the spare listens
    #[arg(value_name = "HOST:PORT")]
    pub(crate) host: Option<String>,
    /// The code that the spare has printed; without it a terminal asks for it, and `-` is stdin
    ///
    /// Written here, everybody on this host can see it until it is used.
    #[arg(value_name = "CODE", requires = "host")]
    pub(crate) code: Vec<OsString>,
    #[command(flatten)]
    pub(crate) on_spare: OnSpare,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write for instance 30m, 1h or 2d".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    match Duration::try_from(duration) {
        Ok(duration) if duration.as_secs() > 0 => Ok(duration),
        _ => Err(wrong()),
    }
}
