//! Which part the other host plays in a dataset: for `status`, and for commands that change it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use understudy_agent::config::Config;
use understudy_agent::{FuzzyOf, Source, daemon};
use understudy_protocol::message::DatasetStatus;
use understudy_protocol::{DatasetName, Role, Snapshot, Standing};

use super::Session;
use crate::exit::CommandError;
use crate::spare::Spare;
use crate::words;

/// What is known of the roles: nothing of a dataset whose note is damaged, and `None` if the spare is too old.
pub(super) type Roles = Option<HashMap<DatasetName, Option<Standing>>>;

/// Asks the spare.
pub(super) fn ask(session: &Session) -> Result<Roles, CommandError> {
    let told = session
        .existing_spare()?
        .talk(|channel| understudy_agent::roles(channel, None))?;
    Ok(told.map(|roles| {
        let roles = roles.into_iter().map(|role| (role.dataset, role.standing));
        roles.collect()
    }))
}

/// What the agent's configuration says of a dataset.
pub(super) fn source_of(
    config: &Config,
    dataset: &DatasetName,
    file: &Path,
) -> Result<Source, CommandError> {
    let scheduled = config.sources().into_iter().flatten();
    let source = scheduled
        .map(|one| one.source)
        .find(|one| one.dataset == *dataset);
    source.ok_or_else(|| {
        CommandError::usage(
            format!(
                "the configuration `{}` has no dataset `{dataset}`",
                file.display()
            ),
            "check the name, or name another file with --config",
        )
    })
}

/// Waits for nobody: no agent may work with the state directory as long as this lives.
pub(super) fn stopped(state: &Path) -> Result<daemon::Alone, CommandError> {
    daemon::alone(state).map_err(|error| {
        let error = CommandError::from(error);
        let hint =
            "stop the agent on this host (systemctl stop understudy-agent), then run it again";
        CommandError::new(error.code, error.message, hint)
    })
}

/// The newest snapshot that the other host has of a dataset.
pub(super) fn newest_of(
    spare: &Spare,
    dataset: &DatasetName,
) -> Result<Option<Snapshot>, CommandError> {
    let told = told_of(spare, dataset)?;
    Ok(told.and_then(|told| told.snapshots.last().cloned()))
}

/// What the other host tells of a dataset; `None` if it has none of this name.
pub(super) fn told_of(
    spare: &Spare,
    dataset: &DatasetName,
) -> Result<Option<DatasetStatus>, CommandError> {
    let survey = spare.talk(|channel| {
        understudy_agent::survey(channel, Some(dataset.clone()), FuzzyOf::Newest)
    })?;
    let mut listed = survey.listed.datasets.into_iter();
    Ok(listed.find(|one| one.name == *dataset))
}

/// Which part the other host plays, as it tells.
pub(super) fn standing_of(spare: &Spare, dataset: &DatasetName) -> Result<Standing, CommandError> {
    let known = spare.talk(|channel| understudy_agent::roles(channel, Some(dataset.clone())))?;
    let standing = known
        .and_then(|mut roles| roles.pop())
        .and_then(|role| role.standing);
    standing.ok_or_else(|| {
        CommandError::failed(format!(
            "the other host cannot tell which part it plays in dataset `{dataset}`"
        ))
    })
}

/// For programs.
pub(crate) fn value(standing: &Standing) -> Value {
    json!({
        "role": standing.role.word(),
        "epoch": standing.epoch,
        "since": (standing.since_seconds > 0).then(|| words::time(standing.since_seconds)),
        "snapshot": standing.snapshot.map(|at| json!({ "epoch": at.epoch, "number": at.number, "digest": at.fingerprint.to_string() })),
    })
}

/// The word in the column of a dataset's state, if its role says more than that it is kept up to date.
pub(super) fn state(standing: Option<&Option<Standing>>) -> Option<&'static str> {
    match standing? {
        None => Some("ROLE UNKNOWN"),
        Some(standing) => match standing.role {
            Role::Spare => None,
            Role::Main => Some("MAIN"),
            Role::HandedOver => Some("HANDED OVER"),
            Role::Fenced => Some("FENCED"),
        },
    }
}

/// What is told of a dataset beside its row.
pub(super) fn line(dataset: &DatasetName, standing: &Standing, now_seconds: i64) -> Option<String> {
    let age = words::span(now_seconds.saturating_sub(standing.since_seconds).max(0));
    let epoch = standing.epoch;
    let what = match standing.role {
        Role::Spare => return None,
        Role::Main => {
            let at = standing.snapshot.map_or(String::new(), |at| {
                format!(" with snapshot {} of epoch {}", at.number, at.epoch)
            });
            format!(
                "this host was promoted {age} ago{at} and is its main, in epoch {epoch}: whoever was the main before is refused"
            )
        }
        Role::HandedOver => format!(
            "this host was its main and has handed it over {age} ago, in epoch {epoch}: nobody is the main until the other host is promoted"
        ),
        Role::Fenced => format!(
            "this host was its main until another one took over, which it was told {age} ago"
        ),
    };
    Some(format!("{dataset}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_is_nothing_to_speak_of_and_everything_else_is() {
        let name = DatasetName::fit(b"site");
        let spare = Standing::first(Role::Spare);
        assert_eq!(state(Some(&Some(spare))), None);
        assert_eq!(line(&name, &spare, 100), None);
        assert_eq!(state(Some(&None)), Some("ROLE UNKNOWN"));
        assert_eq!(state(None), None);
        for role in [Role::Main, Role::HandedOver, Role::Fenced] {
            let standing = Standing {
                role,
                since_seconds: 40,
                ..spare
            };
            assert!(state(Some(&Some(standing))).is_some());
            let told = line(&name, &standing, 100).expect("news");
            assert!(told.contains("1 min"), "{told}");
        }
        assert_eq!(value(&spare)["since"], Value::Null);
    }
}
