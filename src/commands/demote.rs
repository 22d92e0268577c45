//! `understudy demote` and `resume`: a promotion is undone, and whoever was the main before goes on.

use serde_json::json;
use understudy_agent::config::Config;
use understudy_protocol::{DatasetName, Role};
use understudy_receiver::handover::{self, Turn};
use understudy_receiver::{Store, demote};

use super::policies::configuration;
use super::{Session, roles};
use crate::arguments::{Demote, Resume};
use crate::confirm::{self, Question};
use crate::exit::{Code, CommandError};
use crate::report::Report;

/// Makes this host the spare.
pub(crate) fn run(arguments: Demote, session: &Session) -> Result<Report, CommandError> {
    let Demote {
        dataset,
        epoch,
        yes,
        on_spare,
    } = arguments;
    let store = session.store_on_this_host(on_spare.clone())?;
    let config = configuration(&store, on_spare.config.as_deref())?.unwrap_or_default();
    let standing = store.standing(&dataset)?;
    let next = epoch.unwrap_or(standing.epoch);
    if standing.role != Role::Spare && !yes {
        ask(&dataset, session)?;
    }
    let demotion = demote::demote(&store, &dataset, next, config.reserve)?;
    let mut lines = Vec::new();
    if let Some(preserved) = demotion
        .preserved
        .as_ref()
        .filter(|preserved| preserved.lost.0 > 0)
    {
        lines.push(format!(
            "{dataset}: {} of the promoted snapshot were changed before they could be kept; `understudy status` names them",
            crate::words::counted(preserved.lost.0, "file")
        ));
    }
    match &demotion.written {
        Some(written) => {
            let at = written.snapshot.position;
            lines.push(format!(
                "{dataset}: what was written while this host was the main is snapshot {} of epoch {}: {}; it is pinned",
                at.number, at.epoch, written.text
            ));
            for (path, why) in &written.lost {
                lines.push(format!("{dataset}: `{path}` {why}"));
            }
        }
        None => lines.push(format!(
            "{dataset}: nothing was written since the promotion"
        )),
    }
    lines.push(format!(
        "{dataset}: this host is its spare, in epoch {next}{}",
        match epoch {
            Some(_) => String::new(),
            None => format!("; on the main type `understudy resume {dataset}`, or `understudy promote {dataset}` here again"),
        }
    ));
    let written = demotion.written.as_ref();
    let data = json!({
        "dataset": dataset.as_str(),
        "standing": roles::value(&demotion.standing),
        "written": written.map(|written| json!({
            "snapshot": crate::words::snapshot(&written.snapshot),
            "what": written.text,
            "lost": written.lost.iter().map(|(path, why)| json!({ "path": path, "why": why })).collect::<Vec<_>>(),
        })),
    });
    Ok(Report::done(data, lines))
}

fn ask(dataset: &DatasetName, session: &Session) -> Result<(), CommandError> {
    let question = Question {
        text: &format!(
            "Has everything been stopped that writes into the live tree of {dataset}? Type the name of the dataset"
        ),
        wanted: dataset.as_str(),
        subject: "that the application was stopped",
        hint: "stop what writes into the live tree, then add --yes",
    };
    confirm::ask(&question, &session.cancel)
}

/// Makes this host the main again.
pub(crate) fn resume(arguments: &Resume, session: &Session) -> Result<Report, CommandError> {
    let config = Config::load(&arguments.config)?;
    let dataset = &arguments.dataset;
    let source = roles::source_of(&config, dataset, &arguments.config)?;
    let spare = session.spare_of(&config)?;
    let state = session.state_of(&config)?;
    let standing = roles::standing_of(&spare, dataset)?;
    if standing.role != Role::Spare {
        return Err(CommandError::new(
            Code::Fenced,
            format!(
                "the other host is the main of dataset `{dataset}`, in epoch {}: this host must not go on",
                standing.epoch
            ),
            format!(
                "if the promotion was a mistake, stop the application there and type `understudy demote {dataset}` there first"
            ),
        ));
    }
    let resumed = match understudy_agent::store_of(&source.path) {
        Some((store, name)) => {
            let store = Store::open_existing(&store)?;
            handover::turn(&store, &name, standing.epoch, Turn::TakeBack)?
        }
        None => understudy_agent::resume(&source, &state, &spare.name(), standing.epoch)?,
    };
    // Whoever promotes there later must not be told that nothing is lost.
    spare.talk(|channel| {
        understudy_agent::hand_over(channel, dataset.clone(), standing.epoch, None)
    })?;
    let line = format!(
        "{dataset}: this host is its main, in epoch {}; the next cycle compares everything",
        resumed.epoch
    );
    Ok(Report::done(
        json!({ "dataset": dataset.as_str(), "standing": roles::value(&resumed) }),
        vec![line],
    ))
}
