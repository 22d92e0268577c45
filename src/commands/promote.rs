//! `understudy promote`: shows the facts, asks, makes this host the main, and runs the hooks.

mod databases;
mod facts;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use understudy_protocol::{DatasetName, Standing};
use understudy_receiver::alert::Policy;
use understudy_receiver::promote::{
    self, Facts, HeldCycle, Hooks, Preserve, Promotion, Request, Since, Step, Together,
};
use understudy_receiver::standby::Databases;
use understudy_receiver::{ReceiverError, Reserve, Store};
use understudy_tree::crash_point;

use self::databases::{Others, Site};
use super::Session;
use super::policies::configuration;
use crate::arguments::{Output, Promote, When};
use crate::confirm::{self, Question};
use crate::exit::{Code, CommandError};
use crate::hooks::{self, Ran};
use crate::receiver_config::{Hook, Promotions, Standby};
use crate::report::{self, Report};
use crate::words;

/// So many datasets are promoted at once: each mostly waits for the disk.
const AT_ONCE: usize = 16;
/// How long somebody else may work on a dataset: longer than a commit of many files.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the configuration of the store says.
struct Rules {
    promotions: Promotions,
    policy: Policy,
    reserve: Reserve,
    standbys: Vec<Standby>,
}

/// What came of one dataset.
struct Done {
    dataset: DatasetName,
    result: Result<Promotion, ReceiverError>,
    databases: Vec<databases::Done>,
    ran: Vec<Ran>,
    took: Duration,
    /// The hooks could not be written down.
    note: Option<ReceiverError>,
}

/// Promotes on the store itself, beside a receiver that may be running.
pub(crate) fn run(arguments: &Promote, session: &Session) -> Result<Report, CommandError> {
    let store = session.store_on_this_host(arguments.on_spare.clone())?;
    let config = configuration(&store, arguments.on_spare.config.as_deref())?.unwrap_or_default();
    let rules = Rules {
        promotions: config.promotions,
        policy: config.alerts.policy,
        reserve: config.reserve,
        standbys: config.standbys,
    };
    let names = names(&store, arguments)?;
    let mut told = Vec::new();
    for name in &names {
        told.push(promote::facts(&store, name).map_err(|error| (name.clone(), error)));
    }
    let values: Vec<Value> = told
        .iter()
        .map(|one| facts::value(one, &rules.policy))
        .collect();
    let lines: Vec<String> = told
        .iter()
        .flat_map(|one| facts::lines(one, &rules, arguments.preserve, &store))
        .collect();
    if arguments.dry_run {
        return Ok(dry(&told, &values, lines));
    }
    if !arguments.yes && !arguments.hooks_only {
        for line in &lines {
            report::note_line(line);
        }
        ask(&told, session)?;
    }
    let done = promote_all(&store, &names, (arguments, &rules), session);
    Ok(finish(&done, &values))
}

fn names(store: &Store, arguments: &Promote) -> Result<Vec<DatasetName>, CommandError> {
    if arguments.all {
        let all = store.dataset_names()?;
        return match all.is_empty() {
            true => Err(CommandError::failed("the store has no datasets")),
            false => Ok(all),
        };
    }
    let once: BTreeSet<&DatasetName> = arguments.datasets.iter().collect();
    Ok(once.into_iter().cloned().collect())
}

fn dry(
    told: &[Result<Facts, (DatasetName, ReceiverError)>],
    values: &[Value],
    lines: Vec<String>,
) -> Report {
    let mut report = Report::done(json!({ "dry_run": true, "datasets": values }), lines);
    report.lines.push("nothing was changed".to_owned());
    if let Some(Err((name, error))) = told.iter().find(|one| one.is_err()) {
        let error = CommandError::failed(format!("{name}: {error}"));
        report.code = error.code;
        report.error = Some(error);
    }
    report
}

/// Has a person type what is to be promoted: the name, or the number of datasets.
fn ask(
    told: &[Result<Facts, (DatasetName, ReceiverError)>],
    session: &Session,
) -> Result<(), CommandError> {
    let spares: Vec<&Facts> = told
        .iter()
        .flatten()
        .filter(|facts| facts::is_to_rise(facts))
        .collect();
    let wanted = match spares.as_slice() {
        [] => return Ok(()),
        [one] => one.dataset.to_string(),
        several => several.len().to_string(),
    };
    let what = match spares.len() {
        1 => "the name of the dataset",
        _ => "the number of datasets that are promoted",
    };
    let question = Question {
        text: &format!("The main is refused from then on. To promote, type {what} ({wanted})"),
        wanted: &wanted,
        subject: "this",
        hint: "look at `understudy promote --dry-run`, then add --yes",
    };
    confirm::ask(&question, &session.cancel)
}

fn promote_all(
    store: &Store,
    names: &[DatasetName],
    (arguments, rules): (&Promote, &Rules),
    session: &Session,
) -> Vec<Done> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let together = Together::default();
    let request = Request {
        held: if arguments.without_held {
            HeldCycle::Drop
        } else {
            HeldCycle::Refuse
        },
        preserve: match arguments.preserve {
            When::After => Preserve::After,
            When::Before => Preserve::Before,
        },
        reserve: rules.reserve,
        patience: PATIENCE,
        together: &together,
        databases: None,
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(names.len()) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What is under way is finished; the rest can be promoted by the same command again.
                    if session.cancel.is_cancelled() {
                        return;
                    }
                    let one = promote_one(store, name, (arguments, rules), &request, session);
                    tell(&one, names.len(), session.output);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(one);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by(|one, other| one.dataset.cmp(&other.dataset));
    done
}

fn promote_one(
    store: &Store,
    name: &DatasetName,
    (arguments, rules): (&Promote, &Rules),
    request: &Request<'_>,
    session: &Session,
) -> Done {
    let started = Instant::now();
    let is_only = arguments.hooks_only;
    let output = session.output;
    let tell = |step: Step| {
        if let (Step::Preserving(done, of), true) = (step, report::summarises(output)) {
            let (done, of) = (words::count(done), words::count(of));
            report::note_line(&format!("{name}: {done} of {of} files are preserved"));
        }
    };
    let others = match arguments.without_databases {
        true => Others::Leave,
        false => Others::Load,
    };
    let site = Site::of(name, &rules.standbys, others, session);
    let request = Request {
        databases: site.as_ref().map(|site| site as &dyn Databases),
        ..*request
    };
    let result = match is_only {
        true => promote::promoted(store, name),
        false => promote::promote(store, name, &request, &tell),
    };
    let took = started.elapsed();
    let mut done = Done {
        dataset: name.clone(),
        result,
        databases: site.map_or_else(Vec::new, Site::done),
        ran: Vec::new(),
        took,
        note: None,
    };
    if let Ok(promotion) = &mut done.result
        && (is_only || promotion.hooks == Hooks::Due)
    {
        (done.ran, done.note) = run_hooks(store, name, (promotion, rules), session);
    }
    done
}

fn run_hooks(
    store: &Store,
    name: &DatasetName,
    (promotion, rules): (&mut Promotion, &Rules),
    session: &Session,
) -> (Vec<Ran>, Option<ReceiverError>) {
    crash_point!("promote.hooks");
    let commands = commands(rules.promotions.hooks(name));
    let variables = variables(store, name, &promotion.standing);
    let limit = rules.promotions.limit;
    let ran = hooks::run_all(&session.runtime, &commands, &variables, limit);
    crash_point!("promote.hooked");
    let hooks = match ran.iter().any(|one| one.failure.is_some()) {
        true => Hooks::Failed,
        false => Hooks::Done,
    };
    let logged = match ran.is_empty() {
        true => Ok(()),
        false => promotion.log(&hooks::log(&ran)),
    };
    let noted = promotion.note(hooks);
    (ran, logged.and(noted).err())
}

fn commands<'a>(hooks: impl IntoIterator<Item = &'a Hook>) -> Vec<Vec<String>> {
    let commands = hooks.into_iter().map(|hook| hook.command.clone());
    commands.collect()
}

/// What a hook is told of a promotion in this store.
pub(super) fn variables(
    store: &Store,
    name: &DatasetName,
    standing: &Standing,
) -> Vec<(&'static str, String)> {
    let live = store.path().join(name.as_str()).join("live/files");
    let number = standing.snapshot.map_or(0, |position| position.number);
    vec![
        ("UNDERSTUDY_DATASET", name.to_string()),
        ("UNDERSTUDY_PATH", live.to_string_lossy().into_owned()),
        ("UNDERSTUDY_EPOCH", standing.epoch.to_string()),
        ("UNDERSTUDY_SNAPSHOT", number.to_string()),
    ]
}

/// Progress, where there are many.
fn tell(done: &Done, of: usize, output: Output) {
    if of > 1 && report::summarises(output) {
        report::note_line(&line(done));
    }
}

fn line(done: &Done) -> String {
    let name = &done.dataset;
    let promotion = match &done.result {
        Err(error) => return format!("{name}: not promoted: {error}"),
        Ok(promotion) => promotion,
    };
    let standing = &promotion.standing;
    let epoch = standing.epoch;
    let since = words::time(standing.since_seconds);
    let snapshot = standing.snapshot.map_or(0, |position| position.number);
    let what = match promotion.since {
        Since::Now => format!(
            "this host is the main now, in epoch {epoch}, with snapshot {snapshot} (took {} ms)",
            done.took.as_millis()
        ),
        Since::Before => format!("this host is the main already, since {since}, in epoch {epoch}"),
    };
    let hooks = match (promotion.hooks, done.ran.len()) {
        (Hooks::Done, 0) => String::new(),
        (Hooks::Done, count) => format!("; {}", ran(count)),
        (Hooks::Failed | Hooks::Due, _) => {
            format!(
                "; its hooks have not succeeded: `understudy promote {name} --hooks-only` runs them again"
            )
        }
    };
    format!("{name}: {what}{hooks}")
}

fn ran(count: usize) -> String {
    format!("{} succeeded", words::counted(count as u64, "hook"))
}

fn finish(done: &[Done], facts: &[Value]) -> Report {
    let values: Vec<Value> = done.iter().map(value).collect();
    let data = json!({ "dry_run": false, "facts": facts, "datasets": values });
    let mut report = Report::done(data, done.iter().map(line).collect());
    for one in done {
        let databases = one.databases.iter().filter(|_| one.result.is_ok());
        let lines = databases.map(|database| format!("{}: {}", one.dataset, database.line()));
        report.lines.extend(lines);
        for ran in &one.ran {
            ran.note_failure(&one.dataset, &mut report);
        }
        report.notes.extend(one.note.as_ref().map(|error| {
            format!(
                "{}: what became of the hooks cannot be written down: {error}",
                one.dataset
            )
        }));
    }
    let failed = done
        .iter()
        .find_map(|one| Some((&one.dataset, one.result.as_ref().err()?)));
    let is_hook_failed = |one: &Done| {
        one.result
            .as_ref()
            .is_ok_and(|promotion| promotion.hooks == Hooks::Failed)
    };
    let error = match failed {
        Some((name, error)) => Some(refused(name, error)),
        None => done.iter().find(|one| is_hook_failed(one)).map(|one| {
            CommandError::new(
                Code::Failed,
                format!(
                    "a hook of dataset {} has failed; the promotion stands",
                    one.dataset
                ),
                format!(
                    "look at what it printed; `understudy promote {} --hooks-only` runs them again",
                    one.dataset
                ),
            )
        }),
    };
    if let Some(error) = error {
        report.code = error.code;
        report.error = Some(error);
    }
    report
}

fn refused(name: &DatasetName, error: &ReceiverError) -> CommandError {
    let code = match error {
        ReceiverError::Refused(_) => Code::Held,
        ReceiverError::Fenced(_) => Code::Fenced,
        ReceiverError::NoSpace(_) => Code::NoSpace,
        ReceiverError::Damaged(_) => Code::Damage,
        _ => Code::Failed,
    };
    let hint = match error {
        ReceiverError::Database(_) => format!(
            "put right what it says and run this command again, which goes on; or, to have the files now, with the databases as they stand: \
             `understudy promote {name} --without-databases`, which never loads them afterwards (docs/databases.md says how to)"
        ),
        _ => "the other datasets are as the report says; this command can be repeated".to_owned(),
    };
    CommandError::new(
        code,
        format!("dataset {name} is not promoted: {error}"),
        hint,
    )
}

fn value(done: &Done) -> Value {
    let hooks: Vec<Value> = done.ran.iter().map(Ran::value).collect();
    let name = done.dataset.as_str();
    match &done.result {
        Err(error) => json!({ "name": name, "promoted": false, "error": error.to_string() }),
        Ok(promotion) => json!({
            "name": name,
            "promoted": true,
            "before": promotion.since == Since::Before,
            "epoch": promotion.standing.epoch,
            "snapshot": promotion.standing.snapshot.map(|position| position.number),
            "since": words::time(promotion.standing.since_seconds),
            "milliseconds": done.took.as_millis() as u64,
            "databases": done.databases.iter().map(databases::Done::value).collect::<Vec<_>>(),
            "hooks": hooks,
            "hooks_succeeded": promotion.hooks == Hooks::Done,
        }),
    }
}
