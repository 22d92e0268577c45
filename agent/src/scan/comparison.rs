//! Comparing a file with its former version while it is read for the first time: it is another for sure, because it has
//! another size or never stands still, so that reading it twice would tell nothing more.

use understudy_protocol::delta::{GroupSummer, Signature};

use super::delta::{Delta, Finder, Former};
use crate::error::AgentError;
use crate::outbox::Outbox;

/// A delta that grows with what is read.
pub(super) struct Comparison<'a> {
    delta: Delta,
    finder: Finder,
    former: &'a Signature,
}

impl<'a> Comparison<'a> {
    /// Begins a stream.
    pub(super) fn begin(
        outbox: &mut Outbox,
        former: &'a Former,
        spoken: u32,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            delta: Delta::begin(outbox, &former.place, spoken)?,
            finder: Finder::new(&former.signature),
            former: &former.signature,
        })
    }

    /// The delta as far as it is told.
    pub(super) fn delta(&self) -> &Delta {
        &self.delta
    }

    /// Takes the data at `offset`, which `groups` took before; what was left out since the data before is a hole.
    ///
    /// Groups that the base has there too are copies. What is between them is searched for what moved.
    pub(super) fn feed(
        &mut self,
        outbox: &mut Outbox,
        groups: &GroupSummer,
        offset: u64,
        data: &[u8],
    ) -> Result<(), AgentError> {
        let Self {
            delta,
            finder,
            former,
        } = self;
        if offset > delta.offset() + finder.held_bytes() {
            finder.end(outbox, delta)?;
            delta.hole_to(outbox, offset)?;
        }
        let group_size = former.group_size();
        let mut unlike = 0..0;
        while unlike.end < data.len() {
            let at = offset + unlike.end as u64;
            let room = group_size - at % group_size;
            let left = data.len() - unlike.end;
            let length = usize::try_from(room).map_or(left, |room| room.min(left));
            let group = unlike.end..unlike.end + length;
            if former.has_summed(groups, at, &data[group.clone()]) {
                finder.feed(outbox, delta, &data[unlike])?;
                finder.end(outbox, delta)?;
                delta.copy(outbox, at, length as u64)?;
                unlike = group.end..group.end;
            } else {
                unlike.end = group.end;
            }
        }
        finder.feed(outbox, delta, &data[unlike])
    }

    /// The file ends at `size`: tells the rest.
    pub(super) fn finish(&mut self, outbox: &mut Outbox, size: u64) -> Result<(), AgentError> {
        self.finder.end(outbox, &mut self.delta)?;
        self.delta.hole_to(outbox, size)?;
        self.delta.flush(outbox)
    }
}
