//! Promotion: this host becomes the main of a dataset, and an application may write into its live tree.
//!
//! Under the dataset's lock and with uploads kept out: what is under way is finished or dropped, the shadow is brought to the newest
//! snapshot, and only then the role and its epoch are written, durably. Every step can be repeated; whoever is killed in between
//! leaves a spare, or a main. Must not know how hooks are run, nor how people are asked.

mod facts;
pub(crate) mod fence;
pub(crate) mod heard;
mod note;
pub mod preserve;
mod together;

use std::time::{Duration, Instant};

use understudy_protocol::{DatasetName, Position, Role, Standing};
use understudy_tree::crash_point;

use crate::access::existing;
use crate::catalog::Catalog;
use crate::cycle;
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::drift;
use crate::error::ReceiverError;
use crate::guard;
use crate::housekeeping::Stop;
use crate::recover;
use crate::space::Reserve;
use crate::specials;
use crate::standby::{Databases, Lock, Standby};
use crate::store::Store;

pub use facts::{Facts, facts};
pub use note::Hooks;
pub use together::Together;

/// How often it is looked whether a load has ended that was under way.
const LOADED_AGAIN: Duration = Duration::from_millis(100);

/// What becomes of a cycle that a guard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldCycle {
    /// There must be none.
    Refuse,
    /// It is dropped.
    Drop,
}

/// When the files of the promoted snapshot are copied apart from what the application changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preserve {
    /// Afterwards, by the receiver's daemon.
    After,
    /// Before the application may write.
    Before,
}

/// How to promote.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// See [`HeldCycle`].
    pub held: HeldCycle,
    /// See [`Preserve`].
    pub preserve: Preserve,
    /// What must stay free.
    pub reserve: Reserve,
    /// How long somebody else may work on the dataset.
    pub patience: Duration,
    /// Of the whole command.
    pub together: &'a Together,
    /// Has databases loaded that an application is to go on with; `None` if there are none.
    pub databases: Option<&'a dyn Databases>,
}

/// What a promotion is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It waits for whoever works on the dataset.
    Waiting,
    /// It finishes or drops what is under way, and brings both trees to the newest snapshot.
    CatchingUp,
    /// So many files of the snapshot are copied apart, of so many.
    Preserving(u64, u64),
    /// The role is written.
    Standing,
}

/// How this host came to be the main.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// By this very call.
    Now,
    /// By one before.
    Before,
}

/// This host is the main. As long as this lives, nobody else promotes the dataset or runs its hooks.
#[derive(Debug)]
pub struct Promotion {
    /// The role, its epoch, since when, and the promoted snapshot.
    pub standing: Standing,
    /// See [`Since`].
    pub since: Since,
    /// What became of the hooks so far.
    pub hooks: Hooks,
    dataset: Dataset,
    _fence: fence::Fence,
}

impl Promotion {
    /// Adds to what hooks printed, bounded.
    pub fn log(&self, text: &[u8]) -> Result<(), ReceiverError> {
        note::log(&self.dataset, text)
    }

    /// Writes down what became of the hooks; durable when it returns.
    pub fn note(&mut self, hooks: Hooks) -> Result<(), ReceiverError> {
        note::write(&self.dataset, self.standing.epoch, hooks)?;
        self.hooks = hooks;
        Ok(())
    }
}

/// Makes this host the main of a dataset, unless it is already. Durable when it returns.
pub fn promote(
    store: &Store,
    name: &DatasetName,
    request: &Request<'_>,
    tell: &dyn Fn(Step),
) -> Result<Promotion, ReceiverError> {
    let mut dataset = existing(store, name)?;
    let fence = fence::raise(&dataset)?.ok_or_else(|| is_under_way(name))?;
    crash_point!("promote.fenced");
    let standing = dataset.standing()?;
    let (standing, since) = match standing.role {
        Role::Main => (standing, Since::Before),
        Role::Spare => {
            tell(Step::Waiting);
            // From here on nothing is loaded but by this, and nothing at all once this host is the main.
            let standby = standby(store, name, request.databases)?;
            let locked = lock(&dataset, request.patience)?;
            let standing = raise(&mut dataset, (&locked, standby.as_ref()), request, tell)?;
            (standing, Since::Now)
        }
        Role::HandedOver | Role::Fenced => return Err(not_promotable(name, &standing)),
    };
    Ok(Promotion {
        standing,
        since,
        hooks: note::hooks(&dataset, standing.epoch).unwrap_or(Hooks::Done),
        dataset,
        _fence: fence,
    })
}

/// A dataset of which this host is the main already, so that its hooks can be run again.
pub fn promoted(store: &Store, name: &DatasetName) -> Result<Promotion, ReceiverError> {
    let dataset = existing(store, name)?;
    let standing = dataset.standing()?;
    if standing.role != Role::Main {
        return Err(ReceiverError::Fenced(format!(
            "this host is not the main of dataset `{name}`: `understudy promote {name}` makes it that, and runs the hooks"
        )));
    }
    let fence = fence::raise(&dataset)?.ok_or_else(|| is_under_way(name))?;
    Ok(Promotion {
        standing,
        since: Since::Before,
        hooks: note::hooks(&dataset, standing.epoch).unwrap_or(Hooks::Done),
        dataset,
        _fence: fence,
    })
}

fn is_under_way(name: &DatasetName) -> ReceiverError {
    ReceiverError::Crowded(format!(
        "dataset `{name}` is being promoted already, by another command on this host: wait for it"
    ))
}

fn not_promotable(name: &DatasetName, standing: &Standing) -> ReceiverError {
    let (word, epoch) = (standing.role.word(), standing.epoch);
    ReceiverError::Fenced(format!(
        "this host was the main of dataset `{name}` and is `{word}` in epoch {epoch}: what it has may be older than what the other \
         host has by now. `understudy demote {name}` makes it the spare, which can be promoted"
    ))
}

/// Waits until nobody loads any database; `None` if nobody ever did, nor is to.
fn standby(
    store: &Store,
    name: &DatasetName,
    databases: Option<&dyn Databases>,
) -> Result<Option<(Standby, Lock)>, ReceiverError> {
    let standby = match databases {
        Some(_) => Some(Standby::open(store, name)?),
        None => Standby::existing(store, name)?,
    };
    let Some(standby) = standby else {
        return Ok(None);
    };
    loop {
        if let Some(lock) = standby.lock()? {
            return Ok(Some((standby, lock)));
        }
        if let Some(databases) = databases {
            databases.wait(&standby)?;
        }
        std::thread::park_timeout(LOADED_AGAIN);
    }
}

/// Sessions end within moments, once they have seen that they are kept out; one that is past its intent finishes its commit.
fn lock(dataset: &Dataset, patience: Duration) -> Result<Locked, ReceiverError> {
    let started = Instant::now();
    loop {
        match dataset.lock_patiently() {
            Err(ReceiverError::Busy(_)) if started.elapsed() < patience => {}
            Err(ReceiverError::Busy(name)) => {
                return Err(ReceiverError::Crowded(format!(
                    "somebody has been working on dataset `{name}` for {} s and does not end: if it is an upload that hangs, stop \
                     the receiver (`systemctl stop understudy-receiver`), promote again, and start it again",
                    patience.as_secs()
                )));
            }
            locked => return locked,
        }
    }
}

/// Everything that needs the lock. Until the last step this host is the spare, and the dataset as a cycle would leave it.
fn raise(
    dataset: &mut Dataset,
    (locked, standby): (&Locked, Option<&(Standby, Lock)>),
    request: &Request<'_>,
    tell: &dyn Fn(Step),
) -> Result<Standing, ReceiverError> {
    let catalog = dataset.catalog(locked)?;
    tell(Step::CatchingUp);
    settle(dataset, &catalog, locked, request.held)?;
    // What somebody wrote there stays, for the application goes on with the tree as it stands; only the frozen tree must not take it for
    // the snapshot.
    drift::heed_if_touched(dataset, &catalog, locked)?;
    crash_point!("promote.recovered");
    let Some(head) = catalog.head()? else {
        return Err(ReceiverError::NotFound(format!(
            "dataset `{}` has no snapshot yet: there is nothing that an application could go on with",
            dataset.name
        )));
    };
    let position = head.snapshot.position;
    cycle::catch_up(dataset, &catalog, locked, &Stop::default())?;
    specials::materialise(dataset, &catalog, locked)?;
    crash_point!("promote.caught-up");
    if request.preserve == Preserve::Before {
        preserve::before(dataset, &catalog, locked, request.reserve, tell)?;
        crash_point!("promote.preserved");
    }
    if let (Some(databases), Some((standby, lock))) = (request.databases, standby) {
        databases.bring(standby, lock)?;
        crash_point!("promote.databases");
    }
    tell(Step::Standing);
    let standing = next(dataset, position)?;
    note::write(dataset, standing.epoch, Hooks::Due)?;
    crash_point!("promote.noted");
    // The shadow must not be lost to a power cut once an application changes what it is made of.
    request.together.sync(dataset)?;
    crash_point!("promote.synced");
    dataset.stand(&standing, locked)?;
    crash_point!("promote.standing");
    Ok(standing)
}

/// Finishes or drops what is under way.
fn settle(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    held_cycle: HeldCycle,
) -> Result<(), ReceiverError> {
    let Some(held) = recover::recover(dataset, catalog, locked)? else {
        return Ok(());
    };
    let (name, digest) = (&dataset.name, held.short_digest());
    if held_cycle == HeldCycle::Refuse {
        return Err(ReceiverError::Refused(format!(
            "a guard holds a cycle of dataset `{name}`: {}. Look at it with `understudy held {name}`; `understudy release {name} \
             {digest}` makes it the newest snapshot, and `understudy promote {name} --without-held` drops it",
            held.reason
        )));
    }
    guard::drop_held(dataset, catalog)
}

/// What this host will be.
fn next(dataset: &Dataset, position: Position) -> Result<Standing, ReceiverError> {
    let epoch = dataset.standing()?.epoch;
    let exhausted = || ReceiverError::Damaged("there is no higher epoch".to_owned());
    Ok(Standing {
        role: Role::Main,
        epoch: epoch.checked_add(1).ok_or_else(exhausted)?,
        since_seconds: now_seconds(),
        snapshot: Some(position),
    })
}
