//! `understudy failback`: the old main becomes the spare of the host that took over, with the files that it has.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use understudy_agent::Source;
use understudy_agent::config::Config;
use understudy_protocol::{DatasetName, Name, Role, Snapshot, Standing, escape};
use understudy_receiver::Store;
use understudy_receiver::adopt::{self, Adopted, Adoption, Origin, Stage};
use understudy_tree::{Directory, Mounts, crash_point};

use super::{Session, adopt as adopting, configured_store, roles};
use crate::arguments::Failback;
use crate::confirm::{self, Question};
use crate::exit::{Code, CommandError};
use crate::report::{self, Report};
use crate::words;

/// More links than this on the way to a source lead in a circle.
const LINKS: usize = 16;

/// What is known before anything is done.
struct Facts {
    dataset: DatasetName,
    /// Where the source is, or was until it was taken.
    directory: PathBuf,
    /// As what this host knows itself.
    own: Standing,
    /// As what the other host is known, which is the main now.
    other: Standing,
    /// The newest snapshot that the other host has.
    newest: Option<Snapshot>,
    spare: String,
}

impl Facts {
    /// In which epoch this host was the main, as the other one knows, which may have been told last.
    fn former_epoch(&self) -> u64 {
        self.other
            .snapshot
            .map_or(self.own.epoch, |promoted| promoted.epoch)
    }
}

/// Makes this host the spare.
pub(crate) fn run(arguments: &Failback, session: &Session) -> Result<Report, CommandError> {
    let config = Config::load(&arguments.config)?;
    let source = roles::source_of(&config, &arguments.dataset, &arguments.config)?;
    let state = session.state_of(&config)?;
    if let Some((store, name)) = understudy_agent::store_of(&source.path) {
        let store = Store::open_existing(&store)?;
        return already(&store, &name, arguments);
    }
    // Nobody ships the source while it is moved.
    let _alone = roles::stopped(&state)?;
    let facts = ask(&source, &state, &config, session)?;
    if arguments.dry_run && !is_there(arguments.store.as_deref()) {
        let mut lines = told(&facts);
        lines.push("nothing was changed".to_owned());
        return Ok(Report::done(value(&facts, None), lines));
    }
    let store = store(arguments)?;
    let adoption = Adoption {
        directory: &facts.directory,
        dataset: &facts.dataset,
        main: arguments.main.as_ref(),
        origin: Origin::FormerMain {
            epoch: facts.former_epoch(),
            next: facts.other.epoch,
            least_number: facts
                .newest
                .as_ref()
                .map_or(1, |newest| newest.position.number + 1),
        },
    };
    let stage = adopt::stage(&store, &adoption)?;
    if arguments.dry_run {
        let mut lines = told(&facts);
        lines.push("nothing was changed".to_owned());
        return Ok(Report::done(value(&facts, None), lines));
    }
    if stage == Stage::Begins && !arguments.yes {
        for line in told(&facts) {
            report::note_line(&line);
        }
        confirm(&facts.dataset, session)?;
    }
    let adopted = adopt::adopt(&store, &adoption)?;
    crash_point!("failback.adopted");
    link(&facts.directory, &adopted.files)?;
    let mut lines = done(&facts, &adopted);
    lines.extend(next(&facts.dataset, &store, arguments));
    Ok(Report::done(value(&facts, Some((&adopted, stage))), lines))
}

/// The source is the live tree of a store on this host: it was done before, or is the wrong host.
fn already(
    store: &Store,
    dataset: &DatasetName,
    arguments: &Failback,
) -> Result<Report, CommandError> {
    let standing = store.standing(dataset)?;
    if standing.role != Role::Spare {
        return Err(CommandError::new(
            Code::Fenced,
            format!(
                "this host is `{}` of dataset `{dataset}`, in epoch {}, with its source in the store: there is nothing to fail back from",
                standing.role, standing.epoch
            ),
            format!(
                "if the other host was promoted since, type `understudy demote {dataset} --epoch` with the epoch that `understudy status` tells there"
            ),
        ));
    }
    let mut lines = vec![format!(
        "{dataset}: this host is its spare already, in epoch {}",
        standing.epoch
    )];
    lines.extend(next(dataset, store, arguments));
    let data = json!({ "dataset": dataset.as_str(), "standing": roles::value(&standing) });
    Ok(Report::done(data, lines))
}

/// Asks the other host, which must have taken over.
fn ask(
    source: &Source,
    state: &Path,
    config: &Config,
    session: &Session,
) -> Result<Facts, CommandError> {
    let dataset = source.dataset.clone();
    let spare = session.spare_of(config)?;
    let own = understudy_agent::standing(source, state, &spare.name())?;
    let other = roles::standing_of(&spare, &dataset)?;
    check(&dataset, &own, &other)?;
    let newest = roles::newest_of(&spare, &dataset)?;
    Ok(Facts {
        directory: place(&source.path),
        dataset,
        own,
        other,
        newest,
        spare: spare.name(),
    })
}

fn check(dataset: &DatasetName, own: &Standing, other: &Standing) -> Result<(), CommandError> {
    let fenced =
        |message: String, hint: String| Err(CommandError::new(Code::Fenced, message, hint));
    match other.role {
        Role::Main if other.epoch > own.epoch => Ok(()),
        Role::Main => fenced(
            format!(
                "the other host is the main of dataset `{dataset}` in epoch {}, and this one was it in epoch {}: they do not belong together",
                other.epoch, own.epoch
            ),
            "check --spare and the configuration on both hosts".to_owned(),
        ),
        Role::Spare => fenced(
            format!(
                "the other host is the spare of dataset `{dataset}`, in epoch {}: it has not taken over, and there is nothing to fail back from",
                other.epoch
            ),
            format!(
                "to have it take over, type `understudy promote {dataset}` there; to go on as the main here, `understudy resume {dataset}`"
            ),
        ),
        role => fenced(
            format!(
                "the other host is `{role}` of dataset `{dataset}`, in epoch {}, and not its main",
                other.epoch
            ),
            format!("see what `understudy status` says there of {dataset}"),
        ),
    }
}

/// Where a source is that may be gone: behind all links that lead there.
fn place(path: &Path) -> PathBuf {
    let mut path = adopting::place(path);
    for _ in 0..LINKS {
        let Ok(to) = std::fs::read_link(&path) else {
            break;
        };
        let beside = path.parent().unwrap_or(Path::new("/")).join(to);
        path = adopting::place(&beside);
    }
    path
}

fn is_there(store: Option<&Path>) -> bool {
    store.is_none_or(Path::exists)
}

/// The store on this host, which may be new.
fn store(arguments: &Failback) -> Result<Store, CommandError> {
    let path = match &arguments.store {
        Some(path) => path.clone(),
        None => configured_store(None)?,
    };
    // A link leads there from elsewhere.
    Ok(Store::open(&adopting::place(&path))?)
}

fn confirm(dataset: &DatasetName, session: &Session) -> Result<(), CommandError> {
    let question = Question {
        text: &format!(
            "Has everything been stopped that writes there? Type the name of the dataset ({dataset})"
        ),
        wanted: dataset.as_str(),
        subject: "this",
        hint: "look at it with --dry-run, then add --yes",
    };
    confirm::ask(&question, &session.cancel)
}

/// Puts a link where the source was, for the configuration and for whoever looks there.
fn link(from: &Path, to: &Path) -> Result<(), CommandError> {
    let failed = |error: understudy_tree::TreeError| CommandError::failed(error.to_string());
    if std::fs::read_link(from).is_ok_and(|target| target == to) {
        return Ok(());
    }
    let (Some(parent), Some(name)) = (from.parent(), from.file_name()) else {
        return Ok(());
    };
    let name =
        Name::new(name.as_bytes()).map_err(|error| CommandError::failed(error.to_string()))?;
    let parent = Directory::open(parent, Mounts::Cross).map_err(failed)?;
    parent
        .create_symlink(&name, to.as_os_str().as_bytes())
        .and_then(|()| parent.sync())
        .map_err(failed)
}

/// What is known, for people.
fn told(facts: &Facts) -> Vec<String> {
    let Facts {
        dataset,
        own,
        other,
        newest,
        ..
    } = facts;
    let mut lines = vec![format!(
        "{dataset}: the other host ({}) is the main in epoch {}; this one was it in epoch {}, and would be the spare",
        facts.spare, other.epoch, own.epoch
    )];
    if let Some(newest) = newest {
        lines.push(format!(
            "  the newest snapshot there: {} of {}",
            newest.position.number,
            words::time(newest.committed_seconds)
        ));
    }
    lines.push(format!(
        "  moved into the store, without a copy: `{}`; all of it becomes a pinned snapshot, with what was never shipped",
        shown(&facts.directory)
    ));
    lines
}

fn done(facts: &Facts, adopted: &Adopted) -> Vec<String> {
    let dataset = &facts.dataset;
    let at = adopted.snapshot.position;
    let mut lines = vec![
        format!(
            "{dataset}: what this host had is snapshot {} of epoch {}: {}, {}; it is pinned",
            at.number,
            at.epoch,
            words::counted(adopted.snapshot.entries, "entry"),
            words::size(adopted.snapshot.bytes)
        ),
        format!(
            "{dataset}: this host is its spare, in epoch {}; `{}` leads to `{}`",
            facts.other.epoch,
            shown(&facts.directory),
            shown(&adopted.files)
        ),
    ];
    lines.extend(adopting::losses(adopted, dataset.as_str()));
    lines
}

/// What is to be typed now.
fn next(dataset: &DatasetName, store: &Store, arguments: &Failback) -> Vec<String> {
    let store = words::typed(&shown(store.path()));
    let mut lines = vec![
        format!(
            "next, here: start the receiver with the store {store}, and let the other host in:"
        ),
        format!(
            "    understudy pair --new {} --store {store}",
            arguments.main.as_ref().map_or("NAME", |main| main.as_str())
        ),
    ];
    if arguments.main.is_none() {
        lines.push(format!(
            "    understudy pair --grant NAME {dataset} --store {store}"
        ));
    }
    lines.push(format!(
        "then, there: what `pair --new` says; and start its agent with the source STORE/{dataset}/live/files and the name {dataset}"
    ));
    lines
}

fn value(facts: &Facts, adopted: Option<(&Adopted, Stage)>) -> serde_json::Value {
    json!({
        "dataset": facts.dataset.as_str(),
        "dry_run": adopted.is_none(),
        "own": roles::value(&facts.own),
        "other": roles::value(&facts.other),
        "newest": facts.newest.as_ref().map(words::snapshot),
        "adopted": adopted.map(|(adopted, stage)| adopting::value(adopted, facts.dataset.as_str(), stage)),
    })
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
