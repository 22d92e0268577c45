//! What one worker sends: changes in batches, large contents in blocks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use understudy_protocol::message::{
    Change, Changes, Content, Piece, StreamAbort, StreamBase, StreamBlock, StreamCopy, StreamEnd,
    StreamPiece, StreamPieces, StreamResume, Touch,
};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{Attributes, Bytes, ContentHash, Encoder, Entry, Message, Place, limits};
use understudy_tree::crash_point;

use crate::effort::Effort;
use crate::error::AgentError;
use crate::owners::Numbers;
use crate::{Cancel, Pace};

/// About what a record takes beside content and attributes.
const RECORD_BYTES: usize = 120;

/// What all outboxes of an upload share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    next_stream: AtomicU64,
    records: AtomicU64,
    owners: Mutex<Numbers>,
    pace: Arc<Pace>,
    effort: Arc<Effort>,
    cancel: Cancel,
}

impl Shared {
    /// For an upload that keeps to a pace; with `default` there is none.
    pub(crate) fn new(pace: Arc<Pace>, effort: Arc<Effort>, cancel: Cancel) -> Self {
        Self {
            pace,
            effort,
            cancel,
            ..Self::default()
        }
    }

    /// Who owns what was handed to any outbox so far.
    pub(crate) fn owners(&self) -> Numbers {
        self.owners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes handed to any outbox so far.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

/// One worker's way out. Its messages keep their order; those of different workers mix.
#[derive(Debug)]
pub(crate) struct Outbox {
    outgoing: Outgoing,
    encoder: Encoder,
    shared: Arc<Shared>,
    batch: Vec<Change>,
    batch_bytes: usize,
    /// When the last frame was gone.
    sent: Instant,
    /// Who owns the last entry: mostly that of the next one.
    owner: Option<(u32, u32)>,
}

impl Outbox {
    /// An empty one.
    pub(crate) fn new(outgoing: Outgoing, shared: Arc<Shared>) -> Self {
        Self {
            encoder: outgoing.encoder(),
            outgoing,
            shared,
            batch: Vec::new(),
            batch_bytes: 0,
            sent: Instant::now(),
            owner: None,
        }
    }

    /// Adds an entry to the batch.
    pub(crate) fn put(
        &mut self,
        place: Place,
        entry: Entry,
        content: Content,
    ) -> Result<(), AgentError> {
        let inline = match &content {
            Content::Inline(bytes) => bytes.len(),
            Content::Delta(_, pieces) => pieces.iter().map(piece_bytes).sum(),
            _ => 0,
        };
        let xattrs = xattrs_bytes(&entry.attributes);
        self.note_owner(&entry.attributes);
        self.add(
            Change::Put {
                place,
                entry,
                content,
            },
            inline + xattrs,
        )
    }

    /// Adds a file of which only attributes change to the batch.
    pub(crate) fn touch(
        &mut self,
        place: Place,
        attributes: Attributes,
        touch: Touch,
    ) -> Result<(), AgentError> {
        let xattrs = xattrs_bytes(&attributes);
        self.note_owner(&attributes);
        self.add(
            Change::Touch {
                place,
                attributes,
                touch,
            },
            xattrs,
        )
    }

    /// Adds a removal to the batch.
    pub(crate) fn remove(&mut self, place: Place) -> Result<(), AgentError> {
        self.add(Change::Remove { place }, 0)
    }

    fn note_owner(&mut self, attributes: &Attributes) {
        let owner = (attributes.uid, attributes.gid);
        if self.owner == Some(owner) {
            return;
        }
        self.owner = Some(owner);
        let owners = &self.shared.owners;
        let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.users.insert(owner.0);
        owners.groups.insert(owner.1);
    }

    fn add(&mut self, change: Change, bytes: usize) -> Result<(), AgentError> {
        self.shared.records.fetch_add(1, Ordering::Relaxed);
        self.batch.push(change);
        self.batch_bytes += RECORD_BYTES + bytes;
        if self.batch_bytes >= limits::BATCH_BYTES || self.batch.len() >= limits::BATCH_RECORDS {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what is in the batch.
    pub(crate) fn flush(&mut self) -> Result<(), AgentError> {
        if !self.batch.is_empty() {
            let records = std::mem::take(&mut self.batch);
            self.batch_bytes = 0;
            self.send(&Message::Changes(Changes { records }))?;
            crash_point!("agent.sent");
        }
        Ok(())
    }

    /// A number for a stream.
    pub(crate) fn new_stream(&self) -> u64 {
        self.shared.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Says that a stream is a new version of what the base has at a place.
    pub(crate) fn begin_delta(&mut self, stream: u64, place: Place) -> Result<(), AgentError> {
        self.send(&Message::StreamBase(StreamBase { stream, place }))
    }

    /// Says that a stream begins with what the spare has left over.
    pub(crate) fn resume(
        &mut self,
        stream: u64,
        length: u64,
        hash: ContentHash,
    ) -> Result<(), AgentError> {
        self.send(&Message::StreamResume(StreamResume {
            stream,
            length,
            hash,
        }))
    }

    /// Says that a stretch of a stream is one of its base.
    pub(crate) fn copy(
        &mut self,
        stream: u64,
        offset: u64,
        from: u64,
        length: u64,
    ) -> Result<(), AgentError> {
        self.send(&Message::StreamCopy(StreamCopy {
            stream,
            offset,
            from,
            length,
        }))
    }

    /// Says what several stretches of a stream that has a base are, one after another.
    pub(crate) fn pieces(
        &mut self,
        stream: u64,
        offset: u64,
        pieces: Vec<StreamPiece>,
    ) -> Result<(), AgentError> {
        self.send(&Message::StreamPieces(StreamPieces {
            stream,
            offset,
            pieces,
        }))
    }

    /// Sends a block; the buffer comes back for the next one.
    pub(crate) fn block(
        &mut self,
        stream: u64,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, AgentError> {
        let message = Message::StreamBlock(StreamBlock {
            stream,
            offset,
            data: Bytes(data),
        });
        self.send(&message)?;
        match message {
            Message::StreamBlock(block) => Ok(block.data.0),
            _ => Ok(Vec::new()),
        }
    }

    /// Ends a stream.
    pub(crate) fn end(
        &mut self,
        stream: u64,
        size: u64,
        hash: ContentHash,
    ) -> Result<(), AgentError> {
        self.send(&Message::StreamEnd(StreamEnd { stream, size, hash }))
    }

    /// Gives a stream up.
    pub(crate) fn abort(&mut self, stream: u64) -> Result<(), AgentError> {
        self.send(&Message::StreamAbort(StreamAbort { stream }))
    }

    fn send(&mut self, message: &Message) -> Result<(), AgentError> {
        let Shared {
            pace,
            effort,
            cancel,
            ..
        } = &*self.shared;
        let frame = self.encoder.encode(message)?;
        let ready = Instant::now();
        pace.spend(frame.wire_bytes(), cancel)?;
        self.outgoing.send(frame)?;
        let sent = Instant::now();
        effort.add(ready - self.sent, sent - ready);
        self.sent = sent;
        Ok(())
    }
}

fn piece_bytes(piece: &Piece) -> usize {
    match piece {
        Piece::Copy { .. } => size_of::<Piece>(),
        Piece::Data(data) => data.len(),
    }
}

fn xattrs_bytes(attributes: &Attributes) -> usize {
    let xattrs = attributes.xattrs.iter();
    xattrs
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use understudy_protocol::transport::in_process;

    use super::*;
    use crate::pace::tests::until;
    use crate::pace::{Bandwidth, Settings};

    #[test]
    fn frames_are_paid_for_before_they_are_sent() {
        let (ours, mut theirs) = in_process();
        let pace = Arc::new(Pace::new(Settings {
            bandwidth: Bandwidth {
                usual: NonZeroU64::new(1),
                hours: Vec::new(),
            },
            ..Settings::default()
        }));
        let cancel = Cancel::default();
        let shared = Arc::new(Shared::new(
            Arc::clone(&pace),
            Arc::default(),
            cancel.clone(),
        ));
        let mut outbox = Outbox::new(ours.outgoing.clone(), shared);
        outbox.abort(1).expect("the first frame goes at once");
        let sent = ours.outgoing.bytes();
        let worker = std::thread::spawn(move || outbox.abort(2));
        until(|| !pace.throttled().is_zero());
        cancel.cancel();
        let result = worker.join().expect("thread");
        assert!(matches!(result, Err(AgentError::Interrupted)));
        assert_eq!(ours.outgoing.bytes(), sent, "nothing more was sent");
        drop(ours);
        theirs.incoming.receive().expect("the first frame");
        assert!(theirs.incoming.receive().is_err());
    }
}
