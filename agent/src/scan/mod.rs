//! Comparing the source tree with the index, and turning what differs into changes.
//!
//! All workers walk the tree, one directory at a time, each merged in order with its rows. What can be judged by
//! itself is sent at once. What needs to know the whole tree waits until it was seen: names that seem gone
//! ([`again`], [`removal`]), files that moved or have several names ([`linked`]). The scan knows the network as an
//! [`Outbox`] only.

mod again;
mod decide;
mod linked;
mod queue;
mod read;
mod removal;
mod visit;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use understudy_protocol::transport::Outgoing;
use understudy_protocol::{DirectoryId, Name, Place, RelPath, StateDigest, Timestamp};
use understudy_tree::{Directory, Identity, Mounts, Stat, TreeError, crash_point};

use crate::error::AgentError;
use crate::index::Index;
use crate::outbox::{Outbox, Shared};
use crate::progress::Phase;
use crate::{Context, Source};

use queue::Queue;
use worker::Worker;

/// How often directories that changed meanwhile are looked at again.
const ROUNDS: usize = 3;
/// The name of the file tree's root.
pub(crate) const ROOT_NAME: &[u8] = b"files";

/// A directory of the source and the number it goes by.
#[derive(Debug)]
pub(crate) struct Folder {
    path: RelPath,
    id: DirectoryId,
    /// Directories above it.
    depth: usize,
}

impl Folder {
    fn place(&self, name: &Name) -> Place {
        Place::new(self.id, name.clone())
    }
}

/// A directory to be looked at.
#[derive(Debug)]
pub(crate) struct Task {
    folder: Arc<Folder>,
    identity: Identity,
    /// Whether its own entry was put in this upload: then it may not be found gone before the next.
    was_put: bool,
}

/// A directory that was looked at.
#[derive(Debug)]
struct Looked {
    folder: Arc<Folder>,
    identity: Identity,
    /// Its change time before it was listed; `None` if that was too young to prove anything.
    changed: Option<Timestamp>,
}

/// Where the number of an indexed directory was seen in this scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Where the index has it.
    Home,
    /// Somewhere else: it moved.
    Away,
}

/// A name that can only be judged once the whole tree was seen.
#[derive(Debug, Clone)]
struct Deferred {
    folder: Arc<Folder>,
    name: Name,
    identity: Identity,
    /// Whether the base has a row at this place.
    has_row: bool,
}

/// Something that could not be captured; the spare keeps what it has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path below the root.
    pub path: RelPath,
    /// Why.
    pub reason: String,
}

/// Numbers about a scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    /// Base entries whose place is empty now, moved files included.
    pub(crate) removed: u64,
    /// Those of them that were found elsewhere.
    pub(crate) found_again: u64,
    pub(crate) moved: u64,
    pub(crate) files_read: u64,
    pub(crate) bytes_read: u64,
    pub(crate) sockets: u64,
    /// Rows written to the index.
    pub(crate) rows: u64,
}

/// What workers found, apart from what they sent.
#[derive(Debug, Default)]
struct Findings {
    tally: Tally,
    /// Base entries that are not on disk, with their number if they are directories.
    missing: BTreeMap<Place, Option<DirectoryId>>,
    /// Directories in whose place something else stands.
    displaced: Vec<DirectoryId>,
    /// Directories that moved, with the place they came from.
    moved: Vec<(DirectoryId, Place)>,
    looked: Vec<Looked>,
    deferred: Vec<Deferred>,
    unreadable: Vec<Problem>,
    unsettled: Vec<Problem>,
}

impl Findings {
    fn merge(&mut self, other: Self) {
        let (tally, more) = (&mut self.tally, other.tally);
        tally.added += more.added;
        tally.changed += more.changed;
        tally.removed += more.removed;
        tally.found_again += more.found_again;
        tally.moved += more.moved;
        tally.files_read += more.files_read;
        tally.bytes_read += more.bytes_read;
        tally.sockets += more.sockets;
        tally.rows += more.rows;
        self.missing.extend(other.missing);
        self.displaced.extend(other.displaced);
        self.moved.extend(other.moved);
        self.looked.extend(other.looked);
        self.deferred.extend(other.deferred);
        self.unreadable.extend(other.unreadable);
        self.unsettled.extend(other.unsettled);
    }
}

/// What all workers of a scan share.
pub(crate) struct Scan<'a> {
    root: &'a Directory,
    root_stat: &'a Stat,
    source: &'a Source,
    context: &'a Context,
    index: &'a Index,
    /// Which directory holds the agent's state: it is left out.
    state: Option<(Identity, (u32, u32))>,
    /// Whether the base has no entries: nothing can have moved then, and all content is new.
    base_is_empty: bool,
    outgoing: Outgoing,
    shared: Arc<Shared>,
    next_directory: AtomicU64,
    stands: Mutex<HashMap<DirectoryId, Stand>>,
    /// The digest of what was added less that of what went, of all workers that have ended.
    digest: Mutex<StateDigest>,
}

/// What a scan needs to begin.
pub(crate) struct Start<'a> {
    pub(crate) root: &'a Directory,
    pub(crate) root_stat: &'a Stat,
    pub(crate) source: &'a Source,
    pub(crate) context: &'a Context,
    pub(crate) index: &'a Index,
    pub(crate) base_is_empty: bool,
    pub(crate) next_directory: u64,
}

/// What a finished scan says.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// To be merged into the digest of the base.
    pub(crate) digest: StateDigest,
    pub(crate) next_directory: u64,
    /// Changes sent.
    pub(crate) records: u64,
    pub(crate) tally: Tally,
    pub(crate) unreadable: Vec<Problem>,
    pub(crate) unsettled: Vec<Problem>,
}

/// Compares everything, sends what differs, and leaves the new state pending in the index.
pub(crate) fn run(start: &Start<'_>, outgoing: &Outgoing) -> Result<Outcome, AgentError> {
    let scan = Scan {
        root: start.root,
        root_stat: start.root_stat,
        source: start.source,
        context: start.context,
        index: start.index,
        state: identity_of(&start.context.state),
        base_is_empty: start.base_is_empty,
        outgoing: outgoing.clone(),
        shared: Arc::default(),
        next_directory: AtomicU64::new(start.next_directory),
        stands: Mutex::default(),
        digest: Mutex::new(StateDigest::empty()),
    };
    let mut findings = scan.walk()?;
    #[cfg(test)]
    crate::testing::passed(&scan.source.path, "walked");
    again::look_again(&scan, &mut findings)?;
    crash_point!("agent.scanned");
    scan.context.progress.enter(Phase::Sending);
    removal::apply(&scan, &mut findings)?;
    #[cfg(test)]
    crate::testing::passed(&scan.source.path, "judging");
    linked::settle(&scan, &mut findings)?;
    // What was put off may stand where a directory was.
    removal::apply(&scan, &mut findings)?;
    scan.finish(findings)
}

/// What a directory is known by, wherever it is met.
fn identity_of(path: &Path) -> Option<(Identity, (u32, u32))> {
    let directory = Directory::open(path, Mounts::Cross).ok()?;
    let stat = directory.stat_self().ok()?;
    Some((stat.identity, stat.file_system))
}

impl Scan<'_> {
    fn walk(&self) -> Result<Findings, AgentError> {
        let task = self.alone(|worker| {
            worker.refuse_if_emptied()?;
            worker.settle_root()
        })?;
        let (task, mut findings) = task;
        findings.merge(self.all(&Queue::new(vec![task]))?);
        Ok(findings)
    }

    /// Works through a queue of directories with all workers.
    fn all(&self, queue: &Queue) -> Result<Findings, AgentError> {
        self.in_parallel(|worker| {
            let _stop = StopOnPanic(queue);
            while let Some(task) = queue.take() {
                match worker.visit(&task) {
                    Ok(found) => queue.done(found),
                    Err(error) => {
                        queue.stop();
                        return Err(error);
                    }
                }
            }
            Ok(())
        })
    }

    /// Runs `work` on one worker.
    fn alone<T>(
        &self,
        work: impl FnOnce(&mut Worker<'_>) -> Result<T, AgentError>,
    ) -> Result<(T, Findings), AgentError> {
        let reader = self.index.reader()?;
        let mut worker = Worker::new(self, &reader);
        let result = work(&mut worker)?;
        Ok((result, worker.finish()?))
    }

    /// Runs `work` on as many workers as there are processors.
    fn in_parallel(
        &self,
        work: impl Fn(&mut Worker<'_>) -> Result<(), AgentError> + Sync,
    ) -> Result<Findings, AgentError> {
        let threads = thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 16);
        let results: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| self.alone(&work)))
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let mut findings = Findings::default();
        let mut failed = None;
        for result in results {
            match result {
                Ok(((), found)) => findings.merge(found),
                // The error that a worker met says more than that others were told to stop.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(findings), Err)
    }

    fn finish(self, mut findings: Findings) -> Result<Outcome, AgentError> {
        self.check_source()?;
        findings
            .unreadable
            .sort_unstable_by(|a, b| a.path.cmp(&b.path));
        findings
            .unsettled
            .sort_unstable_by(|a, b| a.path.cmp(&b.path));
        findings.unreadable.dedup_by(|a, b| a.path == b.path);
        findings.unsettled.dedup_by(|a, b| a.path == b.path);
        Ok(Outcome {
            digest: self
                .digest
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
            next_directory: self.next_directory.into_inner(),
            records: self.shared.records(),
            tally: findings.tally,
            unreadable: findings.unreadable,
            unsettled: findings.unsettled,
        })
    }

    /// The path must still lead to the directory that was read: an unmounted or replaced source proves nothing
    /// about what is missing in it.
    fn check_source(&self) -> Result<(), AgentError> {
        let path = &self.source.path;
        let now = Directory::open(path, self.source.mounts).and_then(|root| root.stat_self());
        match now {
            Ok(stat) if stat.identity == self.root_stat.identity => Ok(()),
            _ => Err(AgentError::SourceVanished { path: path.clone() }),
        }
    }

    fn outbox(&self) -> Outbox {
        Outbox::new(self.outgoing.clone(), Arc::clone(&self.shared))
    }

    fn stands(&self) -> MutexGuard<'_, HashMap<DirectoryId, Stand>> {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a directory's number for a place; `false` if it was already seen at another.
    fn claim(&self, id: DirectoryId, stand: Stand) -> bool {
        match self.stands().entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(stand);
                true
            }
        }
    }

    fn stand(&self, id: DirectoryId) -> Option<Stand> {
        self.stands().get(&id).copied()
    }
}

/// Without this the others would wait for a worker that is no more.
struct StopOnPanic<'a>(&'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// Whether an error is about one entry alone: it is listed and the cycle goes on. What this process itself ran
/// out of is not.
fn is_about_entry(error: &TreeError) -> bool {
    use rustix::io::Errno;
    !matches!(
        error.errno(),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests;
