//! Large files that change a little: each twin has a file of its own, which patches bring forward in place.
//!
//! A file that is changed in place belongs to one twin only (it has one name), and nobody has it open. Where that does not hold,
//! it is replaced as any other, which costs its size and is right as well.

use std::fs::File;

use understudy_protocol::{ContentHash, Place};
use understudy_tree::attributes::set_attributes;
use understudy_tree::{Directory, Kind, content, crash_point};

use super::leaves::{Sources, live_handles, remove_if_present};
use super::{Contents, Transformation};
use crate::catalog::{Leaf, Row};
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::names;
use crate::patch::Patch;
use crate::resolve::Changing;

/// Patches of history that lead to one another. Each is read to give back the oldest.
const RUN: u32 = 1000;

impl Transformation<'_> {
    /// The patch as which a leaf of the target snapshot was staged, if it was.
    fn patch_of(&self, row: u64) -> Result<Option<Patch>, ReceiverError> {
        let patches = self.dataset.control.ensure_directory(&names::PATCHES)?;
        let patch = match patches.open_file(&names::number(row)) {
            Ok(file) => Patch::open(file)?,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match (patch, self.contents) {
            (Some(patch), _) => Ok(Some(patch)),
            (None, Contents::Staged) => Err(ReceiverError::Damaged(format!(
                "the staged patch of entry {row} is damaged"
            ))),
            (None, Contents::Live) => {
                // The live twin has what it led to.
                tracing::warn!(dataset = %self.dataset.name, "the patch of entry {row} is damaged: the file is replaced");
                Ok(None)
            }
        }
    }

    /// The file at a place of the shadow, if it may be changed in place: it is what `patch` is made for, or leads to. One
    /// that a crash or a stranger has left in between has another time, and is replaced.
    fn own_file(
        &self,
        directory: &Directory,
        place: &Place,
        patch: &Patch,
    ) -> Result<Option<File>, ReceiverError> {
        let Some(stat) = directory.stat_if_present(&place.name)? else {
            return Ok(None);
        };
        let mut is_known = false;
        for (at, hash) in [
            (self.to - 1, patch.about().base),
            (self.to, patch.about().hash),
        ] {
            let row = self.catalog.row(place, at)?;
            is_known |= row.is_some_and(|row| {
                row.entry.content() == Some((stat.size, hash))
                    && row.entry.attributes.modified == stat.modified
            });
        }
        if !is_known || stat.kind != Kind::File || stat.links != 1 {
            return Ok(None);
        }
        // One that must not be written to, a running program for instance, is replaced.
        let file = directory.open_file_to_change(&place.name).ok();
        // The lease goes with the descriptor: whoever opens the file meanwhile waits.
        Ok(file.filter(content::take_lease))
    }

    /// Keeps the content of a file of the shadow, which a patch is about to change, as the way back to it. `false` if there is no
    /// such patch, or if the content has to be kept whole.
    pub(super) fn keep_way_back(
        &self,
        objects: &Objects,
        directory: &Directory,
        former: &Row,
        hash: ContentHash,
    ) -> Result<bool, ReceiverError> {
        let Some(successor) = self.catalog.row(&former.place, self.to)? else {
            return Ok(false);
        };
        let Some(patch) = self.patch_of(successor.id)? else {
            return Ok(false);
        };
        if objects.has(hash)? {
            return Ok(true);
        }
        // A way back leads to a content that needs none itself. So none ever leads in a circle, whatever contents come
        // again.
        if objects.open_patch(patch.about().hash)?.is_some() {
            return Ok(false);
        }
        let Some(file) = self.own_file(directory, &former.place, &patch)? else {
            return Ok(false);
        };
        let run = self.run_before(objects, former, hash)?;
        let size = former.entry.size_bytes();
        // A whole content now and then, so that none is far from one.
        let cut_off = size.saturating_sub(patch.about().size);
        if run.0 >= RUN || run.1 + patch.bytes() + cut_off > size {
            return Ok(false);
        }
        match objects.keep_reverse(&patch, &file, size, run) {
            // Kept whole it takes no space that it does not have.
            Err(ReceiverError::NoSpace(_)) => return Ok(false),
            kept => kept?,
        }
        crash_point!("patch.kept");
        Ok(true)
    }

    /// How many patches lead to the content of a row one after another, and their bytes.
    fn run_before(
        &self,
        objects: &Objects,
        row: &Row,
        hash: ContentHash,
    ) -> Result<(u32, u64), ReceiverError> {
        let mut since = row.since;
        // Rows of the same content differ in metadata only.
        for _ in 0..RUN {
            let before = match since.checked_sub(1) {
                Some(before) => self.catalog.row(&row.place, before)?,
                None => None,
            };
            // What was before was removed, and with it how many patches there are: begun anew, they would never end.
            if before.is_none() && since > 1 && self.catalog.snapshot(since - 1)?.is_none() {
                return Ok((RUN, 0));
            }
            let Some((before, (_, content))) =
                before.and_then(|row| row.entry.content().map(|content| (row, content)))
            else {
                break;
            };
            if content == hash {
                since = before.since;
                continue;
            }
            let patch = objects.open_patch(content)?;
            let about = patch.map(|patch| patch.about().clone());
            return Ok(about
                .filter(|about| about.base == hash)
                .map_or((0, 0), |about| (about.run, about.run_bytes)));
        }
        Ok((0, 0))
    }

    /// Places a leaf that was staged as a patch; `false` if it was not, or if it has to be linked from the live twin.
    pub(super) fn place_patched(
        &self,
        leaf: &Leaf,
        new: &mut Changing<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<bool, ReceiverError> {
        if self.from == 0 || leaf.origin != leaf.id {
            return Ok(false);
        }
        let Some(patch) = self.patch_of(leaf.id)? else {
            return Ok(false);
        };
        let Some(row) = self.catalog.row_by_id(leaf.id)? else {
            return Ok(false);
        };
        let target = new.get(leaf.place.parent)?;
        match (self.own_file(target, &leaf.place, &patch)?, self.contents) {
            (Some(file), contents) => {
                patch.apply(&file)?;
                if contents == Contents::Live {
                    // No commit of the file system orders what is written over after the marker.
                    content::sync(&file)?;
                }
            }
            (None, Contents::Live) => return Ok(false),
            (None, Contents::Staged) => {
                let live = live_handles(&mut sources.live_base)?.get(leaf.place.parent)?;
                let former = live.open_file(&leaf.place.name)?;
                let control = &self.dataset.control;
                remove_if_present(control, &names::LINK)?;
                let file = control.create_file(&names::LINK)?;
                content::copy(&former, &file, content::size(&former)?)?;
                patch.apply(&file)?;
                control.rename(&names::LINK, target, &leaf.place.name)?;
            }
        }
        set_attributes(
            target,
            &leaf.place.name,
            &row.entry,
            &self.dataset.privileges,
        )?;
        Ok(true)
    }
}
