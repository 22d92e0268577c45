//! `understudy check role`: what a monitor asks on either host, with an answer that is an exit code.

mod databases;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use understudy_agent::config::Config;
use understudy_protocol::{DatasetName, Role, Standing, escape};
use understudy_receiver::served;

use super::{Session, roles};
use crate::address::Address;
use crate::arguments::{Check, Checked, ExpectedRole, OnSpare};
use crate::exit::{Code, CommandError};
use crate::paths;
use crate::report::Report;

/// Where an agent's configuration is, if nobody says otherwise.
const CONFIG: &str = "/etc/understudy/agent.toml";

/// One dataset, as it was found.
struct Found {
    dataset: DatasetName,
    standing: Standing,
    /// Why it is not as expected.
    wrong: Option<String>,
}

/// Looks at what is asked for.
pub(crate) fn run(arguments: Check, session: &Session) -> Result<Report, CommandError> {
    match (arguments.what, arguments.expect) {
        (Checked::Role, Some(expect)) => role(arguments, expect, session),
        (Checked::Role, None) => Err(CommandError::usage(
            "nobody says which part this host should play",
            "add --expect spare or --expect main",
        )),
        (Checked::Databases, None) if is_of_a_main(&arguments) => {
            let config = arguments.agent.unwrap_or_else(|| PathBuf::from(CONFIG));
            databases::run(&config, &arguments.datasets)
        }
        (Checked::Databases, _) => Err(CommandError::usage(
            "databases are checked on the main, from the agent's configuration",
            "leave --expect, --served, --store and --config out; --agent FILE names another configuration",
        )),
    }
}

fn is_of_a_main(arguments: &Check) -> bool {
    let OnSpare { store, config } = &arguments.on_spare;
    store.is_none() && config.is_none() && arguments.served.is_none()
}

/// Looks whether this host is what somebody takes it for.
fn role(arguments: Check, expect: ExpectedRole, session: &Session) -> Result<Report, CommandError> {
    let Check {
        datasets,
        served,
        agent,
        on_spare,
        ..
    } = arguments;
    let (mut found, absence) = match &agent {
        Some(config) => (of_agent(config, session)?, None),
        None => of_store(on_spare, served.as_deref(), session)?,
    };
    if let Some(unknown) = datasets
        .iter()
        .find(|name| found.iter().all(|one| one.dataset != **name))
    {
        return Err(CommandError::failed(format!(
            "there is no dataset `{unknown}` here"
        )));
    }
    found.retain(|one| datasets.is_empty() || datasets.contains(&one.dataset));
    for one in &mut found {
        one.wrong = unlike(expect, &one.standing).or(one.wrong.take());
    }
    Ok(report(&found, absence.as_deref(), expect))
}

/// With what is wrong with how each is served, and with the place where all of them should be.
fn of_store(
    on_spare: OnSpare,
    place: Option<&Path>,
    session: &Session,
) -> Result<(Vec<Found>, Option<String>), CommandError> {
    let store = session.store_on_this_host(on_spare)?;
    let mut found = Vec::new();
    for dataset in store.dataset_names()? {
        let standing = store.standing(&dataset)?;
        let wrong = match place {
            Some(place) if standing.role == Role::Main => {
                kept_from_writing(&place.join(dataset.as_str()))
            }
            Some(place) => served::problem(&store, &dataset, place)?,
            None => None,
        };
        found.push(Found {
            dataset,
            standing,
            wrong,
        });
    }
    let absence = match place {
        Some(place) => served::absence(&store, place)?,
        None => None,
    };
    Ok((found, absence))
}

/// An application of a main must be able to write where it is served.
fn kept_from_writing(path: &Path) -> Option<String> {
    let is_read_only = read_only(path)?;
    is_read_only.then(|| format!("`{}` is mounted read-only", shown(path)))
}

/// Of the main's side also, whether its sources are there and may be written to: who serves from them writes.
fn of_agent(config: &Path, session: &Session) -> Result<Vec<Found>, CommandError> {
    let config = Config::load(config)?;
    let spare = config.spare.as_deref().map(std::ffi::OsStr::new);
    let spare = Address::given(session.places.spare.as_deref().or(spare))?.to_string();
    let state = paths::state(session.places.state.as_deref().or(config.state.as_deref()))?;
    let mut found = Vec::new();
    for scheduled in config.sources() {
        let source = scheduled?.source;
        let standing = understudy_agent::standing(&source, &state, &spare)?;
        let wrong = match read_only(&source.path) {
            Some(true) => Some(format!(
                "its source `{}` is mounted read-only",
                shown(&source.path)
            )),
            Some(false) => None,
            None => Some(format!("its source `{}` is not there", shown(&source.path))),
        };
        found.push(Found {
            dataset: source.dataset,
            standing,
            wrong,
        });
    }
    Ok(found)
}

fn unlike(expected: ExpectedRole, standing: &Standing) -> Option<String> {
    let is = match (expected, standing.role) {
        (ExpectedRole::Spare, Role::Spare) | (ExpectedRole::Main, Role::Main) => return None,
        (_, role) => role,
    };
    let epoch = standing.epoch;
    Some(match is {
        Role::Spare => format!("this host is its spare, in epoch {epoch}"),
        Role::Main => format!("this host is its main, in epoch {epoch}"),
        Role::HandedOver => format!("this host has handed it over, in epoch {epoch}"),
        Role::Fenced => {
            format!("this host was its main, and another one took over after epoch {epoch}")
        }
    })
}

/// Whether a directory is on a mount that cannot be written to; `None` if it is not there.
fn read_only(path: &Path) -> Option<bool> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

fn report(found: &[Found], served: Option<&str>, expected: ExpectedRole) -> Report {
    let values: Vec<Value> = found
        .iter()
        .map(|one| {
            let mut value = roles::value(&one.standing);
            value["dataset"] = one.dataset.as_str().into();
            value["wrong"] = one.wrong.as_deref().into();
            value
        })
        .collect();
    let wrong: Vec<String> = found
        .iter()
        .filter_map(|one| Some(format!("{}: {}", one.dataset, one.wrong.as_ref()?)))
        .chain(served.map(str::to_owned))
        .collect();
    let word = match expected {
        ExpectedRole::Spare => "spare",
        ExpectedRole::Main => "main",
    };
    let lines = match wrong.is_empty() {
        true => vec![format!("ok: this host is the {word} of {}", counted(found))],
        false => Vec::new(),
    };
    let data = json!({ "datasets": values, "expected": word, "served": served });
    let mut report = Report::done(data, lines);
    if let Some((first, more)) = wrong.split_first() {
        report.notes.extend(more.iter().cloned());
        let error = CommandError::new(
            Code::Fenced,
            format!("this host is not the {word} as expected: {first}"),
            "`understudy status` on both hosts tells which of them is the main",
        );
        report.code = error.code;
        report.error = Some(error);
    }
    report
}

fn counted(found: &[Found]) -> String {
    match found {
        [] => "nothing: there are no datasets".to_owned(),
        [one] => one.dataset.to_string(),
        many => crate::words::counted(many.len() as u64, "dataset"),
    }
}
