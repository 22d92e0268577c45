//! Looking only at what is in doubt: names that the journal, the index or an earlier cycle marked.
//!
//! Directories are known by their inode; the path that the index has is tried first, then the one that it has once
//! moves were seen. A directory that is nowhere must have gone with one that is gone, or it stays in doubt; if it is nowhere a second time, the journal is given up for a look at everything.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use understudy_protocol::{Name, Place};
use understudy_tree::Kind;

use super::doubts::Doubts;
use super::findings::Findings;
use super::queue::Queue;
use super::stands::Stand;
use super::visit::{Depth, Found, Open};
use super::worker::Worker;
use super::{Folder, ROUNDS, Scan, Task, is_about_entry};
use crate::error::AgentError;
use crate::index::Known;
use crate::journal::{Journal, Marked, Taken};

/// How much of a directory is looked at.
#[derive(Debug)]
pub(super) enum Look {
    /// All names, and all below.
    Everything,
    /// Names in doubt.
    Doubts(Doubts),
}

/// Looks at everything that is in doubt: what was taken from `journal`, and what every cycle looks at.
pub(super) fn look(
    scan: &Scan<'_>,
    journal: &Journal,
    taken: Taken,
) -> Result<Findings, AgentError> {
    let mut up_to = taken.up_to;
    let (doubts, mut findings) = scan.alone(|worker| worker.doubts(taken))?;
    scan.look_in_parts(doubts.iter().map(|one| (one.id, one.apart())).collect());
    let mut going = scan.resolve(doubts, &mut findings)?;
    for _ in 0..ROUNDS {
        if findings.missing.is_empty() && findings.displaced.is_empty() {
            break;
        }
        let more = journal.take_since(up_to);
        up_to = more.up_to;
        if more.gap.is_some() {
            // What was told meanwhile is not all: nothing proves that a name is gone, and not elsewhere.
            scan.doubt_all_missing(&mut findings)?;
            break;
        }
        if more.marked.is_empty() {
            break;
        }
        let confirmed: HashSet<Place> = findings.missing.keys().cloned().collect();
        scan.look_again_at_marks(more.marked, &mut going, &mut findings)?;
        going = scan.resolve(going, &mut findings)?;
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
    }
    findings.astray = going;
    #[cfg(test)]
    crate::testing::passed(&scan.source.path, "looked");
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
    fn doubt_all_missing(&self, findings: &mut Findings) -> Result<(), AgentError> {
        let missing = std::mem::take(&mut findings.missing);
        let ((), more) = self.alone(|worker| {
            missing
                .keys()
                .try_for_each(|place| worker.keep_in_doubt(place))
        })?;
        findings.merge(more);
        Ok(())
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
                // The names come with the directory once it can be read, but not all that is known about them.
                self.findings.in_doubt.extend(doubts.about_contents());
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
        let looked = self.scan.now();
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
            _ => {
                // It moved since, or something above it did.
                self.keep_itself_in_doubt(&known);
                Ok(())
            }
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
