//! Alerts: the spare watches its main, so that a main that says nothing is noticed.
//!
//! Owns when an alert is raised, repeated, acknowledged and over, by the receiver's clock alone, and keeps that on
//! disk. Must not know how people are told: no sockets, no processes.

mod cycles;
mod decide;
mod record;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use understudy_protocol::DatasetName;

pub(crate) use cycles::{Cycles, Observed};
pub use record::{Acknowledged, acknowledge};
pub use watch::{Delivery, Look, Summary, Watch};

/// The threshold that is agreed on unless something else is said.
const PROMOTE_AFTER: Duration = Duration::from_secs(2 * 60 * 60);

/// What can be wrong with a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The spare is further behind than the limit.
    Lag,
    /// Several cycles in a row have failed.
    Failures,
    /// A guard refused the newest cycles: they would have removed too much.
    Guard,
    /// Something keeps the dataset on the spare from working.
    Trouble,
    /// A verification or a scrub found something that is not as the main sent it.
    Damage,
    /// The main has not been heard of for so long that a promotion is to be decided over. Told once.
    Silent,
    /// Somebody changed the live tree, or a former main had what it never shipped: it is kept, and nobody has dealt with it. Told once.
    Drift,
    /// The newest dump of a database cannot be loaded on the spare.
    Standby,
    /// The disk of the store will be full before long. No dataset has this, but the store itself.
    Space,
    /// Where the live trees are served from, somebody could write. The store itself has this, too.
    Served,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Lag,
        Self::Failures,
        Self::Guard,
        Self::Trouble,
        Self::Damage,
        Self::Silent,
        Self::Drift,
        Self::Standby,
        Self::Space,
        Self::Served,
    ];
    /// Those of datasets.
    const OF_DATASETS: [Self; 8] = [
        Self::Lag,
        Self::Failures,
        Self::Guard,
        Self::Trouble,
        Self::Damage,
        Self::Silent,
        Self::Drift,
        Self::Standby,
    ];

    /// The word for programs and for the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Failures => "failures",
            Self::Guard => "guard",
            Self::Trouble => "trouble",
            Self::Damage => "damage",
            Self::Silent => "silent",
            Self::Drift => "drift",
            Self::Standby => "standby",
            Self::Space => "space",
            Self::Served => "served",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| {
            format!("`{text}` is none of lag, failures, guard, trouble, damage, silent, drift, standby, space and served")
        })
    }
}

/// From when on something is an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Lag above this, for datasets that have no limit of their own.
    pub lag: Duration,
    /// This many failed cycles in a row; never 0.
    pub failures: u32,
    /// Time after which an alert that nobody acknowledged is told again.
    pub repeat: Duration,
    /// The disk will be full in less than this.
    pub space: Duration,
    /// Limits of single datasets.
    pub datasets: BTreeMap<DatasetName, Duration>,
    /// Nothing was heard of the main for so long: then a promotion is to be decided over.
    pub promote_after: Duration,
    /// The same for single datasets.
    pub promote_after_of: BTreeMap<DatasetName, Duration>,
    /// Where the live trees are shown to whoever serves them; nobody may write there.
    pub served: Option<PathBuf>,
}

impl Default for Policy {
    /// Four missed cycles of the default interval.
    fn default() -> Self {
        Self {
            lag: Duration::from_secs(60 * 60),
            failures: 3,
            repeat: Duration::from_secs(4 * 60 * 60),
            space: Duration::from_secs(7 * 24 * 60 * 60),
            datasets: BTreeMap::new(),
            promote_after: PROMOTE_AFTER,
            promote_after_of: BTreeMap::new(),
            served: None,
        }
    }
}

impl Policy {
    /// For how long nothing must be heard of a dataset's main before a promotion is to be decided over, in seconds.
    pub fn promote_after_seconds(&self, dataset: &DatasetName) -> i64 {
        seconds(
            *self
                .promote_after_of
                .get(dataset)
                .unwrap_or(&self.promote_after),
        )
    }

    /// The limit of a dataset's lag in seconds.
    pub fn lag_limit_seconds(&self, dataset: &DatasetName) -> i64 {
        seconds(*self.datasets.get(dataset).unwrap_or(&self.lag))
    }
}

/// Why a notice is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The alert is new.
    Raised,
    /// It was told before, is still there, and nobody acknowledged it.
    Repeated,
    /// It was told, and the reason is gone.
    Over,
}

impl Event {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Repeated => "repeated",
            Self::Over => "over",
        }
    }
}

/// Something that people are to be told now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whose; `None`: that of the store itself.
    pub dataset: Option<DatasetName>,
    /// What is wrong, or was.
    pub kind: Kind,
    /// Why it is told.
    pub event: Event,
    /// What happened, for people; without control characters.
    pub reason: String,
    /// When the alert was raised, seconds since 1970.
    pub since_seconds: i64,
    /// Now, by the same clock.
    pub time_seconds: i64,
    /// How far behind the spare is; `None` if it has no snapshot or cannot tell.
    pub lag_seconds: Option<i64>,
    /// The limit of the lag.
    pub lag_limit_seconds: i64,
    /// Failed cycles in a row.
    pub failures: u32,
}

impl Notice {
    /// One sentence for people.
    pub fn text(&self) -> String {
        let Self {
            dataset,
            kind,
            reason,
            ..
        } = self;
        let whose = match dataset {
            Some(dataset) => format!("dataset {dataset}"),
            None => "the store".to_owned(),
        };
        let lasted = span(self.time_seconds.saturating_sub(self.since_seconds));
        match self.event {
            Event::Raised => format!("{whose}: {kind}: {reason}"),
            Event::Repeated => format!("{whose}: still {kind}, for {lasted}: {reason}"),
            Event::Over => {
                format!("{whose}: {kind} is over after {lasted}; it was: {reason}")
            }
        }
    }
}

/// Whole seconds, for the arithmetic of clocks.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// A span of time for people.
fn span(seconds: i64) -> String {
    format!("{:#}", SignedDuration::from_secs(seconds.max(0)))
}
