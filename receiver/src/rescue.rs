//! What only the other twin has, before that is thrown away: contents of the newest snapshot that somebody took out of the live tree go into
//! history.

use std::collections::{HashMap, HashSet};

use understudy_protocol::{ContentHash, DirectoryId, Place, Timestamp, limits};
use understudy_tree::{Directory, Kind, content};

use crate::absorb::{Found, Grounds, Suspect, Walk};
use crate::catalog::{Catalog, Recorded, Row};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::names;

/// Keeps it. The twin may be anything between two snapshots: what is taken for a content has its hash.
pub(crate) fn rescue(
    dataset: &Dataset,
    catalog: &Catalog,
    head: &Recorded,
    grounds: Grounds,
) -> Result<(), ReceiverError> {
    let (Some(live), shadow) = (dataset.live()?, dataset.shadow()?) else {
        return Ok(());
    };
    let control = &dataset.control;
    let mut leaving = vec![shadow.try_clone()?];
    // What left the twin on its way is gone only when the trash is emptied.
    for beside in [&names::LIMBO, &names::LIMBO_FULL, &names::TRASH] {
        if control.stat_if_present(beside)?.is_some() {
            leaving.push(control.open_directory(beside)?);
        }
    }
    let mut is_empty = true;
    for tree in &leaving {
        is_empty &= tree.names()?.is_empty();
    }
    if is_empty {
        return Ok(());
    }
    let mut missing = Missing::new(catalog, head.snapshot.position.number);
    missing.of_roots(&live)?;
    let mut walk = Walk {
        live: &live,
        twin: Some(&shadow),
        base: Some((catalog, missing.at)),
        privileges: dataset.privileges,
        grounds,
        // Nothing is written.
        next_directory: 1 << 62,
        groups: HashMap::new(),
    };
    walk.run(&mut |found| missing.note(found))?;
    if missing.is_empty() {
        return Ok(());
    }
    let objects = Objects::open(control)?;
    let mut kept = 0;
    for tree in &leaving {
        kept += missing.keep((&objects, control), tree, limits::DEPTH + 2)?;
    }
    if kept > 0 {
        tracing::warn!(dataset = %dataset.name, kept, "somebody took contents of the newest snapshot out of the live tree: the other tree had them, and they are in history now");
        // Before their other names go.
        dataset.sync()?;
    }
    Ok(())
}

/// Whether both twins have the same file at a place: then it is not only in the one that goes.
fn stands_in_both(suspect: &Suspect) -> Result<bool, ReceiverError> {
    let Some(twin) = &suspect.twin else {
        return Ok(false);
    };
    let other = twin.stat_if_present(&suspect.place.name)?;
    Ok(other.is_some_and(|other| other.identity == suspect.stat.identity))
}

/// Contents of a snapshot that do not surely stand in the live tree.
struct Missing<'a> {
    catalog: &'a Catalog,
    at: u64,
    /// By size and time: what a file says of itself before it is read.
    contents: HashMap<(u64, Timestamp), HashSet<ContentHash>>,
}

impl<'a> Missing<'a> {
    fn new(catalog: &'a Catalog, at: u64) -> Self {
        Self {
            catalog,
            at,
            contents: HashMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// A walk does not meet roots that are gone.
    fn of_roots(&mut self, live: &Directory) -> Result<(), ReceiverError> {
        for root in self.catalog.rows_in(DirectoryId::TOP, self.at, None)? {
            if live.stat_if_present(&root.place.name)?.is_none() {
                self.add(&root)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, found: Found) -> Result<(), ReceiverError> {
        match found {
            Found::Gone(place, _) => self.add_at(&place),
            Found::Suspect(suspect) => match &suspect.row {
                Some(row) if !stands_in_both(&suspect)? => self.add(row),
                _ => Ok(()),
            },
            Found::Directory(Suspect { row: Some(row), .. }, _)
                if row.entry.directory_id().is_none() =>
            {
                self.add(&row)
            }
            Found::Directory(..) | Found::Lost(..) => Ok(()),
        }
    }

    fn add_at(&mut self, place: &Place) -> Result<(), ReceiverError> {
        match self.catalog.row(place, self.at)? {
            Some(row) => self.add(&row),
            None => Ok(()),
        }
    }

    /// Adds a file, or all files of a directory.
    fn add(&mut self, row: &Row) -> Result<(), ReceiverError> {
        let mut pending = Vec::new();
        self.add_one(row, &mut pending);
        while let Some(directory) = pending.pop() {
            let mut after = None;
            loop {
                let rows = self.catalog.rows_in(directory, self.at, after.as_ref())?;
                let Some(last) = rows.last() else { break };
                after = Some(last.place.name.clone());
                for row in &rows {
                    self.add_one(row, &mut pending);
                }
            }
        }
        Ok(())
    }

    fn add_one(&mut self, row: &Row, pending: &mut Vec<DirectoryId>) {
        pending.extend(row.entry.directory_id());
        if let Some((size, hash)) = row.entry.content() {
            let said = (size, row.entry.attributes.modified);
            self.contents.entry(said).or_default().insert(hash);
        }
    }

    /// Keeps what is found of it below a directory in history; returns how much that was.
    fn keep(
        &self,
        (objects, control): (&Objects, &Directory),
        directory: &Directory,
        depth: usize,
    ) -> Result<u64, ReceiverError> {
        let mut kept = 0;
        for name in directory.names()? {
            let Some(stat) = directory.stat_if_present(&name)? else {
                continue;
            };
            if stat.kind == Kind::Directory && depth > 0 {
                let below = directory.open_directory(&name)?;
                kept += self.keep((objects, control), &below, depth - 1)?;
            }
            let Some(wanted) = self.contents.get(&(stat.size, stat.modified)) else {
                continue;
            };
            if stat.kind != Kind::File {
                continue;
            }
            let file = directory.open_file(&name)?;
            let hash = content::hash_file(&file, stat.size)?;
            if !wanted.contains(&hash) || objects.has(hash)? {
                continue;
            }
            kept += 1;
            if stat.links == 1 {
                objects.take(hash, directory, &name)?;
                continue;
            }
            // Another name may be in the live tree, and whoever writes there in place would write into history.
            match control.remove_file(&names::LINK) {
                Err(error) if !error.is_gone() => return Err(error.into()),
                _ => {}
            }
            content::copy(&file, &control.create_file(&names::LINK)?, stat.size)?;
            objects.take(hash, control, &names::LINK)?;
        }
        Ok(kept)
    }
}
