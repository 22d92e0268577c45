//! Proving a change set before it becomes the intent: what it says must lead to one sound tree.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, params};
use understudy_protocol::{DirectoryId, Place, limits};

use super::read::{DIRECTORY, Row, place_from};
use super::upload::Upload;
use crate::error::ReceiverError;

/// Which further names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Siblings {
    /// Those whose first name has arrived.
    SoFar,
    /// All: nothing more comes.
    All,
}

/// Directories that are known to be reached from the top: beyond so many the knowledge is begun anew.
const SOUND: usize = 1 << 20;
/// Entries of a directory that are looked at together.
const PAGE: usize = 1000;

impl Upload<'_> {
    /// Finds whose inode further names of files put in this upload have, as far as those are there.
    pub(super) fn resolve_siblings(&mut self, siblings: Siblings) -> Result<(), ReceiverError> {
        for (id, first, group) in std::mem::take(&mut self.siblings) {
            let found: Option<(i64, i64)> = self.catalog.run(|connection| {
                let sql = "SELECT origin, link_group FROM entry WHERE parent = ?1 AND name = ?2 AND since = ?3";
                let mut statement = connection.prepare_cached(sql)?;
                let place = params![first.parent.0 as i64, first.name.as_bytes(), self.number as i64];
                statement.query_row(place, |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })?;
            if siblings == Siblings::SoFar && found.is_none_or(|(origin, _)| origin == 0) {
                self.siblings.push((id, first, group));
                continue;
            }
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
            let mut after: Option<Place> = None;
            loop {
                let places = self.page_of_orphans(id, after.as_ref())?;
                for place in &places {
                    self.end_row_at(place)?;
                }
                after = places.into_iter().last();
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Some of what stands in a directory and was there before: what comes after `after`.
    fn page_of_orphans(
        &self,
        id: DirectoryId,
        after: Option<&Place>,
    ) -> Result<Vec<Place>, ReceiverError> {
        let after = after.map_or(&[][..], |place| place.name.as_bytes());
        self.catalog.run(|connection| {
            let sql = "SELECT parent, name FROM entry WHERE parent = ?1 AND name > ?3 AND until IS NULL AND since < ?2 \
                       ORDER BY name LIMIT ?4";
            let mut statement = connection.prepare_cached(sql)?;
            let of = params![id.0 as i64, self.number as i64, after, PAGE as i64];
            statement.query_map(of, |row| place_from(row, 0))?.collect()
        })
    }

    /// Every put entry stands in a directory of this snapshot from which the top is reached, and none is deeper than may be.
    pub(super) fn check_parents(&self) -> Result<(), ReceiverError> {
        let mut sound = Sound::default();
        if !self.placed.is_forgotten {
            for &parent in &self.placed.parents {
                self.depth(parent, &mut sound)?;
            }
            let mut directories = self.placed.directories.iter();
            return directories.try_for_each(|&id| self.check_moved(id, &mut sound));
        }
        let sql = "SELECT parent, directory FROM entry WHERE id >= ?1 AND since = ?2";
        let read = |row: &rusqlite::Row<'_>| {
            let directory: Option<i64> = row.get(1)?;
            let id = directory.map(|id| DirectoryId(id as u64));
            Ok((DirectoryId(row.get::<_, i64>(0)? as u64), id))
        };
        let of = params![self.first_entry as i64, self.number as i64];
        self.catalog.each(sql, of, read, |(parent, directory)| {
            self.depth(parent, &mut sound)?;
            directory.map_or(Ok(()), |id| self.check_moved(id, &mut sound))
        })
    }

    /// A directory that was put does not bring anything too deep.
    fn check_moved(&self, id: DirectoryId, sound: &mut Sound) -> Result<(), ReceiverError> {
        let depth = self.depth(id, sound)?;
        if self.moved_deeper(id, depth)? {
            return self.check_depth_below(id, depth);
        }
        Ok(())
    }

    /// How many directories lead from the top to this one.
    fn depth(&self, id: DirectoryId, sound: &mut Sound) -> Result<usize, ReceiverError> {
        let mut chain = Vec::new();
        let mut next = id;
        let known = loop {
            if next == DirectoryId::TOP {
                break 0;
            }
            if let Some(depth) = sound.0.get(&next) {
                break *depth as usize;
            }
            if chain.len() > limits::DEPTH {
                return Err(too_deep(id));
            }
            chain.push(next);
            let place = self.catalog.directory_place(next, self.number)?;
            next = place.map(|place| place.parent).ok_or_else(|| {
                ReceiverError::Misbehaved(format!(
                    "an entry was put into directory {}, which does not exist",
                    next.0
                ))
            })?;
        };
        let depth = known + chain.len();
        // The root of the files is the first below the top.
        if depth > limits::DEPTH + 1 {
            return Err(too_deep(id));
        }
        if sound.0.len() + chain.len() > SOUND {
            sound.0.clear();
        }
        let depths = (known as u32 + 1..).zip(chain.into_iter().rev());
        sound.0.extend(depths.map(|(depth, id)| (id, depth)));
        Ok(depth)
    }

    /// Whether a directory of the base stands deeper than it did there.
    fn moved_deeper(&self, id: DirectoryId, depth: usize) -> Result<bool, ReceiverError> {
        let mut next = id;
        let mut former = 0;
        while let Some(place) = self.catalog.directory_place(next, self.number - 1)? {
            former += 1;
            if former >= depth || former > limits::DEPTH + 1 {
                return Ok(false);
            }
            next = place.parent;
        }
        Ok(former > 0)
    }

    /// What a directory holds moves with it, and must not come to stand too deep. What is put anew is looked at by itself.
    fn check_depth_below(&self, id: DirectoryId, depth: usize) -> Result<(), ReceiverError> {
        let sql = "SELECT name, directory FROM entry WHERE parent = ?1 AND name > ?2 AND until IS NULL AND since < ?3 \
                   AND directory IS NOT NULL ORDER BY name LIMIT 1";
        let below = |parent: DirectoryId, after: &[u8]| {
            self.catalog.run(|connection| {
                let mut statement = connection.prepare_cached(sql)?;
                let of = params![parent.0 as i64, after, self.number as i64];
                let found = |row: &rusqlite::Row<'_>| {
                    let id = DirectoryId(row.get::<_, i64>(1)? as u64);
                    Ok((row.get::<_, Vec<u8>>(0)?, id))
                };
                statement.query_row(of, found).optional()
            })
        };
        let mut path: Vec<(DirectoryId, Vec<u8>)> = vec![(id, Vec::new())];
        while let Some((parent, after)) = path.last_mut() {
            match below(*parent, after)? {
                Some((name, child)) => {
                    *after = name;
                    path.push((child, Vec::new()));
                }
                None => {
                    path.pop();
                }
            }
            if depth + path.len() > limits::DEPTH + 2 {
                return Err(too_deep(id));
            }
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

/// Directories from which the top is reached, with how many lead to each.
#[derive(Default)]
struct Sound(HashMap<DirectoryId, u32>);

fn too_deep(id: DirectoryId) -> ReceiverError {
    ReceiverError::Misbehaved(format!("directory {} is in itself or too deep", id.0))
}
