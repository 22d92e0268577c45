//! Contents that need not be sent, because the spare has them elsewhere: in the base, left over of an interrupted upload, or
//! in its history.

use understudy_protocol::message::Content;
use understudy_protocol::{limits, version};

use super::read::Contents;
use super::worker::Worker;
use crate::error::AgentError;

impl Worker<'_> {
    /// Whether the spare may have a large content of this size that is not in the base: then it is worth hashing a file
    /// before it is sent.
    pub(super) fn may_be_on_the_spare(&self, size: u64) -> Result<bool, AgentError> {
        if self.scan.leftovers.have_large(size) {
            return Ok(true);
        }
        let is_large = size > limits::INLINE_BYTES as u64;
        Ok(is_large && self.refers_to_history() && self.base.is_large_in_history(size)?)
    }

    /// Where the spare has a content, if it has it.
    pub(super) fn elsewhere(&mut self, contents: &Contents) -> Result<Option<Content>, AgentError> {
        let (size, hash) = (contents.size, contents.hash);
        if !self.scan.base_is_empty
            && size > 0
            && let Some(from) = self.base.with_content(size, hash)?
        {
            return Ok(Some(Content::Copy(from)));
        }
        if self.scan.leftovers.take(&hash) {
            self.findings.tally.bytes_resumed += size;
            return Ok(Some(Content::Leftover));
        }
        // Before any delta: it costs no bytes at all.
        if self.refers_to_history() && self.base.is_in_history(size, hash)? {
            let tally = &mut self.findings.tally;
            tally.recalled += 1;
            tally.bytes_recalled += size;
            return Ok(Some(Content::History));
        }
        Ok(None)
    }

    fn refers_to_history(&self) -> bool {
        self.scan.spoken >= version::HISTORY && !self.scan.base_is_empty
    }
}
