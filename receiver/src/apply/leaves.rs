//! Placing leaves: renamed out of staging, linked from the live twin, or copied where no more links fit.

use std::collections::HashMap;

use rustix::io::Errno;
use understudy_protocol::{Name, Place};
use understudy_tree::attributes::set_attributes;
use understudy_tree::{Directory, Kind, content, crash_point, node};

use super::{Contents, Transformation};
use crate::catalog::Leaf;
use crate::comparison;
use crate::error::ReceiverError;
use crate::names;
use crate::resolve::{Changing, Handles};
use crate::shelves::{NewDirectories, Shelves};

/// Places every leaf that is new in the target snapshot.
pub(super) fn place(
    transformation: &Transformation<'_>,
    new: &mut Changing<'_>,
) -> Result<(), ReceiverError> {
    transformation.place_leaves(new)
}

impl Transformation<'_> {
    fn place_leaves(&self, new: &mut Changing<'_>) -> Result<(), ReceiverError> {
        let mut sources = Sources {
            live_base: self
                .live
                .map(|live| Handles::new(live, self.catalog, self.live_snapshot())),
            staging: Shelves::open(&self.dataset.control)?,
            new_directories: NewDirectories::new(
                (self.to > 1).then_some((self.catalog, self.to - 1)),
            ),
            own_copies: HashMap::new(),
        };
        let place = |leaf: Leaf| {
            if self.stop.is_asked_for() {
                return Err(ReceiverError::Stopped);
            }
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
                if self.place_patched(leaf, new, sources)? {
                    return Ok(());
                }
                let live = live_handles(&mut sources.live_base)?.get(leaf.place.parent);
                let Some(live) = standing(live, &leaf.place.name)? else {
                    // Somebody removed it from the live tree. `verify` reports it; the cycle goes on.
                    tracing::warn!(dataset = %self.dataset.name, "`{:?}` is missing from the live tree", leaf.place);
                    return Ok(());
                };
                let target = new.get(leaf.place.parent)?;
                if self.is_only_right_here(leaf, live, target)? {
                    return Ok(());
                }
                self.link(
                    live,
                    &leaf.place.name,
                    target,
                    leaf,
                    &mut sources.own_copies,
                )
            }
            Contents::Staged if is_staged => self.place_staged(leaf, new, sources),
            Contents::Staged if self.is_unmoved(leaf)? && !self.is_alone(leaf, new)? => Ok(()),
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
        if self.place_patched(leaf, new, sources)? {
            return Ok(());
        }
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

    /// Whether a file of a group has one name in this twin: it was this twin's own, and gets further names now.
    fn is_alone(&self, leaf: &Leaf, new: &mut Changing<'_>) -> Result<bool, ReceiverError> {
        if leaf.group == 0 {
            return Ok(false);
        }
        let target = new.get(leaf.place.parent)?;
        let stat = target.stat_if_present(&leaf.place.name)?;
        Ok(stat.is_some_and(|stat| stat.links == 1))
    }

    /// Whether the file was linked before an interruption, and somebody has put another one into its place in the live tree since.
    fn is_only_right_here(
        &self,
        leaf: &Leaf,
        live: &Directory,
        target: &Directory,
    ) -> Result<bool, ReceiverError> {
        let name = &leaf.place.name;
        let Some(here) = target.stat_if_present(name)? else {
            return Ok(false);
        };
        let there = live.stat(name)?;
        if here.identity == there.identity {
            return Ok(false);
        }
        let Some(row) = self.catalog.row_by_id(leaf.id)? else {
            return Ok(false);
        };
        let privileges = &self.dataset.privileges;
        let deviation = |directory, stat| {
            comparison::deviation((directory, name), &row.entry, stat, privileges)
        };
        Ok(deviation(target, &here)?.is_none() && deviation(live, &there)?.is_some())
    }

    /// Brings the metadata of a file that has an inode of its own in this twin up to date.
    fn follow_live(
        &self,
        leaf: &Leaf,
        new: &mut Changing<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<(), ReceiverError> {
        let live = live_handles(&mut sources.live_base)?.get(leaf.place.parent);
        let live = match standing(live, &leaf.place.name)? {
            Some(live) => live.stat_if_present(&leaf.place.name)?,
            None => None,
        };
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
}

/// The directory of a leaf in the live tree; `None` if there is no leaf in it.
fn standing<'a>(
    directory: Result<&'a Directory, ReceiverError>,
    name: &Name,
) -> Result<Option<&'a Directory>, ReceiverError> {
    let directory = match directory {
        Err(ReceiverError::Tree(error)) if error.is_gone() => return Ok(None),
        directory => directory?,
    };
    let stat = directory.stat_if_present(name)?;
    Ok(stat
        .is_some_and(|stat| stat.kind != Kind::Directory)
        .then_some(directory))
}

/// Where leaves are linked from.
pub(super) struct Sources<'a> {
    pub(super) live_base: Option<Handles<'a>>,
    staging: Shelves,
    new_directories: NewDirectories<'a>,
    /// Group to the name of its own copy in the limbo.
    own_copies: HashMap<u64, Name>,
}

pub(super) fn live_handles<'h, 'a>(
    live: &'h mut Option<Handles<'a>>,
) -> Result<&'h mut Handles<'a>, ReceiverError> {
    live.as_mut().ok_or_else(|| {
        ReceiverError::Damaged("a file is kept from a live tree that does not exist".to_owned())
    })
}

pub(super) fn remove_if_present(directory: &Directory, name: &Name) -> Result<(), ReceiverError> {
    match directory.remove_file(name) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}
