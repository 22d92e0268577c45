//! `understudy handover`: the main stops, its spare has everything, and may take over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use understudy_agent::config::{Config, Scheduled};
use understudy_agent::{Context, Pace};
use understudy_protocol::{DatasetName, Position, Role, Snapshot, Standing};
use understudy_receiver::Store;
use understudy_receiver::handover::{self, Turn};
use understudy_tree::crash_point;

use super::{Session, roles, sync, trust};
use crate::arguments::Handover;
use crate::confirm::{self, Question};
use crate::exit::{Code, CommandError};
use crate::hooks::{self, Ran};
use crate::report::{self, Report};
use crate::spare::Spare;
use crate::words;

/// How long a program that stops an application may run.
const HOOK_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Where everything is.
struct Ground<'a> {
    session: &'a Session,
    spare: Spare,
    state: PathBuf,
}

/// What is known of a dataset before anything is done.
struct Facts {
    own: Standing,
    newest: Option<Snapshot>,
}

/// A dataset that is handed over.
struct Handed {
    standing: Standing,
    position: Position,
    /// What was done, and how long it took.
    steps: Vec<(&'static str, Duration)>,
}

/// What became of a dataset.
struct Done {
    dataset: DatasetName,
    result: Result<Handed, CommandError>,
    /// The programs that ran.
    ran: Vec<Ran>,
}

/// Hands over what is named.
pub(crate) fn run(arguments: &Handover, session: &Session) -> Result<Report, CommandError> {
    let config = Config::load(&arguments.config)?;
    let chosen = chosen(&config, arguments)?;
    let ground = Ground {
        session,
        spare: session.spare_of(&config)?,
        state: session.state_of(&config)?,
    };
    let told: Vec<Result<Facts, CommandError>> = chosen
        .iter()
        .map(|scheduled| facts(scheduled, &ground))
        .collect();
    let lines = |one: (&Scheduled, &Result<Facts, CommandError>)| shown(one.0, one.1);
    let lines: Vec<String> = chosen.iter().zip(&told).flat_map(lines).collect();
    if arguments.dry_run {
        return Ok(dry(&chosen, told, lines));
    }
    // Nobody ships while this does.
    let _alone = roles::stopped(&ground.state)?;
    let is_new = |one: &&Result<Facts, CommandError>| {
        one.as_ref().is_ok_and(|facts| facts.own.role == Role::Main)
    };
    let new = told.iter().filter(is_new).count();
    if new > 0 && !arguments.yes {
        for line in &lines {
            report::note_line(line);
        }
        confirm(&chosen, new, session)?;
    }
    let mut done = Vec::new();
    for (scheduled, facts) in chosen.iter().zip(told) {
        let mut ran = Vec::new();
        let result = facts.and_then(|facts| hand_over(scheduled, &facts, &ground, &mut ran));
        done.push(Done {
            dataset: scheduled.source.dataset.clone(),
            result,
            ran,
        });
    }
    Ok(finish(&done, &chosen))
}

fn chosen(config: &Config, arguments: &Handover) -> Result<Vec<Scheduled>, CommandError> {
    if !arguments.all {
        // Says which name is wrong.
        for dataset in &arguments.datasets {
            roles::source_of(config, dataset, &arguments.config)?;
        }
    }
    let is_chosen =
        |one: &Scheduled| arguments.all || arguments.datasets.contains(&one.source.dataset);
    let all = config.sources().into_iter().flatten();
    Ok(all.filter(is_chosen).collect())
}

/// Asks both sides; fails if the dataset cannot be handed over.
fn facts(scheduled: &Scheduled, ground: &Ground<'_>) -> Result<Facts, CommandError> {
    let source = &scheduled.source;
    let dataset = &source.dataset;
    let own = understudy_agent::standing(source, &ground.state, &ground.spare.name())?;
    let other = roles::standing_of(&ground.spare, dataset)?;
    let fenced =
        |message: String, hint: String| Err(CommandError::new(Code::Fenced, message, hint));
    if !matches!(own.role, Role::Main | Role::HandedOver) {
        return fenced(
            format!(
                "this host is `{}` of dataset `{dataset}`, in epoch {}, and has nothing to hand over",
                own.role, own.epoch
            ),
            "it is done on the main: `understudy check role --expect main` tells whether this is it"
                .to_owned(),
        );
    }
    if other.role != Role::Spare || other.epoch != own.epoch {
        return fenced(
            format!(
                "the other host is `{}` of dataset `{dataset}`, in epoch {}, and this one `{}` in epoch {}",
                other.role, other.epoch, own.role, own.epoch
            ),
            match other.role {
                Role::Main => format!(
                    "it was promoted: what is left is `understudy failback {dataset}` here, or `understudy demote {dataset} --epoch {}` where the source is in a store",
                    other.epoch
                ),
                _ => "see what `understudy status` says on both hosts".to_owned(),
            },
        );
    }
    let newest = roles::newest_of(&ground.spare, dataset)?;
    Ok(Facts { own, newest })
}

fn shown(scheduled: &Scheduled, facts: &Result<Facts, CommandError>) -> Vec<String> {
    let dataset = &scheduled.source.dataset;
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => return vec![format!("{dataset}: {}", error.message)],
    };
    let epoch = facts.own.epoch;
    if facts.own.role == Role::HandedOver {
        return vec![format!("{dataset}: was handed over, in epoch {epoch}")];
    }
    let newest = match &facts.newest {
        Some(newest) => format!(
            "its newest snapshot is {} of {}",
            newest.position.number,
            words::time(newest.committed_seconds)
        ),
        None => "it has no snapshot yet".to_owned(),
    };
    let mut lines = vec![format!(
        "{dataset}: this host is the main, in epoch {epoch}, and would hand over to its spare; {newest}"
    )];
    let stops = scheduled.on_stop.iter();
    lines.extend(stops.map(|hook| format!("  first runs: {}", hook.join(" "))));
    if scheduled.on_stop.is_empty() {
        lines.push("  no `on_stop` is configured: stop the application before".to_owned());
    }
    lines
}

fn dry(
    chosen: &[Scheduled],
    told: Vec<Result<Facts, CommandError>>,
    mut lines: Vec<String>,
) -> Report {
    let value = |(scheduled, facts): (&Scheduled, &Result<Facts, CommandError>)| {
        let facts = facts.as_ref();
        json!({
            "name": scheduled.source.dataset.as_str(),
            "standing": facts.ok().map(|facts| roles::value(&facts.own)),
            "newest": facts.ok().and_then(|facts| facts.newest.as_ref().map(words::snapshot)),
            "error": facts.err().map(|error| error.message.clone()),
            "on_stop": scheduled.on_stop,
        })
    };
    let values: Vec<Value> = chosen.iter().zip(&told).map(value).collect();
    lines.push("nothing was changed".to_owned());
    let mut report = Report::done(json!({ "dry_run": true, "datasets": values }), lines);
    if let Some(error) = told.into_iter().find_map(Result::err) {
        report.code = error.code;
        report.error = Some(error);
    }
    report
}

fn confirm(chosen: &[Scheduled], new: usize, session: &Session) -> Result<(), CommandError> {
    let (wanted, what) = match chosen {
        [one] => (one.source.dataset.to_string(), "the name of the dataset"),
        _ => (
            new.to_string(),
            "the number of datasets that are handed over",
        ),
    };
    let question = Question {
        text: &format!(
            "The application is stopped now, and nothing is shipped any more. To hand over, type {what} ({wanted})"
        ),
        wanted: &wanted,
        subject: "this",
        hint: "look at `understudy handover --dry-run`, then add --yes",
    };
    confirm::ask(&question, &session.cancel)
}

fn hand_over(
    scheduled: &Scheduled,
    facts: &Facts,
    ground: &Ground<'_>,
    ran: &mut Vec<Ran>,
) -> Result<Handed, CommandError> {
    let source = &scheduled.source;
    let dataset = &source.dataset;
    let mut steps = Vec::new();
    let standing = if facts.own.role == Role::HandedOver {
        facts.own
    } else {
        let began = Instant::now();
        *ran = stop(scheduled, facts, ground.session);
        check_stopped(dataset, ran)?;
        steps.push(("stopping", began.elapsed()));
        let began = Instant::now();
        let position = ship(scheduled, ground).map_err(still_main)?;
        steps.push(("the last cycle", began.elapsed()));
        crash_point!("handover.shipped");
        match understudy_agent::store_of(&source.path) {
            Some((store, name)) => {
                let store = Store::open_existing(&store)?;
                let turn = Turn::HandOver(position);
                handover::turn(&store, &name, facts.own.epoch, turn)?
            }
            None => {
                let spare = ground.spare.name();
                understudy_agent::retire(source, &ground.state, &spare, position)?
            }
        }
    };
    crash_point!("handover.standing");
    let position = standing.snapshot.ok_or_else(|| {
        CommandError::failed(format!(
            "nobody knows with which snapshot dataset `{dataset}` was handed over"
        ))
    })?;
    let began = Instant::now();
    ground.spare.talk(|channel| {
        understudy_agent::hand_over(channel, dataset.clone(), standing.epoch, Some(position))
    })?;
    steps.push(("telling the spare", began.elapsed()));
    Ok(Handed {
        standing,
        position,
        steps,
    })
}

/// Stops the application.
fn stop(scheduled: &Scheduled, facts: &Facts, session: &Session) -> Vec<Ran> {
    let path = scheduled.source.path.to_string_lossy().into_owned();
    let variables = [
        ("UNDERSTUDY_DATASET", scheduled.source.dataset.to_string()),
        ("UNDERSTUDY_PATH", path),
        ("UNDERSTUDY_EPOCH", facts.own.epoch.to_string()),
    ];
    hooks::run_all(&session.runtime, &scheduled.on_stop, &variables, HOOK_LIMIT)
}

fn check_stopped(dataset: &DatasetName, ran: &[Ran]) -> Result<(), CommandError> {
    let failed = ran
        .iter()
        .find_map(|one| Some((one, one.failure.as_ref()?)));
    let Some((one, failure)) = failed else {
        return Ok(());
    };
    Err(CommandError::new(
        Code::Failed,
        format!(
            "`{}`, which stops the application of dataset `{dataset}`, failed: {failure}",
            one.command.join(" ")
        ),
        "this host is the main still, and nothing was handed over: see whether the application runs, repair the program, and run it again",
    ))
}

/// Sends what is left, and makes sure that the spare has exactly that.
fn ship(scheduled: &Scheduled, ground: &Ground<'_>) -> Result<Position, CommandError> {
    let (session, spare) = (ground.session, &ground.spare);
    let source = &scheduled.source;
    let dataset = &source.dataset;
    let context = Context {
        signer: trust::signer(&ground.state)?,
        pace: std::sync::Arc::new(Pace::unlimited()),
        ..session.context(ground.state.clone(), spare)
    };
    let synced = sync::once(spare, source, &context, session)?;
    let left = synced
        .unreadable
        .iter()
        .chain(&synced.unsettled)
        .chain(&synced.fuzzy);
    let left: Vec<String> = left
        .map(|one| format!("{} ({})", one.path, one.reason))
        .collect();
    if let Some(first) = left.first() {
        return Err(CommandError::new(
            Code::Partial,
            format!(
                "not all of dataset `{dataset}` could be sent as it is: {}, the first is {first}",
                words::counted(left.len() as u64, "file")
            ),
            "make it readable, stop whatever writes there, or exclude it, and run it again",
        ));
    }
    let ours = synced.snapshot.map(|snapshot| snapshot.position);
    let theirs = roles::newest_of(spare, dataset)?.map(|snapshot| snapshot.position);
    match ours {
        Some(ours) if theirs == Some(ours) => Ok(ours),
        _ => Err(CommandError::failed(format!(
            "the newest snapshot of dataset `{dataset}` on the spare is not what this host has sent last"
        ))),
    }
}

/// The application was stopped for nothing.
fn still_main(error: CommandError) -> CommandError {
    CommandError {
        hint: format!(
            "this host is the main still: start the application again if it takes longer; {}",
            error.hint
        ),
        ..error
    }
}

fn line(done: &Done) -> String {
    let dataset = &done.dataset;
    match &done.result {
        Err(error) => format!("{dataset}: not handed over: {}", error.message),
        Ok(handed) => {
            let steps = handed.steps.iter();
            let all: Duration = steps.clone().map(|(_, took)| *took).sum();
            let steps: Vec<String> = steps
                .map(|(step, took)| format!("{step} {:.1} s", took.as_secs_f64()))
                .collect();
            format!(
                "{dataset}: handed over with snapshot {} of epoch {}, which is all that this host had, in {:.1} s ({})",
                handed.position.number,
                handed.position.epoch,
                all.as_secs_f64(),
                steps.join(", ")
            )
        }
    }
}

fn finish(done: &[Done], chosen: &[Scheduled]) -> Report {
    let value = |one: &Done| {
        let handed = one.result.as_ref().ok();
        let steps = handed.map(|handed| {
            let steps = handed.steps.iter();
            steps
                .map(|(step, took)| json!({ "step": step, "seconds": took.as_secs_f64() }))
                .collect::<Vec<_>>()
        });
        json!({
            "name": one.dataset.as_str(),
            "handed_over": handed.is_some(),
            "standing": handed.map(|handed| roles::value(&handed.standing)),
            "steps": steps,
            "hooks": one.ran.iter().map(Ran::value).collect::<Vec<_>>(),
            "error": one.result.as_ref().err().map(|error| error.message.clone()),
        })
    };
    let values: Vec<Value> = done.iter().map(value).collect();
    let mut lines: Vec<String> = done.iter().map(line).collect();
    for (one, scheduled) in done.iter().zip(chosen) {
        if one.result.is_ok() {
            let dataset = &one.dataset;
            let after = match understudy_agent::store_of(&scheduled.source.path) {
                Some(_) => format!("understudy demote {dataset} --epoch with its new epoch"),
                None => format!("understudy failback {dataset}"),
            };
            lines.push(format!(
                "next, on the other host: understudy promote {dataset}; then, here: {after}; or, instead of both, here: understudy resume {dataset}"
            ));
        }
    }
    let mut report = Report::done(json!({ "dry_run": false, "datasets": values }), lines);
    for one in done {
        for ran in &one.ran {
            ran.note_failure(&one.dataset, &mut report);
        }
    }
    if let Some(error) = done.iter().find_map(|one| one.result.as_ref().err()) {
        report.code = error.code;
        report.error = Some(CommandError::new(
            error.code,
            error.message.clone(),
            error.hint.clone(),
        ));
    }
    report
}
