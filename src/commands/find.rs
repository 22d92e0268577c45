//! `understudy find`: every version of files, and when it was there.

use serde_json::{Map, Value, json};
use understudy_protocol::message::Version;
use understudy_protocol::{Snapshot, escape};

use super::{Session, past};
use crate::arguments::Find;
use crate::exit::CommandError;
use crate::listing::Listing;
use crate::report::Report;
use crate::words;

/// Tells the versions of files that match.
pub(crate) fn run(arguments: &Find, session: &Session) -> Result<Report, CommandError> {
    let seconds = |text: &Option<String>| text.as_deref().map(past::seconds).transpose();
    let (since, until) = (seconds(&arguments.since)?, seconds(&arguments.until)?);
    let mut listing = Listing::new(session.output, "versions");
    let mut found: u64 = 0;
    let told = session.look(&arguments.dataset, |past| {
        let snapshots = past.snapshots();
        let times = |snapshot: &&Snapshot| {
            let seconds = snapshot.committed_seconds;
            since.is_none_or(|since| seconds >= since) && until.is_none_or(|until| seconds <= until)
        };
        let number = |snapshot: &Snapshot| snapshot.position.number;
        let (Some(first), Some(last)) = (
            snapshots.iter().find(times).map(number),
            snapshots.iter().rev().find(times).map(number),
        ) else {
            return Ok(());
        };
        past.find(&arguments.pattern, Some(first), Some(last), |version| {
            // What was only in snapshots that are gone cannot be brought back.
            let Some(stretch) = Stretch::of(version, snapshots) else {
                return Ok(());
            };
            found += 1;
            listing.tell(|| stretch.line(version), || stretch.value(version))
        })
    });
    listing.end(told.map(|()| {
        let data = json!({ "dataset": arguments.dataset.as_str(), "pattern": arguments.pattern });
        let lines = match found {
            0 => vec![format!(
                "no file matches `{}`",
                escape(arguments.pattern.as_bytes())
            )],
            _ => Vec::new(),
        };
        (
            match data {
                Value::Object(data) => data,
                _ => Map::new(),
            },
            lines,
        )
    }))
}

/// The snapshots that have a version.
struct Stretch<'a> {
    first: &'a Snapshot,
    last: &'a Snapshot,
    /// The first one that does not have it any more.
    gone: Option<&'a Snapshot>,
}

impl<'a> Stretch<'a> {
    fn of(version: &Version, snapshots: &'a [Snapshot]) -> Option<Self> {
        let from = snapshots.partition_point(|found| found.position.number < version.since);
        let to = version.until.map_or(snapshots.len(), |until| {
            snapshots.partition_point(|found| found.position.number < until)
        });
        let stretch = snapshots.get(from..to)?;
        Some(Self {
            first: stretch.first()?,
            last: stretch.last()?,
            gone: snapshots.get(to),
        })
    }

    fn line(&self, version: &Version) -> String {
        let numbers = format!(
            "{}..{}",
            self.first.position.number, self.last.position.number
        );
        let state = match self.gone {
            None => "live".to_owned(),
            Some(gone) => format!("until {}", words::time(gone.committed_seconds)),
        };
        format!(
            "{numbers:>9}  from {}  {state:<26}  {:>8}  {}",
            words::time(self.first.committed_seconds),
            words::size(version.entry.size_bytes()),
            version.path,
        )
    }

    fn value(&self, version: &Version) -> Value {
        let told = |snapshot: &Snapshot| {
            let time = words::time(snapshot.committed_seconds);
            json!({ "number": snapshot.position.number, "time": time })
        };
        let mut value = past::placed_value(&version.path, &version.entry);
        value["first"] = told(self.first);
        value["last"] = told(self.last);
        value["gone"] = self.gone.map(told).into();
        value["live"] = self.gone.is_none().into();
        value
    }
}
