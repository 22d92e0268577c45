//! Large files on their way: where they are until they are complete, and what is there of one already.

use std::fs::File;

use understudy_tree::content::{self, Extents, HoleyHasher};

use super::build::{Build, Held};
use super::plan::Leaf;
use crate::error::AgentError;

/// So much is read between two looks at whether somebody wants the end.
const STRETCH_BYTES: u64 = 64 << 20;

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

/// Makes the file that a content is written to from its beginning on.
pub(super) fn create(build: &Build<'_>, held: &mut Held, leaf: &Leaf) -> Result<File, AgentError> {
    let (directory, name) = build.place_of_large(held, leaf)?;
    if directory.stat_if_present(&name)?.is_some() {
        directory.remove_file(&name)?;
    }
    Ok(directory.create_file(&name)?)
}

/// A file of which the rest is to come, with the hash of what is there.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) file: File,
    pub(super) hasher: HoleyHasher,
}

/// Opens the file that a content is written to from `from` on.
pub(super) fn go_on(build: &Build<'_>, leaf: &Leaf, from: u64) -> Result<Begun, AgentError> {
    let mut held = Held::default();
    let (directory, name) = build.place_of_large(&mut held, leaf)?;
    let file = directory.open_file_to_change(&name)?;
    let mut hasher = HoleyHasher::default();
    read(build, &file, from, |offset, data| {
        hasher.update(offset, data);
    })?;
    hasher.zeros_until(from);
    Ok(Begun { file, hasher })
}

/// Visits the data of a file below `size` in order, unless somebody wants the end.
pub(super) fn read(
    build: &Build<'_>,
    file: &File,
    size: u64,
    mut visit: impl FnMut(u64, &[u8]),
) -> Result<(), AgentError> {
    let mut extents = Extents::default();
    let mut at = 0;
    while at < size {
        build.context.cancel.check()?;
        let end = size.min(at + STRETCH_BYTES);
        content::read_stretch(file, &mut extents, at..end, |offset, data| {
            visit(offset, data);
            Ok(())
        })?;
        at = end;
    }
    Ok(())
}

/// What comes up to `end` is a hole, unless somebody wants the end: what is announced in a moment may take years to hash.
pub(super) fn hole(
    build: &Build<'_>,
    hasher: &mut HoleyHasher,
    end: u64,
) -> Result<(), AgentError> {
    while hasher.position() < end {
        build.context.cancel.check()?;
        let next = hasher.position().saturating_add(STRETCH_BYTES);
        hasher.zeros_until(next.min(end));
    }
    Ok(())
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
        let path = &build.plan.branch_path(leaf.branch);
        landing.land(
            &made,
            build.open(held, leaf.branch)?,
            path,
            &leaf.place.name,
        )?;
    }
    Ok(())
}
