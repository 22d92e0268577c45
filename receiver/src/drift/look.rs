//! Whether the live tree is its snapshot: by names, stats and attributes, and by hash where another file may have come to a place.

use std::collections::HashMap;

use understudy_tree::Directory;

use crate::absorb::{Found, Grounds, Looked, Suspect, Walk, look_at};
use crate::catalog::{Catalog, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing differs.
    Same,
    /// Something does.
    Drifted,
}

/// Compares everything, up to the first difference.
pub(super) fn look(
    dataset: &Dataset,
    catalog: &Catalog,
    head: &Recorded,
    grounds: Grounds,
) -> Result<Verdict, ReceiverError> {
    let Some(live) = dataset.live()? else {
        return Ok(Verdict::Same);
    };
    let twin = dataset.shadow()?;
    let at = head.snapshot.position.number;
    if has_no_root(&live, catalog, at)? {
        return Ok(Verdict::Drifted);
    }
    let mut looking = Looking::new(dataset, (&live, &twin), (catalog, at), grounds);
    looking.run(|walk, visit| walk.run(visit))
}

/// Whether a root is missing that the snapshot has.
fn has_no_root(live: &Directory, catalog: &Catalog, at: u64) -> Result<bool, ReceiverError> {
    let top = understudy_protocol::DirectoryId::TOP;
    for root in catalog.rows_in(top, at, None)? {
        if live.stat_if_present(&root.place.name)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A walk that ends with the first difference.
pub(super) struct Looking<'a> {
    walk: Walk<'a>,
}

impl<'a> Looking<'a> {
    pub(super) fn new(
        dataset: &Dataset,
        (live, twin): (&'a Directory, &'a Directory),
        base: (&'a Catalog, u64),
        grounds: Grounds,
    ) -> Self {
        Self {
            walk: Walk {
                live,
                twin: Some(twin),
                base: Some(base),
                privileges: dataset.privileges,
                grounds,
                // Nothing is written.
                next_directory: 1 << 62,
                groups: HashMap::new(),
            },
        }
    }

    pub(super) fn run(
        &mut self,
        go: impl FnOnce(
            &mut Walk<'a>,
            &mut dyn FnMut(Found) -> Result<(), ReceiverError>,
        ) -> Result<(), ReceiverError>,
    ) -> Result<Verdict, ReceiverError> {
        let mut verdict = Verdict::Same;
        let privileges = self.walk.privileges;
        let walked = go(&mut self.walk, &mut |found| {
            let is_other = match &found {
                Found::Lost(..) => false,
                Found::Directory(..) | Found::Gone(..) => true,
                Found::Suspect(suspect) => {
                    suspect.deviation.is_some() || {
                        let looked = look_at(suspect, &privileges)?;
                        is_other(suspect, &looked)
                    }
                }
            };
            if !is_other {
                return Ok(());
            }
            verdict = Verdict::Drifted;
            // Nobody needs the rest.
            Err(ReceiverError::Stopped)
        });
        match walked {
            Err(ReceiverError::Stopped) if verdict == Verdict::Drifted => Ok(verdict),
            walked => walked.map(|()| verdict),
        }
    }
}

/// Whether what was read is not what its row says.
fn is_other(suspect: &Suspect, looked: &Looked) -> bool {
    match (looked, &suspect.row) {
        (Looked::Unreadable(_), _) => false,
        (Looked::Gone, row) => row.is_some(),
        (Looked::Now(_), None) => true,
        (Looked::Now(now), Some(row)) => row.entry != now.entry || suspect.is_apart,
    }
}
