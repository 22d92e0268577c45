//! Copying the files of the promoted snapshot apart: the frozen tree shares its inodes with the live one, into which an application
//! writes. What it changed in place before its copy was made is lost to history, and told.
//!
//! A file of the frozen tree is shared as long as its inode has more names than the frozen tree has of it: so whoever is interrupted
//! goes on by looking, and it does not matter what became of the file's names in the live tree.

mod batch;
mod list;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use serde::{Deserialize, Serialize};
use understudy_protocol::{DatasetName, RelPath, Role};
use understudy_tree::{IoPriority, crash_point, set_io_priority};

use super::Step;
use crate::access::existing;
use crate::catalog::Catalog;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{self, Damage, Part, Wish};
use crate::space::Reserve;
use crate::store::Store;
use crate::{names, sealed};

use batch::Batch;
use list::List;

/// The layout this build writes.
const FORMAT: u32 = 1;
const LIMIT_BYTES: u64 = 16 << 20;
/// So many paths of lost files are told; the others are counted.
const FIRST: usize = 100;
/// How often it is looked whether a dataset was promoted, and whether there is room again.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is written down how far it is.
const SAVE: Duration = Duration::from_secs(5);
/// The dataset is given back for so long after each batch.
const PAUSE: Duration = Duration::from_millis(20);
/// The niceness of the thread: the highest.
const NICE: i32 = 19;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It goes on.
    Working,
    /// There is not enough room beside the reserve: it goes on once there is.
    Short,
    /// Nothing of the snapshot is shared any more but what is lost.
    Done,
}

/// How much of a promoted snapshot is kept apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preserved {
    format: u32,
    /// Of the promotion.
    epoch: u64,
    /// See [`State`].
    pub state: State,
    /// Files and bytes that are kept apart, or were changed by nobody.
    pub kept: (u64, u64),
    /// Files and bytes that are still shared.
    pub left: (u64, u64),
    /// Files and bytes that were changed in place before they were kept: history does not have them.
    pub lost: (u64, u64),
    /// The first paths of those.
    pub first: Vec<RelPath>,
}

impl Preserved {
    fn new(epoch: u64) -> Self {
        Self {
            format: FORMAT,
            epoch,
            state: State::Working,
            kept: (0, 0),
            left: (0, 0),
            lost: (0, 0),
            first: Vec::new(),
        }
    }
}

fn add(to: &mut (u64, u64), bytes: u64) {
    to.0 += 1;
    to.1 = to.1.saturating_add(bytes);
}

/// How far it is with the promotion to this epoch; `None` if it has not begun.
pub(super) fn read(dataset: &Dataset, epoch: u64) -> Result<Option<Preserved>, ReceiverError> {
    let read = sealed::read::<Preserved>(&dataset.control, &names::PRESERVED, LIMIT_BYTES);
    match read {
        Ok(found) => Ok(found.filter(|one| (one.format, one.epoch) == (FORMAT, epoch))),
        // It is found out again.
        Err(ReceiverError::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(dataset: &Dataset, preserved: &Preserved) -> Result<(), ReceiverError> {
    sealed::write(&dataset.control, &names::PRESERVED, preserved)
}

/// Files and bytes of the newest snapshot that preserving has to copy, unless the file system shares blocks.
pub fn needed(store: &Store, name: &DatasetName) -> Result<(u64, u64), ReceiverError> {
    let dataset = existing(store, name)?;
    match dataset.read_catalog()? {
        Some(catalog) => List::of(&catalog)?.map_or(Ok((0, 0)), |list| Ok(list.total())),
        None => Ok((0, 0)),
    }
}

/// Copies everything apart before the application may write. Refuses if there is no room for that.
pub(super) fn before(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    reserve: Reserve,
    tell: &dyn Fn(Step),
) -> Result<(), ReceiverError> {
    let Some(list) = List::of(catalog)? else {
        return Ok(());
    };
    let (files, bytes) = list.total();
    let shares_blocks = batch::shares_blocks(dataset)?;
    if !shares_blocks && !reserve.has_room_for(&dataset.control, bytes)? {
        return Err(ReceiverError::NoSpace(format!(
            "preserving dataset `{}` before it is promoted takes up to {} beside the reserve; without `--preserve before` this is done \
             afterwards, as far as there is room",
            dataset.name,
            understudy_protocol::shown::size(bytes)
        )));
    }
    let mut preserved = Preserved::new(dataset.standing()?.epoch + 1);
    let shadow = dataset.shadow()?;
    let mut batch = Batch::new(dataset, catalog, (&list, &shadow), reserve)?;
    for (done, group) in list.groups().enumerate() {
        batch.add(group, locked, &mut preserved)?;
        if batch.is_full() {
            tell(Step::Preserving(done as u64 + 1, files));
            batch.put_in_place(locked, &mut preserved)?;
        }
    }
    batch.put_in_place(locked, &mut preserved)?;
    if preserved.state == State::Short {
        return Err(ReceiverError::NoSpace(format!(
            "preserving dataset `{}` before it is promoted",
            dataset.name
        )));
    }
    preserved.state = State::Done;
    record(dataset, &batch.take_lost())?;
    write(dataset, &preserved)
}

/// Keeps what an application will change, of all datasets that are promoted, as long as the process lives; on the calling thread, at
/// the lowest priority.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the thread owns its share of the store"
)]
pub fn forever(store: Arc<Store>, reserve: Reserve) {
    // On Linux this is a property of the thread, and no process means the calling one.
    let _ = setpriority_process(None, NICE);
    if let Err(error) = set_io_priority(IoPriority::Idle) {
        tracing::warn!("{error}; promoted snapshots are kept without");
    }
    loop {
        all(&store, reserve);
        std::thread::park_timeout(LOOK);
    }
}

/// Does what is due in each dataset. Trouble in one is its own.
fn all(store: &Store, reserve: Reserve) {
    let names = store.dataset_names().unwrap_or_default();
    for name in names {
        match preserve(store, &name, reserve) {
            Ok(_) | Err(ReceiverError::Busy(_)) => {}
            Err(error) => {
                tracing::warn!(dataset = %name, "cannot keep the promoted snapshot apart from what the application changes: {error}");
            }
        }
    }
}

/// Copies apart what is still shared of a promoted snapshot; `None` of a dataset that is not promoted. While somebody else works on the
/// dataset it ends with [`ReceiverError::Busy`], and goes on with the next call.
pub fn preserve(
    store: &Store,
    name: &DatasetName,
    reserve: Reserve,
) -> Result<Option<Preserved>, ReceiverError> {
    let Some(dataset) = store.dataset(name)? else {
        return Ok(None);
    };
    let standing = dataset.standing()?;
    if standing.role == Role::Spare {
        return Ok(None);
    }
    let before = read(&dataset, standing.epoch)?;
    if let Some(done) = before.as_ref().filter(|one| one.state == State::Done) {
        return Ok(Some(done.clone()));
    }
    work(&dataset, standing.epoch, before.as_ref(), reserve).map(Some)
}

fn work(
    dataset: &Dataset,
    epoch: u64,
    before: Option<&Preserved>,
    reserve: Reserve,
) -> Result<Preserved, ReceiverError> {
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    drop(locked);
    let mut preserved = Preserved::new(epoch);
    let Some(list) = List::of(&catalog)? else {
        return Ok(preserved);
    };
    preserved.left = list.total();
    let shadow = dataset.shadow()?;
    let mut batch = Batch::new(dataset, &catalog, (&list, &shadow), reserve)?;
    let mut saved = Instant::now();
    let mut groups = list.groups().peekable();
    while groups.peek().is_some() {
        let locked = dataset.lock_patiently()?;
        // Somebody may have made it a spare meanwhile.
        let standing = dataset.standing()?;
        if standing.role == Role::Spare || standing.epoch != epoch || !list.stands(&catalog)? {
            return Err(ReceiverError::Busy(dataset.name.clone()));
        }
        while !batch.is_full()
            && let Some(group) = groups.next()
        {
            batch.add(group, &locked, &mut preserved)?;
        }
        let copied = batch.put_in_place(&locked, &mut preserved)?;
        record(dataset, &batch.take_lost())?;
        let is_news = before.is_none() || saved.elapsed() > SAVE;
        if is_news && groups.peek().is_some() {
            write(dataset, &preserved)?;
            saved = Instant::now();
        }
        drop(locked);
        crash_point!("preserve.batch");
        if copied > 0 {
            std::thread::park_timeout(PAUSE);
        }
    }
    if preserved.state == State::Working {
        preserved.state = State::Done;
    }
    if before != Some(&preserved) {
        write(dataset, &preserved)?;
    }
    Ok(preserved)
}

/// What is lost is found damaged in history: so nothing is restored for it, and nothing is removed that may lead to it.
fn record(dataset: &Dataset, lost: &[Damage]) -> Result<(), ReceiverError> {
    findings::add(dataset, lost, Wish::Record, 0)
}

/// Why history does not have a file of a promoted snapshot any more, if that is known.
pub(crate) fn why_lost(dataset: &Dataset, path: &RelPath) -> Option<String> {
    let known = findings::read(&dataset.control).ok()?;
    let mut lost = known
        .list
        .into_iter()
        .filter(|one| one.damage.part == Part::History);
    lost.find(|one| one.damage.path == *path)
        .map(|one| one.damage.what)
}

/// A file that was changed in place before it was kept.
fn lost(path: RelPath, content: (u64, understudy_protocol::ContentHash)) -> Damage {
    Damage {
        part: Part::History,
        path,
        content: Some(content),
        what: "the application changed it in place after the promotion, before it was kept: the promoted snapshot does not have it any more, \
               the live tree has what the application wrote"
            .to_owned(),
    }
}
