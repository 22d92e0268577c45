//! The command line: what it takes, and the help that teaches it.

mod adopt;
mod check;
mod daemons;
mod demote;
mod drift;
mod handover;
mod on_spare;
mod overview;
mod pair;
mod past;
mod promote;
mod restore;
mod salvage;
mod ssh;
mod sync;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::{Code, CommandError};
use crate::report;

pub(crate) use adopt::{Adopt, Failback};
pub(crate) use check::{Check, Checked, ExpectedRole};
pub(crate) use daemons::{Agent, Capturer, Fencer, Imager, Messenger, Opener, Receiver, Standby};
pub(crate) use demote::{Demote, Resume};
pub(crate) use drift::{Drift, DriftAction};
pub(crate) use handover::Handover;
pub(crate) use on_spare::{Accept, Acknowledge, Decide, Held, OnSpare, Pin, Prune, Unpin};
pub(crate) use overview::{Snapshots, Status, Verify};
pub(crate) use pair::Pair;
pub(crate) use past::{Cat, Diff, Find, Ls, Point, Selection};
pub(crate) use promote::{Promote, When};
pub(crate) use restore::{Drill, Order, Owners, Restore, Trusting};
pub(crate) use salvage::Salvage;
pub(crate) use ssh::AuthorizedKey;
pub(crate) use sync::Sync;

/// Keeps a spare server minutes behind its main, ready to serve.
#[derive(Debug, Parser)]
#[command(
    name = "understudy",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_long_help = "\
Examples:
  understudy sync /srv/photos --spare /mnt/spare    copy a tree; again: only what changed
  understudy receiver --store /srv/spare            take uploads on this host
  understudy agent --config agent.toml              send what that file names, every 15 minutes
  understudy pair --new web1 --store /srv/spare     let a main in: prints what to type there
  understudy status --spare spare.example.org:7433  how far behind is the spare?

Exit codes:
  0 done; 1 failed; 2 usage or configuration; 3 done, but some files could not be read (listed);
  4 held by a guard; 5 not the main, or not any more; 6 the spare cannot be reached; 7 not authenticated, or not allowed; 8 no space;
  9 verification found damage; 130 interrupted")]
struct CommandLine {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct OutputArguments {
    /// Print one line of JSON instead of text
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Say more on stderr; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    verbose: u8,
    /// Say only what was asked for, and errors
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Output"
    )]
    quiet: bool,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Output"
    )]
    color: Color,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Nowhere
    Never,
}

/// In which form results are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One line of JSON.
    Json,
}

/// How much is told beside results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detail {
    /// Errors only.
    Quiet,
    /// Warnings, progress and summaries.
    Normal,
    /// Each step.
    Verbose,
    /// Everything.
    Debug,
}

/// How to tell things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Text or JSON.
    pub(crate) format: Format,
    /// How much.
    pub(crate) detail: Detail,
    /// When to use colours.
    pub(crate) color: Color,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Sync(Sync),
    Agent(Agent),
    Receiver(Receiver),
    #[command(hide = true)]
    Messenger(Messenger),
    #[command(hide = true)]
    Fencer(Fencer),
    #[command(hide = true)]
    Capturer(Capturer),
    #[command(hide = true)]
    Imager(Imager),
    #[command(hide = true)]
    Standby(Standby),
    #[command(hide = true)]
    Opener(Opener),
    Restore(Restore),
    Snapshots(Snapshots),
    Status(Status),
    Verify(Verify),
    Acknowledge(Acknowledge),
    Held(Held),
    /// Apply the cycle that is held of a dataset, on the spare
    #[command(after_long_help = "\
Examples:
  understudy release photos 9ed568b3b543 --store /srv/spare")]
    Release(Decide),
    /// Drop the cycle that is held of a dataset, on the spare
    #[command(after_long_help = "\
Examples:
  understudy reject photos 9ed568b3b543 --store /srv/spare")]
    Reject(Decide),
    Ls(Ls),
    Cat(Cat),
    Find(Find),
    Diff(Diff),
    Drill(Drill),
    Prune(Prune),
    Pin(Pin),
    Unpin(Unpin),
    Accept(Accept),
    Check(Check),
    Drift(Drift),
    Salvage(Salvage),
    Demote(Demote),
    Adopt(Adopt),
    Failback(Failback),
    Handover(Handover),
    Resume(Resume),
    Promote(Promote),
    Pair(Box<Pair>),
    AuthorizedKey(AuthorizedKey),
}

impl Command {
    /// Whether it ends with the one that has started it, and by no signal: there may be something that it has to undo.
    pub(crate) fn outlives_signals(&self) -> bool {
        matches!(self, Self::Capturer(_))
    }

    /// Whether it runs until it is told to end, which is then no failure.
    pub(crate) fn is_daemon(&self) -> bool {
        match self {
            // One that serves whoever has started it must not say anything when it is told to end.
            Self::Receiver(_)
            | Self::Messenger(_)
            | Self::Fencer(_)
            | Self::Capturer(_)
            | Self::Imager(_)
            | Self::Standby(_)
            | Self::Opener(_) => true,
            Self::Agent(agent) => !agent.once,
            _ => false,
        }
    }
}

/// Where the spare is, and where the agent keeps what it knows.
#[derive(Debug, Args)]
pub(crate) struct Places {
    /// The spare: a directory, HOST:PORT of a receiver, or `ssh://[USER@]HOST[:PORT]/STORE`
    ///
    /// What begins with ssh:// is a store on another host, where a receiver is started through ssh. What else
    /// holds a `/`, starts with `.`, is an existing directory or has no `:` is a directory; understudy
    /// then does the receiver's work itself. A receiver at HOST:PORT must know this host, and this host it: `understudy
    /// pair` brings that about.
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "UNDERSTUDY_SPARE",
        hide_env_values = true,
        help_heading = "Places"
    )]
    pub(crate) spare: Option<OsString>,
    /// The program for ssh:// addresses, with options, as in 'ssh -i /etc/understudy/ssh_key'
    ///
    /// It is split into words as a shell does, but no shell runs and nothing is expanded.
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        env = "UNDERSTUDY_SSH",
        hide_env_values = true,
        help_heading = "Places"
    )]
    pub(crate) ssh: Option<OsString>,
    /// The directory for the agent's index
    ///
    /// By default /var/lib/understudy for root, else $XDG_STATE_HOME/understudy, else
    /// ~/.local/state/understudy. If it is lost, it is made again from the spare.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "UNDERSTUDY_STATE_DIR",
        hide_env_values = true,
        help_heading = "Places"
    )]
    pub(crate) state: Option<PathBuf>,
}

/// A checked command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Where things are.
    pub(crate) places: Places,
    /// How to tell things.
    pub(crate) output: Output,
    /// What to do.
    pub(crate) command: Command,
}

/// Reads the command line. If it is wrong, or only asks for help, that has been told, and the code is
/// returned.
pub(crate) fn parse() -> Result<Arguments, Code> {
    let CommandLine {
        places,
        output,
        command,
    } = CommandLine::try_parse().map_err(|error| complain(&error))?;
    let format = if output.json {
        Format::Json
    } else {
        Format::Text
    };
    let detail = match (output.quiet, output.verbose) {
        (true, _) => Detail::Quiet,
        (false, 0) => Detail::Normal,
        (false, 1) => Detail::Verbose,
        (false, _) => Detail::Debug,
    };
    Ok(Arguments {
        places,
        output: Output {
            format,
            detail,
            color: output.color,
        },
        command,
    })
}

/// Tells what is wrong with the command line, as JSON if that was asked for: programs read nothing else.
fn complain(error: &clap::Error) -> Code {
    let code = if error.use_stderr() {
        Code::Usage
    } else {
        Code::Done
    };
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if wants_json
        && code == Code::Usage
        && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let text = error.render().to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        let hint = "run `understudy --help`, or `understudy COMMAND --help`";
        let output = Output {
            format: Format::Json,
            detail: Detail::Normal,
            color: Color::Never,
        };
        // Nobody reads the answer: the exit code tells as much.
        let _ = report::tell(Err(CommandError::usage(message, hint)), output);
    } else {
        let _ = error.print();
    }
    code
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::receiver_config::{Alerts, ReceiverConfig};

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_receiver_takes_the_configuration_that_its_help_shows() {
        let mut command = CommandLine::command();
        let receiver = command.find_subcommand_mut("receiver").expect("receiver");
        let help = receiver.get_after_long_help().expect("help").to_string();
        let (_, shown) = help
            .split_once("A configuration:\n")
            .expect("a configuration");
        let (shown, _) = shown.split_once("SIGHUP").expect("its end");
        assert!(
            shown.lines().all(|line| line.len() < 100),
            "a line would be wrapped"
        );
        let config = ReceiverConfig::parse(shown, "the help").expect("valid");
        assert_eq!(config.alerts.dataset_heartbeats.len(), 1);
        assert!(config.alerts.command.is_some() && config.alerts.webhook.is_some());
        let defaults = Alerts::default();
        assert_eq!(config.alerts.policy.lag, defaults.policy.lag);
        assert_eq!(config.alerts.policy.repeat, defaults.policy.repeat);
        assert_eq!(config.alerts.policy.failures, defaults.policy.failures);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "writes what is shown")]
    fn the_agent_takes_the_configuration_that_its_help_shows() {
        let mut command = CommandLine::command();
        let agent = command.find_subcommand_mut("agent").expect("agent");
        let help = agent.get_after_long_help().expect("help").to_string();
        let shown = help
            .split_once("A configuration:\n")
            .and_then(|(_, rest)| rest.split_once("`understudy check databases`"));
        let (shown, _) = shown.expect("a configuration, and what follows it");
        assert!(
            shown.lines().all(|line| line.len() < 100),
            "a line would be wrapped"
        );
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, shown).expect("written");
        let config = understudy_agent::config::Config::load(&path).expect("valid");
        let names = config.datasets.iter().map(|one| one.databases.len());
        assert_eq!(names.collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn every_command_teaches_by_example() {
        let command = CommandLine::command();
        for command in command
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            assert!(
                help.contains(&format!("understudy {}", command.get_name())),
                "{}",
                command.get_name()
            );
        }
    }
}
