//! How frames travel: between two parts of one process, or over TCP.
//!
//! The only module that knows tokio. Both sides get the same [`Channel`], whose calls block: sessions run on
//! threads of their own, and dropping a channel is what ends the tasks behind it.

pub mod tcp;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::error::ProtocolError;
use crate::frame::{Compression, Encoder, Frame};
use crate::message::Message;
use crate::version::Hello;

/// Frames in flight per direction: enough to overlap work, few enough to bound memory (about 16 MiB).
const FRAMES: usize = 16;

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
    bytes: Arc<AtomicU64>,
}

/// The receiving half.
#[derive(Debug)]
pub struct Incoming {
    frames: mpsc::Receiver<Result<Frame, ProtocolError>>,
    bytes: u64,
}

impl Outgoing {
    /// An encoder that fits this connection.
    pub fn encoder(&self) -> Encoder {
        Encoder::new(self.compression)
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
        self.send(self.encoder().encode(message)?)
    }

    /// Bytes handed over so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Incoming {
    /// The next frame; blocks. [`ProtocolError::Cut`] once the other side is gone.
    pub fn receive(&mut self) -> Result<Frame, ProtocolError> {
        let frame = self.frames.blocking_recv().ok_or(ProtocolError::Cut)??;
        self.bytes += frame.wire_bytes();
        Ok(frame)
    }

    /// The next message, decoded here; a failure told by the other side is an error.
    pub fn receive_message(&mut self) -> Result<Message, ProtocolError> {
        match self.receive()?.decode()? {
            Message::Failure(failure) => Err(failure.into()),
            message => Ok(message),
        }
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
        match self.incoming.receive_message()? {
            Message::Hello(theirs) => ours.agree(&theirs),
            other => Err(ProtocolError::Unexpected {
                got: other.name(),
                wanted: "Hello",
            }),
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
        bytes: Arc::default(),
    };
    (
        outgoing,
        Incoming {
            frames: receiver,
            bytes: 0,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::VerifyEnd;

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
