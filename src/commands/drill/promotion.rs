//! `understudy drill --promote`: a promotion for practice, on the spare, of a copy in a store of its own. The dataset is only read.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use understudy_agent::{Action, Existing, Lost, Manner, Order, OwnedBy, Part, RestoreRequest};
use understudy_protocol::{DatasetName, Name, Role, Snapshot};
use understudy_receiver::adopt::{Adoption, Origin, adopt};
use understudy_receiver::promote::{
    self, Facts, HeldCycle, Preserve, Promotion, Request, Together,
};
use understudy_receiver::rehearsal::{self, Rehearsed, Way};
use understudy_receiver::{Reserve, Store};
use understudy_tree::{Directory, Mounts};

use super::super::policies::configuration;
use super::super::{Session, past, restore};
use super::{Scratch, trust};
use crate::address::Address;
use crate::arguments::{Drill, OnSpare};
use crate::exit::{Code, CommandError};
use crate::hooks::{self, Ran};
use crate::receiver_config::{Hook, ReceiverConfig};
use crate::report::{self, Report};
use crate::spare::Absent;
use crate::{paths, words};

/// What tells a hook that nothing of it may last.
const REHEARSAL: (&str, &str) = ("UNDERSTUDY_REHEARSAL", "1");

/// What is practised with.
struct Ground<'a> {
    session: &'a Session,
    arguments: &'a Drill,
    store: &'a Store,
    config: &'a ReceiverConfig,
    facts: Facts,
    way: Way,
}

/// A copy of the newest snapshot.
struct Copied {
    snapshot: Snapshot,
    /// Files without which it was made, for their content is lost.
    left_out: Vec<String>,
}

/// What came of it.
struct Practised {
    way: Way,
    /// How long it took to have a store with the copy.
    preparation: Duration,
    copied: Copied,
    /// Whether what was promoted is as much as what the snapshot has.
    is_whole: bool,
    epoch: u64,
    promotion: Duration,
    ran: Vec<Ran>,
    left_out: Vec<Hook>,
}

/// Copies, promotes the copy, runs the hooks that can be rehearsed, remembers how long it took, and removes it all.
pub(super) fn run(arguments: &Drill, session: &Session) -> Result<Report, CommandError> {
    let on_spare = OnSpare {
        store: arguments.store.clone(),
        config: arguments.config.clone(),
    };
    let store = session.store_on_this_host(on_spare)?;
    let config = configuration(&store, arguments.config.as_deref())?.unwrap_or_default();
    let name = &arguments.dataset;
    let facts = promote::facts(&store, name)?;
    let newest = check(&facts)?;
    let (place, way) = place(arguments, &store, (name, &newest), config.reserve)?;
    let ground = Ground {
        session,
        arguments,
        store: &store,
        config: &config,
        facts,
        way,
    };
    announce(&ground, &newest)?;
    let scratch = Scratch::make(&place, name)?;
    let result = practise(&ground, &scratch);
    // Whatever came of it.
    let removed = scratch.remove();
    let practised = result?;
    removed.map_err(|error| scratch.failed(&error))?;
    let report = finish(name, &practised);
    if report.error.is_none() {
        rehearsal::remember(&store, name, &record(&practised))?;
    }
    Ok(report)
}

/// Only a spare can be promoted.
fn check(facts: &Facts) -> Result<Snapshot, CommandError> {
    let (name, standing) = (&facts.dataset, &facts.standing);
    if standing.role != Role::Spare {
        return Err(CommandError::new(
            Code::Fenced,
            format!(
                "this host is `{}` of dataset `{name}`, in epoch {}: a promotion is practised on its spare",
                standing.role, standing.epoch
            ),
            "run it on the other host",
        ));
    }
    facts.newest.clone().ok_or_else(|| {
        CommandError::failed(format!(
            "dataset `{name}` has no snapshot yet: there is nothing to practise with"
        ))
    })
}

/// Where the copy is made, and how.
fn place(
    arguments: &Drill,
    store: &Store,
    (name, newest): (&DatasetName, &Snapshot),
    reserve: Reserve,
) -> Result<(PathBuf, Way), CommandError> {
    let place = arguments.scratch.as_deref().unwrap_or(store.path());
    let place = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
    let place = paths::canonical(&place).unwrap_or(place);
    let directory = Directory::open(&place, Mounts::Cross).map_err(|error| {
        CommandError::usage(
            format!("cannot use `{}` for a drill: {error}", place.display()),
            "give an existing directory with --scratch",
        )
    })?;
    let way = rehearsal::way(store, name, (&directory, newest.bytes), reserve);
    let way = way.map_err(|error| {
        let error = CommandError::from(error);
        let hint = "give a directory with more room with --scratch";
        CommandError::new(error.code, error.message, hint)
    })?;
    Ok((place, way))
}

/// A copy may take long.
fn announce(ground: &Ground<'_>, newest: &Snapshot) -> Result<(), CommandError> {
    if !report::summarises(ground.session.output) {
        return Ok(());
    }
    let (name, number) = (&ground.arguments.dataset, newest.position.number);
    let size = words::size(newest.bytes);
    let what = match ground.way {
        Way::Share => format!(
            "snapshot {number} is copied without room, for this file system shares blocks, and {size} are read"
        ),
        Way::Copy => {
            let spare = ground
                .session
                .spare(here(ground.store), Absent::Refuse, None)?;
            let expected = ground.session.expectation(&spare, Some(name));
            format!(
                "snapshot {number} is copied ({size}, {}), and read once more",
                expected.guess(newest.entries, newest.bytes)
            )
        }
    };
    report::note_line(&format!("{name}: {what}"));
    Ok(())
}

fn here(store: &Store) -> Address {
    Address::Directory(store.path().to_owned())
}

fn practise(ground: &Ground<'_>, scratch: &Scratch) -> Result<Practised, CommandError> {
    let directory = &scratch.directory;
    // Hooks may be other users, as with the live tree.
    directory
        .set_mode(0o711)
        .map_err(|error| scratch.failed(&error))?;
    let began = Instant::now();
    let copied = copy(ground, scratch)?;
    let store = scratch.target.with_file_name("store");
    let store = Store::open(&store)?;
    let files = Directory::open(&scratch.target, Mounts::Cross);
    let writable = files.and_then(|files| {
        let mode = files.stat_self()?.mode;
        // Nobody but root may move a directory that he may not write to.
        files.set_mode(mode | 0o200)
    });
    writable.map_err(|error| scratch.failed(&error))?;
    let is_whole = furnish(ground, (&store, &scratch.target), &copied)?;
    let name = &ground.arguments.dataset;
    // The store of a spare that is kept up to date has its second tree already.
    rehearsal::settle(&store, name)?;
    let preparation = began.elapsed();
    let request = Request {
        databases: None,
        held: HeldCycle::Refuse,
        preserve: Preserve::After,
        reserve: ground.config.reserve,
        patience: Duration::ZERO,
        together: &Together::default(),
    };
    let began = Instant::now();
    let promotion = promote::promote(&store, name, &request, &|_| {})?;
    let took = began.elapsed();
    let (ran, left_out) = run_hooks(ground, &store, &promotion);
    Ok(Practised {
        way: ground.way,
        preparation,
        copied,
        is_whole,
        epoch: promotion.standing.epoch,
        promotion: took,
        ran,
        left_out,
    })
}

/// Makes the files, which no hook can reach the store through.
fn copy(ground: &Ground<'_>, scratch: &Scratch) -> Result<Copied, CommandError> {
    let (snapshot, left_out) = match ground.way {
        Way::Share => {
            let files = scratch.target.file_name().unwrap_or_default();
            let files = Name::new(files.as_encoded_bytes())
                .map_err(|error| CommandError::failed(error.to_string()))?;
            let to = (&scratch.directory, &files);
            let snapshot = rehearsal::share(ground.store, &ground.arguments.dataset, to)?;
            (snapshot, Vec::new())
        }
        Way::Copy => bring_back(ground, &scratch.target)?,
    };
    Ok(Copied { snapshot, left_out })
}

/// As `understudy restore` does it, beside the receiver and whatever it does meanwhile.
fn bring_back(ground: &Ground<'_>, target: &Path) -> Result<(Snapshot, Vec<String>), CommandError> {
    let (arguments, session) = (ground.arguments, ground.session);
    let spare = session.spare(here(ground.store), Absent::Refuse, None)?;
    let context = session.context(PathBuf::new(), &spare);
    let request = RestoreRequest {
        dataset: arguments.dataset.clone(),
        target: target.to_owned(),
        which: past::which(&arguments.selection)?,
        databases: None,
        part: Part::Whole,
        first: Vec::new(),
        order: Order::Listed,
        existing: Existing::Refuse,
        manner: Manner::Switch,
        owners: OwnedBy::Number,
        // A promotion does not ask for them either.
        lost: Lost::Skip,
        announced: (0, 0),
        // Whose it is does not matter for what is removed again.
        trust: None,
        room_bytes: trust::room_bytes(&spare, &arguments.trusting),
        action: Action::Write,
    };
    let shown = restore::show(&context, session.output);
    let restored = restore::bring_back(&spare, &request, &context);
    drop(shown);
    let restored = restored?;
    let left_out = restored.left_out.iter().map(ToString::to_string);
    Ok((restored.snapshot, left_out.collect()))
}

/// Makes the copy the dataset of a store, where the dataset itself stands; whether it is as much.
fn furnish(
    ground: &Ground<'_>,
    (store, files): (&Store, &Path),
    copied: &Copied,
) -> Result<bool, CommandError> {
    let snapshot = &copied.snapshot;
    let adoption = Adoption {
        directory: files,
        dataset: &ground.arguments.dataset,
        main: None,
        origin: Origin::FormerMain {
            epoch: snapshot.position.epoch,
            next: ground.facts.standing.epoch,
            least_number: snapshot.position.number,
        },
    };
    let adopted = adopt(store, &adoption)?.snapshot;
    Ok((adopted.entries, adopted.bytes) == (snapshot.entries, snapshot.bytes))
}

/// Runs those that can be rehearsed; and the others.
fn run_hooks(ground: &Ground<'_>, store: &Store, promotion: &Promotion) -> (Vec<Ran>, Vec<Hook>) {
    let name = &ground.arguments.dataset;
    let promotions = &ground.config.promotions;
    let hooks = promotions.hooks(name).iter().cloned();
    let (run, left_out): (Vec<Hook>, Vec<Hook>) = hooks.partition(|hook| hook.can_be_rehearsed);
    let commands: Vec<Vec<String>> = run.into_iter().map(|hook| hook.command).collect();
    let mut variables = super::super::promote::variables(store, name, &promotion.standing);
    variables.push((REHEARSAL.0, REHEARSAL.1.to_owned()));
    let runtime = &ground.session.runtime;
    let ran = hooks::run_all(runtime, &commands, &variables, promotions.limit);
    (ran, left_out)
}

fn hooks_took(practised: &Practised) -> Duration {
    practised.ran.iter().map(|ran| ran.took).sum()
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn record(practised: &Practised) -> Rehearsed {
    Rehearsed {
        ended_seconds: words::now_seconds(),
        position: practised.copied.snapshot.position,
        promotion_milliseconds: milliseconds(practised.promotion),
        hooks_milliseconds: milliseconds(hooks_took(practised)),
        ran: practised.ran.len() as u64,
        left_out: practised.left_out.len() as u64,
    }
}

fn finish(name: &DatasetName, practised: &Practised) -> Report {
    let mut report = Report::done(value(name, practised), lines(name, practised));
    if !practised.is_whole {
        report.notes.push(format!(
            "{name}: what was promoted is not as much as snapshot {} has: `understudy verify {name}` and `understudy status` tell what is wrong",
            practised.copied.snapshot.position.number
        ));
    }
    report.note_all(
        &format!("{name}: left out, for the content is lost:"),
        practised.copied.left_out.iter().cloned(),
    );
    let failed = practised.ran.iter().find(|ran| ran.failure.is_some());
    if let Some(failed) = failed {
        failed.note_failure(name, &mut report);
        report.code = Code::Failed;
        report.error = Some(CommandError::new(
            Code::Failed,
            format!("the hook `{}` has failed", failed.command.join(" ")),
            "look at what it printed; the dataset itself was only read, and nothing was remembered of this practice",
        ));
    }
    report
}

fn lines(name: &DatasetName, practised: &Practised) -> Vec<String> {
    let copied = &practised.copied;
    let succeeded = practised.ran.iter().filter(|ran| ran.failure.is_none());
    let mut lines = vec![format!(
        "{name}: snapshot {} was promoted for practice, to epoch {}, within {} ms; {} succeeded in {:.1} s; the copy was ready after {:.1} s, and is removed",
        copied.snapshot.position.number,
        practised.epoch,
        practised.promotion.as_millis(),
        words::counted(succeeded.count() as u64, "hook"),
        hooks_took(practised).as_secs_f64(),
        practised.preparation.as_secs_f64(),
    )];
    let ran = practised.ran.iter().map(|ran| {
        let took = ran.took.as_secs_f64();
        format!("  ran, in {took:.1} s: {}", ran.command.join(" "))
    });
    lines.extend(ran);
    let left_out = practised.left_out.iter();
    lines.extend(left_out.map(|hook| {
        let command = hook.command.join(" ");
        format!("  would run, and cannot be rehearsed: {command}")
    }));
    lines
}

fn value(name: &DatasetName, practised: &Practised) -> Value {
    let copied = &practised.copied;
    let left_out: Vec<_> = practised
        .left_out
        .iter()
        .map(|hook| &hook.command)
        .collect();
    json!({
        "dataset": name.as_str(),
        "snapshot": words::snapshot(&copied.snapshot),
        "epoch": practised.epoch,
        "whole": practised.is_whole,
        "files_left_out": copied.left_out,
        "copied_by": match practised.way {
            Way::Share => "sharing blocks",
            Way::Copy => "copying",
        },
        "preparation_seconds": practised.preparation.as_secs_f64(),
        "promotion_milliseconds": milliseconds(practised.promotion),
        "hooks_milliseconds": milliseconds(hooks_took(practised)),
        "hooks": practised.ran.iter().map(Ran::value).collect::<Vec<_>>(),
        "would_run": left_out,
    })
}
