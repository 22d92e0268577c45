//! `understudy demote` and `resume`: a promotion is undone, and whoever was the main before goes on.

use std::ffi::OsStr;
use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;
use understudy_agent::config::Config;
use understudy_protocol::{DatasetName, Role};
use understudy_receiver::demote;

use super::policies::configuration;
use super::{Session, roles};
use crate::address::Address;
use crate::arguments::{Demote, Resume};
use crate::exit::{Code, CommandError};
use crate::paths;
use crate::report::Report;
use crate::spare::Absent;

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
        ask(&dataset)?;
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

fn ask(dataset: &DatasetName) -> Result<(), CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::usage(
            "nobody is there to confirm that the application was stopped: there is no terminal",
            "stop what writes into the live tree, then add --yes",
        ));
    }
    let mut stderr = std::io::stderr();
    // Who does not see the question can answer it all the same.
    let _ = write!(
        stderr,
        "Has everything been stopped that writes into the live tree of {dataset}? Type the name of the dataset: "
    );
    let _ = stderr.flush();
    let mut answer = String::new();
    let heard = std::io::stdin().lock().read_line(&mut answer);
    match heard {
        Ok(_) if answer.trim() == dataset.as_str() => Ok(()),
        _ => Err(CommandError::usage(
            "that is another name: nothing was changed",
            format!("run it again and type `{dataset}`"),
        )),
    }
}

/// Makes this host the main again.
pub(crate) fn resume(arguments: &Resume, session: &Session) -> Result<Report, CommandError> {
    let config = Config::load(&arguments.config)?;
    let dataset = &arguments.dataset;
    let scheduled = config.sources().into_iter().flatten();
    let source = scheduled
        .map(|one| one.source)
        .find(|one| one.dataset == *dataset);
    let Some(source) = source else {
        let file = arguments.config.display();
        return Err(CommandError::usage(
            format!("the configuration `{file}` has no dataset `{dataset}`"),
            "check the name, or name another file with --config",
        ));
    };
    let given = session
        .places
        .spare
        .as_deref()
        .or(config.spare.as_deref().map(OsStr::new));
    let spare = session.spare(Address::given(given)?, Absent::Refuse, Some(&config))?;
    let state = paths::state(session.places.state.as_deref().or(config.state.as_deref()))?;
    let known = spare.talk(|channel| understudy_agent::roles(channel, Some(dataset.clone())))?;
    let standing = known
        .and_then(|mut roles| roles.pop())
        .and_then(|role| role.standing);
    let Some(standing) = standing else {
        return Err(CommandError::failed(format!(
            "the spare cannot tell which part it plays in dataset `{dataset}`"
        )));
    };
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
    let resumed = understudy_agent::resume(&source, &state, &spare.name(), standing.epoch)?;
    let line = format!(
        "{dataset}: this host is its main, in epoch {}; the next cycle compares everything",
        resumed.epoch
    );
    Ok(Report::done(
        json!({ "dataset": dataset.as_str(), "standing": roles::value(&resumed) }),
        vec![line],
    ))
}
