//! One thread's share of a scan: what it sends, writes to the index and found out.

use std::fmt::Display;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use understudy_protocol::message::Content;
use understudy_protocol::{DirectoryId, Entry, Place, RelPath, StateDigest, version};

use super::Scan;
use super::findings::{Findings, Problem, Spot};
use super::read::{Certainty, Contents};
use super::short;
use crate::error::AgentError;
use crate::index::{Reader, Seen, Update};
use crate::outbox::Outbox;

/// Rows written to the index at once.
const ROWS: usize = 1000;
/// Places that one worker remembers for checking the journal.
const DIFFERENT: usize = 20_000;

/// A worker of a scan.
pub(crate) struct Worker<'a> {
    pub(super) scan: &'a Scan<'a>,
    pub(super) base: &'a Reader<'a>,
    pub(super) outbox: Outbox,
    pub(super) findings: Findings,
    /// For blocks of large files; grows on first use.
    pub(super) buffer: Vec<u8>,
    digest: StateDigest,
    updates: Vec<Update>,
}

/// A change of one place.
pub(super) struct Change<'a> {
    pub(super) place: Place,
    /// What the base has there.
    pub(super) base: Option<&'a Entry>,
    pub(super) entry: Entry,
    pub(super) seen: Option<Seen>,
    pub(super) content: Content,
    /// Whether its content may be a mixture of several states.
    pub(super) certainty: Certainty,
    /// Whether it stood elsewhere before.
    pub(super) is_move: bool,
}

impl<'a> Worker<'a> {
    pub(super) fn new(scan: &'a Scan<'a>, base: &'a Reader<'a>) -> Self {
        Self {
            scan,
            base,
            outbox: scan.outbox(),
            findings: Findings::default(),
            buffer: Vec::new(),
            digest: StateDigest::empty(),
            updates: Vec::new(),
        }
    }

    /// Sends and writes what is left.
    pub(super) fn finish(mut self) -> Result<Findings, AgentError> {
        self.outbox.flush()?;
        self.write_rows()?;
        self.scan
            .digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .merge(&self.digest);
        Ok(self.findings)
    }

    /// Sends a change and records it.
    pub(super) fn put(&mut self, change: Change<'_>) -> Result<(), AgentError> {
        let Change {
            place,
            base,
            entry,
            seen,
            content,
            certainty,
            is_move,
        } = change;
        self.scan.fuzzy.note(&place, certainty);
        self.scan.note_put(&place);
        if let Some(base) = base {
            self.digest.remove(&place, base);
            let displaced = base
                .directory_id()
                .filter(|id| entry.directory_id() != Some(*id));
            self.findings.displaced.extend(displaced);
            if base.group != entry.group {
                self.part(&place, base);
            }
        }
        if let Some(base) = base.filter(|base| base.content() != entry.content()) {
            self.scan.index.remember_former(base)?;
        }
        if let (Content::History, Some((_, hash))) = (&content, entry.content()) {
            self.scan.index.forget_former(hash)?;
        }
        self.differs(&place);
        self.digest.add(&place, &entry);
        let tally = &mut self.findings.tally;
        match base {
            _ if is_move => tally.moved += 1,
            Some(_) => tally.changed += 1,
            None => tally.added += 1,
        }
        match short::touch(&place, base, &entry, &content) {
            Some(touch) if self.scan.spoken >= version::SHORT => {
                self.outbox
                    .touch(place.clone(), entry.attributes.clone(), touch)?;
            }
            _ => self.outbox.put(place.clone(), entry.clone(), content)?,
        }
        self.record(Update { place, entry, seen })
    }

    /// Notes that the file of a base entry stands there no more: no event tells its other names.
    pub(super) fn part(&mut self, place: &Place, base: &Entry) {
        if base.group != 0 && self.scan.is_in_parts() {
            self.findings.parted.push(place.clone());
        }
    }

    /// Notes a place where the tree is not what the base has, while the journal is being checked.
    pub(super) fn differs(&mut self, place: &Place) {
        let different = &mut self.findings.different;
        if self.scan.is_checked && different.len() < DIFFERENT {
            different.push(place.clone());
        }
    }

    /// Records that an entry is what the spare has, as it is seen `now`.
    pub(super) fn refresh(
        &mut self,
        place: Place,
        entry: Entry,
        was: Option<Seen>,
        now: Seen,
    ) -> Result<(), AgentError> {
        if was == Some(now) {
            return Ok(());
        }
        self.record(Update {
            place,
            entry,
            seen: Some(now),
        })
    }

    /// Sends that an entry is gone; its rows are removed already.
    pub(super) fn remove(&mut self, place: Place) -> Result<(), AgentError> {
        self.outbox.remove(place)
    }

    /// The digest of this worker, for rows removed directly.
    pub(super) fn digest(&mut self) -> &mut StateDigest {
        &mut self.digest
    }

    fn record(&mut self, update: Update) -> Result<(), AgentError> {
        self.updates.push(update);
        if self.updates.len() >= ROWS {
            self.write_rows()
        } else {
            Ok(())
        }
    }

    /// Makes all rows so far visible in the pending state.
    pub(super) fn write_rows(&mut self) -> Result<(), AgentError> {
        self.findings.tally.rows += self.updates.len() as u64;
        self.scan.index.apply(&self.updates)?;
        self.updates.clear();
        Ok(())
    }

    /// A number that no directory had.
    pub(super) fn new_directory(&self) -> DirectoryId {
        DirectoryId(self.scan.next_directory.fetch_add(1, Ordering::Relaxed))
    }

    /// Lists an entry that cannot be read.
    pub(super) fn unreadable(&mut self, (path, spot): (RelPath, Spot), reason: &dyn Display) {
        self.findings.unreadable.push(Problem {
            path,
            reason: reason.to_string(),
            spot,
        });
    }

    /// Lists a file that is sent although it never stood still.
    pub(super) fn note_certainty(&mut self, (path, spot): (RelPath, Spot), contents: &Contents) {
        if contents.certainty == Certainty::Fuzzy {
            let changed = || "it changed every time it was read".to_owned();
            self.findings.fuzzy.push(Problem {
                path,
                reason: contents.doubt.clone().unwrap_or_else(changed),
                spot,
            });
        }
    }

    /// Lists an entry that never stood still.
    pub(super) fn unsettled(&mut self, (path, spot): (RelPath, Spot)) {
        self.findings.unsettled.push(Problem {
            path,
            reason: "it changed every time it was read".to_owned(),
            spot,
        });
    }
}
