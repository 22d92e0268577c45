//! `understudy drift`: what was kept that no main has sent.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use understudy_agent::{
    Action, Existing, Lost, Manner, Order, OwnedBy, Part, Past, RestoreRequest, Which,
};
use understudy_protocol::message::{Difference, Summary};
use understudy_protocol::{DatasetName, Entry, Node, RelPath, escape};
use understudy_receiver::Store;
use understudy_receiver::drift::{self, Kept};

use super::{Session, diff, restore};
use crate::address::Address;
use crate::arguments::{Drift, DriftAction};
use crate::drills::Expectation;
use crate::exit::{Code, CommandError};
use crate::listing::Listing;
use crate::report::{self, Report};
use crate::spare::{Absent, Spare};
use crate::{paths, words};

/// Lists, shows or restores.
pub(crate) fn run(arguments: Drift, session: &Session) -> Result<Report, CommandError> {
    match arguments.action {
        DriftAction::List { dataset, on_spare } => {
            list(dataset, &session.store_on_this_host(on_spare)?)
        }
        DriftAction::Show {
            dataset,
            snapshot,
            on_spare,
        } => {
            let store = session.store_on_this_host(on_spare)?;
            let point = Point::find(&store, &dataset, snapshot, session)?;
            show(&point, session)
        }
        DriftAction::Accept {
            dataset,
            snapshot,
            on_spare,
        } => accept(&dataset, snapshot, &session.store_on_this_host(on_spare)?),
        DriftAction::Restore {
            dataset,
            snapshot,
            target,
            on_spare,
        } => {
            let store = session.store_on_this_host(on_spare)?;
            let point = Point::find(&store, &dataset, snapshot, session)?;
            bring_back(&point, target, session)
        }
    }
}

/// Ends a halt.
fn accept(dataset: &DatasetName, number: u64, store: &Store) -> Result<Report, CommandError> {
    let was_halted = drift::accept(store, dataset, number).map_err(|error| {
        let mut error = CommandError::from(error);
        error.hint = format!("`understudy drift list {dataset}` lists what there is");
        error
    })?;
    let data = json!({
        "dataset": dataset.as_str(),
        "snapshot": number,
        "was_halted": was_halted,
    });
    let before = match was_halted {
        true => "",
        false => "nothing was halted, and ",
    };
    let line = format!(
        "{dataset}: {before}the main's next cycle undoes the drift; it stays snapshot {number}, pinned"
    );
    Ok(Report::done(data, vec![line]))
}

fn list(dataset: Option<DatasetName>, store: &Store) -> Result<Report, CommandError> {
    let names = match dataset {
        Some(name) => vec![name],
        None => store.dataset_names()?,
    };
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for name in &names {
        for kept in drift::points(store, name)? {
            rows.push(row(name, &kept));
            values.push(value(name, &kept));
        }
    }
    let data = json!({ "points": values });
    let lines = match rows.is_empty() {
        true => vec!["there are no drift points".to_owned()],
        false => words::table(
            &["DATASET", "SNAPSHOT", "EPOCH", "TIME", "UNDONE BY", "WHAT"],
            &[1, 2, 4],
            &rows,
        ),
    };
    Ok(Report::done(data, lines))
}

fn row(name: &DatasetName, kept: &Kept) -> Vec<String> {
    let position = kept.snapshot.position;
    let after = kept
        .after
        .map_or_else(|| "nothing yet".to_owned(), |number| number.to_string());
    let pin = match &kept.pin {
        Some(reason) => escape(reason.as_bytes()),
        None => "(unpinned)".to_owned(),
    };
    vec![
        name.to_string(),
        position.number.to_string(),
        position.epoch.to_string(),
        words::time(kept.snapshot.committed_seconds),
        after,
        pin,
    ]
}

fn value(name: &DatasetName, kept: &Kept) -> Value {
    json!({
        "dataset": name.as_str(),
        "snapshot": words::snapshot(&kept.snapshot),
        "pin": kept.pin,
        "before": kept.before,
        "after": kept.after,
    })
}

/// A drift point, and where it is.
struct Point {
    dataset: DatasetName,
    kept: Kept,
    /// The store as a spare of this process.
    spare: Spare,
    store: PathBuf,
}

impl Point {
    fn find(
        store: &Store,
        dataset: &DatasetName,
        number: u64,
        session: &Session,
    ) -> Result<Self, CommandError> {
        let points = drift::points(store, dataset)?.into_iter();
        let mut points = points.filter(|kept| kept.snapshot.position.number == number);
        let kept = points.next().ok_or_else(|| {
            CommandError::new(
                Code::Failed,
                format!("snapshot {number} of dataset `{dataset}` is no drift point"),
                format!("`understudy drift list {dataset}` lists them"),
            )
        })?;
        let path = store.path().to_owned();
        Ok(Self {
            dataset: dataset.clone(),
            kept,
            spare: session.spare(Address::Directory(path.clone()), Absent::Refuse, None)?,
            store: path,
        })
    }

    fn number(&self) -> u64 {
        self.kept.snapshot.position.number
    }

    /// Tells what it has that the snapshot beside it has not.
    fn compare(
        &self,
        session: &Session,
        each: impl FnMut(&Difference) -> Result<(), understudy_agent::AgentError>,
    ) -> Result<Option<u64>, CommandError> {
        let beside = self.kept.before.or(self.kept.after);
        let Some(beside) = beside else {
            return Ok(None);
        };
        self.spare.talk(|channel| {
            let past = Past::open(channel, self.dataset.clone(), &session.cancel)?;
            past.compare(beside, self.number(), each)
        })?;
        Ok(Some(beside))
    }
}

fn show(point: &Point, session: &Session) -> Result<Report, CommandError> {
    let mut listing = Listing::new(session.output, "differences");
    let mut summary = Summary::default();
    let compared = point.compare(session, |difference| {
        summary.count(difference);
        listing.tell(
            || format!("{}{}", diff::line(difference), by_whom(difference)),
            || diff::value(difference),
        )
    });
    listing.end(compared.map(|beside| {
        let mut data = Map::new();
        data.insert("point".to_owned(), value(&point.dataset, &point.kept));
        data.insert("compared_with".to_owned(), beside.into());
        data.insert("totals".to_owned(), diff::totals_value(&summary));
        let mut lines = Vec::new();
        if report::summarises(session.output) {
            let found = words::time(point.kept.snapshot.committed_seconds);
            lines.push(match beside {
                Some(beside) => format!(
                    "snapshot {}, found at {found}, beside snapshot {beside}: {}",
                    point.number(),
                    diff::totals(&summary)
                ),
                None => format!(
                    "snapshot {}, found at {found}: there is none to compare it with",
                    point.number()
                ),
            });
        }
        (data, lines)
    }))
}

/// Who has a file that was added or changed, and when it was changed, as far as the file tells.
fn by_whom(difference: &Difference) -> String {
    let entry = match difference {
        Difference::Added { entry, .. } => entry,
        Difference::Changed { after, .. } | Difference::Moved { after, .. } => after,
        Difference::Removed { .. } => return String::new(),
    };
    let attributes = &entry.attributes;
    format!(
        "  (of user {}, {})",
        attributes.uid,
        words::time(attributes.modified.seconds)
    )
}

/// Restores what was added or changed.
fn bring_back(point: &Point, target: PathBuf, session: &Session) -> Result<Report, CommandError> {
    let place = paths::canonical(&target).map_err(|error| {
        CommandError::usage(
            format!("cannot restore to `{}`: {error}", target.display()),
            "check the path, and that its parent directory exists",
        )
    })?;
    let store = Address::Directory(point.store.clone());
    paths::check_apart("target", &place, &store)?;
    let mut wanted = HashSet::new();
    point.compare(session, |difference| {
        wanted.extend(wanted_of(difference));
        Ok(())
    })?;
    if wanted.is_empty() {
        return Err(CommandError::new(
            Code::Failed,
            format!(
                "nothing was added or changed in snapshot {} of dataset `{}`",
                point.number(),
                point.dataset
            ),
            format!(
                "`understudy drift show {} {}` tells what was removed; `understudy restore --snapshot {}` restores everything",
                point.dataset,
                point.number(),
                point.number()
            ),
        ));
    }
    let request = RestoreRequest {
        dataset: point.dataset.clone(),
        target,
        which: Which::Number(point.number()),
        databases: None,
        part: Part::At(wanted),
        first: Vec::new(),
        order: Order::Listed,
        existing: Existing::Refuse,
        manner: Manner::Switch,
        owners: OwnedBy::Number,
        lost: Lost::Ask,
        announced: (0, 0),
        trust: None,
        room_bytes: u64::MAX,
        action: Action::Write,
    };
    let context = session.context(Path::new("").to_owned(), &point.spare);
    let shown = restore::show(&context, session.output);
    let restored = restore::bring_back(&point.spare, &request, &context);
    drop(shown);
    let (restored, expected) = (restored?, Expectation::default());
    let mut report = Report::done(
        restore::value(&restored, request.action, &expected),
        Vec::new(),
    );
    restore::tell(
        &mut report,
        &restored,
        (request.action, &expected),
        session.output,
    );
    Ok(report)
}

/// The path of what was added or changed; of a directory only if it is new.
fn wanted_of(difference: &Difference) -> Option<RelPath> {
    let is_directory = |entry: &Entry| matches!(entry.node, Node::Directory { .. });
    match difference {
        Difference::Added { path, .. } | Difference::Moved { path, .. } => Some(path.clone()),
        Difference::Changed { path, after, .. } if !is_directory(after) => Some(path.clone()),
        Difference::Changed { .. } | Difference::Removed { .. } => None,
    }
}
