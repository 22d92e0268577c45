//! Contents that history keeps as patches only: whether the patches lead to them.
//!
//! A patch is made of what stood in a twin, which nobody had read for a while: its checksum says that it is what was written, and
//! not that it leads anywhere. So what it makes is read once, and that is noted.

use std::cmp::min;

use understudy_protocol::ContentHash;
use understudy_tree::content::HoleyHasher;

use super::ground::Ground;
use super::history::{is_needed, of_history};
use super::reading::Reading;
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::library::Library;

/// The file below is open for so much at a time: one that somebody has open is never changed in place.
const STRETCH_BYTES: u64 = 32 << 20;
const BUFFER_BYTES: u64 = 256 << 10;
/// How often it is read again because a commit came in between.
const TRIES: u32 = 3;

/// What patches make of a later content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// The content that they should lead to.
    Right,
    Wrong,
    /// It is whole somewhere, or cannot be read like this.
    Elsewhere,
}

impl Reading<'_> {
    /// Reads what the patches make that lead to the content of a row.
    pub(super) fn prove(&mut self, row: &Row) -> Result<(), ReceiverError> {
        let Some(content) = row.entry.content() else {
            return Ok(());
        };
        for _ in 0..TRIES {
            let Some(ground) = Ground::open(self.dataset)? else {
                return Ok(());
            };
            let what = match self.make(content) {
                Ok(Made::Right) => {
                    let noted = Objects::open(&self.dataset.control)?.note_proved(content.1);
                    if let Err(error) = noted {
                        // Whoever may only read reads it again the next time.
                        tracing::debug!("{error}");
                    }
                    return Ok(());
                }
                Ok(Made::Elsewhere) => return Ok(()),
                Ok(Made::Wrong) => {
                    Objects::open(&self.dataset.control)?.forget_proofs()?;
                    "is not what the patches of history lead back to".to_owned()
                }
                Err(
                    error @ (ReceiverError::Tree(_)
                    | ReceiverError::Damaged(_)
                    | ReceiverError::NoSpace(_)),
                ) => format!("cannot be read: {error}"),
                Err(error) => return Err(error),
            };
            // What is pruned meanwhile is nobody's loss.
            if !is_needed(&ground.catalog, row, ground.at())? {
                return Ok(());
            }
            if ground.stands(self.dataset)? {
                self.found.extend(of_history(row, ground.at(), &what));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether what patches make has the size and the hash.
    pub(super) fn make(&mut self, (size, hash): (u64, ContentHash)) -> Result<Made, ReceiverError> {
        let library = Library::open(self.dataset)?;
        let Some((below, mut stored)) = library.finder().led_back(hash)? else {
            return Ok(Made::Elsewhere);
        };
        let mut hasher = HoleyHasher::default();
        let mut buffer = vec![0; BUFFER_BYTES as usize];
        let mut since = 0;
        for (start, length) in stored.data_extents(size)? {
            let end = start + length;
            let mut position = start;
            while position < end {
                if since >= STRETCH_BYTES {
                    stored.leave_base();
                    self.charge(since)?;
                    since = 0;
                    let again = Library::open(self.dataset)?;
                    match again.finder().beneath(below)? {
                        Some(base) => stored.return_to(base),
                        // A cycle has changed it: another patch leads back from there.
                        None => return Ok(Made::Elsewhere),
                    }
                }
                let part = &mut buffer[..min(BUFFER_BYTES, end - position) as usize];
                if stored.read_at(position, part)? < part.len() {
                    return Ok(Made::Wrong);
                }
                hasher.update(position, part);
                position += part.len() as u64;
                since += part.len() as u64;
            }
        }
        stored.leave_base();
        self.charge(since)?;
        Ok(match hasher.finish(size) == hash {
            true => Made::Right,
            false => Made::Wrong,
        })
    }

    fn charge(&mut self, bytes: u64) -> Result<(), ReceiverError> {
        self.tally.object_bytes += bytes;
        (self.pace)(bytes)
    }
}
