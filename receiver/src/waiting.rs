//! Telling the agent how long this side waits for its frames: only so it can tell a slow link from a slow disk.

use std::time::{Duration, Instant};

use understudy_protocol::message::Waited;
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{Frame, Message, ProtocolError};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::promote::fence::Lookout;

/// How often it is told.
const EVERY: Duration = Duration::from_millis(500);

/// The frames of an upload.
pub(crate) struct Waiting<'a> {
    incoming: &'a mut Incoming,
    outgoing: &'a Outgoing,
    lookout: Lookout<'a>,
    told: Instant,
    /// What `incoming` had waited then.
    waited: Duration,
}

impl<'a> Waiting<'a> {
    /// Counts from here.
    pub(crate) fn new(
        dataset: &'a Dataset,
        incoming: &'a mut Incoming,
        outgoing: &'a Outgoing,
    ) -> Self {
        Self {
            lookout: Lookout::new(dataset),
            waited: incoming.waited(),
            incoming,
            outgoing,
            told: Instant::now(),
        }
    }

    /// The next frame; blocks. Fails once the dataset is being promoted.
    pub(crate) fn receive(&mut self) -> Result<Frame, ReceiverError> {
        let frame = self.lookout.receive(self.incoming)?;
        let passed = self.told.elapsed();
        // Without lanes there is no level that the agent could change.
        if passed >= EVERY && self.outgoing.lanes().is_some() {
            self.tell(passed)?;
        }
        Ok(frame)
    }

    /// Whether the next frame has come already.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.incoming.is_at_hand()
    }

    fn tell(&mut self, passed: Duration) -> Result<(), ProtocolError> {
        let waited = self.incoming.waited();
        let message = told(waited - self.waited, passed);
        // An agent that does not listen misses it; nothing is held up for that.
        self.outgoing.offer(&Message::Waited(message))?;
        self.told = Instant::now();
        self.waited = waited;
        Ok(())
    }
}

fn told(waited: Duration, passed: Duration) -> Waited {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Waited {
        milliseconds: milliseconds(waited.min(passed)),
        of_milliseconds: milliseconds(passed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_waiting_is_told_than_time_has_passed() {
        let time = Duration::from_micros;
        for (waited, passed, expected) in [
            (0, 500_000, (0, 500)),
            (499_999, 500_000, (499, 500)),
            (500_001, 500_000, (500, 500)),
        ] {
            let told = told(time(waited), time(passed));
            assert_eq!((told.milliseconds, told.of_milliseconds), expected);
        }
    }
}
