//! Restoring into a tree that is in use: file by file, nothing is removed, and what is right stays where it is.

use std::collections::{HashMap, HashSet};

use understudy_protocol::{Entry, Name, Node};
use understudy_tree::attributes::{make_accessible, set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, Kind, Lacking, Stat, content, node};

use super::Manner;
use super::build::{Build, Held};
use super::landing::Landing;
use super::plan::Leaf;
use super::reuse::{has_hash, opened_if_same};
use crate::error::AgentError;

/// Names of one file, by the number of their group.
pub(super) type Groups = HashMap<u64, Vec<usize>>;

/// Leaves that are names of one file with others.
pub(super) fn groups(leaves: &[Leaf]) -> Groups {
    let mut groups = Groups::new();
    for (number, leaf) in leaves.iter().enumerate() {
        if leaf.entry.group != 0 {
            groups.entry(leaf.entry.group).or_default().push(number);
        }
    }
    groups
}

impl Build<'_> {
    /// Makes the directories that are missing, with their attributes: what is in them is served at once.
    pub(super) fn make_directories_in_place(
        &self,
        landing: &Landing<'_>,
    ) -> Result<(), AgentError> {
        if let Some(root) = self.plan.branches.first() {
            let (parent, name) = self.site.work_place(Manner::Progressive)?;
            let entry = self.open_for_work(&root.entry);
            self.lacks(set_attributes(parent, &name, &entry, &self.privileges)?);
        }
        let mut held = Held::default();
        for branch in self.plan.branches.iter().skip(1) {
            self.context.cancel.check()?;
            let above = &self.plan.branch_path(branch.parent);
            let parent = self.open(&mut held, branch.parent)?;
            let stands = parent.stat_if_present(&branch.name)?;
            if let Some(stat) = stands.filter(|stat| stat.kind == Kind::Directory) {
                if !self.privileges.override_permissions && stat.mode & 0o700 != 0o700 {
                    make_accessible(parent, &branch.name)?;
                }
                continue;
            }
            let made = landing.fresh()?;
            landing.scratch.create_directory(&made)?;
            let entry = self.open_for_work(&branch.entry);
            self.lacks(set_attributes(
                &landing.scratch,
                &made,
                &entry,
                &self.privileges,
            )?);
            landing.land(&made, parent, above, &branch.name)?;
        }
        Ok(())
    }

    /// A directory as long as files come into it: its owner may write there.
    fn open_for_work(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if !self.privileges.override_permissions {
            entry.attributes.mode |= 0o700;
        }
        entry
    }

    /// Uses what stands at the leaf's place if it has the right content; whether it has.
    pub(super) fn reuse_in_place(
        &self,
        held: &mut Held,
        number: usize,
        landing: &Landing<'_>,
    ) -> Result<bool, AgentError> {
        let leaf = &self.plan.leaves[number];
        let name = &leaf.place.name;
        let directory = self.open(held, leaf.branch)?;
        let Some(source) = opened_if_same(directory, leaf) else {
            return Ok(false);
        };
        let stat = Stat::of(&source)?;
        if self.is_all_here(&stat, leaf)? {
            self.lacks(set_attributes(
                directory,
                name,
                &leaf.entry,
                &self.privileges,
            )?);
            return Ok(true);
        }
        // It has a name elsewhere, where its attributes are nobody's business here.
        let made = landing.fresh()?;
        let file = landing.scratch.create_file(&made)?;
        content::copy(&source, &file, leaf.entry.size_bytes())?;
        if !has_hash(&file, leaf) {
            landing.scratch.remove_file(&made)?;
            return Ok(false);
        }
        self.lacks(set_attributes_of_new(
            &file,
            &leaf.entry.attributes,
            &self.privileges,
        )?);
        let path = &self.plan.branch_path(leaf.branch);
        landing.land(&made, directory, path, name)?;
        Ok(true)
    }

    /// Whether all names of a file are those that the snapshot gives it.
    fn is_all_here(&self, stat: &Stat, leaf: &Leaf) -> Result<bool, AgentError> {
        if stat.links == 1 {
            return Ok(true);
        }
        let mut names = 0;
        let members = self.groups.get(&leaf.entry.group).into_iter().flatten();
        for &member in members {
            let member = &self.plan.leaves[member];
            let mut held = Held::default();
            let there = self.open(&mut held, member.branch)?;
            let found = there.stat_if_present(&member.place.name)?;
            names += u32::from(found.is_some_and(|found| is_same_file(&found, stat)));
        }
        Ok(names == stat.links)
    }

    /// Makes links, fifos, devices and further names of files, where they are not there yet.
    pub(super) fn make_others_in_place(&self, landing: &Landing<'_>) -> Result<(), AgentError> {
        let mut held = Held::default();
        for number in (0..self.plan.leaves.len()).filter(|&number| !self.has_content(number)) {
            self.context.cancel.check()?;
            let leaf = &self.plan.leaves[number];
            let directory = self.open(&mut held, leaf.branch)?;
            let made = match self.leader_of(number) {
                Some(first) => self.made_name(directory, leaf, first, landing)?,
                None => self.made_special(directory, leaf, landing)?,
            };
            if let Some(made) = made {
                let path = &self.plan.branch_path(leaf.branch);
                landing.land(&made, directory, path, &leaf.place.name)?;
            }
        }
        Ok(())
    }

    /// A further name for the file at `first`, unless it has it.
    fn made_name(
        &self,
        directory: &Directory,
        leaf: &Leaf,
        first: &Leaf,
        landing: &Landing<'_>,
    ) -> Result<Option<Name>, AgentError> {
        let mut held = Held::default();
        let from = self.open(&mut held, first.branch)?;
        // A device that could not be made has no second name either.
        let Some(file) = from.stat_if_present(&first.place.name)? else {
            return Ok(None);
        };
        let stands = directory.stat_if_present(&leaf.place.name)?;
        if stands.is_some_and(|stands| is_same_file(&stands, &file)) {
            return Ok(None);
        }
        let made = landing.fresh()?;
        from.link(&first.place.name, &landing.scratch, &made)?;
        Ok(Some(made))
    }

    /// A link, fifo or device, unless it is there.
    fn made_special(
        &self,
        directory: &Directory,
        leaf: &Leaf,
        landing: &Landing<'_>,
    ) -> Result<Option<Name>, AgentError> {
        let name = &leaf.place.name;
        let stands = directory.stat_if_present(name)?;
        if let Some(stat) = &stands
            && stat.links == 1
            && let Some(id) = self.plan.branches[0].entry.directory_id()
            && node::read_node(directory, name, stat, id)?.as_ref() == Some(&leaf.entry.node)
            && !matches!(leaf.entry.node, Node::Directory { .. })
        {
            self.lacks(set_attributes(
                directory,
                name,
                &leaf.entry,
                &self.privileges,
            )?);
            return Ok(None);
        }
        if !node::can_exist(&leaf.entry, &self.privileges) {
            self.lacks(Lacking {
                device: true,
                ..Lacking::default()
            });
            if stands.is_some() {
                let path = &self.plan.branch_path(leaf.branch);
                landing.move_aside(directory, path, name)?;
            }
            return Ok(None);
        }
        let made = landing.fresh()?;
        self.lacks(node::create_special(
            &landing.scratch,
            &made,
            &leaf.entry,
            &self.privileges,
        )?);
        Ok(Some(made))
    }

    /// Moves away what the snapshot does not have.
    pub(super) fn clear_strangers(&self, landing: &Landing<'_>) -> Result<(), AgentError> {
        let branches = self.plan.branches.iter().skip(1);
        let known: HashSet<(usize, &Name)> = branches
            .map(|branch| (branch.parent, &branch.name))
            .collect();
        let mut held = Held::default();
        for number in 0..self.plan.branches.len() {
            self.context.cancel.check()?;
            let directory = self.open(&mut held, number)?;
            for name in directory.names()? {
                if self.plan.leaf(number, &name).is_none() && !known.contains(&(number, &name)) {
                    landing.move_aside(directory, &self.plan.branch_path(number), &name)?;
                }
            }
        }
        Ok(())
    }
}

fn is_same_file(one: &Stat, other: &Stat) -> bool {
    (one.identity, one.file_system) == (other.identity, other.file_system)
}
