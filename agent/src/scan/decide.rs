//! What becomes of one name that is new or not proven unchanged.

use understudy_protocol::message::Content;
use understudy_protocol::{Bytes, ContentHash, DirectoryId, Entry, Name, Node, Place};
use understudy_tree::{Kind, Mounts, Stat, node};

use super::delta::Former;
use super::findings::{Deferred, Moved};
use super::read::{Body, Certainty, Contents, Reading, Sending};
use super::stands::Stand;
use super::visit::{Open, task};
use super::worker::{Change, Worker};
use super::{Scan, Task, is_about_entry};
use crate::Emptied;
use crate::clock;
use crate::error::AgentError;
use crate::index::{Known, Seen};

impl Worker<'_> {
    /// Judges what stands at `name`: sends it, records it, lists it or puts it off.
    pub(super) fn settle(
        &mut self,
        open: &mut Open<'_>,
        name: Name,
        stat: &Stat,
        known: Option<Known>,
    ) -> Result<(), AgentError> {
        let replaced = known
            .as_ref()
            .filter(|known| stat.kind != Kind::Directory || !known.may_be_inode(stat.identity))
            .and_then(|known| known.entry.directory_id());
        let place = open.folder.place(&name);
        if let Some(id) = replaced
            && self.scan.stands.of(id).is_none()
            && self.looks_unmounted(open, &name, stat, id)?
        {
            self.scan.stands.claim(id, Stand::Home);
            self.unreadable(
                open.folder.spot(&name),
                &"it is empty and another directory than before: is something not mounted there?",
            );
            return Ok(());
        }
        if self.scan.is_put(&place) || replaced.is_some_and(|id| !self.scan.stands.replace(id)) {
            // Put twice, or in place of a directory in which something was put: that is for the next cycle.
            self.hold(stat)?;
            return self.keep_in_doubt(&place);
        }
        if stat.kind == Kind::Directory {
            return self.settle_directory(open, &name, stat, known);
        }
        if self.is_deferred(stat, known.as_ref())? {
            let (folder, identity) = (std::sync::Arc::clone(open.folder), stat.identity);
            self.findings.deferred.push(Deferred {
                folder,
                name,
                identity,
                has_row: known.is_some(),
            });
            return Ok(());
        }
        match stat.kind {
            Kind::File => self.settle_file(open, &name, stat, known.as_ref()),
            _ => self.settle_special(open, &name, stat, known.as_ref()),
        }
    }

    /// Files that have or had several names, and such that were seen elsewhere before, need the whole tree.
    fn is_deferred(&self, stat: &Stat, known: Option<&Known>) -> Result<bool, AgentError> {
        if stat.links > 1 || known.is_some_and(|known| known.entry.group != 0) {
            return Ok(true);
        }
        if self.scan.base_is_empty || known.is_some_and(|known| known.may_be_inode(stat.identity)) {
            return Ok(false);
        }
        let same = self.base.with_identity(stat.identity)?;
        Ok(same
            .iter()
            .any(|(_, known)| known.entry.directory_id().is_none()))
    }

    /// Promise 4 below the root, where file systems in it belong to the source: an empty directory where one with
    /// entries was is what an unmounted file system leaves.
    fn looks_unmounted(
        &self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        former: DirectoryId,
    ) -> Result<bool, AgentError> {
        let source = self.scan.source;
        let is_possible = source.mounts == Mounts::Cross
            && source.emptied == Emptied::Refuse
            && stat.kind == Kind::Directory;
        if !is_possible || !self.base.has_entries_in(former)? {
            return Ok(false);
        }
        let listed = open
            .directory
            .open_directory(name)
            .and_then(|directory| directory.names());
        Ok(listed.is_ok_and(|names| names.is_empty()))
    }

    fn settle_directory(
        &mut self,
        open: &mut Open<'_>,
        name: &Name,
        stat: &Stat,
        known: Option<Known>,
    ) -> Result<(), AgentError> {
        let looked = self.scan.now();
        let place = open.folder.place(name);
        let number = self.number(&place, stat, known.as_ref())?;
        let attributes = match node::read_attributes(open.directory, name, stat) {
            Ok(attributes) => attributes,
            Err(error) if !is_about_entry(&error) => return Err(error.into()),
            Err(error) => {
                if !error.is_gone() {
                    self.unreadable(open.folder.spot(name), &error);
                }
                match number.known_attributes() {
                    Some(attributes) => attributes,
                    None => return Ok(()),
                }
            }
        };
        let entry = Entry {
            attributes,
            node: Node::Directory { id: number.id },
            group: 0,
        };
        let mut next = Task {
            was_put: false,
            ..task(open.folder, name, stat, number.id)
        };
        let seen = Seen::of(stat, clock::settled(stat.changed, looked));
        let is_moved = number.moved_from.is_some();
        match known {
            Some(known) if known.entry == entry => self.refresh(place, entry, known.seen, seen)?,
            known => {
                next.was_put = true;
                let base = known.as_ref().map(|known| &known.entry);
                if let Some((from, _)) = number.moved_from {
                    let to = place.clone();
                    self.findings.moved.push(Moved {
                        id: number.id,
                        identity: stat.identity,
                        from,
                        to,
                    });
                }
                let content = Content::Directory;
                self.put(Change {
                    place,
                    base,
                    entry,
                    seen: Some(seen),
                    content,
                    certainty: Certainty::Whole,
                    is_move: is_moved,
                })?;
            }
        }
        let is_new = number.at_home.is_none() && !is_moved;
        if is_new || open.looks_below(name) || self.scan.is_unvisited(number.id) {
            self.look_into(open, stat, next)?;
        }
        Ok(())
    }

    fn look_into(
        &mut self,
        open: &mut Open<'_>,
        stat: &Stat,
        next: Task,
    ) -> Result<(), AgentError> {
        if self.may_enter(stat) {
            self.enter(open, next);
            return Ok(());
        }
        // What the mount covers is not visible, so it is not in the tree.
        let id = next.folder.id;
        self.scan.unvisited().remove(&id);
        let base = self.base;
        base.merge(id, Vec::new(), |side| {
            if let crate::index::Side::Right(name, raw) = side {
                self.missing(Place::new(id, name), raw.directory);
            }
            Ok(())
        })
    }

    fn settle_file(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        known: Option<&Known>,
    ) -> Result<(), AgentError> {
        let place = open.folder.place(name);
        if known.is_some() && self.scan.databases.leaves(&place, self.scan.trust) {
            return Ok(());
        }
        let former = match known {
            Some(_) => self.former(&place, known)?,
            None => self.kin(&place, stat.size)?,
        };
        let read = self.read_or_list(open, name, stat, known, former.as_ref())?;
        let Some(mut contents) = read else {
            return Ok(());
        };
        // A name that came while it was read is for the next cycle, which looks at all names together.
        let has_more_names = contents.stat.links > 1;
        let seen = if has_more_names {
            contents.seen.unproven()
        } else {
            contents.seen
        };
        let (entry, certainty) = (contents.entry(0), contents.certainty);
        let content = match known {
            Some(known) if known.entry == entry => {
                self.scan.fuzzy.note(&place, certainty);
                self.remember(&place, &contents)?;
                return self.refresh(place, entry, known.seen, seen);
            }
            // The same inode may be kept; another one may be wanted by a place that the old one moved to.
            Some(known) if known.entry.node == entry.node => {
                if known.may_be_inode(contents.stat.identity) {
                    Some(Content::Keep(place.clone()))
                } else {
                    Some(Content::Copy(place.clone()))
                }
            }
            _ => match self.new_content(open, name, &mut contents, former.as_ref())? {
                Some(Content::Inline(bytes)) => Some(self.in_short(&place, known, bytes)?),
                content => content,
            },
        };
        let Some(content) = content else {
            self.unsettled(open.folder.spot(name));
            return Ok(());
        };
        self.remember(&place, &contents)?;
        let base = known.map(|known| &known.entry);
        self.put(Change {
            place,
            base,
            entry,
            seen: Some(seen),
            content,
            certainty,
            is_move: false,
        })
    }

    /// Reads a file; `None` if it cannot be, which is listed, or is gone.
    fn read_or_list(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        known: Option<&Known>,
        former: Option<&Former>,
    ) -> Result<Option<Box<Contents>>, AgentError> {
        // What the spare may have, all of it, is worth reading twice; what has another size than before is hardly a copy
        // of something known.
        let has_other_size = known.is_some_and(|known| known.entry.size_bytes() != stat.size);
        let is_new = self.scan.base_is_empty || has_other_size;
        let sending = if is_new && !self.may_be_on_the_spare(stat.size)? {
            Sending::AtOnce
        } else {
            Sending::IfNeeded
        };
        match self.read(open, name, stat, sending, former)? {
            Reading::Stable(contents) => {
                self.note_certainty(open.folder.spot(name), &contents);
                return Ok(Some(contents));
            }
            Reading::Gone => {
                if let Some(known) = known {
                    // Something else may stand there now: its directory changed, and is looked at again.
                    self.missing(open.folder.place(name), known.entry.directory_id());
                }
            }
            Reading::Unreadable(error) => {
                self.unreadable(open.folder.spot(name), &error);
            }
            Reading::Unsettled => self.unsettled(open.folder.spot(name)),
        }
        Ok(None)
    }

    fn settle_special(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        known: Option<&Known>,
    ) -> Result<(), AgentError> {
        let Some((entry, seen)) = self.read_special(open, name, stat)? else {
            return Ok(());
        };
        let place = open.folder.place(name);
        let content = match known {
            Some(known) if known.entry == entry => {
                return self.refresh(place, entry, known.seen, seen);
            }
            Some(known) if known.entry.node == entry.node && known.may_be_inode(stat.identity) => {
                Content::Keep(place.clone())
            }
            _ => Content::Inline(Bytes::default()),
        };
        let base = known.map(|known| &known.entry);
        self.put(Change {
            place,
            base,
            entry,
            seen: Some(seen),
            content,
            certainty: Certainty::Whole,
            is_move: false,
        })
    }

    /// Reads a link, fifo or device; `None` if it cannot be, which is listed, or is gone.
    pub(super) fn read_special(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
    ) -> Result<Option<(Entry, Seen)>, AgentError> {
        let looked = self.scan.now();
        let read = node::read_attributes(open.directory, name, stat).and_then(|attributes| {
            let node = node::read_node(open.directory, name, stat, DirectoryId::TOP)?;
            Ok((attributes, node))
        });
        match read {
            Ok((attributes, Some(node))) => {
                let entry = Entry {
                    attributes,
                    node,
                    group: self.scan.group(stat),
                };
                Ok(Some((
                    entry,
                    Seen::of(stat, clock::settled(stat.changed, looked)),
                )))
            }
            Ok((_, None)) => Ok(None),
            Err(error) if !is_about_entry(&error) => Err(error.into()),
            Err(error) => {
                if !error.is_gone() {
                    self.unreadable(open.folder.spot(name), &error);
                }
                Ok(None)
            }
        }
    }

    /// Where new content comes from: elsewhere on the spare, or from here. `None` if the file changed meanwhile.
    pub(super) fn new_content(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        contents: &mut Contents,
        former: Option<&Former>,
    ) -> Result<Option<Content>, AgentError> {
        if let Body::Streamed(stream) = contents.body {
            return Ok(Some(Content::Stream(stream)));
        }
        if let Some(content) = self.elsewhere(contents)? {
            return Ok(Some(content));
        }
        if let Body::Inline(bytes) = &mut contents.body {
            return Ok(Some(Content::Inline(std::mem::take(bytes).into())));
        }
        let sent = self.send_known(open.directory, name, contents, former)?;
        Ok(sent.map(Content::Stream))
    }
}

impl Scan<'_> {
    /// The number of a hard-link group. Other file systems have their own inode numbers, so theirs are mixed with
    /// the device's.
    pub(super) fn group(&self, stat: &Stat) -> u64 {
        if stat.links <= 1 || stat.kind == Kind::Directory {
            return 0;
        }
        if stat.file_system == self.root_stat.file_system {
            return stat.identity.inode;
        }
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&stat.file_system.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&stat.file_system.1.to_le_bytes());
        bytes[8..].copy_from_slice(&stat.identity.inode.to_le_bytes());
        ContentHash::of(&bytes).key() as u64 | 1 << 63
    }
}
