//! What there is to keep: every file of the newest snapshot, those first that were changed last, for they are most likely to be changed
//! again.

use std::collections::HashMap;

use understudy_protocol::{Position, Timestamp};

use crate::catalog::Catalog;
use crate::error::ReceiverError;

/// One file of the snapshot, which may have several names.
struct File {
    modified: Timestamp,
    /// The row of its first name.
    id: u64,
    group: u64,
}

/// The files of a snapshot.
pub(super) struct List {
    pub(super) at: Position,
    files: Vec<File>,
    bytes: u64,
    /// The rows of files with several names.
    groups: HashMap<u64, Vec<u64>>,
}

impl List {
    /// Those of the newest snapshot; `None` if there is none.
    pub(super) fn of(catalog: &Catalog) -> Result<Option<Self>, ReceiverError> {
        let Some(head) = catalog.head()? else {
            return Ok(None);
        };
        let at = head.snapshot.position;
        let mut list = Self {
            at,
            files: Vec::new(),
            bytes: 0,
            groups: HashMap::new(),
        };
        catalog.rows_at(at.number, |row| {
            let Some((size, _)) = row.entry.content() else {
                return Ok(());
            };
            let group = row.entry.group;
            if group != 0 {
                let rows = list.groups.entry(group).or_default();
                rows.push(row.id);
                if rows.len() > 1 {
                    return Ok(());
                }
            }
            // What is empty has nothing to lose; it is looked at all the same, for it may be written to.
            list.bytes = list.bytes.saturating_add(size);
            list.files.push(File {
                modified: row.entry.attributes.modified,
                id: row.id,
                group,
            });
            Ok(())
        })?;
        let key = |file: &File| (file.modified.seconds, file.modified.nanoseconds);
        list.files.sort_by_key(|file| std::cmp::Reverse(key(file)));
        Ok(Some(list))
    }

    /// Whether it still is the newest snapshot.
    pub(super) fn stands(&self, catalog: &Catalog) -> Result<bool, ReceiverError> {
        let head = catalog.head()?;
        Ok(head.is_some_and(|head| head.snapshot.position == self.at))
    }

    /// Files and bytes.
    pub(super) fn total(&self) -> (u64, u64) {
        (self.files.len() as u64, self.bytes)
    }

    /// The rows of each file, one for each of its names.
    pub(super) fn groups(&self) -> impl Iterator<Item = Vec<u64>> {
        self.files.iter().map(|file| {
            let several = self.groups.get(&file.group);
            several.cloned().unwrap_or_else(|| vec![file.id])
        })
    }
}
