//! Files that moved and files with several names: judged together, one inode at a time, once the whole tree was
//! seen and what is gone is known.
//!
//! All names of an inode become the same entry. Where the spare has the very file at a place that is given up or
//! belongs to the same group, it is kept; else the first name brings the content and the others are its siblings.

mod bring;
mod fates;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use understudy_protocol::{Entry, Name, Place};
use understudy_tree::{Directory, Identity, Kind, Stat};

use super::findings::{Deferred, Findings};
use super::read::{Certainty, Contents, Reading, Sending};
use super::stands::Stand;
use super::visit::Open;
use super::worker::Worker;
use super::{Folder, Scan, is_about_entry};
use crate::error::AgentError;
use crate::index::{Known, Seen};

use fates::Fates;

/// Judges everything that was put off.
pub(super) fn settle(scan: &Scan<'_>, findings: &mut Findings) -> Result<(), AgentError> {
    let mut deferred = std::mem::take(&mut findings.deferred);
    if deferred.is_empty() {
        return Ok(());
    }
    // A place that was looked at again is what it was found to be last.
    deferred.reverse();
    deferred.sort_by(|a, b| (a.folder.id, &a.name).cmp(&(b.folder.id, &b.name)));
    deferred.dedup_by(|a, b| a.folder.id == b.folder.id && a.name == b.name);
    deferred.sort_by_key(|one| (one.identity.inode, one.identity.born));
    let waiting = deferred.iter().filter(|one| one.has_row);
    let fates = Fates::new(waiting.map(|one| (one.folder.place(&one.name), one.identity)));
    let groups: Vec<&[Deferred]> = deferred.chunk_by(|a, b| a.identity == b.identity).collect();
    let next = AtomicUsize::new(0);
    let more = scan.in_parallel(|worker| {
        while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
            worker.scan.context.cancel.check()?;
            worker.settle_group(group, &fates)?;
        }
        Ok(())
    })?;
    findings.merge(more);
    Ok(())
}

/// A name of the group that is being judged.
struct Member {
    folder: Arc<Folder>,
    name: Name,
    place: Place,
    base: Option<Known>,
}

impl Member {
    /// What was seen when the base entry was recorded.
    fn seen(&self) -> Option<Seen> {
        self.base.as_ref().and_then(|known| known.seen)
    }
}

/// One inode as it is now.
struct Observed {
    entry: Entry,
    seen: Seen,
    certainty: Certainty,
    /// Of a file: its contents, and the name they were read by.
    contents: Option<(Box<Contents>, usize)>,
}

/// The inode that is being judged.
struct Inode<'a> {
    identity: Identity,
    /// Base entries that were recorded with it.
    former: Vec<(Place, Known)>,
    fates: &'a Fates,
}

impl Worker<'_> {
    fn settle_group(&mut self, group: &[Deferred], fates: &Fates) -> Result<(), AgentError> {
        let Some(identity) = group.first().map(|one| one.identity) else {
            return Ok(());
        };
        let mut members = self.members(group)?;
        let former = if self.scan.base_is_empty {
            Vec::new()
        } else {
            self.base.with_identity(identity)?
        };
        let inode = Inode {
            identity,
            former,
            fates,
        };
        self.add_unchanged(&mut members, &inode)?;
        let (mut here, mut lost) = (Vec::new(), Vec::new());
        let mut observed = None;
        for member in members {
            match self.stat(&member, identity)? {
                Some((directory, stat)) => {
                    if observed.is_none() {
                        observed = self.observe(&member, &directory, &stat, here.len())?;
                    }
                    here.push(member);
                }
                None => lost.push(member),
            }
        }
        if let Some(mut observed) = observed {
            if !lost.is_empty() && observed.entry.group != 0 {
                // Those names stay as they are: maybe as another file than this one becomes.
                observed.seen = observed.seen.apart();
            }
            self.bring(&inode, &here, observed)?;
        } else {
            lost.append(&mut here);
            self.carry_over(&inode, &lost)?;
        }
        for member in &lost {
            // Maybe its directory moved, of which no event about this name tells.
            self.keep_in_doubt(&member.place)?;
        }
        self.leave(&inode, lost.iter())
    }

    /// The names with what the spare has there, without those that were put in the meantime.
    fn members(&mut self, group: &[Deferred]) -> Result<Vec<Member>, AgentError> {
        let mut members = Vec::with_capacity(group.len());
        for one in group {
            let place = one.folder.place(&one.name);
            let (mut base, mut pending) = (None, None);
            if !self.scan.base_is_empty {
                base = self.base.at(&place)?;
                pending = self.scan.index.pending_at(&place)?;
            }
            let directory = base.as_ref().and_then(|known| known.entry.directory_id());
            let stand = directory.and_then(|id| self.scan.stands.of(id));
            if pending.is_none() && stand == Some(Stand::Away) {
                // A directory that moved away left the place free.
                base = None;
            }
            let is_untouched = base.as_ref().map(|known| &known.entry)
                == pending.as_ref().map(|known| &known.entry);
            if !is_untouched || stand == Some(Stand::Home) {
                self.keep_in_doubt(&place)?;
                continue;
            }
            let (folder, name) = (Arc::clone(&one.folder), one.name.clone());
            members.push(Member {
                folder,
                name,
                place,
                base,
            });
        }
        Ok(members)
    }

    /// Names of the same inode that were seen before it changed: all names must become the same entry.
    fn add_unchanged(
        &mut self,
        members: &mut Vec<Member>,
        inode: &Inode<'_>,
    ) -> Result<(), AgentError> {
        if self.scan.base_is_empty {
            return Ok(());
        }
        for (place, pending) in self.scan.index.pending_with_identity(inode.identity)? {
            let is_waiting = inode.fates.contains(&place);
            if pending.entry.directory_id().is_some() || is_waiting {
                continue;
            }
            let base = self.base.at(&place)?;
            let is_untouched = base
                .as_ref()
                .is_some_and(|base| base.entry == pending.entry);
            if let (true, Some(path)) = (is_untouched, self.scan.index.pending_path(place.parent)?)
            {
                let folder = Arc::new(Folder {
                    path,
                    id: place.parent,
                    depth: 0,
                });
                members.push(Member {
                    folder,
                    name: place.name.clone(),
                    place,
                    base,
                });
            }
        }
        Ok(())
    }

    /// What stands there, if it still is the inode in question.
    fn stat(
        &mut self,
        member: &Member,
        identity: Identity,
    ) -> Result<Option<(Directory, Stat)>, AgentError> {
        let opened = self
            .scan
            .root
            .open_beneath(&member.folder.path)
            .and_then(|directory| {
                let stat = directory.stat(&member.name)?;
                Ok((directory, stat))
            });
        match opened {
            Ok((directory, stat)) if stat.identity == identity => Ok(Some((directory, stat))),
            Err(error) if !is_about_entry(&error) => Err(error.into()),
            Err(error) if !error.is_gone() => {
                self.unreadable(member.folder.spot(&member.name), &error);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Reads the inode; `None` if it cannot be, which is listed.
    fn observe(
        &mut self,
        member: &Member,
        directory: &Directory,
        stat: &Stat,
        number: usize,
    ) -> Result<Option<Observed>, AgentError> {
        let open = Open::whole(&member.folder, directory);
        if stat.kind != Kind::File {
            let read = self.read_special(&open, &member.name, stat)?;
            return Ok(read.map(|(entry, seen)| Observed {
                entry,
                seen,
                certainty: Certainty::Whole,
                contents: None,
            }));
        }
        let is_leftover = self.scan.leftovers.have_large(stat.size);
        let sending = if self.scan.base_is_empty && !is_leftover {
            Sending::AtOnce
        } else {
            Sending::IfNeeded
        };
        let former = self.former(&member.place, member.base.as_ref())?;
        match self.read(&open, &member.name, stat, sending, former.as_ref())? {
            Reading::Stable(contents) if contents.stat.identity == stat.identity => {
                let entry = contents.entry(self.scan.group(&contents.stat));
                self.note_certainty(member.folder.spot(&member.name), &contents);
                Ok(Some(Observed {
                    entry,
                    seen: contents.seen,
                    certainty: contents.certainty,
                    contents: Some((contents, number)),
                }))
            }
            Reading::Stable(_) | Reading::Gone => Ok(None),
            Reading::Unreadable(error) => {
                self.unreadable(member.folder.spot(&member.name), &error);
                Ok(None)
            }
            Reading::Unsettled => {
                self.unsettled(member.folder.spot(&member.name));
                Ok(None)
            }
        }
    }
}
