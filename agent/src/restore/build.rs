//! Making the tree in the work directory: directories first, contents, other names and special files, and the
//! attributes of directories last.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::thread;

use understudy_protocol::{ContentHash, Name, Node, ProtocolError};
use understudy_tree::attributes::{
    create_file_as, drop_default_acl, make_accessible, set_attributes, set_attributes_of_new,
};
use understudy_tree::{Directory, Kind, Lacking, Privileges, content, node};

use super::Manner;
use super::landing::Landing;
use super::plan::{Leaf, Plan};
use super::progressive::{self, Groups};
use super::switch::{Site, Work};
use crate::Context;
use crate::error::AgentError;

/// A tree that is being made.
pub(super) struct Build<'a> {
    pub(super) plan: &'a Plan,
    pub(super) context: &'a Context,
    pub(super) work: &'a Work,
    pub(super) site: &'a Site,
    pub(super) privileges: Privileges,
    /// Whether the spare gives the rest of a content.
    pub(super) resuming: Resuming,
    /// The way into a target that is in use; without one the tree is seen by nobody yet.
    pub(super) landing: Option<&'a Landing<'a>>,
    pub(super) groups: Groups,
    /// The first leaf of each hard-link group.
    leaders: HashMap<u64, usize>,
    lacking: Mutex<Lacking>,
}

/// Whether large files are carried on with where they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resuming {
    /// They are asked for from there on.
    Inside,
    /// The spare is too old for it: they come whole.
    Whole,
}

/// The directory that a worker used last: leaves come sorted by directory.
#[derive(Default)]
pub(super) struct Held(Option<(usize, Directory)>);

impl<'a> Build<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        work: &'a Work,
        site: &'a Site,
        privileges: Privileges,
        resuming: Resuming,
        landing: Option<&'a Landing<'a>>,
        context: &'a Context,
    ) -> Self {
        let groups = progressive::groups(&plan.leaves);
        let leaders = groups
            .iter()
            .filter_map(|(&group, members)| Some((group, *members.first()?)))
            .collect();
        Self {
            plan,
            context,
            work,
            site,
            privileges,
            resuming,
            landing,
            groups,
            leaders,
            lacking: Mutex::default(),
        }
    }

    /// What could not be set so far.
    pub(super) fn lacking(&self) -> Lacking {
        *self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lacks(&self, lacking: Lacking) {
        self.lacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .merge(lacking);
    }

    /// Makes all directories, open to this process only, and removes what does not belong into them.
    pub(super) fn make_directories(&self) -> Result<(), AgentError> {
        if let Some(landing) = self.landing {
            return self.make_directories_in_place(landing);
        }
        let mut held = Held::default();
        let below = self
            .plan
            .branches
            .iter()
            .skip(1)
            .map(|branch| (branch.parent, &branch.name));
        let known: HashSet<(usize, &Name)> = if self.work.is_resumed {
            below.collect()
        } else {
            HashSet::new()
        };
        if self.work.is_resumed {
            self.tidy(0, &known)?;
        }
        for (number, branch) in self.plan.branches.iter().enumerate().skip(1) {
            self.context.cancel.check()?;
            let parent = self.open(&mut held, branch.parent)?;
            if self.work.is_resumed && parent.stat_if_present(&branch.name)?.is_some() {
                make_accessible(parent, &branch.name)?;
                drop_default_acl(&parent.open_directory(&branch.name)?)?;
                self.tidy(number, &known)?;
            } else {
                parent.create_directory(&branch.name)?;
            }
        }
        Ok(())
    }

    fn tidy(&self, number: usize, branches: &HashSet<(usize, &Name)>) -> Result<(), AgentError> {
        let directory = self
            .work
            .directory
            .open_beneath(&self.plan.branch_path(number))?;
        for name in directory.names()? {
            let kind = directory.stat(&name)?.kind;
            let belongs = match self.plan.leaf(number, &name) {
                Some(leaf) => kind == Kind::File && matches!(leaf.entry.node, Node::File { .. }),
                None => kind == Kind::Directory && branches.contains(&(number, &name)),
            };
            if !belongs {
                self.site.discard(&directory, &name)?;
            }
        }
        Ok(())
    }

    /// Whether a leaf brings a content: the first name of a file.
    pub(super) fn has_content(&self, number: usize) -> bool {
        let entry = &self.plan.leaves[number].entry;
        entry.content().is_some()
            && (entry.group == 0 || self.leaders.get(&entry.group) == Some(&number))
    }

    /// The leaf that this one is a further name of.
    pub(super) fn leader_of(&self, number: usize) -> Option<&Leaf> {
        let leader = self.leaders.get(&self.plan.leaves[number].entry.group);
        let leader = leader.filter(|&&leader| leader != number);
        leader.map(|&leader| &self.plan.leaves[leader])
    }

    /// Number of leaves with contents.
    pub(super) fn contents(&self) -> u64 {
        (0..self.plan.leaves.len())
            .filter(|&number| self.has_content(number))
            .count() as u64
    }

    /// Makes a file of a content that came whole.
    pub(super) fn write(
        &self,
        held: &mut Held,
        number: usize,
        bytes: &[u8],
    ) -> Result<(), AgentError> {
        let leaf = &self.plan.leaves[number];
        let Some((size, hash)) = leaf.entry.content() else {
            return Err(self.damaged(leaf));
        };
        if bytes.len() as u64 != size || ContentHash::of(bytes) != hash {
            return Err(self.damaged(leaf));
        }
        let fill = |file: &File| match bytes {
            [] => Ok(()),
            bytes => content::write_at(file, 0, bytes),
        };
        let directory = self.open(held, leaf.branch)?;
        let (name, attributes) = (&leaf.place.name, &leaf.entry.attributes);
        let create = |directory: &Directory, name: &Name| {
            create_file_as(directory, name, attributes, &self.privileges, fill)
        };
        let Some(landing) = self.landing else {
            self.lacks(create(directory, name)?);
            return Ok(());
        };
        let made = landing.fresh()?;
        self.lacks(create(&landing.scratch, &made)?);
        landing.land(&made, directory, &self.plan.branch_path(leaf.branch), name)
    }

    /// Sets the attributes of a file whose content is complete.
    pub(super) fn finish_file(&self, file: &File, leaf: &Leaf) -> Result<(), AgentError> {
        self.lacks(set_attributes_of_new(
            file,
            &leaf.entry.attributes,
            &self.privileges,
        )?);
        Ok(())
    }

    /// The content of a leaf is not what the manifest says.
    pub(super) fn damaged(&self, leaf: &Leaf) -> AgentError {
        let path = self.plan.told(&self.plan.path(leaf));
        ProtocolError::malformed(
            "content",
            format!("that of `{path}` does not have its hash; run `understudy verify`"),
        )
        .into()
    }

    /// Makes links, fifos, devices and further names of files.
    pub(super) fn make_others(&self) -> Result<(), AgentError> {
        if let Some(landing) = self.landing {
            return self.make_others_in_place(landing);
        }
        let mut held = Held::default();
        for (number, leaf) in self
            .plan
            .leaves
            .iter()
            .enumerate()
            .filter(|&(number, _)| !self.has_content(number))
        {
            self.context.cancel.check()?;
            let directory = self.open(&mut held, leaf.branch)?;
            let name = &leaf.place.name;
            if self.work.is_resumed && directory.stat_if_present(name)?.is_some() {
                directory.remove_file(name)?;
            }
            match self.leader_of(number) {
                Some(first) => {
                    let from = self
                        .work
                        .directory
                        .open_beneath(&self.plan.branch_path(first.branch))?;
                    // A device that could not be made has no second name either.
                    if from.stat_if_present(&first.place.name)?.is_some() {
                        from.link(&first.place.name, directory, name)?;
                    }
                }
                None => self.lacks(node::create_special(
                    directory,
                    name,
                    &leaf.entry,
                    &self.privileges,
                )?),
            }
        }
        Ok(())
    }

    /// Sets the attributes of all directories, deepest first: nothing in them is touched afterwards.
    pub(super) fn finish_directories(&self) -> Result<(), AgentError> {
        let mut held = Held::default();
        for branch in self.plan.branches.iter().skip(1).rev() {
            self.context.cancel.check()?;
            let parent = self.open(&mut held, branch.parent)?;
            self.lacks(set_attributes(
                parent,
                &branch.name,
                &branch.entry,
                &self.privileges,
            )?);
        }
        let manner = if self.landing.is_some() {
            Manner::Progressive
        } else {
            Manner::Switch
        };
        let (parent, name) = self.site.work_place(manner)?;
        if let Some(root) = self.plan.branches.first() {
            self.lacks(set_attributes(
                parent,
                &name,
                &root.entry,
                &self.privileges,
            )?);
        }
        Ok(())
    }

    /// The open directory of a branch.
    pub(super) fn open<'h>(
        &self,
        held: &'h mut Held,
        branch: usize,
    ) -> Result<&'h Directory, AgentError> {
        let held = &mut held.0;
        if held.as_ref().is_none_or(|(number, _)| *number != branch) {
            *held = Some((
                branch,
                self.work
                    .directory
                    .open_beneath(&self.plan.branch_path(branch))?,
            ));
        }
        match held {
            Some((_, directory)) => Ok(directory),
            None => Err(AgentError::Interrupted),
        }
    }

    /// Runs `work` on all processors; each has a directory to hold.
    pub(super) fn in_parallel(
        &self,
        work: impl Fn(&mut Held) -> Result<(), AgentError> + Sync,
    ) -> Result<(), AgentError> {
        let threads = thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 16);
        thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| work(&mut Held::default())))
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .fold(Ok(()), Result::and)
        })
    }
}
