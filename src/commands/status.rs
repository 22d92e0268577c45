//! `understudy status`: how far behind is the spare? On a main also: what does its agent say?

use serde_json::{Value, json};
use understudy_agent::daemon::{AgentStatus, DatasetState};
use understudy_agent::databases::DatabaseState;
use understudy_agent::{FuzzyOf, RetentionOf, Survey};
use understudy_protocol::message::DatasetStatus;
use understudy_protocol::{RelPath, escape};
use understudy_receiver::Store;

use super::quotas::Share;
use super::{Session, footing, health, loaded, overview, policies, quotas, rehearsal, roles};
use crate::address::Address;
use crate::exit::CommandError;
use crate::report::Report;
use crate::{paths, words};

/// Tells where each dataset stands.
pub(crate) fn run(session: &Session) -> Result<Report, CommandError> {
    let survey = session.survey(None, FuzzyOf::Newest)?;
    let spare = session.existing_spare()?;
    let overseen = spare.talk(understudy_agent::oversee)?;
    let listed = &survey.listed;
    let known = health::ask(&listed.datasets, session)?;
    let known_of = |dataset: &DatasetStatus| known.as_ref()?.get(&dataset.name);
    let roles = roles::ask(session)?;
    let role_of = |dataset: &DatasetStatus| roles.as_ref()?.get(&dataset.name);
    let store = store(session)?;
    let bases = match &store {
        Some(store) => loaded::all(store, &listed.datasets)?,
        None => Default::default(),
    };
    let bases_of = |dataset: &DatasetStatus| bases.get(&dataset.name).into_iter().flatten();
    let practised = rehearsal::all(store.as_ref(), &listed.datasets)?;
    let told = |dataset: &DatasetStatus| {
        let mut value = value(dataset, listed.now_seconds);
        let standing = role_of(dataset).and_then(Option::as_ref);
        value["standing"] = standing.map(roles::value).into();
        value["fuzzy"] = fuzzy(dataset, &survey).map(words::paths).into();
        value["rehearsed"] = practised.get(&dataset.name).map(rehearsal::value).into();
        value["standby"] = bases_of(dataset).map(loaded::One::value).collect();
        health::add_to(&mut value, known_of(dataset));
        value
    };
    let datasets: Vec<Value> = listed.datasets.iter().map(told).collect();
    let agent = agent_status(session);
    let state_of = |dataset: &DatasetStatus| {
        let role = roles::state(role_of(dataset));
        role.unwrap_or_else(|| state(dataset, known_of(dataset), agent.as_ref()))
    };
    let mut lines = lines(&survey, state_of);
    for dataset in &listed.datasets {
        let standing = role_of(dataset).and_then(Option::as_ref);
        let line = standing.and_then(|known| roles::line(&dataset.name, known, listed.now_seconds));
        lines.extend(line);
        lines.extend(practised.get(&dataset.name).map(|known| {
            format!(
                "{}: {}",
                dataset.name,
                rehearsal::words(known, listed.now_seconds)
            )
        }));
        let told = bases_of(dataset).map(|one| one.lines(&dataset.name, listed.now_seconds));
        lines.extend(told.flatten());
        if let Some(known) = known_of(dataset) {
            lines.extend(health::lines(&dataset.name, known, listed.now_seconds));
        }
    }
    if let Some(overseen) = &overseen {
        lines.extend(overview::lines(overseen, listed.now_seconds));
    }
    let shares = store.as_ref().map(shares).transpose()?.unwrap_or_default();
    lines.extend(quotas::lines(&shares));
    let footing = store.as_ref().map(footing::of).transpose()?;
    lines.extend(footing.iter().flat_map(footing::lines));
    if let Some(agent) = &agent {
        lines.extend(agent_lines(agent, words::now_seconds()));
    }
    let mut data = json!({
        "agent": agent,
        "datasets": datasets,
        "free_bytes": listed.free_bytes,
        "now": words::time(listed.now_seconds),
    });
    let now_seconds = listed.now_seconds;
    data["restores"] = overseen
        .as_ref()
        .map(|overseen| overview::restores(overseen, now_seconds))
        .into();
    data["quotas"] = quotas::values(&shares);
    data["store"] = footing.as_ref().map(footing::value).into();
    data["disk"] = overseen.as_ref().map(overview::disk).into();
    Ok(Report::done(data, lines))
}

/// The store, where it is on this host.
fn store(session: &Session) -> Result<Option<Store>, CommandError> {
    Ok(match session.address()? {
        Address::Directory(path) => Some(Store::open_existing(&path)?),
        Address::Host(_) | Address::Ssh(_) => None,
    })
}

/// What mains take of their quotas.
fn shares(store: &Store) -> Result<Vec<Share>, CommandError> {
    let allowed = policies::quotas(store)?;
    Ok(quotas::shares(store, &allowed)?)
}

/// What the agent of this host says of its work for this spare.
fn agent_status(session: &Session) -> Option<AgentStatus> {
    let state = paths::state(session.places.state.as_deref()).ok()?;
    let spare = session.address().ok()?.to_string();
    match AgentStatus::read(&state) {
        Ok(status) => status.filter(|status| status.spare == spare),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

fn agent_lines(agent: &AgentStatus, now_seconds: i64) -> Vec<String> {
    let age = now_seconds.saturating_sub(agent.written_seconds).max(0);
    let mut lines = vec![
        String::new(),
        format!(
            "the agent of this host (process {}) said {} ago:",
            agent.process,
            words::span(age)
        ),
    ];
    let row = |dataset| agent_row(dataset, agent.written_seconds);
    let rows: Vec<Vec<String>> = agent.datasets.iter().map(row).collect();
    lines.extend(words::table(
        &[
            "DATASET",
            "WATCHED BY",
            "IN DOUBT",
            "COMPARED",
            "LAST CYCLE",
        ],
        &[2],
        &rows,
    ));
    for dataset in &agent.datasets {
        lines.extend(agent_notes(dataset, now_seconds));
    }
    lines
}

fn agent_row(dataset: &DatasetState, written_seconds: i64) -> Vec<String> {
    let compared = dataset.swept_seconds_ago.map_or_else(
        || "-".to_owned(),
        |ago| format!("{} ago", words::span(ago.cast_signed())),
    );
    let doubt = match &dataset.gap {
        Some(_) => "everything".to_owned(),
        None => words::count(dataset.in_doubt),
    };
    let last = match (&dataset.error, dataset.success_seconds) {
        (Some(_), _) => "FAILED".to_owned(),
        (None, Some(_)) => format!("{:.1} s", dataset.took_seconds),
        (None, None) => "none yet".to_owned(),
    };
    let last = match dataset.running_since_seconds {
        Some(since) => {
            let span = words::span(written_seconds.saturating_sub(since).max(0));
            format!("{last}; one runs for {span}")
        }
        None => last,
    };
    vec![
        dataset.name.clone(),
        dataset.watched_by.clone(),
        doubt,
        compared,
        last,
    ]
}

fn agent_notes(dataset: &DatasetState, now_seconds: i64) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |text: String| notes.push(format!("{}: {text}", dataset.name));
    if let Some(because) = &dataset.because {
        note(format!("watched by {}, for {because}", dataset.watched_by));
    }
    if let Some(gap) = &dataset.gap {
        note(format!("the next cycle compares everything: {gap}"));
    }
    if let Some(error) = &dataset.error {
        note(format!(
            "{} failed: {}",
            words::counted(dataset.failures, "cycle"),
            escape(error.as_bytes())
        ));
    }
    if let Some(since) = dataset.troubled_since_seconds {
        let age = words::span(now_seconds.saturating_sub(since).max(0));
        note(format!(
            "{} could not be read and {} never stood still; the oldest for {age}",
            words::count(dataset.unreadable),
            words::count(dataset.unsettled)
        ));
    }
    for database in &dataset.databases {
        note(database_note(database, now_seconds));
    }
    if dataset.missed > 0 {
        note(format!(
            "{} found that nothing had told of",
            words::counted(dataset.missed, "change")
        ));
    }
    notes
}

fn database_note(database: &DatabaseState, now_seconds: i64) -> String {
    let name = escape(database.name.as_bytes());
    let mut note = match database.dumped_seconds {
        Some(dumped) => {
            let age = words::span(now_seconds.saturating_sub(dumped).max(0));
            format!("database {name}: the spare has the dump of {age} ago")
        }
        None => format!("database {name}: the spare has no dump yet"),
    };
    if database.failures > 0 {
        let failures = words::counted(database.failures.into(), "time");
        note.push_str(&format!("; IT COULD NOT BE TAKEN {failures} in a row"));
    }
    if database.writers_waited_seconds > 0.0 {
        let waited = database.writers_waited_seconds;
        note.push_str(&format!("; those who write waited {waited:.1} s for it"));
    }
    if database.misses > 0 {
        let misses = words::counted(database.misses, "change");
        note.push_str(&format!("; it had not told of {misses}"));
    }
    note
}

/// By the receiver's clock alone, so that two clocks never mix.
fn lag_seconds(dataset: &DatasetStatus, now_seconds: i64) -> Option<i64> {
    dataset
        .as_of_seconds
        .map(|as_of| now_seconds.saturating_sub(as_of).max(0))
}

fn value(dataset: &DatasetStatus, now_seconds: i64) -> Value {
    json!({
        "name": dataset.name.as_str(),
        "snapshot": dataset.snapshots.last().map(words::snapshot),
        "snapshots": dataset.snapshots.len(),
        "as_of": dataset.as_of_seconds.map(words::time),
        "lag_seconds": lag_seconds(dataset, now_seconds),
        "uploading": dataset.uploading,
        "trouble": dataset.trouble,
    })
}

/// The fuzzy files of the newest snapshot; `None` if nobody knows.
fn fuzzy<'a>(dataset: &DatasetStatus, survey: &'a Survey) -> Option<Vec<&'a RelPath>> {
    let newest = dataset.snapshots.last()?;
    survey.fuzzy_in(&dataset.name, newest.position.number)
}

fn lines(survey: &Survey, state_of: impl Fn(&DatasetStatus) -> &'static str) -> Vec<String> {
    let listed = &survey.listed;
    let mut lines = if listed.datasets.is_empty() {
        vec!["the spare has no datasets yet".to_owned()]
    } else {
        let rows: Vec<Vec<String>> = listed
            .datasets
            .iter()
            .map(|dataset| row(dataset, listed.now_seconds, state_of(dataset)))
            .collect();
        words::table(
            &[
                "DATASET", "BEHIND", "AS OF", "SNAPSHOT", "ENTRIES", "SIZE", "STATE",
            ],
            &[1, 3, 4, 5],
            &rows,
        )
    };
    for dataset in &listed.datasets {
        if let Some(trouble) = &dataset.trouble {
            lines.push(format!("{}: {}", dataset.name, escape(trouble.as_bytes())));
        }
        let torn = fuzzy(dataset, survey).map_or(0, |files| files.len() as u64);
        if torn > 0 {
            lines.push(format!(
                "{}: {} of the newest snapshot may be torn, for the main sent what never stood still (--json names them)",
                dataset.name,
                words::counted(torn, "file")
            ));
        }
    }
    lines.push(format!(
        "{} free on the spare",
        words::size(listed.free_bytes)
    ));
    lines
}

/// The worst that is known of it, in a word or two.
fn state(
    dataset: &DatasetStatus,
    known: Option<&RetentionOf>,
    agent: Option<&AgentStatus>,
) -> &'static str {
    let (open, accepted) = known.map_or((0, 0), |known| (known.open, known.accepted));
    let own = |state: &&DatasetState| state.name == dataset.name.as_str();
    let said = agent.and_then(|agent| agent.datasets.iter().find(own));
    if dataset.trouble.is_some() {
        "TROUBLE"
    } else if open > 0 {
        "DAMAGED"
    } else if said.is_some_and(|said| said.error.is_some()) {
        "FAILING"
    } else if dataset.uploading {
        "uploading"
    } else if dataset.snapshots.is_empty() {
        "no snapshot yet"
    } else if accepted > 0 {
        "ok but for losses"
    } else {
        "ok"
    }
}

fn row(dataset: &DatasetStatus, now_seconds: i64, state: &str) -> Vec<String> {
    let newest = dataset.snapshots.last();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        dataset.name.to_string(),
        or_dash(lag_seconds(dataset, now_seconds).map(words::span)),
        or_dash(dataset.as_of_seconds.map(words::time)),
        or_dash(newest.map(|snapshot| snapshot.position.number.to_string())),
        or_dash(newest.map(|snapshot| words::count(snapshot.entries))),
        or_dash(newest.map(|snapshot| words::size(snapshot.bytes))),
        state.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use understudy_protocol::DatasetName;

    use super::*;

    #[test]
    fn lag_is_never_negative_and_unknown_without_a_snapshot() {
        let mut dataset = DatasetStatus {
            name: DatasetName::fit(b"site"),
            snapshots: vec![],
            as_of_seconds: None,
            uploading: false,
            trouble: None,
        };
        assert_eq!(value(&dataset, 100)["lag_seconds"], Value::Null);
        dataset.as_of_seconds = Some(40);
        assert_eq!(value(&dataset, 100)["lag_seconds"], 60);
        assert_eq!(value(&dataset, 30)["lag_seconds"], 0);
    }

    #[test]
    fn the_state_is_the_worst_that_is_known() {
        let mut dataset = DatasetStatus {
            name: DatasetName::fit(b"site"),
            snapshots: vec![],
            as_of_seconds: None,
            uploading: true,
            trouble: None,
        };
        let mut known = RetentionOf::default();
        assert_eq!(state(&dataset, Some(&known), None), "uploading");
        (known.open, known.accepted) = (1, 2000);
        assert_eq!(state(&dataset, Some(&known), None), "DAMAGED");
        known.open = 0;
        assert_eq!(state(&dataset, Some(&known), None), "uploading");
        let agent = AgentStatus {
            datasets: vec![DatasetState {
                name: "site".to_owned(),
                error: Some("it is gone".to_owned()),
                ..DatasetState::default()
            }],
            ..AgentStatus::default()
        };
        assert_eq!(state(&dataset, None, Some(&agent)), "FAILING");
        dataset.trouble = Some("malformed".to_owned());
        assert_eq!(state(&dataset, None, Some(&agent)), "TROUBLE");
    }
}
