//! Before a name counts as gone, every directory that changed since the walk began is looked at again: what
//! moved behind the walker's back is found there.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_protocol::{Name, Place};

use super::findings::{Findings, Looked};
use super::queue::Queue;
use super::visit::{Found, Open};
use super::worker::Worker;
use super::{Folder, ROUNDS, Scan, Task, is_about_entry};
use crate::clock::{self, Settled};
use crate::error::AgentError;
use crate::index::{Known, Side};

/// Looks at changed directories again until none changed, at most [`ROUNDS`] times.
pub(super) fn look_again(scan: &Scan<'_>, findings: &mut Findings) -> Result<(), AgentError> {
    for _ in 0..ROUNDS {
        let is_settled = findings.missing.is_empty() && findings.displaced.is_empty();
        if scan.base_is_empty || (is_settled && scan.unvisited().is_empty()) {
            return Ok(());
        }
        let mut pass = Pass {
            found: Vec::new(),
            back: Vec::new(),
            looked_at: 0,
        };
        let looked = std::mem::take(&mut findings.looked);
        let (looked, more) = scan.alone(|worker| {
            looked
                .into_iter()
                .map(|looked| worker.look_again_at(looked, &mut pass))
                .collect::<Result<Vec<_>, _>>()
        })?;
        findings.merge(more);
        findings.looked = looked;
        for place in pass.back {
            findings.missing.remove(&place);
        }
        if !pass.found.is_empty() {
            findings.merge(scan.all(&Queue::new(pass.found))?);
        }
        if pass.looked_at == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// What one round found.
struct Pass {
    /// Directories that nobody has looked at.
    found: Vec<Task>,
    /// Places that are not empty after all.
    back: Vec<Place>,
    /// Directories that had changed.
    looked_at: usize,
}

/// What index and spare have at a name.
#[derive(Default)]
struct Rows {
    base: Option<Known>,
    pending: Option<Known>,
}

impl Worker<'_> {
    fn look_again_at(&mut self, before: Looked, pass: &mut Pass) -> Result<Looked, AgentError> {
        self.scan.context.cancel.check()?;
        let folder = Arc::clone(&before.folder);
        let scan = self.scan;
        let opened = scan.root.open_beneath(&folder.path).and_then(|directory| {
            let looked = scan.now();
            let stat = directory.stat_self()?;
            let is_same = before.changed == Some(stat.changed);
            let names = if is_same {
                None
            } else {
                Some(directory.names()?)
            };
            Ok((directory, stat, names, looked))
        });
        let (directory, stat, names, looked) = match opened {
            Ok(opened) if opened.1.identity == before.identity => opened,
            Err(error) if !is_about_entry(&error) => return Err(error.into()),
            // It went, so that its parent changed as well, or was closed; the next cycle looks into it.
            _ => return Ok(before),
        };
        let Some(names) = names else {
            return Ok(before);
        };
        pass.looked_at += 1;
        let settled = clock::settled(stat.changed, looked) == Settled::Yes;
        let after = Looked {
            changed: settled.then_some(stat.changed),
            ..before
        };
        let mut open = Open::whole(&folder, &directory);
        self.compare_again(&mut open, names, pass)?;
        pass.found.append(&mut open.below);
        Ok(after)
    }

    fn compare_again(
        &mut self,
        open: &mut Open<'_>,
        names: Vec<Name>,
        pass: &mut Pass,
    ) -> Result<(), AgentError> {
        self.write_rows()?;
        let mut rows = self.rows(open.folder)?;
        for name in names {
            let here = rows.remove(&name).unwrap_or_default();
            if !self.is_open_question(here.base.as_ref(), here.pending.as_ref()) {
                continue;
            }
            let place = open.folder.place(&name);
            match self.find(open, &name)? {
                Found::There(stat) => {
                    pass.back.push(place);
                    let proven = here.pending.as_ref().and_then(|known| known.seen);
                    let is_file = here
                        .pending
                        .as_ref()
                        .is_some_and(|known| known.entry.directory_id().is_none());
                    if !(is_file && proven.is_some_and(|seen| seen.proves(&stat))) {
                        self.settle(open, name, &stat, here.pending)?;
                    }
                }
                Found::Hidden => pass.back.push(place),
                Found::Absent => self.gone_since(place, &here),
            }
        }
        for (name, here) in rows {
            if self.is_open_question(here.base.as_ref(), here.pending.as_ref()) {
                self.gone_since(open.folder.place(&name), &here);
            }
        }
        Ok(())
    }

    fn gone_since(&mut self, place: Place, here: &Rows) {
        if let Some(known) = &here.pending {
            self.missing(place, known.entry.directory_id());
        }
    }

    fn rows(&mut self, folder: &Folder) -> Result<BTreeMap<Name, Rows>, AgentError> {
        let mut rows: BTreeMap<Name, Rows> = BTreeMap::new();
        let base = self.base;
        base.merge(folder.id, Vec::new(), |side| {
            if let Side::Right(name, raw) = side {
                rows.entry(name).or_default().base = Some(raw.decode()?);
            }
            Ok(())
        })?;
        for (place, known) in self.scan.index.pending_children(folder.id)? {
            rows.entry(place.name).or_default().pending = Some(known);
        }
        Ok(rows)
    }
}
