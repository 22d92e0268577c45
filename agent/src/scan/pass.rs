//! One pass over the data of a file: hashing it, and sending it on the way.
//!
//! Of a large file that is not sent whole, blocks are made on a second thread while the next bytes are read.

use std::fs::File;
use std::panic::resume_unwind;
use std::sync::mpsc::{TrySendError, sync_channel};
use std::thread;

use understudy_protocol::delta::{Summed, Summer};
use understudy_protocol::{Name, limits};
use understudy_tree::{Directory, content};

use super::comparison::Comparison;
use super::delta::Former;
use super::is_about_entry;
use super::read::Contents;
use super::worker::Worker;
use crate::error::AgentError;

/// Files from this size on are worth a thread.
const FROM_BYTES: u64 = 32 << 20;
/// Buffers between the two.
const BUFFERS: usize = 4;

/// Some data, and the length of the hole before it.
type Piece = (u64, Vec<u8>);

/// Where what is read goes at once.
pub(super) enum Sink<'a> {
    Nowhere,
    Stream(u64),
    Delta(Box<Comparison<'a>>),
}

impl Worker<'_> {
    /// Hashes a file from where `summer` is and sends its data where `sink` says; `None` if it ended early.
    pub(super) fn read_extents(
        &mut self,
        file: &File,
        size: u64,
        mut summer: Summer,
        sink: &mut Sink<'_>,
    ) -> Result<Option<Summed>, AgentError> {
        if !matches!(sink, Sink::Stream(_)) && size >= FROM_BYTES {
            return self.sum_in_two(file, size, sink);
        }
        for (start, length) in content::Extents::default().within(file, summer.length()..size)? {
            let (mut offset, end) = (start, start + length);
            while offset < end {
                self.scan.context.cancel.check()?;
                self.scan.context.pace.breathe(&self.scan.context.cancel)?;
                let wanted = (end - offset).min(limits::BLOCK_BYTES as u64) as usize;
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(wanted, 0);
                let read = content::read_at(file, offset, &mut buffer)?;
                if read < wanted {
                    self.buffer = buffer;
                    return Ok(None);
                }
                summer.zeros(offset - summer.length());
                summer.update(&buffer);
                self.buffer = match sink {
                    Sink::Stream(stream) => self.outbox.block(*stream, offset, buffer)?,
                    Sink::Delta(comparison) => {
                        comparison.feed(&mut self.outbox, summer.groups(), offset, &buffer)?;
                        buffer
                    }
                    Sink::Nowhere => buffer,
                };
                offset += read as u64;
            }
        }
        if let Sink::Delta(comparison) = sink {
            comparison.finish(&mut self.outbox, size)?;
        }
        summer.zeros(size - summer.length());
        Ok(Some(summer.finish()))
    }

    /// Sends a content that was hashed before as a stream, by its difference to `former` if there is one; `None` if the
    /// file is no longer the same.
    pub(super) fn send_known(
        &mut self,
        directory: &Directory,
        name: &Name,
        contents: &Contents,
        former: Option<&Former>,
    ) -> Result<Option<u64>, AgentError> {
        let file = match &contents.imaged {
            Some(imaged) => imaged.open_for(name),
            None => directory.open_file(name),
        };
        let file = match file {
            Ok(file) => file,
            Err(error) if is_about_entry(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let (Some(signature), Some(former)) = (&contents.signature, former) {
            return self.send_delta(&file, contents, signature, former);
        }
        let (size, hash) = (contents.size, contents.hash);
        let (stream, summer) = match self.begin_stream(&file, size) {
            Err(AgentError::Tree(error)) if is_about_entry(&error) => return Ok(None),
            begun => begun?,
        };
        match self.read_extents(&file, size, summer, &mut Sink::Stream(stream)) {
            Ok(Some(found)) if found.hash == hash => {
                self.outbox.end(stream, size, hash)?;
                Ok(Some(stream))
            }
            Ok(_) => {
                self.outbox.abort(stream)?;
                Ok(None)
            }
            Err(AgentError::Tree(error)) if is_about_entry(&error) => {
                self.outbox.abort(stream)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Self::read_extents`], from the beginning.
    fn sum_in_two(
        &mut self,
        file: &File,
        size: u64,
        sink: &mut Sink<'_>,
    ) -> Result<Option<Summed>, AgentError> {
        thread::scope(|scope| {
            let (mut groups, mut blocks) = Summer::new(size).split();
            // Dropped with this block, whichever way it ends: that ends the thread.
            let (pieces, arriving) = sync_channel::<Piece>(BUFFERS);
            let (back, empty) = sync_channel::<Vec<u8>>(BUFFERS);
            let entering = scope.spawn(move || {
                for (hole, data) in arriving {
                    blocks.zeros(hole);
                    blocks.update(&data);
                    // Its memory is used again, unless there is enough.
                    if let Err(TrySendError::Disconnected(_)) = back.try_send(data) {
                        break;
                    }
                }
                blocks
            });
            for (start, length) in content::data_extents(file, size)? {
                let (mut offset, end) = (start, start + length);
                while offset < end {
                    self.scan.context.cancel.check()?;
                    self.scan.context.pace.breathe(&self.scan.context.cancel)?;
                    let wanted = (end - offset).min(limits::BLOCK_BYTES as u64) as usize;
                    let mut data = empty.try_recv().unwrap_or_default();
                    data.resize(wanted, 0);
                    if content::read_at(file, offset, &mut data)? < wanted {
                        return Ok(None);
                    }
                    let hole = offset - groups.length();
                    groups.zeros(hole);
                    groups.update(&data);
                    if let Sink::Delta(comparison) = sink {
                        comparison.feed(&mut self.outbox, &groups, offset, &data)?;
                    }
                    if pieces.send((hole, data)).is_err() {
                        break;
                    }
                    offset += wanted as u64;
                }
            }
            if let Sink::Delta(comparison) = sink {
                comparison.finish(&mut self.outbox, size)?;
            }
            let hole = size - groups.length();
            groups.zeros(hole);
            // Where the other thread is gone, what it has does not fit, and that is noticed.
            let _ = pieces.send((hole, Vec::new()));
            drop(pieces);
            let blocks = entering.join().unwrap_or_else(|panic| resume_unwind(panic));
            Ok(Some(Summed::of(groups, blocks)))
        })
    }
}
