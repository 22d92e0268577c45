//! `understudy restore`: a dataset comes back.

mod loading;

use serde_json::{Value, json};
use understudy_agent::{
    Action, Context, Existing, Lost, Manner, Order, OwnedBy, Part, Proven, RestoreReport,
    RestoreRequest,
};
use understudy_protocol::{DatasetName, Role, escape};
use understudy_receiver::Store;
use understudy_tree::Lacking;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::loading::Loading;
use super::{Session, past, restore_all, trust};
use crate::address::Address;
use crate::arguments::{self, Output, Restore};
use crate::drills::Expectation;
use crate::exit::{Code, CommandError};
use crate::opener::Opener;
use crate::progress::Line;
use crate::remaining::Lines;
use crate::report::{self, Report};
use crate::spare::Spare;
use crate::{paths, words};

/// Writes a snapshot's tree as the target, or those of all datasets below it.
pub(crate) fn run(
    arguments: &Restore,
    opener: Option<Opener>,
    session: &Session,
) -> Result<Report, CommandError> {
    let address = session.address()?;
    check_target("target", &arguments.target, &address)?;
    if let Some(databases) = &arguments.databases {
        check_target("directory for databases", databases, &address)?;
    }
    let Some(dataset) = arguments.dataset.clone() else {
        return restore_all::run(arguments, session);
    };
    let mut request = request(arguments, dataset, arguments.target.clone())?;
    request.databases.clone_from(&arguments.databases);
    let spare = session.existing_spare()?;
    request.trust = session.trust(&spare, &request.dataset, &arguments.trusting)?;
    request.room_bytes = trust::room_bytes(&spare, &arguments.trusting);
    let nothing_is_proved = request.trust.is_none();
    if opener.is_some()
        && nothing_is_proved
        && !trust::may_load(&Proven::Unasked, &spare, &arguments.trusting)
    {
        return Err(CommandError::usage(
            "nothing proves here what the spare gives back, and a dump that is loaded can do what the database's account may",
            "give the main's key with --trust-key, or insist with --unverified",
        ));
    }
    let name = request.dataset.clone();
    let loading = opener.map(|opener| Loading::begin(opener, (&name, arguments), session));
    let loading = loading.transpose()?;
    if loading.is_some() {
        request.databases = Some(arguments.dumps());
    }
    // A restore needs no index: it works on a host that never was a main.
    let context = session.context(Path::new("").to_owned(), &spare);
    if let Some(costs) = session.expectation(&spare, Some(&request.dataset)).known() {
        context.progress.expect_costs(costs);
    }
    let shown = show(&context, session.output);
    let result = bring_back(&spare, &request, &context);
    drop(shown);
    let restored = result?;
    let expected = session.expectation(&spare, Some(&request.dataset));
    let mut report = Report::done(value(&restored, request.action, &expected), Vec::new());
    tell(
        &mut report,
        &restored,
        (request.action, &expected),
        session.output,
    );
    if request.databases.is_some()
        && restored.databases.is_none()
        && report::summarises(session.output)
    {
        let nothing = "it has no databases, so there were none to restore";
        report.lines.push(nothing.to_owned());
    }
    if let Some(loading) = loading {
        loading.finish(&mut report, session)?;
    }
    Ok(report)
}

/// Refuses a directory that nothing may be restored to.
fn check_target(what: &str, path: &Path, address: &Address) -> Result<(), CommandError> {
    let target = paths::canonical(path).map_err(|error| {
        CommandError::new(
            Code::Usage,
            format!("cannot restore to `{}`: {error}", path.display()),
            "check the path, and that its parent directory exists",
        )
    })?;
    paths::check_apart(what, &target, address)?;
    check_live(&target)
}

/// Refuses the live tree of a store on this host: understudy makes that, and an application writes there while this host is the main.
fn check_live(target: &Path) -> Result<(), CommandError> {
    let above = target.ancestors();
    let found = above.filter_map(|path| Some((path, understudy_agent::store_of(path)?)));
    let Some((live, (store, dataset))) = found.last() else {
        return Ok(());
    };
    let is_main = || {
        let standing = Store::open_existing(&store).and_then(|store| store.standing(&dataset));
        standing.is_ok_and(|standing| standing.role == Role::Main)
    };
    // What an application may do, whoever restores a part of its tree may do.
    if live != target && is_main() {
        return Ok(());
    }
    Err(CommandError::usage(
        format!(
            "`{}` is in the live tree of dataset `{dataset}` in a store on this host, which is not restored into",
            shown(target)
        ),
        "restore beside the store, and let the application that has the tree take from there what it needs",
    ))
}

/// What the command line asks for, for one dataset.
pub(super) fn request(
    arguments: &Restore,
    dataset: DatasetName,
    target: PathBuf,
) -> Result<RestoreRequest, CommandError> {
    Ok(RestoreRequest {
        dataset,
        target,
        databases: None,
        which: past::which(&arguments.selection)?,
        part: match arguments.path.is_empty() {
            true => Part::Whole,
            false => Part::Matching(arguments.path.clone()),
        },
        first: arguments.first.clone(),
        order: match arguments.order {
            arguments::Order::Newest => Order::Newest,
            arguments::Order::Smallest => Order::Smallest,
            arguments::Order::Listed => Order::Listed,
        },
        existing: if arguments.replace {
            Existing::Replace
        } else {
            Existing::Refuse
        },
        manner: if arguments.in_place_progressive {
            Manner::Progressive
        } else {
            Manner::Switch
        },
        owners: match arguments.owners {
            arguments::Owners::Number => OwnedBy::Number,
            arguments::Owners::Name => OwnedBy::Name,
        },
        lost: if arguments.skip_lost {
            Lost::Skip
        } else {
            Lost::Ask
        },
        announced: (0, 0),
        trust: None,
        room_bytes: RestoreRequest::ROOM_BYTES,
        action: if arguments.dry_run {
            Action::DryRun
        } else {
            Action::Write
        },
    })
}

/// Shows how far it is, until what it returns is dropped.
pub(super) fn show(context: &Context, output: Output) -> (Line, Lines) {
    let line = Line::show(&context.progress, output);
    (line, Lines::show(&context.progress, output))
}

/// Restores one dataset.
pub(super) fn bring_back(
    spare: &Spare,
    request: &RestoreRequest,
    context: &Context,
) -> Result<RestoreReport, CommandError> {
    spare.talk_on(|channel, reconnect| {
        understudy_agent::restore(channel, request, context, reconnect)
    })
}

/// Adds to a report what people are told of one dataset.
pub(super) fn tell(
    report: &mut Report,
    restored: &RestoreReport,
    (action, expected): (Action, &Expectation),
    output: Output,
) {
    if action == Action::DryRun {
        report.lines.push(rehearsal(restored, expected));
        report.lines.extend(databases(restored, "would become"));
    } else if report::summarises(output) {
        report.lines.push(summary(restored));
        report.lines.extend(databases(restored, "are"));
        report.lines.extend(trust::proved(&restored.proven));
        report.lines.extend(
            restored
                .kept
                .as_deref()
                .map(|kept| format!("what stood there is kept as {}", shown(kept))),
        );
    }
    report.notes.extend(trust::warning(restored));
    note(report, restored);
    if let Some(databases) = &restored.databases {
        note(report, databases);
    }
}

/// Adds what is not as it was on the main, of one tree.
fn note(report: &mut Report, tree: &RestoreReport) {
    report.notes.extend(lacks(tree.lacking));
    report.note_all(
        "some owners have no such name here and keep their numbers:",
        tree.unknown_owners.iter().cloned(),
    );
    if !tree.left_out.is_empty() {
        report.code = Code::Partial;
        let lost = words::counted(tree.left_out.len() as u64, "file");
        report.note_all(
            &format!("{lost} left out, for the content is lost:"),
            tree.left_out.iter().map(ToString::to_string),
        );
    }
    let torn = words::counted(tree.fuzzy.len() as u64, "file");
    report.note_all(
        &format!("{torn} may be torn, for the main sent what never stood still:"),
        tree.fuzzy.iter().map(ToString::to_string),
    );
}

/// What the snapshot has of databases, and where it is or how to get it; nothing if it has none.
fn databases(restored: &RestoreReport, verb: &str) -> Option<String> {
    let dumped = restored.dumped;
    let count = words::counted(dumped.databases, "database");
    if let Some(databases) = &restored.databases {
        return Some(format!(
            "the dumps of its {count} {verb} {}: {} with {}",
            shown(&databases.target),
            words::counted(databases.files, "file"),
            words::size(databases.bytes),
        ));
    }
    (dumped.databases > 0).then(|| {
        format!(
            "it has the dumps of {count} as well ({}): `understudy restore` with `--databases DIR` brings them",
            words::size(dumped.bytes)
        )
    })
}

pub(super) fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

pub(super) fn value(restored: &RestoreReport, action: Action, expected: &Expectation) -> Value {
    let mut value = tree_value(restored);
    value["dataset"] = restored.dataset.as_str().into();
    value["snapshot"] = words::snapshot(&restored.snapshot);
    value["proved"] = trust::value(&restored.proven);
    value["dry_run"] = (action == Action::DryRun).into();
    value["kept"] = restored.kept.as_deref().map(shown).into();
    value["databases"] = json!({
        "count": restored.dumped.databases,
        "bytes": restored.dumped.bytes,
        "restored": restored.databases.as_deref().map(tree_value),
    });
    value["seconds"] = restored.seconds.into();
    if action == Action::DryRun {
        let (files, bytes) = restored.amount();
        value["estimated_seconds"] = expected.seconds(files, bytes).into();
    }
    value
}

/// What is told of either tree.
fn tree_value(restored: &RestoreReport) -> Value {
    let lacking = restored.lacking;
    json!({
        "target": shown(&restored.target),
        "entries": restored.entries,
        "files": restored.files,
        "bytes": restored.bytes,
        "files_fetched": restored.files_fetched,
        "bytes_fetched": restored.bytes_fetched,
        "files_reused": restored.files_reused,
        "fuzzy": words::paths(&restored.fuzzy),
        "left_out": words::paths(&restored.left_out),
        "lacking": {
            "owner": lacking.owner,
            "mode": lacking.mode,
            "xattrs": lacking.xattrs,
            "device": lacking.device,
        },
        "unknown_owners": restored.unknown_owners,
    })
}

fn rehearsal(restored: &RestoreReport, expected: &Expectation) -> String {
    let (files, bytes) = restored.amount();
    format!(
        "would restore snapshot {} of {}, committed at {}, as {}: {}, {} with {}; {}",
        restored.snapshot.position.number,
        restored.dataset,
        words::time(restored.snapshot.committed_seconds),
        shown(&restored.target),
        words::counted(restored.entries, "entry"),
        words::counted(restored.files, "file"),
        words::size(restored.bytes),
        expected.guess(files, bytes),
    )
}

fn summary(restored: &RestoreReport) -> String {
    format!(
        "snapshot {} of {}, committed at {}, is restored as {}: {}; {} fetched ({}), {} used from here, {:.1} s",
        restored.snapshot.position.number,
        restored.dataset,
        words::time(restored.snapshot.committed_seconds),
        shown(&restored.target),
        words::counted(restored.entries, "entry"),
        words::counted(restored.files_fetched, "file"),
        words::size(restored.bytes_fetched),
        words::count(restored.files_reused),
        restored.seconds,
    )
}

/// What could not be set, told once and not for each file.
fn lacks(lacking: Lacking) -> Option<String> {
    let what: Vec<&str> = [
        (lacking.owner, "owners"),
        (lacking.mode, "permission bits"),
        (lacking.xattrs, "extended attributes"),
        (lacking.device, "device nodes"),
    ]
    .into_iter()
    .filter_map(|(is_lacking, what)| is_lacking.then_some(what))
    .collect();
    (!what.is_empty()).then(|| {
        format!(
            "note: some {} could not be set here; root may be able to",
            what.join(", ")
        )
    })
}
