//! Looking at one directory: its names and its rows in lock step.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_protocol::message::Content;
use understudy_protocol::{DirectoryId, Entry, Name, Node, Place, Timestamp, limits};
use understudy_tree::{Directory, Kind, Mounts, Stat, node};

use super::findings::{Looked, Spot};
use super::read::Certainty;
use super::stands::Stand;
use super::worker::{Change, Worker};
use super::{Folder, Look, ROOT_NAME, Task, Trust, is_about_entry};
use crate::Emptied;
use crate::clock::{self, Settled};
use crate::error::AgentError;
use crate::index::{Known, Raw, Seen, Side};
use crate::journal::Doubt;

/// The inode of what stands in a snapshot of btrfs for a subvolume below it. Elsewhere no directory below a root has it.
const NOT_IN_THE_SNAPSHOT: u64 = 2;

/// An open directory that is being looked at.
pub(super) struct Open<'a> {
    pub(super) folder: &'a Arc<Folder>,
    pub(super) directory: &'a Directory,
    /// Directories found in it.
    pub(super) below: Vec<Task>,
    pub(super) depth: Depth,
    /// Names in it that are in doubt.
    pub(super) doubts: Option<&'a BTreeMap<Name, Doubt>>,
}

/// Which directories found in a directory are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All.
    Everything,
    /// New ones, and those where all below is in doubt.
    Names,
}

impl<'a> Open<'a> {
    /// An open directory that is looked at with all that is below.
    pub(super) fn whole(folder: &'a Arc<Folder>, directory: &'a Directory) -> Self {
        Self {
            folder,
            directory,
            below: Vec::new(),
            depth: Depth::Everything,
            doubts: None,
        }
    }

    fn doubt(&self, name: &Name) -> Doubt {
        self.doubts
            .and_then(|doubts| doubts.get(name))
            .copied()
            .unwrap_or(Doubt::Entry)
    }

    /// Whether what is below a directory that the spare has is looked at.
    pub(super) fn looks_below(&self, name: &Name) -> bool {
        self.depth == Depth::Everything || self.doubt(name) == Doubt::Below
    }
}

/// What is found at a name.
pub(super) enum Found {
    /// Something to capture.
    There(Stat),
    /// Nothing, or nothing that is captured.
    Absent,
    /// Something that may not be looked at; it is listed.
    Hidden,
}

impl Worker<'_> {
    /// Promise 4: an empty root is no reason to delete.
    pub(super) fn refuse_if_emptied(&mut self) -> Result<(), AgentError> {
        let scan = self.scan;
        let source = scan.source;
        let names = scan
            .root
            .names()
            .map_err(|error| AgentError::SourceUnreadable {
                path: source.path.clone(),
                error,
            })?;
        if scan.base_is_empty
            || source.emptied == Emptied::Accept
            || !self.base.has_entries_in(DirectoryId::FILES)?
        {
            return Ok(());
        }
        let folder = Arc::new(Folder {
            path: Default::default(),
            id: DirectoryId::FILES,
            depth: 0,
        });
        let open = Open::whole(&folder, scan.root);
        for name in &names {
            if !matches!(self.find(&open, name)?, Found::Absent) {
                // Counted again when the root is looked at.
                self.findings = Default::default();
                return Ok(());
            }
        }
        Err(AgentError::BecameEmpty {
            path: source.path.clone(),
            dataset: source.dataset.clone(),
        })
    }

    /// Compares the root's own entry; returns the task of looking into it.
    pub(super) fn settle_root(&mut self) -> Result<Task, AgentError> {
        let scan = self.scan;
        let looked = self.scan.now();
        let stat = scan.root.stat_self()?;
        let unreadable = |error| AgentError::SourceUnreadable {
            path: scan.source.path.clone(),
            error,
        };
        #[expect(clippy::unwrap_used, reason = "the constant is a valid name")]
        let place = Place::new(DirectoryId::TOP, Name::new(ROOT_NAME).unwrap());
        scan.stands.claim(DirectoryId::FILES, Stand::Home);
        let folder = Arc::new(Folder {
            path: Default::default(),
            id: DirectoryId::FILES,
            depth: 0,
        });
        let known = self.base.at(&place)?;
        let was_put = self
            .settle_own(folder.id, place, known, (scan.root, &stat), looked)
            .map_err(|error| match error {
                AgentError::Tree(error) => unreadable(error),
                error => error,
            })?;
        Ok(Task {
            folder,
            identity: stat.identity,
            was_put,
            look: Look::Everything,
        })
    }

    /// Compares the own entry of an open directory that stays where it is; returns whether it was put.
    pub(super) fn settle_own(
        &mut self,
        id: DirectoryId,
        place: Place,
        known: Option<Known>,
        (directory, stat): (&Directory, &Stat),
        looked: Timestamp,
    ) -> Result<bool, AgentError> {
        let entry = Entry {
            attributes: node::read_own_attributes(directory, stat)?,
            node: Node::Directory { id },
            group: 0,
        };
        let seen = Seen::of(stat, clock::settled(stat.changed, looked));
        match known {
            Some(known) if known.entry == entry => {
                self.refresh(place, entry, known.seen, seen)?;
                Ok(false)
            }
            known => {
                let base = known.as_ref().map(|known| &known.entry);
                self.put(Change {
                    place,
                    base,
                    entry,
                    seen: Some(seen),
                    content: Content::Directory,
                    certainty: Certainty::Whole,
                    is_move: false,
                })?;
                Ok(true)
            }
        }
    }

    /// Looks at a directory; returns the directories found in it.
    pub(super) fn visit(&mut self, task: &Task) -> Result<Vec<Task>, AgentError> {
        self.scan.context.cancel.check()?;
        self.scan.context.pace.breathe(&self.scan.context.cancel)?;
        match &task.look {
            Look::Everything => self.visit_whole(task),
            Look::Doubts(doubts) => self.visit_doubts(task, doubts),
        }
    }

    fn visit_whole(&mut self, task: &Task) -> Result<Vec<Task>, AgentError> {
        let scan = self.scan;
        let folder = &task.folder;
        if !scan.is_first_whole(folder.id) {
            return Ok(Vec::new());
        }
        #[cfg(test)]
        crate::testing::passed(&scan.source.path, &format!("visiting {}", folder.path));
        let listed = scan.root.open_beneath(&folder.path).and_then(|directory| {
            let looked = self.scan.now();
            let stat = directory.stat_self()?;
            let names = directory.names()?;
            Ok((directory, stat, names, looked))
        });
        let (directory, stat, names, looked) = match listed {
            Ok(listed) if listed.1.identity == task.identity => listed,
            Err(error) if !is_about_entry(&error) => return Err(error.into()),
            Err(error) if !error.is_gone() => {
                scan.unvisited().remove(&folder.id);
                self.unlistable(folder, error)?;
                return Ok(Vec::new());
            }
            _ => {
                // It moved or went after its parent was listed, which will be looked at again.
                if !task.was_put {
                    scan.stands.forget(folder.id);
                }
                scan.unvisited().insert(folder.id, Some(task.identity));
                return Ok(Vec::new());
            }
        };
        scan.unvisited().remove(&folder.id);
        let settled = clock::settled(stat.changed, looked) == Settled::Yes;
        let changed = settled.then_some(stat.changed);
        self.findings.looked.push(Looked {
            folder: Arc::clone(folder),
            identity: stat.identity,
            changed,
        });
        scan.context.progress.seen(names.len() as u64);
        let mut open = Open {
            doubts: scan.doubts.get(&task.identity),
            ..Open::whole(folder, &directory)
        };
        let apart = scan.apart(folder.id);
        self.base.merge(folder.id, names, |side| {
            if apart.is_some_and(|apart| apart.has(side.name())) {
                return Ok(());
            }
            self.compare(&mut open, side)
        })?;
        Ok(open.below)
    }

    pub(super) fn unlistable(
        &mut self,
        folder: &Folder,
        error: understudy_tree::TreeError,
    ) -> Result<(), AgentError> {
        if folder.path.as_bytes().is_empty() {
            return Err(AgentError::SourceUnreadable {
                path: self.scan.source.path.clone(),
                error,
            });
        }
        self.unreadable(folder.itself(), &error);
        Ok(())
    }

    pub(super) fn compare(
        &mut self,
        open: &mut Open<'_>,
        side: Side<'_>,
    ) -> Result<(), AgentError> {
        if let Side::Left(name) | Side::Both(name, _) = &side {
            self.take_up_owner(open, name)?;
        }
        match side {
            Side::Right(name, raw) => {
                self.missing(open.folder.place(&name), raw.directory);
                Ok(())
            }
            Side::Left(name) => match self.find(open, &name)? {
                Found::There(stat) => self.settle(open, name, &stat, None),
                Found::Absent | Found::Hidden => Ok(()),
            },
            Side::Both(name, raw) => match self.find(open, &name)? {
                Found::There(stat) if self.is_unchanged(open, &name, &stat, &raw) => Ok(()),
                Found::There(stat) => {
                    let known = raw.decode()?;
                    self.settle(open, name, &stat, Some(known))
                }
                Found::Absent => {
                    self.missing(open.folder.place(&name), raw.directory);
                    Ok(())
                }
                Found::Hidden => {
                    if let Some(id) = raw.directory {
                        self.hidden_directory(id);
                    }
                    Ok(())
                }
            },
        }
    }

    /// What is below a directory that cannot be looked at stays as well: nobody looks for it. All of it is in
    /// doubt until it can be looked at again, wherever it is then.
    fn hidden_directory(&mut self, id: DirectoryId) {
        self.scan.stands.claim(id, Stand::Home);
        self.scan.unvisited().remove(&id);
        if let Some(problem) = self.findings.unreadable.last_mut() {
            problem.spot = Spot {
                directory: id,
                name: None,
            };
        }
    }

    pub(super) fn missing(&mut self, place: Place, directory: Option<DirectoryId>) {
        self.findings.missing.insert(place, directory);
    }

    /// What stands at a name and is to be captured.
    pub(super) fn find(&mut self, open: &Open<'_>, name: &Name) -> Result<Found, AgentError> {
        let stat = match open.directory.stat(name) {
            Ok(stat) => stat,
            Err(error) if error.is_gone() => return Ok(Found::Absent),
            Err(error) if !is_about_entry(&error) => return Err(error.into()),
            Err(error) => {
                self.unreadable(open.folder.spot(name), &error);
                return Ok(Found::Hidden);
            }
        };
        if stat.kind == Kind::Directory
            && Some((stat.identity, stat.file_system)) == self.scan.state
        {
            // The agent's own records, as in somebody's home: they change while the source is read.
            return Ok(Found::Absent);
        }
        let excludes = &self.scan.source.excludes;
        if !excludes.is_empty() && excludes.excludes(&open.folder.path.join(name), stat.kind) {
            return Ok(Found::Absent);
        }
        if self.scan.as_of.is_some()
            && stat.kind == Kind::Directory
            && stat.identity.inode == NOT_IN_THE_SNAPSHOT
        {
            self.unreadable(
                open.folder.spot(name),
                &"it is a subvolume of its own, of which the snapshot has nothing: give it a [[dataset]] of its own, and exclude it here",
            );
            return Ok(Found::Hidden);
        }
        if self.is_companion(open, name, &stat) {
            return Ok(Found::Absent);
        }
        if stat.kind == Kind::Socket {
            self.findings.tally.sockets += 1;
            return Ok(Found::Absent);
        }
        match self.seen_whole(open, name, stat) {
            Ok(stat) => Ok(Found::There(stat)),
            Err(error) if !is_about_entry(&error) => Err(error.into()),
            Err(error) => {
                self.unreadable(open.folder.spot(name), &error);
                Ok(Found::Hidden)
            }
        }
    }

    /// Whether the row proves that nothing changed; a directory is entered then.
    fn is_unchanged(
        &mut self,
        open: &mut Open<'_>,
        name: &Name,
        stat: &Stat,
        raw: &Raw<'_>,
    ) -> bool {
        if !raw.seen.is_some_and(|seen| seen.proves(stat)) {
            return false;
        }
        let Some(id) = raw.directory else {
            return self.scan.trust == Trust::Times && open.doubt(name) == Doubt::Entry;
        };
        let is_here = self.may_enter(stat) && self.scan.stands.claim(id, Stand::Home);
        if is_here && (open.looks_below(name) || self.scan.is_unvisited(id)) {
            self.enter(open, task(open.folder, name, stat, id));
        }
        is_here
    }

    /// A mount point is an empty directory unless mounts are crossed.
    pub(super) fn may_enter(&self, stat: &Stat) -> bool {
        self.scan.source.mounts == Mounts::Cross || !stat.mount_root
    }

    /// Adds a directory to those to be looked at.
    pub(super) fn enter(&mut self, open: &mut Open<'_>, task: Task) {
        if task.folder.depth >= limits::DEPTH {
            self.scan.unvisited().remove(&task.folder.id);
            self.unreadable(
                task.folder.itself(),
                &"it is nested deeper than 4096 directories",
            );
        } else {
            open.below.push(task);
        }
    }
}

/// The task of looking into the directory `name`.
pub(super) fn task(folder: &Folder, name: &Name, stat: &Stat, id: DirectoryId) -> Task {
    let folder = Folder {
        path: folder.path.join(name),
        id,
        depth: folder.depth + 1,
    };
    Task {
        folder: Arc::new(folder),
        identity: stat.identity,
        was_put: false,
        look: Look::Everything,
    }
}
