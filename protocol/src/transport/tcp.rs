//! Frames over TCP. Until peers are authenticated, on the loopback interface only.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::{Channel, FRAMES, Incoming, Outgoing};
use crate::encode::Compression;
use crate::error::ProtocolError;
use crate::frame::{Deframer, Frame};

/// A peer that cannot be reached within this time is away.
const CONNECT: Duration = Duration::from_secs(10);
/// A peer that has not greeted within this time is no peer.
const GREET: Duration = Duration::from_secs(10);
/// A spare that takes not one byte for this long is away: one that hangs must not keep all datasets from their
/// cycles. It reads on while it catches up and commits only when it was sent everything, but it also reads the whole base of a
/// delta to hash it: this is enough for 250 GB at 150 MB/s.
const SPARE_STALL: Duration = Duration::from_secs(30 * 60);
/// As long as an agent waits for a word of its spare: one that hangs keeps nobody from anything but its own datasets,
/// and a restore to a slow disk, or one that somebody suspends, must not be lost early.
const AGENT_STALL: Duration = Duration::from_secs(60 * 60);
/// What is read at once if no long frame is on its way.
const READ_BYTES: usize = 64 * 1024;
/// So many bytes are worth a write of their own.
const TOGETHER_BYTES: u64 = 64 * 1024;
const LEVEL: i32 = 1;

/// Connects to `HOST:PORT`; blocks until connected.
pub fn connect(runtime: &Handle, address: &str) -> Result<Channel, ProtocolError> {
    runtime.block_on(async {
        let address = resolve(address).await?;
        let unreachable = |why: String| {
            ProtocolError::Address(format!("cannot reach the spare at {address}: {why}"))
        };
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(over(stream, SPARE_STALL)),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                CONNECT.as_secs()
            ))),
        }
    })
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Binds to `HOST:PORT`; port 0 lets the system choose.
    pub async fn bind(address: &str) -> Result<Self, ProtocolError> {
        let address = resolve(address).await?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            ProtocolError::Address(format!("cannot listen on {address}: {error}"))
        })?;
        Ok(Self { listener })
    }

    /// The address it listens on.
    pub fn address(&self) -> Result<SocketAddr, ProtocolError> {
        Ok(self.listener.local_addr()?)
    }

    /// Waits for the next connection.
    pub async fn accept(&self) -> Result<(Channel, SocketAddr), ProtocolError> {
        let (stream, peer) = self.listener.accept().await?;
        Ok((over(stream, AGENT_STALL), peer))
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, ProtocolError> {
    let shown = address.escape_debug();
    let found = lookup_host(address)
        .await
        .map_err(|error| {
            ProtocolError::Address(format!(
                "`{shown}` is not HOST:PORT or cannot be resolved: {error}"
            ))
        })?
        .next();
    match found {
        Some(address) if address.ip().is_loopback() => Ok(address),
        Some(_) => Err(ProtocolError::Address(format!(
            "`{shown}` is not a loopback address: connections are not encrypted and authenticated yet, so only \
             127.0.0.1 and [::1] are allowed; to reach another host, forward a port, for instance with \
             `ssh -L 7433:127.0.0.1:7433 HOST`"
        ))),
        None => Err(ProtocolError::Address(format!("`{shown}` has no address"))),
    }
}

fn over(stream: TcpStream, stall: Duration) -> Channel {
    // Frames are written whole; waiting to fill packets only adds delay. A failure costs speed alone.
    let _ = stream.set_nodelay(true);
    let (reading, writing) = stream.into_split();
    channel(reading, writing, stall)
}

/// Starts the two tasks of a connection; they end when the channel is dropped, or the peer is gone or takes nothing
/// for as long as `stall` says.
fn channel(
    reading: impl AsyncRead + Unpin + Send + 'static,
    writing: impl AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
) -> Channel {
    let (outgoing, to_send) = mpsc::channel(FRAMES);
    let (received, incoming) = mpsc::channel(FRAMES);
    let stalled = Arc::new(Notify::new());
    let ends = Arc::clone(&stalled);
    tokio::spawn(async move {
        let written = write(to_send, writing, stall).await;
        if written.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            tracing::warn!("the other side took nothing for {} s", stall.as_secs());
            stalled.notify_one();
        }
    });
    tokio::spawn(async move {
        tokio::select! {
            () = read(reading, &received) => {}
            // It has no last words either.
            () = ends.notified() => {}
        }
    });
    Channel {
        outgoing: Outgoing {
            frames: outgoing,
            compression: Compression::Zstd(LEVEL),
            lanes: None,
            bytes: Default::default(),
        },
        incoming: Incoming {
            frames: incoming,
            at_hand: Vec::new(),
            lanes: None,
            bytes: 0,
            waited: Duration::ZERO,
        },
    }
}

/// Writes frames until there are no more. Those that wait are written together.
async fn write(
    mut to_send: mpsc::Receiver<Result<Frame, ProtocolError>>,
    mut writing: impl AsyncWrite + Unpin,
    stall: Duration,
) -> io::Result<()> {
    let mut frames = Vec::with_capacity(FRAMES);
    while let Some(Ok(frame)) = to_send.recv().await {
        let mut bytes = frame.wire_bytes();
        frames.push(frame);
        while bytes < TOGETHER_BYTES
            && let Ok(Ok(frame)) = to_send.try_recv()
        {
            bytes += frame.wire_bytes();
            frames.push(frame);
        }
        write_all(&mut writing, &frames, stall).await?;
        frames.clear();
    }
    // The peer reads an end of file after the last frame; it may be gone already.
    writing.shutdown().await
}

/// Fails if `stall` goes by without a single byte taken: how long all of them take is the network's business.
async fn write_all(
    writing: &mut (impl AsyncWrite + Unpin),
    frames: &[Frame],
    stall: Duration,
) -> io::Result<()> {
    let lengths: Vec<_> = frames.iter().map(Frame::wire_length).collect();
    let mut slices: Vec<_> = std::iter::zip(&lengths, frames)
        .flat_map(|(length, frame)| [IoSlice::new(length), IoSlice::new(frame.payload())])
        .collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match timeout(stall, writing.write_vectored(slices)).await?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            taken => IoSlice::advance_slices(&mut slices, taken),
        }
    }
    Ok(())
}

/// Reads frames until the peer is gone or nobody wants them.
async fn read(
    mut reading: impl AsyncRead + Unpin,
    received: &mpsc::Sender<Result<Frame, ProtocolError>>,
) {
    let mut deframer = Deframer::default();
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut greeted = false;
    loop {
        buffer.clear();
        let read = tokio::select! {
            read = read_some(&mut reading, &mut deframer, &mut buffer) => read,
            () = received.closed() => return,
            () = tokio::time::sleep(GREET), if !greeted => return,
        };
        match read {
            Ok(0) if deframer.is_empty() => return,
            Ok(0) => return give(received, Err(ProtocolError::Cut)).await,
            Ok(_) => {}
            Err(error) => return give(received, Err(error.into())).await,
        }
        let mut bytes = &buffer[..];
        let mut whole = Ok(deframer.whole());
        loop {
            match whole {
                Ok(Some(frame)) => {
                    greeted = true;
                    if received.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                Ok(None) if bytes.is_empty() => break,
                Ok(None) => {}
                Err(error) => return give(received, Err(error)).await,
            }
            whole = deframer.next_frame(&mut bytes);
        }
    }
}

/// Reads the rest of a long frame to where it belongs, and else what there is.
async fn read_some(
    reading: &mut (impl AsyncRead + Unpin),
    deframer: &mut Deframer,
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    match deframer.rest() {
        Some((rest, missing)) if missing >= READ_BYTES => {
            reading.take(missing as u64).read_buf(rest).await
        }
        _ => reading.take(READ_BYTES as u64).read_buf(buffer).await,
    }
}

async fn give(
    received: &mpsc::Sender<Result<Frame, ProtocolError>>,
    result: Result<Frame, ProtocolError>,
) {
    // Nobody listening any more is no fault.
    let _ = received.send(result).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Encoder;
    use crate::lane::SendingLanes;
    use crate::message::{Message, StreamBlock};
    use crate::version::Hello;

    #[test]
    fn only_loopback_addresses_are_allowed() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        for address in ["10.0.0.1:7433", "0.0.0.0:7433", "[2001:db8::1]:7433"] {
            let error = connect(runtime.handle(), address)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("loopback"), "{error}");
            assert!(runtime.block_on(Listener::bind(address)).is_err());
        }
        assert!(connect(runtime.handle(), "nonsense").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_away_and_one_that_is_slow_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let (reading, writing) = tokio::io::split(near);
        let mut channel = channel(reading, writing, SPARE_STALL);
        let frame = || {
            let hello = Message::Hello(Hello::ours());
            channel.outgoing.encoder().encode(&hello).expect("short")
        };
        let bytes = [&frame().wire_length()[..], frame().payload()].concat();
        far.write_all(&bytes).await.expect("greeting");
        assert!(matches!(channel.incoming.frames.recv().await, Some(Ok(_))));

        let to_send = channel.outgoing.frames.clone();
        to_send.send(Ok(frame())).await.expect("sent");
        let mut taken = vec![0; bytes.len()];
        for part in taken.chunks_mut(5) {
            tokio::time::sleep(SPARE_STALL - Duration::from_secs(1)).await;
            far.read_exact(part).await.expect("read");
        }
        assert_eq!(taken, bytes);

        let began = tokio::time::Instant::now();
        let until_refused = async { while to_send.send(Ok(frame())).await.is_ok() {} };
        let refused = timeout(2 * SPARE_STALL, until_refused).await;
        refused.expect("it was given up");
        assert_eq!(began.elapsed(), SPARE_STALL);
        assert!(channel.incoming.frames.recv().await.is_none());
    }

    #[test]
    fn two_sides_greet_over_tcp() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let listener = runtime
            .block_on(Listener::bind("127.0.0.1:0"))
            .expect("bind");
        let address = listener.address().expect("address").to_string();
        let mut client = connect(runtime.handle(), &address).expect("connect");
        let (mut server, _) = runtime.block_on(listener.accept()).expect("accept");
        let other = std::thread::spawn(move || server.greet());
        assert_eq!(client.greet().expect("greeting"), crate::version::NEWEST);
        assert_eq!(
            other.join().expect("thread").expect("greeting"),
            crate::version::NEWEST
        );
    }
    /// Two ends of a connection, of which one speaks no version after `newest`.
    fn greeted(runtime: &tokio::runtime::Runtime, newest: u32) -> (Channel, Channel) {
        let listener = runtime
            .block_on(Listener::bind("127.0.0.1:0"))
            .expect("bind");
        let address = listener.address().expect("address").to_string();
        let mut client = connect(runtime.handle(), &address).expect("connect");
        let (mut server, _) = runtime.block_on(listener.accept()).expect("accept");
        let hello = Message::Hello(Hello {
            newest,
            ..Hello::ours()
        });
        client.outgoing.send_message(&hello).expect("greeting");
        let version = server.greet().expect("greeting");
        client.incoming.receive_message().expect("greeting");
        client.speak(version);
        (client, server)
    }

    fn text(stream: u64) -> Message {
        Message::StreamBlock(StreamBlock {
            stream,
            offset: 0,
            data: b"text".repeat(1000).into(),
        })
    }

    #[test]
    fn encoders_of_a_connection_share_its_lanes() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let (client, mut server) = greeted(&runtime, crate::version::NEWEST);
        let mut encoders = [client.outgoing.encoder(), client.outgoing.encoder()];
        for stream in 0..6 {
            let encoder = &mut encoders[stream as usize % 2];
            let frame = encoder.encode(&text(stream)).expect("encode");
            assert_eq!(frame.payload()[1], if stream < 2 { 3 } else { 2 });
            client.outgoing.send(frame).expect("send");
            let alone = Message::Hello(Hello::ours());
            client.outgoing.send_message(&alone).expect("send");
            let (first, second) = (server.incoming.receive(), server.incoming.receive());
            let decoded = first.expect("frame").decode().expect("decode");
            assert_eq!(decoded, text(stream));
            assert_eq!(second.expect("frame").decode().expect("decode"), alone);
        }
    }

    #[test]
    fn a_side_without_lanes_is_sent_none_and_may_send_none() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let (client, mut server) = greeted(&runtime, crate::version::LANES - 1);
        assert!(server.outgoing.lanes().is_none());
        let mut encoder = server.outgoing.encoder();
        for stream in 0..2 {
            let frame = encoder.encode(&text(stream)).expect("encode");
            assert_eq!(frame.payload()[1], 1);
        }
        let mut lane = Encoder::in_lane(&SendingLanes::default());
        let frame = lane.encode(&text(1)).expect("encode");
        client.outgoing.send(frame).expect("send");
        let refused = server.incoming.receive().expect("frame").decode();
        assert!(refused.expect_err("refused").to_string().contains("lane"));
    }
}
