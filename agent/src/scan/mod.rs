//! Comparing the source tree with the index, and turning what differs into changes.
//!
//! All workers walk the tree, one directory at a time, each merged in order with its rows. What can be judged by
//! itself is sent at once. What needs to know the whole tree waits until it was seen: names that seem gone
//! ([`again`], [`removal`]), files that moved or have several names ([`linked`]). The scan knows the network as an
//! [`Outbox`] only.

mod again;
mod captured;
mod comparison;
mod decide;
mod delta;
mod doubts;
mod findings;
mod fuzzy;
mod kept;
mod left;
mod linked;
mod marked;
mod missed;
mod number;
mod parts;
mod pass;
mod queue;
mod read;
mod recall;
mod removal;
mod resume;
mod short;
mod sqlite;
mod stands;
mod visit;
mod way;
mod worker;
mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use understudy_protocol::transport::Outgoing;
use understudy_protocol::{DirectoryId, Name, Place, RelPath, StateDigest, Timestamp};
use understudy_tree::{Directory, Identity, Mounts, Stat, TreeError, crash_point};

use crate::clock;
use crate::dumps::Captured;
use crate::effort::Effort;
use crate::error::AgentError;
use crate::index::Index;
use crate::journal::{Doubt, Journal, Marked, Taken};
use crate::leftovers::Leftovers;
use crate::outbox::{Outbox, Shared};
use crate::owners::Numbers;
use crate::progress::Phase;
use crate::{Context, Source};

use queue::Queue;

use findings::Findings;
use fuzzy::FuzzyPlaces;
use kept::Keeping;
use marked::Look;
use parts::Parts;
use sqlite::Databases;
use stands::Stands;

pub use findings::Problem;
pub(crate) use findings::{Spot, Tally};
pub(crate) use missed::Missed;
pub(crate) use sqlite::Turn;

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

    /// What a problem with a name in it is about.
    fn spot(&self, name: &Name) -> (RelPath, Spot) {
        let spot = Spot {
            directory: self.id,
            name: Some(name.clone()),
        };
        (self.path.join(name), spot)
    }

    /// What a problem with the directory itself is about.
    fn itself(&self) -> (RelPath, Spot) {
        let spot = Spot {
            directory: self.id,
            name: None,
        };
        (self.path.clone(), spot)
    }
}

/// A directory to be looked at.
#[derive(Debug)]
pub(crate) struct Task {
    folder: Arc<Folder>,
    identity: Identity,
    /// Whether its own entry was put in this upload: then it may not be found gone before the next.
    was_put: bool,
    look: Look,
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
    trust: Trust,
    /// The version of the protocol.
    spoken: u32,
    /// What the spare has of interrupted uploads.
    leftovers: &'a Leftovers,
    /// When the snapshot of the file system was made that stands for the source, if one does: nothing that is seen is newer.
    as_of: Option<Timestamp>,
    /// Names in doubt, for a look at everything.
    doubts: HashMap<Identity, BTreeMap<Name, Doubt>>,
    /// Whether differences are remembered, to check the journal with.
    is_checked: bool,
    parts: Parts,
    /// Directories on the way to others that were found where they should be.
    on_the_way: Mutex<HashMap<DirectoryId, RelPath>>,
    /// Set when too much is in doubt for looking at it by name.
    is_lost: AtomicBool,
    /// Directories of which all has to be looked at, with their inodes: they were not where they had just been
    /// seen, or could not be read before.
    unvisited: Mutex<HashMap<DirectoryId, Option<Identity>>>,
    first_new: u64,
    outgoing: Outgoing,
    shared: Arc<Shared>,
    next_directory: AtomicU64,
    stands: Stands,
    fuzzy: FuzzyPlaces,
    /// Databases among the files.
    databases: Databases,
    /// Which names stay for the sake of databases.
    keeping: Keeping,
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
    pub(crate) trust: Trust,
    /// The version of the protocol.
    pub(crate) spoken: u32,
    /// Where it is counted how the time of its workers is spent.
    pub(crate) effort: &'a Arc<Effort>,
    pub(crate) leftovers: &'a Leftovers,
    pub(crate) scope: Scope<'a>,
    /// What was captured of the dataset's databases before; `None` if it has none.
    pub(crate) captured: Option<&'a Captured>,
    /// Whether databases among the files that changed are taken.
    pub(crate) turn: Turn,
    /// The snapshot of the file system that `root` is in, if it is in one; `source` has its path then.
    pub(crate) frozen: Option<Frozen>,
}

/// A snapshot of a file system, in the place of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frozen {
    /// When it was made, or a little before that.
    pub(crate) at: Timestamp,
    /// The file system that the source itself is on.
    pub(crate) of: (u32, u32),
}

/// What a scan looks at.
#[derive(Debug)]
pub(crate) enum Scope<'a> {
    /// Everything; nobody watched.
    Everything,
    /// Everything; a journal told what changed, maybe not all.
    Sweep(Told<'a>),
    /// What a sound journal told.
    Marks(Told<'a>),
}

/// A journal and what was taken from it for this cycle.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) taken: Taken,
}

/// What proves that a file did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Its inode, size and times.
    Times,
    /// Its content alone: everything is read again.
    Content,
}

/// What a finished scan says.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// To be merged into the digest of the base.
    pub(crate) digest: StateDigest,
    pub(crate) next_directory: u64,
    /// Changes sent.
    pub(crate) records: u64,
    /// Who owns what was sent.
    pub(crate) owners: Numbers,
    pub(crate) tally: Tally,
    pub(crate) unreadable: Vec<Problem>,
    pub(crate) unsettled: Vec<Problem>,
    pub(crate) fuzzy: Vec<Problem>,
    /// Where the spare has a file that may be a mixture, those included that were not sent now.
    pub(crate) fuzzy_places: BTreeSet<Place>,
    /// What the journal should have told but did not.
    pub(crate) missed: Missed,
    /// What is still in doubt.
    pub(crate) in_doubt: Vec<Marked>,
    /// What is still in doubt because its directory could not be found.
    pub(crate) nowhere: Vec<Marked>,
    /// Whether the next cycle has to look at everything.
    pub(crate) is_lost: bool,
    /// Names that are gone and stay in this snapshot: the next one takes them away.
    pub(crate) kept: Vec<Spot>,
    /// Databases among the files.
    pub(crate) sqlite: Vec<Spot>,
    /// Whether databases among the files changed that were left as the spare has them, or were met first.
    pub(crate) is_turn_of_databases: bool,
}

/// Compares, sends what differs, and leaves the new state pending in the index.
pub(crate) fn run(start: Start<'_>, outgoing: &Outgoing) -> Result<Outcome, AgentError> {
    let (mut doubts, mut checked) = (HashMap::new(), None);
    if let Scope::Sweep(told) = &start.scope {
        for marked in &told.taken.marked {
            doubts.insert(marked.identity, marked.names.clone());
        }
        checked = told.taken.gap.is_none().then_some(told.journal);
    }
    let databases = Databases::begin(&start, start.turn)?;
    let scan = Scan {
        root: start.root,
        root_stat: start.root_stat,
        source: start.source,
        context: start.context,
        index: start.index,
        state: state_of(&start),
        as_of: start.frozen.map(|frozen| frozen.at),
        base_is_empty: start.base_is_empty,
        trust: start.trust,
        spoken: start.spoken,
        leftovers: start.leftovers,
        doubts,
        is_checked: checked.is_some(),
        parts: Parts::default(),
        on_the_way: Mutex::default(),
        is_lost: AtomicBool::new(false),
        unvisited: Mutex::default(),
        first_new: start.next_directory,
        outgoing: outgoing.clone(),
        shared: Arc::new(Shared::new(
            Arc::clone(&start.context.pace),
            Arc::clone(start.effort),
            start.context.cancel.clone(),
        )),
        next_directory: AtomicU64::new(start.next_directory),
        stands: Stands::default(),
        fuzzy: FuzzyPlaces::new(start.index.fuzzy()?),
        keeping: Keeping::new(start.captured, databases.staying, start.index)?,
        databases,
        digest: Mutex::new(StateDigest::empty()),
    };
    let mut findings = match start.scope {
        Scope::Marks(told) => {
            let Told { journal, taken } = told;
            let findings = marked::look(&scan, journal, taken)?;
            scan.refuse_if_emptied(&findings)?;
            findings
        }
        Scope::Everything | Scope::Sweep(_) => {
            let mut findings = scan.walk()?;
            #[cfg(test)]
            crate::testing::passed(&scan.source.path, "walked");
            again::look_again(&scan, &mut findings)?;
            findings
        }
    };
    crash_point!("agent.scanned");
    scan.context.progress.enter(Phase::Sending);
    removal::apply(&scan, &mut findings)?;
    #[cfg(test)]
    crate::testing::passed(&scan.source.path, "judging");
    linked::settle(&scan, &mut findings)?;
    // What was put off may stand where a directory was.
    removal::apply(&scan, &mut findings)?;
    let missed = match checked {
        Some(journal) => missed::judge(&scan, journal, &findings.different)?,
        None => Missed::default(),
    };
    left::settle(&scan, &mut findings)?;
    kept::settle(&scan, &mut findings)?;
    // Without any, what the spare says to have of databases is nothing that this host has.
    let databases = start
        .captured
        .map_or(&[][..], |captured| &captured.databases);
    captured::ship(&scan, databases, &mut findings)?;
    scan.finish(findings, missed)
}

/// What a directory is known by, wherever it is met.
fn identity_of(path: &Path) -> Option<(Identity, (u32, u32))> {
    let directory = Directory::open(path, Mounts::Cross).ok()?;
    let stat = directory.stat_self().ok()?;
    Some((stat.identity, stat.file_system))
}

/// What the agent's state is known by in the source: in a snapshot of its file system the same inode is on another one.
fn state_of(start: &Start<'_>) -> Option<(Identity, (u32, u32))> {
    let (identity, file_system) = identity_of(&start.context.state)?;
    Some(match start.frozen {
        Some(frozen) if frozen.of == file_system => (identity, start.root_stat.file_system),
        _ => (identity, file_system),
    })
}

impl Scan<'_> {
    /// The time of what is seen now.
    fn now(&self) -> Timestamp {
        let now = clock::now();
        self.as_of.map_or(now, |as_of| as_of.min(now))
    }

    fn walk(&self) -> Result<Findings, AgentError> {
        let task = self.alone(|worker| {
            worker.refuse_if_emptied()?;
            worker.settle_root()
        })?;
        let (task, mut findings) = task;
        findings.merge(self.all(&Queue::new(vec![task]))?);
        Ok(findings)
    }

    /// Promise 4, where only some names were looked at.
    fn refuse_if_emptied(&self, findings: &Findings) -> Result<(), AgentError> {
        let is_suspect = findings
            .missing
            .keys()
            .any(|place| place.parent == DirectoryId::FILES);
        if is_suspect {
            #[expect(
                clippy::redundant_closure_for_method_calls,
                reason = "the method by itself is not general enough in its lifetimes"
            )]
            self.alone(|worker| worker.refuse_if_emptied())?;
        }
        Ok(())
    }

    fn finish(self, mut findings: Findings, missed: Missed) -> Result<Outcome, AgentError> {
        self.check_source()?;
        for problems in [
            &mut findings.unreadable,
            &mut findings.unsettled,
            &mut findings.fuzzy,
        ] {
            problems.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            problems.dedup_by(|a, b| a.path == b.path);
        }
        let fuzzy_places = self.fuzzy_places()?;
        Ok(Outcome {
            fuzzy_places,
            digest: self
                .digest
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
            next_directory: self.next_directory.into_inner(),
            records: self.shared.records(),
            owners: self.shared.owners(),
            tally: findings.tally,
            unreadable: findings.unreadable,
            unsettled: findings.unsettled,
            fuzzy: findings.fuzzy,
            missed,
            in_doubt: findings.in_doubt,
            nowhere: findings.nowhere,
            kept: findings.kept,
            sqlite: self.databases.all(),
            is_turn_of_databases: self.databases.are_waiting(),
            is_lost: self.is_lost.into_inner(),
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
