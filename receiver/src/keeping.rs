//! What an upload that runs keeps account of, so that it can be carried on if it is interrupted, and what it may take of
//! those that were.

use understudy_protocol::message::{StreamEnd, StreamResume};
use understudy_protocol::{ContentHash, Entry};
use understudy_tree::Directory;

use crate::arriving::{Arriving, Shape};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::ledger::{Entries, Ledger, Record};
use crate::leftovers::{LEAST_BYTES, LEAST_PARTIAL, Leftovers};

/// The ledger tells of a stream after this part of what it has, at least.
const PART: u64 = 256;

/// Shared by all workers of an upload.
pub(crate) struct Keeping<'a> {
    /// `None` where the agent could make nothing of leftovers.
    ledger: Option<Ledger<'a>>,
    pub(crate) leftovers: Option<&'a Leftovers>,
}

impl<'a> Keeping<'a> {
    pub(crate) fn new(control: &'a Directory, leftovers: Option<&'a Leftovers>) -> Self {
        Self {
            ledger: leftovers.map(|_| Ledger::new(control)),
            leftovers,
        }
    }

    fn note(&self, record: &Record) -> Result<(), ReceiverError> {
        match &self.ledger {
            Some(ledger) => ledger.note(record),
            None => Ok(()),
        }
    }

    /// Size and hash of a file that the ledger is to tell of.
    pub(crate) fn worth_noting(&self, entry: &Entry) -> Option<(u64, ContentHash)> {
        let content = entry.content().filter(|_| self.ledger.is_some());
        content.filter(|(size, _)| *size >= LEAST_BYTES)
    }

    /// Appends what was staged.
    pub(crate) fn append(&self, entries: &mut Entries) -> Result<(), ReceiverError> {
        match &self.ledger {
            Some(ledger) => ledger.append(entries),
            None => Ok(()),
        }
    }

    /// Appends it now if a file is too large for being lost with the rest of a message.
    pub(crate) fn append_if_large(
        &self,
        size: u64,
        entries: &mut Entries,
    ) -> Result<(), ReceiverError> {
        if size < LEAST_PARTIAL {
            return Ok(());
        }
        self.append(entries)
    }

    /// Before the file of a stream is made.
    pub(crate) fn begin(&self, stream: u64) -> Result<(), ReceiverError> {
        self.note(&Record::Begun { stream })
    }

    /// Before the file of a stream is taken: reading it again takes long, and may be interrupted too.
    pub(crate) fn resume(&self, resume: &StreamResume) -> Result<(), ReceiverError> {
        self.note(&Record::Position {
            stream: resume.stream,
            length: resume.length,
            hash: resume.hash,
        })
    }

    /// How far a stream is; one that is a difference to another file is worth nothing without its end.
    pub(crate) fn note_position(
        &self,
        stream: u64,
        arriving: &mut Arriving,
    ) -> Result<(), ReceiverError> {
        let length = arriving.hasher.position();
        arriving.note_at = length + (length / PART).max(LEAST_PARTIAL);
        if arriving.former.is_some() || length < LEAST_PARTIAL {
            return Ok(());
        }
        let hash = arriving.hasher.clone().finish(length);
        self.note(&Record::Position {
            stream,
            length,
            hash,
        })
    }

    /// A stream is whole.
    pub(crate) fn end(&self, end: &StreamEnd, shape: &Shape) -> Result<(), ReceiverError> {
        if *shape != Shape::Whole {
            return Ok(());
        }
        self.note(&Record::Ended {
            stream: end.stream,
            hash: end.hash,
            size: end.size,
        })
    }

    /// Makes everything durable that was staged before, and says so in the ledger.
    pub(crate) fn sync(&self, dataset: &Dataset) -> Result<(), ReceiverError> {
        let end = self.ledger.as_ref().and_then(Ledger::end);
        dataset.sync()?;
        match end {
            Some(end) => self.note(&Record::Synced { end }),
            None => Ok(()),
        }
    }
}
