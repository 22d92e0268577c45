//! Making all names of an inode one entry on the spare, with as little content sent as possible.

use understudy_protocol::message::Content;
use understudy_protocol::{Bytes, Entry, Place};

use super::{Inode, Member, Observed};
use crate::error::AgentError;
use crate::index::{Known, Seen};
use crate::scan::is_about_entry;
use crate::scan::read::{Certainty, Contents};
use crate::scan::visit::Open;
use crate::scan::worker::{Change, Worker};

impl Worker<'_> {
    /// Makes all names `here` the observed entry.
    pub(super) fn bring(
        &mut self,
        inode: &Inode<'_>,
        here: &[Member],
        observed: Observed,
    ) -> Result<(), AgentError> {
        let Observed {
            entry,
            seen,
            certainty,
            mut contents,
        } = observed;
        let is_apart = here
            .iter()
            .any(|member| member.seen().is_some_and(|seen| seen.is_apart()));
        let differs = |member: &&Member| {
            // Equal entries of a group are one file only if they were recorded as the same inode.
            let was_another = member
                .seen()
                .is_some_and(|seen| !seen.is_inode(inode.identity));
            let is_other_file = entry.group != 0 && (is_apart || was_another);
            is_other_file
                || member
                    .base
                    .as_ref()
                    .is_none_or(|known| known.entry != entry)
        };
        let (mut wanting, same): (Vec<&Member>, Vec<&Member>) = here.iter().partition(differs);
        // Without a group there is one name: the file moved while it was looked at, or one inode is seen at several
        // places (a snapshot of a subvolume, what is mounted twice).
        let strays = if entry.group == 0 {
            wanting.split_off(wanting.len().min(1))
        } else {
            Vec::new()
        };
        if !wanting.is_empty() {
            let stays = same.first().copied().filter(|_| entry.group == 0);
            let source = self.source(inode, here, stays, &entry, contents.as_mut())?;
            let Some(source) = source else {
                self.unsettled(wanting[0].folder.spot(&wanting[0].name));
                self.carry_over(inode, here)?;
                return self.leave(inode, here.iter());
            };
            let put = (&entry, seen, certainty);
            self.put_all(inode, &wanting, put, &source)?;
            if let Some((contents, _)) = &contents {
                wanting
                    .iter()
                    .try_for_each(|member| self.remember(&member.place, contents))?;
            }
        }
        for stray in &strays {
            self.keep_in_doubt(&stray.place)?;
        }
        self.leave(inode, strays.into_iter())?;
        for member in same {
            if let Some(known) = &member.base
                && !self.give_up(inode, member, known)?
            {
                self.scan.fuzzy.note(&member.place, certainty);
                self.refresh(member.place.clone(), entry.clone(), known.seen, seen)?;
            }
        }
        Ok(())
    }

    /// Where the content of all these names comes from; `None` if the file is not what it was.
    fn source(
        &mut self,
        inode: &Inode<'_>,
        here: &[Member],
        stays: Option<&Member>,
        entry: &Entry,
        contents: Option<&mut (Box<Contents>, usize)>,
    ) -> Result<Option<Content>, AgentError> {
        if let Some(member) = stays {
            return Ok(Some(match entry.content() {
                Some(_) => Content::Copy(member.place.clone()),
                None => Content::Inline(Bytes::default()),
            }));
        }
        match (self.kept(inode, here, entry)?, contents) {
            (Some(from), _) => Ok(Some(Content::Keep(from))),
            (None, None) => Ok(Some(Content::Inline(Bytes::default()))),
            (None, Some((contents, by))) => self.content_of(&here[*by], contents),
        }
    }

    /// Puts the entry at all these places; the first brings the content.
    fn put_all(
        &mut self,
        inode: &Inode<'_>,
        wanting: &[&Member],
        (entry, seen, certainty): (&Entry, Seen, Certainty),
        source: &Content,
    ) -> Result<(), AgentError> {
        let kept = if let Content::Keep(from) = source {
            Some(from)
        } else {
            None
        };
        let mut is_move = self.was_removed(kept)?;
        for (number, member) in wanting.iter().enumerate() {
            inode.fates.put(&member.place);
            let content = match (kept, number) {
                (None, 1..) => Content::Sibling(wanting[0].place.clone()),
                _ => source.clone(),
            };
            self.findings.tally.found_again += u64::from(is_move);
            let base = member.base.as_ref().map(|known| &known.entry);
            let (place, entry, seen) = (member.place.clone(), entry.clone(), Some(seen));
            self.put(Change {
                place,
                base,
                entry,
                seen,
                content,
                certainty,
                is_move,
            })?;
            is_move = false;
        }
        Ok(())
    }

    fn was_removed(&self, place: Option<&Place>) -> Result<bool, AgentError> {
        match place {
            Some(place) => Ok(self.scan.index.pending_at(place)?.is_none()),
            None => Ok(false),
        }
    }

    fn content_of(
        &mut self,
        member: &Member,
        contents: &mut Contents,
    ) -> Result<Option<Content>, AgentError> {
        let directory = match self.scan.root.open_beneath(&member.folder.path) {
            Ok(directory) => directory,
            Err(error) if is_about_entry(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let open = Open::whole(&member.folder, &directory);
        let former = self.former(&member.place, member.base.as_ref())?;
        self.new_content(&open, &member.name, contents, former.as_ref())
    }

    /// The base place whose file all these names may keep.
    fn kept(
        &self,
        inode: &Inode<'_>,
        here: &[Member],
        entry: &Entry,
    ) -> Result<Option<Place>, AgentError> {
        let is_same = |base: &Known| base.entry.node == entry.node;
        let own = here
            .iter()
            .filter_map(|member| Some((&member.place, member.base.as_ref()?)));
        let own: Vec<_> = own
            .filter(|(_, base)| is_same(base) && base.may_be_inode(inode.identity))
            .collect();
        let former: Vec<_> = inode
            .former
            .iter()
            .filter(|(_, base)| is_same(base))
            .collect();
        if entry.group != 0 {
            // The group is one file on the spare already.
            let others = former.iter().map(|(place, base)| (place, base));
            let same = own
                .iter()
                .copied()
                .chain(others)
                .find(|(_, base)| base.entry.group == entry.group);
            if let Some((place, _)) = same {
                return Ok(Some(place.clone()));
            }
        }
        for (place, base) in own {
            // A file with other names may only leave its group alone if no other name stays.
            if base.entry.group == 0 || base.seen.is_some() && !self.has_other_names(inode, here)? {
                return Ok(Some(place.clone()));
            }
        }
        for (place, base) in former {
            let is_free = base.entry.group == 0 || !self.has_other_names(inode, here)?;
            if is_free && self.is_given_up(inode, place, base)? {
                return Ok(Some(place.clone()));
            }
        }
        Ok(None)
    }

    /// Whether the inode has names in the pending state that are not among these and may stay as they are.
    fn has_other_names(&self, inode: &Inode<'_>, here: &[Member]) -> Result<bool, AgentError> {
        let names = self.scan.index.pending_with_identity(inode.identity)?;
        let may_stay = |place: &Place| {
            !inode.fates.is_put(place) && here.iter().all(|member| member.place != *place)
        };
        Ok(names.iter().any(|(place, _)| may_stay(place)))
    }

    /// Whether the file that the base has at `place` is no longer wanted there after this upload.
    fn is_given_up(
        &self,
        inode: &Inode<'_>,
        place: &Place,
        base: &Known,
    ) -> Result<bool, AgentError> {
        if let Some(answer) = inode.fates.ask_for(place, inode.identity) {
            return Ok(answer);
        }
        Ok(match self.scan.index.pending_at(place)? {
            None => true,
            Some(pending) => {
                let is_another = pending
                    .seen
                    .is_some_and(|seen| !seen.is_inode(inode.identity));
                pending.entry != base.entry && is_another
            }
        })
    }

    /// What moved here but cannot be read is moved as it was: its old place may be empty already.
    pub(super) fn carry_over(
        &mut self,
        inode: &Inode<'_>,
        lost: &[Member],
    ) -> Result<(), AgentError> {
        let Some(member) = lost.iter().find(|member| member.base.is_none()) else {
            return Ok(());
        };
        for (from, base) in &inode.former {
            if self.is_given_up(inode, from, base)? {
                self.findings.tally.found_again += u64::from(self.was_removed(Some(from))?);
                let (place, entry) = (member.place.clone(), base.entry.clone());
                let content = Content::Keep(from.clone());
                let certainty = self.scan.fuzzy.of_base(from);
                return self.put(Change {
                    place,
                    base: None,
                    entry,
                    seen: base.seen.map(Seen::apart),
                    content,
                    certainty,
                    is_move: true,
                });
            }
        }
        Ok(())
    }

    /// Leaves places as the spare has them, but for the file where that was promised.
    pub(super) fn leave<'m>(
        &mut self,
        inode: &Inode<'_>,
        members: impl Iterator<Item = &'m Member>,
    ) -> Result<(), AgentError> {
        for member in members {
            if let Some(known) = &member.base {
                self.give_up(inode, member, known)?;
            }
        }
        Ok(())
    }

    /// Puts a copy of what stands at a place if its file was promised to another; returns whether it was.
    fn give_up(
        &mut self,
        inode: &Inode<'_>,
        member: &Member,
        known: &Known,
    ) -> Result<bool, AgentError> {
        let is_promised = inode.fates.stay(&member.place);
        if is_promised {
            let content = match known.entry.content() {
                Some(_) => Content::Copy(member.place.clone()),
                None => Content::Inline(Bytes::default()),
            };
            let entry = Entry {
                group: 0,
                ..known.entry.clone()
            };
            let (place, base) = (member.place.clone(), Some(&known.entry));
            self.put(Change {
                place,
                base,
                entry,
                seen: None,
                content,
                certainty: self.scan.fuzzy.of_base(&member.place),
                is_move: false,
            })?;
        }
        Ok(is_promised)
    }
}
