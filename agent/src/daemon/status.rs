//! The state of a daemon, for people: written down after each change, so that anybody can ask at any time.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_protocol::Name;
use understudy_tree::durable::{self, Durability};
use understudy_tree::watch::Method;
use understudy_tree::{Directory, Mounts};

use crate::error::AgentError;
use crate::sync::{LookedAt, SyncReport};
use crate::{Source, clock};

/// The file in the state directory.
const FILE: &str = "status.json";
/// More than any host's datasets need.
const LIMIT: u64 = 64 << 20;

/// What an agent said last. All times are seconds since 1970 by this host's clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The process that wrote it.
    pub process: u32,
    /// Its spare.
    pub spare: String,
    /// When it started.
    pub started_seconds: i64,
    /// When it was written.
    pub written_seconds: i64,
    /// All datasets.
    pub datasets: Vec<DatasetState>,
}

/// What an agent says of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetState {
    /// Its name.
    pub name: String,
    /// Its source, escaped.
    pub path: String,
    /// `fanotify`, `inotify` or `nothing`.
    pub watched_by: String,
    /// Why not by something better.
    pub because: Option<String>,
    /// When the last cycle ended, however it did.
    pub attempt_seconds: Option<i64>,
    /// When the last cycle ended well.
    pub success_seconds: Option<i64>,
    /// Why the last cycle failed, if it did.
    pub error: Option<String>,
    /// Cycles that failed since the last that did not.
    pub failures: u64,
    /// Whether the last cycle looked at everything, and why.
    pub everything_because: Option<String>,
    /// How long it took.
    pub took_seconds: f64,
    /// When the next one begins.
    pub next_seconds: i64,
    /// How long ago everything was compared.
    pub swept_seconds_ago: Option<u64>,
    /// Names and directories that are in doubt.
    pub in_doubt: u64,
    /// Why that is not all.
    pub gap: Option<String>,
    /// Changes that were found although nothing had told of them, since the start.
    pub missed: u64,
    /// Entries that could not be read in the last cycle.
    pub unreadable: u64,
    /// Files that never stood still in the last cycle.
    pub unsettled: u64,
    /// Since when the oldest of these two kinds is so.
    pub troubled_since_seconds: Option<i64>,
}

impl AgentStatus {
    pub(super) fn started(spare: &str) -> Self {
        Self {
            process: std::process::id(),
            spare: spare.to_owned(),
            started_seconds: clock::now().seconds,
            ..Self::default()
        }
    }

    pub(super) fn with(&self, datasets: Vec<DatasetState>) -> Self {
        Self {
            written_seconds: clock::now().seconds,
            datasets,
            ..self.clone()
        }
    }

    /// Whether `newer` has anything to tell beyond the time that went by.
    pub(super) fn tells_less_than(&self, newer: &Self) -> bool {
        let lasting = |one: &DatasetState| DatasetState {
            next_seconds: 0,
            swept_seconds_ago: None,
            in_doubt: 0,
            ..one.clone()
        };
        let (old, new) = (&self.datasets, &newer.datasets);
        old.len() != new.len() || old.iter().zip(new).any(|(a, b)| lasting(a) != lasting(b))
    }

    pub(super) fn write(&self, state: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| AgentError::state("encode", state.join(FILE), &error))?;
        let directory = Directory::open(state, Mounts::Cross)?;
        Ok(durable::replace(
            &directory,
            &name(state)?,
            &text,
            Durability::Later,
        )?)
    }

    /// What the agent with this state directory said last; `None` if none ever ran as a daemon.
    pub fn read(state: &Path) -> Result<Option<Self>, AgentError> {
        if !state.join(FILE).exists() {
            return Ok(None);
        }
        let directory = Directory::open(state, Mounts::Cross)?;
        let Some(text) = durable::read(&directory, &name(state)?, LIMIT)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| AgentError::state("read", state.join(FILE), &error))
    }
}

fn name(state: &Path) -> Result<Name, AgentError> {
    Name::new(FILE).map_err(|error| AgentError::state("name a file in", state, &error))
}

impl DatasetState {
    /// A cycle has ended.
    pub(super) fn cycle(&mut self, result: &Result<SyncReport, AgentError>) {
        let now = clock::now().seconds;
        self.attempt_seconds = Some(now);
        match result {
            Ok(report) => {
                self.success_seconds = Some(now);
                self.error = None;
                self.failures = 0;
                self.everything_because = match &report.looked_at {
                    LookedAt::Everything { because } => Some(because.clone()),
                    LookedAt::Journal { .. } => None,
                };
                self.took_seconds = report.seconds;
                self.missed += report.missed;
                self.unreadable = report.unreadable.len() as u64;
                self.unsettled = (report.unsettled.len() + report.fuzzy.len()) as u64;
                self.troubled_since_seconds = report.troubled_since_seconds;
            }
            Err(error) => {
                self.error = Some(error.to_string());
                self.failures += 1;
            }
        }
    }

    pub(super) fn describe(&mut self, source: &Source, method: &Method) {
        self.name = source.dataset.to_string();
        self.path = understudy_protocol::escape(source.path.as_os_str().as_bytes());
        let (by, because) = match method {
            Method::Fanotify => ("fanotify", None),
            Method::Inotify { why_not_fanotify } => ("inotify", Some(why_not_fanotify.clone())),
            Method::Unwatched { why } => ("nothing", Some(why.clone())),
        };
        by.clone_into(&mut self.watched_by);
        self.because = because;
    }

    pub(super) fn plan(&mut self, next: Duration, swept: Option<Duration>) {
        self.next_seconds = clock::now().seconds + next.as_secs().cast_signed();
        self.swept_seconds_ago = swept.map(|swept| swept.as_secs());
    }

    pub(super) fn hear(&mut self, in_doubt: u64, gap: Option<String>) {
        self.in_doubt = in_doubt;
        self.gap = gap;
    }
}
