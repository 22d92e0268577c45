//! How frames travel: between two parts of one process, over TCP, or through pipes.
//!
//! The only module that knows tokio. Both sides get the same [`Channel`], whose calls block: sessions run on
//! threads of their own, and dropping a channel is what ends the tasks behind it.

pub mod pairing;
mod patience;
pub mod stdio;
pub mod stream;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::encode::{Compression, Encoder};
use crate::error::ProtocolError;
use crate::frame::Frame;
use crate::lane::{ReceivingLanes, SendingLanes};
use crate::message::Message;
use crate::version::{self, Hello};
use patience::recv_within;

/// Frames that wait on either side of the channel of a direction, in it and taken out of it: enough to overlap work, few enough to bound
/// memory (about 17 MiB in all).
const FRAMES: usize = 8;
/// So many of them may be frames that were only offered: a side that answers a request reads nothing until it has.
const OFFERED: usize = FRAMES / 2;

/// Both directions of a connection.
#[derive(Debug)]
pub struct Channel {
    /// To the other side; clones share it.
    pub outgoing: Outgoing,
    /// From the other side.
    pub incoming: Incoming,
}

/// The sending half.
#[derive(Debug, Clone)]
pub struct Outgoing {
    frames: mpsc::Sender<Result<Frame, ProtocolError>>,
    compression: Compression,
    /// Those of a connection that compresses, from its greeting on.
    lanes: Option<SendingLanes>,
    bytes: Arc<AtomicU64>,
}

/// The receiving half.
#[derive(Debug)]
pub struct Incoming {
    frames: mpsc::Receiver<Result<Frame, ProtocolError>>,
    /// Taken from `frames` together, the next one last: waking each other for every frame costs more than a short frame.
    at_hand: Vec<Result<Frame, ProtocolError>>,
    lanes: Option<ReceivingLanes>,
    bytes: u64,
    waited: Duration,
}

impl Outgoing {
    /// An encoder that fits this connection; all its frames must be sent, in the order in which they were made.
    pub fn encoder(&self) -> Encoder {
        match &self.lanes {
            Some(lanes) => Encoder::in_lane(lanes),
            None => Encoder::new(self.compression),
        }
    }

    /// The lanes of this direction, if it has any. They do not keep it open.
    pub fn lanes(&self) -> Option<&SendingLanes> {
        self.lanes.as_ref()
    }

    /// Hands a frame over; blocks while the other side is behind.
    pub fn send(&self, frame: Frame) -> Result<(), ProtocolError> {
        self.bytes.fetch_add(frame.wire_bytes(), Ordering::Relaxed);
        self.frames
            .blocking_send(Ok(frame))
            .map_err(|_| ProtocolError::Cut)
    }

    /// Encodes and sends; for messages off the hot path.
    pub fn send_message(&self, message: &Message) -> Result<(), ProtocolError> {
        self.send(Encoder::new(self.compression).encode(message)?)
    }

    /// Sends a message unless the other side is behind or gone; whether it was sent. Never blocks, and leaves room for frames that
    /// must be sent: several offers do not make the next of these block.
    pub fn offer(&self, message: &Message) -> Result<bool, ProtocolError> {
        if self.frames.capacity() <= FRAMES - OFFERED {
            return Ok(false);
        }
        let frame = Encoder::new(self.compression).encode(message)?;
        let bytes = frame.wire_bytes();
        let is_sent = self.frames.try_send(Ok(frame)).is_ok();
        if is_sent {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(is_sent)
    }

    /// Bytes handed over so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Incoming {
    /// The next frame; blocks. [`ProtocolError::Cut`] once the other side is gone.
    pub fn receive(&mut self) -> Result<Frame, ProtocolError> {
        if self.at_hand.is_empty() {
            let began = Instant::now();
            self.frames.blocking_recv_many(&mut self.at_hand, FRAMES);
            self.waited += began.elapsed();
            self.at_hand.reverse();
        }
        let frame = self.at_hand.pop().ok_or(ProtocolError::Cut)??;
        self.bytes += frame.wire_bytes();
        match &mut self.lanes {
            Some(lanes) => lanes.open(frame),
            None => Ok(frame),
        }
    }

    /// As [`Self::receive_message`], but waits for at most `limit`; `None` if nothing came.
    pub fn receive_message_within(
        &mut self,
        limit: Duration,
    ) -> Result<Option<Message>, ProtocolError> {
        match self.comes_within(limit)? {
            true => self.receive_message().map(Some),
            false => Ok(None),
        }
    }

    /// As [`Self::receive`], but waits for at most `limit`; `None` if nothing came.
    pub fn receive_within(&mut self, limit: Duration) -> Result<Option<Frame>, ProtocolError> {
        match self.comes_within(limit)? {
            true => self.receive().map(Some),
            false => Ok(None),
        }
    }

    /// Whether a frame comes at most `limit` from now.
    fn comes_within(&mut self, limit: Duration) -> Result<bool, ProtocolError> {
        if self.at_hand.is_empty() {
            let began = Instant::now();
            let next = recv_within(&mut self.frames, limit);
            self.waited += began.elapsed();
            match next {
                None => return Ok(false),
                Some(None) => return Err(ProtocolError::Cut),
                Some(Some(frame)) => self.at_hand.push(frame),
            }
            while self.at_hand.len() < FRAMES
                && let Ok(frame) = self.frames.try_recv()
            {
                self.at_hand.push(frame);
            }
            self.at_hand.reverse();
        }
        Ok(true)
    }

    /// Whether the next frame has come already: [`Incoming::receive`] does not block then.
    pub fn is_at_hand(&self) -> bool {
        !self.at_hand.is_empty()
    }

    /// The next message, decoded here; a failure told by the other side is an error.
    pub fn receive_message(&mut self) -> Result<Message, ProtocolError> {
        match self.receive()?.decode()? {
            Message::Failure(failure) => Err(failure.into()),
            message => Ok(message),
        }
    }

    /// How long calls have waited for frames so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Channel {
    /// Exchanges greetings; returns the version to speak.
    pub fn greet(&mut self) -> Result<u32, ProtocolError> {
        let ours = Hello::ours();
        self.outgoing.send_message(&Message::Hello(ours.clone()))?;
        let version = match self.incoming.receive_message()? {
            Message::Hello(theirs) => ours.agree(&theirs)?,
            other => {
                return Err(ProtocolError::Unexpected {
                    got: other.name(),
                    wanted: "Hello",
                });
            }
        };
        self.speak(version);
        Ok(version)
    }

    /// Begins what this version of the protocol has.
    fn speak(&mut self, version: u32) {
        if version < version::LANES {
            return;
        }
        self.incoming.lanes = Some(ReceivingLanes::default());
        if self.outgoing.compression != Compression::Off {
            self.outgoing.lanes = Some(SendingLanes::default());
        }
    }
}

/// Two connected channels within this process: the embedded spare.
pub fn in_process() -> (Channel, Channel) {
    let (to_right, from_left) = link(Compression::Off);
    let (to_left, from_right) = link(Compression::Off);
    (
        Channel {
            outgoing: to_right,
            incoming: from_right,
        },
        Channel {
            outgoing: to_left,
            incoming: from_left,
        },
    )
}

/// One direction within this process.
fn link(compression: Compression) -> (Outgoing, Incoming) {
    let (sender, receiver) = mpsc::channel(FRAMES);
    let outgoing = Outgoing {
        frames: sender,
        compression,
        lanes: None,
        bytes: Arc::default(),
    };
    (
        outgoing,
        Incoming {
            frames: receiver,
            at_hand: Vec::new(),
            lanes: None,
            bytes: 0,
            waited: Duration::ZERO,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::VerifyEnd;

    #[test]
    fn what_is_offered_to_one_that_reads_nothing_leaves_room_for_what_must_be_sent() {
        let (ours, mut theirs) = in_process();
        let message = Message::VerifyEnd(VerifyEnd { datasets: 1 });
        let offered = (0..100).filter(|_| ours.outgoing.offer(&message).expect("offer"));
        assert_eq!(offered.count(), OFFERED);
        // Would block for ever.
        for _ in OFFERED..FRAMES {
            ours.outgoing.send_message(&message).expect("send");
        }
        for _ in 0..FRAMES {
            theirs.incoming.receive_message().expect("receive");
        }
        assert!(ours.outgoing.offer(&message).expect("offer"));
        drop(theirs);
        assert!(!ours.outgoing.offer(&message).expect("offer"));
    }

    #[test]
    fn in_process_channels_greet_and_end() {
        let (mut left, mut right) = in_process();
        let other = std::thread::spawn(move || {
            let version = right.greet().expect("greeting");
            let message = right.incoming.receive_message().expect("message");
            (version, message)
        });
        assert_eq!(left.greet().expect("greeting"), crate::version::NEWEST);
        let message = Message::VerifyEnd(VerifyEnd { datasets: 1 });
        left.outgoing.send_message(&message).expect("send");
        assert_eq!(
            other.join().expect("thread"),
            (crate::version::NEWEST, message)
        );
        assert!(matches!(left.incoming.receive(), Err(ProtocolError::Cut)));
    }
}
