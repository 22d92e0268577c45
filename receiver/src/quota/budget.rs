//! The quota of the main that uploads, and what is left of it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use understudy_protocol::shown::size;
use understudy_protocol::{DatasetName, MainName};

use super::shares::{Granted, Share};
use super::{Effort, Quota, Quotas, Staging, Used, of_other};
use crate::access::Access;
use crate::catalog::{Catalog, Counted};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::leftovers::Leftovers;
use crate::peer::Peer;
use crate::store::Store;

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
    /// Without what is held: the upload takes its place.
    own: Used,
    /// If it was counted during this upload.
    counted: Option<Counted>,
    /// Counting tells nothing else, or is not worth it.
    is_counted: bool,
    others: Others,
    /// `None` once the upload has ended.
    share: Option<Share>,
}

/// What the main's other datasets take, without what uploads to them have staged in this process.
struct Others {
    used: Used,
    effort: Effort,
    /// How many uploads had ended before.
    ended: u64,
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
        let known = match catalog.known_used()? {
            Some(known) => known,
            None => catalog.count_used()?,
        };
        let dataset = &dataset.name;
        let share = store.shares.begin(main, dataset);
        let state = State {
            reader: catalog.reader()?,
            own: known.committed,
            counted: None,
            is_counted: !known.is_worth_counting(),
            others: look((store, main, dataset), Effort::Look)?,
            share: Some(share),
        };
        Ok(Some(Self {
            store,
            main,
            dataset,
            quota,
            left_bytes: leftovers.map_or(Ok(0), Leftovers::weigh)?,
            state: Mutex::new(state),
        }))
    }

    /// Fails with [`ReceiverError::Quota`] if what is staged so far is too much beside all that is kept. What was left goes with the
    /// commit: it counts as far as it is more than what takes its place.
    pub(crate) fn check_staged(&self, staged: Used) -> Result<(), ReceiverError> {
        self.check(staged, self.left_bytes.saturating_sub(staged.bytes))
    }

    /// Fails with [`ReceiverError::Quota`] if what a whole upload brings is too much.
    pub(crate) fn check_whole(&self, brings: Used) -> Result<(), ReceiverError> {
        self.check(brings, 0)
    }

    /// The upload has ended, and its transaction: notes what was counted meanwhile, and lets the main's other uploads have the rest.
    pub(crate) fn end(&self, catalog: &Catalog) -> Result<(), ReceiverError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.share = None;
        let counted = state.counted.take();
        counted.map_or(Ok(()), |counted| catalog.keep_count(&counted))
    }

    /// What adds nothing is never too much.
    fn check(&self, more: Used, left_bytes: u64) -> Result<(), ReceiverError> {
        // Nobody waits for this but another look at the same.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let whose = (self.store, self.main, self.dataset);
        let others = &state.others;
        if others.looked.elapsed() >= LOOK_PAUSE.max(others.took * LOOK_PART) {
            state.others = look(whose, Effort::Look)?;
        }
        loop {
            let (bytes, files) = (left_bytes, 0);
            let used = state.own.and(state.others.used).and(Used { bytes, files });
            let Some(share) = &state.share else {
                return Ok(());
            };
            let excess = |beside: Used| self.excess(used.and(beside), more);
            match share.take(more, state.others.ended, excess) {
                Granted::Yes => return Ok(()),
                Granted::Outdated => state.others = look(whose, state.others.effort)?,
                // What was removed since it was counted is not taken any more.
                Granted::No(_) if !state.is_counted => {
                    state.is_counted = true;
                    state.counted = state.reader.count_again()?;
                    if let Some(counted) = &state.counted {
                        state.own = counted.committed;
                    }
                }
                Granted::No(_) if state.others.effort == Effort::Look => {
                    state.others = look(whose, Effort::Count)?;
                }
                Granted::No(why) => return Err(ReceiverError::Quota(why)),
            }
        }
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
                "the quota of the main `{main}` on the spare is {}, of which its datasets take {} with all that is kept, held, \
                 interrupted or being uploaded, and its names and attributes; this upload needs {} or more: nothing was changed. {}",
                size(most.get()),
                size(used.bytes),
                size(more.bytes),
                ways()
            )),
            Quota {
                files: Some(most), ..
            } if more.files > 0 && sum.files > most.get() => Some(format!(
                "the quota of the main `{main}` on the spare is {most} files, of which its datasets take {} with all versions that are \
                 kept, held or being uploaded; this upload needs {} or more: nothing was changed. {}",
                used.files,
                more.files,
                ways()
            )),
            _ => None,
        }
    }
}

/// What the other datasets of a main take.
fn look(
    (store, main, dataset): (&Store, &MainName, &DatasetName),
    effort: Effort,
) -> Result<Others, ReceiverError> {
    let (looked, ended) = (Instant::now(), store.shares.ended());
    let peer = Peer::Main(main.clone());
    let mut used = Used::default();
    for permission in Access::new(store, &peer).own()? {
        if permission.name() == dataset {
            continue;
        }
        let staging = match store.shares.has(main, permission.name()) {
            true => Staging::Left,
            false => Staging::All,
        };
        used = used.and(of_other(store, &permission, (effort, staging))?);
    }
    Ok(Others {
        used,
        effort,
        ended,
        looked,
        took: looked.elapsed(),
    })
}
