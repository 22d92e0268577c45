//! Contents of former snapshots that come back with an upload.
//!
//! What the last commit superseded is in the retired twin until that has caught up, which happens while the upload arrives.
//! Nothing is taken before: from then on history stays as it is until the commit.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use understudy_protocol::ContentHash;
use understudy_tree::content;

use crate::catalog::Catalog;
use crate::cycle;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::housekeeping::Stop;
use crate::library::Library;

/// Whether the twins are equal yet, for those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct CaughtUp {
    /// Whether it worked, once it has ended.
    worked: Mutex<Option<bool>>,
    ended: Condvar,
}

impl CaughtUp {
    /// Brings the shadow up to date, and tells all who wait how that ended; returns how long it took.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the catalog is closed when it has ended"
    )]
    pub(crate) fn catch_up(
        &self,
        dataset: &Dataset,
        catalog: Catalog,
        locked: &Locked,
    ) -> (Result<(), ReceiverError>, Duration) {
        let started = Instant::now();
        let waiters = Waiters(self);
        let result = cycle::catch_up(dataset, &catalog, locked, &Stop::default());
        waiters.0.end(result.is_ok());
        (result, started.elapsed())
    }

    fn end(&self, worked: bool) {
        let mut ended = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(worked);
        self.ended.notify_all();
    }

    /// Returns once it has worked. If it failed, whoever ran it has the reason.
    fn wait(&self) -> Result<(), ReceiverError> {
        let worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = self
            .ended
            .wait_while(worked, |worked| worked.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        match *worked {
            Some(true) => Ok(()),
            _ => Err(ReceiverError::Worker),
        }
    }
}

/// After a panic nobody waits for ever.
struct Waiters<'a>(&'a CaughtUp);

impl Drop for Waiters<'_> {
    fn drop(&mut self) {
        self.0.end(false);
    }
}

/// Finds contents of former snapshots for one worker of an upload.
pub(crate) struct Recall<'a> {
    dataset: &'a Dataset,
    caught_up: &'a CaughtUp,
    /// Opened when it is needed.
    library: Option<Library>,
}

impl<'a> Recall<'a> {
    pub(crate) fn new(dataset: &'a Dataset, caught_up: &'a CaughtUp) -> Self {
        Self {
            dataset,
            caught_up,
            library: None,
        }
    }

    /// Fills an empty file with a content, verified as if it had been sent.
    pub(crate) fn fill(
        &mut self,
        file: &File,
        (size, hash): (u64, ContentHash),
    ) -> Result<(), ReceiverError> {
        let library = match &mut self.library {
            Some(library) => library,
            none => {
                self.caught_up.wait()?;
                none.insert(Library::open(self.dataset)?)
            }
        };
        let copied = copy(library, file, (size, hash));
        copied.map_err(|error| match error {
            error if is_of_what_is_stored(&error) => {
                tracing::warn!(dataset = %self.dataset.name, "a content that came back cannot be taken from history: {error}");
                ReceiverError::NotInHistory {
                    hash,
                    reason: error.to_string(),
                }
            }
            error => error,
        })
    }
}

fn copy(
    library: &Library,
    file: &File,
    (size, hash): (u64, ContentHash),
) -> Result<(), ReceiverError> {
    library.finder().copy(hash, file)?;
    if content::size(file)? == size && content::hash_file(file, size)? == hash {
        return Ok(());
    }
    Err(ReceiverError::Damaged(format!(
        "the content {hash} is not what it was; run `understudy verify`"
    )))
}

/// Whether it is what history has that cannot be used, so that the content has to be sent.
fn is_of_what_is_stored(error: &ReceiverError) -> bool {
    match error {
        ReceiverError::Damaged(_) => true,
        ReceiverError::Tree(error) => {
            error.errno() == Some(Errno::IO) || error.source.kind() == ErrorKind::UnexpectedEof
        }
        _ => false,
    }
}
