//! Taking connections: nothing is heard of one until it has proved whose it is.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConnection;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::connect::WAITING_BYTES;
use super::refused::{explain, no_tls, unproved};
use super::verify::{Client, Visitor};
use super::waiting::Waiting;
use super::wire::{STRANGER_BYTES, Wire};
use super::{Credentials, Purpose};
use crate::error::ProtocolError;
use crate::key::PublicKey;
use crate::name::MainName;
use crate::transport::Channel;
use crate::transport::pairing::{self, CodeSecret};
use crate::transport::stream::{AGENT_STALL, Cutter, channel_to_host};

/// From accept until it is proved who is at the other end, whatever that side does.
const STRANGER: Duration = Duration::from_secs(10);
/// How long a side that was refused may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// After a failed accept, which is mostly a lack of descriptors, others get time to give some back.
const PAUSE: Duration = Duration::from_millis(200);
/// Connections that wait to be taken by [`Listener::accept`].
const ARRIVALS: usize = 16;

/// Who knows which keys may enter. Asked on the threads of the network: it reads small files at most.
pub trait Doorkeeper: Send + Sync + 'static {
    /// The main whose key this is.
    fn recognise(&self, key: &PublicKey) -> Option<MainName>;

    /// Uses up the code with this secret, and from now on recognises `key` as that of the main for which it was made.
    fn redeem(&self, secret: &CodeSecret, key: &PublicKey) -> Result<Welcome, Refusal>;
}

/// A main whose key is known from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// What it is called.
    pub main: MainName,
    /// Whether it had another key before.
    pub replaced: bool,
}

/// Why a code binds nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such code.
    Unknown,
    /// Its time is over.
    Expired,
    /// It has been used already.
    Used,
    /// The spare cannot write down whom it knows.
    Failed,
    /// The key is known by another name already.
    KnownAs(MainName),
}

/// A connection of a main.
#[derive(Debug)]
pub struct Arrival {
    /// To it.
    pub channel: Channel,
    /// Ends it.
    pub cutter: Cutter,
    /// Which main.
    pub main: MainName,
    /// The key with which it has proved that.
    pub key: PublicKey,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    arrivals: mpsc::Receiver<Arrival>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    credentials: Arc<Credentials>,
    keeper: Arc<dyn Doorkeeper>,
    arrived: mpsc::Sender<Arrival>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds to the first of these addresses that can be had, and begins to let in whom `keeper` knows; port 0 lets the system
    /// choose. Nothing is looked up.
    pub async fn bind(
        addresses: &[SocketAddr],
        credentials: Credentials,
        keeper: Arc<dyn Doorkeeper>,
    ) -> Result<Self, ProtocolError> {
        let listener = listen(addresses).await?;
        let address = listener.local_addr()?;
        let (arrived, arrivals) = mpsc::channel(ARRIVALS);
        let door = Door {
            credentials: Arc::new(credentials),
            keeper,
            arrived,
        };
        Ok(Self {
            address,
            arrivals,
            task: tokio::spawn(let_in(listener, door)),
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next connection of a main.
    pub async fn accept(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }
}

/// Listens on the first address that can be had. Where there is no IPv6, all addresses are those of IPv4.
async fn listen(addresses: &[SocketAddr]) -> Result<TcpListener, ProtocolError> {
    let mut all = addresses.to_vec();
    if let [SocketAddr::V6(any)] = all[..]
        && any.ip().is_unspecified()
    {
        all.push((Ipv4Addr::UNSPECIFIED, any.port()).into());
    }
    let mut why = "no address".to_owned();
    for one in all {
        match TcpListener::bind(one).await {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                why = format!("{one}: {error}");
                // Somebody listens there already: not to be passed over.
                if error.kind() == io::ErrorKind::AddrInUse {
                    break;
                }
            }
        }
    }
    Err(ProtocolError::Address(format!("cannot listen on {why}")))
}

/// Hears each connection out on a task of its own.
async fn let_in(listener: TcpListener, door: Door) {
    let waiting = Waiting::default();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let (mut ticket, gone) = waiting.enter(address.ip());
        if let Some(gone) = gone {
            tracing::warn!(
                "too many connections wait without having proved whose they are: ended the oldest from {gone}"
            );
        }
        let door = door.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = door.hear(stream, address) => {}
                () = ticket.lost() => {}
            }
        });
    }
}

impl Door {
    /// Finds out who is there, in time, and hands the connection on.
    async fn hear(&self, stream: TcpStream, address: SocketAddr) {
        // A failure costs speed alone.
        let _ = stream.set_nodelay(true);
        let deadline = Instant::now() + STRANGER;
        let heard = timeout_at(deadline, self.handshake(Wire::new(stream))).await;
        match heard {
            Ok(Ok((stream, Purpose::Speak, visitor))) => {
                self.hand_on(stream, visitor, address).await;
            }
            Ok(Ok((stream, Purpose::Pair, visitor))) => {
                let paired = timeout_at(deadline, self.pair(stream, &visitor, address)).await;
                if !matches!(paired, Ok(Ok(()))) {
                    tracing::warn!(
                        "{address}: gone before it was paired; its key is {}",
                        visitor.key
                    );
                }
            }
            Ok(Err(Refused { why, io })) => {
                tracing::warn!("{address}: refused: {why}");
                if let Some(io) = io {
                    say_farewell(io).await;
                }
            }
            Err(_) => tracing::warn!(
                "{address}: refused: it has not said who it is within {} s",
                STRANGER.as_secs()
            ),
        }
    }

    async fn handshake(
        &self,
        wire: Wire<TcpStream>,
    ) -> Result<(TlsStream<Wire<TcpStream>>, Purpose, Visitor), Refused> {
        let mut acceptor = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), wire));
        let start = match acceptor.as_mut().await {
            Ok(start) => start,
            Err(error) => {
                let io = acceptor.as_mut().get_mut().take_io();
                let why = no_tls(&error);
                return Err(Refused { why, io });
            }
        };
        let wants_pairing = start
            .client_hello()
            .alpn()
            .is_some_and(|mut wanted| wanted.any(|one| one == Purpose::Pair.protocol()));
        let (client, purpose) = if wants_pairing {
            (Client::any(), Purpose::Pair)
        } else {
            (Client::known_to(Arc::clone(&self.keeper)), Purpose::Speak)
        };
        let client = Arc::new(client);
        let config = self.credentials.to_answer(Arc::clone(&client), purpose);
        let config = config.map_err(|error| Refused::because(error.to_string()))?;
        let handshake = start.into_stream_with(config, |session: &mut ServerConnection| {
            session.set_buffer_limit(Some(WAITING_BYTES));
        });
        let mut stream = match handshake.into_fallible().await {
            Ok(stream) => stream,
            Err((error, io)) => {
                let why = unproved(&error, client.came());
                return Err(Refused { why, io: Some(io) });
            }
        };
        let (wire, session) = stream.get_mut();
        if session.alpn_protocol() != Some(purpose.protocol()) {
            return Err(Refused::because(
                "it is no understudy, or one of another version".to_owned(),
            ));
        }
        let Some(visitor) = client.came().cloned() else {
            return Err(Refused::because("it has shown no key".to_owned()));
        };
        // Whoever has a code to tell may be anybody, and needs few bytes for it.
        if purpose == Purpose::Speak {
            wire.trust();
        }
        Ok((stream, purpose, visitor))
    }

    async fn hand_on(
        &self,
        stream: TlsStream<Wire<TcpStream>>,
        visitor: Visitor,
        address: SocketAddr,
    ) {
        let Some(main) = visitor.main else {
            return;
        };
        let (reading, writing) = tokio::io::split(stream);
        let (channel, cutter) = channel_to_host(reading, writing, AGENT_STALL, explain);
        let arrival = Arrival {
            channel,
            cutter,
            main,
            key: visitor.key,
            address,
        };
        // Nobody takes it where the listener is gone.
        let _ = self.arrived.send(arrival).await;
    }

    /// Hears a code and says what it is worth.
    async fn pair(
        &self,
        mut stream: TlsStream<Wire<TcpStream>>,
        visitor: &Visitor,
        address: SocketAddr,
    ) -> io::Result<()> {
        let secret = pairing::hear(&mut stream).await?;
        let (keeper, key) = (Arc::clone(&self.keeper), visitor.key);
        let redeemed = tokio::task::spawn_blocking(move || keeper.redeem(&secret, &key)).await;
        let redeemed = redeemed.unwrap_or(Err(Refusal::Failed));
        match &redeemed {
            Ok(Welcome { main, replaced }) => {
                let instead = if *replaced {
                    ", in place of its former key"
                } else {
                    ""
                };
                // Louder than usual: whoever got hold of a code is let in from now on.
                tracing::warn!("{address}: paired as main {main}, whose key is {key}{instead}");
            }
            Err(refusal) => tracing::warn!("{address}: not paired ({refusal:?}); its key is {key}"),
        }
        pairing::answer(&mut stream, &redeemed).await?;
        say_farewell(stream).await;
        Ok(())
    }
}

/// Why a connection is not let in, and the stream on which it is ended.
struct Refused {
    why: String,
    io: Option<Wire<TcpStream>>,
}

impl Refused {
    fn because(why: String) -> Self {
        Self { why, io: None }
    }
}

/// Lets the other side read the last words: closing a connection on which something is unread would take them away.
async fn say_farewell(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let farewell = async {
        io.shutdown().await?;
        let mut unread = (&mut io).take(STRANGER_BYTES as u64);
        tokio::io::copy(&mut unread, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}
