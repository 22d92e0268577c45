//! Looking only at what is in doubt: names that the journal, the index or an earlier cycle marked.
//!
//! Directories are known by their inode; the path that the index has is tried first, then the one that it has once
//! moves were seen. A directory that is nowhere must be going with one that is gone, or it stays
//! in doubt; if it is nowhere a second time, the journal is given up for a look at everything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use understudy_protocol::{DirectoryId, Name, Place, RelPath, limits};
use understudy_tree::{Identity, Kind};

use super::findings::Findings;
use super::queue::Queue;
use super::stands::Stand;
use super::visit::{Depth, Found, Open};
use super::worker::Worker;
use super::{Folder, ROUNDS, Scan, Task, is_about_entry};
use crate::clock;
use crate::error::AgentError;
use crate::index::{Attended, Known, Reader};
use crate::journal::{Doubt, Journal, Marked};

/// How much of a directory is looked at.
#[derive(Debug)]
pub(super) enum Look {
    /// All names, and all below.
    Everything,
    /// Names in doubt.
    Doubts(Doubts),
}

/// What is in doubt in one directory.
#[derive(Debug, Clone)]
pub(super) struct Doubts {
    id: DirectoryId,
    identity: Identity,
    /// Where it should be.
    way: Way,
    names: BTreeMap<Name, Doubt>,
    is_listed: bool,
}

/// The way from the root to a directory.
#[derive(Debug, Clone, Default)]
struct Way {
    path: RelPath,
    /// The directories on it, that nearest to the root first.
    directories: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    id: DirectoryId,
    path: RelPath,
    /// `None` if nobody knows.
    identity: Option<Identity>,
}

/// Names of a directory that are judged by themselves, even if all of it is looked at as well.
#[derive(Debug)]
pub(super) enum Apart {
    All,
    Some(BTreeSet<Name>),
}

impl Apart {
    pub(super) fn has(&self, name: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
        }
    }
}

impl Way {
    fn ids(&self) -> Vec<DirectoryId> {
        self.directories.iter().map(|step| step.id).collect()
    }
}

impl Doubts {
    fn apart(&self) -> Apart {
        if self.is_listed {
            Apart::All
        } else {
            Apart::Some(self.names.keys().cloned().collect())
        }
    }

    fn add(&mut self, more: Self) {
        self.is_listed |= more.is_listed;
        for (name, doubt) in more.names {
            let known = self.names.entry(name).or_insert(doubt);
            *known = (*known).max(doubt);
        }
    }

    fn into_marked(self) -> Marked {
        Marked {
            identity: self.identity,
            names: self.names,
            is_listed: self.is_listed,
        }
    }

    fn task(self) -> Task {
        Task {
            folder: Arc::new(Folder {
                path: self.way.path.clone(),
                id: self.id,
                depth: self.way.directories.len(),
            }),
            identity: self.identity,
            was_put: false,
            look: Look::Doubts(self),
        }
    }
}

/// Looks at everything that is in doubt; `journal` has told of `marked`, up to the event `up_to`.
pub(super) fn look(
    scan: &Scan<'_>,
    journal: &Journal,
    marked: Vec<Marked>,
    up_to: u64,
) -> Result<Findings, AgentError> {
    let (doubts, mut findings) = scan.alone(|worker| worker.doubts(marked))?;
    scan.apart
        .get_or_init(|| doubts.iter().map(|one| (one.id, one.apart())).collect());
    let mut going = scan.resolve(doubts, &mut findings)?;
    let mut up_to = up_to;
    for _ in 0..ROUNDS {
        if findings.missing.is_empty() && findings.displaced.is_empty() {
            break;
        }
        let more = journal.take_since(up_to);
        up_to = more.up_to;
        if more.marked.is_empty() {
            break;
        }
        let confirmed: HashSet<Place> = findings.missing.keys().cloned().collect();
        scan.look_again_at_marks(more.marked, &mut going, &mut findings)?;
        // What was found gone only now may have moved since.
        let (kept, unsure): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut findings.missing)
                .into_iter()
                .partition(|(place, _)| confirmed.contains(place));
        findings.missing = kept;
        let ((), more) = scan.alone(|worker| {
            unsure
                .keys()
                .try_for_each(|place| worker.keep_in_doubt(place))
        })?;
        findings.merge(more);
        going = scan.resolve(going, &mut findings)?;
    }
    for doubts in going {
        if let Some(Way { path, .. }) = scan.way_now(doubts.id, &findings)?
            && !scan.is_going(doubts.id, &findings)?
        {
            tracing::debug!("{path}: changed, but is not where it was; the next cycle looks again");
            findings.nowhere.push(doubts.into_marked());
        }
    }
    let touched = std::mem::take(&mut findings.touched);
    let ((), more) = scan.alone(|worker| {
        let mut seen = HashSet::new();
        touched
            .iter()
            .filter(|folder| seen.insert(folder.id))
            .try_for_each(|folder| worker.settle_itself(folder))
    })?;
    findings.merge(more);
    Ok(findings)
}

impl Scan<'_> {
    /// Whether nobody has looked at all of a directory yet, where that happens for some only.
    pub(super) fn is_first_whole(&self, id: DirectoryId) -> bool {
        self.apart.get().is_none()
            || self
                .wholes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id)
    }

    /// Whether nothing was put at a place yet, where directories are looked at in parts. What is in new ones is
    /// looked at once.
    pub(super) fn is_first_put(&self, place: &Place) -> bool {
        place.parent.0 >= self.first_new
            || self.apart.get().is_none()
            || self
                .put
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(place.clone())
    }

    /// Looks at directories until each was found; returns those that are going with one that seems gone.
    fn resolve(
        &self,
        doubts: Vec<Doubts>,
        findings: &mut Findings,
    ) -> Result<Vec<Doubts>, AgentError> {
        let (mut doubts, mut nowhere) = (doubts, Vec::new());
        while !doubts.is_empty() {
            let tasks = doubts.drain(..).map(Doubts::task).collect();
            findings.merge(self.all(&Queue::new(tasks))?);
            nowhere.append(&mut findings.astray);
            // Directories that were found may have shown where others are now.
            for astray in std::mem::take(&mut nowhere) {
                match self.way_now(astray.id, findings)? {
                    Some(way) if way.path != astray.way.path || way.ids() != astray.way.ids() => {
                        doubts.push(Doubts { way, ..astray });
                    }
                    _ => nowhere.push(astray),
                }
            }
        }
        Ok(nowhere)
    }

    /// Whether a directory, or one above it, was found missing or replaced.
    fn is_going(&self, id: DirectoryId, findings: &Findings) -> Result<bool, AgentError> {
        let mut id = id;
        for _ in 0..limits::DEPTH {
            let Some((place, _)) = self.place_now(id, findings)? else {
                return Ok(false);
            };
            let is_replaced = findings.displaced.contains(&id)
                || findings
                    .deferred
                    .iter()
                    .any(|other| other.folder.id == place.parent && other.name == place.name);
            if is_replaced || findings.missing.contains_key(&place) {
                return Ok(true);
            }
            id = place.parent;
        }
        Ok(false)
    }

    /// Where a directory stands in the pending state, whose rows of moved ones are removed later.
    fn place_now(
        &self,
        id: DirectoryId,
        findings: &Findings,
    ) -> Result<Option<(Place, Option<Identity>)>, AgentError> {
        if let Some(moved) = findings.moved.iter().find(|moved| moved.id == id) {
            return Ok(Some((moved.to.clone(), Some(moved.identity))));
        }
        let found = self.index.pending_directory(id)?;
        Ok(found.map(|(place, known)| (place, known.seen.map(|seen| seen.identity()))))
    }

    /// The way to a directory; `None` if it is not in the pending state.
    fn way_now(&self, id: DirectoryId, findings: &Findings) -> Result<Option<Way>, AgentError> {
        let (mut above, mut steps) = (id, Vec::new());
        while above != DirectoryId::FILES {
            match self.place_now(above, findings)? {
                Some((place, identity)) if steps.len() < limits::DEPTH => {
                    steps.push((above, place.name, identity));
                    above = place.parent;
                }
                _ => return Ok(None),
            }
        }
        let mut way = Way::default();
        for (id, name, identity) in steps.into_iter().rev() {
            way.path = way.path.join(&name);
            let path = way.path.clone();
            way.directories.push(Step { id, path, identity });
        }
        Ok(Some(way))
    }

    /// Whether all directories on a way are still what the index has there.
    fn is_as_known(&self, way: &Way) -> Result<bool, AgentError> {
        for step in &way.directories {
            let is_checked = self.checked().get(&step.id) == Some(&step.path);
            let Some(identity) = step.identity.filter(|_| !is_checked) else {
                continue;
            };
            let opened = self.root.open_beneath(&step.path);
            match opened.and_then(|directory| directory.stat_self()) {
                Ok(stat) if stat.identity == identity => {
                    self.checked().insert(step.id, step.path.clone());
                }
                Err(error) if !is_about_entry(&error) => return Err(error.into()),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn checked(&self) -> MutexGuard<'_, HashMap<DirectoryId, RelPath>> {
        self.on_the_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn look_again_at_marks(
        &self,
        marked: Vec<Marked>,
        going: &mut [Doubts],
        findings: &mut Findings,
    ) -> Result<(), AgentError> {
        let mut back = Vec::new();
        let (below, more) = self.alone(|worker| {
            let mut below = Vec::new();
            for doubts in worker.doubts_in(marked)?.into_values() {
                // What was not looked at yet is not looked at again.
                match going.iter_mut().find(|waiting| waiting.id == doubts.id) {
                    Some(waiting) => waiting.add(doubts),
                    None => worker.look_again_at_doubts(&doubts, &mut below, &mut back)?,
                }
            }
            Ok(below)
        })?;
        findings.merge(more);
        for place in back {
            findings.missing.remove(&place);
        }
        findings.merge(self.all(&Queue::new(below))?);
        Ok(())
    }
}

impl Worker<'_> {
    /// Everything that is in doubt, by directory.
    fn doubts(&mut self, marked: Vec<Marked>) -> Result<Vec<Doubts>, AgentError> {
        let mut doubts = self.doubts_in(marked)?;
        let base = self.base;
        for Attended {
            directory, name, ..
        } in self.scan.index.attention()?
        {
            match name {
                Some(name) => self.doubt(&mut doubts, Place::new(directory, name), Doubt::Entry)?,
                None => {
                    if let Some((place, _)) = base.directory(directory)? {
                        self.doubt(&mut doubts, place, Doubt::Below)?;
                    }
                }
            }
        }
        match base.unproven()? {
            Some(places) => {
                for place in places {
                    self.doubt(&mut doubts, place, Doubt::Entry)?;
                }
            }
            None => self.scan.lose_sight(),
        }
        Ok(doubts.into_values().collect())
    }

    /// Marked directories that the spare has; others are found with the names that lead to them.
    fn doubts_in(
        &mut self,
        marked: Vec<Marked>,
    ) -> Result<HashMap<DirectoryId, Doubts>, AgentError> {
        let mut doubts = HashMap::new();
        for marked in marked {
            let ids = if marked.identity == self.scan.root_stat.identity {
                vec![DirectoryId::FILES]
            } else {
                // More than one if it moved while an earlier cycle looked.
                self.base.directories_with_identity(marked.identity)?
            };
            for id in ids {
                if let Some(way) = self.scan.way_now(id, &Findings::default())? {
                    let found = Doubts {
                        id,
                        identity: marked.identity,
                        way,
                        names: marked.names.clone(),
                        is_listed: marked.is_listed,
                    };
                    doubts.insert(id, found);
                }
            }
        }
        Ok(doubts)
    }

    /// Adds a place of the index.
    fn doubt(
        &mut self,
        doubts: &mut HashMap<DirectoryId, Doubts>,
        place: Place,
        doubt: Doubt,
    ) -> Result<(), AgentError> {
        let (id, name) = if place.parent == DirectoryId::TOP {
            (DirectoryId::FILES, None)
        } else {
            (place.parent, Some(place.name))
        };
        if let std::collections::hash_map::Entry::Vacant(free) = doubts.entry(id) {
            let Some(found) = known_directory(self.scan, self.base, id)? else {
                return Ok(());
            };
            free.insert(found);
        }
        if let (Some(found), Some(name)) = (doubts.get_mut(&id), name) {
            let known = found.names.entry(name).or_insert(doubt);
            *known = (*known).max(doubt);
        }
        Ok(())
    }

    /// Looks at what is in doubt in one directory.
    pub(super) fn visit_doubts(
        &mut self,
        task: &Task,
        doubts: &Doubts,
    ) -> Result<Vec<Task>, AgentError> {
        let scan = self.scan;
        let folder = &task.folder;
        #[cfg(test)]
        crate::testing::passed(&scan.source.path, &format!("doubting {}", folder.path));
        let opened = scan.root.open_beneath(&folder.path).and_then(|directory| {
            let stat = directory.stat_self()?;
            let names = if doubts.is_listed {
                directory.names()?
            } else {
                Vec::new()
            };
            Ok((directory, stat, names))
        });
        let (directory, names) = match opened {
            Ok((directory, stat, names))
                if stat.identity == doubts.identity && scan.is_as_known(&doubts.way)? =>
            {
                (directory, names)
            }
            Err(error) if !is_about_entry(&error) => return Err(error.into()),
            Err(error) if !error.is_gone() => {
                self.unlistable(folder, error)?;
                return Ok(Vec::new());
            }
            _ => {
                self.findings.astray.push(doubts.clone());
                return Ok(Vec::new());
            }
        };
        if !scan.stands.pin(&doubts.way.ids()) {
            self.findings.in_doubt.push(doubts.clone().into_marked());
            return Ok(Vec::new());
        }
        scan.context.progress.seen(doubts.names.len() as u64);
        self.findings.touched.push(Arc::clone(folder));
        let mut open = Open {
            folder,
            directory: &directory,
            below: Vec::new(),
            depth: Depth::Names,
            doubts: Some(&doubts.names),
        };
        let base = self.base;
        if doubts.is_listed {
            base.merge(folder.id, names, |side| self.compare(&mut open, side))?;
        } else {
            let names = doubts.names.keys().cloned();
            base.pick(folder.id, names, |side| self.compare(&mut open, side))?;
        }
        Ok(open.below)
    }

    /// Looks at names that were told about while the scan ran: they may be where something that seems gone is.
    fn look_again_at_doubts(
        &mut self,
        doubts: &Doubts,
        below: &mut Vec<Task>,
        back: &mut Vec<Place>,
    ) -> Result<(), AgentError> {
        self.scan.context.cancel.check()?;
        let opened = self
            .scan
            .root
            .open_beneath(&doubts.way.path)
            .and_then(|directory| {
                let stat = directory.stat_self()?;
                let names = if doubts.is_listed {
                    directory.names()?
                } else {
                    Vec::new()
                };
                Ok((directory, stat, names))
            });
        let (directory, names) = match opened {
            Ok((directory, stat, names))
                if stat.identity == doubts.identity && self.scan.is_as_known(&doubts.way)? =>
            {
                (directory, names)
            }
            Err(error) if !is_about_entry(&error) => return Err(error.into()),
            // The next cycle looks for it.
            _ => return Ok(()),
        };
        if !self.scan.stands.pin(&doubts.way.ids()) {
            return Ok(());
        }
        let Task { folder, .. } = doubts.clone().task();
        let mut open = Open {
            folder: &folder,
            directory: &directory,
            below: Vec::new(),
            depth: Depth::Names,
            doubts: Some(&doubts.names),
        };
        let mut names = names;
        names.extend(doubts.names.keys().cloned());
        names.sort_unstable();
        names.dedup();
        for name in names {
            self.look_again_at_name(&mut open, name, back)?;
        }
        below.append(&mut open.below);
        Ok(())
    }

    fn look_again_at_name(
        &mut self,
        open: &mut Open<'_>,
        name: Name,
        back: &mut Vec<Place>,
    ) -> Result<(), AgentError> {
        self.write_rows()?;
        let place = open.folder.place(&name);
        let base = self.base.at(&place)?;
        let pending = self.scan.index.pending_at(&place)?;
        if !self.is_open_question(base.as_ref(), pending.as_ref()) {
            return Ok(());
        }
        match self.find(open, &name)? {
            Found::There(stat) => {
                back.push(place);
                let is_file = stat.kind != Kind::Directory;
                let proven = pending.as_ref().and_then(|known| known.seen);
                if !(is_file && proven.is_some_and(|seen| seen.proves(&stat))) {
                    self.settle(open, name, &stat, pending)?;
                }
            }
            Found::Hidden => back.push(place),
            Found::Absent => {
                if let Some(known) = pending {
                    self.missing(place, known.entry.directory_id());
                }
            }
        }
        Ok(())
    }

    /// Compares a directory's own entry, whose times change with every name in it.
    fn settle_itself(&mut self, folder: &Arc<Folder>) -> Result<(), AgentError> {
        let Some((place, known)) = self.base.directory(folder.id)? else {
            return Ok(());
        };
        let pending = self.scan.index.pending_at(&place)?;
        let is_judged = pending.is_none_or(|pending| pending.entry != known.entry)
            || self.scan.stands.of(folder.id) == Some(Stand::Away);
        if is_judged {
            return Ok(());
        }
        let looked = clock::now();
        let opened = self
            .scan
            .root
            .open_beneath(&folder.path)
            .and_then(|directory| {
                let stat = directory.stat_self()?;
                Ok((directory, stat))
            });
        match opened {
            Ok((directory, stat)) if known.may_be_inode(stat.identity) => {
                if known.seen.is_some_and(|seen| seen.proves(&stat)) {
                    return Ok(());
                }
                match self.settle_own(folder.id, place, Some(known), (&directory, &stat), looked) {
                    Err(AgentError::Tree(error)) if is_about_entry(&error) => {
                        if !error.is_gone() {
                            self.unreadable(folder.itself(), &error);
                        }
                        Ok(())
                    }
                    result => result.map(drop),
                }
            }
            Err(error) if !is_about_entry(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A place that was put in this upload is not judged twice, nor a directory that was seen there: the next
    /// cycle finds what became of them.
    pub(super) fn is_open_question(&self, base: Option<&Known>, pending: Option<&Known>) -> bool {
        match (base, pending) {
            (None, None) => true,
            (Some(base), Some(pending)) if base.entry == pending.entry => {
                let id = pending.entry.directory_id();
                id.is_none_or(|id| self.scan.stands.of(id) != Some(Stand::Home))
            }
            _ => false,
        }
    }
}

/// A directory as the index has it, with nothing in doubt yet.
fn known_directory(
    scan: &Scan<'_>,
    base: &Reader<'_>,
    id: DirectoryId,
) -> Result<Option<Doubts>, AgentError> {
    let identity = if id == DirectoryId::FILES {
        Some(scan.root_stat.identity)
    } else {
        let known = base.directory(id)?;
        known.and_then(|(_, known)| Some(known.seen?.identity()))
    };
    let way = scan.way_now(id, &Findings::default())?;
    Ok(identity.zip(way).map(|(identity, way)| Doubts {
        id,
        identity,
        way,
        names: BTreeMap::new(),
        is_listed: false,
    }))
}
