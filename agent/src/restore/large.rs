//! Large files on their way: where they are until they are complete, and what is there of one already.

use std::fs::File;

use understudy_tree::content::{self, Extents, HoleyHasher};

use super::build::{Build, Held};
use super::plan::Leaf;
use crate::error::AgentError;

/// How much of a leaf's content is here; 0 if it must come whole.
pub(super) fn here(build: &Build<'_>, number: usize) -> Result<u64, AgentError> {
    let leaf = &build.plan.leaves[number];
    if !build.may_continue(leaf) {
        return Ok(0);
    }
    let mut held = Held::default();
    let (directory, name) = build.place_of_large(&mut held, leaf)?;
    let stat = directory.stat_if_present(&name)?;
    Ok(stat
        .filter(|stat| build.is_beginning(stat, leaf))
        .map_or(0, |stat| stat.size))
}

/// Opens the file that a content is written to, with the hash of what is there of it up to `from`.
pub(super) fn open(
    build: &Build<'_>,
    held: &mut Held,
    leaf: &Leaf,
    from: u64,
) -> Result<(File, HoleyHasher), AgentError> {
    let (directory, name) = build.place_of_large(held, leaf)?;
    let mut hasher = HoleyHasher::default();
    if from == 0 {
        if directory.stat_if_present(&name)?.is_some() {
            directory.remove_file(&name)?;
        }
        return Ok((directory.create_file(&name)?, hasher));
    }
    let file = directory.open_file_to_change(&name)?;
    content::read_stretch(&file, &mut Extents::default(), 0..from, |offset, data| {
        hasher.update(offset, data);
        Ok(())
    })?;
    hasher.zeros_until(from);
    Ok((file, hasher))
}

/// The content is complete and right: the file gets its attributes, and its place.
pub(super) fn finish(
    build: &Build<'_>,
    held: &mut Held,
    file: &File,
    leaf: &Leaf,
) -> Result<(), AgentError> {
    build.finish_file(file, leaf)?;
    if let Some(landing) = build.landing {
        let made = landing.of_content(leaf)?;
        let path = &build.plan.branches[leaf.branch].path;
        landing.land(
            &made,
            build.open(held, leaf.branch)?,
            path,
            &leaf.place.name,
        )?;
    }
    Ok(())
}
