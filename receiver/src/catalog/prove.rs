//! Proving a change set before it becomes the intent: what it says must lead to one sound tree.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, params};
use understudy_protocol::{DirectoryId, Place, limits};

use super::read::{DIRECTORY, Row, place_from};
use super::upload::Upload;
use crate::error::ReceiverError;

impl Upload<'_> {
    /// Finds whose inode further names of files put in this upload have.
    pub(super) fn resolve_siblings(&mut self) -> Result<(), ReceiverError> {
        for (id, first, group) in std::mem::take(&mut self.siblings) {
            let found: Option<(i64, i64)> = self.catalog.run(|connection| {
                let sql = "SELECT origin, link_group FROM entry WHERE parent = ?1 AND name = ?2 AND since = ?3";
                let mut statement = connection.prepare_cached(sql)?;
                let place = params![first.parent.0 as i64, first.name.as_bytes(), self.number as i64];
                statement.query_row(place, |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })?;
            let origin = match found {
                Some((origin, found_group))
                    if group != 0 && origin != 0 && found_group as u64 == group =>
                {
                    origin
                }
                _ => {
                    return Err(ReceiverError::Misbehaved(format!(
                        "{first:?} is no file to be linked to"
                    )));
                }
            };
            // What claims to be the same file must say the same of its content.
            let node = |row: Option<Row>| row.map(|row| row.entry.node);
            if node(self.catalog.row_by_id(id)?) != node(self.catalog.row(&first, self.number)?) {
                return Err(ReceiverError::Misbehaved(format!(
                    "a name linked to {first:?} claims another content"
                )));
            }
            self.catalog.run(|connection| {
                let mut statement =
                    connection.prepare_cached("UPDATE entry SET origin = ?2 WHERE id = ?1")?;
                statement.execute(params![id as i64, origin]).map(drop)
            })?;
        }
        Ok(())
    }

    /// What stood in a directory that is gone, and was not put elsewhere, is gone too.
    pub(super) fn end_orphans(&mut self) -> Result<(), ReceiverError> {
        while let Some(id) = self.ended_directories.pop() {
            if self.catalog.directory_place(id, self.number)?.is_some() {
                continue;
            }
            let places: Vec<Place> = self.catalog.run(|connection| {
                let sql = "SELECT parent, name FROM entry WHERE parent = ?1 AND until IS NULL AND since < ?2";
                let mut statement = connection.prepare_cached(sql)?;
                statement.query_map(params![id.0 as i64, self.number as i64], |row| place_from(row, 0))?.collect()
            })?;
            for place in places {
                self.end_row_at(&place)?;
            }
        }
        Ok(())
    }

    /// Every put entry stands in a directory of this snapshot from which the top is reached.
    pub(super) fn check_parents(&self) -> Result<(), ReceiverError> {
        let mut sound = HashSet::from([DirectoryId::TOP]);
        for &parent in &self.parents {
            let mut chain = Vec::new();
            let mut next = parent;
            while !sound.contains(&next) {
                if chain.len() > limits::DEPTH {
                    return Err(ReceiverError::Misbehaved(format!(
                        "directory {} is in itself or too deep",
                        parent.0
                    )));
                }
                chain.push(next);
                let place = self.catalog.directory_place(next, self.number)?;
                next = place.map(|place| place.parent).ok_or_else(|| {
                    ReceiverError::Misbehaved(format!(
                        "an entry was put into directory {}, which does not exist",
                        next.0
                    ))
                })?;
            }
            sound.extend(chain);
        }
        Ok(())
    }

    /// One inode serves two places only as a hard-link group.
    pub(super) fn check_kept(&self) -> Result<(), ReceiverError> {
        if self.kept == 0 {
            return Ok(());
        }
        let shared: Option<i64> = self.catalog.run(|connection| {
            // Kept inodes of this upload with the number of places that want them, and the old place if it stays.
            let sql = "SELECT kept.origin FROM entry AS kept JOIN entry AS old ON old.id = kept.origin \
                       WHERE kept.id >= ?1 AND kept.origin < ?1 AND kept.kind != ?2 \
                       GROUP BY kept.origin \
                       HAVING count(*) + (old.until IS NULL) > 1 AND \
                         (min(kept.link_group) = 0 OR min(kept.link_group) != max(kept.link_group) \
                          OR (old.until IS NULL AND old.link_group != min(kept.link_group))) LIMIT 1";
            connection.query_row(sql, params![self.first_entry as i64, DIRECTORY], |row| row.get(0)).optional()
        })?;
        match shared {
            None => Ok(()),
            Some(id) => Err(ReceiverError::Misbehaved(format!(
                "two places keep the file of entry {id} without being one file"
            ))),
        }
    }
}
