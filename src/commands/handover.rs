//! `understudy handover`: the main stops, its spare has everything, and may take over.

mod telling;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use understudy_agent::config::{Config, Scheduled};
use understudy_agent::databases::Capture;
use understudy_agent::{Context, Pace, Source};
use understudy_protocol::{DatasetName, Position, Role, Snapshot, Standing};
use understudy_receiver::Store;
use understudy_receiver::handover::{self, Turn};
use understudy_tree::crash_point;

use super::{Session, roles, sync, trust};
use crate::arguments::Handover;
use crate::capturer;
use crate::confirm::{self, Question};
use crate::exit::{Code, CommandError};
use crate::hooks::{self, Ran};
use crate::imager::Imager;
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
    /// Who captures databases, once anything is sent.
    databases: Option<Arc<dyn Capture>>,
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
    let mut ground = Ground {
        session,
        spare: session.spare_of(&config)?,
        state: session.state_of(&config)?,
        databases: None,
    };
    let told: Vec<Result<Facts, CommandError>> = chosen
        .iter()
        .map(|scheduled| facts(scheduled, &ground))
        .collect();
    let lines = |one: (&Scheduled, &Result<Facts, CommandError>)| telling::shown(one.0, one.1);
    let lines: Vec<String> = chosen.iter().zip(&told).flat_map(lines).collect();
    if arguments.dry_run {
        return Ok(telling::dry(&chosen, told, lines));
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
    ground.databases = capturer::start(&config, &ground.state, session.output)?
        .map(|started| started.capture(&session.cancel));
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
    Ok(telling::finish(&done, &chosen))
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
    let told = roles::told_of(&ground.spare, dataset)?;
    let trouble = told.as_ref().and_then(|told| told.trouble.as_ref());
    if let (Some(trouble), Role::Main) = (trouble, own.role) {
        return Err(CommandError::new(
            Code::Failed,
            format!("the spare cannot take over dataset `{dataset}` yet: {trouble}"),
            "the application was not stopped: see to that first",
        ));
    }
    let newest = told.and_then(|told| told.snapshots.last().cloned());
    Ok(Facts { own, newest })
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
        crash_point!("handover.stopped");
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
    crash_point!("handover.told");
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
    // It is stopped already.
    let source = &Source {
        stillness: None,
        ..scheduled.source.clone()
    };
    let dataset = &source.dataset;
    let context = Context {
        signer: trust::signer(&ground.state)?,
        databases: ground.databases.clone(),
        images: Some(Imager::for_state(
            &ground.state,
            session.output,
            &session.cancel,
        )),
        pace: Arc::new(Pace::unlimited()),
        ..session.context(ground.state.clone(), spare)
    };
    let synced = sync::with_databases(spare, source, &context, session)?;
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
