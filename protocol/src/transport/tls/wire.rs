//! The bytes below TLS: read in large pieces, and few of them until it is known who sends them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a side may send before it is known who it is: ten times what an honest one needs.
pub(super) const STRANGER_BYTES: usize = 64 * 1024;
/// Read at once from a stranger.
const SIP_BYTES: usize = 4 * 1024;
/// Read at once from who is known: eight records, where rustls would ask for a quarter of one.
const GULP_BYTES: usize = 128 * 1024;

/// A stream with a buffer for reading.
#[derive(Debug)]
pub(in crate::transport) struct Wire<S> {
    stream: S,
    buffer: Box<[u8]>,
    /// The part of `buffer` that was read and is not asked for yet.
    begin: usize,
    end: usize,
    /// Bytes that may still come; `None` once it is known from whom.
    allowance: Option<usize>,
}

impl<S> Wire<S> {
    /// A stream on which a stranger may be.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: vec![0; SIP_BYTES].into(),
            begin: 0,
            end: 0,
            allowance: Some(STRANGER_BYTES),
        }
    }

    /// It is known now who is at the other end.
    pub(super) fn trust(&mut self) {
        self.allowance = None;
        let mut larger = vec![0; GULP_BYTES];
        let waiting = &self.buffer[self.begin..self.end];
        larger[..waiting.len()].copy_from_slice(waiting);
        (self.begin, self.end) = (0, waiting.len());
        self.buffer = larger.into();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.begin == this.end {
            let wanted = this.allowance.map_or(this.buffer.len(), |allowance| {
                allowance.min(this.buffer.len())
            });
            if wanted == 0 {
                let why = "more bytes than a handshake has";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            let mut buffer = ReadBuf::new(&mut this.buffer[..wanted]);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer))?;
            (this.begin, this.end) = (0, buffer.filled().len());
            if let Some(allowance) = &mut this.allowance {
                *allowance -= this.end;
            }
        }
        let taken = out.remaining().min(this.end - this.begin);
        out.put_slice(&this.buffer[this.begin..this.begin + taken]);
        this.begin += taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_stranger_may_send_so_much_and_who_is_known_may_send_more() {
        let bytes: Vec<u8> = (0..2 * STRANGER_BYTES).map(|byte| byte as u8).collect();
        let (mut far, near) = tokio::io::duplex(bytes.len());
        far.write_all(&bytes).await.expect("sent");
        drop(far);
        let mut wire = Wire::new(near);
        let mut taken = vec![0; STRANGER_BYTES];
        wire.read_exact(&mut taken[..10]).await.expect("some");
        wire.read_exact(&mut taken[10..]).await.expect("all");
        let refused = wire.read_u8().await.expect_err("too much");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        wire.trust();
        wire.read_to_end(&mut taken).await.expect("the rest");
        assert!(taken == bytes);
    }

    #[tokio::test]
    async fn what_was_read_before_it_was_known_from_whom_is_kept() {
        let (mut far, near) = tokio::io::duplex(16);
        far.write_all(b"abcdef").await.expect("sent");
        drop(far);
        let mut wire = Wire::new(near);
        assert_eq!(wire.read_u8().await.expect("one"), b'a');
        wire.trust();
        let mut rest = Vec::new();
        wire.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!(rest, b"bcdef");
    }
}
