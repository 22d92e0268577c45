//! Confines the process before its threads start: what parses a peer's bytes, or reads everybody's files, has no more
//! rights than its work takes. Which ones is decided here; how is `understudy_tree::confine`'s.
//!
//! `docs/decisions/0017-each-process-confines-itself.md` says why so.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::geteuid;
use rustix::thread::CapabilitySet;
use understudy_agent::config::Config;
use understudy_receiver::Store;
use understudy_tree::confine::{
    Bounds, Confined, Enforced, FOR_A_MAIN, FOR_A_SPARE, Network, Reading, confine,
};

use crate::address::Address;
use crate::alert::voice::Started;
use crate::arguments::{Agent, Arguments, Command, Drill, Output, Receiver, Restore};
use crate::commands::agent::check_sources;
use crate::commands::receiver::Settings;
use crate::commands::stdio::{self, Served};
use crate::exit::{Code, CommandError};
use crate::opener::Opener;
use crate::{capturer, fencer, paths, receiver_config, service, standby};

/// What a confined receiver reads beside its store: what the kernel tells of this process and of its limits, and the time
/// zone.
const READ_BY_A_RECEIVER: [&str; 5] = [
    "/proc",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/etc/localtime",
    "/usr/share/zoneinfo",
];

/// What a command has when it begins to run.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Of a receiver: what it is to do, read before it could not be read any more.
    pub(crate) receiver: Option<Settings>,
    /// Of a receiver with a configuration: the process that tells people.
    pub(crate) messenger: Option<Started>,
    /// Of an agent: the process that runs what is to run once another host took over.
    pub(crate) fencer: Option<fencer::Started>,
    /// Of an agent: the process that captures databases.
    pub(crate) capturer: Option<capturer::Started>,
    /// Of a receiver: the process that loads databases.
    pub(crate) standby: Option<standby::Started>,
    /// Of what brings a snapshot back: the process that loads databases.
    pub(crate) opener: Option<Opener>,
    /// Of a receiver for whoever has started it: what it serves.
    pub(crate) served: Option<Served>,
}

static GAP: OnceLock<String> = OnceLock::new();

/// What the kernel does not enforce, in words; `None` if it enforces everything.
pub(crate) fn gap() -> Option<&'static str> {
    GAP.get().map(String::as_str)
}

/// Prepares a command, and confines this process to what it takes. There must not be any threads yet.
pub(crate) fn prepare(arguments: &Arguments) -> Result<Prepared, CommandError> {
    let places = &arguments.places;
    let (spare, state) = (places.spare.as_deref(), places.state.as_deref());
    match &arguments.command {
        Command::Receiver(given) if given.stdio => return stdio(given),
        Command::Receiver(given) => return receiver(given, arguments.output),
        Command::Agent(given) => return agent(given, spare, state, arguments.output),
        Command::Sync(given) => {
            let spare = Address::given(spare)?;
            paths::check_apart("source", &paths::source(&given.source)?, &spare)?;
            main(&spare, &paths::state(state)?)?;
        }
        Command::Imager(given) => imager(&given.directory)?,
        Command::Restore(given) => {
            let opener = opener(
                given.load,
                (&given.config, &given.dumps()),
                arguments.output,
            )?;
            restore(given, &Address::given(spare)?, state)?;
            return Ok(Prepared {
                opener,
                ..Prepared::default()
            });
        }
        // What hooks do is theirs, as with a promotion.
        Command::Drill(given) if given.promote => {}
        Command::Drill(given) => {
            let state = paths::state(state)?;
            let below = given.scratch.as_deref().unwrap_or(&state);
            let is_known =
                given.agent_config.exists() || receiver_config::chosen(None, None).is_some();
            let opener = opener(is_known, (&given.agent_config, below), arguments.output)?;
            drill(given, &Address::given(spare)?, &state)?;
            return Ok(Prepared {
                opener,
                ..Prepared::default()
            });
        }
        _ => {}
    }
    Ok(Prepared::default())
}

fn opener(
    is_wanted: bool,
    (config, below): (&Path, &Path),
    output: Output,
) -> Result<Option<Opener>, CommandError> {
    if !is_wanted {
        return Ok(None);
    }
    let below = std::path::absolute(below).unwrap_or_else(|_| below.to_owned());
    let started = Opener::start(config, &below, output);
    started.map(Some).map_err(|error| {
        CommandError::failed(format!(
            "cannot start the process that loads databases: {error}"
        ))
    })
}

fn receiver(given: &Receiver, output: Output) -> Result<Prepared, CommandError> {
    let settings = Settings::of(given)?;
    Store::make(&settings.store)?;
    let messenger = settings.file.as_deref().map(|file| {
        Started::start(file, output).map_err(|error| {
            CommandError::failed(format!(
                "cannot start the process that tells people: {error}"
            ))
        })
    });
    let messenger = messenger.transpose()?;
    let standby = settings.file.as_deref().map(|file| {
        let what = (settings.store.as_path(), settings.standbys.as_slice());
        standby::start(file, what, output).map_err(|error| {
            CommandError::failed(format!(
                "cannot start the process that loads databases: {error}"
            ))
        })
    });
    let standby = standby.transpose()?.flatten();
    service::connect();
    let port = settings.listen.first().map(SocketAddr::port);
    within_store(
        &settings.store,
        port.map_or(Network::Closed, Network::Listen),
    )?;
    Ok(Prepared {
        receiver: Some(settings),
        messenger,
        standby,
        ..Prepared::default()
    })
}

/// The connection is open already, and the store is opened before its configuration cannot be read any more.
fn stdio(given: &Receiver) -> Result<Prepared, CommandError> {
    let served = stdio::prepare(given.clone());
    if let Ok((store, _)) = &served {
        within_store(store.path(), Network::Closed)?;
    }
    Ok(Prepared {
        served: Some(served),
        ..Prepared::default()
    })
}

fn within_store(store: &Path, network: Network) -> Result<(), CommandError> {
    within(&Bounds {
        write: &[store.to_owned()],
        read: Reading::Below(&READ_BY_A_RECEIVER.map(PathBuf::from)),
        network,
        keep: FOR_A_SPARE,
    })
}

fn agent(
    given: &Agent,
    spare: Option<&OsStr>,
    state: Option<&Path>,
    output: Output,
) -> Result<Prepared, CommandError> {
    // It is read again, and what is wrong is told, by the command itself.
    let Ok(config) = Config::load(&given.config) else {
        return Ok(Prepared::default());
    };
    let state = paths::state(state.or(config.state.as_deref()))?;
    let Some(spare) = spare.or(config.spare.as_deref().map(OsStr::new)) else {
        return Ok(Prepared::default());
    };
    let spare = Address::parse(spare)?;
    check_sources(&config, &spare)?;
    let fencer = fencer::Started::start(&config, output).map_err(|error| {
        CommandError::failed(format!(
            "cannot start the process that runs `on_fence`: {error}"
        ))
    })?;
    let capturer = capturer::start(&config, &state, output)?;
    main(&spare, &state)?;
    Ok(Prepared {
        fencer,
        capturer,
        ..Prepared::default()
    })
}

/// The main's side writes nothing but what it knows, and the spare if that is a directory.
fn main(spare: &Address, state: &Path) -> Result<(), CommandError> {
    if let Address::Ssh(_) = spare {
        // What ssh writes and starts is what its user has configured.
        return Ok(());
    }
    paths::make_state(state)?;
    let mut write = vec![state.to_owned()];
    let mut keep = FOR_A_MAIN | for_the_directory_of_others(state);
    if let Address::Directory(store) = spare {
        if !store.exists() {
            // Whole, for an empty directory may look like one of the sources.
            Store::open(store)?;
        }
        write.push(store.clone());
        keep |= FOR_A_SPARE;
    }
    within(&Bounds {
        write: &write,
        read: Reading::Everything,
        network: Network::Any,
        keep,
    })
}

/// What copies databases writes its copies, and reads.
fn imager(directory: &Path) -> Result<(), CommandError> {
    paths::make_state(directory)?;
    within(&Bounds {
        write: &[directory.to_owned()],
        read: Reading::Everything,
        network: Network::Closed,
        keep: CapabilitySet::DAC_READ_SEARCH | for_the_directory_of_others(directory),
    })
}

/// A restore writes beside its target, for it exchanges the two in one step. Where everything is beside it, directly below `/`, no
/// place is out of its reach.
fn restore(given: &Restore, spare: &Address, state: Option<&Path>) -> Result<(), CommandError> {
    let mut write = places_of(given, ("target", &given.target), spare)?;
    if given.databases.is_some() || given.load {
        let dumps = given.dumps();
        let databases = ("directory for databases", dumps.as_path());
        write.extend(places_of(given, databases, spare)?);
    }
    if let Ok(state) = paths::state(state) {
        write.push(state);
    }
    bring_back(write, spare)
}

/// Where a restore writes to make a directory.
fn places_of(
    given: &Restore,
    (what, target): (&str, &Path),
    spare: &Address,
) -> Result<Vec<PathBuf>, CommandError> {
    let target = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    let seen = paths::canonical(&target).unwrap_or_else(|_| target.clone());
    let holds_all_datasets = given.dataset.is_none();
    let is_missing = !seen.exists() && seen.parent() == Some(Path::new("/"));
    if holds_all_datasets && !given.dry_run && is_missing {
        paths::check_apart(what, &seen, spare)?;
        paths::make_directory(&seen)?;
    }
    let mut write = Vec::new();
    if !(holds_all_datasets && seen.is_dir()) {
        let beside = [&target, &seen].map(|path| path.parent());
        write.extend(beside.into_iter().flatten().map(Path::to_owned));
    }
    if seen.is_dir() {
        write.push(seen);
    }
    Ok(write)
}

/// A drill writes below its scratch directory, and what it took into the state.
fn drill(given: &Drill, spare: &Address, state: &Path) -> Result<(), CommandError> {
    paths::make_state(state)?;
    let scratch = given.scratch.as_deref().unwrap_or(state);
    bring_back(vec![state.to_owned(), scratch.to_owned()], spare)
}

/// What brings a snapshot back writes below these places, and the spare if that is a directory.
fn bring_back(mut write: Vec<PathBuf>, spare: &Address) -> Result<(), CommandError> {
    if let Address::Ssh(_) = spare {
        return Ok(());
    }
    if let Address::Directory(store) = spare {
        write.push(store.clone());
    }
    // What is not there is told by the command itself.
    write.retain(|path| path.exists());
    within(&Bounds {
        write: &write,
        read: Reading::Everything,
        network: Network::Any,
        keep: FOR_A_MAIN | FOR_A_SPARE,
    })
}

/// Root that works by hand in the directory of a service needs to be let in.
fn for_the_directory_of_others(state: &Path) -> CapabilitySet {
    let owner = std::fs::metadata(state).map_or(0, |found| found.uid());
    if owner == geteuid().as_raw() {
        CapabilitySet::empty()
    } else {
        CapabilitySet::DAC_OVERRIDE
    }
}

fn within(bounds: &Bounds<'_>) -> Result<(), CommandError> {
    let confined = confine(bounds).map_err(|error| {
        CommandError::new(
            Code::Failed,
            error.to_string(),
            "nothing was done: without this a defect could reach all of this host",
        )
    })?;
    if let Some(gap) = missing(confined) {
        let advice = match confined.places {
            Enforced::Not => {
                "; a defect in understudy could write wherever this user may: keep the unit's ProtectSystem=strict, or start a kernel with `lsm=landlock`"
            }
            Enforced::Partly | Enforced::Fully => "",
        };
        tracing::warn!("{gap}{advice}");
        let _ = GAP.set(gap);
    }
    Ok(())
}

/// What the kernel does not enforce, in words.
pub(crate) fn missing(confined: Confined) -> Option<String> {
    let places = match confined.places {
        Enforced::Fully => None,
        Enforced::Partly => {
            Some("confined in part, for this kernel is older than Linux 6.12; what writes data is")
        }
        Enforced::Not => {
            Some("NOT CONFINED: this kernel has no Landlock, or is older than Linux 5.19")
        }
    };
    let calls = (!confined.calls).then_some(
        "SYSTEM CALLS ARE NOT FILTERED: this kernel has no seccomp, or whoever has started this refuses it",
    );
    let words: Vec<_> = places.into_iter().chain(calls).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_and_nothing_else() {
        let told = |places, calls| missing(Confined { places, calls });
        assert_eq!(told(Enforced::Fully, true), None);
        let both = told(Enforced::Not, false).expect("something is missing");
        assert!(
            both.contains("Landlock") && both.contains("seccomp"),
            "{both}"
        );
        for (places, calls, word) in [
            (Enforced::Fully, false, "seccomp"),
            (Enforced::Partly, true, "6.12"),
            (Enforced::Not, true, "Landlock"),
        ] {
            let gap = told(places, calls).expect("something is missing");
            assert!(gap.contains(word), "{gap}");
        }
    }
}
