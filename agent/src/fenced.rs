//! What a host does once it was told that another one took over, and that it did so: the files `STATE/fenced`, one for each dataset and spare.

use std::path::{Path, PathBuf};

use understudy_protocol::{DatasetName, Role, Standing};

use crate::Context;
use crate::error::AgentError;
use crate::role::{self, Part};
use crate::sync::is_fenced;

const DIRECTORY: &str = "fenced";
/// So much of what is noted is kept: the beginning.
const NOTE_BYTES: usize = 4 << 20;

/// A dataset that another host took over, and about which nothing was done here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fencing {
    /// The dataset.
    pub dataset: DatasetName,
    /// The part that this host plays in it: it is [`Role::Fenced`], or [`Role::Main`] of a store on this host, where only the other host knows more.
    pub standing: Standing,
    place: PathBuf,
}

impl Fencing {
    /// Whether an error of a cycle says that another host took over. `None` if it says something else, if this host is no main that could
    /// be fenced, or if [`Self::note`] was called for this very fencing.
    pub fn of(
        dataset: &DatasetName,
        source: &Path,
        error: &AgentError,
        context: &Context,
    ) -> Result<Option<Self>, AgentError> {
        if !is_fenced(error) && !matches!(error, AgentError::Fenced { .. }) {
            return Ok(None);
        }
        let path = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
        let part = Part::load(&context.state, &path, dataset, &context.spare)?;
        let fencing = Self {
            dataset: dataset.clone(),
            standing: *part.standing(),
            place: context
                .state
                .join(DIRECTORY)
                .join(role::file_name(dataset, &context.spare)),
        };
        let is_main = part.is_promoted() && is_fenced(error);
        let is_of_interest = is_main || fencing.standing.role == Role::Fenced;
        Ok((is_of_interest && !fencing.is_noted()?).then_some(fencing))
    }

    fn is_noted(&self) -> Result<bool, AgentError> {
        let content = role::read_file(&self.place, NOTE_BYTES as u64 + 4096)?;
        let first = self.first_line();
        Ok(content.is_some_and(|content| content.starts_with(first.as_bytes())))
    }

    /// Which fencing it is: one that comes after a way back is another one.
    fn first_line(&self) -> String {
        let Standing {
            epoch,
            since_seconds,
            ..
        } = self.standing;
        format!("fenced in epoch {epoch}, of which this is known since {since_seconds}\n")
    }

    /// Notes what was done about it: it is not done again. Durable when it returns.
    pub fn note(&self, what: &str) -> Result<(), AgentError> {
        let mut note = self.first_line().into_bytes();
        note.extend(what.bytes().take(NOTE_BYTES));
        role::write_file(&self.place, &note)
    }
}
