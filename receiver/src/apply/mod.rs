//! The apply engine: turns the shadow from one snapshot into the next, or from nothing into a snapshot.
//!
//! The operations come from the catalog and are declarative; contents come from staging or from the live twin,
//! never from the shadow. Three phases, each repeatable: what is displaced moves into history; directories
//! that go or move leave for the limbo, deepest first; everything new comes in, parents first. The limbo's
//! name tells in which phase an interrupted run was. [`leaves`] places everything that is no directory.

mod doubts;
mod leaves;
mod patched;

use std::collections::HashSet;

use understudy_protocol::{DirectoryId, Snapshot};
use understudy_tree::attributes::{make_accessible, set_attributes};
use understudy_tree::{Directory, Kind, Lacking, Privileges, crash_point, node, remove};

use crate::catalog::Catalog;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::housekeeping::Stop;
use crate::marker;
use crate::names;
use crate::resolve::{Changing, Handles};
use crate::shelves::Shelves;
use doubts::Doubts;

/// Where the inodes of new leaves come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// The live twin already shows the target snapshot: everything is linked from there.
    Live,
    /// The target is the pending snapshot: new files are in staging, kept ones in the live twin.
    Staged,
}

/// What the live twin is believed to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// What its snapshot says.
    Live,
    /// Nothing: somebody has changed it.
    Nothing,
}

/// One transformation of the shadow.
pub(crate) struct Transformation<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) catalog: &'a Catalog,
    pub(crate) shadow: &'a Directory,
    /// `None` before the first commit.
    pub(crate) live: Option<&'a Directory>,
    /// 0 if the shadow starts empty.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// What the shadow becomes: snapshot `to`.
    pub(crate) target: &'a Snapshot,
    /// First row of snapshot `to`.
    pub(crate) first_entry: u64,
    pub(crate) contents: Contents,
    pub(crate) trust: Trust,
    pub(crate) stop: &'a Stop,
}

impl Transformation<'_> {
    /// Runs or carries on. Nothing is synced.
    pub(crate) fn run(&self) -> Result<Lacking, ReceiverError> {
        let control = &self.dataset.control;
        let is_step = self.from > 0;
        if control.stat_if_present(&names::LIMBO_FULL)?.is_none() {
            if control.stat_if_present(&names::LIMBO)?.is_none()
                && is_step
                && self.contents == Contents::Live
            {
                self.displace()?;
            }
            let limbo = control.ensure_directory(&names::LIMBO)?;
            if is_step {
                self.move_out(&limbo)?;
            }
            control.rename_new(&names::LIMBO, control, &names::LIMBO_FULL)?;
        }
        let limbo = control.open_directory(&names::LIMBO_FULL)?;
        let lacking = self.move_in(&limbo)?;
        // Only now the limbo goes: as long as it is there, and no marker, a repetition starts in its phase.
        marker::write(self.shadow, self.target)?;
        crash_point!("apply.marked");
        retire_limbo(self.dataset)?;
        Ok(lacking)
    }

    /// Contents that no file of the present snapshot has go into history, by a rename.
    fn displace(&self) -> Result<(), ReceiverError> {
        let objects = Objects::open(&self.dataset.control)?;
        let mut old = Handles::new(self.shadow, self.catalog, self.from);
        let mut doubts = Doubts::new(self)?;
        self.catalog.leaves_gone(self.to, |leaf| {
            let Some(row) = self.catalog.row_by_id(leaf.id)? else {
                return Ok(());
            };
            let Some((_, hash)) = row.entry.content() else {
                return Ok(());
            };
            let present = self.catalog.rows_with(hash, self.to)?;
            if !present.is_empty() && !doubts.is_only_here(&mut old, &row, &present)? {
                return Ok(());
            }
            crash_point!("apply.step");
            // A closed directory on a spare without privileges: write access is needed to move out of it.
            let directory = match self.writable(&mut old, leaf.place.parent) {
                Err(ReceiverError::Tree(error)) if error.is_gone() => {
                    // Somebody removed it, and what was in it. `verify` reports what is missing from history then.
                    tracing::warn!(dataset = %self.dataset.name, "`{:?}` is missing from the other tree", leaf.place);
                    doubts.miss(&row);
                    return Ok(());
                }
                directory => directory?,
            };
            if self.keep_way_back(&objects, directory, &row, hash)? {
                return Ok(());
            }
            if doubts.let_pass(directory, &row)? {
                objects.take(hash, directory, &leaf.place.name)?;
            }
            Ok(())
        })?;
        doubts.tell(&objects)
    }

    fn writable<'h>(
        &self,
        handles: &'h mut Handles<'_>,
        id: DirectoryId,
    ) -> Result<&'h Directory, ReceiverError> {
        let directory = handles.get(id)?;
        if !self.dataset.privileges.override_permissions
            && directory.stat_self()?.mode & 0o700 != 0o700
        {
            directory.set_mode(0o700)?;
        }
        Ok(directory)
    }

    /// Directories that are not where they were leave, deepest first, so that every old path still holds.
    fn move_out(&self, limbo: &Directory) -> Result<(), ReceiverError> {
        let mut old = Handles::new(self.shadow, self.catalog, self.from);
        let mut gone = Vec::new();
        for directory in self.catalog.directories_gone(self.to)? {
            // Other attributes at the same place: it stays.
            if self
                .catalog
                .directory_place(directory.id, self.to)?
                .as_ref()
                == Some(&directory.place)
            {
                continue;
            }
            let depth = depth(&old.paths.path(directory.id)?);
            gone.push((depth, directory));
        }
        gone.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        for (_, directory) in gone {
            crash_point!("apply.step");
            let name = names::number(directory.id.0);
            if limbo.stat_if_present(&name)?.is_some() {
                continue;
            }
            let parent = self.writable(&mut old, directory.place.parent)?;
            if !self.dataset.privileges.override_permissions {
                make_accessible(parent, &directory.place.name)?;
            }
            parent.rename_new(&directory.place.name, limbo, &name)?;
        }
        Ok(())
    }

    fn move_in(&self, limbo: &Directory) -> Result<Lacking, ReceiverError> {
        let mut new = Changing::new(self.shadow, self.catalog, self.to, self.dataset.privileges);
        self.place_directories(limbo, &mut new)?;
        if self.from > 0 {
            self.remove_leaves(&mut new)?;
        }
        leaves::place(self, &mut new)?;
        self.finish_directories(new)
    }

    fn new_directories(&self) -> Result<Vec<crate::catalog::Directory>, ReceiverError> {
        if self.from == 0 {
            self.catalog.directories_at(self.to)
        } else {
            self.catalog.directories_new(self.to, self.first_entry)
        }
    }

    /// Directories that moved come out of the limbo, staged ones out of staging, others are made; parents
    /// first.
    fn place_directories(
        &self,
        limbo: &Directory,
        new: &mut Changing<'_>,
    ) -> Result<(), ReceiverError> {
        let mut paths = crate::resolve::Paths::new(self.catalog, self.to);
        let staging = Shelves::open(&self.dataset.control)?;
        let mut incoming = Vec::new();
        for directory in self.new_directories()? {
            incoming.push((depth(&paths.path(directory.id)?), directory));
        }
        drop(paths);
        incoming.sort_by_key(|(depth, _)| *depth);
        for (_, directory) in incoming {
            crash_point!("apply.step");
            let waiting = names::number(directory.id.0);
            let parent = new.get(directory.place.parent)?;
            let name = &directory.place.name;
            match parent.stat_if_present(name)? {
                Some(stat) if stat.kind == Kind::Directory => {}
                present => {
                    if present.is_some() {
                        parent.remove_file(name)?;
                    }
                    if limbo.stat_if_present(&waiting)?.is_some() {
                        limbo.rename_new(&waiting, parent, name)?;
                    } else if self.contents == Contents::Live
                        || !staging.place_directory(directory.id, parent, name)?
                    {
                        self.check_nothing_staged(directory.id)?;
                        parent.create_directory(name)?;
                    }
                }
            }
            new.get(directory.id)?;
        }
        Ok(())
    }

    /// A directory is only made anew if nothing was staged for it.
    fn check_nothing_staged(&self, id: DirectoryId) -> Result<(), ReceiverError> {
        let is_new = self.to == 1 || self.catalog.directory_place(id, self.to - 1)?.is_none();
        if self.contents == Contents::Staged
            && is_new
            && self.catalog.has_staged_leaves(id, self.to)?
        {
            let text = format!("the staged content of directory {} is missing", id.0);
            return Err(ReceiverError::Damaged(text));
        }
        Ok(())
    }

    /// Leaves that have no successor at their place go.
    fn remove_leaves(&self, new: &mut Changing<'_>) -> Result<(), ReceiverError> {
        self.catalog.leaves_gone(self.to, |leaf| {
            let privileges = &self.dataset.privileges;
            let has_successor = self
                .catalog
                .row(&leaf.place, self.to)?
                .is_some_and(|row| node::can_exist(&row.entry, privileges));
            let parent_stays = leaf.place.parent == DirectoryId::TOP
                || self
                    .catalog
                    .directory_place(leaf.place.parent, self.to)?
                    .is_some();
            if has_successor || !parent_stays {
                return Ok(());
            }
            crash_point!("apply.step");
            match new.get(leaf.place.parent)?.remove_file(&leaf.place.name) {
                Err(error) if !error.is_gone() => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    /// Sets the attributes of every directory that is new or was touched.
    fn finish_directories(&self, new: Changing<'_>) -> Result<Lacking, ReceiverError> {
        let mut touched = new.into_touched();
        touched.extend(
            self.new_directories()?
                .into_iter()
                .map(|directory| directory.id),
        );
        if self.from > 0 {
            // Those that lost a directory were touched when it moved out, perhaps before an interruption.
            for gone in self.catalog.directories_gone(self.to)? {
                if self
                    .catalog
                    .directory_place(gone.place.parent, self.to)?
                    .is_some()
                {
                    touched.insert(gone.place.parent);
                }
            }
        }
        let handles = Handles::new(self.shadow, self.catalog, self.to);
        let of = (self.catalog, self.to, &self.dataset.privileges);
        finish_directories(handles, touched, of)
    }
}

/// Sets the attributes of directories of a twin that were touched.
pub(crate) fn finish_directories(
    mut handles: Handles<'_>,
    touched: HashSet<DirectoryId>,
    (catalog, at, privileges): (&Catalog, u64, &Privileges),
) -> Result<Lacking, ReceiverError> {
    let mut deepest_first = Vec::with_capacity(touched.len());
    for id in touched {
        if id != DirectoryId::TOP {
            deepest_first.push((depth(&handles.paths.path(id)?), id));
        }
    }
    // A directory closed by its mode must not hide those below it from the process that sets them.
    deepest_first.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    let mut lacking = Lacking::default();
    for (_, id) in deepest_first {
        crash_point!("apply.step");
        let Some(row) = catalog.directory_row(id, at)? else {
            continue;
        };
        let parent = handles.get(row.place.parent)?;
        let name = &row.place.name;
        lacking.merge(set_attributes(parent, name, &row.entry, privileges)?);
    }
    Ok(lacking)
}

/// The shadow is whole: what is left in the limbo is not needed any more.
pub(crate) fn retire_limbo(dataset: &Dataset) -> Result<(), ReceiverError> {
    let control = &dataset.control;
    if control.stat_if_present(&names::LIMBO_FULL)?.is_some() {
        let trash = control.ensure_directory(&names::TRASH)?;
        remove::discard(control, &names::LIMBO_FULL, &trash)?;
    }
    Ok(())
}

fn depth(path: &understudy_protocol::RelPath) -> usize {
    path.as_bytes().iter().filter(|&&byte| byte == b'/').count()
}
