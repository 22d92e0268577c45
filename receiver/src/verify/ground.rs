//! What is read and what it is compared with, at one moment: commits go on meanwhile.

use std::time::{Duration, Instant};

use understudy_tree::{Directory, Identity};

use crate::catalog::{Catalog, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::marker;

/// How long the live tree may be another snapshot than the catalog's newest before that is wrong: between the switch and
/// the record of a commit the metadata of shared files is set.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The newest snapshot and the tree that shows it: after a promotion that is not the live one.
pub(super) struct Ground {
    pub(super) catalog: Catalog,
    pub(super) head: Recorded,
    /// `None` if there is none.
    pub(super) live: Option<Directory>,
    /// Whether the tree says that it is that snapshot.
    pub(super) is_settled: bool,
    identity: Option<Identity>,
}

impl Ground {
    /// `None` if there is no snapshot yet.
    pub(super) fn open(dataset: &Dataset) -> Result<Option<Self>, ReceiverError> {
        let started = Instant::now();
        let Some(catalog) = dataset.read_catalog()? else {
            return Ok(None);
        };
        loop {
            let Some(head) = catalog.head()? else {
                return Ok(None);
            };
            let live = dataset.newest()?;
            let shows = match &live {
                Some(live) => marker::read(live)?,
                None => None,
            };
            let is_settled = shows == Some(head.snapshot.position);
            // Nobody is at it: waiting would change nothing.
            let is_over = is_settled || started.elapsed() > PATIENCE || !dataset.is_locked();
            let is_same = catalog.head()?.is_some_and(|again| again == head);
            if is_over && is_same {
                let identity = identity(live.as_ref())?;
                return Ok(Some(Self {
                    catalog,
                    head,
                    live,
                    is_settled,
                    identity,
                }));
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// The number of the snapshot.
    pub(super) fn at(&self) -> u64 {
        self.head.snapshot.position.number
    }

    /// Whether no commit came in between since it was opened.
    pub(super) fn stands(&self, dataset: &Dataset) -> Result<bool, ReceiverError> {
        let live = dataset.newest()?;
        let shows = match &live {
            Some(live) => marker::read(live)?,
            None => None,
        };
        let is_live_same = identity(live.as_ref())? == self.identity;
        let is_marker_same = !self.is_settled || shows == Some(self.head.snapshot.position);
        let is_head_same = self.catalog.head()?.is_some_and(|head| head == self.head);
        Ok(is_live_same && is_marker_same && is_head_same)
    }
}

fn identity(live: Option<&Directory>) -> Result<Option<Identity>, ReceiverError> {
    let stat = live.map(Directory::stat_self).transpose()?;
    Ok(stat.map(|stat| stat.identity))
}
