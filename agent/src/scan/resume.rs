//! Carrying on with large files of which the spare has the beginning left over.

use std::fs::File;

use understudy_protocol::delta::Summer;
use understudy_protocol::limits;
use understudy_tree::content;

use super::worker::Worker;
use crate::error::AgentError;
use crate::leftovers::Partial;

impl Worker<'_> {
    /// A stream for a content of `size` bytes, and what has summed up the part of it that the spare has.
    pub(super) fn begin_stream(
        &mut self,
        file: &File,
        size: u64,
    ) -> Result<(u64, Summer), AgentError> {
        let begun = self.beginning(file, size)?;
        let stream = self.outbox.new_stream();
        let Some(((length, hash), summer)) = begun else {
            return Ok((stream, Summer::new(size)));
        };
        self.outbox.resume(stream, length, hash)?;
        self.findings.tally.bytes_resumed += length;
        Ok((stream, summer))
    }

    /// The longest partial that a file begins with. It is taken.
    fn beginning(
        &mut self,
        file: &File,
        size: u64,
    ) -> Result<Option<(Partial, Summer)>, AgentError> {
        let leftovers = self.scan.leftovers;
        loop {
            let mut longest = None;
            let mut summer = Summer::new(size);
            for partial in leftovers.partials_within(size) {
                if !self.sum_to(file, &mut summer, partial.0)? {
                    return Ok(None);
                }
                if summer.hash_so_far() == partial.1 {
                    longest = Some(partial);
                }
            }
            let Some(partial) = longest else {
                return Ok(None);
            };
            if summer.length() > partial.0 {
                summer = Summer::new(size);
                if !self.sum_to(file, &mut summer, partial.0)? || summer.hash_so_far() != partial.1
                {
                    return Ok(None);
                }
            }
            // Another worker may have been faster, with a file that begins alike.
            if leftovers.take_partial(&partial) {
                return Ok(Some((partial, summer)));
            }
        }
    }

    /// Sums up a file to `end`; `false` if it is shorter.
    fn sum_to(&mut self, file: &File, summer: &mut Summer, end: u64) -> Result<bool, AgentError> {
        for (start, length) in content::Extents::default().within(file, summer.length()..end)? {
            let (mut offset, end) = (start, start + length);
            while offset < end {
                self.scan.context.cancel.check()?;
                self.scan.context.pace.breathe(&self.scan.context.cancel)?;
                let wanted = (end - offset).min(limits::BLOCK_BYTES as u64) as usize;
                self.buffer.resize(wanted, 0);
                if content::read_at(file, offset, &mut self.buffer)? < wanted {
                    return Ok(false);
                }
                summer.zeros(offset - summer.length());
                summer.update(&self.buffer);
                offset += wanted as u64;
            }
        }
        summer.zeros(end - summer.length());
        Ok(true)
    }
}
