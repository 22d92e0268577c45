//! The apply engine: turns the shadow from one snapshot into the next, or from nothing into a snapshot.
//!
//! The operations come from the catalog and are declarative; contents come from staging or from the live twin,
//! never from the shadow. Three phases, each repeatable: what is displaced moves into history; directories
//! that go or move leave for the limbo, deepest first; everything new comes in, parents first. The limbo's
//! name tells in which phase an interrupted run was.

use std::collections::HashMap;

use rustix::io::Errno;
use understudy_protocol::{DirectoryId, Name, Place, Snapshot};
use understudy_tree::attributes::{make_accessible, set_attributes};
use understudy_tree::{Directory, Kind, Lacking, content, crash_point, node, remove};

use crate::catalog::{Catalog, Leaf};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::marker::{self, Applying};
use crate::names;
use crate::resolve::{Changing, Handles};
use crate::stage;

/// Where the inodes of new leaves come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// The live twin already shows the target snapshot: everything is linked from there.
    Live,
    /// The target is the pending snapshot: new files are in staging, kept ones in the live twin.
    Staged,
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
        self.catalog.leaves_gone(self.to, |leaf| {
            let Some(row) = self.catalog.row_by_id(leaf.id)? else {
                return Ok(());
            };
            let Some((_, hash)) = row.entry.content() else {
                return Ok(());
            };
            if !self.catalog.rows_with(hash, self.to)?.is_empty() {
                return Ok(());
            }
            crash_point!("apply.step");
            // A closed directory on a spare without privileges: write access is needed to move out of it.
            let directory = self.writable(&mut old, leaf.place.parent)?;
            objects.take(hash, directory, &leaf)
        })
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
        self.place_leaves(&mut new)?;
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
        let staging = stage::Shelves::open(&self.dataset.control)?;
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
                        parent.create_directory(name)?;
                    }
                }
            }
            new.get(directory.id)?;
        }
        Ok(())
    }

    /// Leaves that have no successor at their place go.
    fn remove_leaves(&self, new: &mut Changing<'_>) -> Result<(), ReceiverError> {
        self.catalog.leaves_gone(self.to, |leaf| {
            let has_successor = self.catalog.row(&leaf.place, self.to)?.is_some();
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

    fn place_leaves(&self, new: &mut Changing<'_>) -> Result<(), ReceiverError> {
        let mut sources = Sources {
            live_base: self
                .live
                .map(|live| Handles::new(live, self.catalog, self.live_snapshot())),
            staging: stage::Shelves::open(&self.dataset.control)?,
            new_directories: stage::NewDirectories::new(
                (self.to > 1).then_some((self.catalog, self.to - 1)),
            ),
            own_copies: HashMap::new(),
        };
        let place = |leaf: Leaf| {
            if leaf.is_device && !self.dataset.privileges.make_devices {
                return Ok(());
            }
            crash_point!("apply.step");
            self.place_leaf(&leaf, new, &mut sources)
        };
        if self.from == 0 && self.contents == Contents::Staged {
            // All directories are new: only further names of their files are missing.
            self.catalog
                .leaves_linked(self.to, self.first_entry, place)?;
        } else if self.from == 0 {
            self.catalog.leaves_at(self.to, place)?;
        } else {
            self.catalog.leaves_new(self.to, self.first_entry, place)?;
        }
        self.unite_copied_groups(&sources.own_copies, new)
    }

    /// A group that got an inode of its own in this twin has it under all its names, also those that were
    /// linked before the limit was met.
    fn unite_copied_groups(
        &self,
        copies: &HashMap<u64, Name>,
        new: &mut Changing<'_>,
    ) -> Result<(), ReceiverError> {
        if copies.is_empty() {
            return Ok(());
        }
        let limbo = self.dataset.control.open_directory(&names::LIMBO_FULL)?;
        self.catalog.leaves_at(self.to, |leaf| {
            let Some(copy) = copies.get(&leaf.group).filter(|_| leaf.group != 0) else {
                return Ok(());
            };
            let target = new.get(leaf.place.parent)?;
            let present = target.stat_if_present(&leaf.place.name)?;
            let wanted = limbo.stat(copy)?.identity;
            if present.is_some_and(|stat| stat.identity == wanted) {
                return Ok(());
            }
            remove_if_present(target, &leaf.place.name)?;
            match limbo.link(copy, target, &leaf.place.name) {
                // More names than one inode can have at all: the rest goes by another one.
                Err(error) if error.errno() == Some(Errno::MLINK) => {
                    let control = &self.dataset.control;
                    self.link_own_copy(&limbo, copy, target, &leaf, &mut HashMap::new())?;
                    remove_if_present(control, &names::LINK)
                }
                result => Ok(result?),
            }
        })
    }

    /// The snapshot that the live twin shows during this transformation.
    fn live_snapshot(&self) -> u64 {
        match self.contents {
            Contents::Live => self.to,
            Contents::Staged => self.to - 1,
        }
    }

    fn place_leaf(
        &self,
        leaf: &Leaf,
        new: &mut Changing<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<(), ReceiverError> {
        let is_staged = leaf.origin >= self.first_entry;
        match self.contents {
            Contents::Live if self.from > 0 && !is_staged && self.is_unmoved(leaf)? => {
                self.follow_live(leaf, new, sources)
            }
            Contents::Live => {
                let live = live_handles(&mut sources.live_base)?.get(leaf.place.parent)?;
                if live.stat_if_present(&leaf.place.name)?.is_none() {
                    // Somebody removed it from the live tree. `verify` reports it; the cycle goes on.
                    tracing::warn!(dataset = %self.dataset.name, "`{:?}` is missing from the live tree", leaf.place);
                    return Ok(());
                }
                let target = new.get(leaf.place.parent)?;
                self.link(
                    live,
                    &leaf.place.name,
                    target,
                    leaf,
                    &mut sources.own_copies,
                )
            }
            Contents::Staged if is_staged => self.place_staged(leaf, new, sources),
            Contents::Staged if self.is_unmoved(leaf)? => Ok(()),
            Contents::Staged => {
                let kept = self.origin_place(leaf)?;
                let live = live_handles(&mut sources.live_base)?.get(kept.parent)?;
                let target = new.get(leaf.place.parent)?;
                self.link(live, &kept.name, target, leaf, &mut sources.own_copies)
            }
        }
    }

    fn place_staged(
        &self,
        leaf: &Leaf,
        new: &mut Changing<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<(), ReceiverError> {
        let is_own = leaf.origin == leaf.id;
        let first = if is_own {
            leaf.place.clone()
        } else {
            self.origin_place(leaf)?
        };
        let came_with_directory = sources.new_directories.contains(first.parent)?;
        if is_own && came_with_directory {
            return Ok(());
        }
        if came_with_directory {
            let source = new.get(first.parent)?.try_clone()?;
            let target = new.get(leaf.place.parent)?;
            return self.link(&source, &first.name, target, leaf, &mut sources.own_copies);
        }
        let (shelf, name) = sources.staging.get(leaf.origin)?;
        let target = new.get(leaf.place.parent)?;
        if leaf.group != 0 {
            return self.link(shelf, &name, target, leaf, &mut sources.own_copies);
        }
        match shelf.rename(&name, target, &leaf.place.name) {
            // Done before an interruption.
            Err(error) if error.is_gone() => self.check_placed(leaf, target),
            result => Ok(result?),
        }
    }

    fn origin_place(&self, leaf: &Leaf) -> Result<Place, ReceiverError> {
        let row = self.catalog.row_by_id(leaf.origin)?;
        row.map(|row| row.place).ok_or_else(|| {
            ReceiverError::Damaged(format!(
                "entry {} keeps a file that the catalog does not know",
                leaf.id
            ))
        })
    }

    /// Whether the kept file stands at the same place already: only its metadata changed.
    fn is_unmoved(&self, leaf: &Leaf) -> Result<bool, ReceiverError> {
        Ok(self.origin_place(leaf)? == leaf.place)
    }

    /// Brings the metadata of a file that has an inode of its own in this twin up to date.
    fn follow_live(
        &self,
        leaf: &Leaf,
        new: &mut Changing<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<(), ReceiverError> {
        let live = live_handles(&mut sources.live_base)?
            .get(leaf.place.parent)?
            .stat_if_present(&leaf.place.name)?;
        let target = new.get(leaf.place.parent)?;
        let shadow = target.stat_if_present(&leaf.place.name)?;
        if let (Some(live), Some(shadow)) = (live, shadow)
            && live.identity != shadow.identity
            && let Some(row) = self.catalog.row_by_id(leaf.id)?
        {
            set_attributes(
                target,
                &leaf.place.name,
                &row.entry,
                &self.dataset.privileges,
            )?;
        }
        Ok(())
    }

    /// A staged file that is not there must have been placed already.
    fn check_placed(&self, leaf: &Leaf, target: &Directory) -> Result<(), ReceiverError> {
        let row = self.catalog.row_by_id(leaf.id)?;
        let stat = target.stat_if_present(&leaf.place.name)?;
        match (row, stat) {
            (Some(row), Some(stat))
                if stat.kind != Kind::Directory
                    && (stat.kind != Kind::File || stat.size == row.entry.size_bytes()) =>
            {
                Ok(())
            }
            _ => Err(ReceiverError::Damaged(format!(
                "the staged content of {:?} is missing",
                leaf.place
            ))),
        }
    }

    /// Makes `leaf` a name of the file at `name` in `source`, replacing what stands there in one step.
    fn link(
        &self,
        source: &Directory,
        name: &Name,
        target: &Directory,
        leaf: &Leaf,
        own_copies: &mut HashMap<u64, Name>,
    ) -> Result<(), ReceiverError> {
        match source.link(name, target, &leaf.place.name) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            Err(error) if error.errno() == Some(Errno::MLINK) => {
                return self.link_own_copy(source, name, target, leaf, own_copies);
            }
            Err(error) => return Err(error.into()),
        }
        let same = source.stat(name)?.identity == target.stat(&leaf.place.name)?.identity;
        if same {
            return Ok(());
        }
        let control = &self.dataset.control;
        remove_if_present(control, &names::LINK)?;
        match source.link(name, control, &names::LINK) {
            Err(error) if error.errno() == Some(Errno::MLINK) => {
                return self.link_own_copy(source, name, target, leaf, own_copies);
            }
            result => result?,
        }
        Ok(control.rename(&names::LINK, target, &leaf.place.name)?)
    }

    /// The file has as many names as the file system allows: this twin gets an inode of its own, which the
    /// other names of the group share. Copies wait in the limbo for their names, and go with it.
    fn link_own_copy(
        &self,
        source: &Directory,
        name: &Name,
        target: &Directory,
        leaf: &Leaf,
        own_copies: &mut HashMap<u64, Name>,
    ) -> Result<(), ReceiverError> {
        let limbo = self.dataset.control.open_directory(&names::LIMBO_FULL)?;
        if let Some(copy) = own_copies.get(&leaf.group) {
            remove_if_present(target, &leaf.place.name)?;
            match limbo.link(copy, target, &leaf.place.name) {
                Err(error) if error.errno() == Some(Errno::MLINK) => {}
                result => return Ok(result?),
            }
        }
        let row = self.catalog.row_by_id(leaf.id)?;
        let row = row.ok_or_else(|| {
            ReceiverError::Damaged(format!("entry {} vanished from the catalog", leaf.id))
        })?;
        let copy = Name::new(format!("copy-{}", leaf.id))
            .map_err(|error| ReceiverError::Damaged(error.to_string()))?;
        remove_if_present(&limbo, &copy)?;
        if let Some((size, _)) = row.entry.content() {
            let made = limbo.create_file(&copy)?;
            content::copy(&source.open_file(name)?, &made, size)?;
            set_attributes(&limbo, &copy, &row.entry, &self.dataset.privileges)?;
        } else {
            node::create_special(&limbo, &copy, &row.entry, &self.dataset.privileges)?;
        }
        remove_if_present(target, &leaf.place.name)?;
        limbo.link(&copy, target, &leaf.place.name)?;
        own_copies.insert(leaf.group, copy);
        Ok(())
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
        let mut handles = Handles::new(self.shadow, self.catalog, self.to);
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
            let Some(row) = self.catalog.directory_row(id, self.to)? else {
                continue;
            };
            let parent = handles.get(row.place.parent)?;
            lacking.merge(set_attributes(
                parent,
                &row.place.name,
                &row.entry,
                &self.dataset.privileges,
            )?);
        }
        Ok(lacking)
    }
}

/// The shadow is whole: what is left in the limbo is not needed any more.
pub(crate) fn retire_limbo(dataset: &Dataset) -> Result<(), ReceiverError> {
    let control = &dataset.control;
    if control.stat_if_present(&names::LIMBO_FULL)?.is_some() {
        remove::discard(
            control,
            &names::LIMBO_FULL,
            &control.ensure_directory(&names::TRASH)?,
        )?;
    }
    Applying::finish(control)
}

/// Where leaves are linked from.
struct Sources<'a> {
    live_base: Option<Handles<'a>>,
    staging: stage::Shelves,
    new_directories: stage::NewDirectories<'a>,
    /// Group to the name of its own copy in the limbo.
    own_copies: HashMap<u64, Name>,
}

fn live_handles<'h, 'a>(
    live: &'h mut Option<Handles<'a>>,
) -> Result<&'h mut Handles<'a>, ReceiverError> {
    live.as_mut().ok_or_else(|| {
        ReceiverError::Damaged("a file is kept from a live tree that does not exist".to_owned())
    })
}

fn remove_if_present(directory: &Directory, name: &Name) -> Result<(), ReceiverError> {
    match directory.remove_file(name) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}

fn depth(path: &understudy_protocol::RelPath) -> usize {
    path.as_bytes().iter().filter(|&&byte| byte == b'/').count()
}
