//! Copies that become durable together, and then take the places of what they are copies of.

use std::collections::HashSet;

use understudy_protocol::{ContentHash, DirectoryId, Name, RelPath};
use understudy_tree::attributes::{set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, Identity, Stat, content, crash_point, remove};

use super::list::List;
use super::{FIRST, Preserved, State, add, lost};
use crate::catalog::{Catalog, Row};
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::Damage;
use crate::names;
use crate::resolve::Handles;
use crate::space::Reserve;

/// Whichever limit is met first.
const FILES: usize = 256;
const BYTES: u64 = 64 << 20;
/// Files that are not shared cost two looks.
const LOOKS: usize = 4096;

/// Whether the store's file system lets files share blocks: then copies take no room.
pub(super) fn shares_blocks(dataset: &Dataset) -> Result<bool, ReceiverError> {
    let (from, to) = (
        dataset.control.create_unnamed()?,
        dataset.control.create_unnamed()?,
    );
    Ok(content::try_reflink(&from, &to))
}

/// Copies of one batch.
pub(super) struct Batch<'a> {
    dataset: &'a Dataset,
    catalog: &'a Catalog,
    at: u64,
    reserve: Reserve,
    frozen: Handles<'a>,
    place: Directory,
    copies: Vec<Copy>,
    bytes: u64,
    looks: usize,
    lost: Vec<Damage>,
    /// Directories with copies that may be of an interrupted batch, which then has not put their times right.
    doubted: HashSet<DirectoryId>,
}

/// A copy that waits.
struct Copy {
    /// Where it waits.
    name: Name,
    rows: Vec<Row>,
    /// What stood under its names.
    former: Vec<Identity>,
    bytes: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        dataset: &'a Dataset,
        catalog: &'a Catalog,
        (list, shadow): (&List, &'a Directory),
        reserve: Reserve,
    ) -> Result<Self, ReceiverError> {
        let place = dataset.control.ensure_directory(&names::PRESERVING)?;
        remove::empty(&place)?;
        Ok(Self {
            dataset,
            catalog,
            at: list.at.number,
            reserve,
            frozen: Handles::new(shadow, catalog, list.at.number),
            place,
            copies: Vec::new(),
            bytes: 0,
            looks: 0,
            lost: Vec::new(),
            doubted: HashSet::new(),
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.copies.len() >= FILES || self.bytes >= BYTES || self.looks >= LOOKS
    }

    /// What was found lost since this was asked last.
    pub(super) fn take_lost(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.lost)
    }

    /// Copies a file with all of its names, if anybody else could change it.
    pub(super) fn add(
        &mut self,
        ids: Vec<u64>,
        _locked: &Locked,
        preserved: &mut Preserved,
    ) -> Result<(), ReceiverError> {
        self.looks += 1;
        let mut rows = Vec::new();
        for id in ids {
            rows.extend(self.catalog.row_by_id(id)?);
        }
        let Some((size, hash)) = rows.first().and_then(|row| row.entry.content()) else {
            return Ok(());
        };
        preserved.left.0 = preserved.left.0.saturating_sub(1);
        preserved.left.1 = preserved.left.1.saturating_sub(size);
        let mut stats = Vec::new();
        for row in &rows {
            stats.extend(stat(&mut self.frozen, row)?);
        }
        let Some(first) = stats.first() else {
            // A verification tells what is missing.
            return Ok(());
        };
        // Some of its names may have been replaced before an interruption.
        let is_shared =
            |stat: &Stat| stat.links as usize > rows.len() || stat.identity != first.identity;
        if !stats.iter().any(is_shared) {
            self.doubted.extend(rows.iter().map(|row| row.place.parent));
            add(&mut preserved.kept, size);
            return Ok(());
        }
        let former = stats.iter().map(|stat| stat.identity).collect();
        self.copy(rows, (size, hash), former, preserved)
    }

    fn copy(
        &mut self,
        rows: Vec<Row>,
        (size, hash): (u64, ContentHash),
        former: Vec<Identity>,
        preserved: &mut Preserved,
    ) -> Result<(), ReceiverError> {
        let has_room = self.reserve.has_room_for(&self.place, size)?;
        if !has_room && !shares_blocks(self.dataset)? {
            preserved.state = State::Short;
            add(&mut preserved.left, size);
            return Ok(());
        }
        let name = names::number(self.copies.len() as u64);
        let row = &rows[0];
        let from = self
            .frozen
            .get(row.place.parent)?
            .open_file(&row.place.name)?;
        let to = self.place.create_file(&name)?;
        // Of one that only grew, the beginning is what it was. An application that changes it just now makes a copy of nothing that was.
        let is_it = content::size(&from)? >= size
            && content::copy(&from, &to, size).is_ok()
            && content::set_size(&to, size).is_ok()
            && content::hash_file(&to, size).is_ok_and(|found| found == hash);
        content::drop_cache(&from);
        if !is_it {
            self.place.remove_file(&name)?;
            let path = self.frozen.paths.path(row.place.parent)?;
            let path = shown(&path.join(&row.place.name));
            add(&mut preserved.lost, size);
            if preserved.first.len() < FIRST {
                preserved.first.push(path.clone());
            }
            self.lost.push(lost(path, (size, hash)));
            return Ok(());
        }
        set_attributes_of_new(&to, &row.entry.attributes, &self.dataset.privileges)?;
        self.bytes += size;
        self.copies.push(Copy {
            name,
            rows,
            former,
            bytes: size,
        });
        Ok(())
    }

    /// Makes the copies durable and puts them where their originals are; how many.
    pub(super) fn put_in_place(
        &mut self,
        _locked: &Locked,
        preserved: &mut Preserved,
    ) -> Result<usize, ReceiverError> {
        (self.bytes, self.looks) = (0, 0);
        let mut touched = std::mem::take(&mut self.doubted);
        if self.copies.is_empty() {
            self.set_directories(&touched)?;
            return Ok(0);
        }
        self.dataset.sync()?;
        crash_point!("preserve.synced");
        let copies = std::mem::take(&mut self.copies);
        for copy in &copies {
            self.replace(copy, &mut touched)?;
            add(&mut preserved.kept, copy.bytes);
        }
        crash_point!("preserve.replaced");
        self.set_directories(&touched)?;
        Ok(copies.len())
    }

    fn replace(
        &mut self,
        copy: &Copy,
        touched: &mut HashSet<DirectoryId>,
    ) -> Result<(), ReceiverError> {
        for (number, row) in copy.rows.iter().enumerate() {
            if stat(&mut self.frozen, row)?.is_none_or(|stat| !copy.former.contains(&stat.identity))
            {
                continue;
            }
            touched.insert(row.place.parent);
            let directory = self.frozen.get(row.place.parent)?;
            if number + 1 == copy.rows.len() {
                self.place.rename(&copy.name, directory, &row.place.name)?;
                return Ok(());
            }
            self.place.link(&copy.name, &self.place, &names::LINK)?;
            self.place
                .rename(&names::LINK, directory, &row.place.name)?;
        }
        Ok(self.place.remove_file(&copy.name)?)
    }

    /// What was put into a directory has changed its times.
    fn set_directories(&mut self, touched: &HashSet<DirectoryId>) -> Result<(), ReceiverError> {
        for id in touched {
            if let Some(row) = self.catalog.directory_row(*id, self.at)? {
                let above = self.frozen.get(row.place.parent)?;
                let stat = above.stat_if_present(&row.place.name)?;
                if stat.is_some_and(|stat| stat.modified == row.entry.attributes.modified) {
                    continue;
                }
                set_attributes(above, &row.place.name, &row.entry, &self.dataset.privileges)?;
            }
        }
        Ok(())
    }
}

/// What stands in the frozen tree where a row says; `None` if nothing does.
fn stat(handles: &mut Handles<'_>, row: &Row) -> Result<Option<Stat>, ReceiverError> {
    match handles.get(row.place.parent) {
        Ok(directory) => Ok(directory.stat_if_present(&row.place.name)?),
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Below the root `files`, paths are told as on the main.
fn shown(path: &RelPath) -> RelPath {
    let below = path.as_bytes().strip_prefix(b"files/".as_slice());
    below
        .and_then(|below| RelPath::new(below).ok())
        .unwrap_or_else(|| path.clone())
}
