//! Frames over any pair of byte streams: those of a connection, or the pipes of a program.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{Channel, FRAMES, Incoming, Outgoing};
use crate::encode::Compression;
use crate::error::ProtocolError;
use crate::frame::{Deframer, Frame};

/// A peer that has not greeted within this time, however slowly it talks, is no peer.
const GREET: Duration = Duration::from_secs(10);
/// A spare that takes not one byte for this long is away: one that hangs must not keep all datasets from their
/// cycles. It reads on while it catches up and commits only when it was sent everything, but it also reads the whole base of a
/// delta to hash it: this is enough for 250 GB at 150 MB/s.
pub const SPARE_STALL: Duration = Duration::from_secs(30 * 60);
/// As long as an agent waits for a word of its spare: one that hangs keeps nobody from anything but its own datasets,
/// and a restore to a slow disk, or one that somebody suspends, must not be lost early.
pub const AGENT_STALL: Duration = Duration::from_secs(60 * 60);
/// So long may a frame take to come whole: 310 bytes in a second for the longest.
const FRAME: Duration = Duration::from_secs(60 * 60);
/// What is read at once if no long frame is on its way.
const READ_BYTES: usize = 64 * 1024;
/// So many bytes are worth a write of their own.
const TOGETHER_BYTES: u64 = 64 * 1024;
const LEVEL: i32 = 1;

/// Ends when everything that was sent is written, or cannot be any more.
#[derive(Debug)]
pub struct Written(JoinHandle<()>);

impl Written {
    /// Waits until then, at most `limit`; blocks. The channel must have been dropped.
    pub fn wait(self, runtime: &Handle, limit: Duration) {
        // What is late is given up: the other side takes nothing.
        let _ = runtime.block_on(async { timeout(limit, self.0).await });
    }
}

/// Ends a connection at once, whatever is on its way.
#[derive(Debug, Clone)]
pub struct Cutter(Arc<watch::Sender<bool>>);

impl Cutter {
    /// Ends it: nothing more is sent, and nothing more is received.
    pub fn cut(&self) {
        self.0.send_replace(true);
    }
}

/// Waits until the connection was cut, for ever if nobody can any more.
async fn was_cut(mut cut: watch::Receiver<bool>) {
    if cut.wait_for(|&cut| cut).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Starts the two tasks of a connection; they end when the channel is dropped, or the peer is gone or takes nothing
/// for as long as `stall` says. Needs a runtime around it.
pub fn channel(
    reading: impl AsyncRead + Unpin + Send + 'static,
    writing: impl AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
) -> Channel {
    channel_to_program(reading, writing, stall, std::future::ready(None)).0
}

/// As [`channel`], where a program carries the bytes: `farewell` says what became of it once it gives no more. It is
/// dropped unless that is what ends the connection.
pub fn channel_to_program(
    reading: impl AsyncRead + Unpin + Send + 'static,
    writing: impl AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
    farewell: impl Future<Output = Option<ProtocolError>> + Send + 'static,
) -> (Channel, Written) {
    let (channel, written, _) = start(reading, writing, stall, ProtocolError::from, farewell);
    (channel, written)
}

/// As [`channel`], for a connection that can be cut off. `explain` says what a failed read means.
pub(super) fn channel_to_host(
    reading: impl AsyncRead + Unpin + Send + 'static,
    writing: impl AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
    explain: impl Fn(io::Error) -> ProtocolError + Send + Sync + 'static,
) -> (Channel, Cutter) {
    let farewell = std::future::ready(None);
    let (channel, _, cutter) = start(reading, writing, stall, explain, farewell);
    (channel, cutter)
}

fn start(
    reading: impl AsyncRead + Unpin + Send + 'static,
    writing: impl AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
    explain: impl Fn(io::Error) -> ProtocolError + Send + Sync + 'static,
    farewell: impl Future<Output = Option<ProtocolError>> + Send + 'static,
) -> (Channel, Written, Cutter) {
    let (outgoing, to_send) = mpsc::channel(FRAMES);
    let (received, incoming) = mpsc::channel(FRAMES);
    let (cut, ends) = watch::channel(false);
    let cutter = Cutter(Arc::new(cut));
    let (stalled, ended) = (cutter.clone(), ends.clone());
    let written = tokio::spawn(async move {
        let written = tokio::select! {
            written = write(to_send, writing, stall) => written,
            () = was_cut(ended) => return,
        };
        if written.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            tracing::warn!("the other side took nothing for {} s", stall.as_secs());
            // It has no last words either.
            stalled.cut();
        }
    });
    tokio::spawn(async move {
        tokio::select! {
            () = receive(reading, &received, explain, farewell) => {}
            () = was_cut(ends) => {}
        }
    });
    let channel = Channel {
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
    };
    (channel, Written(written), cutter)
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
    // Encryption keeps what the network does not take at once.
    timeout(stall, writing.flush()).await?
}

/// How reading ended.
enum End {
    /// Nobody wants any more.
    Unwanted,
    /// Between two frames.
    Whole,
    Failed(ProtocolError),
}

/// Gives frames on, and at last why there are no more, unless they ended as they should.
async fn receive(
    reading: impl AsyncRead + Unpin,
    received: &mpsc::Sender<Result<Frame, ProtocolError>>,
    explain: impl Fn(io::Error) -> ProtocolError,
    farewell: impl Future<Output = Option<ProtocolError>>,
) {
    let error = match read(reading, received, explain).await {
        End::Unwanted => return,
        End::Whole => farewell.await,
        // Why the other side is gone says more than that it is.
        End::Failed(error @ (ProtocolError::Cut | ProtocolError::Io(_))) => {
            farewell.await.or(Some(error))
        }
        End::Failed(error) => Some(error),
    };
    if let Some(error) = error {
        // Nobody listening any more is no fault.
        let _ = received.send(Err(error)).await;
    }
}

/// Reads frames until the peer is gone or nobody wants them.
async fn read(
    mut reading: impl AsyncRead + Unpin,
    received: &mpsc::Sender<Result<Frame, ProtocolError>>,
    explain: impl Fn(io::Error) -> ProtocolError,
) -> End {
    let mut deframer = Deframer::default();
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut greeted = false;
    let mut patience = GREET;
    let mut began = Instant::now();
    loop {
        buffer.clear();
        let read = tokio::select! {
            biased;
            read = read_some(&mut reading, &mut deframer, &mut buffer) => read,
            () = received.closed() => return End::Unwanted,
            () = tokio::time::sleep_until(began + patience), if !greeted => return End::Whole,
            () = tokio::time::sleep_until(began + patience), if !deframer.is_empty() => {
                return End::Failed(ProtocolError::Cut);
            }
        };
        match read {
            Ok(0) if deframer.is_empty() => return End::Whole,
            Ok(0) => return End::Failed(ProtocolError::Cut),
            // The first bytes of a frame, perhaps after a long silence.
            Ok(_) if greeted && deframer.is_empty() => began = Instant::now(),
            Ok(_) => {}
            Err(error) => return End::Failed(explain(error)),
        }
        let mut bytes = &buffer[..];
        let mut whole = Ok(deframer.whole());
        loop {
            match whole {
                Ok(Some(frame)) => {
                    greeted = true;
                    if received.send(Ok(frame)).await.is_err() {
                        return End::Unwanted;
                    }
                    // The next one begins now, or later.
                    (began, patience) = (Instant::now(), FRAME);
                }
                Ok(None) if bytes.is_empty() => break,
                Ok(None) => {}
                Err(error) => return End::Failed(error),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Encoder;
    use crate::lane::SendingLanes;
    use crate::message::{Message, StreamBlock};
    use crate::version::Hello;

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

    /// A byte in a second keeps a connection open for as long as a frame may take, and for ten seconds before the first is there.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_talks_byte_by_byte_is_hung_up_on() {
        async fn drip(far: &mut tokio::io::DuplexStream) {
            far.write_all(&100_000_u32.to_be_bytes())
                .await
                .expect("length");
            while far.write_all(&[1]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (reading, writing) = tokio::io::split(near);
        let began = Instant::now();
        let mut mute = channel(reading, writing, SPARE_STALL);
        let dripping = drip(&mut far);
        tokio::select! {
            ended = mute.incoming.frames.recv() => assert!(ended.is_none()),
            () = dripping => {}
        }
        assert_eq!(began.elapsed(), GREET);

        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (reading, writing) = tokio::io::split(near);
        let mut greeted = channel(reading, writing, SPARE_STALL);
        let hello = Message::Hello(Hello::ours());
        let frame = greeted.outgoing.encoder().encode(&hello).expect("short");
        let bytes = [&frame.wire_length()[..], frame.payload()].concat();
        far.write_all(&bytes).await.expect("greeting");
        assert!(matches!(greeted.incoming.frames.recv().await, Some(Ok(_))));
        // Between two frames nobody is in a hurry.
        tokio::time::sleep(100 * FRAME).await;
        let began = Instant::now();
        let dripping = drip(&mut far);
        tokio::select! {
            ended = greeted.incoming.frames.recv() => {
                assert!(matches!(ended, Some(Err(ProtocolError::Cut))), "{ended:?}");
            }
            () = dripping => {}
        }
        assert_eq!(began.elapsed(), FRAME);
    }

    /// Two ends of a connection.
    fn pair(runtime: &tokio::runtime::Runtime) -> (Channel, Channel) {
        let _within = runtime.enter();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let end = |stream| {
            let (reading, writing) = tokio::io::split(stream);
            channel(reading, writing, SPARE_STALL)
        };
        (end(near), end(far))
    }

    #[test]
    fn two_sides_greet() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let (mut client, mut server) = pair(&runtime);
        let other = std::thread::spawn(move || server.greet());
        assert_eq!(client.greet().expect("greeting"), crate::version::NEWEST);
        assert_eq!(
            other.join().expect("thread").expect("greeting"),
            crate::version::NEWEST
        );
    }

    #[tokio::test]
    async fn what_became_of_a_program_is_told_where_it_gives_no_more() {
        let why = || async { Some(ProtocolError::malformed("program", "it broke")) };
        for (said, broke) in [(&b""[..], true), (&[0, 0, 0][..], true), (&[0; 6], false)] {
            let (near, mut far) = tokio::io::duplex(16);
            let (reading, writing) = tokio::io::split(near);
            let (mut channel, _) = channel_to_program(reading, writing, SPARE_STALL, why());
            far.write_all(said).await.expect("write");
            drop(far);
            let told = channel.incoming.frames.recv().await.expect("the reason");
            let told = told.expect_err("no frame").to_string();
            assert_eq!(told.contains("it broke"), broke, "{told}");
        }
    }

    /// Two ends of a connection, of which one speaks no version after `newest`.
    fn greeted(runtime: &tokio::runtime::Runtime, newest: u32) -> (Channel, Channel) {
        let (mut client, mut server) = pair(runtime);
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

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_cut_ends_in_the_midst_of_a_frame() {
        let (near, mut far) = tokio::io::duplex(16);
        let (reading, writing) = tokio::io::split(near);
        let (mut channel, cutter) =
            channel_to_host(reading, writing, SPARE_STALL, ProtocolError::from);
        let frame = || {
            let hello = Message::Hello(Hello::ours());
            channel.outgoing.encoder().encode(&hello).expect("short")
        };
        let to_send = channel.outgoing.frames.clone();
        to_send.send(Ok(frame())).await.expect("sent");
        far.read_exact(&mut [0; 5]).await.expect("the beginning");
        cutter.cut();
        while to_send.send(Ok(frame())).await.is_ok() {}
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.expect("the end");
        assert!(rest.len() <= 16, "what was in the pipe already");
        assert!(channel.incoming.frames.recv().await.is_none());
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
