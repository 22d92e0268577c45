//! `understudy diff`: what differs between two snapshots.

use serde_json::{Map, Value, json};
use understudy_agent::Which;
use understudy_protocol::message::{Aspect, Difference, Summary, Tally};
use understudy_protocol::{Entry, RelPath};

use super::{Session, past};
use crate::arguments::{Diff, Point};
use crate::exit::CommandError;
use crate::listing::Listing;
use crate::report::{self, Report};
use crate::words;

/// Tells what is to be done with one snapshot to get the other.
pub(crate) fn run(arguments: &Diff, session: &Session) -> Result<Report, CommandError> {
    let which = |point| match point {
        Point::Live => Which::Newest,
        Point::Number(number) => Which::Number(number),
    };
    let mut listing = Listing::new(session.output, "differences");
    let mut summary = Summary::default();
    let told = session.look(&arguments.dataset, |past| {
        let from = past.snapshot(which(arguments.from))?;
        let to = past.snapshot(which(arguments.to))?;
        let numbers = (from.position.number, to.position.number);
        past.compare(numbers.0, numbers.1, |difference| {
            summary.count(difference);
            listing.tell(|| line(difference), || value(difference))
        })?;
        Ok((from.clone(), to.clone()))
    });
    listing.end(told.map(|(from, to)| {
        let mut data = Map::new();
        data.insert("dataset".to_owned(), arguments.dataset.as_str().into());
        data.insert("from".to_owned(), words::snapshot(&from));
        data.insert("to".to_owned(), words::snapshot(&to));
        data.insert("totals".to_owned(), totals_value(&summary));
        let mut lines = Vec::new();
        if report::summarises(session.output) {
            lines.push(format!(
                "from snapshot {} ({}) to {} ({}): {}",
                from.position.number,
                words::time(from.committed_seconds),
                to.position.number,
                words::time(to.committed_seconds),
                totals(&summary),
            ));
        }
        (data, lines)
    }))
}

/// One difference, for people.
pub(super) fn line(difference: &Difference) -> String {
    match difference {
        Difference::Added { path, entry } => format!("added       {path}{}", sized(entry)),
        Difference::Removed { path, entry } => format!("removed     {path}{}", sized(entry)),
        Difference::Moved { from, path, .. } => format!("moved       {from} -> {path}"),
        Difference::Changed {
            path,
            before,
            after,
        } => match Aspect::between(before, after) {
            Aspect::Attributes => format!("attributes  {path}"),
            Aspect::Kind => format!("changed     {path}  {} -> {}", before.kind(), after.kind()),
            Aspect::Content if before.content().is_some() => format!(
                "changed     {path}  {} -> {}",
                words::size(before.size_bytes()),
                words::size(after.size_bytes())
            ),
            Aspect::Content => format!("changed     {path}"),
        },
    }
}

fn sized(entry: &Entry) -> String {
    match entry.content() {
        Some((size, _)) => format!("  {}", words::size(size)),
        None => String::new(),
    }
}

/// One difference, for programs.
pub(super) fn value(difference: &Difference) -> Value {
    let told = |change: &str, path: &RelPath| {
        let mut value = words::path_value(path);
        value["change"] = change.into();
        value
    };
    match difference {
        Difference::Added { path, entry } => {
            let mut value = told("added", path);
            value["after"] = past::entry_value(entry);
            value
        }
        Difference::Removed { path, entry } => {
            let mut value = told("removed", path);
            value["before"] = past::entry_value(entry);
            value
        }
        Difference::Changed {
            path,
            before,
            after,
        } => {
            let mut value = told("changed", path);
            value["aspect"] = match Aspect::between(before, after) {
                Aspect::Kind => "kind",
                Aspect::Content => "content",
                Aspect::Attributes => "attributes",
            }
            .into();
            value["before"] = past::entry_value(before);
            value["after"] = past::entry_value(after);
            value
        }
        Difference::Moved {
            from,
            path,
            before,
            after,
        } => {
            let mut value = told("moved", path);
            value["from"] = words::path_value(from);
            value["before"] = past::entry_value(before);
            value["after"] = past::entry_value(after);
            value
        }
    }
}

/// How much of each, for programs.
pub(super) fn totals_value(summary: &Summary) -> Value {
    let tally = |tally: Tally| json!({ "entries": tally.entries, "bytes": tally.bytes });
    json!({
        "added": tally(summary.added),
        "removed": tally(summary.removed),
        "changed": tally(summary.changed),
        "attributes": tally(summary.touched),
        "moved": tally(summary.moved),
    })
}

/// How much of each that there is, for people.
pub(super) fn totals(summary: &Summary) -> String {
    let parts: Vec<String> = [
        (summary.added, "added"),
        (summary.removed, "removed"),
        (summary.changed, "changed"),
    ]
    .into_iter()
    .filter(|(tally, _)| tally.entries > 0)
    .map(|(tally, what)| {
        let size = words::size(tally.bytes);
        format!("{} {what} ({size})", words::count(tally.entries))
    })
    .chain(
        [
            (summary.touched, "with other attributes"),
            (summary.moved, "moved"),
        ]
        .into_iter()
        .filter(|(tally, _)| tally.entries > 0)
        .map(|(tally, what)| format!("{} {what}", words::count(tally.entries))),
    )
    .collect();
    if parts.is_empty() {
        "nothing differs".to_owned()
    } else {
        parts.join(", ")
    }
}
