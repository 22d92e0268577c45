//! Making use of contents that are here: those that an interrupted run left, and those of the tree that is replaced.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use understudy_protocol::{Name, limits};
use understudy_tree::attributes::set_attributes;
use understudy_tree::{Directory, Kind, Stat, content};

use super::build::{Build, Held, Resuming};
use super::plan::Leaf;
use crate::error::AgentError;

impl Build<'_> {
    /// Takes contents that are here already; returns the leaves whose content is not.
    pub(super) fn reuse(&self, announced: (u64, u64)) -> Result<Vec<usize>, AgentError> {
        let contents: Vec<usize> = (0..self.plan.leaves.len())
            .filter(|&number| self.has_content(number))
            .collect();
        let bytes = contents
            .iter()
            .map(|&number| self.plan.leaves[number].entry.size_bytes())
            .fold(0, u64::saturating_add);
        self.context.progress.expect(contents.len() as u64, bytes);
        self.context.progress.withdraw(announced);
        let base = match self.landing {
            Some(_) => None,
            None => self.site.open_target()?,
        };
        if !self.work.is_resumed && base.is_none() {
            return Ok(contents);
        }
        let next = AtomicUsize::new(0);
        let needed = Mutex::new(Vec::new());
        self.in_parallel(|held| {
            while let Some(&number) = contents.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.context.cancel.check()?;
                if self.reuse_one(held, number, base.as_ref())? {
                    self.context
                        .progress
                        .found(1, self.plan.leaves[number].entry.size_bytes());
                } else {
                    needed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(number);
                }
            }
            Ok(())
        })?;
        let mut needed = needed.into_inner().unwrap_or_else(PoisonError::into_inner);
        needed.sort_unstable();
        Ok(needed)
    }

    fn reuse_one(
        &self,
        held: &mut Held,
        number: usize,
        base: Option<&Directory>,
    ) -> Result<bool, AgentError> {
        if let Some(landing) = self.landing {
            return self.reuse_in_place(held, number, landing);
        }
        let leaf = &self.plan.leaves[number];
        let name = &leaf.place.name;
        let directory = self.open(held, leaf.branch)?;
        let left = if self.work.is_resumed {
            self.left(directory, leaf)?
        } else {
            Left::Nothing
        };
        if left == Left::Whole {
            self.lacks(set_attributes(
                directory,
                name,
                &leaf.entry,
                &self.privileges,
            )?);
            return Ok(true);
        }
        let Some(base) = base else { return Ok(false) };
        let Ok(there) = base.open_beneath(&self.plan.branch_path(leaf.branch)) else {
            return Ok(false);
        };
        let Some(source) = opened_if_same(&there, leaf) else {
            return Ok(false);
        };
        if left == Left::Beginning {
            directory.remove_file(name)?;
        }
        let file = directory.create_file(name)?;
        content::copy(&source, &file, leaf.entry.size_bytes())?;
        // What is copied may have changed since it was hashed.
        if !has_hash(&file, leaf) {
            directory.remove_file(name)?;
            return Ok(false);
        }
        self.finish_file(&file, leaf)?;
        Ok(true)
    }

    /// What an interrupted run left of a file; what is of no use is removed.
    fn left(&self, directory: &Directory, leaf: &Leaf) -> Result<Left, AgentError> {
        let name = &leaf.place.name;
        let Some(stat) = directory.stat_if_present(name)? else {
            return Ok(Left::Nothing);
        };
        // A file with names beyond its group would change under them.
        if (stat.links == 1 || leaf.entry.group != 0) && opened_if_same(directory, leaf).is_some() {
            return Ok(Left::Whole);
        }
        if self.is_beginning(&stat, leaf) {
            return Ok(Left::Beginning);
        }
        directory.remove_file(name)?;
        Ok(Left::Nothing)
    }

    /// Whether it looks like the beginning of a large file. Whether it is, the hash of the whole will tell.
    pub(super) fn is_beginning(&self, stat: &Stat, leaf: &Leaf) -> bool {
        self.may_continue(leaf)
            && stat.kind == Kind::File
            && stat.links == 1
            && (1..leaf.entry.size_bytes()).contains(&stat.size)
    }

    /// Whether the rest of its content can be asked for.
    pub(super) fn may_continue(&self, leaf: &Leaf) -> bool {
        self.resuming == Resuming::Inside && leaf.entry.size_bytes() > limits::INLINE_BYTES as u64
    }

    /// Where a large file is while it comes.
    pub(super) fn place_of_large<'h>(
        &'h self,
        held: &'h mut Held,
        leaf: &Leaf,
    ) -> Result<(&'h Directory, Name), AgentError> {
        if let Some(landing) = self.landing {
            return Ok((&landing.scratch, landing.of_content(leaf)?));
        }
        Ok((self.open(held, leaf.branch)?, leaf.place.name.clone()))
    }
}

/// What an interrupted run left of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Beginning,
    Whole,
}

/// The file at a leaf's name in some directory, if it has the leaf's content.
pub(super) fn opened_if_same(directory: &Directory, leaf: &Leaf) -> Option<File> {
    // Whatever keeps it from being read, the spare has it.
    let stat = directory.stat(&leaf.place.name).ok()?;
    if stat.kind != Kind::File || stat.size != leaf.entry.size_bytes() {
        return None;
    }
    let file = directory.open_file(&leaf.place.name).ok()?;
    has_hash(&file, leaf).then_some(file)
}

pub(super) fn has_hash(file: &File, leaf: &Leaf) -> bool {
    let Some((size, hash)) = leaf.entry.content() else {
        return false;
    };
    content::hash_file(file, size).is_ok_and(|found| found == hash)
}
