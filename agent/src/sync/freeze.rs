//! A snapshot of the file system that the source is on: everything that a cycle sees is of one moment, and nobody who writes waits while it is read.
//!
//! The inodes in it are those of the source, and so are all times. So the index knows them, and the journal's marks lead to the right directories,
//! as long as they are taken before the snapshot is made: what changes after that is still marked when the next cycle comes.

use std::path::PathBuf;
use std::sync::Arc;

use understudy_protocol::DatasetName;
use understudy_tree::{Directory, Stat};

use super::Reliance;
use crate::clock;
use crate::databases::{Capture, CaptureError};
use crate::error::AgentError;
use crate::journal::Taken;
use crate::scan::Frozen;
use crate::{Context, Source};

/// A snapshot, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Freeze<'a> {
    dataset: &'a DatasetName,
    engines: &'a Arc<dyn Capture>,
    /// The source as it is in the snapshot.
    source: Source,
    frozen: Frozen,
    /// What the journal said before.
    taken: Option<Taken>,
}

impl<'a> Freeze<'a> {
    /// Makes one of a source that has programs for it.
    pub(super) fn make(
        source: &'a Source,
        context: &'a Context,
        reliance: Reliance<'_>,
    ) -> Result<Self, AgentError> {
        let dataset = &source.dataset;
        let failed = |reason: &str| AgentError::Freeze {
            dataset: dataset.clone(),
            reason: reason.to_owned(),
        };
        let Some(engines) = &context.databases else {
            return Err(failed(
                "there is no process that makes one, for the configuration had nothing for it to do when the agent was started: restart it",
            ));
        };
        let seen = |path| -> Result<Stat, AgentError> {
            let stat = Directory::open(path, source.mounts).and_then(|root| root.stat_self());
            stat.map_err(|error| failed(&format!("{error}")))
        };
        let of = seen(&source.path)?;
        let taken = reliance.journal.map(|journal| journal.take_since(0));
        let frozen = Frozen {
            at: clock::now(),
            of: of.file_system,
        };
        let made = engines.take_snapshot(dataset);
        let mut freeze = Self {
            dataset,
            engines,
            source: source.clone(),
            frozen,
            taken,
        };
        context.cancel.check()?;
        let path: PathBuf = made.map_err(|error| failed(&error.text))?;
        let found = seen(&path)?;
        if found.identity != of.identity {
            return Err(failed(&format!(
                "`{}`, which `make` has printed, is another directory than `{}`: print where that is in the snapshot",
                path.display(),
                source.path.display()
            )));
        }
        if found.file_system == of.file_system {
            return Err(failed(&format!(
                "`{}`, which `make` has printed, is the source itself, or in no snapshot",
                path.display()
            )));
        }
        freeze.source.path = path;
        Ok(freeze)
    }

    /// The source as it is in the snapshot.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn frozen(&self) -> Frozen {
        self.frozen
    }

    /// What the journal said before.
    pub(super) fn taken(&self) -> Option<Taken> {
        self.taken.clone()
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        let dropped = self.engines.drop_snapshot(self.dataset);
        // What failed in there is told where it did.
        if let Err(CaptureError { text, .. }) = dropped {
            tracing::error!(dataset = %self.dataset, "a snapshot of the file system is left: {text}");
        }
    }
}
