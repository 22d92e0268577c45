//! Names that vanished after the databases were captured stay in one snapshot more, for a row may speak of them. The rows of the next snapshot are
//! captured after that, so it takes them away.
//!
//! When a name vanished is known by its directory: only the kernel sets when that was changed last, and it did so when the name went. What it says
//! may be later than that, never earlier. What vanished stays as the spare has it; in the place of a directory that moved a copy is put.

use std::collections::HashSet;

use understudy_protocol::message::Content;
use understudy_protocol::{Bytes, DirectoryId, Entry, Node, Place};

use super::findings::{Findings, Spot};
use super::worker::{Change, Worker};
use super::{Scan, is_about_entry};
use crate::clock::{Settled, settled};
use crate::dumps::{Captured, Staying};
use crate::error::AgentError;
use crate::index::{Index, Known, Reason, Side};

/// What stays.
#[derive(Debug)]
pub(super) struct Keeping {
    /// `None` if nothing does.
    staying: Option<Staying>,
    /// What stayed in the last snapshot already.
    before: HashSet<Place>,
}

impl Keeping {
    /// For the sake of databases that were captured, and of those among the files.
    pub(super) fn new(
        captured: Option<&Captured>,
        others: Option<Staying>,
        index: &Index,
    ) -> Result<Self, AgentError> {
        let attended = index.attention()?.into_iter();
        let kept = attended.filter(|one| one.reason == Reason::Kept);
        Ok(Self {
            staying: captured
                .map(|captured| captured.staying)
                .into_iter()
                .chain(others)
                .reduce(Staying::with),
            before: kept
                .filter_map(|one| Some(Place::new(one.directory, one.name?)))
                .collect(),
        })
    }
}

/// Puts copies where directories stood that moved.
pub(super) fn settle(scan: &Scan<'_>, findings: &mut Findings) -> Result<(), AgentError> {
    let departed = std::mem::take(&mut findings.departed);
    if departed.is_empty() {
        return Ok(());
    }
    let ((), more) = scan.alone(|worker| {
        departed
            .into_iter()
            .try_for_each(|place| worker.put_departed(place))
    })?;
    findings.merge(more);
    Ok(())
}

impl Worker<'_> {
    /// Whether what vanished from a place may have done so after the capture began.
    pub(super) fn keeps(&self, place: &Place) -> Result<bool, AgentError> {
        if place.parent == DirectoryId::TOP {
            return Ok(false);
        }
        let Keeping { staying, before } = &self.scan.keeping;
        let since = match staying {
            Some(Staying::Everything) => return Ok(true),
            Some(Staying::Since(since)) if !before.contains(place) => *since,
            _ => return Ok(false),
        };
        let Some(path) = self.scan.index.pending_path(place.parent)? else {
            return Ok(false);
        };
        let directory = self.scan.root.open_beneath(&path);
        match directory.and_then(|directory| directory.stat_self()) {
            Ok(stat) => Ok(settled(stat.changed, since) == Settled::No),
            Err(error) if !is_about_entry(&error) => Err(error.into()),
            // It went meanwhile.
            Err(_) => Ok(true),
        }
    }

    fn put_departed(&mut self, place: Place) -> Result<(), AgentError> {
        // Something else stands there.
        if self.scan.index.pending_at(&place)?.is_some() || !self.keeps(&place)? {
            return Ok(());
        }
        if let Some(known) = self.base.at(&place)? {
            self.put_copy(place.clone(), &known)?;
            self.findings.kept.push(Spot {
                directory: place.parent,
                name: Some(place.name),
            });
        }
        Ok(())
    }

    /// Puts a copy of what the base has at a place, with everything below.
    fn put_copy(&mut self, place: Place, known: &Known) -> Result<(), AgentError> {
        let mut pending = vec![(place.clone(), place, known.entry.clone())];
        while let Some((place, from, entry)) = pending.pop() {
            self.scan.context.cancel.check()?;
            let former = entry.directory_id();
            let number = former.map(|_| self.new_directory());
            self.put_one(place, &from, entry, number)?;
            let (Some(former), Some(number)) = (former, number) else {
                continue;
            };
            let base = self.base;
            base.merge(former, Vec::new(), |side| {
                if let Side::Right(name, raw) = side {
                    let place = Place::new(number, name.clone());
                    let from = Place::new(former, name);
                    pending.push((place, from, raw.decode()?.entry));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn put_one(
        &mut self,
        place: Place,
        from: &Place,
        entry: Entry,
        number: Option<DirectoryId>,
    ) -> Result<(), AgentError> {
        let content = match (&entry.node, entry.content()) {
            (Node::Directory { .. }, _) => Content::Directory,
            (_, Some((1.., _))) => Content::Copy(from.clone()),
            _ => Content::Inline(Bytes::default()),
        };
        let node = match number {
            Some(id) => Node::Directory { id },
            None => entry.node,
        };
        let certainty = self.scan.fuzzy.of_base(from);
        self.put(Change {
            place,
            base: None,
            entry: Entry {
                node,
                group: 0,
                ..entry
            },
            // Whoever looks finds nothing there.
            seen: None,
            content,
            certainty,
            is_move: false,
        })
    }
}
