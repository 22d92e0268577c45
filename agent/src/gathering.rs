//! How much is gathered of what a spare tells in many messages: it may not mean well, and need not end.

use understudy_protocol::ProtocolError;

use crate::error::AgentError;

/// Far more than an honest spare tells of torn files, findings and pins together.
const MOST_BYTES: u64 = 64 << 20;
/// What each message counts, so that empty ones end, and each thing in it beside its text.
const MESSAGE_BYTES: u64 = 4096;
const EACH_BYTES: u64 = 128;

/// What was gathered for one question.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    bytes: u64,
}

impl Gathered {
    /// Counts a message called `name` with things of which the texts have these lengths; fails if it is one too many.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        texts: impl Iterator<Item = usize>,
    ) -> Result<(), AgentError> {
        let more = texts.map(|text| text as u64 + EACH_BYTES);
        self.bytes = self.bytes.saturating_add(MESSAGE_BYTES + more.sum::<u64>());
        if self.bytes > MOST_BYTES {
            return Err(ProtocolError::malformed(name, "they do not end").into());
        }
        Ok(())
    }
}
