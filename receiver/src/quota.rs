//! What a main may take of the spare, and what its datasets take: counted from their catalogs, never by walking over files.
//!
//! A catalog remembers how much its rows come to, and each upload adds what it brings. That is never too little; it is too much
//! once snapshots were removed, and is counted anew before anything is refused for it.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use understudy_protocol::shown::size;
use understudy_protocol::{DatasetName, MainName};
use understudy_tree::Directory;
use understudy_tree::durable::{self, Durability};

use crate::access::{Access, Permission};
use crate::catalog::Catalog;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::leftovers::Leftovers;
use crate::names;
use crate::peer::Peer;
use crate::store::Store;

/// What one main may take. Nothing stands for "unlimited" but the absence of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Bytes of all versions that are kept.
    pub bytes: Option<NonZeroU64>,
    /// Entries of all versions that are kept.
    pub files: Option<NonZeroU64>,
}

/// What all mains may take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Where nothing else is said.
    pub common: Quota,
    /// Of these mains; what it leaves out is as for all.
    pub mains: BTreeMap<MainName, Quota>,
}

impl Quotas {
    /// That of one main.
    pub fn of(&self, main: &MainName) -> Quota {
        let own = self.mains.get(main).copied().unwrap_or_default();
        Quota {
            bytes: own.bytes.or(self.common.bytes),
            files: own.files.or(self.common.files),
        }
    }
}

impl Quotas {
    /// Whether no main has any.
    pub fn are_none(&self) -> bool {
        self.common.is_none() && self.mains.values().all(|quota| quota.is_none())
    }
}

impl Quota {
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What is taken: of a dataset, a main, an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Bytes: each file of the live tree with its size, each other content that a former snapshot has, and what is staged.
    pub bytes: u64,
    /// Rows of the catalog: each entry of the live tree, and each former version of one.
    pub files: u64,
}

impl Used {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            files: self.files.saturating_add(other.files),
        }
    }
}

/// How exact a count must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exactness {
    /// It may be too much.
    AtMost,
    Exact,
}

/// What a main takes of a store, exactly. For people: it may read whole catalogs.
pub fn used(store: &Store, main: &MainName) -> Result<Used, ReceiverError> {
    let peer = Peer::Main(main.clone());
    let mut sum = Used::default();
    for permission in Access::new(store, &peer).own()? {
        sum = sum.and(of_other(store, &permission, Exactness::Exact)?);
    }
    Ok(sum)
}

/// What a dataset takes that is not being changed by the caller.
fn of_other(
    store: &Store,
    permission: &Permission,
    exactness: Exactness,
) -> Result<Used, ReceiverError> {
    let Some(dataset) = permission.open(store)? else {
        return Ok(Used::default());
    };
    let staged = staged(&dataset)?;
    let staged = Used {
        bytes: staged,
        files: 0,
    };
    let Some(reading) = dataset.read_catalog()? else {
        return Ok(staged);
    };
    let known = reading.used()?;
    if let (Some(used), Exactness::AtMost) = (known, exactness) {
        return Ok(used.and(staged));
    }
    let counted = reading.counted()?;
    Ok(counted.and(staged))
}

/// What uploads of a dataset have staged, or left, by their own notes.
fn staged(dataset: &Dataset) -> Result<u64, ReceiverError> {
    let mut sum = 0_u64;
    let mut add = |directory: &Directory| {
        let text = durable::read(directory, &names::WEIGHT, 64)?;
        let text = text.and_then(|text| String::from_utf8(text).ok());
        let bytes = text.and_then(|text| text.trim_end().parse::<u64>().ok());
        sum = sum.saturating_add(bytes.unwrap_or(0));
        Ok::<(), ReceiverError>(())
    };
    let control = &dataset.control;
    match control.open_directory(&names::STAGING) {
        Ok(staging) => add(&staging)?,
        Err(error) if error.is_gone() => {}
        Err(error) => return Err(error.into()),
    }
    let pool = match control.open_directory(&names::LEFTOVERS) {
        Ok(pool) => pool,
        Err(error) if error.is_gone() => return Ok(sum),
        Err(error) => return Err(error.into()),
    };
    for name in pool.names()? {
        match pool.open_directory(&name) {
            Ok(left) => add(&left)?,
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sum)
}

/// How often others are looked at while an upload runs: not more often than so many times what a look takes.
const LOOK_PART: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The quota of the main that uploads, with what it takes.
pub(crate) struct Budget<'a> {
    store: &'a Store,
    main: &'a MainName,
    dataset: &'a DatasetName,
    quota: Quota,
    /// What interrupted uploads of the dataset left.
    left_bytes: u64,
    state: Mutex<State>,
}

struct State {
    /// Sees the dataset that is uploaded to as it was before.
    reader: Catalog,
    own: (Used, Exactness),
    others: (Used, Exactness),
    /// When others were looked at, and how long that took.
    looked: Instant,
    took: Duration,
}

impl<'a> Budget<'a> {
    /// `None` where there is no quota. `catalog` is that of the dataset, locked.
    pub(crate) fn of(
        (store, peer, quotas): (&'a Store, &'a Peer, &Quotas),
        (dataset, catalog): (&'a Dataset, &Catalog),
        leftovers: Option<&Leftovers>,
    ) -> Result<Option<Self>, ReceiverError> {
        let Peer::Main(main) = peer else {
            return Ok(None);
        };
        let quota = quotas.of(main);
        if quota.is_none() {
            return Ok(None);
        }
        let own = match catalog.used()? {
            Some(used) => (used, Exactness::AtMost),
            None => (catalog.count_used()?, Exactness::Exact),
        };
        let mut budget = Self {
            store,
            main,
            dataset: &dataset.name,
            quota,
            left_bytes: leftovers.map_or(Ok(0), Leftovers::weigh)?,
            state: Mutex::new(State {
                reader: catalog.reader()?,
                own,
                others: (Used::default(), Exactness::AtMost),
                looked: Instant::now(),
                took: Duration::ZERO,
            }),
        };
        let (others, took) = budget.look(Exactness::AtMost)?;
        let state = budget.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (state.others, state.took) = ((others, Exactness::AtMost), took);
        Ok(Some(budget))
    }

    /// What the main's other datasets take, and how long it took to find out.
    fn look(&self, exactness: Exactness) -> Result<(Used, Duration), ReceiverError> {
        let began = Instant::now();
        let peer = Peer::Main(self.main.clone());
        let mut sum = Used::default();
        for permission in Access::new(self.store, &peer).own()? {
            if permission.name() != self.dataset {
                sum = sum.and(of_other(self.store, &permission, exactness)?);
            }
        }
        Ok((sum, began.elapsed()))
    }

    /// Fails with [`ReceiverError::Quota`] if what is staged so far is too much beside all that is kept and left.
    pub(crate) fn check_staged(&self, fresh: Used) -> Result<(), ReceiverError> {
        self.check(fresh, self.left_bytes)
    }

    /// Fails with [`ReceiverError::Quota`] if what a whole upload brings is too much. What was left goes with the commit.
    pub(crate) fn check_whole(&self, brings: Used) -> Result<(), ReceiverError> {
        self.check(brings, 0)
    }

    /// What adds nothing is never too much.
    fn check(&self, more: Used, left_bytes: u64) -> Result<(), ReceiverError> {
        // Nobody waits for this but another look at the same.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_PAUSE.max(state.took * LOOK_PART) {
            let (others, took) = self.look(Exactness::AtMost)?;
            (state.others, state.took) = ((others, Exactness::AtMost), took);
            state.looked = Instant::now();
        }
        let excess = |state: &State| {
            let (bytes, files) = (left_bytes, 0);
            let used = state.own.0.and(state.others.0).and(Used { bytes, files });
            self.excess(used, more)
        };
        if excess(&state).is_none() {
            return Ok(());
        }
        // What was removed since it was counted is not taken any more.
        if state.own.1 == Exactness::AtMost {
            state.own = (state.reader.counted()?, Exactness::Exact);
        }
        if state.others.1 == Exactness::AtMost {
            state.others = (self.look(Exactness::Exact)?.0, Exactness::Exact);
        }
        excess(&state).map_or(Ok(()), |why| Err(ReceiverError::Quota(why)))
    }

    /// Why so much more is too much.
    fn excess(&self, used: Used, more: Used) -> Option<String> {
        let sum = used.and(more);
        let main = self.main;
        let ways = || {
            format!(
                "older snapshots go by the spare's retention, and somebody on the spare can allow more: `[quota.main.{main}]` in the \
                 receiver's configuration"
            )
        };
        match self.quota {
            Quota {
                bytes: Some(most), ..
            } if more.bytes > 0 && sum.bytes > most.get() => Some(format!(
                "the quota of the main `{main}` on the spare is {}, of which its datasets take {} with all that is kept, held or \
                 interrupted; this upload needs {} or more: nothing was changed. {}",
                size(most.get()),
                size(used.bytes),
                size(more.bytes),
                ways()
            )),
            Quota {
                files: Some(most), ..
            } if more.files > 0 && sum.files > most.get() => Some(format!(
                "the quota of the main `{main}` on the spare is {most} files, of which its datasets take {} with all versions that are \
                 kept or held; this upload needs {} or more: nothing was changed. {}",
                used.files,
                more.files,
                ways()
            )),
            _ => None,
        }
    }
}

/// Notes how many bytes a directory of staged files has, for the uploads that run beside it, and for what is left of it.
pub(crate) fn weigh(directory: &Directory, bytes: u64) -> Result<(), ReceiverError> {
    let text = format!("{bytes}\n");
    let (name, later) = (&names::WEIGHT, Durability::Later);
    Ok(durable::replace(directory, name, text.as_bytes(), later)?)
}
